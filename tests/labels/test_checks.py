"""The checks of raters over a store: what they find, what they do about it, and leads who overrule them."""

from datetime import timedelta

import numpy as np
import pytest
import sqlalchemy as sa
from handmade_golds import gold_example, rank_by_text

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.labels.checks import CHECKS, check_raters, explain
from rlhf_hitl.labels.rater_evidence import CheckedAnswers, collect_evidence
from rlhf_hitl.labels.rater_overview import compute_rater_overview
from rlhf_hitl.stats.rater_checks import weigh_below_mark
from rlhf_hitl.store import queue
from rlhf_hitl.store.audit import list_entries
from rlhf_hitl.store.checked_answers import CheckedAnswer, GoldAnswer, read_checked_answers
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.findings import FindingAction, list_findings, overrule_findings
from rlhf_hitl.store.golds import add_golds
from rlhf_hitl.store.judgments import insert_imported_judgments, judgment_to_row, read_judgments
from rlhf_hitl.store.people import change_rater, insert_imported_raters
from rlhf_hitl.store.projects import change_project
from rlhf_hitl.store.quality_tables import golds
from rlhf_hitl.store.tables import comparisons, judgments, raters
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Completion,
    GoldPurpose,
    Message,
    Prompt,
    QualificationRule,
    Role,
    Route,
    Verdict,
    utc_now,
)

PEOPLE = 8


def write_answers(store, answers):
    """Append answers: (rater id, comparison, the better completion's id or None for a tie, other columns)."""
    begin = utc_now() - timedelta(hours=5)
    rows = []
    for n, (rater, comparison, better, more) in enumerate(answers):
        ids = [c.id for c in comparison.completions]
        ranking = (tuple(ids),) if better is None else ((better,), tuple(i for i in ids if i != better))
        shown = more.pop("shown", ids)
        columns = {"comparison_id": comparison.id, "rater_id": rater, "order_shown": shown, "route": Route.HUMAN.value}
        columns |= {"source": "", "simulated": True, "idempotency_key": f"{rater}-{comparison.id}"}
        columns |= {"created_at": begin + timedelta(seconds=n)}
        fields = {name: more.pop(name) for name in ("rationale", "active_seconds") if name in more}
        rows.append(judgment_to_row(Answer(Verdict.RANKED, ranking, **fields), **(columns | more)))
    with store.write() as conn:
        conn.execute(judgments.insert(), rows)


def judge_with_one_who_always_chooses_the_left(store, pool, ids, seed=0, surplus=None):
    """Let people agree in four of five comparisons, and the last of them choose whatever is shown first.

    The answers of the rater `surplus` do not count.
    """
    rng = np.random.default_rng(seed)
    answers = []
    for comparison in pool:
        a, b = (c.id for c in comparison.completions)
        for rater in ids:
            shown = [a, b] if rng.random() < 0.5 else [b, a]
            better = shown[0] if rater == ids[-1] else a if rng.random() < 0.8 else b
            answers.append((rater, comparison, better, {"shown": shown, "surplus": rater == surplus}))
    write_answers(store, answers)


@pytest.fixture
def spammed(store, add_comparisons, add_raters):
    ids = add_raters(store, PEOPLE)
    judge_with_one_who_always_chooses_the_left(store, add_comparisons(store, 40), ids)
    return store, ids


def read_state(store, rater_id):
    with store.read() as conn:
        return conn.execute(sa.select(raters).where(raters.c.id == rater_id)).one()


def test_a_spammer_is_paused_with_the_reason_and_no_judgment_changes(spammed, add_comparisons):
    store, ids = spammed
    before = list(read_judgments(store))
    found = check_raters(store)
    assert {finding.rater_id for finding in found} == {ids[-1]}
    assert "one_side" in {finding.check for finding in found}
    one_side = next(finding for finding in found if finding.check == "one_side")
    assert one_side.action is FindingAction.PAUSED
    assert (one_side.p_value or 0) <= one_side.false_alarm_rate == CHECKS["one_side"].false_alarm_rate
    assert one_side.evidence["answer"] == "first"
    assert explain("one_side", one_side.evidence).startswith("Chose the answer shown first in 100 % of 40 votes")
    state = read_state(store, ids[-1])
    assert state.paused_at is not None
    assert state.paused_reason
    assert state.vote_weight == 0.1
    assert read_state(store, ids[0]).vote_weight is None
    add_comparisons(store, 3, first=100)
    assert queue.lease(store, ids[-1], seconds=60) is None
    assert queue.lease(store, ids[0], seconds=60) is not None
    assert list(read_judgments(store)) == before
    assert "finding.added" in [entry.action for entry in list_entries(store)]


