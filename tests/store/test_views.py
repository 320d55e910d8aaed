"""What a lead reads of people's work and a rater of their own, on either database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from rlhf_hitl.store import audit, people, queue, sign_in, tokens, views
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Verdict

NOW = datetime(2026, 3, 14, 9, 30, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 14, tzinfo=UTC)


def judge(store, rater_id: str, at: datetime = NOW, seconds: float | None = None) -> str:
    """One more judgment of a rater's, given at a time, after so many seconds of work."""
    lease = queue.lease(store, rater_id, now=at - timedelta(seconds=seconds or 0), seconds=1800)
    assert lease is not None
    said = Answer(Verdict.SKIPPED, active_seconds=seconds)
    return queue.submit(store, lease.id, rater_id, said, now=at).judgment_id


def test_work_is_counted_by_utc_days(store, add_comparisons, add_raters):
    add_comparisons(store, 8)
    ann, bob = add_raters(store, 2)
    times = [MIDNIGHT, MIDNIGHT - timedelta(microseconds=1), MIDNIGHT - timedelta(days=2), NOW - timedelta(days=400)]
    for at in [*times, NOW]:
        judge(store, ann, at)
    done = views.load_activity(store, days=3, now=NOW)
    assert done[ann] == views.RaterActivity(5, (1, 1, 2), None, NOW, None)
    assert done[ann].today == 2
    assert done[bob] == views.RaterActivity(0, (0, 0, 0), None, None, None)
    assert done[bob].seen_at is None


def test_a_correction_is_no_second_judgment_and_its_time_is_the_one_that_counts(store, add_comparisons, add_raters):
    add_comparisons(store, 3)
    [ann] = add_raters(store, 1)
    for i, seconds in enumerate((10.0, 30.0, None)):
        last = judge(store, ann, NOW - timedelta(days=1, minutes=-i), seconds)
    assert views.load_activity(store, now=NOW)[ann].seconds == 20.0
    queue.correct(store, last, ann, Answer(Verdict.SKIPPED, active_seconds=50.0), idempotency_key="again")
    done = views.load_activity(store, now=NOW)[ann]
    assert (done.in_all, sum(done.by_day), done.seconds) == (3, 3, 30.0)
    assert done.judged_at > NOW - timedelta(days=1), "they were here to correct it"


def test_the_median_is_of_the_newest_judgments_of_each(store, add_comparisons, add_raters):
    add_comparisons(store, 6, overlap=2)
    ann, bob = add_raters(store, 2)
    for i, seconds in enumerate((900.0, 800.0, 1.0, 3.0, 8.0)):
        judge(store, ann, NOW + timedelta(hours=i), seconds)
        judge(store, bob, NOW + timedelta(hours=i), 2 * seconds)
    done = views.load_activity(store, newest=3, now=NOW)
    assert (done[ann].seconds, done[bob].seconds) == (3.0, 6.0)


def test_a_sign_in_is_a_sign_of_life(store):
    ann = people.add_rater(store, "ann", Role.RATER, "correct horse")
    verified = sign_in.verify_password(store, "ann", "correct horse")
    assert verified is not None
    sign_in.start_session(store, verified, 1)
    tokens.add_api_token(store, ann.id, "", ["task"], by=audit.CLI)
    done = views.load_activity(store)[ann.id]
    assert done.judged_at is None
    assert done.seen_at == done.signed_in_at is not None


@pytest.mark.parametrize("raters", [1, 40])
def test_it_takes_two_statements_however_many_people_there_are(store, add_comparisons, add_raters, raters):
    add_comparisons(store, 2, overlap=raters)
    for rater in add_raters(store, raters):
        judge(store, rater)
    asked = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    assert len(views.load_activity(store, now=NOW)) == raters
    assert len([s for s in asked if s.lstrip().startswith("SELECT")]) == 2


# What a rater searches for in their own judgments.


