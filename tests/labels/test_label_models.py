"""How each label model makes a label of votes, worked by hand, and what is true of all of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.fitting import describe_raters, fit_label_model, fit_to_votes
from rlhf_hitl.labels.label_models import BradleyTerry, Majority, Raters, Shares
from rlhf_hitl.labels.votes import LabelVote, gather_pair_votes, make_vote_table
from rlhf_hitl.stats.davidson import davidson_probabilities
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED
from rlhf_hitl.types import LABEL_MODELS, Role, Verdict

A_WINS, B_WINS, TIED = (("a",), ("b",)), (("b",), ("a",)), (("a", "b"),)


def vote(rater, ranking, *, shown=("a", "b"), role=Role.RATER, verdict=Verdict.RANKED, **more):
    return LabelVote(rater, role, verdict, ranking, shown, **more)


def test_a_majority_is_certain_and_leaders_share_where_there_is_none():
    votes = [vote("1", A_WINS), vote("2", A_WINS), vote("3", B_WINS)]
    [label] = Majority().make_labels("x", votes)
    assert label.probabilities == (1, 0, 0)
    assert label.counts == (2, 0, 1)
    assert (label.votes, label.weight) == (3, 3)
    assert label.weighted_votes[FIRST_UNGRADED] == 3
    [label] = Majority().make_labels("x", [*votes, vote("4", B_WINS)])
    assert label.probabilities == (0.5, 0, 0.5)
    assert label.preferred is None


def test_a_vote_counts_as_much_as_its_rater_is_given():
    votes = [vote("1", A_WINS), vote("2", B_WINS, weight=0.25), vote("3", B_WINS, weight=0.0)]
    [label] = Shares().make_labels("x", votes)
    assert label.probabilities == (0.8, 0, 0.2)
    assert (label.votes, label.counts, label.weight) == (2, (1, 0, 1), 1.25)


def test_a_leads_decision_is_the_label_whatever_raters_said():
    votes = [vote("1", A_WINS), vote("2", A_WINS), vote("lead", B_WINS, role=Role.LEAD, strength=2)]
    for model in (Shares(), Majority(), fit_to_votes([("x", votes)], "raters")):
        [label] = model.make_labels("x", votes)
        assert label.probabilities == (0, 0, 1)
        assert label.adjudicated
        assert label.entropy == 0
        assert label.counts == (2, 0, 1)
        assert label.weighted_votes[SECOND_UNGRADED + 2] == label.weight  # clearly better
    [alone] = Shares().make_labels("x", votes[2:])
    assert (alone.probabilities, alone.weight, alone.votes) == ((0, 0, 1), 1, 1)
    skipped = vote("lead", (), role=Role.LEAD, verdict=Verdict.SKIPPED)
    assert not Shares().make_labels("x", [*votes[:2], skipped])[0].adjudicated


def test_a_judge_votes_with_its_probabilities_in_the_order_that_it_was_shown():
    said = vote("judge", B_WINS, role=Role.JUDGE, shown=("b", "a"), probabilities=(0.7, 0.1, 0.2))
    [label] = Shares().make_labels("x", [said, vote("1", A_WINS)])
    assert label.probabilities == pytest.approx((1.2 / 2, 0.1 / 2, 0.7 / 2))
    assert (label.judges, label.votes, label.counts) == (1, 2, (1, 0, 1))


def test_in_the_rater_model_k_completions_weigh_one_vote_less_than_k():
    ranking = vote("1", (("a",), ("b",), ("c",), ("d",)), shown=("a", "b", "c", "d"))
    parts = [part for pair in gather_pair_votes([ranking]).values() for part in pair.parts]
    assert len(parts) == 6
    assert sum(part.weight for part in parts) == pytest.approx(3)
    assert {part.votes for part in parts} == {1}


def test_dawid_skene_turns_round_a_rater_who_is_always_wrong():
    """Three raters are right of 40 comparisons, one says the contrary: they are told apart."""
    votes = {}
    for i in range(40):
        right, wrong = (A_WINS, B_WINS) if i % 2 else (B_WINS, A_WINS)
        votes[f"x{i:02}"] = [*(vote(f"good {k}", right) for k in range(3)), vote("bad", wrong)]
    votes["y"] = [vote("bad", A_WINS)]
    model = fit_to_votes(votes.items(), "dawid-skene")
    [label] = model.make_labels("y", votes["y"])
    assert label.probabilities[2] > 0.99
    assert label.weight == pytest.approx(1)
    later = [vote("good 0", A_WINS), vote("bad", B_WINS)]  # after the fit
    assert model.make_labels("z", later)[0].probabilities[0] > 0.99


def test_bradley_terry_knows_completions_and_not_raters():
    """Of b and c each won once against a: nothing says which of them is better, and a beats what they beat."""
    votes = {
        "x": [vote("1", B_WINS)],
        "y": [vote("2", (("c",), ("a",)), shown=("a", "c"))],
        "z": [vote("3", (("a",), ("d",)), shown=("a", "d"))],
    }
    model = fit_to_votes(votes.items(), "bradley-terry")
    assert isinstance(model, BradleyTerry)
    assert model.strengths["b"] == pytest.approx(model.strengths["c"], abs=1e-6)
    [label] = model.make_labels("new", [vote("4", (("d",), ("b",)), shown=("d", "b"))])  # first: b
    expected = davidson_probabilities(np.array([model.strengths["b"] - model.strengths["d"]]), model.nu)[0]
    assert label.probabilities == pytest.approx(tuple(expected), abs=1e-8)
    assert label.probabilities[0] > 0.6


def make_population() -> dict[str, list[LabelVote]]:
    """Votes of 8 raters on 120 comparisons of which a is better in half; two of the raters answer at random."""
    rng = np.random.default_rng(1)
    votes = {}
    for i in range(120):
        of = []
        for rater in rng.choice(8, 4, replace=False):
            is_right = rng.random() < (0.5 if rater < 2 else 0.9)
            ranking = A_WINS if is_right == bool(i % 2) else B_WINS
            shown = ("a", "b") if rng.random() < 0.5 else ("b", "a")
            of.append(vote(f"rater {rater}", ranking, shown=shown))
        votes[f"x{i:03}"] = of
    return votes


def test_a_rater_who_answers_at_random_weighs_little_and_does_not_turn_a_label():
    votes = make_population()
    model = fit_to_votes(votes.items(), "raters")
    assert isinstance(model, Raters)
    weights = [model.get_rater_weight(f"rater {n}") for n in range(8)]
    assert max(weights[:2]) < 0.3 * min(weights[2:])
    assert model.get_rater_weight("new") == pytest.approx(1 - model.population.random_share)
    two_against_one = [vote("rater 0", A_WINS), vote("rater 1", A_WINS), vote("rater 5", B_WINS)]
    assert Shares().make_labels("new", two_against_one)[0].preferred == "a"
    [label] = model.make_labels("new", two_against_one)
    assert label.preferred == "b"
    assert label.votes == 3
    assert label.weighted_votes[FIRST_UNGRADED] == pytest.approx(weights[0] + weights[1], abs=1e-6)
    assert label.weight == pytest.approx(weights[0] + weights[1] + weights[5], abs=1e-6)
    described = describe_raters(model)
    assert described is not None
    assert described["raters"] == 8
    assert described["lowest_tenth"] < described["median"]
    assert describe_raters(Shares()) is None


def test_votes_that_came_after_the_fit_make_the_label_that_they_would_have_made_in_it():
    votes = make_population()
    model = fit_to_votes(votes.items(), "raters")
    assert isinstance(model, Raters)
    without_table = replace(model, table=None)
    for comparison_id in ("x000", "x001", "x077"):
        [fitted] = model.make_labels(comparison_id, votes[comparison_id])
        [updated] = without_table.make_labels(comparison_id, votes[comparison_id])
        assert fitted.probabilities == pytest.approx(updated.probabilities, abs=5e-3)
    fewer = votes["x000"][:1]  # a vote was taken back: the fit's own label would still have it
    assert (
        model.make_labels("x000", fewer)[0].probabilities == without_table.make_labels("x000", fewer)[0].probabilities
    )


RANKINGS = [A_WINS, B_WINS, TIED, (("c",), ("a", "b")), (("a",), ("c",)), (("b",), ("c",), ("a",))]


@st.composite
def some_votes(draw):
    comparisons = draw(st.integers(1, 6))
    return {
        f"x{i}": [
            vote(
                f"rater {rater}",
                draw(st.sampled_from(RANKINGS)),
                shown=draw(st.permutations(["a", "b", "c"])),
                weight=draw(st.sampled_from([1.0, 0.5])),
            )
            for rater in draw(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True))
        ]
        for i in range(comparisons)
    }


def make_all_labels(votes, name):
    model = fit_to_votes(votes.items(), name) if name not in ("shares", "majority") else fit_label_model(None, name)  # type: ignore[arg-type]
    return {
        (label.comparison_id, label.first, label.second): label
        for comparison_id, of in votes.items()
        for label in model.make_labels(comparison_id, of)
    }


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(votes=some_votes(), seed=st.integers(0, 100), name=st.sampled_from(LABEL_MODELS))
def test_labels_do_not_depend_on_the_order_in_which_votes_came(votes, seed, name):
    rng = np.random.default_rng(seed)
    shuffled = {i: [votes[i][k] for k in rng.permutation(len(votes[i]))] for i in rng.permutation(list(votes))}
    expected, found = make_all_labels(votes, name), make_all_labels(shuffled, name)
    assert expected == found
    for label in expected.values():
        assert sum(label.probabilities) == pytest.approx(1, abs=1e-8)
        assert sum(label.weighted_votes) == pytest.approx(label.weight)
        assert sum(label.counts) == label.votes
        assert min(label.probabilities) >= 0
        assert 0 <= label.entropy <= math.log(3) + 1e-9


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(votes=some_votes(), name=st.sampled_from(LABEL_MODELS))
def test_what_completions_are_called_makes_no_difference(votes, name):
    """a, b, c are called c, b, a: each pair is the same with its sides exchanged, as nearly as fits converge."""
    names = {"a": "c", "b": "b", "c": "a"}
    renamed = {
        i: [
            replace(
                v,
                ranking=[[names[k] for k in group] for group in v.ranking],
                order_shown=[names[k] for k in v.order_shown],
            )
            for v in of
        ]
        for i, of in votes.items()
    }
    others = make_all_labels(renamed, name)
    for (comparison_id, first, second), label in make_all_labels(votes, name).items():
        one, two = sorted((names[first], names[second]))
        other = others[comparison_id, one, two]
        flipped = names[first] > names[second]
        probabilities = other.probabilities[::-1] if flipped else other.probabilities
        weighted = other.weighted_votes[::-1] if flipped else other.weighted_votes
        assert label.probabilities == pytest.approx(probabilities, abs=5e-3)
        assert label.weighted_votes == pytest.approx(weighted, abs=5e-3)


@pytest.mark.parametrize("name", LABEL_MODELS)
@pytest.mark.parametrize(
    "votes",
    [
        {},
        {"x": [vote("1", A_WINS)]},
        {f"x{i}": [vote("1", A_WINS)] for i in range(3)},
        {f"x{i}": [vote(f"{k}", TIED) for k in range(3)] for i in range(20)},
        {f"x{i}": [vote("lead", A_WINS, role=Role.LEAD)] for i in range(3)},
        {"x": [vote("1", (), verdict=Verdict.SKIPPED)]},
        {"x": [vote("1", A_WINS, weight=0.0)]},
    ],
    ids=["none", "one", "one rater", "all ties", "decisions alone", "a skip", "votes that count nothing"],
)
def test_few_or_empty_votes_give_labels_and_no_crash(votes, name):
    for label in make_all_labels(votes, name).values():
        assert np.isfinite(label.probabilities).all()
        assert sum(label.probabilities) == pytest.approx(1, abs=1e-8)
        if name == "raters" and not label.adjudicated and len(votes) == 1:
            assert max(label.probabilities) < 0.95  # one vote in all is no certainty


def test_a_label_model_that_is_not_one_is_refused():
    with pytest.raises(BadInput, match="label model 'median'"):
        fit_label_model(None, "median")  # type: ignore[arg-type]


def test_a_table_of_votes_is_the_same_in_whatever_order_a_database_sorts():
    votes = make_population()
    one, other = make_vote_table(votes.items()), make_vote_table(reversed(list(votes.items())))
    for name in ("comparison_ids", "starts", "digests", "known"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    for name in ("pair", "rater", "outcome", "side", "weight"):
        assert np.array_equal(getattr(one.votes, name), getattr(other.votes, name))
    assert one.rater_ids == other.rater_ids
