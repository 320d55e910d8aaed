"""The rows of a snapshot: labelled pairs for training, and every judgment for the record."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tqdm import tqdm

from rlhf_hitl.labels.aggregate import aggregate
from rlhf_hitl.store import Store, catalog, history, ledger
from rlhf_hitl.types import Comparison, Judgment, Label, Route, Score, Split, Verdict, as_dicts

BATCH = 250
Row = dict[str, Any]

COMPARISON_COLUMNS = ("comparison_id", "prompt_id", "prompt", "completions", "tags")
JUDGMENT_COLUMNS = (
    "comparison_id", "prompt_id", "prompt", "completions", "judgment_id", "rater_id", "verdict", "ranking", "strength",
    "scores", "rationale", "rewrite", "active_seconds", "order_shown", "route", "reward_model_id", "guideline_version",
    "interface_version", "source", "simulated", "surplus", "supersedes", "created_at", "tags",
)  # fmt: skip


@dataclass
class Part:
    """The rows of up to BATCH comparisons.

    `lines` are `pairs` as JSON. A judgment is in two pieces: `judgments[i]` is of the comparison `comparisons[of[i]]`,
    so that what all judgments of a comparison share is there once.
    """

    pairs: list[Row] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    comparisons: list[Row] = field(default_factory=list)
    judgments: list[Row] = field(default_factory=list)
    of: list[int] = field(default_factory=list)


@dataclass
class Snapshot:
    """Draws rows from the store, batch by batch, and keeps count of them and of what was left out."""

    store: Store
    project: str | None
    include_model_labels: bool
    min_votes: int
    progress: bool
    rows: Counter[Split] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    judgments: Counter[Split] = field(default_factory=Counter)
    filters: Counter[str] = field(default_factory=Counter)
    simulated: bool = False
    _digest: Any = field(default_factory=hashlib.sha256)

    def content_hash(self) -> str:
        """Of all rows so far, in the order they were drawn, which is the same on every database."""
        return "sha256:" + self._digest.hexdigest()

    def parts(self, split: Split) -> Iterator[Part]:
        """All rows of a split: what people said, in order of comparison id, then what models were trusted with."""
        found = catalog.find(self.store, split=split, project=self.project, judged=True, repeats=True)
        judged = iter(tqdm(found, desc=f"export {split.value}", unit=" comparisons", disable=not self.progress))
        while chunk := list(islice(judged, BATCH)):
            said: dict[str, list[Judgment]] = {c.id: [] for c in chunk}
            for judgment in history.read(self.store, comparison_ids=list(said), current=False):
                said[judgment.comparison_id].append(judgment)
            part = Part()
            for comparison in chunk:
                self._add_judged(part, comparison, said[comparison.id], split)
            yield part
        if self.include_model_labels:
            rows = self._model_rows(split)
            while chunk := list(islice(rows, BATCH)):
                part = Part()
                for row in chunk:
                    self._add_pair(part, row, split)
                yield part

    def _add_judged(self, part: Part, comparison: Comparison, said: list[Judgment], split: Split) -> None:
        judgments = [_judgment(j) for j in said]
        as_json = to_json(judgments)
        if comparison.repeat_of is None:
            for row in self._human_rows(comparison, said, as_json):
                self._add_pair(part, row, split)
        shared = _comparison(comparison)
        part.of += [len(part.comparisons)] * len(judgments)
        part.comparisons.append(shared)
        part.judgments += judgments
        self.judgments[split] += len(judgments)
        self.simulated = self.simulated or any(j.simulated for j in said)
        self._digest.update(f"{split.value}:{to_json(shared)}{as_json}\n".encode())

    def _add_pair(self, part: Part, row: Row, split: Split) -> None:
        part.pairs.append(row)
        part.lines.append(to_json(row))
        self.rows[split] += 1
        self.sources[row["label_source"]] += 1
        self.simulated = self.simulated or row["simulated"]
        self._digest.update(f"{split.value}:{part.lines[-1]}\n".encode())

    def _human_rows(self, comparison: Comparison, said: list[Judgment], as_json: str) -> Iterator[Row]:
        counted = _counted(said)
        labels = aggregate(comparison.id, counted)
        if not labels:
            self.filters[_why_unlabelled(counted)] += 1
        for label in labels:
            reason = _why_not(label, counted, self.min_votes)
            if reason is not None:
                self.filters[reason] += 1
            else:
                yield _human_row(comparison, label, as_json)

    def _model_rows(self, split: Split) -> Iterator[Row]:
        """Pairs that were accepted on a model's score and that no rater has spoken of since: people override."""
        accepted = catalog.find(self.store, split=split, project=self.project, routes=[Route.AUTO], judged=False)
        if split is not Split.TRAIN:
            if n := sum(1 for _ in accepted):
                self.filters["model label outside train"] += n
            return
        simulated = {m.id: m.simulated for m in ledger.reward_models(self.store)}
        while chunk := list(islice(accepted, BATCH)):
            scores = ledger.scores_routed_on(self.store, [c.id for c in chunk])
            for comparison in chunk:
                score = scores.get(comparison.id)
                if score is None:
                    self.filters["accepted without a score"] += 1
                elif score.margin <= 0:
                    self.filters["model sees no difference"] += 1
                else:
                    yield _model_row(comparison, score, simulated[score.reward_model_id])


