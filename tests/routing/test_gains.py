"""What labels gain, against heads that are fitted without them; which rule pays; and what reports say of it."""

import math

import numpy as np
import pytest
from scipy.special import expit

from rlhf_hitl.reward.head_fitting import fit_head
from rlhf_hitl.routing import gains as gains_module
from rlhf_hitl.routing.gain_record import Gain, RoutingGains, load_gains, save_gains
from rlhf_hitl.routing.gains import CHALLENGERS, Labels, choose_rule, compute_gains, estimate_gain, weigh_by_rules


def make_labels(seed, n=300, d=5, noise=1.0, prompts=None):
    """Simulated votes on pairs, one a label, by the weights 1, 1, ..."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    is_first = rng.random(n) < expit(x.sum(axis=1) / noise)
    votes = np.zeros((n, 9))
    votes[np.arange(n), np.where(is_first, 3, 5)] = 1
    return Labels(x, votes, np.arange(n) if prompts is None else rng.integers(prompts, size=n))


def take(labels, at):
    return Labels(labels.differences[at], labels.votes[at], labels.prompts[at])


def compute_loss(head, labels):
    margins = labels.differences @ head.weights
    return np.where(labels.votes[:, 3] == 1, np.logaddexp(0, -margins), np.logaddexp(0, margins))


def test_the_gain_of_a_label_is_what_a_head_without_it_predicts_worse():
    taught, measured = make_labels(0, 120), make_labels(1, 200)
    head = fit_head(taught.differences, taught.votes)
    gains = compute_gains(head, taught, measured, np.full(200, -1))
    exact = np.empty(120)
    for i in range(120):
        others = np.delete(np.arange(120), i)
        without = fit_head(taught.differences[others], taught.votes[others])
        exact[i] = (compute_loss(without, measured) - compute_loss(head, measured)).mean()
    # The prior follows the evidence in the heads that are fitted anew, and is kept in the gains.
    assert np.corrcoef(gains.mean(axis=1), exact)[0, 1] > 0.9
    assert gains.mean() == pytest.approx(exact.mean(), abs=0.5 * np.abs(exact).mean())


def test_a_label_does_not_measure_itself():
    taught = make_labels(2, 60)
    head = fit_head(taught.differences, taught.votes)
    gains = compute_gains(head, taught, take(taught, np.arange(40)), np.arange(40))
    assert np.isnan(np.diag(gains[:40])).all()
    assert np.isnan(gains).sum() == 40


def test_the_interval_of_a_gain_holds_the_mean_of_many_draws():
    """Of labels with weights of their own, the mean gain over many sets is in 95 % of the intervals, or more."""
    held, values, intervals = 0, [], []
    for seed in range(60):
        taught, measured = make_labels(seed, 80, prompts=30), make_labels(1000 + seed, 40)
        gains = compute_gains(fit_head(taught.differences, taught.votes), taught, measured, np.full(40, -1))
        gain = estimate_gain(gains, np.full(80, 1 / 80), taught.prompts, measured.prompts)
        values.append(gain.value)
        intervals.append((gain.low, gain.high))
    held = np.mean([low <= np.mean(values) <= high for low, high in intervals])
    assert held >= 0.85


def test_auto_keeps_its_default_until_another_rule_clearly_pays(monkeypatch):
    taught = make_labels(3, 200)
    head = fit_head(taught.differences, taught.votes)
    own = np.arange(40)
    few = choose_rule(head, take(taught, np.arange(10)), take(taught, np.arange(10)), np.arange(10))
    assert (few.rule, few.gains) == ("d-optimal", {})
    assert "too few" in few.reason
    chosen = choose_rule(head, taught, take(taught, own), own)
    assert set(chosen.gains) <= set(CHALLENGERS)
    # Where the labels that one rule asks for gain far more than all others, it is taken.
    asked = weigh_by_rules(head, taught, ("least-margin",), 1 / 3)["least-margin"] > 0
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        gains_module, "compute_gains", lambda *_: np.where(asked, 1.0, 0.0)[:, None] + 0.01 * rng.random((200, 40))
    )
    chosen = choose_rule(head, taught, take(taught, own), own)
    assert chosen.rule == "least-margin"
    assert "d-optimal" in chosen.reason


def test_gains_are_kept_beside_the_model_and_said(tmp_path):
    assert load_gains(tmp_path) is None
    pays = RoutingGains(
        "d-optimal",
        "it was asked for",
        Gain(4e-4, 3e-4, 5e-4, 120, 40),
        Gain(1e-4, 0.5e-4, 1.5e-4, 40, 40),
        Gain(3e-4, 1e-4, 5e-4, 160, 40),
        simulated=True,
    )
    save_gains(tmp_path, pays)
    assert load_gains(tmp_path) == pays
    assert str(pays) == (
        "Gain per hundred labels (simulated), in thousandths of a nat of log likelihood per vote (95 %): routed 40 "
        "(30 to 50), over 120 labels; random 10 (5 to 15), over 40; measured on 40 labels drawn at random. Routing "
        "pays."
    )
    unknown = Gain(math.nan, math.nan, math.nan, 0, 40)
    for gap, verdict in (
        (Gain(-3e-4, -5e-4, -1e-4, 160, 40), "does not pay: a label at random teaches more"),
        (Gain(1e-4, -1e-4, 3e-4, 160, 40), "does not pay so far"),
        (unknown, "not known yet"),
        (None, "not known yet"),
    ):
        gains = RoutingGains("auto", "", pays.routed, pays.random, gap)  # pyright: ignore[reportArgumentType]
        assert verdict in gains.verdict
        save_gains(tmp_path, gains)
        assert verdict in str(load_gains(tmp_path))
    assert "It takes judged comparisons" in str(RoutingGains("random", ""))
