"""What models accepted, on either database: page by page, searched, counted, and sent to raters by a lead once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from rlhf_hitl.errors import Conflict, NotFound
from rlhf_hitl.store import audit, people, projects, queue
from rlhf_hitl.store.accepted import (
    NEWER_CAP,
    count_accepted,
    count_newer,
    list_accepted,
    load_routes,
    record_export,
    sample_accepted,
)
from rlhf_hitl.store.audit import Actor
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, read_routings, send_to_raters
from rlhf_hitl.store.scores import insert_scores
from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Role, Route, Score

MODEL = RewardModelRecord("rm_one", "head", "nowhere", "backbone", "hash", simulated=False)


def accept(store, *questions: str, project="default", batch="", answers=("yes", "no"), **tags) -> list[Comparison]:
    """Comparisons that a model has accepted, one after another."""
    made = []
    for question in questions:
        prompt = Prompt.create((Message("user", question),), tags)
        sides = [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in answers]
        made.append(Comparison.create(prompt, sides, project=project, batch=batch))
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    apply_routings(store, [Routing(c.id, Route.AUTO, Route.AUTO, "sure") for c in made])
    return made


def asked(page) -> list[str]:
    return [row.comparison.prompt.messages[0].content for row in page.rows]


def read_all(store, limit: int, **query) -> list[list[str]]:
    """Every page, one after another."""
    pages, before = [], None
    while True:
        page = list_accepted(store, limit=limit, before=before, **query)
        pages.append(asked(page))
        if page.before is None:
            return pages
        before = page.before


def test_pages_are_whole_newest_first_and_the_last_one_says_so(store):
    accept(store, *(f"Question {i}?" for i in range(7)))
    newest_first = [f"Question {i}?" for i in reversed(range(7))]
    assert read_all(store, 3) == [newest_first[:3], newest_first[3:6], newest_first[6:]]
    assert read_all(store, 7) == [newest_first]
    assert list_accepted(store, limit=7).looked_at == 7
    assert read_all(store, 50) == [newest_first]


def test_without_any_there_is_one_empty_page(store, add_comparisons):
    add_comparisons(store, 2)
    page = list_accepted(store)
    assert (page.rows, page.looked_at, page.before) == ((), 0, None)
    assert count_accepted(store) == {}
    assert count_newer(store, 0) == 0


def test_the_next_page_stands_still_while_others_are_sent_or_accepted(store):
    made = accept(store, *(f"Question {i}?" for i in range(6)))
    lead = people.add_rater(store, "lea", Role.LEAD)
    first = list_accepted(store, limit=2)
    send_to_raters(store, made[5].id, by=Actor(lead.id))  # it was on the first page
    send_to_raters(store, made[2].id, by=Actor(lead.id))  # it is on none yet
    accept(store, "A newer one?")
    assert asked(list_accepted(store, limit=2, before=first.before)) == ["Question 3?", "Question 1?"]
    assert count_newer(store, first.rows[0].seq) == 1


def test_only_the_newest_decision_counts(store):
    made = accept(store, "kept?", "overruled?", "again?")
    human = [Routing(c.id, Route.HUMAN, Route.HUMAN, "unsure", round=2) for c in made[1:]]
    apply_routings(store, human)
    apply_routings(store, [Routing(made[2].id, Route.AUTO, Route.AUTO, "sure again", round=3)])
    page = list_accepted(store)
    assert asked(page) == ["again?", "kept?"]
    assert [row.reason for row in page.rows] == ["sure again", "sure"]
    assert page.rows[0].seq > page.rows[1].seq
    assert sum(count_accepted(store).values()) == 2
    assert count_newer(store, page.rows[1].seq) == 1
    assert load_routes(store, [c.id for c in made] + ["x_none"]) == {
        made[0].id: Route.AUTO,
        made[1].id: Route.HUMAN,
        made[2].id: Route.AUTO,
    }


def test_a_row_has_the_score_it_was_accepted_on(store):
    prompt = Prompt.create((Message("user", "Which?"),))
    sides = [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in ("this", "that")]
    comparison = Comparison.create(prompt, sides)
    with store.write() as conn:
        insert_comparisons(store, conn, [comparison])
    first, second = comparison.completions
    scores = {}
    for name, margin in (("rm_old", 1.0), ("rm_new", 2.0)):
        model = RewardModelRecord(name, "head", "nowhere", "backbone", "hash", simulated=False)
        add_reward_model(store, model)
        scores[name] = Score(comparison.id, name, first.id, second.id, margin, 0.5, 0.9)
        insert_scores(store, [scores[name]])
    apply_routings(store, [Routing(comparison.id, Route.AUTO, Route.AUTO, "sure", reward_model_id="rm_old")])
    [row] = list_accepted(store).rows
    assert row.score is not None
    assert (row.score.reward_model_id, row.score.margin) == ("rm_old", 1.0)


def test_a_project_has_its_own_and_lanes_are_counted(store):
    projects.add_project(store, "coding")
    accept(store, "in Spanish?", language="es")
    accept(store, "Code?", "More code?", project="coding", batch="pilot")
    accept(store, "in no language?")
    assert asked(list_accepted(store, project="coding")) == ["More code?", "Code?"]
    assert asked(list_accepted(store, project="default")) == ["in no language?", "in Spanish?"]
    assert asked(list_accepted(store, project="nowhere")) == []
    assert count_accepted(store) == {("default", "es", ""): 1, ("default", "", ""): 1, ("coding", "", "pilot"): 2}
    assert count_accepted(store, project="coding") == {("coding", "", "pilot"): 2}
    assert count_newer(store, 0, project="coding") == 2


@pytest.mark.parametrize(
    "words",
    ["SUGAR", "sugar  Straße", "STRASSE", "سكر", "'; DROP TABLE routings; --", "100%", "_", '"quoted" \\', "\x00"],
)
def test_words_are_found_in_prompts_and_answers_whatever_their_case_and_are_only_words(store, words):
    text = 'Where is sugar in the Straße? سكر \'; DROP TABLE routings; -- at 100% of a_b "quoted" \\ \x00'.replace(
        "\x00", "" if words != "\x00" else "\ufffd"
    )
    accept(store, "Nothing of it?", text, answers=("yes", "no"))
    accept(store, "In the answer?", answers=("no", text))
    found = asked(list_accepted(store, words=words))
    assert found == ([] if words == "\x00" else ["In the answer?", text])
    assert sum(count_accepted(store).values()) == 3


def test_each_word_must_occur_somewhere_and_an_id_is_found(store):
    made = accept(store, "red apples?", "red pears?", answers=("green", "blue"))
    assert asked(list_accepted(store, words="green red")) == ["red pears?", "red apples?"]
    assert asked(list_accepted(store, words="apples blue")) == ["red apples?"]
    assert asked(list_accepted(store, words="apples pears")) == []
    assert asked(list_accepted(store, words=made[0].id.upper())) == ["red apples?"]
    assert asked(list_accepted(store, words="   ")) == ["red pears?", "red apples?"]


def test_a_search_is_paged_and_says_how_far_it_has_read(store):
    accept(store, *(f"{'needle' if i % 3 == 0 else 'hay'} {i}" for i in range(30)))
    needles = [f"needle {i}" for i in range(27, -1, -3)]
    assert read_all(store, 4, words="needle") == [needles[:4], needles[4:8], needles[8:]]
    page = list_accepted(store, words="needle", limit=2)
    assert page.looked_at == 6, "29 down to 24, where the second one is"
    assert list_accepted(store, words="needle 0", limit=2).looked_at == 30


def test_a_search_returns_in_time_and_goes_on_from_there(store, monkeypatch):
    monkeypatch.setattr("rlhf_hitl.store.accepted.READ_AT_ONCE", 4)
    accept(store, "needle", *(f"hay {i}" for i in range(9)))
    page = list_accepted(store, words="needle", seconds=0)
    assert (page.rows, page.looked_at) == ((), 4)
    assert read_all(store, 25, words="needle", seconds=0) == [[], [], ["needle"]]


def test_what_is_newer_is_counted_up_to_a_cap(store):
    accept(store, *(f"Question {i}?" for i in range(NEWER_CAP + 5)))
    assert count_newer(store, 0) == NEWER_CAP


def test_a_lead_sends_a_comparison_once(store, add_raters):
    [ann] = add_raters(store, 1)
    add_reward_model(store, MODEL)
    [made, other] = accept(store, "Sure?", "Surer?")
    apply_routings(store, [Routing(made.id, Route.AUTO, Route.AUTO, "sure", reward_model_id=MODEL.id, round=4)])
    assert queue.lease(store, ann, seconds=1800) is None
    lead = people.add_rater(store, "lea", Role.LEAD)
    assert send_to_raters(store, made.id, by=Actor(lead.id))
    assert not send_to_raters(store, made.id, by=Actor(lead.id)), "a second click, or another lead's"
    decisions = [d for d in read_routings(store, newest=False) if d.route is Route.ESCALATED]
    assert [(d.comparison_id, d.decided_by, d.reward_model_id) for d in decisions] == [(made.id, lead.id, MODEL.id)]
    [entry] = audit.list_entries(store, actions=["comparison.sent_to_raters"])
    assert (entry.actor, entry.subject) == (lead.id, made.id), "once, however often it was clicked"
    lease = queue.lease(store, ann, seconds=1800)
    assert lease is not None
    assert lease.comparison.route is Route.ESCALATED
    assert asked(list_accepted(store)) == ["Surer?"]
    assert load_routes(store, [other.id]) == {other.id: Route.AUTO}


def test_a_sample_is_drawn_of_all_that_is_accepted_in_a_project(store):
    projects.add_project(store, "other")
    made = accept(store, *(f"Question {i}?" for i in range(30)))
    elsewhere = accept(store, "Elsewhere?", project="other")
    seen, own = set(), {c.id for c in made}
    for _ in range(600):  # one of 30 is still missing after all of them once in 10^36
        drawn = [a.comparison.id for a in sample_accepted(store, project="default", limit=4)]
        assert len(set(drawn)) == 4
        seen |= set(drawn)
        if seen == own:
            break
    assert seen == own
    everything = sample_accepted(store, limit=100)
    assert {a.comparison.id for a in everything} == {c.id for c in (*made, *elsewhere)}
    assert [a.seq for a in everything] == sorted((a.seq for a in everything), reverse=True)


def test_two_leads_at_once_send_it_once(store):
    [made] = accept(store, "Sure?")
    leads = [people.add_rater(store, name, Role.LEAD).id for name in ("lea", "leo")]
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda i: send_to_raters(store, made.id, by=Actor(leads[i % 2])), range(8)))
    assert sorted(map(bool, sent)) == [False] * 7 + [True]
    assert [d.route for d in read_routings(store, newest=False)] == [Route.AUTO, Route.ESCALATED]
    assert queue.count_places(store) == {"filled": 0, "leased": 0, "free": 1}


def test_what_is_not_accepted_is_not_sent(store, add_comparisons):
    [waiting] = add_comparisons(store, 1)
    with pytest.raises(Conflict, match="not accepted any more"):
        send_to_raters(store, waiting.id, by=Actor("r_lea"))
    with pytest.raises(NotFound, match="x_none"):
        send_to_raters(store, "x_none", by=Actor("r_lea"))
    assert read_routings(store) == []


def test_no_page_and_no_count_reads_a_table_from_end_to_end(sqlite_store):
    """Asked of SQLite, which tells its plans; it takes one whatever the tables hold."""
    store = sqlite_store
    accept(store, *(f"Question {i}?" for i in range(5)))
    said: list[str] = []

    def hear(conn, cursor, statement, parameters, context, executemany):
        plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        said.extend(f"{step} | {statement}" for *_, step in plan)

    sa.event.listen(store._engine, "before_cursor_execute", hear)
    for project in (None, "default"):
        first = list_accepted(store, project=project, limit=2)
        list_accepted(store, project=project, before=first.before)
        count_newer(store, first.rows[0].seq, project=project)
        count_accepted(store, project=project)
    sa.event.remove(store._engine, "before_cursor_execute", hear)
    read = {step.partition(" | ")[0] for step in said}
    index = "COVERING INDEX comparisons_accepted"
    assert any(index in step for step in read)
    assert [s for s in read if " comparisons" in s and index not in s and "sqlite_autoindex" not in s] == []
    assert [s for s in read if s.startswith("SCAN routings")] == []


def test_an_override_says_when_what_it_overrides_was_exported(store):
    projects.add_project(store, "other")
    before, after, elsewhere = accept(store, "Before?", "After?", "Elsewhere?")
    lead = people.add_rater(store, "lea", Role.LEAD)
    with store.write() as conn:
        record_export(conn, audit.CLI, "trl", project="other", with_accepted=True)
        record_export(conn, audit.CLI, "trl", project=None, with_accepted=False)
    assert send_to_raters(store, elsewhere.id, by=Actor(lead.id)).exported_at is None
    with store.write() as conn:
        record_export(conn, audit.CLI, "trl", project="default", with_accepted=True)
    apply_routings(store, [Routing(after.id, Route.AUTO, Route.AUTO, "by a newer model")])
    override = send_to_raters(store, before.id, by=Actor(lead.id))
    exported = audit.list_entries(store, actions=["export"])[-1].at
    assert override.exported_at == exported
    decision = read_routings(store, newest=False)[-1]
    assert decision.comparison_id == before.id
    assert f"after the acceptance was exported on {exported:%Y-%m-%d %H:%M} UTC" in decision.reason
    assert audit.list_entries(store)[-1].details == {"exported_at": exported.isoformat()}
    assert send_to_raters(store, after.id, by=Actor(lead.id)).exported_at is None