def _counted(said: list[Judgment]) -> list[Judgment]:
    """Those that count: neither corrected since nor surplus."""
    corrected = {j.supersedes for j in said}
    return [j for j in said if j.id not in corrected and not j.surplus]


def _why_not(label: Label, counted: list[Judgment], min_votes: int) -> str | None:
    """Why a label is no strict preference, or None where it is one."""
    first, tie, second = label.probabilities
    if label.votes < min_votes:
        return "too few votes"
    if _verdicts(counted) - {Verdict.SKIPPED, Verdict.FLAGGED} == {Verdict.ALL_BAD}:
        return "all bad"
    if tie > max(first, second):
        return "tie"
    if label.preferred is None:
        return "raters evenly split"
    return None


def _why_unlabelled(counted: list[Judgment]) -> str:
    verdicts = _verdicts(counted)
    if Verdict.FLAGGED in verdicts:
        return "flagged"
    if Verdict.SKIPPED in verdicts:
        return "skipped"
    return "surplus judgments only"


def _verdicts(judgments: list[Judgment]) -> set[Verdict]:
    return {j.answer.verdict for j in judgments}


def _human_row(comparison: Comparison, label: Label, judgments: str) -> Row:
    first, tie, second = label.probabilities
    rejected = label.second if label.preferred == label.first else label.first
    return _pair(comparison, label.preferred or "", rejected) | {
        "p_chosen": max(first, second),
        "p_tie": tie,
        "p_rejected": min(first, second),
        "entropy": label.entropy,
        "votes": label.votes,
        "label_source": "human",
        "reward_model_id": None,
        "simulated": label.simulated,
        "judgments": judgments,
    }


def _model_row(comparison: Comparison, score: Score, simulated: bool) -> Row:
    p = score.probability
    return _pair(comparison, score.chosen, score.rejected) | {
        "p_chosen": p,
        "p_tie": 0.0,
        "p_rejected": 1 - p,
        "entropy": _entropy(p),
        "votes": 0,
        "label_source": "model",
        "reward_model_id": score.reward_model_id,
        "simulated": simulated,
        "judgments": "[]",
    }


def _entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def _pair(comparison: Comparison, chosen_id: str, rejected_id: str) -> Row:
    chosen, rejected = comparison.completion(chosen_id), comparison.completion(rejected_id)
    return {
        "prompt": as_dicts(comparison.prompt.messages),
        "chosen": as_dicts(chosen.messages),
        "rejected": as_dicts(rejected.messages),
        "comparison_id": comparison.id,
        "prompt_id": comparison.prompt.id,
        "chosen_id": chosen.id,
        "rejected_id": rejected.id,
        "chosen_policy": chosen.policy,
        "rejected_policy": rejected.policy,
        "tags": to_json(dict(comparison.prompt.tags)),
    }


def _judgment(j: Judgment) -> Row:
    """Everything the store knows of a judgment, as plain JSON values."""
    return {
        "judgment_id": j.id,
        "rater_id": j.rater_id,
        "verdict": j.answer.verdict.value,
        "ranking": [list(group) for group in j.answer.ranking],
        "strength": j.answer.strength,
        "scores": to_json(dict(j.answer.scores)) if j.answer.scores else "{}",
        "rationale": j.answer.rationale,
        "rewrite": j.answer.rewrite,
        "active_seconds": j.answer.active_seconds,
        "order_shown": list(j.order_shown),
        "route": j.route.value,
        "reward_model_id": j.reward_model_id,
        "guideline_version": j.guideline_version,
        "interface_version": j.interface_version,
        "source": j.source,
        "simulated": j.simulated,
        "surplus": j.surplus,
        "supersedes": j.supersedes,
        "created_at": j.created_at.isoformat(),
    }


def _comparison(c: Comparison) -> Row:
    """What a judgment's row says of its comparison."""
    return {
        "comparison_id": c.id,
        "prompt_id": c.prompt.id,
        "prompt": as_dicts(c.prompt.messages),
        "completions": [{"id": a.id, "policy": a.policy, "messages": as_dicts(a.messages)} for a in c.completions],
        "tags": to_json(dict(c.prompt.tags)),
    }


def to_json(value: Any) -> str:
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True)