def test_the_same_finding_is_not_written_twice(spammed):
    store, _ = spammed
    first = check_raters(store)
    assert check_raters(store) == []
    assert list_findings(store) == first


def test_a_lead_who_overrules_restores_the_rater_and_only_new_evidence_counts_again(spammed, add_comparisons):
    store, ids = spammed
    found = check_raters(store)
    overruled = overrule_findings(store, "rater 7", "  Reads from right to left, and it was shown so. ")
    assert [f.seq for f in overruled] == [f.seq for f in found]
    assert overruled[0].overruled_because == "Reads from right to left, and it was shown so."
    state = read_state(store, ids[-1])
    assert (state.paused_at, state.paused_reason, state.vote_weight) == (None, None, None)
    assert check_raters(store) == []
    kept = [f.evidence["known_when_overruled"] for f in list_findings(store)]
    assert kept == pytest.approx([f.statistic for f in found], rel=1e-3), "nothing new was seen until then"
    # Three more of the same do not suffice; forty do.
    judge_later(store, add_comparisons(store, 3, first=100), ids)
    assert check_raters(store) == []
    judge_later(store, add_comparisons(store, 40, first=200), ids)
    again = check_raters(store)
    assert {finding.rater_id for finding in again} == {ids[-1]}
    assert read_state(store, ids[-1]).paused_at is not None
    assert len(list_findings(store)) == len(found) + len(again)


def judge_later(store, pool, ids):
    """As `judge_with_one_who_always_chooses_the_left`, from now on."""
    rng = np.random.default_rng(len(pool))
    for n, comparison in enumerate(pool):
        a, b = (c.id for c in comparison.completions)
        answers = []
        for rater in ids:
            shown = [a, b] if rng.random() < 0.5 else [b, a]
            better = shown[0] if rater == ids[-1] else a if rng.random() < 0.8 else b
            answers.append(
                (rater, comparison, better, {"shown": shown, "created_at": utc_now() + timedelta(seconds=n)})
            )
        write_answers(store, answers)


def test_overruling_one_check_leaves_the_others_and_a_pause_by_hand_stays(spammed):
    store, ids = spammed
    change_rater(store, "rater 7", paused=True)
    found = check_raters(store)
    if len(found) > 1:
        overrule_findings(store, "rater 7", "Not so.", check="one_side")
        assert read_state(store, ids[-1]).vote_weight == 0.1
    overrule_findings(store, "rater 7", "Not so.")
    state = read_state(store, ids[-1])
    assert state.paused_at is not None
    assert state.vote_weight is None


def test_overruling_needs_a_reason_and_a_finding(spammed):
    store, _ = spammed
    check_raters(store)
    with pytest.raises(BadInput, match="why the finding does not hold"):
        overrule_findings(store, "rater 7", "  ")
    with pytest.raises(BadInput, match="1,000 characters"):
        overrule_findings(store, "rater 7", "x" * 1001)
    with pytest.raises(BadInput, match="against whom a finding stands"):
        overrule_findings(store, "rater 0", "Not so.")
    with pytest.raises(NotFound):
        overrule_findings(store, "nobody", "Not so.")


@pytest.mark.parametrize(
    ("role", "action", "weight"),
    [(Role.JUDGE, FindingAction.DOWN_WEIGHTED, 0.5), (Role.LEAD, FindingAction.NONE, None)],
)
def test_models_and_leads_are_never_paused_by_a_check(spammed, role, action, weight):
    store, ids = spammed
    change_rater(store, "rater 7", role=role)
    assert {finding.action for finding in check_raters(store)} == {action}
    state = read_state(store, ids[-1])
    assert state.paused_at is None
    assert state.vote_weight == weight


