"""What raters and pairs are like as a whole, and what follows from it for a single pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rlhf_hitl.stats.vote_likelihood import (
    DIFFERENCES,
    NOISES,
    STATE_D,
    compute_mixed_probabilities,
    compute_vote_probabilities,
)
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE

#: Standard deviations of the normals that a pair's difference is drawn from, times `RaterPopulation.difference_scale`.
SCALES = np.array([0.15, 0.5, 1.0, 2.0, 4.0])
# What the weights of the pairs' normals are held to, by as many pairs as it sums to. Votes without a second vote on any
# pair say nothing of how far raters agree, so this says it: two agree on about three in five, as people who compare
# answers do, and who says tie is followed by a tie more often than by either side, since some ties are clear.
PAIR_COUNTS = np.array([[5.0, 1.0, 1.5, 2.0, 2.0], [1.0, 1.0, 2.0, 3.0, 3.0], [0.5, 0.5, 1.0, 1.5, 1.5]]).ravel()
#: What the spreads between raters are held to; see `RaterPopulation.spreads`.
SPREADS = np.array([0.4, 0.3, 0.5, 0.4])
_ANCHOR = 4.0  # how much less noise than a rater of reliability 1 a known outcome has
#: The columns of `RaterModelFit.rows`, from which `update_pair` knows a rater.
RATER_COLUMNS = (
    "looking_reliability", "position_bias", "tie_width", "strength_scale", "random", "reliability_spread",
)  # fmt: skip


@dataclass(frozen=True)
class RaterPopulation:
    """What raters and pairs are like as a whole: the hyperparameters. Plain numbers, so that it is kept as JSON.

    Attributes:
        tie_width: the median rater's, in logits of noise.
        position_bias: the mean, in logits; above 0 favours what is shown first.
        gaps: between slightly and clearly, clearly and much better, in logits.
        spreads: standard deviations between raters of reliability, position bias, log tie width, log strength scale.
        random_share: of raters who answer without looking.
        difference_scale: multiplies SCALES.
        pair_weights: of the normals of pairs' differences, (noise levels x SCALES,).
        witness: how much a witness's preference and its ties count (0: not at all), and its usual log odds of a tie.
        tie_shift: the reference rater's log tie width, less the median rater's: it says tie as often as raters do, who
            with wide ties say more of them than those with narrow ones say fewer.
    """

    tie_width: float = 1.0
    position_bias: float = 0.0
    gaps: tuple[float, float] = (1.0, 1.0)
    spreads: tuple[float, ...] = tuple(SPREADS.tolist())
    random_share: float = 0.05
    difference_scale: float = 1.5
    pair_weights: tuple[float, ...] = tuple((PAIR_COUNTS / PAIR_COUNTS.sum()).tolist())
    witness: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tie_shift: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RaterPopulation:
        """Return the population whose `dataclasses.asdict` is given, as JSON has it: with lists for tuples."""
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**plain)

    @property
    def typical(self) -> np.ndarray:
        """The parameters (4,) of a rater in the middle."""
        return np.array([1.0, self.position_bias, np.log(self.tie_width), 0.0])

    @property
    def reference(self) -> np.ndarray:
        """The parameters (4,) of the reference rater: one in the middle, without position bias."""
        return np.array([1.0, 0.0, np.log(self.tie_width) + self.tie_shift, 0.0])

    def describe_new_rater(self) -> np.ndarray:
        """Return the row (6,) of a rater without votes, see `RaterModelFit.rows`."""
        return np.array([1.0, self.position_bias, self.tie_width, 1.0, self.random_share, self.spreads[0]])


def compute_vote_worth(row: Sequence[float]) -> float:
    """Return how many votes of a reference rater a vote of a rater is worth, given the rater's RATER_COLUMNS."""
    of = dict(zip(RATER_COLUMNS, row))
    return max(0.0, of["looking_reliability"]) * (1 - of["random"])


def list_pair_components(scale: float) -> np.ndarray:
    """Return the probability (components, states) of the states under each normal of pairs' differences."""
    width = np.gradient(DIFFERENCES)
    density = np.exp(-0.5 * (DIFFERENCES / (scale * SCALES)[:, None]) ** 2) * width
    density /= density.sum(1, keepdims=True)
    return np.kron(np.eye(len(NOISES)), density)


@lru_cache(maxsize=16)
def compute_state_prior(population: RaterPopulation) -> np.ndarray:
    """Return the probability (states,) of a pair's states before any vote."""
    return np.asarray(population.pair_weights) @ list_pair_components(population.difference_scale)


