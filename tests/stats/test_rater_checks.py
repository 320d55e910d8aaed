"""Each check of raters keeps its rate of false alarm however often it is looked at, and finds what it looks for."""

import math

import numpy as np
import pytest

from rlhf_hitl.stats.rater_checks import (
    count_cycles,
    find_sessions,
    weigh_below_mark,
    weigh_drift,
    weigh_rates,
    weigh_speed,
)


def test_the_evidence_against_a_mark_is_a_likelihood_ratio():
    # Two wrong answers at a mark of one half: the mean of (1 - p)^2 over p in (0, 1/2) is 7/12, against 1/4.
    [log_evidence] = weigh_below_mark(np.array([0]), np.array([2]), 0.5)
    assert math.exp(log_evidence) == pytest.approx(7 / 3)
    assert weigh_below_mark(np.array([0]), np.array([0]), 0.7) == pytest.approx(0)


@pytest.mark.parametrize("share", [0.7, 0.8])
def test_gold_accuses_few_of_those_at_the_mark_though_it_looks_after_every_answer(share):
    answers = np.random.default_rng(1).random((2000, 100)) < share
    right, answered = answers.cumsum(axis=1), np.tile(np.arange(1, 101), (2000, 1))
    highest = weigh_below_mark(right.ravel(), answered.ravel(), 0.7).reshape(2000, 100).max(axis=1)
    assert (highest > math.log(1 / 0.02)).mean() <= 0.02
    [guesser] = weigh_below_mark(np.array([8]), np.array([24]), 0.7)
    assert guesser > math.log(1 / 0.02)


def test_raters_whose_rates_are_drawn_from_the_population_are_rarely_accused():
    random = np.random.default_rng(2)
    rates = random.beta(1.2, 10.8, 600)
    rates[:60] = random.uniform(0.3, 1, 60)
    hits = (random.random((600, 40)) < rates[:, None]).cumsum(axis=1)
    looks = [weigh_rates(hits[:, n - 1], np.full(600, n), usual=0.1, suspect=(2 / 9, 1.0)) for n in range(1, 41, 3)]
    highest = np.max(looks, axis=0)
    alarm = math.log(1 / 0.01)
    assert (highest[60:] > alarm).mean() <= 0.015
    assert (highest[:60] > alarm).mean() > 0.5


def test_one_rater_alone_is_measured_by_what_is_usual():
    few, many = (weigh_rates(np.array([hits]), np.array([12]), usual=0.1, suspect=(2 / 9, 1.0))[0] for hits in (1, 12))
    assert few < 0 < math.log(10) < many  # not by themselves


def make_times(random, raters, judgments, fast):
    """Return rater, log seconds and log length, of raters of whom the first `fast` take a tenth of the time."""
    rater = np.repeat(np.arange(raters), judgments)
    log_length = random.normal(6, 0.6, len(rater))
    speed = random.normal(0, 0.4, raters) - np.where(np.arange(raters) < fast, math.log(10), 0)
    return rater, 0.6 * log_length + speed[rater] + random.normal(0, 0.6, len(rater)), log_length


def test_raters_who_cannot_have_read_are_found_and_honest_ones_are_not():
    caught = accused = 0
    for seed in range(5):
        rater, log_seconds, log_length = make_times(np.random.default_rng(seed), 200, 40, 60)
        highest = np.full(200, -np.inf)
        for n in range(5, 41, 5):
            seen = np.arange(len(rater)) % 40 < n
            fit = weigh_speed(rater[seen], log_seconds[seen], log_length[seen], 200, 0.01)
            highest = np.maximum(highest, fit.log_evidence)
        assert fit.slope == pytest.approx(0.6, abs=0.15)
        alarms = highest > math.log(1 / 0.01)
        caught, accused = caught + alarms[:60].sum(), accused + alarms[60:].sum()
    assert accused / 700 <= 0.01
    assert caught / 300 > 0.85


def test_of_four_raters_nobody_knows_what_is_fast():
    rater, log_seconds, log_length = make_times(np.random.default_rng(0), 4, 40, 1)
    assert not weigh_speed(rater, log_seconds, log_length, 4, 0.01).log_evidence.any()


def test_a_long_pause_begins_a_session():
    rater = np.array([1, 0, 1, 0, 1])
    seconds = np.array([0, 10, 1799, 1900, 5000])
    session = find_sessions(rater, seconds)
    assert session[0] == session[2] != session[4]
    assert session[1] != session[3]  # 1,890 seconds apart


def test_drift_is_rarely_seen_where_there_is_none_and_found_where_there_is():
    random = np.random.default_rng(3)
    sessions, length = 12, 20
    session = np.repeat(np.arange(300 * sessions), length)
    rater = session // sessions
    values = random.exponential(size=len(session))
    values[rater < 60] -= 0.08 * (np.arange(len(session)) % length)[rater < 60]
    by_session = np.array(
        [
            weigh_drift(values[part], session[part], np.zeros(length, int), 1)[0]
            for part in np.split(np.arange(len(session)), len(session) // length)
        ]
    ).reshape(300, sessions)
    highest = by_session.cumsum(axis=1).max(axis=1)
    assert (highest[60:] > math.log(1 / 0.01)).mean() <= 0.01
    assert (highest[:60] > math.log(1 / 0.01)).mean() > 0.9
    assert weigh_drift(values, session, rater, 300) == pytest.approx(by_session.sum(axis=1))


def test_cycles_are_counted_over_triads_of_different_comparisons_and_each_preference_once():
    cycle = [("x", "a", "b"), ("y", "b", "c"), ("z", "c", "a")]
    assert count_cycles(cycle) == (1, 1)
    assert count_cycles([("x", "a", "b"), ("y", "b", "c"), ("z", "a", "c")]) == (0, 1)
    assert count_cycles([("x", "a", "b"), ("x", "b", "c"), ("z", "a", "c")]) == (0, 0)  # x is one ranking
    assert count_cycles([*cycle, ("w", "a", "d")]) == (1, 1)  # a-b and the others are used up
    assert count_cycles(cycle[:2]) == (0, 0)


def test_a_quarter_of_the_triads_of_coin_flips_are_cycles():
    random = np.random.default_rng(4)
    pairs = [(a, b) for a in "abcdefg" for b in "abcdefg" if a < b]
    cycles = triads = 0
    for _ in range(400):
        flipped = [pair if random.random() < 0.5 else pair[::-1] for pair in random.permutation(pairs).tolist()]
        found = count_cycles([(f"c{i}", *pair) for i, pair in enumerate(flipped)])
        cycles, triads = cycles + found[0], triads + found[1]
    assert cycles / triads == pytest.approx(0.25, abs=0.03)