def test_imported_raters_are_checked_and_their_votes_count_less(sqlite_store, add_comparisons):
    store = sqlite_store
    pool = add_comparisons(store, 60)
    rng = np.random.default_rng(0)
    with store.write() as conn:
        ids, _ = insert_imported_raters(store, conn, [f"w{n}" for n in range(6)], "crowd")
        votes = []
        for comparison in pool:
            a, b = rng.permutation([c.id for c in comparison.completions]).tolist()
            for name, id in ids.items():
                better = str(rng.choice([a, b])) if name == "w5" else a if rng.random() < 0.9 else b
                worse = b if better == a else a
                votes.append(  # the file has the better one first, as files of chosen and rejected do
                    {"comparison_id": comparison.id, "rater_id": id, "order_shown": [a, b], "source": "crowd"}
                    | {"answer": Answer(Verdict.RANKED, ((better,), (worse,))), "idempotency_key": comparison.id}
                )
        insert_imported_judgments(store, conn, votes)
    [finding] = check_raters(store)
    assert (finding.rater_id, finding.check, finding.action) == (ids["w5"], "random", FindingAction.DOWN_WEIGHTED)
    assert 0.3 < finding.evidence["agreement"] < 0.65 < finding.evidence["usual"]


def test_golds_repeats_cycles_times_and_copies_are_found_in_the_store(sqlite_store, add_comparisons, add_raters):
    store = sqlite_store
    ids = add_raters(store, PEOPLE)
    bad = ids[-1]
    plain, gold = add_comparisons(store, 40), add_comparisons(store, 25, first=100)
    repeated = add_repeats(store, plain[:30], ids)
    prompts = [make_prompt_with_three(store, n) for n in range(40)]
    rng = np.random.default_rng(0)
    answers = []
    with store.write() as conn:
        for comparison in gold:
            a, b = (c.id for c in comparison.completions)
            row = {"comparison_id": comparison.id, "project_id": comparison.project, "verdict": "ranked"}
            row |= {"ranking": [[a], [b]], "explanation": "", "purpose": "hidden", "created_at": utc_now()}
            conn.execute(golds.insert().values(row))
    texts = [f"Reason {n}: " + " ".join(rng.choice(list("abcdefghijklmnop"), 40)) for n in range(1800)]
    for rater in ids:
        is_bad = rater == bad
        for comparison in (*plain, *gold):
            a, b = (c.id for c in comparison.completions)
            better = (b if comparison in gold else a) if is_bad and rng.random() < 0.9 else a
            seconds = float(rng.lognormal(0.0 if is_bad else 3.0, 0.4))
            rationale = texts[0] if is_bad else texts[len(answers)]
            answers.append((rater, comparison, better, {"active_seconds": seconds, "rationale": rationale}))
        for original, comparison in zip(plain[:30], repeated[rater], strict=True):
            a, b = (c.id for c in original.completions)
            answers.append((rater, comparison, b if is_bad else a, {"shown": [b, a]}))
        for trio in prompts:
            for n, comparison in enumerate(trio):
                first, second = (c.id for c in comparison.completions)
                in_circle = is_bad and n == 2 and rng.random() < 0.5
                answers.append((rater, comparison, second if in_circle else first, {}))
    write_answers(store, answers)
    found = {finding.check: finding for finding in check_raters(store)}
    assert {finding.rater_id for finding in found.values()} == {bad}
    assert found.keys() >= {"gold", "repeats", "too_fast", "copied"}
    assert found["gold"].project == gold[0].project
    assert found["gold"].evidence["answered"] == 25
    assert found["repeats"].action is FindingAction.DOWN_WEIGHTED
    assert found["repeats"].evidence["contradicted"] > 20
    assert found["too_fast"].evidence["seconds"] < found["too_fast"].evidence["floor"]
    assert found["copied"].evidence["copies"] == 65
    assert all(len(explain(check, finding.evidence)) > 30 for check, finding in found.items())


def add_repeats(store, originals, ids):
    """Return rater id → a hidden repeat of each comparison."""
    made = {}
    with store.write() as conn:
        for rater in ids:
            made[rater] = []
            for original in originals:
                row = conn.execute(sa.select(comparisons).where(comparisons.c.id == original.id)).mappings().one()
                id = f"x_{rater[-6:]}_{original.id[-12:]}"
                conn.execute(comparisons.insert().values(dict(row) | {"id": id, "repeat_of": original.id}))
                made[rater].append(Comparison(**{**vars(original), "id": id}))
    return made


def make_prompt_with_three(store, n):
    """Return three comparisons of one prompt: of a with b, b with c, and a with c, the better one first."""
    prompt = Prompt.create((Message("user", f"Which of three, {n}?"),))
    a, b, c = (Completion.create(prompt.id, (Message("assistant", f"{n} {word}"),), "p") for word in ("a", "b", "c"))
    trio = [Comparison.create(prompt, pair) for pair in ([a, b], [b, c], [a, c])]
    with store.write() as conn:
        insert_comparisons(store, conn, trio)
    return trio