@lru_cache(maxsize=16)
def compute_reference_probabilities(population: RaterPopulation) -> np.ndarray:
    """Return the probability (states, 3) that the reference rater says first, tie, second."""
    outcomes = np.array([FIRST_UNGRADED, TIE, SECOND_UNGRADED])
    raters = np.tile(population.reference, (3, 1))
    return compute_vote_probabilities(raters, outcomes, np.zeros(3), np.array(population.gaps)).T


def update_pair(
    population: RaterPopulation,
    rows: np.ndarray,
    outcomes: np.ndarray,
    sides: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    known: int = -1,
    witness: np.ndarray | None = None,
) -> np.ndarray:
    """Return p (3,), first, tie, second, of one pair, raters and population being as a fit left them.

    It is what the fit says of a pair with these votes.

    Args:
        population, rows: of a fit; rows (n, 6) has the row of each vote's rater (`RaterModelFit.rows`).
        outcomes, sides, weights: (n,) all votes on the pair, as in `VoteArrays`; weights are 1 by default.
        known: the pair's outcome if it is known, else -1.
        witness: (3,) a model's probabilities; p is the consensus then.
    """
    posterior = compute_pair_posterior(population, rows, outcomes, sides, weights, known=known, witness=witness)
    return posterior @ compute_reference_probabilities(population)


def compute_pair_posterior(
    population: RaterPopulation,
    rows: np.ndarray,
    outcomes: np.ndarray,
    sides: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    known: int = -1,
    witness: np.ndarray | None = None,
) -> np.ndarray:
    """Return the probability (states,) of each state of one pair; see `update_pair` for the arguments."""
    rows = np.asarray(rows, float).reshape(-1, len(RATER_COLUMNS))
    logs = np.log(np.maximum(compute_state_prior(population), 1e-300))
    if len(rows):
        raters = rows[:, :4].copy()
        raters[:, 2:] = np.log(raters[:, 2:])
        mixed = compute_mixed_probabilities(
            raters, rows[:, 5], rows[:, 4], np.asarray(outcomes), np.asarray(sides), np.array(population.gaps)
        )
        logs += (np.ones(len(rows)) if weights is None else np.asarray(weights)) @ np.log(mixed)
    if known >= 0:
        logs += np.asarray(compute_known_logs(population, np.array([known]), 1))[0]
    if witness is not None:
        logs += compute_witness_logs(population, np.asarray(witness, float)[None])[0]
    posterior = np.exp(logs - logs.max())
    return posterior / posterior.sum()


def compute_known_logs(population: RaterPopulation, known: np.ndarray | None, pairs: int) -> np.ndarray | float:
    """Return the log likelihood (pairs, states) of known outcomes: votes of somebody with hardly any noise."""
    if known is None or not (np.asarray(known) >= 0).any():
        return 0.0
    anchor = np.array([_ANCHOR, 0, np.log(_ANCHOR * population.tie_width), np.log(_ANCHOR)])
    logs = np.zeros((pairs, len(STATE_D)))
    is_known = np.asarray(known) >= 0
    outcomes = np.asarray(known)[is_known]
    n = len(outcomes)
    logs[is_known] = np.log(
        compute_vote_probabilities(np.tile(anchor, (n, 1)), outcomes, np.zeros(n), np.array(population.gaps))
    )
    return logs


def compute_witness_logs(population: RaterPopulation, witness: np.ndarray) -> np.ndarray:
    """Return the log of the witness's word (n, states); 0 where it is NaN."""
    preference, tie, usual = population.witness
    odds = np.nan_to_num(read_witness_odds(witness) - [0.0, usual])
    return (odds * [preference, tie]) @ list_witness_words(population)


def read_witness_odds(witness: np.ndarray) -> np.ndarray:
    """Return the log odds (n, 2) of first against second, and of a tie against the rest."""
    p = np.clip(witness, 1e-4, 1 - 1e-4)
    return np.stack([np.log(p[:, 0] / p[:, 2]), np.log(p[:, 1] / (1 - p[:, 1]))], 1)


def list_witness_words(population: RaterPopulation) -> np.ndarray:
    """Return (2, states) what the reference rater says in each state: first less second, and tie."""
    p = compute_reference_probabilities(population)
    return np.stack([p[:, 0] - p[:, 2], p[:, 1]])
