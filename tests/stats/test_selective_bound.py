"""The sets whose error is shown to be below a bound, by hand and in general, and what more labels would do."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlhf_hitl.routing.threshold import choose_threshold
from rlhf_hitl.stats.selective_bound import (
    bound_error,
    count_allowed_errors,
    count_clusters_needed,
    count_first_labels,
    forecast_share,
    list_sizes,
    respect_ties,
)


def choose(confidence, wrong, prompts=None, max_error=0.2, delta=0.1, **more):
    prompts = np.arange(len(wrong)) if prompts is None else prompts
    return choose_threshold(
        np.array(confidence, float), np.array(wrong, float), prompts, max_error=max_error, delta=delta, **more
    )


def test_allowed_errors_by_hand():
    # 0.8^10 = 0.107 and 0.8^11 = 0.086; 0.8^18 + 18 * 0.2 * 0.8^17 = 0.0991; of 50 labels P(5 or fewer) = 0.048.
    assert count_allowed_errors([10, 11, 17, 18, 50], 0.2, 0.1).tolist() == [-1, 0, 0, 1, 5]
    assert count_clusters_needed(0.2, 0.1) == 11


def test_the_first_set_is_passed_by_a_model_with_half_the_error():
    n = count_first_labels(0.2, 0.1)
    assert stats.binom.cdf(count_allowed_errors([n], 0.2, 0.1)[0], n, 0.1) >= 0.75
    sizes = list_sizes(np.arange(100_000), 0.2, 0.1)
    assert sizes[0] == n
    assert 20 < len(sizes) < 110
    assert list_sizes(np.arange(10), 0.2, 0.1) == list_sizes(np.zeros(500), 0.2, 0.1) == []


def test_one_label_of_each_prompt_is_bounded_exactly():
    wrong = np.r_[np.ones(5), np.zeros(45)]
    bound = bound_error(wrong, np.arange(50), 0.1)
    assert stats.binom.cdf(5, 50, bound) == pytest.approx(0.1)
    assert bound_error(wrong, np.arange(50) // 2, 0.1) > bound


def test_a_size_ends_where_its_confidence_ends():
    confidence = np.array([0.9] * 3 + [0.8] * 60 + [0.7] * 10)
    assert respect_ties(confidence, [2, 30, 40, 70]) == [3, 63, 73]
    assert respect_ties(np.array([0.9] * 30 + [0.8] * 30), [29, 45, 60]) == [30, 60]


labelled = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(st.just(seed), st.integers(1, 300), st.floats(0, 1), st.sampled_from([1, 2, 5, 1000]))
)


@settings(max_examples=40, deadline=None)
@given(labelled, st.floats(0.02, 0.4), st.floats(0.02, 0.4))
def test_what_is_shown_is_true_of_the_labels_and_grows_with_the_allowed_error(drawn, one, other):
    seed, n, accuracy, steps = drawn
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.uniform(0.5, 1, n) * steps) / steps if steps < 1000 else rng.uniform(0.5, 1, n)
    wrong = (rng.random(n) > accuracy).astype(float)
    sizes = list_sizes(np.arange(n), max(one, other), 0.1)
    assert sizes == sorted(set(sizes))
    found = [choose(confidence, wrong, max_error=a) for a in sorted((one, other))]
    for threshold in found:
        accepted = confidence >= threshold.value
        assert (threshold.accepted, threshold.errors) == (accepted.sum(), wrong[accepted].sum())
        assert threshold.accepts_nothing or threshold.bound <= threshold.max_error
    # An order does not matter, nor does a confidence's scale.
    shuffled = rng.permutation(n)
    again = choose(confidence[shuffled] ** 3, wrong[shuffled], max_error=max(one, other))
    assert again.accepted == found[1].accepted


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.4))
def test_a_larger_allowed_error_never_accepts_less_where_errors_grow_with_doubt(seed, low):
    confidence = np.linspace(1, 0.5, 300)
    first_wrong = np.random.default_rng(seed).integers(0, 300)
    wrong = (np.arange(300) >= first_wrong).astype(float)
    one, other = (choose(confidence, wrong, max_error=a) for a in (low, low + 0.1))
    assert other.accepted >= one.accepted


@pytest.mark.parametrize("labels", [0, 1])
def test_hardly_any_label_shows_nothing_and_says_how_many_do(labels):
    found = choose(np.full(labels, 0.9), np.zeros(labels), forecasts=True)
    assert found.accepts_nothing
    assert "11 prompts are the fewest" in found.reason
    assert found.advice == ""


def test_a_model_that_is_always_wrong_accepts_nothing_and_no_number_of_labels_would_do():
    rng = np.random.default_rng(0)
    found = choose(rng.uniform(0.5, 1, 250), np.ones(250), forecasts=True)
    assert found.accepts_nothing
    assert "no confidence keeps the error below 20.0%" in found.reason
    assert "not even" in found.advice


def test_a_model_that_is_unsure_of_everything_is_accepted_whole_or_not_at_all():
    good = choose(np.full(250, 0.7), np.arange(250) % 10 == 0)
    assert (good.value, good.accepted) == (0.7, 250)
    bad = choose(np.full(250, 0.7), np.arange(250) % 4 == 0)
    assert bad.accepts_nothing


def test_what_has_no_confidence_tests_nothing():
    confidence = np.r_[np.full(50, 0.9), np.full(50, np.nan)]
    found = choose(confidence, np.r_[np.zeros(50), np.ones(50)], forecasts=True)
    assert (found.value, found.calibration, found.accepted) == (0.9, 50, 50)
    assert choose(np.full(50, np.nan), np.zeros(50), forecasts=True).accepts_nothing


def test_a_forecast_comes_true_on_average():
    """Judges of accuracy 0.8, and what 250 and 1,000 labels of theirs show, by the forecast of 250 and in truth."""
    rng = np.random.default_rng(1)

    def draw(n):
        confidence = 1 / (1 + np.exp(-2 * np.abs(rng.normal(size=n))))
        return confidence, (rng.random(n) > confidence).astype(float)

    foretold, true = [], []
    for _ in range(8):
        forecasts = forecast_share(*draw(250), np.arange(250), max_error=0.15, delta=0.1)
        assert [f.labels for f in forecasts[:3]] == [250, 500, 1000]
        foretold.append([forecasts[i].share for i in (0, 2)])
        assert all(0 <= f.low <= f.high <= 1 for f in forecasts)
    for _ in range(40):
        shares = [(t := choose(*draw(n), max_error=0.15)).accepted / t.calibration for n in (250, 1000)]
        true.append(shares)
    assert np.mean(foretold, 0) == pytest.approx(np.mean(true, 0), abs=0.12)


def test_advice_names_labels_and_shares():
    confidence = np.linspace(1, 0.5, 250)
    rng = np.random.default_rng(0)
    found = choose(confidence, rng.random(250) > confidence, forecasts=True)
    assert not found.accepts_nothing
    assert "with 500 labels (250 more)" in found.advice
    few = choose(confidence[:20], np.r_[np.zeros(18), 1, 1], max_error=0.1, forecasts=True)
    assert few.accepts_nothing
    assert "would do" in few.advice
    assert math.isinf(few.value)
