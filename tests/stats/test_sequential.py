"""The sequential test of a win rate, the length-controlled win rate, and regressions by tag."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from rlhf_hitl.errors import BadInput
from rlhf_hitl.stats import sequential
from rlhf_hitl.stats.length_controlled import estimate_length_controlled_rate
from rlhf_hitl.stats.sequential import (
    WinRateTest,
    compute_bets,
    compute_log_capital,
    correct_outcomes,
    decide,
    make_controls,
    weigh_outcomes,
)
from rlhf_hitl.stats.tag_regressions import list_tested_tags, measure_tags
from rlhf_hitl.types.promotions import Decision

outcome_lists = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)


def test_the_capital_of_two_wins_is_as_worked_by_hand(monkeypatch):
    """One gain of 0.1. The first bet is on the prior variance 0.2: 0.1 / (0.2 + 0.01) = 10/21, so a win makes
    1 + 10/21 * 1/2 = 26/21. One win has no spread, so the variance is 10 * 0.2 / 11 = 2/11 then, and the second bet
    0.1 / (2/11 + 0.01)."""
    monkeypatch.setattr(sequential, "GAINS", np.array([1.0]))
    monkeypatch.setattr(sequential, "STAKES", np.array([1.0]))
    second = 0.1 / (2 / 11 + 0.01)
    found = weigh_outcomes(np.array([1.0, 1.0]), WinRateTest(0.1))
    assert found.evidence_for == pytest.approx(26 / 21 * (1 + second / 2))
    # Against 0.6 the bets lose 0.4 each time; the most that the capital has been is what it was after the first loss.
    assert found.evidence_against == pytest.approx(1 - 10 / 21 * 0.4)
    assert (found.win_rate, found.decision) == (1.0, Decision.UNDECIDED)


def test_controls_take_fresh_prompts_that_no_other_draw_has():
    made = make_controls(np.array([0.9, 0.2, 0.1, 0.3, 0.6, 0.8, 1.0]), draws=2)
    # Five are fresh: three for the first draw (0.1, 0.3, 0.6), two for the second (0.8, 1.0).
    assert made.controls.tolist() == pytest.approx([0.9 - 1 / 3, 0.2 - 0.9])
    assert made.worth.tolist() == pytest.approx([3 / 4, 2 / 3])
    few = make_controls(np.array([0.9, 0.2, 0.1]), draws=2)
    assert few.controls.tolist() == pytest.approx([0.8, 0.0]), "without a fresh prompt there is no control"
    with pytest.raises(BadInput):
        make_controls(np.array([0.9, np.nan]), draws=1)


@given(outcomes=outcome_lists, changed=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_outcome_and_no_prediction_has_a_part_in_its_own_bet(outcomes, changed, seed, data):
    at = data.draw(st.integers(0, len(outcomes) - 1))
    y, n = np.array(outcomes), len(outcomes)
    f = np.random.default_rng(seed).random(3 * n)

    def bet(y, f):
        z, slopes = correct_outcomes(y, make_controls(f, n))
        return slopes, compute_bets(z, slopes, 0.1)

    slopes, bets = bet(y, f)
    other_y, other_f = y.copy(), f.copy()
    other_y[at], other_f[at] = changed, 1 - f[at]
    other_slopes, other_bets = bet(other_y, other_f)
    assert np.allclose(slopes[: at + 1], other_slopes[: at + 1], rtol=1e-12)
    assert np.allclose(bets[: at + 1], other_bets[: at + 1], rtol=1e-12)


@given(outcomes=outcome_lists, seed=st.integers(0, 99), gain=st.floats(0.01, 0.45))
@settings(max_examples=60, deadline=None)
def test_no_factor_is_negative_and_the_interval_agrees_with_the_decision(outcomes, seed, gain):
    y = np.array(outcomes)
    controls = make_controls(np.random.default_rng(seed).integers(0, 2, 2 * len(y)).astype(float), len(y))
    z, slopes = correct_outcomes(y, controls)
    bets = compute_bets(z, slopes, gain)
    for rate in (0.0, 0.5, 1.0):
        for side in (1, -1):
            assert np.isfinite(compute_log_capital(z, bets, rate, side)).all()
    test = WinRateTest(gain)
    found = weigh_outcomes(y, test, controls)
    assert 0 <= found.low <= 1
    assert 0 <= found.high <= 1
    step = 1 / (sequential.GRID - 1) + 1e-9
    assert (found.low >= 0.5 - step) == (found.evidence_for >= 1 / test.alpha) or abs(found.low - 0.5) <= step
    if found.evidence_for >= 1 / test.alpha:
        assert found.low >= 0.5 - step
    if found.high < 0.5:
        assert found.evidence_against >= 1 / test.beta, "what is shown to be worse is rejected"


def simulate(rate: float, runs: int, *, slope: float, seed: int, draws: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Return what is decided, and after how many outcomes, with a model whose word goes with
    the outcome as `slope` says; ties in a fifth."""
    rng = np.random.default_rng(seed)
    u = rng.random((runs, 4 * draws))
    y = np.where(u < rate - 0.1, 1.0, np.where(u < rate + 0.1, 0.5, 0.0))
    f = np.clip(0.7 + slope * (y - 0.5) + 0.2 * rng.standard_normal(y.shape), 0, 1)  # it says "better" of everything
    z, slopes = correct_outcomes(y[:, :draws], make_controls(f, draws))
    bets = compute_bets(z, slopes, 0.1)
    above, below = (compute_log_capital(z, bets, m, side) for m, side in ((0.5, 1), (0.6, -1)))
    return decide(above, below, WinRateTest(0.1))


