"""A vote is asked while it is expected to win more raters for the label than it costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from rlhf_hitl.stats.rater_population import (
    RaterPopulation,
    compute_reference_probabilities,
    compute_state_prior,
)
from rlhf_hitl.stats.value_of_vote import SPLIT_BELOW, Belief, decide_on_vote, make_belief

#: Either everybody prefers the first or everybody the second, and nobody knows which.
UNKNOWN = Belief(np.array([0.5, 0.5]), np.array([[1.0, 0, 0], [0, 0, 1.0]]))
#: Half of the raters prefer the first for certain.
SPLIT = Belief(np.array([1.0]), np.array([[0.5, 0, 0.5]]))


def believe_after(votes: list[int], spread: float = 2.0) -> Belief:
    """Return the belief after votes (0 first, 1 tie, 2 second) on a pair whose margin is normal, in logits."""
    d = np.linspace(-4 * spread, 4 * spread, 81)
    first, second = expit(d - 0.3), expit(-d - 0.3)
    outcomes = np.stack([first, 1 - first - second, second], 1)
    weights = np.exp(-((d / spread) ** 2) / 2) * outcomes[:, votes].prod(1)
    return Belief(weights / weights.sum(), outcomes)


def test_a_vote_that_settles_everything_is_worth_what_it_settles():
    assert UNKNOWN.predict() == pytest.approx([0.5, 0, 0.5])
    assert UNKNOWN.compute_net_gain(1, price=0.1) == pytest.approx(0.5 - 0.1)
    # Whoever may ask five times stops after the first.
    assert UNKNOWN.compute_net_gain(5, price=0.1) == pytest.approx(0.5 - 0.1)


def test_where_raters_split_no_vote_is_worth_anything():
    assert SPLIT.compute_net_gain(5, price=0.0) == pytest.approx(0)
    assert decide_on_vote([SPLIT], 1, least=1, most=9, price=0.001).action == "split"


def test_two_votes_worked_by_hand():
    # Raters agree with what is true nine times in ten. One vote for the first: 0.9, so that of the next two votes both
    # are for the second with 0.9 * 0.01 + 0.1 * 0.81 = 0.09; then the second is right with 0.081 / 0.09 = 0.9.
    belief = Belief(np.array([0.9, 0.1]), np.array([[0.9, 0, 0.1], [0.1, 0, 0.9]]))
    now, turned = 0.9 * 0.9 + 0.1 * 0.1, 0.9 * 0.9 + 0.1 * 0.1
    if_kept = 0.1 * 0.9 + 0.9 * 0.1  # the share who agree with the first where two votes were for the second
    free = 0.09 * (turned - if_kept)
    assert belief.predict().max() == pytest.approx(now)
    assert belief.compute_net_gain(1, price=0.0) == pytest.approx(0)
    assert belief.compute_net_gain(2, price=0.0) == pytest.approx(free)
    # The second of the two is asked only where the first is for the other side: 0.9 * 0.1 + 0.1 * 0.9 = 0.18.
    assert belief.compute_net_gain(2, price=0.01) == pytest.approx(free - 0.01 - 0.18 * 0.01)


def ask_naively(weights: np.ndarray, outcomes: np.ndarray, ahead: int, price: float) -> float:
    """Return the value of asking on by trying every order of votes."""
    following = [weights * outcomes[:, k] for k in range(3)]  # not normalised: its sum is the probability
    asked = -price * weights.sum()
    for w in following:
        stop = (w @ outcomes).max()
        asked += max(stop, ask_naively(w, outcomes, ahead - 1, price)) if ahead > 1 else stop
    return asked


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.0, 0.003, 0.02, 0.1]))
@settings(max_examples=60, deadline=None)
def test_the_gain_is_that_of_trying_every_order_of_votes(seed, ahead, price):
    rng = np.random.default_rng(seed)
    outcomes = rng.dirichlet([0.5, 0.5, 0.5], 4)
    belief = Belief(rng.dirichlet([1, 1, 1, 1]), outcomes)
    naive = ask_naively(belief.weights, outcomes, ahead, price) - belief.predict().max()
    assert belief.compute_net_gain(ahead, price) == pytest.approx(naive, abs=1e-12)


def test_a_second_vote_alone_never_turns_the_label_but_with_the_third_it_may():
    after_one = believe_after([0])
    assert after_one.compute_net_gain(1, price=0.005) == pytest.approx(-0.005)
    assert after_one.compute_net_gain(2, price=0.005) > 0


def test_votes_that_agree_stop_sooner_than_votes_that_do_not():
    rule = {"least": 1, "most": 7, "price": 0.005}
    assert decide_on_vote([believe_after([0, 0, 0])], 3, **rule).action == "sure"
    assert decide_on_vote([believe_after([0, 0, 2])], 3, **rule).action == "ask"


def test_the_longer_raters_differ_the_less_another_vote_is_worth():
    gains = [believe_after([0, 2] * n).compute_net_gain(1, price=0.0) for n in (1, 2, 4, 8)]
    assert gains == sorted(gains, reverse=True)
    decision = decide_on_vote([believe_after([0, 2] * 8)], 16, least=1, most=40, price=0.06)
    assert (decision.action, decision.split_probability > 0.5) == ("split", True)


def test_a_higher_price_never_asks_for_more():
    gains = [believe_after([0]).compute_net_gain(4, price) for price in (0, 0.001, 0.01, 0.05, 0.2)]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] <= -0.2 + 1e-12 + gains[0]


def test_a_witness_who_contradicts_the_label_makes_a_vote_worth_more_and_one_who_agrees_less():
    outcomes = np.array([[0.9, 0, 0.1], [0.1, 0, 0.9]])
    by_votes = np.array([0.9, 0.1])  # one vote for the first
    against, agrees = np.array([0.3, 0.7]), np.array([0.99, 0.01])
    alone, doubted, confirmed = (Belief(w, outcomes, by_votes) for w in (by_votes, against, agrees))
    gains = [belief.compute_net_gain(2, price=0.0) for belief in (confirmed, alone, doubted)]
    assert gains == sorted(gains)
    # Two more votes for the second turn the label: 0.3 * 0.01 + 0.7 * 0.81 = 0.57 of the time, and then 0.567 of 0.57
    # are right.
    assert doubted.compute_agreement() == pytest.approx(0.3 * 0.9 + 0.7 * 0.1)
    assert gains[2] == pytest.approx(0.567 * 0.8 - 0.003 * 0.8)


def test_the_least_is_asked_whatever_is_known_and_the_most_never_passed():
    certain = Belief(np.array([1.0]), np.array([[1.0, 0, 0]]))
    assert decide_on_vote([certain], 1, least=2, most=5, price=0.5).action == "ask"
    assert decide_on_vote([UNKNOWN], 5, least=1, most=5, price=0.001).action == "most"
    assert decide_on_vote([SPLIT], 5, least=1, most=5, price=0.001).action == "split"
    assert decide_on_vote([certain], 5, least=1, most=5, price=0.0).action == "sure"


def test_a_vote_on_several_pairs_is_worth_their_mean():
    certain = Belief(np.array([1.0]), np.array([[1.0, 0, 0]]))
    decision = decide_on_vote([UNKNOWN, certain, certain], 0, least=0, most=3, price=0.1)
    assert decision.gain == pytest.approx((0.4 - 0.1 - 0.1) / 3)
    assert decision.agreement == pytest.approx((0.5 + 1 + 1) / 3)


def test_raters_are_split_where_less_than_two_thirds_share_an_opinion():
    outcomes = np.array([[SPLIT_BELOW + 0.01, 0.1, 0.23], [0.6, 0.1, 0.3]])
    assert Belief(np.array([0.3, 0.7]), outcomes).compute_split_probability() == pytest.approx(0.7)


def test_adaptive_votes_reach_the_accuracy_of_a_fixed_number_with_fewer():
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2.0, 400)
    first, second = expit(margins - 0.3), expit(-margins - 0.3)
    u = rng.random((400, 5))
    votes = np.where(u < first[:, None], 0, np.where(u < 1 - second[:, None], 1, 2))
    shares = np.stack([first, 1 - first - second, second], 1)

    def measure(count: int, price: float | None) -> tuple[float, float]:
        used, agreed = 0, 0.0
        for said, share in zip(votes.tolist(), shares):
            n = 1
            while n < count and (
                price is None or decide_on_vote([believe_after(said[:n])], n, least=1, most=5, price=price).gain > 0
            ):
                n += 1
            used += n
            agreed += share[believe_after(said[:n]).predict().argmax()]
        return used / 400, agreed / 400

    (adaptive, agreement), (five, all_agree), (_, of_three) = measure(5, 0.002), measure(5, None), measure(3, None)
    assert adaptive < 0.75 * five
    assert agreement > all_agree - 0.003
    assert agreement > of_three


def test_a_rater_nobody_knows_agrees_less_than_the_typical_one():
    population = RaterPopulation()
    prior = compute_state_prior(population)
    belief = make_belief(population, prior)
    assert belief.outcomes.sum(1) == pytest.approx(np.ones(len(prior)))
    assert belief.predict()[0] == pytest.approx(
        belief.predict()[2]
    )  # which is first is chance, and sides are evened out
    reference = compute_reference_probabilities(population)
    assert prior @ belief.outcomes.max(1) < prior @ reference.max(1)
