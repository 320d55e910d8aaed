"""Labelled pairs as the reward models read them: who was compared with whom, and what the raters said."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.labels.aggregate import read_labels
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.reward.head import OUTCOMES, SECOND_UNSAID, TIE, UNSAID
from rlhf_hitl.reward.rendering import Conversation, has_text
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.types import Comparison, Label, Split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledPair:
    """A label with the texts it speaks of."""

    comparison: Comparison
    label: Label

    @property
    def first(self) -> Conversation:
        return self.comparison.prompt.messages, self.comparison.find_completion(self.label.first).messages

    @property
    def second(self) -> Conversation:
        return self.comparison.prompt.messages, self.comparison.find_completion(self.label.second).messages

    @property
    def is_usable(self) -> bool:
        """Both sides have text: an empty completion has no reward."""
        return all(has_text(completion) for _, completion in (self.first, self.second))


def labelled_pairs(store: Store, split: Split) -> list[LabelledPair]:
    """Every labelled pair of a split whose two sides have text, by comparison id; a warning counts the others."""
    found = read_labels(store, split=split)
    ids = list(dict.fromkeys(label.comparison_id for label in found))
    comparisons = {c.id: c for c in find_comparisons(store, ids=ids)}
    pairs = [LabelledPair(comparisons[label.comparison_id], label) for label in found]
    usable = [p for p in pairs if p.is_usable]
    if len(usable) < len(pairs):
        first = next(p.comparison.id for p in pairs if not p.is_usable)
        left_out = len(pairs) - len(usable)
        log.warning("%d %s labels left out: of completions without text (comparison %s)", left_out, split.value, first)
    return usable


def votes(pairs: Sequence[LabelledPair]) -> np.ndarray:
    """(n, 9) how many votes say each of `head.OUTCOMES` of a pair.

    A vote on more than two completions counts less in each pair (see `weigh_votes`).
    """
    out = np.zeros((len(pairs), len(OUTCOMES)))
    for row, pair in zip(out, pairs):
        label = pair.label
        row[[0, 1, 2, 6, 7, 8]] = label.strengths
        first, tie, second = np.array(label.probabilities) * label.votes
        row[UNSAID] = max(0.0, first - sum(label.strengths[:3]))
        row[SECOND_UNSAID] = max(0.0, second - sum(label.strengths[3:]))
        row[TIE] = tie
        row[:] = weigh_votes(row, len(pair.comparison.completions))
    return out


def decided(pairs: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Those with at least one vote that is not a tie."""
    return [p for p in pairs if p.label.probabilities[1] < 1]


def share_of_decided(pairs: Sequence[LabelledPair]) -> np.ndarray:
    """(n,) share of the first among the votes that are not ties; for `decided` pairs only."""
    p = np.array([pair.label.probabilities for pair in pairs], dtype=np.float64).reshape(-1, 3)
    return p[:, 0] / (p[:, 0] + p[:, 2])


def data_hash(pairs: Sequence[LabelledPair]) -> str:
    """Names the training data: the same pairs with the same labels give the same hash, in any order."""
    rows = sorted(
        [p.comparison.id, p.label.first, p.label.second, *p.label.probabilities, *p.label.strengths] for p in pairs
    )
    return "sha256:" + hashlib.sha256(json.dumps(rows).encode()).hexdigest()
