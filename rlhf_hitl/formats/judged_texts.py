"""Judged comparisons as labelling tools can hold them: a chat of texts, and answers of one text each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_hitl.formats.snapshot import Snapshot
from rlhf_hitl.formats.snapshot_rows import select_counted_judgments
from rlhf_hitl.store.export_query import JsonFields
from rlhf_hitl.types import Split, Verdict

#: How the tools put it that no answer is good, and by how much the best one is better.
ALL_BAD = "none"
STRENGTHS = {1: "slightly better", 2: "clearly better", 3: "much better"}


#: What a judgment says that no labelling tool has a place for: its field → how it is counted.
_LEFT_OUT = {
    "scores": "judgment whose scores are left out",
    "rewrite": "judgment whose better answer (rewrite) is left out",
    "reason": "judgment whose reason of a flag or skip is left out",
    "order_shown": "judgment whose order of the answers, as they were shown, is left out",
    "guideline_version": "judgment whose version of the guideline is left out",
}


@dataclass(frozen=True)
class JudgedTexts:
    """A comparison: its prompt as messages of a role and a text, the text of each completion, and the judgments that
    count. `ranks[i]` are the ranks of the completions in judgment i, from 1; None for one that it does not rank."""

    comparison: JsonFields
    split: Split
    texts: list[str]
    judgments: list[JsonFields]
    ranks: list[list[int | None]]


def read_judged_texts(snapshot: Snapshot, split: Split) -> Iterator[JudgedTexts]:
    """Yield the comparisons of a split that a tool of texts can hold. Others are counted in the snapshot's filters."""
    for batch in snapshot.read_batches(split):
        judgments: list[list[JsonFields]] = [[] for _ in batch.comparisons]
        for i, judgment in zip(batch.judgment_comparisons, batch.judgments, strict=True):
            judgments[i].append(judgment)
        if batch.ratings:
            snapshot.filters["rating of a single completion, which the format has no place for"] += len(batch.ratings)
        for comparison, given in zip(batch.comparisons, judgments, strict=True):
            if not _is_of_texts(comparison):
                snapshot.filters["comparison with more than texts, which the format has no place for"] += 1
                continue
            if comparison["repeat_of"] is not None:
                snapshot.filters["judgment of a hidden repeat"] += len(given)
                continue
            counted = select_counted_judgments(given)
            snapshot.filters["judgment that is surplus or was corrected"] += len(given) - len(counted)
            ids = [c["id"] for c in comparison["completions"]]
            yield JudgedTexts(
                comparison,
                split,
                [c["messages"][0]["content"] for c in comparison["completions"]],
                counted,
                [_find_ranks(judgment, ids) for judgment in counted],
            )
    snapshot.filters += type(snapshot.filters)()  # drops counts of 0


def _is_of_texts(comparison: JsonFields) -> bool:
    chats = [comparison["prompt"], *(c["messages"] for c in comparison["completions"])]
    one_each = all(len(c["messages"]) == 1 for c in comparison["completions"])
    is_plain = all(m.keys() == {"role", "content"} and isinstance(m["content"], str) for chat in chats for m in chat)
    return one_each and is_plain and comparison["tools"] is None


def _find_ranks(judgment: JsonFields, ids: list[str]) -> list[int | None]:
    places = {id: rank for rank, group in enumerate(judgment["ranking"], 1) for id in group}
    return [places.get(id) if judgment["verdict"] == Verdict.RANKED else None for id in ids]


def count_left_out(judgment: JsonFields, filters: Counter[str], more: dict[str, str] | None = None) -> None:
    """Count what a judgment says that the tool has no place for; `more` are such fields of this tool alone."""
    for field, what in (_LEFT_OUT | (more or {})).items():
        if judgment[field] not in (None, "", [], "{}"):
            filters[what] += 1


def make_tags(judged: JudgedTexts) -> dict[str, str]:
    """Return the tags of a comparison's prompt, which the tools keep beside it."""
    return json.loads(judged.comparison["tags"])
