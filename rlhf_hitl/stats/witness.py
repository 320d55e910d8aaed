"""A reward model as a witness: one more voice on each pair, worth what people's votes show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhf_hitl.stats.rater_measuring import Cells
from rlhf_hitl.stats.rater_population import RaterPopulation, compute_state_prior, list_witness_words, read_witness_odds

#: How much a witness counts beside a vote, of what single votes say that it counts: what raters and a model both go by
#: (length, tone) is counted twice otherwise. Where pairs have several votes, these measure it.
BESIDE_VOTES = 0.5


def join_witness(
    population: RaterPopulation, posterior: np.ndarray, witness: np.ndarray, cells: Cells, mixed: np.ndarray
) -> tuple[RaterPopulation, np.ndarray]:
    """Return the population that knows how much the witness counts, and the posterior (pairs, states) with its word.

    The witness multiplies a pair's prior by exp(a * preference * u + b * tie * h), where u and h are what the reference
    rater would say in each state (first less second, and tie), and preference and tie are the witness's log odds.
    People's votes measure a and b, by how much better its word foretells each vote when the others on the pair are
    known already (composite likelihood: Varin, Reid & Firth 2011): a witness who adds nothing to votes counts nothing.

    Args:
        posterior: (pairs, states) of people's votes.
        witness: (pairs, 3); rows with NaN say nothing.
        mixed: (cells, states) the probabilities of votes.
    """
    odds = read_witness_odds(witness)
    has_word = np.asarray(np.isfinite(witness).all(axis=1))
    votes_on = np.bincount(cells.pair, minlength=len(posterior))
    judged = has_word & (votes_on > 0)
    usual = float(odds[judged, 1].mean()) if judged.any() else 0.0
    odds = np.where(has_word[:, None], odds - [0.0, usual], 0.0)
    words = list_witness_words(population)
    prior = compute_state_prior(population)[None]
    alone = _measure(odds[judged], posterior[judged], prior, words, np.zeros(2), np.ones(2))
    vote = has_word[cells.pair] & (votes_on[cells.pair] > 1)
    cell, pair = cells.cell[vote], cells.pair[vote]
    others = posterior[pair] / mixed[cell] ** cells.weight[cell, None]
    others /= others.sum(1, keepdims=True)
    begin = BESIDE_VOTES * alone
    strength = _measure(odds[pair], posterior[pair], others, words, begin, 1 / np.maximum(begin, 0.1) ** 2)
    logs = (odds * strength) @ words
    posterior = posterior * np.exp(logs - logs.max(1, keepdims=True))
    population = replace(population, witness=(float(strength[0]), float(strength[1]), usual))
    return population, posterior / posterior.sum(1, keepdims=True)


def _measure(
    odds: np.ndarray,
    after: np.ndarray,
    before: np.ndarray,
    words: np.ndarray,
    begin: np.ndarray,
    held: np.ndarray,
) -> np.ndarray:
    """Return the strengths (2,), not below 0, with which the witness best foretells votes (Newton's method).

    Args:
        odds: (n, 2) what the witness says.
        after, before: (n, states) what is believed with a vote and without it.
        words: (2, states).
        begin, held: (2,) the mean and the precision of the normal prior of strengths.
    """
    strength = begin
    for _ in range(20 if len(odds) else 0):
        logs = (odds * strength) @ words
        factor = np.exp(logs - logs.max(1, keepdims=True))
        believed, _ = _describe_words(after * factor, words)
        expected, variance = _describe_words(before * factor, words)
        slope = (odds * (believed - expected)).sum(0) - held * (strength - begin)
        step = slope / ((odds**2 * variance).sum(0) + held)
        strength = np.maximum(strength + step, 0)
        if np.abs(step).max() < 1e-4:
            break
    return strength


def _describe_words(states: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances (n, 2) of what the reference rater would say, given weights (n, states) of states."""
    states = states / states.sum(1, keepdims=True)
    mean = states @ words.T
    return mean, states @ (words**2).T - mean**2
