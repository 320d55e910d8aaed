"""Labels for a head that learns as judgments come: what is new since its training, by the votes that it has learnt.

Votes become labels as in the training: the same splits, raters' weights, decisions and judges, by the label model that
the training used. What a model cannot read, or has no features of at hand, is counted and left to the next training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_hitl.labels.fitting import fit_label_model, read_labels
from rlhf_hitl.labels.votes import read_votes
from rlhf_hitl.reward.labelled_pairs import LabelledPair, count_given_votes, count_votes
from rlhf_hitl.reward.training.learnt_votes import load_learnt_votes, make_pair_id
from rlhf_hitl.reward.training.training_labels import compute_differences
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.reward_models import display_name, get_reward_model
from rlhf_hitl.types import Label, Split

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel


class VotesWithdrawn(Exception):
    """A vote was corrected that was learnt since the training: it takes the registered model to begin again."""


@dataclass
class NewLabels:
    """What there is to learn.

    Attributes:
        labels: inputs (d,) and new votes (9,) of each.
        judged: the comparisons that have a judgment now.
    """

    labels: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    judged: set[str] = field(default_factory=set)


class LabelFollower:
    """Follows the labels of the training prompts of a store, from those that a model was trained on.

    Attributes:
        learnt: the pairs of which something was learnt since the training.
        votes: how many votes that was, as they weigh.
        corrected: pairs of which a vote that the training had learnt was corrected.
        unread: pairs that the model cannot read, or whose features are not at hand.

    Raises:
        BadInput: the model keeps no record of what it has learnt.
    """

    def __init__(self, store: Store, model: RewardModel):
        record = get_reward_model(store, model.id)
        votes = load_learnt_votes(Path(record.path), display_name(record, with_id=True))
        self.store, self.model = store, model
        self._trained_votes, self._trained_given = votes
        self._label_model = fit_label_model(store, model.card.get("label_model", "shares"))
        self.start_again()

    def start_again(self) -> None:
        """Take it that nothing was learnt since the training."""
        self._votes, self._given = dict(self._trained_votes), dict(self._trained_given)
        self._pairs_of: dict[str, set[str]] = {}
        for pair_id in self._given:
            self._pairs_of.setdefault(pair_id.split()[0], set()).add(pair_id)
        self.learnt: set[str] = set()
        self.corrected: set[str] = set()
        self.unread: set[str] = set()
        self.votes = 0.0

    def read_all(self) -> NewLabels:
        """Return what there is to learn in the whole store."""
        labels = read_labels(self.store, split=Split.TRAIN, label_model=self._label_model)
        return self._find_new(labels)

    def read_after(self, revision: int, until: int) -> NewLabels:
        """Return what there is to learn from the judgments after a revision of the store.

        Raises:
            VotesWithdrawn: one of them corrects a vote that was learnt since the training.
        """
        found = read_judgments(self.store, after=revision, current=False, repeats=False, split=Split.TRAIN)
        judged = {j.comparison_id for j in found if j.seq <= until}
        new = self._find_new(label for id in sorted(judged) for label in self._read_labels(id))
        new.judged |= judged
        return new

    def _read_labels(self, comparison_id: str) -> Iterator[Label]:
        votes = read_votes(self.store, split=Split.TRAIN, comparison_id=comparison_id)
        of_comparison = [label for id, said in votes for label in self._label_model.make_labels(id, said)]
        yield from of_comparison
        # A label of which no vote is left says so, too: a correction may be a skip.
        still = {f"{comparison_id} {label.first} {label.second}" for label in of_comparison}
        for pair_id in self._pairs_of.get(comparison_id, set()) - still:
            self._withdraw(pair_id)

    def _find_new(self, labels: Iterable[Label]) -> NewLabels:
        labels, new = list(labels), NewLabels()
        ids = sorted({label.comparison_id for label in labels})
        comparisons = {c.id: c for c in find_comparisons(self.store, ids=ids)}
        pairs = [LabelledPair(comparisons[label.comparison_id], label) for label in labels]
        new.judged = set(ids)
        changed = self._select_changed(pairs)
        readable = self._select_readable([pair for pair, _ in changed])
        at_hand = [one for one in changed if make_pair_id(one[0]) in readable]
        if not at_hand:
            return new
        differences = compute_differences(self.model, [pair for pair, _ in at_hand])
        for difference, (pair, votes) in zip(differences, at_hand):
            pair_id = make_pair_id(pair)
            if votes.any():
                new.labels.append((difference, votes))
                self.learnt.add(pair_id)
                self.votes += float(votes.sum())
            self._votes[pair_id], self._given[pair_id] = count_votes([pair])[0], count_given_votes([pair])[0]
            self._pairs_of.setdefault(pair.comparison.id, set()).add(pair_id)
        return new

    def _select_changed(self, pairs: Sequence[LabelledPair]) -> list[tuple[LabelledPair, np.ndarray]]:
        """Return the pairs with votes that were not learnt, and those votes (9,)."""
        if not pairs:
            return []
        changed = []
        for pair, votes, given in zip(pairs, count_votes(pairs), count_given_votes(pairs)):
            pair_id = make_pair_id(pair)
            known = self._given.get(pair_id)
            if known is not None and np.allclose(given, known):
                continue  # its raters may be trusted more or less than before: that is for the next training
            if known is not None and (given < known - 1e-9).any():
                self._withdraw(pair_id)
                continue
            before = self._votes.get(pair_id)
            changed.append((pair, np.maximum(0, votes - (0 if before is None else before))))
        return changed

    def _withdraw(self, pair_id: str) -> None:
        if pair_id in self.learnt:
            raise VotesWithdrawn
        self.corrected.add(pair_id)

    def _select_readable(self, pairs: Sequence[LabelledPair]) -> set[str]:
        readable = [p for p in pairs if p.is_usable and self.model.find_problem([p.first, p.second]) is None]
        sides = [side for pair in readable for side in (pair.first, pair.second)]
        at_hand = np.all(self.model.cache.are_read(sides).reshape(-1, 2), axis=1).tolist() if readable else []
        ids = {make_pair_id(pair) for pair, is_read in zip(readable, at_hand) if is_read}
        self.unread |= {make_pair_id(p) for p in pairs} - ids
        self.unread -= ids
        return ids