@pytest.fixture
def judged(store, add_raters):
    """A function that makes a rater judge a pair, with a rationale; it returns the judgment's id."""
    [ann] = add_raters(store, 1)

    def judge_pair(question: str, first: str, second: str, rationale: str = "", rater: str = ann, tag: str = "") -> str:
        prompt = Prompt.create((Message("system", "Be brief."), Message("user", question)), {"hiddenkey": tag or "x"})
        sides = [Completion.create(prompt.id, (Message("assistant", t),), f"hiddenpolicy-{t}") for t in (first, second)]
        with store.write() as conn:
            insert_comparisons(store, conn, [Comparison.create(prompt, sides, batch="hiddenbatch")])
        lease = queue.lease(store, rater, seconds=1800)
        assert lease is not None
        said = Answer(Verdict.SKIPPED, rationale=rationale)
        return queue.submit(store, lease.id, rater, said).judgment_id

    judge_pair.rater = ann
    return judge_pair


def search(store, rater: str, words: str, limit: int = 50, **more) -> views.FoundJudgments:
    return views.search_current_judgments(store, rater, words.split(), limit, **more)


def ids(found: views.FoundJudgments) -> list[str]:
    return [judgment.id for judgment, _ in found.judged]


def test_judgments_are_found_by_question_answer_and_reason_in_any_case_and_script(store, judged):
    apples = judged("Sind Äpfel gesund?", "Ja, meistens.", "Nein.", "Die STRASSE ist nass")
    cats = judged("Name a cat", "Мурзик", "“Tiger”", "has a name")
    for words, expected in {
        "äPFEL": [apples], "ÄPFEL gesund": [apples], "meistens": [apples], "straße": [apples], "МУРЗИК": [cats],
        '“tiger”': [cats], "name": [cats], "a": [cats, apples], "cat meistens": [], "brief": [cats, apples],
        "": [cats, apples], "100%": [], "_": [],
    }.items():  # fmt: skip
        found = search(store, judged.rater, words)
        assert (ids(found), found.searched, found.has_more, found.ran_out_of_time) == (expected, 2, False, False), words


def test_nothing_is_found_by_what_a_rater_must_not_know_or_of_others(store, judged, add_raters):
    other = people.add_rater(store, "other", Role.RATER).id
    own, others = judged("Mine?", "yes", "no"), judged("Theirs?", "yes", "no", rater=other)
    for words in ("hiddenpolicy", "hiddenbatch", "hiddenkey", "default", own, "skipped", "human", "theirs"):
        assert ids(search(store, judged.rater, words)) == [], words
    assert ids(search(store, judged.rater, "yes")) == [own]
    assert ids(search(store, other, "yes")) == [others]


def test_a_corrected_judgment_is_found_as_it_is_now(store, judged):
    old = judged("Mine?", "yes", "no", "a slip")
    said = Answer(Verdict.ALL_BAD, rationale="second thoughts")
    new = queue.correct(store, old, judged.rater, said, idempotency_key="k").judgment_id
    assert ids(search(store, judged.rater, "slip")) == []
    assert ids(search(store, judged.rater, "thoughts")) == [new]


def test_a_search_lists_the_newest_and_says_what_it_leaves_out(store, judged):
    made = [judged(f"Question {i}?", f"yes {i}", f"no {i}", "odd" if i % 2 else "") for i in range(9)][::-1]
    newest = search(store, judged.rater, "", 4)
    assert (ids(newest), newest.has_more) == (made[:4], True)
    everything = search(store, judged.rater, "", 9)
    assert (ids(everything), everything.has_more) == (made, False)
    some = search(store, judged.rater, "odd", 3)
    assert (ids(some), some.has_more) == (made[1:7:2], True)
    last = search(store, judged.rater, "question 0? odd", 2)
    assert (ids(last), last.searched, last.ran_out_of_time) == ([], 9, False)
    hurried = search(store, judged.rater, "yes 0", 2, seconds=0)
    assert (ids(hurried), hurried.searched, hurried.ran_out_of_time) == ([], 3, True)
