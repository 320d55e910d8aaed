"""Losses of reward models: worked by hand, compared with enumeration, and their invariances."""

from itertools import combinations, pairwise
from math import exp, log, prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.losses import (
    bradley_terry_loss,
    centring_penalty,
    compute_pair_margins_and_leans,
    compute_tie_prevalence,
    davidson_loss,
    davidson_luce_loss,
    estimate_tie_prevalences,
    length_penalty,
    ordinal_loss,
    score_agreement,
)
from rlhf_hitl.types import UNRANKED

REWARD = st.floats(-8, 8)
WHOLE = torch.float64


def t(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=WHOLE)


def sigmoid(z: float) -> float:
    return 1 / (1 + exp(-z))


def rankings_of(items: tuple[int, ...]):
    """Every ranking with ties: tuples of groups, best first."""
    if not items:
        yield ()
    for size in range(1, len(items) + 1):
        for group in combinations(items, size):
            rest = tuple(i for i in items if i not in group)
            yield from ((group, *more) for more in rankings_of(rest))


def ranks_of(ranking, k: int) -> torch.Tensor:
    ranks = torch.full((1, k), UNRANKED)
    for rank, group in enumerate(ranking):
        ranks[0, list(group)] = rank
    return ranks


def by_enumeration(rewards: list[float], ranking, prevalences: list[float]) -> float:
    """-log P of a ranking by the definition of Firth, Kosmidis and Turner, one choice after the other."""

    def worth(group) -> float:
        size = ([1.0, *prevalences, *[0.0] * 9])[len(group) - 1]
        return size * prod(exp(rewards[i]) for i in group) ** (1 / len(group))

    left, p = {i for group in ranking for i in group}, 1.0
    for group in ranking:
        choices = [c for size in range(1, len(left) + 1) for c in combinations(sorted(left), size)]
        p *= worth(group) / sum(map(worth, choices))
        left -= set(group)
    return -log(p)


# By hand


def test_bradley_terry_by_hand():
    # -log sigmoid(ln 3) = ln(4/3); for the tie at 0: ln 2; for margin ln 3 with target 0.75 the entropy of 0.75
    losses = bradley_terry_loss(t(log(3), 0, log(3)), t(1, 0.5, 0.75))
    assert losses.tolist() == pytest.approx([log(4 / 3), log(2), -0.75 * log(0.75) - 0.25 * log(0.25)])


def test_davidson_by_hand():
    # m = ln 4: odds 2 : nu : 1/2. With nu = 1.5 they are 4/8, 3/8, 1/8
    losses = davidson_loss(t(log(4)).expand(3), torch.eye(3, dtype=WHOLE), 1.5)
    assert losses.tolist() == pytest.approx([log(2), log(8 / 3), log(8)])
    assert davidson_loss(t(log(4)), t([3, 1, 0]), 1.5).item() == pytest.approx(
        3 * log(2) + log(8 / 3)
    )  # counts of votes


def test_tie_prevalence_is_the_nu_at_which_equal_rewards_tie_with_that_share():
    assert davidson_loss(t(0), t([0, 1, 0]), compute_tie_prevalence(0.4)).item() == pytest.approx(-log(0.4))


def test_ordinal_by_hand():
    # three strengths: much better beyond 2, clearly 1 to 2, slightly 0.5 to 1, a tie within 0.5
    m, edges = 0.3, [2, 1, 0.5, -0.5, -1, -2]
    above = [sigmoid(m - e) for e in edges]
    by_hand = [-log(p) for p in (above[0], *(b - a for a, b in pairwise(above)), 1 - above[-1])]
    losses = ordinal_loss(t(m).expand(7), torch.eye(7, dtype=WHOLE), t(0.5, 1, 2))
    assert losses.tolist() == pytest.approx(by_hand)


def test_plackett_luce_by_hand():
    # worths 4, 2, 1 in this order: 4/7 * 2/3; the other way round 1/7 * 2/6
    rewards = t([log(4), log(2), 0]).expand(2, 3)
    losses = davidson_luce_loss(rewards, torch.tensor([[0, 1, 2], [2, 1, 0]]), [])
    assert losses.exp().tolist() == pytest.approx([7 * 3 / (4 * 2), 7 * 6 / 2])


def test_davidson_luce_by_hand():
    # equal worths, ties of two half as likely: 3 singles + 3 pairs / 2 = 4.5; a pair first 0.5 / 4.5, then one is left
    loss = davidson_luce_loss(t([0, 0, 0]), torch.tensor([[0, 0, 1]]), [0.5])
    assert loss.exp().item() == pytest.approx(9)


def test_centring_and_agreement_by_hand():
    assert centring_penalty(t([1, -1], [2, 1])).tolist() == [0, 9]
    assert np.array_equal(score_agreement(t(1, 1, 1, 0), t(1, -0.1, 0, -1)), [1, 0, np.nan, 0.5], equal_nan=True)


