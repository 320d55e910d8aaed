"""A store of an earlier version is upgraded with everything in it, on either database."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from rlhf_hitl.store import Store, guidelines, people, queue, tutorial
from rlhf_hitl.store.accepted import count_accepted, list_accepted
from rlhf_hitl.store.catalog import search_catalog
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.db import make_alembic_config
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Answer, Guideline, Reason, Role, Verdict, utc_now
from rlhf_hitl.types.catalog import ComparisonFilter

THEN = datetime(2026, 11, 1, 12, 0, 0, 123456)
LATER = datetime(2036, 1, 1)

PROMPTS = {"p_en": {"language": "English"}, "p_es": {"language": "es", "category": "code"}, "p_none": {}}
#: comparison → (prompt, priority, shuffle, newest round)
LINE = {
    "x_a": ("p_en", 3_000_000, 5, None),
    "x_b": ("p_es", 3_000_000, 4, 2),
    "x_c": ("p_none", 3_000_002, 1, 2),
    "x_d": ("p_en", 1_000_000, 9, 1),
}
#: first by route, then the newest round, then the router's place, then at random
WANTED = ["x_d", "x_b", "x_c", "x_a"]


def fill_0001(conn: sa.Connection) -> None:
    """Insert rows as version 0001 wrote them."""
    old = sa.MetaData()
    old.reflect(conn)
    t = old.tables

    def insert(table: str, *rows: dict[str, Any]) -> None:
        conn.execute(t[table].insert(), list(rows))

    rater = {"role": "rater", "simulated": False, "source": "", "created_at": THEN}
    insert("raters", *({"id": f"r_{n}", "name": n, "password_hash": f"hash of {n}"} | rater for n in ("ann", "bob")))
    for id, tags in PROMPTS.items():
        row = {"id": id, "family": id, "split": "train", "messages": [{"role": "user", "content": f"¿{id}?"}]}
        insert("prompts", row | {"tags": tags, "source": "file", "created_at": THEN})
        sides = [{"id": f"c_{id}_{k}", "messages": [{"role": "assistant", "content": k}]} for k in "yn"]
        more = {"prompt_id": id, "policy": "p", "sampling": {"temperature": 0.7}, "created_at": THEN}
        insert("completions", *(side | more for side in sides))
    for id, (prompt, priority, shuffle, round) in LINE.items():
        row = {"id": id, "prompt_id": prompt, "completion_ids": [f"c_{prompt}_n", f"c_{prompt}_y"], "overlap": 2}
        insert("comparisons", row | {"route": "human", "source": "file", "created_at": THEN})
        for n in range(2):
            insert("places", {"comparison_id": id, "n": n, "priority": priority, "shuffle": shuffle})
        for newest in [] if round is None else [0, round]:
            row = {"comparison_id": id, "route": "human", "proposed": "human", "round": newest, "place_in_line": 0}
            insert("routings", row | {"reason": "", "created_at": THEN})
    # ann has judged x_d once and corrected herself, and holds x_b.
    for id, at, place in (("l_d", "x_d", 0), ("l_b", "x_b", 0)):
        row = {"id": id, "comparison_id": at, "rater_id": "r_ann", "place": place, "route": "human"}
        shown = [f"c_{LINE[at][0]}_y", f"c_{LINE[at][0]}_n"]
        insert("leases", row | {"order_shown": shown, "leased_at": THEN, "expires_at": LATER})
    first = {
        "comparison_id": "x_d", "rater_id": "r_ann", "verdict": "ranked", "ranking": [["c_p_en_y"], ["c_p_en_n"]],
        "scores": {"helpful": 3}, "rationale": "“well”", "rewrite": "", "order_shown": ["c_p_en_y", "c_p_en_n"],
        "route": "human", "guideline_version": "g", "interface_version": "i", "source": "", "simulated": False,
        "surplus": False, "created_at": THEN,
    }  # fmt: skip
    insert("judgments", first | {"id": "j_1", "lease_id": "l_d", "strength": 2, "idempotency_key": "k1"})
    second = {"id": "j_2", "verdict": "all_bad", "ranking": [], "supersedes": "j_1", "idempotency_key": "k2"}
    insert("judgments", first | second)
    places = t["places"]
    filled, held = (
        (places.c.comparison_id == "x_d", places.c.n == 0),
        (places.c.comparison_id == "x_b", places.c.n == 0),
    )
    conn.execute(places.update().where(*filled).values(rater_id="r_ann", lease_id="l_d", judgment_id="j_1"))
    conn.execute(places.update().where(*held).values(rater_id="r_ann", lease_id="l_b", leased_until=LATER))


def fill_0002(conn: sa.Connection) -> None:
    """Insert what version 0002 added to the upgraded rows of 0001: a project, and a lease of bob in it."""
    old = sa.MetaData()
    old.reflect(conn)
    t = old.tables
    conn.execute(t["projects"].insert().values(id="coding", open=False, repeat_every=9, created_at=THEN))
    conn.execute(t["members"].insert().values(project_id="coding", rater_id="r_bob"))
    conn.execute(t["lanes"].insert().values(project_id="coding", language="", batch="b"))
    lane = conn.execute(sa.select(t["lanes"].c.id).where(t["lanes"].c.project_id == "coding")).scalar_one()
    row = {"id": "x_code", "prompt_id": "p_none", "completion_ids": ["c_p_none_n", "c_p_none_y"], "overlap": 1}
    row |= {"route": "human", "source": "", "created_at": THEN, "lane_id": lane}
    conn.execute(t["comparisons"].insert().values(row))
    lease = {"id": "l_code", "comparison_id": "x_code", "rater_id": "r_bob", "place": 0, "route": "human"}
    lease |= {"order_shown": row["completion_ids"], "leased_at": THEN, "expires_at": LATER}
    conn.execute(t["leases"].insert().values(lease))
    place = {"comparison_id": "x_code", "n": 0, "lane_id": lane, "position": 1, "rater_id": "r_bob"}
    conn.execute(t["places"].insert().values(place | {"lease_id": "l_code", "leased_until": LATER}))


def fill_0007(conn: sa.Connection) -> None:
    """Insert two comparisons that a model had accepted, one of them twice, and one that a lead had sent to raters."""
    old = sa.MetaData()
    old.reflect(conn)
    t = old.tables
    lane = conn.execute(sa.select(t["lanes"].c.id).where(t["lanes"].c.project_id == "coding")).scalar_one()
    decided = {"once": ["auto"], "twice": ["auto", "human", "auto"], "sent": ["auto", "escalated"]}
    for name, routes in decided.items():
        row = {"id": f"x_{name}", "prompt_id": "p_none", "completion_ids": ["c_p_none_n", "c_p_none_y"], "overlap": 1}
        row |= {"route": routes[-1], "source": "", "created_at": THEN, "lane_id": lane}
        conn.execute(t["comparisons"].insert().values(row))
    for name, routes in decided.items():
        for n, route in enumerate(routes):
            row = {"comparison_id": f"x_{name}", "route": route, "proposed": "auto", "round": n, "place_in_line": 0}
            conn.execute(t["routings"].insert().values(row | {"reason": f"{name} {n}", "created_at": THEN}))


def fill_0013(conn: sa.Connection) -> None:
    """Insert what the catalog of version 0013 said of a comparison, in a store whose catalog has seen everything."""
    term = "INSERT INTO catalog_terms (facet, value) VALUES ('language', 'es') RETURNING id"
    id = conn.exec_driver_sql(term).scalar_one()
    if conn.dialect.name == "sqlite":
        terms, words = f"' {id} '", f"INSERT INTO catalog_words (rowid, words) VALUES (1, ' ¤{id} birds ')"
    else:
        terms, words = f"'{{{id}}}'", "INSERT INTO catalog_words VALUES (1, array_to_tsvector(ARRAY['birds']))"
    conn.exec_driver_sql(f"INSERT INTO catalog VALUES (1, 'x_b', {terms}, 0, NULL)")
    conn.exec_driver_sql(words)
    conn.exec_driver_sql("DELETE FROM catalog_changes")


FILL = {"0001": fill_0001, "0002": fill_0002, "0007": fill_0007, "0013": fill_0013}


def as_it_was(url: str, version: str) -> None:
    """Create a store of an earlier version by upgrading one of the first version."""
    parsed = sa.make_url(url)
    engine = sa.create_engine(parsed.set(drivername="postgresql+psycopg") if "postgres" in url else parsed)
    for step in (v for v in FILL if v <= version):
        with engine.begin() as conn:
            config = make_alembic_config()
            config.attributes["connection"] = conn
            command.upgrade(config, step)
        with engine.begin() as conn:
            FILL[step](conn)
    engine.dispose()


@pytest.fixture
def upgraded(empty_url):
    as_it_was(empty_url, "0001")
    with Store.open(empty_url, create=True) as store:
        yield store


@pytest.fixture
def upgraded_from_0002(empty_url):
    as_it_was(empty_url, "0002")
    with Store.open(empty_url, create=True) as store:
        yield store


def test_judgments_survive_an_upgrade_word_for_word(upgraded):
    first, second = read_judgments(upgraded, current=False)
    assert (first.id, first.answer.verdict, first.answer.strength) == ("j_1", Verdict.RANKED, 2)
    assert first.answer.ranking == (("c_p_en_y",), ("c_p_en_n",))
    assert (first.answer.scores, first.answer.rationale) == ({"helpful": 3}, "“well”")
    assert first.created_at.replace(tzinfo=None) == THEN
    assert (second.supersedes, second.answer.verdict) == ("j_1", Verdict.ALL_BAD)
    ann = people.get_rater_by_name(upgraded, "ann")
    assert (ann.role, ann.languages, ann.quota, ann.paused) == (Role.RATER, None, None, False)


def test_comparisons_are_in_the_lane_of_their_language(upgraded):
    comparisons = {c.id: c for c in find_comparisons(upgraded)}
    assert set(comparisons) == set(LINE)
    assert {c.project for c in comparisons.values()} == {"default"}
    assert {lane.language: lane.filled + lane.leased + lane.free for lane in queue.count_places_by_lane(upgraded)} == {
        "": 2, "english": 4, "es": 2,
    }  # fmt: skip


def test_the_order_of_the_queue_and_the_leases_survive_an_upgrade(upgraded):
    order = [lease.comparison.id for lease in queue.lease_many(upgraded, "r_bob", 9, seconds=1800)]
    assert order == WANTED
    mine = queue.lease_many(upgraded, "r_ann", 9, seconds=1800)
    assert mine[0].id == "l_b"
    assert [lease.comparison.id for lease in mine] == ["x_b", "x_c", "x_a"], "x_d she has judged"


def test_a_lease_from_before_an_upgrade_can_be_answered_after_it(upgraded):
    receipt = queue.submit(upgraded, "l_b", "r_ann", Answer(Verdict.SKIPPED))
    assert receipt.outcome == "counted"
    assert queue.submit(upgraded, "l_b", "r_ann", Answer(Verdict.SKIPPED)).outcome == "repeated"
    assert [j.seq for j in read_judgments(upgraded, current=False)] == [1, 2, 3]


def test_new_comparisons_join_existing_lanes(upgraded, add_comparisons):
    add_comparisons(upgraded, 1)
    assert {lane.language for lane in queue.count_places_by_lane(upgraded)} == {"", "english", "es"}
    assert queue.lease(upgraded, "r_bob", now=utc_now() + timedelta(days=1), seconds=1800) is not None


def test_a_lease_from_before_an_upgrade_keeps_its_guideline(upgraded_from_0002):
    store = upgraded_from_0002
    guidelines.publish_guideline(store, Guideline("coding", "1", "New."))
    [held] = queue.lease_many(store, "r_bob", 1, seconds=1800)
    assert (held.id, held.comparison.project, held.comparison.batch) == ("l_code", "coding", "b")
    assert held.guideline_version == "default-1"
    skip = Answer(Verdict.SKIPPED, reason=Reason.SUBJECT)
    assert queue.submit(store, "l_code", "r_bob", skip).outcome == "counted"
    assert queue.submit(store, "l_b", "r_ann", skip).outcome == "counted"
    judgments = list(read_judgments(store, current=False))
    assert [j.guideline_version for j in judgments] == ["g", "g", "default-1", "default-1"]
    assert [j.answer.reason for j in judgments] == [None, None, Reason.SUBJECT, Reason.SUBJECT]
    assert guidelines.get_current_guideline(store).version == "default-1"
    assert tutorial.list_examples(store, "coding") == []


def test_an_upgrade_runs_once(upgraded):
    with Store.open(upgraded.url, create=True) as again:
        assert again.read_version() == again.schema_version
    assert len(list(read_judgments(upgraded, current=False))) == 2


def test_what_was_accepted_before_is_listed_by_its_newest_decision(empty_url):
    as_it_was(empty_url, "0007")
    with Store.open(empty_url, create=True) as store:
        page = list_accepted(store)
        assert [(row.comparison.id, row.reason) for row in page.rows] == [("x_twice", "twice 2"), ("x_once", "once 0")]
        assert count_accepted(store) == {("coding", "", "b"): 2}


def test_a_catalog_from_before_its_terms_stood_among_its_words_finds_what_has_both(empty_url):
    as_it_was(empty_url, "0013")
    with Store.open(empty_url, create=True) as store:
        for words, language, found in (("birds", "es", ["x_b"]), ("bird*", "es", ["x_b"]), ("birds", "en", [])):
            page = search_catalog(store, ComparisonFilter(words=words, language=(language,)))
            assert [hit.comparison.id for hit in page.hits] == found
