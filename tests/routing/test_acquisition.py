"""Acquisition rules against worked examples and slow references, and batches by what holds for every one of them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.head import Head
from rlhf_hitl.routing.acquisition import (
    choose_d_optimal,
    compute_double_thompson,
    compute_entropy,
    compute_least_margin,
    compute_optimistic_gaps,
    compute_vote_information,
    count_double_thompson,
)
from rlhf_hitl.routing.acquisition_names import RULES, check_acquisition
from rlhf_hitl.routing.batches import CompletionInputs, Pool, order_for_raters


def choose_slowly(differences, covariance, information, size):
    """Greedy D-optimal by determinants of the precision: nothing is updated, all is computed anew."""
    precision, chosen, gains = np.linalg.inv(covariance), [], []
    for _ in range(size):
        before = np.linalg.slogdet(precision)[1]
        after = {
            i: np.linalg.slogdet(precision + information[i] * np.outer(x, x))[1]
            for i, x in enumerate(differences)
            if i not in chosen
        }
        best = max(after, key=lambda i: after[i])
        gains.append((after[best] - before) / 2)
        chosen.append(best)
        precision = precision + information[best] * np.outer(differences[best], differences[best])
    return chosen, gains


def test_d_optimal_turns_to_the_direction_that_is_not_asked_yet():
    # Variances 4, 3.61 and 1 at first. After the first, the second's is 3.61 / (1 + 0.25 * 4) = 1.805, still above 1;
    # after both, it is the other direction's turn.
    differences = np.array([[2.0, 0.0], [1.9, 0.0], [0.0, 1.0], [1.8, 0.0]])
    chosen, gains = choose_d_optimal(differences, np.eye(2), np.full(4, 0.25), 3)
    assert chosen.tolist() == [0, 1, 3] or chosen.tolist() == [0, 1, 2]
    assert gains[0] == pytest.approx(0.5 * np.log(1 + 0.25 * 4))
    assert gains[1] == pytest.approx(0.5 * np.log(1 + 0.25 * 1.805))
    # 1 / (1 + 0.25 * (4 + 3.61)) = 0.3445 is left of the first direction: 0.3445 * 3.24 = 1.116 > 1, then 0.8728 < 1.
    assert choose_d_optimal(differences, np.eye(2), np.full(4, 0.25), 4)[0].tolist() == [0, 1, 3, 2]


def test_d_optimal_is_the_greedy_choice_by_determinants():
    rng = np.random.default_rng(0)
    differences, root = rng.normal(size=(30, 2)), rng.normal(size=(2, 2))
    covariance, information = root @ root.T + 0.1 * np.eye(2), rng.uniform(0.05, 0.25, 30)
    chosen, gains = choose_d_optimal(differences, covariance, information, 12)
    expected, expected_gains = choose_slowly(differences, covariance, information, 12)
    assert chosen.tolist() == expected
    assert gains == pytest.approx(expected_gains, rel=1e-3)


def test_d_optimal_takes_no_more_of_a_group_in_a_turn_than_the_cap_says():
    rng = np.random.default_rng(1)
    differences = rng.normal(size=(60, 5)) * np.linspace(3, 1, 60)[:, None]
    groups = np.arange(60) // 20  # the first group has the widest differences
    chosen, _ = choose_d_optimal(differences, np.eye(5), np.full(60, 0.25), 60, caps=[(groups, 2)])
    for turn in range(10):
        assert np.bincount(groups[chosen[6 * turn : 6 * turn + 6]]).tolist() == [2, 2, 2]
    assert sorted(chosen) == list(range(60))


def test_a_vote_tells_of_its_margin_what_its_outcomes_tell():
    head = Head(np.zeros(1), np.eye(1), (1.0, 1.0), thresholds=(0.7, 0.7, 0.7))
    margins = np.array([-2.0, 0.0, 0.3, 4.0])

    def outcomes(m):
        first, second = expit(m - 0.7), expit(-m - 0.7)
        return np.stack([first, 1 - first - second, second], axis=1)

    slope = (outcomes(margins + 1e-5) - outcomes(margins - 1e-5)) / 2e-5
    expected = (slope**2 / outcomes(margins)).sum(axis=1)
    assert compute_vote_information(margins, np.zeros(4), head) == pytest.approx(expected, rel=1e-6)
    p = expit(margins)
    assert compute_vote_information(margins, np.zeros(4)) == pytest.approx(p * (1 - p))


def test_scores_by_margin_and_uncertainty():
    assert compute_least_margin(np.array([-2.0, 0.5])).tolist() == [-2.0, -0.5]
    assert compute_entropy(np.array([0.0, 50.0]), np.zeros(2)) == pytest.approx([1.0, 0.0], abs=1e-9)
    assert compute_optimistic_gaps(np.array([-2.0, 0.5]), np.array([0.1, 3.0])).tolist() == [2.1, 3.5]
    q = norm.cdf(1)
    assert compute_double_thompson(np.array([2.0, 0.0]), np.array([2.0, 0.0])) == pytest.approx([2 * q * (1 - q), 0.5])


def test_thompson_sampling_pairs_completions_of_their_prompt():
    # Two prompts with three and two completions. Draws one and two, then three and four, go together.
    rewards = np.array([[3.0, 1, 0, 2, 1], [1.0, 3, 0, 2, 1], [3.0, 1, 0, 1, 2], [3.0, 1, 0, 2, 1]])
    pairs = np.array([[0, 1], [0, 2], [1, 2], [3, 4]])
    starts = np.array([0, 3])
    assert count_double_thompson(rewards, starts, pairs).tolist() == [0.5, 0, 0, 0.5]
    # Best of the first against worst of the second: twice the first and third completion, three logits apart.
    assert count_double_thompson(rewards, starts, pairs, reverse=True).tolist() == [0, 3, 0, 0.5]


def test_counted_thompson_draws_agree_with_the_formula_for_two_completions():
    rng = np.random.default_rng(3)
    margins, uncertainties = np.array([0.0, 1.0, 3.0]), np.array([1.0, 1.0, 1.0])
    rewards = np.zeros((20_000, 6))
    rewards[:, ::2] = margins + uncertainties * rng.normal(size=(20_000, 3))
    found = count_double_thompson(rewards, np.array([0, 2, 4]), np.array([[0, 1], [3, 2], [4, 5]]))
    assert found == pytest.approx(compute_double_thompson(margins, uncertainties), abs=0.02)


def make_pool(seed, n=300, prompts=40, d=6, wide=None):
    rng = np.random.default_rng(seed)
    of = np.sort(rng.integers(prompts, size=n))
    inputs = rng.normal(size=(2 * n, d)).astype(np.float32)
    inputs[2 * (wide or n) :] /= 10  # after the first, completions are much alike
    root = rng.normal(size=(d, d))
    head = Head(rng.normal(size=d), root @ root.T / d, (1.0, 1.0))
    margins, uncertainties = head.margins((inputs[::2] - inputs[1::2]).astype(float))

    def load(places):
        order = np.argsort(of[places], kind="stable")
        rank = np.argsort(order)
        rows = (2 * places[order][:, None] + [0, 1]).ravel()
        starts = 2 * np.flatnonzero(np.r_[True, np.diff(of[places][order]) != 0])
        return CompletionInputs(inputs[rows], starts, np.stack([2 * rank, 2 * rank + 1], axis=1))

    return Pool(margins, uncertainties, of, rng.integers(3, size=n), head, load)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_every_rule_asks_each_comparison_once_spread_over_prompts(rule, seed):
    pool = make_pool(seed)
    size = len(np.unique(pool.prompts))
    order = order_for_raters(pool, rule, size, np.random.default_rng(seed))
    assert sorted(order.places) == list(range(len(pool)))
    assert order.batch == size
    batch = order.places[:size]
    assert len(np.unique(pool.prompts[batch])) == size, "every prompt before any a second time"
    assert np.bincount(pool.policy_pairs[batch]).max() <= np.ceil(2 * size / 3)
    again = order_for_raters(pool, rule, size, np.random.default_rng(seed))
    assert (again.places == order.places).all()


def test_of_a_pool_larger_than_the_candidates_it_is_said_whether_the_cut_mattered(monkeypatch):
    pool = make_pool(5, n=4000, prompts=4000, d=60, wide=200)
    pool = replace(pool, margins=np.zeros(4000))  # each vote on them is worth the same
    rng = np.random.default_rng
    whole = order_for_raters(pool, "d-optimal", 20, rng(0))
    assert (whole.candidates, whole.is_cut) == (1000, False)
    monkeypatch.setattr("rlhf_hitl.routing.batches.MOST_CANDIDATES", 4000)
    monkeypatch.setattr("rlhf_hitl.routing.batches.CANDIDATES_PER_CHOICE", 4000)
    everything = order_for_raters(pool, "d-optimal", 20, rng(0))
    assert everything.candidates == 4000
    assert (everything.places[:20] == whole.places[:20]).all()
    monkeypatch.setattr("rlhf_hitl.routing.batches.MOST_CANDIDATES", 25)
    assert order_for_raters(pool, "d-optimal", 20, rng(0)).is_cut


@pytest.mark.parametrize("rule", RULES)
def test_a_constant_model_has_the_pool_asked_at_random(rule):
    n = 200
    head = Head(np.zeros(2), np.zeros((2, 2)), (1.0, 1.0))

    def load(places):
        rows = np.arange(2 * len(places))
        return CompletionInputs(np.zeros((len(rows), 2), np.float32), rows[::2], rows.reshape(-1, 2))

    pool = Pool(np.zeros(n), np.zeros(n), np.arange(n), np.zeros(n, int), head, load)
    orders = {tuple(order_for_raters(pool, rule, 50, np.random.default_rng(seed)).places) for seed in range(3)}
    assert len(orders) == 3
    assert all(sorted(order) == list(range(n)) for order in orders)
    first = np.array([order[:50] for order in orders])
    assert 60 < first.mean() < 140


@pytest.mark.parametrize("rule", RULES)
def test_a_score_that_is_not_a_number_is_refused(rule):
    pool = Pool(np.array([0.5, np.nan]), np.ones(2), np.arange(2), np.zeros(2, int))
    with pytest.raises(BadInput, match="margin nan"):
        order_for_raters(pool, rule, 1, np.random.default_rng(0))
    empty = Pool(np.zeros(0), np.zeros(0), np.zeros(0, int), np.zeros(0, int))
    assert len(order_for_raters(empty, rule, 10, np.random.default_rng(0)).places) == 0


def test_an_unknown_rule_is_refused_by_name():
    with pytest.raises(BadInput, match=r"--acquisition bald.*mutual-information"):
        check_acquisition("bald")