def qualify(store, rater, rights):
    """Answer the golds that a rater is asked, right or wrong, correct each at once, and return what was asked."""
    asked = []
    for right in rights:
        lease = queue.lease(store, rater, seconds=1800)
        receipt = queue.submit(store, lease.id, rater, rank_by_text(lease, reverse=not right))
        queue.correct(store, receipt.judgment_id, rater, rank_by_text(lease), idempotency_key=f"c{receipt.judgment_id}")
        asked.append(lease.comparison)
    return asked


def test_who_learns_from_the_golds_they_failed_is_accused_of_nothing(store, add_raters):
    ids = add_raters(store, PEOPLE)
    made = [gold_example(f"gold {n}") for n in range(8)]
    add_golds(store, "default", made, purpose=GoldPurpose.QUALIFICATION)
    change_project(store, "default", qualification=QualificationRule(8, 0.7, retries=1))
    for rater in ids[:-1]:
        qualify(store, rater, [True] * 8)
    qualify(store, ids[-1], [True] + [False] * 7)
    again = qualify(store, ids[-1], [True] * 7 + [False])
    assert all(comparison.repeat_of for comparison in again)
    assert check_raters(store) == []
    own = compute_rater_overview(store).raters[ids[-1]]
    assert own.repeats is None
    assert own.golds.value == 8 / 16, "each as it was answered first, also where it was asked again and then corrected"


def test_surplus_answers_speak_against_nobody(store, add_comparisons, add_raters):
    ids = add_raters(store, PEOPLE)
    judge_with_one_who_always_chooses_the_left(store, add_comparisons(store, 40), ids, surplus=ids[-1])
    assert check_raters(store) == []
    assert {answer.rater_id for answer in read_checked_answers(store)} == set(ids[:-1])


def test_the_projects_of_a_rater_share_the_false_alarms_of_golds():
    """Of the k-th project in which a rater gets golds, the evidence is weaker by k(k+1): 1/2 + 1/6 + … = 1."""
    made = [
        CheckedAnswer(
            n, f"r{rater}", f"{project} {n}", "p", project, None, "ranked", [["a"], ["b"]], ["a", "b"], None, "",
            utc_now(), "hidden",
        )
        for n, (rater, project) in enumerate([(0, "one"), (1, "two"), (0, "two"), (1, "one")] * 3)
    ]  # fmt: skip
    right = {a.comparison_id: GoldAnswer("ranked", [["b"], ["a"]], "hidden", None) for a in made}
    checked = CheckedAnswers(made, right, {"r0": "", "r1": ""})
    rates = {name: check.false_alarm_rate for name, check in CHECKS.items()}
    logs = {
        evidence.project: evidence.logs
        for evidence in collect_evidence(checked, ({}, {}), (), rates, utc_now())
        if evidence.check == "gold"
    }
    alone = weigh_below_mark(np.zeros(1), np.full(1, 3), 0.7)[0]
    np.testing.assert_allclose(logs["one"], alone - np.log([2, 6]))
    np.testing.assert_allclose(logs["two"], alone - np.log([6, 2]))


def test_few_votes_and_none_accuse_nobody(sqlite_store, add_comparisons, add_raters):
    assert check_raters(sqlite_store) == []
    [rater] = add_raters(sqlite_store, 1)
    [comparison] = add_comparisons(sqlite_store, 1)
    write_answers(sqlite_store, [(rater, comparison, None, {"active_seconds": 0.0})])
    assert check_raters(sqlite_store) == []


def test_the_checks_that_act_accuse_one_rater_in_a_hundred_at_most():
    acting = [check for check in CHECKS.values() if check.action is not FindingAction.NONE]
    assert sum(check.false_alarm_rate for check in acting) <= 0.01 + 1e-12


def test_who_goes_against_all_others_is_not_said_to_answer_without_looking():
    said = explain("random", {"votes": 30, "agreement": 0.0, "usual": 0.67})
    assert said.startswith("The 30 answers go against those of others: 0 % of others' votes on the same pairs")
    said = explain("random", {"votes": 30, "agreement": 0.4, "usual": 0.67})
    assert said.startswith("The 30 answers do not depend on what is judged")
