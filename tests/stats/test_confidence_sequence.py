"""Bounds and alarms that hold whenever somebody looks, worked out by hand and simulated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from rlhf_hitl.stats.confidence_sequence import RAISES, compute_error_bounds, compute_log_evidence

RUNS, DELTA = 500, 0.1
ALARM = math.log(1 / DELTA)


def test_the_evidence_of_one_and_two_observations_by_hand():
    # The stake of the first beginning: one half, and half of 1 - 1/ln(1 + e). What has not begun keeps its worth.
    first = 0.5 + 0.5 * (1 - 1 / math.log(1 + math.e))
    second = 0.5 * (1 / math.log(1 + math.e) - 1 / math.log(2 + math.e))
    wins = (0.1 + RAISES * 0.9) / 0.1
    losses = 1 - RAISES
    [one] = np.exp(compute_log_evidence(np.array([1]), 0.1))
    assert one == pytest.approx(first * wins.mean() + 1 - first)
    one, two = np.exp(compute_log_evidence(np.array([1, 0]), 0.1))
    bets = ((first * wins + second) * losses).mean()
    assert two == pytest.approx(bets + 1 - first - second)


def test_bounds_may_differ_between_observations_and_runs_are_taken_together():
    wrong, bounds = np.array([[1, 0, 1], [0, 0, 1]]), np.array([0.1, 0.2, 0.05])
    together = compute_log_evidence(wrong, bounds)
    assert together.shape == (2, 3)
    for row, alone in zip(together, wrong):
        assert row == pytest.approx(compute_log_evidence(alone, bounds))
    assert compute_log_evidence(np.array([]), 0.1).shape == (0,)


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_false_alarms_are_at_most_delta_however_often_one_looks(rate):
    rng = np.random.default_rng(1)
    wrong = rng.random((RUNS, 1_000)) < rate
    alarms = (compute_log_evidence(wrong, 0.1) >= ALARM).any(axis=1).mean()
    assert alarms <= DELTA + 2 * math.sqrt(DELTA * (1 - DELTA) / RUNS)
    if rate < 0.1:
        assert alarms == 0


def test_errors_that_lean_on_what_went_before_give_no_more_false_alarms():
    # The chance of an error is at its bound after an error and nothing after a success streak: never above the bound.
    rng = np.random.default_rng(2)
    wrong = np.zeros((RUNS, 600), bool)
    streak = np.zeros(RUNS, int)
    for t in range(wrong.shape[1]):
        wrong[:, t] = rng.random(RUNS) < np.where(streak < 25, 0.1, 0.0)
        streak = np.where(wrong[:, t], 0, streak + 1) % 40
    assert (compute_log_evidence(wrong, 0.1) >= ALARM).any(axis=1).mean() <= DELTA


def test_ten_good_days_do_not_hide_a_bad_one():
    rng = np.random.default_rng(3)
    good, bad = rng.random((RUNS, 500)) < 0.01, rng.random((RUNS, 90)) < 0.4
    evidence = compute_log_evidence(np.hstack([good, bad]), 0.1)
    assert not (evidence[:, :500] >= ALARM).any()
    assert (evidence >= ALARM).any(axis=1).mean() > 0.95
    from_the_start = np.array([compute_error_bounds(int(row.sum()), row.size, DELTA)[0] for row in bad[:20]])
    assert (from_the_start > 0.1).all(), "without the good days the bound alone would have said so"


def test_the_ends_are_where_the_mixture_reaches_one_over_delta():
    errors, n, delta = 7, 50, 0.05
    lower, upper = compute_error_bounds(errors, n, delta)
    assert 0 < lower < errors / n < upper < 1

    def mix(m, low, high):
        def likelihood_ratio(p):
            return (p / m) ** errors * ((1 - p) / (1 - m)) ** (n - errors) * beta.pdf(p, 0.5, 0.5)

        return quad(likelihood_ratio, low, high)[0] / (beta.cdf(high, 0.5, 0.5) - beta.cdf(low, 0.5, 0.5))

    assert mix(lower, lower, 1) == pytest.approx(1 / delta, rel=1e-4)
    assert mix(upper, 0, upper) == pytest.approx(1 / delta, rel=1e-4)


def test_nothing_seen_says_nothing_and_only_right_ones_leave_the_lower_end_at_zero():
    assert compute_error_bounds(0, 0, 0.05) == (0.0, 1.0)
    lower, upper = compute_error_bounds(0, 100, 0.05)
    assert lower == 0
    assert 1 - 0.05 ** (1 / 100) < upper < 0.04, "a little above the bound of a single look"
    lower, upper = compute_error_bounds(5, 5, 0.05)
    assert 0 < lower < 1
    assert upper == 1


def test_the_bounds_hold_at_all_times_together():
    rng, looks = np.random.default_rng(4), (1, 2, 5, 10, 20, 40, 80, 160, 320, 640)
    counts = np.cumsum(rng.random((RUNS, looks[-1])) < 0.08, axis=1)
    missed_below = missed_above = 0
    for run in counts.tolist():
        bounds = [compute_error_bounds(run[n - 1], n, DELTA) for n in looks]
        missed_below += any(lower > 0.08 for lower, _ in bounds)
        missed_above += any(upper < 0.08 for _, upper in bounds)
    assert missed_below / RUNS <= DELTA
    assert missed_above / RUNS <= DELTA
