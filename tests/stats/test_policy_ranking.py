"""The ranking of policies: by hand, against choix, and where the votes leave something open."""

from __future__ import annotations

import math

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_hitl.stats.davidson_fit import PairRows, fit_davidson
from rlhf_hitl.stats.policy_ranking import POINTS_PER_LOGIT, PairOutcomes, rank_policies


def outcomes(games, policies=None, style=None):
    """Games, each (first, second, outcome) or with a prompt as a fourth, as arrays of weight 1."""
    table = np.array([game if len(game) == 4 else (*game, n) for n, game in enumerate(games)])
    first, second, outcome, prompt = table.T
    covariates = np.zeros((len(table), 0)) if style is None else np.asarray(style, float)
    return PairOutcomes(
        first, second, outcome, np.ones(len(table)), prompt, covariates, policies or int(table[:, :2].max()) + 1
    )


def simulate(rng, policies, games, prompts, nu=0.5, worth=()):
    """Games of policies of known strengths, with one covariate for each of `worth`, in logits."""
    strengths = rng.normal(0, 0.6, policies)
    first = rng.integers(0, policies, games)
    second = (first + rng.integers(1, policies, games)) % policies
    style = rng.normal(0, 1, (games, len(worth)))
    half = (strengths[first] - strengths[second] + style @ np.array(worth)) / 2
    odds = np.stack([np.exp(half), np.full(games, nu), np.exp(-half)], axis=1)
    outcome = (rng.random(games)[:, None] > (odds / odds.sum(1, keepdims=True)).cumsum(1)).sum(1)
    prompt = rng.integers(0, prompts, games)
    return strengths - strengths.mean(), PairOutcomes(first, second, outcome, np.ones(games), prompt, style, policies)


def test_two_policies_by_hand():
    # 30 better, 10 worse, 20 ties. Davidson's likelihood gives the shares as they are: odds of better to worse are 3,
    # so the margin is log 3; and nu = ties / sqrt(better * worse). The prior, of 4 logits, takes 0.3 % off.
    games = [(0, 1, 0)] * 30 + [(0, 1, 2)] * 10 + [(1, 0, 1)] * 20
    ranking = rank_policies(outcomes(games), base=1, prior_deviation=math.inf)
    best, base = ranking.rated
    assert best.rating - base.rating == pytest.approx(400 * math.log10(3))
    assert best.rating + base.rating == pytest.approx(2000)
    assert best.win_rate == pytest.approx((30 + 20 / 2) / 60)
    nu = 20 / math.sqrt(30 * 10)
    assert ranking.tie_rate == pytest.approx(nu / (2 + nu))
    assert (best.rank, base.rank, base.win_rate) == (1, 2, None)
    held = rank_policies(outcomes(games), base=1).rated[0]
    assert held.rating == pytest.approx(best.rating, abs=2)
    assert ranking.wins.tolist() == [[0, 30], [10, 0]]
    assert ranking.ties.tolist() == [[0, 20], [20, 0]]


def test_nothing_but_ties_gives_no_interval():
    both = rank_policies(outcomes([(0, 1, 1)] * 12), base=0).rated
    assert [(r.rating, r.rank, r.low, r.high) for r in both] == [(1000, 1, None, None)] * 2
    assert [r.win_low for r in both] == [None, None]
    assert both[1].win_rate == pytest.approx(0.5)
    # A third one that won and lost has an interval; against the base, which only tied, it has none.
    games = [(0, 1, 1)] * 12 + [(1, 2, 0)] * 12 + [(1, 2, 2)] * 12
    rated = {r.policy: r for r in rank_policies(outcomes(games), base=0).rated}
    assert [rated[i].low is None for i in range(3)] == [True, False, False]
    assert rated[2].win_low is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_without_ties_strengths_are_those_of_choix(seed):
    rng = np.random.default_rng(seed)
    games = [(int(i), int(j)) for i, j in rng.integers(0, 5, (60, 2)) if i != j]
    won = np.array(games)
    rows = PairRows(won[:, 0], won[:, 1], np.zeros((len(won), 0)), 5, prior_deviation=1 / math.sqrt(2 * 0.1))
    ours = fit_davidson(rows, np.tile([1.0, 0.0, 0.0], (len(won), 1)))
    theirs = choix.opt_pairwise(5, games, alpha=0.1, method="Newton-CG", tol=1e-12)  # its prior is alpha strengths²
    assert np.abs(ours.strengths - (theirs - theirs.mean())).max() < 1e-6
    assert ours.log_nu == -math.inf


def test_strengths_ties_and_style_are_found_again():
    true, played = simulate(np.random.default_rng(1), 6, 30_000, 3000, nu=0.5, worth=(0.5, 0.0))
    ranking = rank_policies(played, draws=40)
    by_policy = {r.policy: r for r in ranking.rated}
    found = np.array([by_policy[i].rating - 1000 for i in range(6)]) / POINTS_PER_LOGIT
    assert np.abs(found - true).max() < 0.1
    assert ranking.tie_rate == pytest.approx(0.2, abs=0.01)
    deviation = played.style.std(0)
    worth, nothing = (effect for effect in ranking.style)
    assert worth.low < 0.5 * deviation[0] < worth.high
    assert nothing.low < 0 < nothing.high