@pytest.mark.parametrize("slope", [0.5, 0.0, -0.5])
def test_errors_keep_their_bounds_whatever_the_model_says(slope):
    runs = 1_000
    wrong = (simulate(0.5, runs, slope=slope, seed=1)[0] == 1).mean()
    missed = (simulate(0.6, runs, slope=slope, seed=2)[0] == 2).mean()
    assert wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
    assert missed <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / runs)
    assert (simulate(0.6, runs, slope=slope, seed=3)[0] == 1).mean() > 0.6


def test_a_good_model_saves_judgments():
    good, useless = (simulate(0.6, 500, slope=s, seed=4)[1].mean() for s in (0.6, 0.0))
    assert good < 0.9 * useless


def test_what_cannot_be_tested_is_refused():
    with pytest.raises(BadInput, match="least_gain"):
        WinRateTest(0.6)
    with pytest.raises(BadInput, match="outcome"):
        weigh_outcomes(np.array([0.5, 1.5]), WinRateTest())
    assert weigh_outcomes(np.array([]), WinRateTest()).decision is Decision.UNDECIDED


def test_length_is_taken_out_of_a_win_rate_that_is_all_length():
    rng = np.random.default_rng(0)
    longer = rng.normal(60, 100, 1_500)
    p = expit(1.5 * np.tanh(longer / 100))  # raters look at nothing but length
    found = estimate_length_controlled_rate((rng.random(1_500) < p).astype(float), longer)
    assert found is not None
    assert found.plain > 0.6
    assert found.low < 0.5 < found.high
    assert abs(found.value - 0.5) < 0.06
    assert found.length_effect == pytest.approx(1.5, abs=0.4)


def test_twenty_wins_of_twenty_are_not_taken_for_certainty():
    found = estimate_length_controlled_rate(np.ones(20), np.random.default_rng(0).normal(5, 30, 20))
    assert found is not None
    assert found.low < 0.9  # an exact binomial interval begins at 0.83


def test_without_a_difference_in_length_the_win_rate_stays():
    outcomes = np.array([1.0] * 30 + [0.0] * 10 + [0.5] * 20)
    found = estimate_length_controlled_rate(outcomes, np.zeros(60))
    assert found is not None
    # The prior of `fit_logistic` is worth little: logit 0.693 of 2/3 comes to 0.69.
    assert logit(found.value) == pytest.approx(math.log(2), abs=0.02)
    assert found.low < found.value < found.high
    assert estimate_length_controlled_rate(np.array([1.0]), np.array([3.0])) is None


def test_a_tag_that_loses_is_found_and_one_that_does_not_is_not_named():
    rng = np.random.default_rng(1)
    tags = [{"topic": ("poems", "maths", "law")[i % 3]} for i in range(240)]
    rate = np.array([{"poems": 0.15, "maths": 0.8, "law": 0.5}[t["topic"]] for t in tags])
    outcomes = (rng.random(240) < rate).astype(float)
    tested = list_tested_tags([*tags, {"topic": "rare"}])
    assert tested == ["topic=law", "topic=maths", "topic=poems"]
    found = measure_tags(outcomes, tags, tested, WinRateTest())
    assert [t.tag for t in found if t.is_regression] == ["topic=poems"]
    assert found[0].tag == "topic=poems"
    # One tag alone is held to alpha, each of three to a third of it.
    alone = measure_tags(outcomes, tags, ["topic=law"], WinRateTest())[0]
    law = next(t for t in found if t.tag == "topic=law")
    assert law.low <= alone.low <= alone.high <= law.high
