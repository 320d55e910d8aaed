"""The rater model: its likelihood by hand, its derivatives, what it recovers, and what bad or little data do to it."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_hitl.errors import BadInput
from rlhf_hitl.stats.rater_measuring import Raters, differentiate, group_votes, measure_votes
from rlhf_hitl.stats.rater_model import RaterPopulation, VoteArrays, fit_rater_model, update_pair
from rlhf_hitl.stats.rater_population import compute_reference_probabilities, compute_state_prior
from rlhf_hitl.stats.vote_likelihood import (
    DIFFERENCES,
    NOISES,
    STATE_D,
    STATE_NOISE,
    compute_vote_probabilities,
    compute_vote_tables,
)
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE

GAPS = np.array([0.7, 1.2])


def make_votes(pair, rater, outcome, side=None, weight=None) -> VoteArrays:
    n = len(pair)
    return VoteArrays(
        np.array(pair, int),
        np.array(rater, int),
        np.array(outcome, int),
        np.zeros(n, int) if side is None else np.array(side),
        np.ones(n) if weight is None else np.array(weight, float),
    )


def draw_votes(seed: int, *, raters: int = 40, pairs: int = 500, per_pair: int = 4, graded: bool = False):
    """Return votes and what they were drawn from: raters (raters, 3), d (pairs,)."""
    rng = np.random.default_rng(seed)
    truth = np.stack([rng.normal(1, 0.4, raters), rng.normal(0, 0.4, raters), rng.normal(0, 0.5, raters)], 1)
    d, noise = rng.normal(0, 2.5, pairs), rng.choice(NOISES, pairs, p=[0.25, 0.5, 0.25])
    pair = np.repeat(np.arange(pairs), per_pair)
    rater = np.concatenate([rng.permutation(raters)[:per_pair] for _ in range(pairs)])
    side = rng.choice([-1, 1], len(pair))
    z = truth[rater, 0] * d[pair] + truth[rater, 1] * side + noise[pair] * rng.logistic(size=len(pair))
    beyond = np.abs(z) - np.exp(truth[rater, 2])
    level = np.digitize(beyond, np.cumsum(GAPS)) if graded else np.zeros(len(pair), int)
    first, second = (2 - level, 6 + level) if graded else (FIRST_UNGRADED, SECOND_UNGRADED)
    outcome = np.where(beyond < 0, TIE, np.where(z > 0, first, second))
    return make_votes(pair, rater, outcome, side), truth, d


def test_the_likelihood_by_hand():
    rater = np.array([[1.5, 0.4, np.log(0.8), np.log(2.0)]])
    state = int(np.flatnonzero((DIFFERENCES[6] == STATE_D) & (NOISES[2] == STATE_NOISE))[0])
    mean, noise = 1.5 * DIFFERENCES[6] - 0.4, 2.5  # the first stood second

    def above(cut: float) -> float:
        return 1 / (1 + np.exp((cut - mean) / noise))

    cuts = [0.8, 0.8 + 2 * 0.7, 0.8 + 2 * 1.9]
    expected = {
        0: above(cuts[2]),
        1: above(cuts[1]) - above(cuts[2]),
        2: above(cuts[0]) - above(cuts[1]),
        3: above(cuts[0]),
        4: above(-cuts[0]) - above(cuts[0]),
        5: 1 - above(-cuts[0]),
        6: above(-cuts[1]) - above(-cuts[0]),
        7: above(-cuts[2]) - above(-cuts[1]),
        8: 1 - above(-cuts[2]),
    }
    for outcome, p in expected.items():
        found = compute_vote_probabilities(rater, np.array([outcome]), np.array([-1]), GAPS)[0, state]
        assert found == pytest.approx(p, rel=1e-9)


@given(
    st.tuples(*[st.floats(-3, 3)] * 4), st.sampled_from([-1, 0, 1]), st.tuples(st.floats(0.05, 5), st.floats(0.05, 5))
)
def test_outcomes_are_all_there_are(rater, side, gaps):
    for outcomes in ([0, 1, 2, 4, 6, 7, 8], [3, 4, 5]):
        n = len(outcomes)
        p = compute_vote_probabilities(np.tile(rater, (n, 1)), np.array(outcomes), np.full(n, side), np.array(gaps))
        assert (p > 0).all()
        assert np.allclose(p.sum(0), 1, atol=1e-7)


def test_the_gradient_and_the_information_are_those_of_the_marginal_likelihood():
    votes, _, _ = draw_votes(0, raters=8, pairs=60, graded=True)
    population = RaterPopulation(gaps=(0.7, 1.2))
    cells, _ = group_votes(votes, 60)
    mode = population.typical + 0.3 * np.random.default_rng(1).normal(size=(8, 4))

    def compute_logs(mode: np.ndarray, gaps: tuple[float, float] = (0.7, 1.2)) -> tuple[float, np.ndarray, np.ndarray]:
        p = compute_vote_probabilities(mode[cells.rater], cells.outcome, cells.side, np.array(gaps))
        joint = np.exp(cells.by_pair @ np.log(p)) * compute_state_prior(population)
        return float(np.log(joint.sum(1)).sum()), joint / joint.sum(1, keepdims=True), p

    _, posterior, p = compute_logs(mode)
    state = Raters(mode, np.zeros((8, 4, 4)), np.zeros(8))
    tables = compute_vote_tables(mode[cells.rater], cells.outcome, cells.side, np.array(population.gaps))
    gradient, information, gaps = differentiate(cells, measure_votes(cells, tables, p, posterior), state, population)

    def move(*steps: tuple[int, float]) -> float:
        moved = mode.copy()
        for k, step in steps:
            moved[3, k] += step
        return compute_logs(moved)[0]

    for k in range(4):
        assert (move((k, 1e-4)) - move((k, -1e-4))) / 2e-4 == pytest.approx(gradient[3, k], abs=1e-3)
        for m in range(4):
            e = 1e-3
            corners = (move((k, a * e), (m, b * e)) * a * b for a in (1, -1) for b in (1, -1))
            assert -sum(corners) / (4 * e * e) == pytest.approx(information[3, k, m], abs=0.01)
    wider = [compute_logs(mode, (0.7 * np.exp(s), 1.2))[0] for s in (1e-4, -1e-4)]
    assert (wider[0] - wider[1]) / 2e-4 == pytest.approx(gaps.sum(0)[0], abs=1e-3)


@pytest.mark.parametrize("graded", [False, True])
def test_raters_and_pairs_are_recovered(graded):
    votes, truth, d = draw_votes(2, raters=30, pairs=1500, graded=graded)
    fit = fit_rater_model(votes, 1500, 30)
    for k, name in enumerate(("reliability", "position_bias", "tie_width")):
        true = np.exp(truth[:, k]) if name == "tie_width" else truth[:, k]
        low, high = getattr(fit, f"{name}_low"), getattr(fit, f"{name}_high")
        assert ((low <= true) & (true <= high)).mean() > 0.75  # of 30 raters, with intervals of 95 %
        assert np.corrcoef(getattr(fit, name), true)[0, 1] > 0.75
    assert np.corrcoef(fit.p[:, 0] - fit.p[:, 2], np.tanh(d))[0, 1] > 0.8
    assert np.allclose(fit.p.sum(1), 1)


def test_random_raters_and_those_who_always_choose_the_left_weigh_little():
    votes, _, _ = draw_votes(3, raters=30, pairs=1500)
    outcome, rng = votes.outcome.copy(), np.random.default_rng(4)
    outcome[votes.rater == 0] = rng.choice([3, 4, 5], (votes.rater == 0).sum())
    outcome[votes.rater == 1] = np.where(votes.side[votes.rater == 1] > 0, FIRST_UNGRADED, SECOND_UNGRADED)
    fit = fit_rater_model(replace(votes, outcome=outcome), 1500, 30)
    assert (fit.random[:2] > 0.9).all()
    assert (fit.random[2:] < 0.5).mean() > 0.9
    assert (fit.reliability_low[:2] <= 0).all()
    assert (fit.reliability[:2] == 0).all()  # the median of somebody who probably does not look


def test_votes_make_nobody_much_less_known_than_none_do():
    """Of who looks at some of what they answer, a line through the mode once foretold a reliability of -12 to 14."""
    votes, _, _ = draw_votes(0, raters=30, pairs=300)
    rng, outcome = np.random.default_rng(0), votes.outcome.copy()
    for rater, looks in enumerate((0, 0.15, 0.3, 0.5)):
        own = votes.rater == rater
        at_random = rng.choice([FIRST_UNGRADED, TIE, SECOND_UNGRADED], own.sum())
        outcome[own] = np.where(rng.random(own.sum()) < looks, outcome[own], at_random)
    fit = fit_rater_model(replace(votes, outcome=outcome), 300, 30)
    width = fit.reliability_high - fit.reliability_low
    assert width.max() < 2 * 1.96 * fit.population.spreads[0] * np.sqrt(2)


def test_one_pair_updated_is_what_the_fit_says_of_it():
    votes, _, _ = draw_votes(5, pairs=100, graded=True)
    witness = np.random.default_rng(0).dirichlet((2, 2, 2), 100)
    known = np.full(100, -1)
    known[7] = SECOND_UNGRADED
    fit = fit_rater_model(votes, 100, 41, known=known, witness=witness)
    population = RaterPopulation.from_json(json.loads(json.dumps(asdict(fit.population))))
    assert population == fit.population
    for i in (0, 7):
        mine = votes.pair == i
        given = fit.rows[votes.rater[mine]], votes.outcome[mine], votes.side[mine]
        assert np.allclose(update_pair(population, *given, known=known[i]), fit.p[i])
        assert np.allclose(update_pair(population, *given, known=known[i], witness=witness[i]), fit.consensus[i])
    assert fit.p[7].argmax() == 2
    assert np.allclose(fit.rows[40], population.describe_new_rater())  # a rater without votes


def test_the_label_never_hears_the_witness():
    votes, _, _ = draw_votes(6, pairs=100)
    alone = fit_rater_model(votes, 100, 40)
    loud = fit_rater_model(votes, 100, 40, witness=np.tile([0.98, 0.01, 0.01], (100, 1)))
    assert np.array_equal(alone.p, loud.p)
    assert np.array_equal(alone.reliability, loud.reliability)
    assert np.array_equal(alone.weight, loud.weight)


def test_a_witness_counts_as_much_as_it_knows():
    votes, _, d = draw_votes(7, pairs=800)
    rng = np.random.default_rng(8)
    knowing = np.stack([1 / (1 + np.exp(-d)), np.full(800, 0.2), 1 / (1 + np.exp(d))], 1)
    knowing /= knowing.sum(1, keepdims=True)
    ignorant = knowing[rng.permutation(800)]
    told, misled = (fit_rater_model(votes, 800, 40, witness=w) for w in (knowing, ignorant))
    assert told.population.witness[0] > 0.5 > 0.1 > misled.population.witness[0]
    assert np.abs(misled.consensus - misled.p).max() < 0.1
    nothing = fit_rater_model(votes, 800, 40, witness=np.full((800, 3), np.nan))
    assert np.allclose(nothing.consensus, nothing.p)


def test_a_witness_of_single_votes_counts_about_half():
    # Nobody knows yet how much of what it says the votes say as well.
    strength = []
    for per_pair in (1, 4):
        votes, _, d = draw_votes(9, pairs=2000, per_pair=per_pair)
        witness = np.stack([1 / (1 + np.exp(-d)), np.full(2000, 0.2), 1 / (1 + np.exp(d))], 1)
        strength.append(fit_rater_model(votes, 2000, 40, witness=witness).population.witness[0])
    assert 0.3 < strength[0] / strength[1] < 0.7


def test_labels_say_tie_as_often_as_raters_do():
    # Half of the raters have wide ties and half narrow ones: the median's are not what a vote is on average.
    votes, _, _ = draw_votes(10, pairs=1500)
    fit = fit_rater_model(votes, 1500, 40)
    looks = (1 - fit.random)[votes.rater]
    assert looks @ (votes.outcome == TIE) == pytest.approx(looks @ fit.p[votes.pair, 1], rel=0.01)


def test_known_outcomes_measure_raters():
    # Two raters contradict each other on every pair: only what is known tells who is right.
    pair, rater = np.repeat(np.arange(60), 2), np.tile([0, 1], 60)
    truth = np.random.default_rng(9).choice([FIRST_UNGRADED, SECOND_UNGRADED], 60)
    outcome = np.stack([truth, 8 - truth], 1).ravel()
    known = np.where(np.arange(60) < 30, truth, -1)
    fit = fit_rater_model(make_votes(pair, rater, outcome), 60, 2, known=known)
    assert fit.reliability[0] > 0 > fit.reliability[1]
    assert (fit.p[30:].argmax(1) == np.where(truth[30:] == FIRST_UNGRADED, 0, 2)).all()


def test_little_or_odd_data_leave_doubt():
    nothing = fit_rater_model(make_votes([], [], []), 2, 1)
    assert (nothing.p < 0.5).all()
    one = fit_rater_model(make_votes([0], [0], [FIRST_UNGRADED]), 1, 1)
    assert 0.4 < one.p[0, 0] < 0.8
    assert one.reliability_high[0] - one.reliability_low[0] > 1
    same = fit_rater_model(make_votes(range(1000), [0] * 1000, [FIRST_UNGRADED] * 1000), 1000, 1)
    assert same.p.max() < 0.9  # one rater who never says anything else
    ties = fit_rater_model(make_votes(range(1000), [0] * 1000, [TIE] * 1000), 1000, 1)
    assert (ties.p.argmax(1) == 1).all()
    assert np.isfinite(ties.rows).all()
    many = fit_rater_model(make_votes([0] * 1000, range(1000), [FIRST_UNGRADED] * 1000), 1, 1000)
    assert many.p[0, 0] > 0.95  # a thousand people agree
    apart = fit_rater_model(make_votes(range(50), range(50), [FIRST_UNGRADED] * 25 + [SECOND_UNGRADED] * 25), 50, 50)
    assert apart.p.max() < 0.95


def test_a_split_stays_soft():
    votes, _, _ = draw_votes(10, pairs=400)
    extra = make_votes([400] * 8 + [401] * 8, [*range(8), *range(8)], [3, 5] * 4 + [TIE] * 8, [1, -1] * 8)
    joined = VoteArrays(*(np.concatenate(both) for both in zip(vars(votes).values(), vars(extra).values())))
    fit = fit_rater_model(joined, 402, 40)
    assert fit.p[400, [0, 2]].max() < 0.6
    assert fit.p[400, 1] < fit.p[401, 1] - 0.2
    assert fit.p[401].argmax() == 1


def draw_graded_truths(seed: int, share_of_ties: float, per_pair: int, pairs: int = 600):
    """Return votes of raters who differ in how often they say tie, on pairs that are ties or not (nothing in between),
    and what is true: 0 first, 1 tie, 2 second. It is not the rater model: answers err by a table."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, pairs, p=[(1 - share_of_ties) / 2, share_of_ties, (1 - share_of_ties) / 2])
    pair = np.repeat(np.arange(pairs), per_pair)
    rater = np.concatenate([rng.permutation(30)[:per_pair] for _ in range(pairs)])
    said, wrong = truth[pair], rng.random(len(pair)) < 0.3
    said[wrong] = np.where(
        rng.random(wrong.sum()) < rng.beta(1, 2, 30)[rater[wrong]], 1, rng.choice([0, 2], wrong.sum())
    )
    return make_votes(pair, rater, said + FIRST_UNGRADED), truth


