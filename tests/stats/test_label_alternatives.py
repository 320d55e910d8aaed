"""Dawid and Skene's and Bradley and Terry's model against the libraries that have them, and by hand."""

import choix
import numpy as np
import pandas as pd
import pytest
from crowdkit.aggregation import DawidSkene

from rlhf_hitl.stats.bradley_terry import fit_bradley_terry
from rlhf_hitl.stats.dawid_skene import fit_dawid_skene


def draw_votes(seed: int, pairs: int = 200, raters: int = 12, per_pair: int = 4):
    rng = np.random.default_rng(seed)
    pair = np.repeat(np.arange(pairs), per_pair)
    rater = np.concatenate([rng.permutation(raters)[:per_pair] for _ in range(pairs)])
    truth, skill = rng.integers(0, 3, pairs), rng.uniform(0.4, 0.95, raters)
    said = np.where(rng.random(len(pair)) < skill[rater], truth[pair], rng.integers(0, 3, len(pair)))
    return pair, rater, said


@pytest.mark.parametrize("seed", [0, 1])
def test_dawid_skene_equals_crowd_kits(seed):
    pair, rater, said = draw_votes(seed)
    ours = fit_dawid_skene(pair, rater, said, 200, 12)
    theirs = DawidSkene(n_iter=100, tol=1e-5)
    p = theirs.fit_predict_proba(pd.DataFrame({"task": pair, "worker": rater, "label": said}))
    assert np.allclose(ours.p, p.sort_index()[[0, 1, 2]].to_numpy(), atol=1e-6)
    table = theirs.errors_.loc[3].sort_index()[[0, 1, 2]].to_numpy().T  # [true, said]
    assert np.allclose(ours.tables[3], table, atol=1e-6)


def test_dawid_skene_without_votes_and_with_one():
    empty = np.zeros(0, int)
    assert np.allclose(fit_dawid_skene(empty, empty, empty, 2, 1).p, 1 / 3)
    fit = fit_dawid_skene(np.array([0]), np.array([0]), np.array([2]), 2, 1)
    assert np.isfinite(fit.p).all()
    assert fit.p[0].argmax() == 2


def test_a_weight_counts_as_so_many_votes():
    pair, rater, said = draw_votes(2, pairs=40)
    twice = fit_dawid_skene(np.tile(pair, 2), np.tile(rater, 2), np.tile(said, 2), 40, 12)
    weighted = fit_dawid_skene(pair, rater, said, 40, 12, weight=np.full(len(pair), 2.0))
    assert np.allclose(twice.p, weighted.p, atol=1e-9)


def test_bradley_terry_without_ties_equals_choixs():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 8, 150), rng.integers(0, 8, 150)
    first, second = first[first != second], second[first != second]
    strengths = np.linspace(-1.5, 1.5, 8)
    won = rng.random(len(first)) < 1 / (1 + np.exp(strengths[second] - strengths[first]))
    fit = fit_bradley_terry(first, second, np.stack([won, 0 * won, ~won], 1), 8, precision=0.2)
    wins = [(a, b) if w else (b, a) for a, b, w in zip(first, second, won)]
    assert np.allclose(fit.strengths, choix.opt_pairwise(8, wins, alpha=0.1, tol=1e-10), atol=1e-4)
    assert fit.nu == 0


def test_bradley_terry_with_ties_by_hand():
    # Without a prior the fit repeats the shares: 3 : 2 : 1 has margin log 3 and nu = 2 / sqrt(3 * 1).
    fit = fit_bradley_terry(np.array([0]), np.array([1]), np.array([[3, 2, 1]]), 2, precision=1e-9)
    assert np.allclose(fit.predict(np.array([0]), np.array([1])), [[3 / 6, 2 / 6, 1 / 6]], atol=1e-4)
    assert fit.nu == pytest.approx(2 / np.sqrt(3), abs=1e-3)


def test_one_vote_makes_no_certainty_in_bradley_terry():
    fit = fit_bradley_terry(np.array([0]), np.array([1]), np.array([[1, 0, 0]]), 4)
    p = fit.predict(np.array([0, 2]), np.array([1, 3]))
    margin = np.log(p[0, 0] / p[0, 2])
    assert 0.5 * margin / 2 == pytest.approx(p[0, 2], abs=1e-5)  # the prior's pull on each equals the vote's
    assert p[0] == pytest.approx([0.739, 0, 0.261], abs=0.001)
    assert p[1] == pytest.approx([0.5, 0, 0.5])


def test_all_ties_and_no_votes_are_no_trouble_for_bradley_terry():
    fit = fit_bradley_terry(np.array([0]), np.array([1]), np.array([[0, 1000, 0]]), 2)
    assert fit.predict(np.array([0]), np.array([1]))[0, 1] > 0.99
    empty = np.zeros(0, int)
    assert np.allclose(fit_bradley_terry(empty, empty, np.zeros((0, 3)), 3).strengths, 0)
