"""Filter and sort the pairs of an evaluation, alone or side by side with a second one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import orjson

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.evaluation.compare import estimate_accuracy_difference
from rlhf_hitl.reward.evaluation.pair_index import EvaluationIndex, open_pairs_file
from rlhf_hitl.reward.evaluation_record import AccuracyDifference

Show = Literal["disagreements", "agreements", "ties", "all", "one_right", "first_right", "second_right", "none_right"]
Order = Literal["wrong", "unsure", "longest", "replayed"]


@dataclass(frozen=True)
class PairQuery:
    """Which pairs to find, and in which order.

    Attributes:
        show: `first_right` and the like need a second evaluation to compare with.
        tag: a tag and the value that a pair must have.
        words: each of them must occur in the prompt or an answer, whatever its case.
    """

    show: Show = "disagreements"
    tag: tuple[str, str] | None = None
    order: Order = "wrong"
    words: str = ""


@dataclass(frozen=True)
class SideBySide:
    """The labels without ties that two evaluations share, and which of the two is right.

    A model that has more of a label right than the other (equal rewards are half right) is right alone, as in
    `compare.compare_evaluated_pairs`.

    Attributes:
        rows: rows of the first evaluation.
        difference: the first's accuracy less the second's; None if they share no label.
    """

    rows: np.ndarray
    first_right: np.ndarray
    second_right: np.ndarray
    both_right: np.ndarray
    difference: AccuracyDifference | None

    @property
    def one_right(self) -> np.ndarray:
        return self.first_right | self.second_right

    @property
    def none_right(self) -> np.ndarray:
        return ~(self.one_right | self.both_right)


def find_rows(index: EvaluationIndex, query: PairQuery, other: EvaluationIndex | None = None) -> np.ndarray:
    """Return the rows that a query asks for, in its order."""
    matches = _match_show(index, query.show, other)
    if query.tag:
        values, numbers = index.tags.get(query.tag[0], ((), np.zeros(0)))
        if query.tag[1] in values:
            matches = matches & (numbers == values.index(query.tag[1]))
        else:
            matches = np.zeros(len(index), bool)
    if query.words.split():
        matches = matches & _match_words(index, tuple(query.words.casefold().split()))
    rows = np.flatnonzero(matches)
    if query.order == "replayed":
        return rows
    sort_by = {"wrong": index.wrong, "unsure": index.unsure, "longest": index.length}[query.order]
    return rows[np.argsort(-sort_by[rows], kind="stable")]


@lru_cache(maxsize=16)
def place_side_by_side(index: EvaluationIndex, other: EvaluationIndex) -> SideBySide:
    """Return the labels that two evaluations share, and which of the two is right on each."""
    decided, other_decided = (np.flatnonzero(~np.isnan(i.correct)) for i in (index, other))
    _, at, other_at = np.intersect1d(index.label[decided], other.label[other_decided], return_indices=True)
    rows = decided[at]
    first, second = index.correct[rows], other.correct[other_decided[other_at]]
    difference = None
    if len(rows):
        difference = estimate_accuracy_difference(first - second, index.family[rows], other.path.parent.name)
    return SideBySide(rows, first > second, first < second, (first == 1) & (second == 1), difference)


def _match_show(index: EvaluationIndex, show: Show, other: EvaluationIndex | None) -> np.ndarray:
    """Return which pairs `show` means, (n,) bool. Equal rewards agree with nobody, so they count as disagreements."""
    match show:
        case "all":
            return np.ones(len(index), bool)
        case "ties":
            return np.isnan(index.correct)
        case "agreements":
            return index.correct == 1
        case "disagreements":
            return index.correct < 1
    if other is None:
        raise BadInput(
            f"show={show}", expected="a second evaluation to compare with", fix="choose two evaluations from the list"
        )
    side_by_side = place_side_by_side(index, other)
    is_shown: np.ndarray = getattr(side_by_side, show)
    matches = np.zeros(len(index), bool)
    matches[side_by_side.rows[is_shown]] = True
    return matches


@lru_cache(maxsize=32)
def _match_words(index: EvaluationIndex, words: tuple[str, ...]) -> np.ndarray:
    """Return whether every casefolded word is in a pair's text, (n,) bool. The file is read through, line by line."""
    matches = np.zeros(len(index), bool)
    with open_pairs_file(index.path, index.stamp) as file:
        for row, line in enumerate(file):
            pair = orjson.loads(line)  # three times as fast as validating, which the index has done
            chats = pair["prompt"], pair["chosen"], pair["rejected"]
            text = "\n".join(map(_get_all_text, (m for chat in chats for m in chat))).casefold()
            matches[row] = all(word in text for word in words)
    return matches


def _get_all_text(message: Mapping[str, Any]) -> str:
    """Return everything in a message of the file that is text, as `Message.read_all_text` does."""
    content, calls = message["content"] or "", message.get("tool_calls") or ()
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return "\n".join(
        [message.get("reasoning_content") or "", text, *(json.dumps(call, ensure_ascii=False) for call in calls)]
    )