def test_rankings_as_pairs_by_hand():
    # of three: half of the raters say first, then the two others as equals; a quarter the second before the third
    ranks = torch.tensor([[[0, 1, 1], [UNRANKED, 0, 1], [UNRANKED] * 3]])
    margins, leans = compute_pair_margins_and_leans(t([3, 1, 2]), ranks, t([0.5, 0.25, 0]))
    assert margins.tolist() == [[2, 1, -1]]
    assert leans.tolist() == [[0.5, 0.5, 0.25]]
    third = torch.tensor([[[0, 1], [1, 0], [0, 0]]])
    assert compute_pair_margins_and_leans(t([0, 0]), third, torch.full((1, 3), 1 / 3))[1].tolist() == [[0]]


def test_prevalences_of_pairs_are_davidsons_and_uncounted_sizes_count_half_a_ranking():
    assert estimate_tie_prevalences([[0, 1], [0, 0], [1, 0]], [2, 4, 4]) == pytest.approx([compute_tie_prevalence(0.4)])
    assert estimate_tie_prevalences([[0, 1]], [3]) == []
    # a tie of three that has no count, beside three choices of one of three: half a ranking, over 3 / 3 of them
    assert estimate_tie_prevalences([[0, 1, 2], [0, 0, 0]], [3, 0]) == pytest.approx([0, 0.5 / (3 / 3)])
    assert estimate_tie_prevalences([[0, 0, 0], [0, 1]], [2, 1]) == pytest.approx([0, 2 / (0.5 / 3)])


def test_length_decorrelation_by_hand():
    assert length_penalty(t(1, 2, -1), t(2, 4, -2)).item() == pytest.approx(1)
    assert length_penalty(t(1, 1), t(1, -1)).item() == 0
    assert length_penalty(t(3, 0), t(1, 1)).item() == pytest.approx(0.5)
    assert length_penalty(t(0, 0), t(1, 1)).item() == 0


# Against enumeration


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=4), st.lists(st.floats(0.05, 2), min_size=3, max_size=3))
def test_davidson_luce_is_its_definition_and_sums_to_one_over_all_rankings(rewards, prevalences):
    k = len(rewards)
    rankings = list(rankings_of(tuple(range(k))))
    ranks = torch.cat([ranks_of(r, k) for r in rankings])
    losses = davidson_luce_loss(t(rewards).expand(len(rankings), k), ranks, prevalences[: k - 1])
    assert losses.tolist() == pytest.approx([by_enumeration(rewards, r, prevalences) for r in rankings], rel=1e-9)
    assert (-losses).exp().sum().item() == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.05, 2), min_size=3, max_size=3))
def test_prevalences_are_recovered_from_rankings_drawn_with_them(known):
    """Every ranking of four and of three of equal reward, counted as often as the model says."""
    ranks = torch.cat([ranks_of(r, 4) for items in ((0, 1, 2, 3), (0, 1, 3)) for r in rankings_of(items)])
    counts = (-davidson_luce_loss(torch.zeros(len(ranks), 4, dtype=WHOLE), ranks, known)).exp()
    assert estimate_tie_prevalences(ranks.tolist(), counts.tolist()) == pytest.approx(known)


@settings(deadline=None)
@given(REWARD, st.lists(st.floats(0.05, 3), min_size=1, max_size=3))
def test_outcomes_sum_to_one(margin, gaps):
    thresholds, n = torch.cumsum(t(*gaps), 0), 2 * len(gaps) + 1
    losses = ordinal_loss(t(margin).expand(n), torch.eye(n, dtype=WHOLE), thresholds)
    assert (-losses).exp().sum().item() == pytest.approx(1)
    assert (
        -davidson_loss(t(margin).expand(3), torch.eye(3, dtype=WHOLE), gaps[0])
    ).exp().sum().item() == pytest.approx(1)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    m = torch.randn(6, dtype=WHOLE, requires_grad=True)
    three, seven = torch.rand(6, 3, dtype=WHOLE), torch.rand(6, 7, dtype=WHOLE)
    nu, thresholds = t(0.7).requires_grad_(), t(0.4, 1.1, 2.5).requires_grad_()
    rewards = torch.randn(4, 4, dtype=WHOLE, requires_grad=True)
    ranks = torch.tensor([[0, 1, 2, 3], [1, 0, 0, 2], [0, 0, 0, UNRANKED], [2, 1, 1, 0]])
    check = torch.autograd.gradcheck
    assert check(lambda x: bradley_terry_loss(x, three[:, 0]), (m,))
    assert check(lambda x, n: davidson_loss(x, three, n), (m, nu))
    assert check(lambda x, e: ordinal_loss(x, seven, e), (m, thresholds))
    assert check(lambda x: davidson_luce_loss(x, ranks, [0.6, 0.2]), (rewards,))
    assert check(lambda x: length_penalty(x, three[:, 1]), (m,))
    assert check(centring_penalty, (rewards,))


# What leaves a loss as it is


