"""What a fit says of each rater: estimates with intervals of 95 %.

The intervals are Laplace's, widened by what the fit takes as given though votes only told it roughly (Kass & Steffey
1989, "Approximate Bayesian inference in conditionally independent hierarchical models"): the middle that raters are
measured against, how far they spread around it, and what pairs are like. That other raters are estimates too hardly
matters: in simulations, inverting the information of all raters at once gives the same intervals.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import null_space
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri

from rlhf_hitl.stats.rater_measuring import (
    Cells,
    Raters,
    compute_scores,
    list_state_scores,
    measure_shared,
    measure_votes,
)
from rlhf_hitl.stats.rater_population import (
    PAIR_COUNTS,
    RATER_COLUMNS,
    RaterPopulation,
    compute_state_prior,
    list_pair_components,
)
from rlhf_hitl.stats.vote_likelihood import LOG_STRENGTH_SCALE, LOG_TIE_WIDTH, NOISES, RELIABILITY, VoteTables

_Z = 1.959964
_LEAST_INFORMATION = 0.5  # of pairs' weights: that they are known to a factor of 4 or so without any vote


def summarise_raters(
    state: Raters,
    hidden: np.ndarray,
    who: np.ndarray,
    raters: int,
    population: RaterPopulation,
) -> dict[str, np.ndarray]:
    """Return the fields of `RaterModelFit` that are of raters; those without votes are what the population says.

    Args:
        hidden: (len(who), 4) the variance of what the fit took as given; see `measure_hidden_variance`.
        who: which of the raters `state` is of.
    """
    mode = np.tile(population.typical, (raters, 1))
    own = np.tile(np.square(population.spreads), (raters, 1))
    random = np.full(raters, population.random_share)
    mode[who], random[who] = state.mode, np.clip(state.random, 0, 1 - 1e-6)
    own[who] = np.maximum(np.diagonal(state.covariance, axis1=1, axis2=2), 0)
    variance = own.copy()
    variance[who] += hidden
    spread = np.sqrt(variance)
    out = {
        "random": random,
        "looking_reliability": mode[:, RELIABILITY],
        "reliability_spread": np.sqrt(own[:, RELIABILITY]),
    }
    for k, name in enumerate(RATER_COLUMNS[1:4], 1):
        change = np.exp if k in (LOG_TIE_WIDTH, LOG_STRENGTH_SCALE) else np.array
        for end, z in (("", 0), ("_low", -_Z), ("_high", _Z)):
            out[name + end] = change(mode[:, k] + z * spread[:, k])
    for end, q in (("", 0.5), ("_low", 0.025), ("_high", 0.975)):
        out[f"reliability{end}"] = find_reliability_quantile(q, mode[:, RELIABILITY], spread[:, RELIABILITY], random)
    return out


def find_reliability_quantile(q: float, mean: np.ndarray, spread: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Return the quantile of reliabilities that are 0 with probability `random`, and otherwise normal."""
    below = (1 - random) * ndtr(-mean / spread)
    z = ndtri(np.clip((q - random * (q > below)) / (1 - random), 1e-12, 1 - 1e-12))
    return np.where((q > below) & (q < below + random), 0.0, mean + z * spread)


def measure_hidden_variance(
    cells: Cells,
    tables: VoteTables,
    mixed: np.ndarray,
    posterior: np.ndarray,
    state: Raters,
    population: RaterPopulation,
    mean_spreads: np.ndarray,
    spread_raters: float,
) -> np.ndarray:
    """Return the variance (raters, 4) of raters' parameters that comes from the hyperparameters' own (delta method).

    Args:
        mean_spreads, spread_raters: what the means of parameters, and their spreads, are held to.
    """
    spreads = np.array(population.spreads)
    variance = np.diagonal(state.covariance, axis1=1, axis2=2)
    known = (1 - state.random[:, None]) * np.clip(1 - variance / spreads**2, 0, 1)
    # Everybody moves with the middle: it is the unit that parameters are in.
    of_middle = 1 / (known.sum(0) / spreads**2 + 1 / mean_spreads**2)
    # The log of a spread moves a mode by 2 * unit * variance / spread.
    unit = (state.mode - population.typical) / spreads
    of_spreads = (2 * unit * variance / spreads) ** 2 / (2 * (known.sum(0) + spread_raters))
    # A spread is as likely larger as smaller, which makes the variance of who is not known yet larger on average.
    freedom = known.sum(0) + spread_raters
    of_spreads += (variance / spreads) ** 2 * 2 / np.maximum(freedom - 2, 1)

    information, cross = _inform_pair_weights(cells, tables, mixed, posterior, state, population)
    cross[:, RELIABILITY] *= measure_shared(cells)[:, None]  # as in the fit: by oneself, it is what is usual
    moves = state.covariance @ cross  # (raters, 4, weights): how modes follow the logs of pairs' weights
    information = information - np.einsum("rka,rkb->ab", cross, moves)
    values, vectors = np.linalg.eigh(information)
    moves = moves @ (vectors / np.sqrt(np.maximum(values, _LEAST_INFORMATION)))
    # A line through the mode foretells too much where votes do not settle it, as of who may answer without looking:
    # what pairs are like moves a parameter no further than raters spread.
    return of_middle + of_spreads + np.minimum((moves**2).sum(2), spreads**2)


def _inform_pair_weights(
    cells: Cells,
    tables: VoteTables,
    mixed: np.ndarray,
    posterior: np.ndarray,
    state: Raters,
    population: RaterPopulation,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the observed information (free, free) of the logs of pairs' weights, and how they move the gradient of
    each rater (raters, 4, free), along the directions that keep their sum and the balance of noise."""
    weights = np.array(population.pair_weights)
    components = list_pair_components(population.difference_scale)
    belong = weights[:, None] * components / np.maximum(compute_state_prior(population), 1e-300)  # (weights, states)
    by_noise = weights.reshape(len(NOISES), -1).copy()
    by_noise[:, 0] = by_noise[1] = 0  # clear ties may be as many as they are
    by_noise /= by_noise.sum(1, keepdims=True) + (by_noise.sum(1, keepdims=True) == 0)
    by_noise[-1] *= -1
    free = null_space(np.stack([np.ones(len(weights)), by_noise.ravel()]))
    expected = posterior @ belong.T  # (pairs, weights)
    curved = np.diag(weights) - np.outer(weights, weights)  # of a categorical draw, in the logs of its weights
    information = (len(posterior) + PAIR_COUNTS.sum()) * curved + expected.T @ expected - np.diag(expected.sum(0))
    measured = measure_votes(cells, tables, mixed, posterior)
    scores = compute_scores(cells, measured, state, population) * cells.weight[cells.cell, None]
    n = len(cells.pair)
    cross = np.empty((len(state.mode), 4, len(weights)))
    starts = np.r_[cells.starts[cells.rater_starts], n]
    for k, of_state in enumerate(list_state_scores(cells, tables, state, population)):
        by_rater = csr_array((scores[:, k], cells.pair, starts), shape=(len(state.mode), len(posterior)))
        joint = (measured.sums * of_state * cells.weight[:, None]) @ belong.T
        cross[:, k] = cells.sum_cells(joint) - by_rater @ expected
    return free.T @ information @ free, cross @ free