@pytest.mark.parametrize("share_of_ties", [0.15, 0.3, 0.5])
def test_without_a_second_vote_a_label_says_what_its_vote_says(share_of_ties):
    votes, _ = draw_graded_truths(11, share_of_ties, 1)
    fit = fit_rater_model(votes, 600, 30)
    assert (fit.p.argmax(1) == votes.outcome - FIRST_UNGRADED).mean() > 0.97
    reference = compute_reference_probabilities(fit.population)
    joint = (reference * compute_state_prior(fit.population)[:, None]).T @ reference
    assert 0.5 < np.trace(joint) < 0.7  # how often two people who compare answers agree, with ties
    assert joint[1, 1] > 1.3 * joint[1, 0]


def test_clear_ties_are_as_many_as_repeated_votes_show():
    shares = []
    for share_of_ties in (0.02, 0.4):
        votes, truth = draw_graded_truths(12, share_of_ties, 4)
        fit = fit_rater_model(votes, 600, 30)
        shares.append(fit.population.pair_weights[0])
        assert (fit.p.argmax(1) == truth).mean() > 0.85
    assert shares[1] > 2 * shares[0]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 8), st.sampled_from([-1, 0, 1]),
                  st.sampled_from([0.0, 0.5, 1.0, 40.0])),
        max_size=25,
    )
)  # fmt: skip
def test_any_votes_give_finite_estimates(rows):
    columns = list(zip(*rows)) if rows else [[]] * 5
    fit = fit_rater_model(make_votes(*columns), 4, 5)
    assert np.isfinite(fit.rows).all()
    assert np.isfinite(fit.weight).all()
    assert np.allclose(fit.p.sum(1), 1)
    for name in ("reliability", "position_bias", "tie_width", "strength_scale"):
        low, middle, high = (getattr(fit, f"{name}{end}") for end in ("_low", "", "_high"))
        assert ((low <= middle) & (middle <= high)).all()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weight": [np.nan, 1.0]}, "vote 0: weight nan"),
        ({"outcome": [3, 9]}, "vote 1: outcome 9"),
        ({"side": [2, 0]}, "vote 0: side 2"),
        ({"pair": [0, 2]}, "vote 1: pair 2"),
        ({"rater": [0]}, "1 values of rater"),
    ],
)
def test_what_cannot_be_is_said(change, complaint):
    votes = replace(make_votes([0, 1], [0, 0], [3, 4]), **{k: np.array(v) for k, v in change.items()})
    with pytest.raises(BadInput, match=complaint):
        fit_rater_model(votes, 2, 1)


@pytest.mark.parametrize(
    "outcomes", [[FIRST_UNGRADED], [FIRST_UNGRADED, TIE, SECOND_UNGRADED], [0, 8, TIE], [1, 7], [2, 6, 2, 6, TIE]]
)
def test_the_only_rater_is_believed_with_wide_doubt_whatever_their_habits(outcomes):
    n = 60
    outcome = np.resize(outcomes, n)
    side = np.where(np.arange(n) % 7 < 3, 1, -1)
    fit = fit_rater_model(VoteArrays(np.arange(n), np.zeros(n, int), outcome, side, np.ones(n)), n, 1)
    assert fit.random[0] == pytest.approx(0.05, abs=0.02), "nobody else's votes tell"
    assert -1 < fit.reliability_low[0] <= 0.2
    assert 1.7 < fit.reliability_high[0] < 3
    said = np.where(outcome < TIE, 0, np.where(outcome > TIE, 2, 1))
    assert (fit.p.argmax(1) == said).all()
    assert fit.p.max() < 0.9