@settings(deadline=None)
@given(REWARD, REWARD, st.floats(0, 3))
def test_of_two_completions_davidson_luce_is_davidson_and_without_ties_bradley_terry(a, b, nu):
    ranks = torch.tensor([[0, 1], [0, 0], [1, 0]])
    said = torch.eye(3, dtype=WHOLE)
    rewards, margins = t([a, b]).expand(3, 2), t(a - b).expand(3)
    kept = slice(None) if nu > 0 else slice(0, 3, 2)  # without prevalence a tie is impossible
    luce = davidson_luce_loss(rewards[kept], ranks[kept], [nu])
    assert torch.allclose(luce, davidson_loss(margins, said, nu)[kept])
    assert torch.allclose(davidson_loss(margins, said, 0.0)[::2], bradley_terry_loss(margins[::2], t(1, 0)))


@settings(deadline=None)
@given(REWARD, st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 3))
def test_a_pair_may_be_swapped(margin, first, tie, nu):
    m, shares, thresholds = t(margin), t([first, tie, 1 - first]), t(0.3)
    assert torch.allclose(bradley_terry_loss(m, t(first)), bradley_terry_loss(-m, t(1 - first)))
    assert torch.allclose(davidson_loss(m, shares, nu), davidson_loss(-m, shares.flip(1), nu))
    assert torch.allclose(ordinal_loss(m, shares, thresholds), ordinal_loss(-m, shares.flip(1), thresholds))


@settings(deadline=None)
@given(st.lists(st.tuples(REWARD, st.integers(UNRANKED, 2)), min_size=2, max_size=5), st.floats(-50, 50), st.randoms())
def test_a_ranking_may_be_permuted_and_its_rewards_shifted(items, shift, random):
    prevalences = [0.5, 0.3, 0.2, 0.1]
    mixed = random.sample(items, len(items))
    losses = [
        davidson_luce_loss(t([r + c for r, _ in some]), torch.tensor([[k for _, k in some]]), prevalences).item()
        for some, c in ((items, 0), (mixed, 0), (items, shift))
    ]
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-9, abs=1e-9)


def test_unranked_completions_do_not_change_the_loss():
    with_it = davidson_luce_loss(t([1, 9, 2, -1]), torch.tensor([[0, UNRANKED, 1, 2]]), [0.4])
    assert with_it.item() == pytest.approx(davidson_luce_loss(t([1, 2, -1]), torch.tensor([[0, 1, 2]]), [0.4]).item())
    assert davidson_luce_loss(t([1, 2]), torch.full((1, 2), UNRANKED), [0.4]).item() == 0


@settings(deadline=None)
@given(st.integers(2, 20), st.integers(0, 2**31))
def test_length_decorrelation_does_not_depend_on_which_side_is_first_nor_on_scale(n, seed):
    rng = torch.Generator().manual_seed(seed)
    m, d = torch.randn(2, n, generator=rng, dtype=WHOLE)
    sign = torch.randint(0, 2, (n,), generator=rng) * 2 - 1
    assert torch.allclose(length_penalty(m * sign, d * sign), length_penalty(m, d))
    assert torch.allclose(length_penalty(3 * m, d), length_penalty(m, d))


def test_a_vote_without_strength_counts_as_much_as_its_strengths_together():
    m, thresholds = t(0.8), t(0.2, 1.0, 2.0)
    much, clearly, slightly = (ordinal_loss(m, torch.eye(7, dtype=WHOLE)[[i]], thresholds) for i in range(3))
    unsaid = ordinal_loss(m, t([1, 0, 0]), thresholds[:1])
    assert torch.allclose((-unsaid).exp(), (-much).exp() + (-clearly).exp() + (-slightly).exp())


# Extremes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_losses_and_gradients_are_finite_at_extreme_margins(dtype):
    m = torch.tensor([-1e30, -1e4, -90.0, 0.0, 90.0, 1e4, 1e30], dtype=dtype, requires_grad=True)
    thresholds = torch.tensor([0.5, 1.0, 2.0])
    for outcome in range(3):
        said = torch.eye(3)[[outcome]].expand(7, 3)
        strengths = torch.eye(7)[[outcome * 3]].expand(7, 7)
        ranks = torch.tensor([[0, 1], [0, 0], [1, 0]])[[outcome]].expand(7, 2)
        losses = [
            bradley_terry_loss(m, said[:, 0]),
            davidson_loss(m, said, 0.5),
            ordinal_loss(m, strengths, thresholds),
            davidson_luce_loss(torch.stack([m, torch.zeros_like(m)], 1), ranks, [0.5]),
        ]
        if outcome != 1:
            losses.append(davidson_loss(m, said, 0.0))
        for loss in losses:
            assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert torch.isfinite(loss).all()
            assert torch.isfinite(torch.autograd.grad(loss.sum(), m)[0]).all()
    assert torch.isfinite(torch.autograd.grad(length_penalty(m * 0, thresholds.sum() + m.detach() * 0), m)[0]).all()


def test_a_tie_the_model_cannot_explain_is_refused():
    for known in ([], [0.0], [0.5]):
        with pytest.raises(BadInput, match="a tie of 3 completions"):
            davidson_luce_loss(t([0, 0, 0]), torch.tensor([[0, 0, 0]]), known)
