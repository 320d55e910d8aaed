"""The rows of a snapshot: labelled pairs, rankings and demonstrations for training, every judgment for the record."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
from tqdm import tqdm

from rlhf_hitl.labels.aggregate import LabelVote, aggregate_votes, rank_completions
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.export_query import BATCH, JsonFields, JudgedComparison, read_judged_comparisons, sorted_json
from rlhf_hitl.store.reward_models import list_reward_models
from rlhf_hitl.store.scores import read_routed_scores
from rlhf_hitl.types import UNRANKED, Comparison, Label, Route, Score, Split, Verdict, messages_to_dicts

COMPARISON_COLUMNS = ("comparison_id", "prompt_id", "prompt", "completions", "tags")
JUDGMENT_COLUMNS = (
    "comparison_id", "prompt_id", "prompt", "completions", "judgment_id", "rater_id", "verdict", "ranking", "strength",
    "scores", "rationale", "rewrite", "active_seconds", "order_shown", "route", "reward_model_id", "guideline_version",
    "interface_version", "source", "simulated", "surplus", "supersedes", "created_at", "reason", "tags",
)  # fmt: skip

_OF_VOTE = ("verdict", "ranking", "order_shown", "strength", "simulated")

#: Why raters prefer neither: what `include_ties` takes in all the same.
NO_PREFERENCE = ("all bad", "tie", "raters evenly split")


@dataclass
class SnapshotBatch:
    """The rows of up to BATCH comparisons.

    `lines` are `pairs` as JSON. A judgment is in two pieces: `judgments[i]` is of the comparison `comparisons[of[i]]`,
    so that what all judgments of a comparison share is there once.
    """

    pairs: list[JsonFields] = field(default_factory=list)
    rankings: list[JsonFields] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    comparisons: list[JsonFields] = field(default_factory=list)
    judgments: list[JsonFields] = field(default_factory=list)
    of: list[int] = field(default_factory=list)
    demonstrations: list[JsonFields] = field(default_factory=list)


@dataclass
class Snapshot:
    """Draws rows from the store, batch by batch, and keeps count of them and of what was left out."""

    store: Store
    project: str | None
    include_model_labels: bool
    include_ties: bool
    min_votes: int
    progress: bool
    rows: Counter[Split] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    rankings: Counter[Split] = field(default_factory=Counter)
    judgments: Counter[Split] = field(default_factory=Counter)
    demonstrations: Counter[Split] = field(default_factory=Counter)
    filters: Counter[str] = field(default_factory=Counter)
    simulated: bool = False
    _digest: Any = field(default_factory=hashlib.sha256)

    def content_hash(self) -> str:
        """Of all rows so far, in the order they were drawn, which is the same on every database."""
        return "sha256:" + self._digest.hexdigest()

    def parts(self, split: Split) -> Iterator[SnapshotBatch]:
        """All rows of a split: what people said, in order of comparison id, then what models were trusted with."""
        with tqdm(desc=f"export {split.value}", unit=" comparisons", disable=not self.progress) as bar:
            for batch in read_judged_comparisons(self.store, split=split, project=self.project):
                part = SnapshotBatch()
                for one in batch:
                    self._add_judged(part, one, split)
                yield part
                bar.update(len(batch))
        if self.include_model_labels:
            rows = self._model_rows(split)
            while chunk := list(islice(rows, BATCH)):
                part = SnapshotBatch()
                for row in chunk:
                    self._add_pair(part, row, split)
                yield part

    def _add_judged(self, part: SnapshotBatch, one: JudgedComparison, split: Split) -> None:
        as_json = to_json(one.judgments)
        if not one.is_repeat:
            for row in self._human_rows(one, as_json):
                self._add_pair(part, row, split)
            if row := self._ranking_row(one):
                part.rankings.append(row)
                self.rankings[split] += 1
                self._digest.update(b"%s:%s\n" % (split.value.encode(), to_json(row["rankings"])))
            shown = _demonstrations(one)
            part.demonstrations += shown
            self.demonstrations[split] += len(shown)
        part.of += [len(part.comparisons)] * len(one.judgments)
        part.comparisons.append(one.comparison)
        part.judgments += one.judgments
        self.judgments[split] += len(one.judgments)
        self.simulated = self.simulated or any(j["simulated"] for j in one.judgments)
        self._digest.update(b"%s:%s%s\n" % (split.value.encode(), to_json(one.comparison), as_json))

    def _add_pair(self, part: SnapshotBatch, row: JsonFields, split: Split) -> None:
        line = to_json(row)
        part.pairs.append(row)
        part.lines.append(line)
        self.rows[split] += 1
        self.sources[row["label_source"]] += 1
        self.simulated = self.simulated or row["simulated"]
        self._digest.update(b"%s:%s\n" % (split.value.encode(), line))

    def _human_rows(self, one: JudgedComparison, as_json: bytes) -> Iterator[JsonFields]:
        counted = _counted(one.judgments)
        labels = aggregate_votes(one.comparison["comparison_id"], map(_vote, counted))
        if not labels:
            self.filters[_why_unlabelled(counted)] += 1
        for label in labels:
            reason = _why_not(label, counted, self.min_votes)
            if reason is None or (self.include_ties and reason in NO_PREFERENCE):
                yield _human_row(one.comparison, label, as_json.decode())
            else:
                self.filters[reason] += 1

    def _ranking_row(self, one: JudgedComparison) -> JsonFields | None:
        """What raters said of all completions of a comparison at once; None where too few of them did."""
        sides, counted = one.comparison["completions"], _counted(one.judgments)
        said = [(j, rank_completions(_vote(j), [side["id"] for side in sides])) for j in counted]
        said = [(j, ranking) for j, ranking in said if set(ranking) != {UNRANKED}]
        if len(said) < self.min_votes:
            return None
        return {
            "prompt": one.comparison["prompt"],
            "completions": [side["messages"] for side in sides],
            "rankings": [ranking for _, ranking in said],
            "weight": float(len(said)),
            "comparison_id": one.comparison["comparison_id"],
            "prompt_id": one.comparison["prompt_id"],
            "completion_ids": [side["id"] for side in sides],
            "policies": [side["policy"] for side in sides],
            "simulated": any(j["simulated"] for j, _ in said),
            "tags": one.comparison["tags"],
        }

    def _model_rows(self, split: Split) -> Iterator[JsonFields]:
        """Pairs that were accepted on a model's score and that no rater has spoken of since: people override."""
        accepted = find_comparisons(self.store, split=split, project=self.project, routes=[Route.AUTO], judged=False)
        if split is not Split.TRAIN:
            if n := sum(1 for _ in accepted):
                self.filters["model label outside train"] += n
            return
        simulated = {m.id: m.simulated for m in list_reward_models(self.store)}
        while chunk := list(islice(accepted, BATCH)):
            scores = read_routed_scores(self.store, [c.id for c in chunk])
            for comparison in chunk:
                score = scores.get(comparison.id)
                if score is None:
                    self.filters["accepted without a score"] += 1
                elif score.margin <= 0:
                    self.filters["model sees no difference"] += 1
                else:
                    yield _model_row(comparison, score, simulated[score.reward_model_id])


