"""The regression of votes: by hand, beside scikit-learn, and how often its intervals hold what is true."""

import numpy as np
import pytest
from scipy.special import expit, logit

from rlhf_hitl.stats.logistic import PRIOR_SD, fit_logistic


def test_one_column_is_a_share_with_its_clustered_error():
    """Of 4,000 votes in 1,000 clusters that each say one thing, 70 % are won: the error is that of 1,000 votes."""
    wins = np.repeat([1.0] * 700 + [0.0] * 300, 4)
    fit = fit_logistic(np.ones((4000, 1)), wins, np.repeat(np.arange(1000), 4))
    value, low, high = fit.estimate(np.ones(1))
    error = 1 / np.sqrt(1000 * 0.7 * 0.3)  # of a logit, by the delta method
    assert value == pytest.approx(logit(0.7), abs=1e-3)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.01)


def test_coefficients_are_those_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    wins = (rng.random(500) < expit(x @ [1.0, -0.5, 0.0])).astype(float)
    weights = rng.choice([0.5, 1.0], 500)
    theirs = LogisticRegression(C=PRIOR_SD**2, fit_intercept=False, tol=1e-10).fit(x, wins, sample_weight=weights)
    ours = fit_logistic(x, wins, np.arange(500), weights)
    assert ours.coefficients == pytest.approx(theirs.coef_[0], abs=1e-5)


def test_a_tie_is_half_a_win_and_swapping_the_answers_swaps_the_outcome():
    rng = np.random.default_rng(1)
    x, wins = rng.normal(size=(200, 2)), rng.choice([0.0, 0.5, 1.0], 200)
    clusters = rng.integers(0, 40, 200)
    one, swapped = fit_logistic(x, wins, clusters), fit_logistic(-x, 1 - wins, clusters)
    assert one.coefficients == pytest.approx(swapped.coefficients)
    assert one.robust == pytest.approx(swapped.robust)
    tied = fit_logistic(np.repeat(x, 2, 0), np.tile([0.0, 1.0], 200), np.arange(400))
    assert fit_logistic(x, np.full(200, 0.5), np.arange(200)).coefficients == pytest.approx(tied.coefficients, abs=1e-6)


def test_what_decides_every_vote_keeps_a_finite_effect_in_a_wide_interval():
    fit = fit_logistic(np.ones((20, 1)), np.ones(20), np.arange(20))
    value, low, high = fit.estimate(np.ones(1))
    assert expit(low) < 0.86, "three in four could still be true"
    assert 2 < value < high < 10


def test_one_cluster_and_no_vote_know_nothing():
    assert fit_logistic(np.ones((5, 1)), np.ones(5), np.zeros(5)).estimate(np.ones(1))[1:] == (-np.inf, np.inf)
    nothing = fit_logistic(np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    assert nothing.estimate(np.array([1.0, 0.0])) == (0.0, -np.inf, np.inf)


def test_columns_that_imply_each_other_are_told_apart_by_contrasts_only():
    """Three policies: each row is +1 for one and -1 for another. The prior makes their effects sum to 0."""
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 3, 3000), rng.integers(0, 3, 3000)
    x = np.eye(3)[first] - np.eye(3)[second]
    strength = np.array([1.0, 0.0, -1.0])
    fit = fit_logistic(x, (rng.random(3000) < expit(x @ strength)).astype(float), np.arange(3000))
    assert fit.coefficients.sum() == pytest.approx(0, abs=1e-6)
    _, low, high = fit.estimate(np.eye(3)[0] - 1 / 3)
    assert low < 1.0 < high
    assert high - low < 0.3


def test_intervals_hold_what_is_true_as_often_as_they_say():
    """Clusters of five votes share the differences of their answers and a taste of their own."""
    rng = np.random.default_rng(3)
    held = np.zeros(2)
    runs, clusters = 400, 150
    for _ in range(runs):
        x = np.repeat(rng.normal(size=(clusters, 2)), 5, 0)
        x[:, 1] = rng.choice([-1, 1], len(x))  # the side, drawn for each vote
        taste = np.repeat(np.where(rng.random(clusters) < 0.3, rng.choice([-1, 1], clusters), 0), 5)
        # With probability 0.3 a cluster's votes are all one way: a mixture of logits is close to, not quite, a logit.
        p = np.where(taste == 0, expit(x @ [0.4, 0.0]), (taste + 1) / 2)
        fit = fit_logistic(x, (rng.random(len(x)) < p).astype(float), np.repeat(np.arange(clusters), 5))
        _, low, high = fit.estimate(np.array([0.0, 1.0]))
        held[1] += low <= 0 <= high
        truth = 0.4 * 0.7  # what the share of clusters without a taste leaves, near even odds
        _, low, high = fit.estimate(np.array([1.0, 0.0]))
        held[0] += low <= truth <= high
    assert (held / runs > 0.92).all(), held / runs
