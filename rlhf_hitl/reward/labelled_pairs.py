"""The labelled pairs of a store, with their texts: what heads learn from and every reward model is evaluated on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.labels.aggregate import read_labels
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.reward.readability import LeftOut
from rlhf_hitl.reward.rendering import Conversation, Renderer, has_text
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, GRADED, SECOND_UNGRADED, TIE, VOTE_OUTCOMES
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.imports import finish_waiting_imports
from rlhf_hitl.types import Comparison, Label, Split
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledPair:
    """A label with the comparison that it is about."""

    comparison: Comparison
    label: Label

    @property
    def first(self) -> Conversation:
        return self._make_conversation(self.label.first)

    @property
    def second(self) -> Conversation:
        return self._make_conversation(self.label.second)

    @property
    def is_usable(self) -> bool:
        """Whether both sides have text: an empty completion has no reward."""
        return has_text(self.first.completion) and has_text(self.second.completion)

    def _make_conversation(self, completion_id: str) -> Conversation:
        prompt = self.comparison.prompt
        return Conversation(prompt.messages, self.comparison.find_completion(completion_id).messages, prompt.tools)


def load_labelled_pairs(store: Store, split: Split) -> list[LabelledPair]:
    """Return every labelled pair of a split whose two sides have text, in order of comparison id.

    An import that was interrupted is finished first.
    A warning counts the others.
    """
    finish_waiting_imports(store)
    split_labels = read_labels(store, split=split)
    ids = list(dict.fromkeys(label.comparison_id for label in split_labels))
    comparisons = {c.id: c for c in find_comparisons(store, ids=ids)}
    pairs = [LabelledPair(comparisons[label.comparison_id], label) for label in split_labels]
    usable = [p for p in pairs if p.is_usable]
    if len(usable) < len(pairs):
        first = next(p.comparison.id for p in pairs if not p.is_usable)
        left_out = say_count(len(pairs) - len(usable), f"{split.value} label")
        log.warning("%s left out: of completions without text (comparison %s)", left_out, first)
    return usable


def select_readable(pairs: Sequence[LabelledPair], renderer: Renderer, left_out: LeftOut) -> list[LabelledPair]:
    """Return the pairs that a model can read and tell apart; the others are added to `left_out`."""
    readable = []
    for pair in pairs:
        if problem := renderer.find_problem([pair.first, pair.second]):
            left_out.add(problem)
        else:
            readable.append(pair)
    return readable


def count_votes(pairs: Sequence[LabelledPair]) -> np.ndarray:
    """Return how many votes each of VOTE_OUTCOMES has in each pair, (n, 9).

    A vote on more than two completions counts less in each pair (see `weigh_votes`).
    """
    votes = np.zeros((len(pairs), len(VOTE_OUTCOMES)))
    for row, pair in zip(votes, pairs):
        label = pair.label
        row[GRADED] = label.strengths
        first, tie, second = np.array(label.probabilities) * label.votes
        row[FIRST_UNGRADED] = max(0.0, first - sum(label.strengths[:3]))
        row[SECOND_UNGRADED] = max(0.0, second - sum(label.strengths[3:]))
        row[TIE] = tie
        row[:] = weigh_votes(row, len(pair.comparison.completions))
    return votes


def select_decided(pairs: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Return the pairs with at least one vote that is not a tie."""
    return [p for p in pairs if p.label.probabilities[1] < 1]


def compute_first_shares(pairs: Sequence[LabelledPair]) -> np.ndarray:
    """Return the share of the first completion among the votes that are not ties, (n,); for decided pairs only."""
    p = np.array([pair.label.probabilities for pair in pairs], dtype=np.float64).reshape(-1, 3)
    return p[:, 0] / (p[:, 0] + p[:, 2])


def hash_labelled_pairs(pairs: Sequence[LabelledPair]) -> str:
    """Return a hash that identifies pairs and their labels, in any order."""
    rows = sorted(
        [p.comparison.id, p.label.first, p.label.second, *p.label.probabilities, *p.label.strengths] for p in pairs
    )
    return "sha256:" + hashlib.sha256(json.dumps(rows).encode()).hexdigest()
