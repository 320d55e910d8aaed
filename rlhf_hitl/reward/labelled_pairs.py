"""The labelled pairs of a store, with their texts: what heads learn from and every reward model is evaluated on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.labels.label_models import LabelModel
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.reward.readability import LeftOut
from rlhf_hitl.reward.rendering import Conversation, Renderer, has_text
from rlhf_hitl.stats.vote_outcomes import TIE, VOTE_OUTCOMES
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.imports import finish_waiting_imports
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, Comparison, Label, Split
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


def load_labelled_pairs(
    store: Store, split: Split, label_model: str | LabelModel = DEFAULT_LABEL_MODEL, *, judges_measure: bool = False
) -> list[LabelledPair]:
    """Return every labelled pair of a split whose two sides have text, in order of comparison id.

    An import that was interrupted is finished first.
    A warning counts the others.

    Args:
        label_model: how votes become labels: its name, or the model itself.
        judges_measure: judges' votes count in every split (`votes.read_votes`).
    """
    finish_waiting_imports(store)
    split_labels = read_labels(store, split=split, label_model=label_model, judges_measure=judges_measure)
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
    """Return what the votes on each pair are worth for each of VOTE_OUTCOMES, in votes of a reference rater, (n, 9).

    A vote on more than two completions counts less in each pair (see `weigh_votes`).
    """
    return _weigh_rows([pair.label.weighted_votes for pair in pairs], pairs)


def count_given_votes(pairs: Sequence[LabelledPair]) -> np.ndarray:
    """Return how many votes each of VOTE_OUTCOMES was given in each pair, weighed as `count_votes` does, (n, 9)."""
    return _weigh_rows([_count_given(pair.label) for pair in pairs], pairs)


def count_decided_votes(pairs: Sequence[LabelledPair]) -> np.ndarray:
    """Return what the votes of each pair that are not ties are worth, in votes of a reference rater, (n,)."""
    votes = np.array([pair.label.weighted_votes for pair in pairs], float).reshape(-1, len(VOTE_OUTCOMES))
    return votes.sum(1) - votes[:, TIE]


def _weigh_rows(rows: Sequence[Sequence[float]], pairs: Sequence[LabelledPair]) -> np.ndarray:
    votes = np.array(rows, float).reshape(-1, len(VOTE_OUTCOMES))
    completions = np.array([len(pair.comparison.completions) for pair in pairs], float)[:, None]
    return weigh_votes(votes, completions)


def _count_given(label: Label) -> list[int]:
    first, tie, second = label.counts
    much, clearly, slightly, *of_second = label.strengths
    ungraded = first - (much + clearly + slightly), second - sum(of_second)
    return [much, clearly, slightly, ungraded[0], tie, ungraded[1], *of_second]


def select_decided(pairs: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Return the pairs with at least one vote that counts and is not a tie, or such a decision."""
    return [p for p in pairs if p.label.said[0] + p.label.said[2] > 0]


def compute_first_shares(pairs: Sequence[LabelledPair]) -> np.ndarray:
    """Return the share of the first completion among the votes that are not ties, (n,); for decided pairs only.

    A vote counts as much as its rater's votes do, and a lead's decision alone. Whatever the label model, a probability
    of a reward model is that of what a rater says: the reliability of raters is not in it.
    """
    said = np.array([pair.label.said for pair in pairs], dtype=np.float64).reshape(-1, 3)
    return said[:, 0] / (said[:, 0] + said[:, 2])


def hash_labelled_pairs(pairs: Sequence[LabelledPair]) -> str:
    """Return a hash that identifies pairs and their labels, in any order: all of a label that a reward model learns
    from or is measured by."""
    rows = sorted(
        [
            *(p.comparison.id, p.label.first, p.label.second),
            *(*p.label.probabilities, *p.label.strengths, *p.label.counts, *p.label.counted, *p.label.weighted_votes),
        ]
        for p in pairs
    )
    return "sha256:" + hashlib.sha256(json.dumps(rows).encode()).hexdigest()
