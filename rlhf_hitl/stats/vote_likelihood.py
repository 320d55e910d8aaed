"""The likelihood of a vote, given what is true of its pair and what its rater is like: an ordered logit.

A pair is in a *state*: how much better the first completion is (`d`, in logits of a rater of reliability 1), and how
hard it is to tell (`noise`, which widens everybody's noise: where it is large, people split into two camps, where it is
small, they agree, also on a tie). A rater perceives

    z = reliability * d + position_bias * side + noise * e,    e standard logistic, side = 1 where the first stood first

and answers with the interval that z falls into: a tie within ± tie_width, beyond it slightly, clearly, much better, cut
at tie_width + strength_scale * (0, g1, g1 + g2). A vote without a strength says only that z is beyond the tie. A rater
with a reliability of 0 does not look; one below 0 has the sides confused. Sources: Agresti 1992, "Analysis of ordinal
paired comparison data" (the cuts of the cumulative logit); Samejima 1969, the graded response model (a slope and cuts
of everybody's own), whose raters are those of Linacre 1989, "Many-facet Rasch measurement".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_hitl.stats.vote_outcomes import VOTE_OUTCOMES

#: d of the states, in logits: closer together where the tie is. Twice the last is the largest difference of any use.
DIFFERENCES = np.sinh(np.linspace(-3, 3, 25))
#: How much a hard pair widens the noise, beside a plain pair (1) and a clear one.
NOISES = np.array([0.4, 1.0, 2.5])
STATE_D = np.tile(DIFFERENCES, len(NOISES))  # (states,)
STATE_NOISE = np.repeat(NOISES, len(DIFFERENCES))
FLOOR = 1e-9  # of a probability: nobody is so sure
# The parameters of a rater, in the order of every last axis: reliability, position bias, log tie width, log scale.
RELIABILITY, POSITION_BIAS, LOG_TIE_WIDTH, LOG_STRENGTH_SCALE = range(4)
# The lower and the upper cut of each outcome: its sign (0: there is none) and which of the three it is.
_LOW_SIGN = np.array([1, 1, 1, 1, -1, 0, -1, -1, 0.0])
_LOW_CUT = np.array([2, 1, 0, 0, 0, 0, 1, 2, 0])
_HIGH_SIGN, _HIGH_CUT = -_LOW_SIGN[::-1], _LOW_CUT[::-1].copy()


@dataclass(frozen=True)
class VoteTables:
    """The probability of votes in every state, and what its derivatives are made of; all (votes, states).

    Attributes:
        p: the probability of the vote.
        low, high: the density at the lower and at the upper cut, over p.
        low_slope, high_slope: the derivative of that density, over p.
    """

    p: np.ndarray
    low: np.ndarray
    high: np.ndarray
    low_slope: np.ndarray
    high_slope: np.ndarray


def compute_vote_probabilities(
    raters: np.ndarray,
    outcomes: np.ndarray,
    sides: np.ndarray,
    gaps: np.ndarray,
    spreads: np.ndarray | None = None,
) -> np.ndarray:
    """Return the probability (n, states) of votes in every state.

    It is as precise as `raters` are: float32 does where only sums over many votes matter, in half the time.

    Args:
        raters: (n, 4) parameters of each vote's rater, as this module orders them.
        outcomes: (n,) in VOTE_OUTCOMES.
        sides: (n,) 1 where the first completion stood first, -1 where second, 0 where nobody knows.
        gaps: (2,) between slightly and clearly, clearly and much better, at a strength scale of 1.
        spreads: (n,) standard deviations of the reliabilities, over which the probability is averaged: as if the noise
            had that much more variance (MacKay 1992, with the logistic's variance of pi squared over 3).
    """
    d, noise = STATE_D.astype(raters.dtype), STATE_NOISE.astype(raters.dtype)
    if spreads is not None:
        noise = np.sqrt(noise**2 + (3 / np.pi**2 * spreads**2).astype(raters.dtype)[:, None] * d**2)
    return _compute_between(*_place_edges(raters, outcomes, sides, gaps, d, noise))[0]


def compute_vote_tables(raters: np.ndarray, outcomes: np.ndarray, sides: np.ndarray, gaps: np.ndarray) -> VoteTables:
    """Return the tables of votes; see `compute_vote_probabilities` for the arguments."""
    noise = STATE_NOISE.astype(raters.dtype)
    edges = _place_edges(raters, outcomes, sides, gaps, STATE_D.astype(raters.dtype), noise)
    p, at_low, at_high = _compute_between(*edges)
    over = 1 / noise / p
    low_density, high_density = at_low * (1 - at_low) * over, at_high * (1 - at_high) * over
    return VoteTables(
        p,
        low_density,
        high_density,
        low_density * ((1 - 2 * at_low) / noise),
        high_density * ((2 * at_high - 1) / noise),
    )


def compute_mixed_probabilities(
    raters: np.ndarray,
    spreads: np.ndarray,
    random: np.ndarray,
    outcomes: np.ndarray,
    sides: np.ndarray,
    gaps: np.ndarray,
) -> np.ndarray:
    """Return the probability (n, states) of votes whose raters answer without looking with probability `random`."""
    looking = compute_vote_probabilities(raters, outcomes, sides, gaps, spreads)
    none, plain = np.zeros(1, raters.dtype), np.ones(1, raters.dtype)  # nothing is perceived, with plain noise
    guessed = _compute_between(*_place_edges(raters, outcomes, sides, gaps, none, plain))[0]
    return looking + random.astype(raters.dtype)[:, None] * (guessed - looking)


def find_cut_jacobians(raters: np.ndarray, outcomes: np.ndarray, gaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the derivatives (n, 2, 2) of each vote's lower and upper cut in the rater's log tie width and log strength
    scale, and (n, 2, 2) in the logs of the two gaps; 0 for a cut that is not there."""
    sign = np.stack([_LOW_SIGN[outcomes], _HIGH_SIGN[outcomes]], 1)
    cut = np.stack([_LOW_CUT[outcomes], _HIGH_CUT[outcomes]], 1)
    tie_width, scale = np.exp(raters[:, LOG_TIE_WIDTH, None]), np.exp(raters[:, LOG_STRENGTH_SCALE, None])
    of_rater = np.stack([sign * tie_width, sign * scale * np.cumsum([0, *gaps])[cut]], 2)
    of_gaps = np.stack([sign * scale * gaps[0] * (cut >= 1), sign * scale * gaps[1] * (cut >= 2)], 2)
    return of_rater, of_gaps


def _place_edges(
    raters: np.ndarray, outcomes: np.ndarray, sides: np.ndarray, gaps: np.ndarray, d: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far (n, states) the perceived difference is above the lower and above the upper cut, in noise units;
    infinite where there is no such cut."""
    cuts = np.exp(raters[:, LOG_TIE_WIDTH, None]) + np.exp(raters[:, LOG_STRENGTH_SCALE, None]) * np.cumsum([0, *gaps])
    row = np.arange(len(outcomes))
    low_sign, high_sign = _LOW_SIGN[outcomes], _HIGH_SIGN[outcomes]
    low = np.where(low_sign == 0, -np.inf, low_sign * cuts[row, _LOW_CUT[outcomes]])
    high = np.where(high_sign == 0, np.inf, high_sign * cuts[row, _HIGH_CUT[outcomes]])
    shift = raters[:, POSITION_BIAS] * sides
    perceived = raters[:, RELIABILITY, None] * d
    above_low, above_high = ((shift - cut).astype(raters.dtype)[:, None] for cut in (low, high))
    return (perceived + above_low) / noise, (perceived + above_high) / noise


def _compute_between(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the probability that noise leaves z between the cuts, above the lower one, and below the upper one.

    The first is expit(low) - expit(high), without cancellation: expit(low) expit(-high) (1 - exp(high - low)).
    """
    between = -np.expm1(high - low)
    with np.errstate(over="ignore"):  # 1 / infinity is as good as what it should be
        at_low, at_high = 1 / (1 + np.exp(-low)), 1 / (1 + np.exp(high))
    return np.maximum(between * at_low * at_high, FLOOR), at_low, at_high


assert len(_LOW_SIGN) == len(VOTE_OUTCOMES)
