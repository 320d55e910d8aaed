"""Judgments to labels: every verdict by name."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.labels.label_models import Majority, Shares
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.labels.votes import to_label_vote
from rlhf_hitl.store import people, queue
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.types import Answer, Comparison, Completion, Judgment, Message, Prompt, Role, Route, Verdict, utc_now


def judgment(verdict, ranking=(), strength=None, *, simulated=False, order=("a", "b")):
    return Judgment(
        id="j", comparison_id="x", rater_id="r", answer=Answer(verdict, ranking, strength), order_shown=order,
        route=Route.HUMAN, created_at=utc_now(), idempotency_key="k", simulated=simulated,
    )  # fmt: skip


def aggregate_judgments(comparison_id, judgments):
    return Shares().make_labels(comparison_id, [to_label_vote(j, {}) for j in judgments])


A_WINS, B_WINS, TIE = (("a",), ("b",)), (("b",), ("a",)), (("a", "b"),)


def test_votes_become_shares_and_entropy():
    votes = [judgment(Verdict.RANKED, r) for r in (A_WINS, A_WINS, B_WINS, TIE)]
    [label] = aggregate_judgments("x", votes)
    assert (label.first, label.second) == ("a", "b")
    assert label.probabilities == (0.5, 0.25, 0.25)
    assert label.entropy == pytest.approx(0.5 * math.log(2) + 2 * 0.25 * math.log(4))
    assert label.votes == 4
    assert label.preferred == "a"


def test_nothing_is_preferred_if_a_tie_is_the_likeliest():
    [label] = aggregate_judgments("x", [judgment(Verdict.RANKED, r) for r in (A_WINS, TIE, TIE, TIE)])
    assert label.preferred is None


def test_both_bad_is_a_tie_and_skips_and_flags_give_no_label():
    [label] = aggregate_judgments("x", [judgment(v) for v in (Verdict.ALL_BAD, Verdict.SKIPPED, Verdict.FLAGGED)])
    assert label.probabilities == (0.0, 1.0, 0.0)
    assert label.votes == 1
    assert label.preferred is None
    assert aggregate_judgments("x", [judgment(Verdict.SKIPPED)]) == []


def test_how_strongly_raters_prefer_is_counted_for_each_side():
    votes = [judgment(Verdict.RANKED, A_WINS, strength) for strength in (3, 3, 2, None)]
    votes += [judgment(Verdict.RANKED, B_WINS, strength) for strength in (1, 3)]
    [label] = aggregate_judgments("x", [*votes, judgment(Verdict.RANKED, TIE), judgment(Verdict.ALL_BAD)])
    assert label.votes == 8
    assert label.strengths == (2, 1, 0, 1, 0, 1)
    labels = aggregate_judgments("x", [judgment(Verdict.RANKED, (("c",), ("a", "b")), 2, order=("a", "b", "c"))])
    assert {la.strengths for la in labels} == {(0,) * 6}  # in a ranking of three a strength belongs to no pair


def test_a_paused_rater_counts_as_little_as_they_were_weighted_and_a_decision_alone():
    spam, honest = (to_label_vote(judgment(Verdict.RANKED, r), {"r": w}) for r, w in ((A_WINS, 0.1), (B_WINS, 1.0)))
    decision = replace(to_label_vote(judgment(Verdict.RANKED, A_WINS), {}), role=Role.LEAD)
    for label_model in (Shares(), Majority()):
        [label] = label_model.make_labels("x", [spam, spam, honest])
        assert label.counts == (2, 0, 1)
        assert label.counted == label.said == pytest.approx((0.2, 0, 1))
        [label] = label_model.make_labels("x", [honest, honest, honest, decision])
        assert (label.counts, label.counted, label.said) == ((1, 0, 3), (0, 0, 3), (1, 0, 0))


def test_the_order_shown_does_not_matter():
    shown_in_order = aggregate_judgments("x", [judgment(Verdict.RANKED, B_WINS, order=("a", "b"))])
    other = aggregate_judgments("x", [judgment(Verdict.RANKED, B_WINS, order=("b", "a"))])
    assert shown_in_order == other
    assert shown_in_order[0].preferred == "b"


def test_a_ranking_of_three_gives_every_pair_and_keeps_its_tie():
    labels = aggregate_judgments("x", [judgment(Verdict.RANKED, (("c",), ("a", "b")), order=("a", "b", "c"))])
    probabilities = {(la.first, la.second): la.probabilities for la in labels}
    assert probabilities == {("a", "b"): (0, 1, 0), ("a", "c"): (0, 0, 1), ("b", "c"): (0, 0, 1)}


def test_what_a_partial_ranking_leaves_out_is_not_judged():
    labels = aggregate_judgments("x", [judgment(Verdict.RANKED, A_WINS, order=("a", "b", "c"))])
    assert [(la.first, la.second) for la in labels] == [("a", "b")]


def test_one_simulated_vote_marks_the_label():
    votes = [judgment(Verdict.RANKED, A_WINS), judgment(Verdict.RANKED, A_WINS, simulated=True)]
    assert aggregate_judgments("x", votes)[0].simulated
    assert not aggregate_judgments("x", votes[:1])[0].simulated


def test_corrections_count_once_and_surplus_judgments_not_at_all(sqlite_store):
    store = sqlite_store
    prompt = Prompt.create((Message("user", "hello"),))
    answers = [Completion.create(prompt.id, (Message("assistant", t),), "m") for t in ("one", "two")]
    comparison = Comparison.create(prompt, answers, overlap=1)
    with store.write() as conn:
        insert_comparisons(store, conn, [comparison])
    first, late = (people.add_rater(store, n, Role.RATER).id for n in ("first", "late"))
    stale = queue.lease(store, late, seconds=-1)  # runs out at once
    lease = queue.lease(store, first, seconds=1800)
    assert stale is not None
    assert lease is not None
    a, b = (c.id for c in comparison.completions)
    receipt = queue.submit(store, lease.id, first, Answer(Verdict.RANKED, ((a,), (b,))))
    queue.correct(store, receipt.judgment_id, first, Answer(Verdict.RANKED, ((b,), (a,))), idempotency_key="again")
    assert queue.submit(store, stale.id, late, Answer(Verdict.RANKED, ((a,), (b,)))).outcome == "surplus"
    [label] = read_labels(store)
    assert label.votes == 1
    assert label.preferred == b


@pytest.mark.parametrize("completions", [2, 3, 5])
def test_the_pairs_of_a_completion_weigh_one_vote_together(completions):
    weights = [weigh_votes(1, completions)] * (completions - 1)
    assert sum(weights) == pytest.approx(1)
    assert weigh_votes(np.array([0.0, 3.0]), completions).tolist() == [0, 3 / (completions - 1)]
