"""A reward model as a witness: one more voice on each pair, worth what people's votes show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhf_hitl.stats.rater_population import RaterPopulation, compute_state_prior, list_witness_words, read_witness_odds


def join_witness(
    population: RaterPopulation, posterior: np.ndarray, witness: np.ndarray, is_judged: np.ndarray
) -> tuple[RaterPopulation, np.ndarray]:
    """Return the population that knows how much the witness counts, and the posterior (pairs, states) with its word.

    The witness multiplies a pair's prior by exp(a * preference * u + b * tie * h), where u and h are what the reference
    rater would say in each state (first less second, and tie), and preference and tie are the witness's log odds.
    People's votes measure a and b (penalised maximum likelihood): a witness who knows nothing counts nothing.

    Args:
        posterior: (pairs, states) of people's votes.
        witness: (pairs, 3); rows with NaN say nothing.
        is_judged: (pairs,) whether people voted on a pair; the others only receive.
    """
    odds = read_witness_odds(witness)
    has_word = np.asarray(np.isfinite(witness).all(axis=1))
    measured = is_judged & has_word
    usual = float(odds[measured, 1].mean()) if measured.any() else 0.0
    odds = np.where(has_word[:, None], odds - [0.0, usual], 0.0)
    words = list_witness_words(population)
    prior, strength = compute_state_prior(population), np.zeros(2)

    def weigh(states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return states (n, states) with the witness's word, and means and variances (n, 2) of what it says."""
        logs = (odds[measured] * strength) @ words
        weighted = states * np.exp(logs - logs.max(1, keepdims=True))
        weighted /= weighted.sum(1, keepdims=True)
        mean = weighted @ words.T
        return weighted, mean, weighted @ (words**2).T - mean**2

    for _ in range(20):
        if not measured.any():
            break
        _, believed, _ = weigh(posterior[measured])
        _, expected, variance = weigh(prior[None])
        slope = (odds[measured] * (believed - expected)).sum(0) - strength
        step = slope / ((odds[measured] ** 2 * variance).sum(0) + 1)
        strength = np.maximum(strength + step, 0)
        if np.abs(step).max() < 1e-4:
            break
    population = replace(population, witness=(float(strength[0]), float(strength[1]), usual))
    logs = (odds * strength) @ words
    posterior = posterior * np.exp(logs - logs.max(1, keepdims=True))
    return population, posterior / posterior.sum(1, keepdims=True)
