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

from rlhf_hitl.labels.aggregate import labels
from rlhf_hitl.store import Store, catalog, ledger, queue
from rlhf_hitl.types import Comparison, Judgment, Label, Route, Score, Split, Verdict, as_dicts

BATCH = 500
Row = dict[str, Any]

JUDGMENT_COLUMNS = (
    "comparison_id", "prompt_id", "prompt", "completions", "judgment_id", "rater_id", "verdict", "ranking", "strength",
    "scores", "rationale", "rewrite", "active_seconds", "order_shown", "route", "reward_model_id", "guideline_version",
    "interface_version", "source", "simulated", "surplus", "supersedes", "created_at", "tags",
)  # fmt: skip


@dataclass
class Snapshot:
    """Draws rows from the store and keeps count of them and of what was left out."""

    store: Store
    include_model_labels: bool
    min_votes: int
    progress: bool
    rows: Counter[Split] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    judgments: Counter[Split] = field(default_factory=Counter)
    filters: Counter[str] = field(default_factory=Counter)
    simulated: bool = False
    digests: list[bytes] = field(default_factory=list)

    def content_hash(self) -> str:
        """Of all rows of all splits, in whatever order they were written."""
        return "sha256:" + hashlib.sha256(b"".join(sorted(self.digests))).hexdigest()

    def pairs(self, split: Split) -> Iterator[Row]:
        for row in self._human_rows(split):
            yield self._count(row, split)
        if self.include_model_labels:
            for row in self._model_rows(split):
                yield self._count(row, split)

    def judgment_rows(self, split: Split) -> Iterator[Row]:
        everything = queue.history(self.store, split=split, current=False)
        while chunk := list(islice(everything, BATCH)):
            comparisons = {c.id: c for c in catalog.find(self.store, ids=[j.comparison_id for j in chunk])}
            for judgment in chunk:
                row = _judgment_row(judgment, comparisons[judgment.comparison_id])
                self.judgments[split] += 1
                self.simulated = self.simulated or judgment.simulated
                self.digests.append(_digest(row, split))
                yield row

    def _count(self, row: Row, split: Split) -> Row:
        self.rows[split] += 1
        self.sources[row["label_source"]] += 1
        self.simulated = self.simulated or row["simulated"]
        self.digests.append(_digest(row, split))
        return row

    def _human_rows(self, split: Split) -> Iterator[Row]:
        found: dict[str, list[Label]] = {}
        for label in labels(self.store, split=split):
            found.setdefault(label.comparison_id, []).append(label)
        comparisons = catalog.find(self.store, split=split, judged=True)
        judged = iter(tqdm(comparisons, desc=f"export {split.value}", unit=" comparisons", disable=not self.progress))
        while chunk := list(islice(judged, BATCH)):
            said: dict[str, list[Judgment]] = {c.id: [] for c in chunk}
            for judgment in queue.history(self.store, comparison_ids=list(said), current=False):
                said[judgment.comparison_id].append(judgment)
            for comparison in chunk:
                its_labels = found.get(comparison.id, [])
                if not its_labels:
                    self.filters[_why_unlabelled(said[comparison.id])] += 1
                for label in its_labels:
                    reason = _why_not(label, said[comparison.id], self.min_votes)
                    if reason is not None:
                        self.filters[reason] += 1
                    else:
                        yield _human_row(comparison, label, said[comparison.id])

    def _model_rows(self, split: Split) -> Iterator[Row]:
        """Pairs that were accepted on a model's score and that no rater has spoken of since: people override."""
        accepted = catalog.find(self.store, split=split, routes=[Route.AUTO], judged=False)
        if split is not Split.TRAIN:
            if n := sum(1 for _ in accepted):
                self.filters["model label outside train"] += n
            return
        models = {r.comparison_id: r.reward_model_id for r in ledger.routings_of(self.store) if r.reward_model_id}
        simulated = {m: ledger.reward_model(self.store, m).simulated for m in set(models.values())}
        scores = {(s.comparison_id, m): s for m in simulated for s in ledger.scores_of(self.store, m)}
        for comparison in accepted:
            score = scores.get((comparison.id, models.get(comparison.id, "")))
            if score is None:
                self.filters["accepted without a score"] += 1
            elif score.margin <= 0:
                self.filters["model sees no difference"] += 1
            else:
                yield _model_row(comparison, score, simulated[score.reward_model_id])


def _why_not(label: Label, said: list[Judgment], min_votes: int) -> str | None:
    """Why a label is no strict preference, or None where it is one."""
    first, tie, second = label.probabilities
    if label.votes < min_votes:
        return "too few votes"
    if _verdicts(said) - {Verdict.SKIPPED, Verdict.FLAGGED} == {Verdict.ALL_BAD}:
        return "all bad"
    if tie > max(first, second):
        return "tie"
    if label.preferred is None:
        return "raters evenly split"
    return None


def _why_unlabelled(said: list[Judgment]) -> str:
    verdicts = _verdicts(said)
    if Verdict.FLAGGED in verdicts:
        return "flagged"
    if Verdict.SKIPPED in verdicts:
        return "skipped"
    return "surplus judgments only"


def _verdicts(said: list[Judgment]) -> set[Verdict]:
    """Those of the judgments that count: neither corrected since nor surplus."""
    corrected = {j.supersedes for j in said}
    return {j.answer.verdict for j in said if j.id not in corrected and not j.surplus}


def _human_row(comparison: Comparison, label: Label, said: list[Judgment]) -> Row:
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
        "judgments": to_json([_judgment(j) for j in said]),
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
        "scores": to_json(dict(j.answer.scores)),
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


def _judgment_row(j: Judgment, comparison: Comparison) -> Row:
    return {
        "comparison_id": comparison.id,
        "prompt_id": comparison.prompt.id,
        "prompt": as_dicts(comparison.prompt.messages),
        "completions": [
            {"id": c.id, "policy": c.policy, "messages": as_dicts(c.messages)} for c in comparison.completions
        ],
        **_judgment(j),
        "tags": to_json(dict(comparison.prompt.tags)),
    }


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _digest(row: Row, split: Split) -> bytes:
    return hashlib.sha256(f"{split.value}:{to_json(row)}".encode()).digest()
