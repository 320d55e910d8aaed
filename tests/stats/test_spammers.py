"""Raters who do not look are told from those who differ, at the stated rate of false alarm."""

import math

import numpy as np
import pytest

from rlhf_hitl.stats.spammers import FIRST, SECOND, TIE, PairVotes, weigh_pairs_of_ranking, weigh_spammers

HONEST, RANDOM, LEFT = 0, 1, 2


def draw_votes(seed, raters=200, judgments=60, overlap=4, reliability=2.5, spam=(0.2, 0.1)):
    """Return votes in rounds, in which each rater votes once, and what each rater is. Ties are four in ten."""
    random = np.random.default_rng(seed)
    kind = np.zeros(raters, int)
    kind[: int(sum(spam) * raters)] = LEFT
    kind[: int(spam[0] * raters)] = RANDOM
    rater = np.concatenate([random.permutation(raters) for _ in range(judgments)])
    pair = np.arange(len(rater)) // overlap
    theta = random.normal(size=pair[-1] + 1)[pair]
    side = random.choice([-1, 1], len(rater))
    a, tau = reliability * np.exp(random.normal(0, 0.4, raters)), 1.4 * np.exp(random.normal(0, 0.4, raters))
    middle = a[rater] * theta + (side * random.normal(0, 0.2, raters)[rater])
    shares = np.stack([1 / (1 + np.exp(tau[rater] - middle)), 1 / (1 + np.exp(tau[rater] + middle))], axis=1)
    draw = random.random(len(rater))
    outcome = np.where(draw < shares[:, 0], FIRST, np.where(draw > 1 - shares[:, 1], SECOND, TIE))
    outcome = np.where(kind[rater] == RANDOM, random.integers(0, 3, len(rater)), outcome)
    outcome = np.where(kind[rater] == LEFT, np.where(side > 0, FIRST, SECOND), outcome)
    votes = PairVotes(pair, rater, outcome, side, np.ones(len(rater)), np.zeros(len(rater), bool))
    return votes, kind


def weigh_again_and_again(votes, raters, judgments, step=6):
    """Return the highest evidence for (random, always the first shown) over looks after every few judgments."""
    highest = np.full((raters, 2), -np.inf)
    for n in range(step, judgments + 1, step):
        seen = votes.take(slice(0, n * raters))
        evidence = weigh_spammers(seen, int(seen.pair.max()) + 1, raters)
        highest = np.maximum(highest, np.stack([evidence.random, evidence.same_answer[:, 0]], axis=1))
    return highest


def test_spammers_are_found_and_honest_raters_are_not_though_one_looks_again_and_again():
    accused = honest = 0
    found = []
    for seed in range(4):
        votes, kind = draw_votes(seed)
        highest = weigh_again_and_again(votes, 200, 60)
        alarms = highest > math.log(1 / 0.01)
        accused, honest = accused + alarms[kind == HONEST].any(axis=1).sum(), honest + (kind == HONEST).sum()
        found.append([alarms[kind == RANDOM, 0].mean(), alarms[kind == LEFT, 1].mean()])
    random, left = np.mean(found, axis=0)
    assert accused / honest <= 0.02  # two tests of 1 % each
    assert random > 0.85
    assert left == 1


def test_nobody_is_accused_where_all_are_honest():
    votes, _ = draw_votes(9, spam=(0, 0))
    highest = weigh_again_and_again(votes, 200, 60, step=10)
    assert (highest > math.log(1 / 0.01)).any(axis=1).mean() <= 0.02


def test_golds_and_hidden_repeats_add_to_the_evidence():
    votes, kind = draw_votes(3, judgments=20)
    pairs = int(votes.pair.max()) + 1
    plain = weigh_spammers(votes, pairs, 200)
    # The honest majority's word on every fifth pair is known to be right.
    known = np.full(pairs, -1)
    for pair in range(0, pairs, 5):
        honest = (votes.pair == pair) & (kind[votes.rater] == HONEST)
        counts = np.bincount(votes.outcome[honest], minlength=3)
        known[pair] = int(counts.argmax()) if counts.any() else -1
    with_gold = weigh_spammers(votes, pairs, 200, known)
    is_random = kind == RANDOM
    assert with_gold.random[is_random].mean() > plain.random[is_random].mean() + 0.2
    # Everybody judges ten pairs again: honest raters say the same, random raters whatever comes.
    again = votes.take(votes.pair < 500)
    answers = np.random.default_rng(0).integers(0, 3, len(again.pair))
    outcome = np.where(kind[again.rater] == RANDOM, answers, again.outcome)
    repeats = PairVotes(again.pair, again.rater, outcome, -again.side, again.weight, np.ones(len(outcome), bool))
    both = PairVotes(
        *(np.concatenate([getattr(v, f) for v in (votes, repeats)]) for f in PairVotes.__dataclass_fields__)
    )
    repeated = weigh_spammers(both, pairs, 200)
    assert repeated.random[is_random].mean() > plain.random[is_random].mean()
    assert repeated.random[kind == HONEST].mean() < plain.random[kind == HONEST].mean()


def test_nothing_is_said_of_raters_whom_nobody_can_be_compared_with():
    n = 30
    one = np.zeros(n, int)
    alone = PairVotes(np.arange(n), one, np.arange(n) % 3, np.tile([1, -1], n // 2), np.ones(n), np.zeros(n, bool))
    evidence = weigh_spammers(alone, n, 2)
    assert evidence.random.tolist() == pytest.approx([0, 0], abs=2.5)
    assert np.isfinite(evidence.surprise).all()
    nobody = alone.take(slice(0, 0))
    assert weigh_spammers(nobody, 0, 2).random.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_a_thousand_equal_answers_give_wide_doubt_and_no_error():
    n = 1000
    rater = np.arange(n) % 10
    all_ties = PairVotes(np.arange(n) // 2, rater, np.full(n, TIE), np.ones(n, int), np.ones(n), np.zeros(n, bool))
    evidence = weigh_spammers(all_ties, n // 2, 10)
    assert np.isfinite(evidence.random).all()
    assert np.isfinite(evidence.same_answer).all()


def test_the_pairs_of_a_ranking_weigh_as_rounds_of_a_tournament():
    assert [weigh_pairs_of_ranking(k) for k in (2, 3, 4, 5)] == [1, 1 / 3, 1 / 3, 1 / 5]