def test_style_control_takes_out_what_style_wins():
    rng = np.random.default_rng(5)
    first = rng.integers(0, 3, 6000)
    second = (first + rng.integers(1, 3, 6000)) % 3
    longer = 1.0 * (first == 0) - (second == 0) + rng.normal(0, 1, 6000)  # policy 0 writes at length, and is no better
    outcome = np.where(rng.random(6000) < 1 / (1 + np.exp(-longer)), 0, 2)
    played = PairOutcomes(first, second, outcome, np.ones(6000), np.arange(6000), longer[:, None], 3)
    plain, controlled = rank_policies(played.without_style(), draws=40), rank_policies(played, draws=40)
    assert plain.rated[0].policy == 0
    assert plain.rated[0].low > 1050
    assert controlled.rated[0].rating - controlled.rated[-1].rating < 60
    assert controlled.style[0].low > 0


def test_a_vote_is_the_same_whichever_side_is_named_first():
    _, played = simulate(np.random.default_rng(2), 4, 400, 50, worth=(0.4,))
    turned = PairOutcomes(
        played.second, played.first, 2 - played.outcome, played.weight, played.prompt, -played.style, 4
    )
    one, other = rank_policies(played, draws=20), rank_policies(turned, draws=20)
    assert [r.policy for r in one.rated] == [r.policy for r in other.rated]
    assert [r.rating for r in one.rated] == pytest.approx([r.rating for r in other.rated])
    assert [r.low for r in one.rated] == pytest.approx([r.low for r in other.rated])


def test_votes_about_one_prompt_repeat_each_other():
    rng = np.random.default_rng(3)
    says = rng.choice([0, 2], 40, p=[0.6, 0.4])
    together = rank_policies(outcomes([(0, 1, int(s), n) for n, s in enumerate(says) for _ in range(25)]))
    apart = rank_policies(outcomes([(0, 1, int(s)) for s in says for _ in range(25)]))
    wide, narrow = (r.rated[0].high - r.rated[0].low for r in (together, apart))
    assert wide > 3 * narrow


def test_groups_that_nothing_connects_are_ranked_apart():
    games = [(0, 1, 0), (0, 1, 0), (0, 1, 2)] * 8 + [(2, 3, 2), (2, 3, 1)] * 9
    ranking = rank_policies(outcomes(games, policies=5), base=1)
    assert ranking.groups == 2
    assert [(r.policy, r.group) for r in ranking.rated] == [(0, 0), (1, 0), (3, 1), (2, 1)]
    assert [r.win_rate is None for r in ranking.rated] == [False, True, True, True]
    assert sum(r.rating for r in ranking.rated[:2]) == pytest.approx(2000)


def test_who_won_everything_is_above_and_how_far_is_left_open():
    # Policy 0 won all ten; 1 and 2 beat each other. Winning ten of ten has a probability of 2.5 % where the odds are
    # 0.025 ** 0.1 to the rest: that is where the interval begins.
    games = [(0, 1, 0)] * 10 + [(1, 2, 0), (1, 2, 2)] * 10
    ranking = rank_policies(outcomes(games), base=1)
    first, *others = ranking.rated
    assert (first.policy, first.rank, first.is_held, first.high) == (0, 1, True, None)
    least = 0.025**0.1
    assert first.low == pytest.approx(1000 + POINTS_PER_LOGIT * math.log(least / (1 - least)), abs=2)
    assert first.win_low == pytest.approx(least, abs=0.002)
    assert first.win_high == 1
    assert math.isfinite(first.rating)
    assert [(r.rank, r.is_held) for r in others] == [(2, False), (2, False)]
    # Five wins of five are no proof, nor is anything on four prompts.
    assert {r.rank for r in rank_policies(outcomes([(0, 1, 0)] * 3 + [(1, 2, 0), (1, 2, 2)] * 10)).rated} == {1}
    few = rank_policies(outcomes([(0, 1, 0, n % 4) for n in range(40)] + [(0, 1, 2, 0)]))
    assert [(r.rank, r.low, r.high) for r in few.rated] == [(1, None, None)] * 2


def test_who_lost_everything_is_below_also_where_nobody_did_both():
    best, worst = rank_policies(outcomes([(0, 1, 0)] * 2)).rated
    assert (best.policy, best.swept, best.is_held, best.rank, best.high) == (0, "won", True, 1, None)
    assert (worst.policy, worst.swept, worst.is_held, worst.rank, worst.low) == (1, "lost", True, 1, None)
    assert best.rating > 1000 > worst.rating
    assert best.rating + worst.rating == pytest.approx(2000)
    assert worst.high - 1000 == pytest.approx(1000 - best.low), "two of two prove nothing"
    assert best.low < 1000
    # Odds of a tenth root of 0.025 lie between the two, half of them on each side.
    best, worst = rank_policies(outcomes([(0, 1, 0)] * 10), base=1).rated
    least = 0.025**0.1
    assert best.low - worst.high == pytest.approx(POINTS_PER_LOGIT * math.log(least / (1 - least)), abs=1)
    assert (best.rank, worst.rank) == (1, 2)
    assert (best.win_low, best.win_high) == (pytest.approx(least, abs=0.002), 1)
    # One that beat all the others, who met nobody else.
    hub = rank_policies(outcomes([(0, rival, 0) for rival in (1, 2, 3)] * 10)).rated
    assert [(r.policy, r.rank, r.swept) for r in hub] == [(0, 1, "won"), *((n, 2, "lost") for n in (1, 2, 3))]


def test_no_votes():
    empty = np.zeros(0, int)
    nothing = PairOutcomes(empty, empty, empty, np.zeros(0), empty, np.zeros((0, 4)), 3)
    assert rank_policies(nothing).rated == []
