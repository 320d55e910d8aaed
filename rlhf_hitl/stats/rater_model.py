"""The rater model: from votes to what is true of each pair, and how far each rater can be trusted.

A vote has the likelihood of `vote_likelihood`. What is not known is shared out in three priors, whose shapes follow the
votes (empirical Bayes), each held by a weak prior of its own, so that one vote in all gives wide doubt:

- of pairs: a mixture of normals around 0, narrow (a tie is true) to wide, at three levels of noise, its weights as the
  votes have them (Stephens 2017, "False discovery rates: a new deal");
- of raters: reliability, position bias, log tie width and log strength scale are normal, so that new raters are like
  the typical one (reliability 1), and old ones what their votes say;
- a share of raters answers without looking: reliability 0.

Fitting alternates the posterior of every pair and a Newton step for every rater. A rater is measured against pairs'
posteriors without the rater's own vote (cavities; Liu, Peng & Ihler 2012, "Variational inference for crowdsourcing"),
and the step uses the observed information (Louis 1982). `rater_intervals` says how far the estimates can be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import expit

from rlhf_hitl.errors import BadInput
from rlhf_hitl.stats.rater_intervals import measure_hidden_variance, summarise_raters
from rlhf_hitl.stats.rater_measuring import (
    Cells,
    Raters,
    differentiate,
    group_votes,
    measure_alone,
    measure_shared,
    measure_votes,
)
from rlhf_hitl.stats.rater_population import (
    PAIR_COUNTS,
    RATER_COLUMNS,
    SPREADS,
    RaterPopulation,
    compute_known_logs,
    compute_reference_probabilities,
    compute_state_prior,
    list_pair_components,
    update_pair,
)
from rlhf_hitl.stats.vote_likelihood import (
    LOG_STRENGTH_SCALE,
    LOG_TIE_WIDTH,
    NOISES,
    POSITION_BIAS,
    RELIABILITY,
    VoteTables,
    compute_mixed_probabilities,
    compute_vote_tables,
)
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE, VOTE_OUTCOMES, VoteArrays
from rlhf_hitl.stats.witness import join_witness

# Beyond this a low reliability is that of somebody who does not look.
MOST_SPREADS = 2 * SPREADS
#: By how many raters the spreads are held to `rater_population.SPREADS`.
SPREAD_RATERS = 10.0
_RECENTRED = 8  # rounds in which the scale of differences follows the mean reliability; a start, no more
RANDOM_RATERS, OTHER_RATERS = 1.0, 19.0  # what the share of raters who answer at random is held to
#: What the means of raters' parameters are held to, around 0: very little.
MEAN_SPREADS = np.array([0.25, 0.5, 0.5, 1.0])

__all__ = ["RATER_COLUMNS", "RaterModelFit", "RaterPopulation", "VoteArrays", "fit_rater_model", "update_pair"]


@dataclass(frozen=True)
class RaterModelFit:
    """A fitted rater model. Bounds are those of 95 % intervals; reliability is relative to the typical rater.

    Attributes:
        population: the hyperparameters.
        reliability, position_bias, tie_width, strength_scale: (raters,) posterior medians. Reliability is that of a
            rater who may answer without looking, which is 0.
        random: (raters,) the probability that a rater answers without looking.
        looking_reliability, reliability_spread: (raters,) the reliability of a rater if they look, and its standard
            deviation, without what `rater_intervals` adds: what labels are made of.
        p: (pairs, 3) the label: the probability that the reference rater says first, tie, second, of people's votes.
        consensus: (pairs, 3) the same with the witness; equal to `p` without one.
        weight: (pairs,) the votes of a reference rater that would say as much.
    """

    population: RaterPopulation
    reliability: np.ndarray
    reliability_low: np.ndarray
    reliability_high: np.ndarray
    position_bias: np.ndarray
    position_bias_low: np.ndarray
    position_bias_high: np.ndarray
    tie_width: np.ndarray
    tie_width_low: np.ndarray
    tie_width_high: np.ndarray
    strength_scale: np.ndarray
    strength_scale_low: np.ndarray
    strength_scale_high: np.ndarray
    random: np.ndarray
    looking_reliability: np.ndarray
    reliability_spread: np.ndarray
    p: np.ndarray
    consensus: np.ndarray
    weight: np.ndarray
    rounds: int = 0

    @property
    def rows(self) -> np.ndarray:
        """What `update_pair` must know of raters, (raters, 6): RATER_COLUMNS."""
        return np.stack([getattr(self, column) for column in RATER_COLUMNS], 1)


def fit_rater_model(
    votes: VoteArrays,
    pairs: int,
    raters: int,
    *,
    known: np.ndarray | None = None,
    witness: np.ndarray | None = None,
    rounds: int = 20,
) -> RaterModelFit:
    """Fit the rater model.

    Args:
        votes: those of every pair.
        pairs, raters: how many there are, also without votes.
        known: (pairs,) the outcome in VOTE_OUTCOMES where it is known (gold, adjudication), else -1.
        witness: (pairs, 3) the probabilities of first, tie, second of a model that saw no vote on the pair; NaN where
            it has none. They enter `consensus` alone.
        rounds: the most that are made.
    """
    votes = _check_votes(votes, pairs, raters)
    cells, who = group_votes(votes, pairs)
    population = _begin_population(votes)
    known_logs = compute_known_logs(population, known, pairs)
    state = Raters(
        np.tile(population.typical, (len(who), 1)),
        np.tile(np.diag(np.square(population.spreads)), (len(who), 1, 1)),
        np.full(len(who), population.random_share),
    )
    made, shared = 0, measure_shared(cells)
    while made < rounds and len(who):
        made += 1
        tables = _tabulate(state, cells, population)
        mixed = _mix_with_random(state, cells, population)
        posterior = _compute_posterior(cells, mixed, population, known_logs)
        before, old = population, state
        state, population = _improve(cells, shared, tables, mixed, posterior, state, population, made <= _RECENTRED)
        if _has_settled(before, population, old, state):
            break
    mixed = _mix_with_random(state, cells, population, float)
    posterior = _compute_posterior(cells, mixed, population, compute_known_logs(population, known, pairs))
    hidden = measure_hidden_variance(
        cells, _tabulate(state, cells, population), mixed, posterior, state, population, MEAN_SPREADS, SPREAD_RATERS
    )
    population = replace(population, tie_shift=_find_tie_shift(cells, state, population, posterior))
    reference = compute_reference_probabilities(population)
    p = consensus = posterior @ reference
    if witness is not None:
        population, posterior = join_witness(population, posterior, np.asarray(witness, float), cells, mixed)
        consensus = posterior @ reference
    return RaterModelFit(
        population,
        **summarise_raters(state, hidden, who, raters, population),
        p=p,
        consensus=consensus,
        weight=_weigh_pairs(cells, state, population),
        rounds=made,
    )


def _check_votes(votes: VoteArrays, pairs: int, raters: int) -> VoteArrays:
    """Return the votes that weigh anything, as numbers. Raises BadInput where one cannot be what it should."""
    pair, rater, outcome, side, weight = (
        np.asarray(a) for a in (votes.pair, votes.rater, votes.outcome, votes.side, votes.weight)
    )
    limits = (
        ("pair", pair, 0, pairs - 1),
        ("rater", rater, 0, raters - 1),
        ("outcome", outcome, 0, len(VOTE_OUTCOMES) - 1),
        ("side", side, -1, 1),
        ("weight", weight, 0.0, 1e6),
    )
    for name, values, least, most in limits:
        if values.shape != pair.shape:
            raise BadInput(
                f"{len(values)} values of {name}", expected=f"{len(pair)}, one for each vote", fix="give all"
            )
        wrong = np.flatnonzero(~((values >= least) & (values <= most)))  # NaN is neither
        if len(wrong):
            raise BadInput(
                f"vote {wrong[0]}: {name} {values[wrong[0]]}",
                expected=f"{least} to {most}",
                fix="correct or drop the vote",
            )
    kept = weight > 0
    return VoteArrays(
        pair[kept].astype(np.int64),
        rater[kept].astype(np.int64),
        outcome[kept].astype(np.int64),
        side[kept].astype(np.int64),
        weight[kept].astype(float),
    )


def _begin_population(votes: VoteArrays) -> RaterPopulation:
    """Return where fitting begins: a tie width that suits the share of ties."""
    total = votes.weight.sum()
    ties = (votes.weight[votes.outcome == TIE].sum() + 0.5) / (total + 2.0)
    return RaterPopulation(tie_width=float(np.clip(1.8 * ties / (1 - ties), 0.05, 4.0)))


def _tabulate(state: Raters, cells: Cells, population: RaterPopulation) -> VoteTables:
    """Return the tables (cells, states) of votes whose rater looks, and is as the mode says."""
    mode = state.mode.astype(np.float32)
    return compute_vote_tables(mode[cells.rater], cells.outcome, cells.side, np.array(population.gaps))


def _mix_with_random(
    state: Raters, cells: Cells, population: RaterPopulation, precision: type = np.float32
) -> np.ndarray:
    """Return the probability (cells, states) of votes whose rater's reliability is known by its posterior only.

    Args:
        precision: single does for a round of fitting, in half the time; what is kept is computed in double.
    """
    spreads = np.sqrt(np.maximum(state.covariance[:, RELIABILITY, RELIABILITY], 0))
    of_cell = cells.rater
    return compute_mixed_probabilities(
        state.mode.astype(precision)[of_cell],
        spreads[of_cell],
        state.random[of_cell],
        cells.outcome,
        cells.side,
        np.array(population.gaps),
    )


def _compute_posterior(
    cells: Cells, mixed: np.ndarray, population: RaterPopulation, known_logs: np.ndarray | float
) -> np.ndarray:
    """Return the posterior (pairs, states) of every pair."""
    logs = cells.by_pair @ (cells.weight.astype(mixed.dtype)[:, None] * np.log(mixed)) + known_logs
    logs += np.log(np.maximum(compute_state_prior(population), 1e-300))
    logs -= logs.max(1, keepdims=True)
    np.exp(logs, out=logs)
    logs /= logs.sum(1, keepdims=True)
    return logs


def _improve(
    cells: Cells,
    shared: np.ndarray,
    tables: VoteTables,
    mixed: np.ndarray,
    posterior: np.ndarray,
    state: Raters,
    population: RaterPopulation,
    recentre: bool,
) -> tuple[Raters, RaterPopulation]:
    """Return raters and population after one round."""
    measured = measure_votes(cells, tables, mixed, posterior)
    gradient, information, gap_slopes = differentiate(cells, measured, state, population)
    # Reliability is measured against others' votes: one's own fit a rater who has the sides confused as well.
    gradient[:, RELIABILITY] *= shared
    information[:, RELIABILITY] *= shared[:, None]
    information[:, :, RELIABILITY] *= shared[:, None]
    centre, spreads = population.typical, np.array(population.spreads)
    # In units of the prior (mode = centre + spreads * unit) the prior's information is the identity.
    unit = (state.mode - centre) / spreads
    slope = gradient * spreads - unit
    curvature = information * np.outer(spreads, spreads) + np.eye(4)
    values, vectors = np.linalg.eigh(curvature)
    values = np.maximum(values, 0.7)  # away from the mode the likelihood may curve upwards
    inverse = np.einsum("rik,rk,rjk->rij", vectors, 1 / values, vectors)
    step = np.einsum("rij,rj->ri", inverse, slope)
    step /= np.maximum(1, np.linalg.norm(step, axis=1, keepdims=True) / 2)
    # Who looks says what others' votes foretell. By how much the votes are likelier with these than without tells
    # looking from answering at random, whatever a rater's habits are; where nobody else votes, nothing does.
    told = measured.evidence - measure_alone(cells, tables, compute_state_prior(population))
    told += shared * 0.5 * (np.log(inverse[:, RELIABILITY, RELIABILITY]) - unit[:, RELIABILITY] ** 2)
    odds = np.log(population.random_share / (1 - population.random_share))
    random = expit(odds - np.clip(told, -30, 30))
    mode = np.clip(centre + spreads * (unit + step), -6, 6)
    covariance = inverse * np.outer(spreads, spreads)
    after = Raters(mode, covariance, random)
    return _update_population(after, population, posterior, gap_slopes, recentre)


def _update_population(
    state: Raters, population: RaterPopulation, posterior: np.ndarray, gap_slopes: np.ndarray, recentre: bool
) -> tuple[Raters, RaterPopulation]:
    """Return the hyperparameters that suit the posteriors, and raters relative to the new middle."""
    spreads, centre = np.array(population.spreads), population.typical
    attentive = (1 - state.random)[:, None]
    variance = np.diagonal(state.covariance, axis1=1, axis2=2)
    # The mean of a normal whose members are measured with known errors; its likelihood is the posterior less the prior.
    # A rater's votes may say less than nothing (curve upwards); over all raters that averages out.
    precision = 1 / variance - 1 / spreads**2
    share = attentive / (1 + spreads**2 * precision)
    held_to = np.array([1 + np.log(1.5 / population.difference_scale), 0.0, 0.0, 0.0])
    known_by = np.maximum((share * precision).sum(0), 0)
    found = (share * (state.mode - centre) / variance).sum(0)
    mean = (known_by * centre + found + held_to / MEAN_SPREADS**2) / (known_by + 1 / MEAN_SPREADS**2)
    freedom = np.clip(attentive * (1 - variance / spreads**2), 0, 1).sum(0)  # MacKay's well-determined parameters
    squares = (attentive * (state.mode - mean) ** 2).sum(0)
    spreads = np.sqrt((squares + SPREAD_RATERS * SPREADS**2) / (freedom + SPREAD_RATERS))

    gaps = np.array(population.gaps)
    step = (gap_slopes.sum(0) - np.log(gaps)) / ((gap_slopes**2).sum(0) + 1)
    gaps = gaps * np.exp(np.clip(step, -0.3, 0.3) + mean[LOG_STRENGTH_SCALE])
    # The middle of reliability and of strength scale is 1: what all have in common is the pairs', and the gaps'.
    scale = (
        float(np.clip(population.difference_scale * max(0.5, mean[RELIABILITY]), 0.05, 4.0))
        if recentre
        else population.difference_scale
    )
    mode = state.mode.copy()
    mode[:, RELIABILITY] *= population.difference_scale / scale
    mode[:, LOG_STRENGTH_SCALE] -= mean[LOG_STRENGTH_SCALE]
    random_share = (state.random.sum() + RANDOM_RATERS) / (len(mode) + RANDOM_RATERS + OTHER_RATERS)
    return Raters(mode, state.covariance, state.random), RaterPopulation(
        tie_width=float(np.exp(np.clip(mean[LOG_TIE_WIDTH], -4, 4))),
        position_bias=float(mean[POSITION_BIAS]),
        gaps=(float(np.clip(gaps[0], 0.02, 20)), float(np.clip(gaps[1], 0.02, 20))),
        spreads=tuple(np.clip(spreads, 0.03, MOST_SPREADS).tolist()),
        random_share=float(random_share),
        difference_scale=scale,
        pair_weights=_fit_pair_weights(posterior, population),
    )


def _fit_pair_weights(posterior: np.ndarray, population: RaterPopulation) -> tuple[float, ...]:
    """Return the weights of the normals of pairs' differences that suit the posteriors of pairs.

    Noise has no unit of its own: there are as many clear pairs as hard ones, and what is beyond that is in the cuts.
    """
    components = list_pair_components(population.difference_scale)
    weights = np.array(population.pair_weights)
    states = posterior.sum(0).reshape(len(NOISES), -1)
    states = (0.5 * (states + states[:, ::-1])).ravel()  # which completion is the first is chance
    for _ in range(5):
        weights = weights * (components @ (states / np.maximum(weights @ components, 1e-300))) + PAIR_COUNTS
        weights /= weights.sum()
    weights = weights.reshape(len(NOISES), -1)
    # But ties that are clear may be as many as they are: nearly all raters say the same of them.
    unclear = weights[:, 1:]
    of_noise = unclear.sum(1)
    balanced = 0.5 * (of_noise + of_noise[::-1])
    unclear *= (balanced / of_noise)[:, None]
    return tuple(weights.ravel().tolist())


def _has_settled(before: RaterPopulation, after: RaterPopulation, old: Raters, state: Raters) -> bool:
    """Return whether a round changed next to nothing."""
    hyper = [
        np.r_[p.tie_width, np.exp(p.position_bias), p.gaps, p.spreads, p.difference_scale, 1 + np.array(p.pair_weights)]
        for p in (before, after)
    ]
    moved = np.abs(np.log(hyper[1] / hyper[0])).max()
    steps = (state.mode - old.mode) / np.array(after.spreads)
    return bool(moved < 0.01 and np.sqrt((steps**2).mean()) < 0.02 and np.abs(state.random - old.random).max() < 0.05)


def _find_tie_shift(cells: Cells, state: Raters, population: RaterPopulation, posterior: np.ndarray) -> float:
    """Return `RaterPopulation.tie_shift`: with it the reference rater says tie on as many of the pairs that were voted
    on as those did who look."""
    weight = cells.weight * (1 - state.random)[cells.rater]
    votes = weight * cells.by_pair.sum(0)
    if not votes.sum():
        return 0.0
    states = (cells.by_pair @ weight) @ posterior / votes.sum()
    share = votes[cells.outcome == TIE].sum() / votes.sum()

    def exceed(shift: float) -> float:
        return float(states @ compute_reference_probabilities(replace(population, tie_shift=shift))[:, 1] - share)

    if not exceed(-3) < 0 < exceed(3):
        return 0.0  # as where all votes are ties
    return float(root_scalar(exceed, bracket=(-3, 3)).root)


def _weigh_pairs(cells: Cells, state: Raters, population: RaterPopulation) -> np.ndarray:
    """Return the weight (pairs,) of each pair's votes, in votes of the reference rater: by how much they tell of d
    (Fisher's information, over the pairs as they are before any vote)."""
    prior = compute_state_prior(population)

    def measure(raters: np.ndarray) -> np.ndarray:
        total, n = np.zeros(len(raters)), len(raters)
        for outcome in (FIRST_UNGRADED, TIE, SECOND_UNGRADED):
            t = compute_vote_tables(raters, np.full(n, outcome), np.zeros(n), np.array(population.gaps))
            slope = raters[:, RELIABILITY, None] * (t.low - t.high)
            total += (t.p * slope**2) @ prior
        return total

    worth = (1 - state.random) ** 2 * measure(state.mode) / measure(population.reference[None])
    return np.asarray(cells.by_pair @ (cells.weight * worth[cells.rater]))
