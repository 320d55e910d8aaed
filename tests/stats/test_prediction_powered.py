"""Prediction-powered means: by hand, against the formulas written out, and their coverage."""

import numpy as np
import pytest
from scipy import stats

from rlhf_hitl.stats.intervals import clustered_share_interval
from rlhf_hitl.stats.prediction_powered import estimate_powered_mean


def test_a_mean_is_the_one_worked_by_hand():
    # Labelled: people 1, 1, 0, 0 where the model says 1, .5, .5, 0; on the four others it says 1, 1, 1, .5.
    values = np.array([1, 1, 0, 0, *[np.nan] * 4])
    predictions = np.array([1, 0.5, 0.5, 0, 1, 1, 1, 0.5])
    found = estimate_powered_mean(values, predictions, np.arange(8))
    # Errors of the labels' mean: ±1/8; of the model's: -(.5, 0, 0, -.5)/4 and (.125, .125, .125, -.375)/4. The power
    # that leaves the least variance is (1/8 * 1/8 * 2) / (2/64 + .1875/16) = .03125 / .04296875 = 8/11.
    assert found.power == pytest.approx(8 / 11)
    assert found.plain == 0.5
    assert found.value == pytest.approx(0.5 + 8 / 11 * (0.875 - 0.5))
    assert (found.labels, found.examples, found.clusters) == (4, 8, 4)


def test_point_and_power_are_those_of_the_paper_where_examples_are_independent():
    rng = np.random.default_rng(1)
    people = (rng.random(4000) < 0.6).astype(float)
    model = np.clip(0.3 + 0.4 * people + rng.normal(0, 0.2, 4000), 0, 1)
    seen = np.arange(4000) < 400
    found = estimate_powered_mean(np.where(seen, people, np.nan), model, np.arange(4000))
    y, f, rest = people[seen], model[seen], model[~seen]
    power = np.cov(y, f)[0, 1] / ((1 + len(y) / len(rest)) * np.var(model))  # eq. 10 of PPI++
    assert found.power == pytest.approx(power, rel=0.03)
    assert found.value == pytest.approx(y.mean() + found.power * (rest.mean() - f.mean()))
    error = np.sqrt(found.power**2 * rest.var() / len(rest) + (y - found.power * f).var() / len(y))
    width = 2 * stats.norm.ppf(0.975) * error
    assert found.high - found.low == pytest.approx(width, rel=0.02)
    assert found.width_ratio < 0.8
    assert found.labels_worth > 600


@pytest.mark.parametrize("predictions", [np.full(60, 0.7), np.full(60, np.nan), np.full(60, np.inf)])
def test_a_model_that_says_nothing_changes_nothing(predictions):
    rng = np.random.default_rng(0)
    values = np.where(np.arange(60) < 30, rng.integers(0, 2, 60), np.nan)
    found = estimate_powered_mean(values, predictions, np.arange(60) // 2)
    assert (found.value, found.low, found.high) == (found.plain, found.plain_low, found.plain_high)
    assert found.power == 0
    expected = clustered_share_interval(values[:30], np.arange(30) // 2)
    assert (found.plain_low, found.plain_high) == pytest.approx(expected, abs=1e-9)


def test_some_predictions_may_be_missing():
    rng = np.random.default_rng(0)
    people = rng.integers(0, 2, 400).astype(float)
    model = np.where(rng.random(400) < 0.1, np.nan, people)
    found = estimate_powered_mean(np.where(np.arange(400) < 50, people, np.nan), model, np.arange(400))
    assert abs(found.value - people.mean()) < 0.08
    assert found.width_ratio < 0.7


def test_without_labels_there_is_no_mean_and_with_few_prompts_the_model_is_not_followed():
    assert estimate_powered_mean(np.full(3, np.nan), np.ones(3), np.arange(3)) is None
    found = estimate_powered_mean(np.array([1, 0, np.nan]), np.array([1, 0, 1.0]), np.array([0, 1, 2]))
    assert (found.power, found.value) == (0, 0.5)
    one = estimate_powered_mean(np.array([1, np.nan]), np.array([1.0, 0]), np.array([0, 1]))
    assert (one.low, one.high) == (0, 1)


def test_a_model_that_is_always_wrong_is_not_followed():
    rng = np.random.default_rng(0)
    people = rng.integers(0, 2, 200).astype(float)
    found = estimate_powered_mean(np.where(np.arange(200) < 60, people, np.nan), 1 - people, np.arange(200))
    assert (found.power, found.value) == (0, found.plain)


def test_examples_that_say_nothing_still_tell_how_the_draw_fell():
    # A tie has no value, but the model's word on it belongs to the drawn ones: their mean is over all of them.
    values = np.array([1, 1, 0, np.nan, np.nan, np.nan])
    predictions = np.array([0.9, 0.8, 0.2, 0.5, 0.9, 0.5])
    labelled = np.array([True, True, True, True, False, False])
    found = estimate_powered_mean(values, predictions, np.arange(6), labelled=labelled)
    assert found.labels == 3
    assert found.value == pytest.approx(2 / 3 + found.power * (0.7 - 0.6))


def test_each_draw_is_compared_with_its_own_pool():
    # The second model says .2 more of everything: without strata, its larger pool would look like a gain.
    rng = np.random.default_rng(0)
    people, draw = rng.integers(0, 2, 600).astype(float), np.repeat([0, 1], [100, 500])
    model = 0.4 * people + 0.2 * draw
    values = np.where(np.r_[np.arange(100) < 50, np.arange(500) < 50], people, np.nan)
    found = estimate_powered_mean(values, model, np.arange(600), strata=draw)
    pools = [people[(draw == k) & np.isnan(values)].mean() for k in (0, 1)]
    seen = [people[(draw == k) & ~np.isnan(values)].mean() for k in (0, 1)]
    shift = 0.4 * (np.mean(pools) - np.mean(seen))
    assert found.value == pytest.approx(found.plain + found.power * shift)


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_intervals_cover_the_truth_whatever_the_model(bias):
    rng = np.random.default_rng(3)
    held = []
    for _ in range(400):
        of_prompt = rng.beta(6, 2, 60)
        people = (rng.random((60, 5)) < of_prompt[:, None]).astype(float).ravel()
        model = np.where(rng.random(300) < 0.7, people, rng.random(300)) * (1 - bias)
        seen = rng.random(300) < 0.3
        found = estimate_powered_mean(np.where(seen, people, np.nan), model, np.repeat(np.arange(60), 5))
        held.append(found.low <= 0.75 <= found.high)
    assert 0.92 <= np.mean(held) <= 0.975
