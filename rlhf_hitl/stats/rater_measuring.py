"""What votes say of their raters, in view of the pairs: gradient, information and evidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from rlhf_hitl.stats.rater_population import RaterPopulation
from rlhf_hitl.stats.vote_likelihood import (
    LOG_STRENGTH_SCALE,
    LOG_TIE_WIDTH,
    POSITION_BIAS,
    RELIABILITY,
    STATE_D,
    VoteTables,
    find_cut_jacobians,
)
from rlhf_hitl.stats.vote_outcomes import VoteArrays

_SIGNS = np.array([-1, 1])[:, None]  # raising the lower cut costs probability, raising the upper one gains
_VOTES_AT_ONCE = 1 << 12  # what is gathered for them stays in the cache


@dataclass
class Cells:
    """Votes that are alike but for their pair, (rater, outcome, side, weight), taken together; sorted by rater.

    Attributes:
        rater, outcome, side, weight: (cells,).
        cell, pair: (votes,) sorted by cell.
        starts: (cells,) the first vote of each cell. rater_starts: (raters,) the first cell of each rater.
        by_pair: (pairs, cells) how often a pair has a vote of the cell.
    """

    rater: np.ndarray
    outcome: np.ndarray
    side: np.ndarray
    weight: np.ndarray
    cell: np.ndarray
    pair: np.ndarray
    starts: np.ndarray
    rater_starts: np.ndarray
    by_pair: csr_array

    def sum_votes(self, values: np.ndarray) -> np.ndarray:
        """Return the sums (raters, ...) of values (votes, ...), which are in order of `cell`."""
        return self._sum(self.starts[self.rater_starts], values)

    def sum_cells(self, values: np.ndarray) -> np.ndarray:
        """Return the sums (raters, ...) of values (cells, ...)."""
        return self._sum(self.rater_starts, values)

    def _sum(self, starts: np.ndarray, values: np.ndarray) -> np.ndarray:
        n = len(values)  # a product with a sparse matrix is several times as fast as `np.add.reduceat`
        return csr_array((np.ones(n), np.arange(n), np.r_[starts, n]), shape=(len(starts), n)) @ values


def group_votes(votes: VoteArrays, pairs: int) -> tuple[Cells, np.ndarray]:
    """Return the cells of votes, and the raters who have any (sorted); cells number raters within these."""
    who, rater = np.unique(votes.rater, return_inverse=True)
    weights, weight = np.unique(votes.weight, return_inverse=True)
    key = ((rater.astype(np.int64) * 9 + votes.outcome) * 3 + votes.side + 1) * len(weights) + weight
    order = np.argsort(key, kind="stable")
    found, starts, cell = np.unique(key[order], return_index=True, return_inverse=True)
    rest, weight = np.divmod(found, len(weights))
    rest, side = np.divmod(rest, 3)
    rater, outcome = np.divmod(rest, 9)
    pair = np.asarray(votes.pair)[order]
    by_pair = csr_array((np.ones(len(pair), np.float32), (pair, cell)), shape=(pairs, len(found)))
    rater_starts = np.searchsorted(rater, np.arange(len(who)))
    return Cells(rater, outcome, side - 1.0, weights[weight], cell, pair, starts, rater_starts, by_pair), who


@dataclass
class Raters:
    """What is believed of raters while fitting: mode and covariance (raters, 4 and 4 x 4), the probability that each
    answers at random, and how probable the votes are if not (the log evidence)."""

    mode: np.ndarray
    covariance: np.ndarray
    random: np.ndarray


@dataclass
class Measured:
    """What the votes say of their raters, in view of the pairs' posteriors without the vote.

    Attributes:
        slopes: (votes, 3) means of the densities at the lower and upper cut, and of d times their difference.
        curves: (cells, 7) sums over a cell's votes of the two densities, of their two slopes, of d times these, and of
            d squared times their difference.
        sums: (cells, states) of the posteriors of a cell's pairs.
        evidence: (raters,) the log probability of each rater's votes at the mode.
    """

    slopes: np.ndarray
    curves: np.ndarray
    sums: np.ndarray
    evidence: np.ndarray


def measure_votes(cells: Cells, tables: VoteTables, mixed: np.ndarray, posterior: np.ndarray) -> Measured:
    weight, d = cells.weight.astype(np.float32)[:, None], STATE_D.astype(np.float32)
    low, high = tables.low.astype(np.float32, copy=False), tables.high.astype(np.float32, copy=False)
    posterior = posterior.astype(np.float32, copy=False)
    p, mixed = tables.p.astype(np.float32, copy=False), mixed.astype(np.float32, copy=False)
    # For each vote, sums over states of its pair's posterior times each of these: 1 / mixed, the same times the
    # probability of the looking rater, and that times the densities. Bounded, as a vote that counts for many would
    # leave the range of float32.
    factors = np.empty((len(cells.rater), 5, len(d)), np.float32)
    ratio = p / mixed
    np.divide(1, mixed, out=factors[:, 0])
    if (weight != 1).any():
        np.exp(np.clip(weight * np.log(ratio), -60, 60), out=ratio)
        np.exp(np.minimum(-weight * np.log(mixed), 60), out=factors[:, 0])
    factors[:, 1] = ratio
    np.multiply(ratio, low, out=factors[:, 2])
    np.multiply(ratio, high, out=factors[:, 3])
    np.multiply(d, factors[:, 2] - factors[:, 3], out=factors[:, 4])
    n = len(cells.pair)
    found = np.empty((n, factors.shape[1]), np.float32)
    for start in range(0, n, _VOTES_AT_ONCE):
        part = slice(start, start + _VOTES_AT_ONCE)
        np.einsum("vkg,vg->vk", factors.take(cells.cell[part], 0), posterior.take(cells.pair[part], 0), out=found[part])
    total = np.maximum(found[:, 1], 1e-30)
    evidence = np.log(total) - np.log(np.maximum(found[:, 0], 1e-30))
    slopes = found[:, 2:] / total[:, None]
    ends = np.r_[cells.starts, n]
    sums = ratio * (csr_array((1 / total, cells.pair, ends), shape=(len(cells.rater), len(posterior))) @ posterior)
    moved = d * sums
    products = [(sums, low), (sums, high), (sums, tables.low_slope), (sums, tables.high_slope)]
    products += [(moved, tables.low_slope), (moved, tables.high_slope)]
    products += [(d * moved, tables.low_slope - tables.high_slope)]
    curves = np.stack([np.einsum("cg,cg->c", of, table) for of, table in products], 1).astype(float)
    return Measured(slopes, curves, sums, cells.sum_votes(evidence))


def compute_scores(cells: Cells, measured: Measured, state: Raters, population: RaterPopulation) -> np.ndarray:
    """Return the derivatives (votes, 4) of the log probability of each vote, of weight 1, in its rater's parameters."""
    of_rater, _ = find_cut_jacobians(state.mode[cells.rater], cells.outcome, np.array(population.gaps))
    low, high, moved = measured.slopes.T
    of_low, of_high = (of_rater[:, end].astype(np.float32) for end in (0, 1))
    scores = np.zeros((4, len(low)), np.float32)
    scores[RELIABILITY] = moved
    scores[POSITION_BIAS] = cells.side.astype(np.float32)[cells.cell] * (low - high)
    for k, column in enumerate((LOG_TIE_WIDTH, LOG_STRENGTH_SCALE)):
        if of_rater[:, :, k].any():
            scores[column] = of_high[:, k][cells.cell] * high - of_low[:, k][cells.cell] * low
    return scores.T


