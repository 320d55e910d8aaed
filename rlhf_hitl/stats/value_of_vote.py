"""Whether one more vote is worth its price: the expected gain of asking on, by optimal stopping.

A label is worth the share of raters who agree with it. Votes raise that on average, and each has a price in the same
unit: at a price of 0.01 a vote is asked while it is expected to win one more rater in a hundred. Where raters truly
split, as many agree with one side as with the other: nothing is to be won, and asking stops. (The probability of
having found the side of the majority would make votes worth most where the majority is 51 in 100. The log score pays
for labels that become surer without changing, so it hardly ever stops; the same holds of information.)

A single vote may never turn a label that the vote after it would turn, so looking one vote ahead stops too early. Here
all votes that may still come are looked at, by backward induction over how many of them say "first", "tie" and
"second"; whoever asks may stop after each. That is exact for raters drawn at random, and takes a millisecond.

Sources: Raiffa & Schlaifer 1961, "Applied statistical decision theory" (value of sample information); DeGroot 1970,
"Optimal statistical decisions", chapter 12 (backward induction). For contrast, ActiveLab (Goh & Mueller 2023) ranks
examples by how doubtful their labels are; it has no price, does not say when to stop, and goes on asking where raters
split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import numpy as np

from rlhf_hitl.stats.rater_population import RaterPopulation
from rlhf_hitl.stats.vote_likelihood import compute_mixed_probabilities
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE

#: Raters are split where the commonest opinion is likelier than not shared by less than this share of them.
SPLIT_BELOW = 2 / 3
#: More votes than this are not looked ahead: the states grow with the cube (165 at 8).
MOST_AHEAD = 8

Action = Literal["ask", "sure", "split", "most"]


@dataclass(frozen=True)
class Belief:
    """What is believed of how raters see a pair, at points of a grid.

    Attributes:
        weights: (points,) posterior probabilities, which sum to 1.
        outcomes: (points, 3) the probabilities that a rater drawn at random says first better, tie, second better.
        by_votes: (points,) the posterior by the votes alone, where `weights` know a witness, too. The label is made of
            these: a witness who contradicts it makes votes worth more, not less.
    """

    weights: np.ndarray
    outcomes: np.ndarray
    by_votes: np.ndarray | None = None

    def predict(self) -> np.ndarray:
        """Return (3,) the probabilities that the next rater says first better, tie, second better."""
        return self.weights @ self.outcomes

    def compute_agreement(self) -> float:
        """Return the share of raters who are expected to agree with the label."""
        return float(self._find_agreement(np.ones((len(self.weights), 1)))[0])

    def compute_split_probability(self) -> float:
        """Return the probability that no opinion is shared by SPLIT_BELOW of the raters."""
        return float(self.weights[self.outcomes.max(1) < SPLIT_BELOW].sum())

    def compute_net_gain(self, ahead: int, price: float) -> float:
        """Return the share of raters that the label is expected to win if at least one of up to `ahead` votes is asked,
        less the price of the votes.

        Args:
            ahead: the most votes that may still be asked; 0 gives -price, since there is nothing to gain.
            price: of one vote, as a share of raters.
        """
        if ahead < 1:
            return -price
        counts, next_states = _list_states(min(ahead, MOST_AHEAD))
        logs = np.log(np.maximum(self.outcomes, 1e-300))
        likelihoods = np.exp(logs @ counts.T)  # (points, states), of one order of the votes
        reached = self.weights @ likelihoods
        stopped = self._find_agreement(likelihoods)
        value = stopped.copy()
        asked = 0.0
        for states, following in next_states:  # the longest ones first
            asked = value[following].sum(1) - price * reached[states]
            value[states] = np.maximum(stopped[states], asked)
        return float(np.asarray(asked)[0] - stopped[0])

    def _find_agreement(self, likelihoods: np.ndarray) -> np.ndarray:
        """Return (states,) the share of raters who agree with the label of more votes, times how probable these are.

        Args:
            likelihoods: (points, states) of more votes.
        """
        known = self.outcomes.T @ (self.weights[:, None] * likelihoods)  # (3, states)
        if self.by_votes is None:
            return known.max(0)
        label = (self.outcomes.T @ (self.by_votes[:, None] * likelihoods)).argmax(0)
        return known[label, np.arange(known.shape[1])]


@cache
def _list_states(ahead: int) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Return the states of up to `ahead` votes, and which states follow on which.

    Returns:
        (states, 3) how many votes say first, tie and second, the fewest first; and for each number of votes from
        ahead - 1 down to 0 the states with it, (n,), and those that one more vote leads to, (n, 3).
    """
    counts = [(a, b, n - a - b) for n in range(ahead + 1) for a in range(n + 1) for b in range(n - a + 1)]
    index = {count: i for i, count in enumerate(counts)}
    next_states = []
    for n in reversed(range(ahead)):
        states = [count for count in counts if sum(count) == n]
        following = [[index[a + 1, b, c], index[a, b + 1, c], index[a, b, c + 1]] for a, b, c in states]
        next_states.append((np.array([index[count] for count in states]), np.array(following)))
    return np.array(counts, float), next_states