def _demonstrations(one: JudgedComparison) -> list[JsonFields]:
    """What raters wrote as a better answer, by those judgments that no correction supersedes."""
    corrected = {j["supersedes"] for j in one.judgments}
    return [
        {
            "prompt": one.comparison["prompt"],
            "completion": [{"role": "assistant", "content": j["rewrite"]}],
            "judgment_id": j["judgment_id"],
            "rater_id": j["rater_id"],
            "simulated": j["simulated"],
        }
        for j in one.judgments
        if j["rewrite"].strip() and j["judgment_id"] not in corrected
    ]


def _counted(judgments: list[JsonFields]) -> list[JsonFields]:
    """Those that count: neither corrected since nor surplus."""
    corrected = {j["supersedes"] for j in judgments}
    return [j for j in judgments if j["judgment_id"] not in corrected and not j["surplus"]]


def _vote(judgment: JsonFields) -> LabelVote:
    verdict, ranking, shown, strength, simulated = (judgment[k] for k in _OF_VOTE)
    return verdict, ranking, shown, strength, simulated


def _why_not(label: Label, counted: list[JsonFields], min_votes: int) -> str | None:
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


def _why_unlabelled(counted: list[JsonFields]) -> str:
    verdicts = _verdicts(counted)
    if Verdict.FLAGGED in verdicts:
        return "flagged"
    if Verdict.SKIPPED in verdicts:
        return "skipped"
    return "surplus judgments only"


def _verdicts(judgments: list[JsonFields]) -> set[str]:
    return {j["verdict"] for j in judgments}


def _human_row(comparison: JsonFields, label: Label, judgments: str) -> JsonFields:
    first, tie, second = label.probabilities
    chosen, rejected = (label.first, label.second) if first >= second else (label.second, label.first)
    return _pair(comparison, chosen, rejected) | {
        "p_chosen": max(first, second),
        "p_tie": tie,
        "p_rejected": min(first, second),
        "entropy": label.entropy,
        "votes": label.votes,
        "weight": weigh_votes(label.votes, len(comparison["completions"])),
        "label_source": "human",
        "reward_model_id": None,
        "simulated": label.simulated,
        "judgments": judgments,
    }


def _model_row(comparison: Comparison, score: Score, simulated: bool) -> JsonFields:
    p = score.probability
    return _pair(_plain(comparison), score.chosen, score.rejected) | {
        "p_chosen": p,
        "p_tie": 0.0,
        "p_rejected": 1 - p,
        "entropy": _entropy(p),
        "votes": 0,
        "weight": 1.0,
        "label_source": "model",
        "reward_model_id": score.reward_model_id,
        "simulated": simulated,
        "judgments": "[]",
    }


def _entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def _pair(comparison: JsonFields, chosen_id: str, rejected_id: str) -> JsonFields:
    sides = {side["id"]: side for side in comparison["completions"]}
    chosen, rejected = sides[chosen_id], sides[rejected_id]
    return {
        "prompt": comparison["prompt"],
        "chosen": chosen["messages"],
        "rejected": rejected["messages"],
        "comparison_id": comparison["comparison_id"],
        "prompt_id": comparison["prompt_id"],
        "chosen_id": chosen_id,
        "rejected_id": rejected_id,
        "chosen_policy": chosen["policy"],
        "rejected_policy": rejected["policy"],
        "tags": comparison["tags"],
    }


def _plain(c: Comparison) -> JsonFields:
    """A comparison as `judged` gives them."""
    return {
        "comparison_id": c.id,
        "prompt_id": c.prompt.id,
        "prompt": messages_to_dicts(c.prompt.messages),
        "completions": [
            {"id": a.id, "policy": a.policy, "messages": messages_to_dicts(a.messages)} for a in c.completions
        ],
        "tags": sorted_json(json.dumps(dict(c.prompt.tags))),
    }


def to_json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