def list_state_scores(
    cells: Cells, tables: VoteTables, state: Raters, population: RaterPopulation
) -> Iterator[np.ndarray]:
    """Yield, for each of a rater's parameters, the derivative (cells, states) of which `compute_scores` is the mean."""
    of_rater, _ = find_cut_jacobians(state.mode[cells.rater], cells.outcome, np.array(population.gaps))
    yield STATE_D * (tables.low - tables.high)
    yield cells.side[:, None] * (tables.low - tables.high)
    for k in range(2):
        yield of_rater[:, 1, k, None] * tables.high - of_rater[:, 0, k, None] * tables.low


def differentiate(
    cells: Cells, measured: Measured, state: Raters, population: RaterPopulation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradient (raters, 4) of the log likelihood in raters' parameters, its observed information
    (raters, 4, 4), and the derivatives (votes, 2) in the logs of the gaps."""
    side, weight, cell = cells.side, cells.weight, cells.cell
    of_rater, of_gaps = find_cut_jacobians(state.mode[cells.rater], cells.outcome, np.array(population.gaps))
    # Each vote's score; the variance of what is not seen comes off the information (Louis).
    scores = compute_scores(cells, measured, state, population)
    gap_scores = np.zeros((len(cell), 2))
    if of_gaps.any():  # some votes have a strength
        gap_scores = weight[cell, None] * np.einsum("ve,vek->vk", measured.slopes[:, :2], (_SIGNS * of_gaps)[cell])
    weighted = weight[cell, None] * scores
    gradient = cells.sum_votes(weighted)
    outer = np.empty((len(gradient), 4, 4))
    for k in range(4):
        outer[:, k, k:] = outer[:, k:, k] = cells.sum_votes(weighted[:, k, None] * scores[:, k:])

    low, high, low_slope, high_slope, low_moved, high_moved, moved_twice = measured.curves.T
    second = np.zeros((len(cells.rater), 4, 4))
    second[:, 0, 0] = moved_twice
    second[:, 0, 1] = side * (low_moved - high_moved)
    second[:, 1, 1] = side**2 * (low_slope - high_slope)
    edges = np.stack([low_slope, -high_slope], 1)
    moved_edges = np.stack([-low_moved, high_moved], 1)
    second[:, 0, 2:] = np.einsum("ce,cek->ck", moved_edges, of_rater)
    second[:, 1, 2:] = side[:, None] * np.einsum("ce,cek->ck", -edges, of_rater)
    second[:, 2:, 2:] = np.einsum("ce,cek,cel->ckl", edges, of_rater, of_rater)
    first = np.einsum("ce,cek->ck", np.stack([-low, high], 1), of_rater)
    second[:, [2, 3], [2, 3]] += first
    second += np.triu(second, 1).transpose(0, 2, 1) * np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]])
    second = cells.sum_cells((weight[:, None, None] * second).reshape(-1, 16)).reshape(-1, 4, 4)
    return gradient, outer - second, gap_scores


def measure_alone(cells: Cells, tables: VoteTables, prior: np.ndarray) -> np.ndarray:
    """Return the log probability (raters,) of each rater's votes by themselves: of pairs on which nobody else votes."""
    weight = cells.weight[:, None]
    p = tables.p if (weight == 1).all() else tables.p**weight
    votes = np.diff(np.r_[cells.starts, len(cells.pair)])
    return cells.sum_cells(votes * np.log(np.maximum(p @ prior.astype(p.dtype), 1e-30)).astype(float))


def measure_shared(cells: Cells) -> np.ndarray:
    """Return the share (raters,) of each rater's votes that are on pairs on which somebody else votes, too."""
    on_pair = np.bincount(cells.pair)
    return cells.sum_votes((on_pair[cells.pair] > 1).astype(float)) / cells.sum_votes(np.ones(len(cells.pair)))
