"""The store opens, upgrades, counts and refuses the same way on either database."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from rlhf_hitl.errors import LAUNCHED, BadInput, NotFound
from rlhf_hitl.store import Store, StoreFailure, people, queue, runs, sign_in, tables
from rlhf_hitl.store.comparisons import (
    ROWS_PER_QUERY,
    count_rows,
    find_comparisons,
    insert_comparisons,
    insert_prompts,
    list_prompts,
)
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.loop_steps import finish_step, read_finished_steps
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model, get_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, read_routings
from rlhf_hitl.store.runs import RunOutcome, read_runs, record_run
from rlhf_hitl.store.scores import insert_scores, read_scores
from rlhf_hitl.types import (
    SPLIT_SHARES,
    Answer,
    Comparison,
    Completion,
    Message,
    Prompt,
    Role,
    Route,
    Score,
    Split,
    Verdict,
    hash_prompt_family,
    split_for_family,
)


def prompt(text: str, split: Split | None = None, **tags: str) -> Prompt:
    return Prompt.create((Message("user", text),), tags, split)


def add_prompts(store, *new: Prompt) -> int:
    with store.write() as conn:
        return insert_prompts(store, conn, new)


def add_judgment(store) -> None:
    rater = people.add_rater(store, "ann", Role.RATER).id
    lease = queue.lease(store, rater, seconds=1800)
    assert lease is not None
    queue.submit(store, lease.id, rater, Answer(Verdict.SKIPPED))


# Opening


def test_a_store_is_created_on_request_and_opens_again(empty_url):
    Store.open(empty_url, create=True).close()
    store = Store.open(empty_url)
    assert count_rows(store) == {"prompts": 0, "completions": 0, "comparisons": 0, "judgments": 0, "raters": 0}
    store.close()


def test_a_store_that_is_missing_is_not_made_by_opening_it(empty_url, tmp_path):
    with pytest.raises(BadInput, match="rlhf-hitl init"):
        Store.open(empty_url)
    assert list(tmp_path.iterdir()) == []


def test_creating_a_store_twice_keeps_what_is_in_it(store, store_url):
    add_prompts(store, prompt("Hello?"))
    again = Store.open(store_url, create=True)
    assert count_rows(again)["prompts"] == 1
    again.close()


def test_two_processes_that_create_one_store_at_once_both_get_it(empty_url):
    script = "import sys; from rlhf_hitl.store import Store; input(); Store.open(sys.argv[1], create=True).close()"
    command = [sys.executable, "-c", script, empty_url]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    with both[0], both[1]:
        for process in both:  # imported by now or soon: they set out as near together as can be had
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in both:
            _, output = process.communicate(timeout=60)
            assert process.returncode == 0, output
    store = Store.open(empty_url)
    assert count_rows(store)["prompts"] == 0
    store.close()


def test_threads_that_create_stores_of_their_own_at_once_all_get_theirs(tmp_path):
    urls = [f"sqlite:///{tmp_path}/{i}.db" for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda url: Store.open(url, create=True), urls))
    for store in stores:
        assert count_rows(store)["prompts"] == 0
        store.close()


def test_the_tables_are_those_the_migrations_make(store):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def is_compared(_object, name, kind, *_) -> bool:
        # Each database has words of its own kind, and PostgreSQL's indexes are not on SQLite.
        left_out = {
            "table": ("catalog_words", "catalog_seen"),
            "index": "catalog_by_" if store.is_sqlite else None,
        }.get(kind)
        return left_out is None or not name.startswith(left_out)

    with store.read() as conn:
        context = MigrationContext.configure(conn, opts={"include_object": is_compared})
        assert compare_metadata(context, tables.metadata) == []


def set_version(store, version: str) -> None:
    with store.write() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": version})


@pytest.mark.parametrize("create", [True, False])
def test_a_store_of_a_newer_version_is_refused(store, store_url, create):
    set_version(store, "9999")
    with pytest.raises(BadInput, match=r"version 9999.*upgrade rlhf_hitl"):
        Store.open(store_url, create=create)


def test_a_store_of_an_older_version_asks_for_init_which_upgrades_it(empty_url):
    from alembic import command

    from rlhf_hitl.store.db import make_alembic_config
    from rlhf_hitl.store.engines import create_engine

    engine = create_engine(empty_url, create=True)
    with engine.begin() as conn:
        config = make_alembic_config()
        config.attributes["connection"] = conn
        command.ensure_version(config)
    engine.dispose()
    with pytest.raises(BadInput, match="rlhf-hitl init"):
        Store.open(empty_url)
    Store.open(empty_url, create=True).close()
    Store.open(empty_url).close()


@pytest.mark.parametrize("url", ["not a url", "mysql://host/db", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_is_not_a_store_is_refused_with_an_example(url):
    with pytest.raises(BadInput, match="Fix: "):
        Store.open(url, create=True)


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_not_a_database_is_refused_and_not_changed(tmp_path, create):
    path = tmp_path / "notes.db"
    path.write_text("these are my notes, not a database. " * 100)
    with pytest.raises(BadInput, match="a database that can be opened"):
        Store.open(f"sqlite:///{path}", create=create)
    assert path.read_text().startswith("these are my notes")


def test_a_server_that_does_not_answer_is_bad_input_and_its_password_is_not_shown(tmp_path):
    url = f"postgresql://ann:secret-word@/db?host={tmp_path}"
    with pytest.raises(BadInput, match="can be opened") as caught:
        Store.open(url)
    assert "secret-word" not in str(caught.value)


def test_a_write_that_fails_changes_nothing(store):
    def stop_half_way():
        with store.write() as conn:
            insert_prompts(store, conn, [prompt("Hello?")])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_half_way()
    assert count_rows(store)["prompts"] == 0


def test_a_full_disk_is_a_store_failure_and_nothing_is_half_written(sqlite_store):
    with sqlite_store.read() as conn:
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()

    def fill_up():
        with sqlite_store.write() as conn:
            conn.exec_driver_sql(f"PRAGMA max_page_count = {pages + 5}")
            insert_prompts(sqlite_store, conn, [prompt(f"{i}" * 2000) for i in range(1, 50)])

    with pytest.raises(StoreFailure, match="full"):
        fill_up()
    assert count_rows(sqlite_store)["prompts"] == 0


def test_a_reader_is_not_held_up_by_a_writer(store):
    with store.write() as conn:
        insert_prompts(store, conn, [prompt("Hello?")])
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(count_rows, store).result(timeout=10)["prompts"] == 0


def test_a_judgment_is_safe_from_a_power_cut(sqlite_store):
    with sqlite_store.read() as conn:
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2


# Append-only


@pytest.mark.parametrize("change", ["UPDATE judgments SET rationale = 'changed'", "DELETE FROM judgments"])
def test_a_judgment_cannot_be_changed_or_deleted(store, add_comparisons, change):
    add_comparisons(store, 1)
    add_judgment(store)
    with pytest.raises((StoreFailure, DBAPIError), match="append-only"), store.write() as conn:
        conn.execute(sa.text(change))
    [kept] = read_judgments(store)
    assert kept.answer.rationale == ""


def test_judgments_cannot_be_truncated(postgres_url, add_comparisons):
    store = Store.open(postgres_url)
    with pytest.raises(DBAPIError, match="append-only"), store.write() as conn:
        conn.execute(sa.text("TRUNCATE judgments"))
    store.close()


def test_another_program_cannot_change_a_judgment_either(sqlite_store, sqlite_url, add_comparisons):
    add_comparisons(sqlite_store, 1)
    add_judgment(sqlite_store)
    outside = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        outside.execute("DELETE FROM judgments")
    outside.close()


# Prompts and splits


def test_inserting_existing_rows_adds_nothing_and_returns_zero(store):
    assert add_prompts(store, prompt("One?"), prompt("Two?")) == 2
    assert add_prompts(store, prompt("Two?"), prompt("Three?")) == 1
    assert len(list_prompts(store)) == 3


def test_a_prompt_is_read_as_it_was_inserted(store):
    put = Prompt.create((Message("system", "Be kind."), Message("user", "Grüße 🙂?")), {"topic": "greeting"})
    add_prompts(store, put)
    assert list_prompts(store) == [put]


@pytest.mark.parametrize("later", list(Split))
def test_prompts_of_one_family_stay_in_the_split_the_first_had(store, later):
    add_prompts(store, prompt("What is  tea?", Split.HELDOUT))
    add_prompts(store, Prompt.create((Message("user", "what IS tea?"), Message("assistant", "A drink.")), split=later))
    assert {p.split for p in list_prompts(store)} == {Split.HELDOUT}


def test_a_family_stays_together_within_one_batch(store):
    add_prompts(store, prompt("Tea?", Split.CALIBRATION), prompt("tea?", Split.TRAIN), prompt(" TEA? ", Split.HELDOUT))
    assert [p.split for p in list_prompts(store)] == [Split.CALIBRATION] * 3


def test_a_family_stays_together_when_two_imports_run_at_once(store):
    def bring(i: int) -> None:
        spelling = "tea and cake?" if i % 2 else "Tea and Cake?"
        add_prompts(store, prompt(spelling + " " * i, list(Split)[i % 3]))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(bring, range(6)))
    assert len(list_prompts(store)) == 6
    assert len({p.split for p in list_prompts(store)}) == 1


def test_the_split_is_a_fixed_function_of_the_family():
    # These must never change: a prompt held out in one store would be trained on in another.
    expected = {"coffee": Split.TRAIN, "water": Split.TRAIN, "bread": Split.HELDOUT, "8": Split.CALIBRATION}
    assert {text: split_for_family(hash_prompt_family((Message("user", text),))) for text in expected} == expected


def test_the_shares_of_the_splits_are_those_announced():
    splits = [prompt(f"Question {i}?").split for i in range(5000)]
    assert sum(SPLIT_SHARES.values()) == pytest.approx(1)
    for split, share in SPLIT_SHARES.items():
        assert splits.count(split) / 5000 == pytest.approx(share, abs=0.02)


# Comparisons


def test_a_comparison_is_read_as_it_was_inserted(store):
    asked = prompt("Tea?", None, topic="drinks")
    answers = [
        Completion.create(asked.id, (Message("assistant", t),), "policy", {"temperature": 0.7, "seed": 1})
        for t in ("Yes.", "No.", "Later.")
    ]
    put = Comparison.create(asked, answers, overlap=2, route=Route.CONTROL)
    with store.write() as conn:
        assert insert_comparisons(store, conn, [put], source="test") == 1
        assert insert_comparisons(store, conn, [put, put], source="test") == 0
    assert list(find_comparisons(store)) == [put]
    assert queue.count_places(store)["free"] == 2


def test_comparisons_of_one_pair_do_not_depend_on_the_order_given(store):
    asked = prompt("Tea?")
    a, b = (Completion.create(asked.id, (Message("assistant", t),), "p") for t in ("Yes.", "No."))
    assert Comparison.create(asked, [a, b]) == Comparison.create(asked, [b, a])


def test_find_meets_every_condition_at_once(store, add_comparisons):
    added = add_comparisons(store, 20)
    accepted = add_comparisons(store, 5, route=Route.AUTO, first=20)
    add_judgment(store)
    [judged] = [j.comparison_id for j in read_judgments(store)]
    ids = sorted(c.id for c in added + accepted)
    assert [c.id for c in find_comparisons(store)] == ids
    assert [c.id for c in find_comparisons(store, routes=[Route.AUTO])] == sorted(c.id for c in accepted)
    assert [c.id for c in find_comparisons(store, judged=True)] == [judged]
    assert judged not in {c.id for c in find_comparisons(store, judged=False)}
    assert [c.id for c in find_comparisons(store, ids=[judged, accepted[0].id], routes=[Route.AUTO])] == [
        accepted[0].id
    ]
    assert {c.prompt.split for c in find_comparisons(store, split=Split.TRAIN)} == {Split.TRAIN}
    assert list(find_comparisons(store, source="elsewhere")) == []
    assert list(find_comparisons(store, ids=["x_none"])) == []


def test_find_pages_through_more_than_one_batch(sqlite_store, add_comparisons):
    added = add_comparisons(sqlite_store, ROWS_PER_QUERY + 3)
    assert [c.id for c in find_comparisons(sqlite_store)] == sorted(c.id for c in added)


# People


def test_a_rater_signs_in_with_their_password_and_no_other(store):
    ann = people.add_rater(store, "Ann", Role.LEAD, "correct horse")
    assert sign_in.verify_password(store, "Ann", "correct horse").rater == ann
    assert sign_in.verify_password(store, "Ann", "wrong horse") is None
    assert sign_in.verify_password(store, "Bob", "correct horse") is None


def test_a_rater_without_a_password_or_disabled_cannot_sign_in(store):
    people.add_rater(store, "robot", Role.RATER, simulated=True)
    people.add_rater(store, "Ann", Role.RATER, "correct horse")
    people.change_rater(store, "Ann", disabled=True)
    assert sign_in.verify_password(store, "robot", "") is None
    assert sign_in.verify_password(store, "Ann", "correct horse") is None
    assert {r.name: r.disabled for r in people.list_raters(store)} == {"Ann": True, "robot": False}


def test_the_state_of_a_rater_is_one_word(store):
    assert people.add_rater(store, "Ann", Role.RATER).state == "active"
    assert people.add_rater(store, "robot", Role.RATER, simulated=True).state == "simulated"
    assert people.change_rater(store, "robot", paused=True).state == "paused"
    assert people.change_rater(store, "robot", disabled=True).state == "disabled"
    with store.write() as conn:
        people.insert_imported_raters(store, conn, ["judge"], "hh")
    assert people.get_rater_by_name(store, "hh:judge").state == "imported"


def test_a_changed_password_replaces_the_old_one(store):
    people.add_rater(store, "Ann", Role.RATER, "correct horse")
    sign_in.set_password(store, "Ann", "battery staple")
    assert sign_in.verify_password(store, "Ann", "correct horse") is None
    assert sign_in.verify_password(store, "Ann", "battery staple") is not None


def test_passwords_are_kept_as_argon2_hashes(store):
    people.add_rater(store, "Ann", Role.RATER, "correct horse")
    with store.read() as conn:
        assert conn.execute(sa.select(tables.raters.c.password_hash)).scalar_one().startswith("$argon2id$")


def test_a_name_that_is_taken_or_empty_and_a_short_password_are_refused(store):
    people.add_rater(store, "Ann", Role.RATER)
    for name, password, message in (("Ann", None, "free"), (" ", None, "a name"), ("Bob", "short", "eight")):
        with pytest.raises(BadInput, match=message):
            people.add_rater(store, name, Role.RATER, password)
    assert [r.name for r in people.list_raters(store)] == ["Ann"]


def test_an_unknown_rater_cannot_be_disabled_given_a_password_or_looked_up(store):
    with pytest.raises(NotFound, match="Bob"):
        people.change_rater(store, "Bob", disabled=True)
    with pytest.raises(NotFound, match="Bob"):
        sign_in.set_password(store, "Bob", "correct horse")
    with pytest.raises(NotFound, match="r_none"):
        people.get_rater(store, "r_none")


# What models said


def model(name: str = "m1") -> RewardModelRecord:
    return RewardModelRecord(name, "head", f"models/{name}", "tiny", "hash", False, {"accuracy": 0.7})


def test_the_newest_reward_model_is_the_one_used_unless_named(store):
    with pytest.raises(NotFound, match="train-reward"):
        get_reward_model(store)
    first, second = (add_reward_model(store, model(id)) for id in ("m1", "m2"))
    assert get_reward_model(store) == second
    assert get_reward_model(store, "m1") == first
    with pytest.raises(NotFound, match="m3"):
        get_reward_model(store, "m3")


def test_scores_are_read_as_they_were_inserted_and_tell_what_is_unscored(store, add_comparisons):
    first, second = add_comparisons(store, 2)
    a, b = (c.id for c in first.completions)
    add_reward_model(store, model())
    score = Score(first.id, "m1", a, b, 0.1234567890123, 0.5, 0.53, {a: 1.5, b: 1.25})
    assert insert_scores(store, [score]) == 1
    assert read_scores(store, "m1") == [score]
    assert [c.id for c in find_comparisons(store, unscored_by="m1")] == [second.id]


def test_a_routing_is_read_as_it_was_applied(store, add_comparisons):
    [comparison] = add_comparisons(store, 1)
    add_reward_model(store, model())
    decision = Routing(comparison.id, Route.CONTROL, Route.AUTO, "control draw", "m1", round=3)
    apply_routings(store, [decision])
    assert read_routings(store) == read_routings(store, round=3) == [decision]
    assert read_routings(store, round=2) == []


def test_a_finished_step_is_kept_and_not_overwritten(store):
    finish_step(store, 1, "train", {"pairs": 10}, 2.5)
    finish_step(store, 1, "train", {"pairs": 99}, 9.9)
    assert read_finished_steps(store) == {(1, "train"): {"pairs": 10, "seconds": 2.5}}


@pytest.mark.parametrize(
    ("stops", "outcome"),
    [(None, RunOutcome.FINISHED), (BadInput, RunOutcome.FAILED), (KeyboardInterrupt, RunOutcome.INTERRUPTED)],
)
def test_a_run_counts_however_it_ends(store, stops, outcome):
    begun = time.monotonic()
    with contextlib.suppress(BadInput, KeyboardInterrupt), record_run(store, "loop", round=2, step="evaluate"):
        if stops is not None:
            raise stops("x", expected="y", fix="z") if stops is BadInput else stops
    [run] = read_runs(store)
    assert (run.command, run.round, run.step, run.outcome) == ("loop", 2, "evaluate", outcome)
    assert 0 < run.seconds <= time.monotonic() - begun
    assert run.device


def test_a_run_that_is_killed_counts_up_to_when_it_was_last_saved(store, monkeypatch):
    monkeypatch.setattr(runs, "SAVE_SECONDS", 0.01)
    seen = []
    with record_run(store, "train-reward"):
        while not seen or seen[-1].seconds <= seen[0].seconds:
            seen += read_runs(store)
    assert all(run.outcome is None and run.device == "" for run in seen)


def test_no_second_counts_twice(store, monkeypatch):
    with record_run(store, "loop"), record_run(store, "train-dpo"):
        pass
    for variable, value in (
        (LAUNCHED, "1"),
        ("LOCAL_RANK", "1"),
    ):  # launched by a command; another process of a machine
        with monkeypatch.context() as changed:
            changed.setenv(variable, value)
            with record_run(store, "train-dpo"):
                pass
    monkeypatch.setenv("LOCAL_RANK", "0")
    with record_run(store, "score"):
        pass
    assert [run.command for run in read_runs(store)] == ["loop", "score"]


def test_where_a_run_cannot_be_recorded_the_work_is_done_and_a_line_says_so(sqlite_store, caplog):
    refuse = "CREATE TRIGGER full BEFORE {} ON runs BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    with record_run(sqlite_store, "score"), sqlite_store.write() as conn:
        conn.exec_driver_sql(refuse.format("UPDATE"))
    assert "this score is not counted to its end" in caplog.text
    with sqlite_store.write() as conn:
        conn.exec_driver_sql(refuse.replace("full", "fuller", 1).format("INSERT"))
    done = []
    with record_run(sqlite_store, "route"):
        done.append("route")
    assert done == ["route"]
    assert "this route is not counted: " in caplog.text
    assert "the disk is full" in caplog.text