@dataclass(frozen=True)
class VoteDecision:
    """What to do about a comparison, and why.

    Attributes:
        action: `ask` for one more vote; `sure`: what is left of doubt is not worth another vote; `split`: nor is it,
            because raters differ; `most`: another vote would be worth it, but no more may be asked.
        gain: the share of raters that asking is expected to win, less the price of the votes.
        agreement: the share of raters who are expected to agree with the label now.
        split_probability: that raters are split.
    """

    action: Action
    gain: float
    agreement: float
    split_probability: float


def decide_on_vote(beliefs: Sequence[Belief], votes: int, *, least: int, most: int, price: float) -> VoteDecision:
    """Decide whether a comparison gets one more vote.

    Args:
        beliefs: of its pairs. A vote on more than two completions informs all of their pairs, so the figures are means
            over them. Each pair is taken as if it could stop by itself, which asks rather than stops.
        votes: how many it has.
        least, most: the bounds of how many it gets.
        price: of one vote, as a share of raters.
    """
    # With no vote left to ask, what one more would gain still tells doubt that is worth a vote from doubt that is not.
    ahead = max(1, most - votes)
    gain = float(np.mean([belief.compute_net_gain(ahead, price) for belief in beliefs]))
    agreement = float(np.mean([belief.compute_agreement() for belief in beliefs]))
    split = float(np.mean([belief.compute_split_probability() for belief in beliefs]))
    action: Action = "sure"
    if votes < least or (gain > 0 and votes < most):
        action = "ask"
    elif split > 0.5:
        action = "split"
    elif gain > 0:
        action = "most"
    return VoteDecision(action, gain, agreement, split)


def make_belief(population: RaterPopulation, posterior: np.ndarray, by_votes: np.ndarray | None = None) -> Belief:
    """Return the belief that the rater model has of a pair, as one of raters drawn from its population.

    Args:
        posterior: (states,) the probability of each state of the pair (`rater_model`).
        by_votes: (states,) the same without the witness, where there is one.
    """
    return Belief(posterior, _predict_next_rater(population), by_votes)


@lru_cache(maxsize=8)
def _predict_next_rater(population: RaterPopulation) -> np.ndarray:
    """Return (states, 3) what a rater of whom nothing but the population is known says in each state, the sides on
    which the completions are shown being evened out."""
    outcomes = np.array([FIRST_UNGRADED, TIE, SECOND_UNGRADED] * 2)
    rows = np.tile(population.describe_new_rater(), (6, 1))
    raters = np.column_stack([rows[:, :2], np.log(rows[:, 2:4])])
    said = compute_mixed_probabilities(
        raters, rows[:, 5], rows[:, 4], outcomes, np.repeat([1, -1], 3), np.array(population.gaps)
    )
    probabilities = said[:3] + said[3:]
    return (probabilities / probabilities.sum(0)).T
