"""When the disk is full, the database gone or the clock wrong: a clear error, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from forked_processes import run_module
from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import Store, StoreFailure, engines, people, queue, tokens, webhooks
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.webhooks.sender import WebhookSender
from rlhf_hitl.types import Answer, Event, Role, Scope, Verdict, utc_now

SKIP = Answer(Verdict.SKIPPED)

UNTIL_FULL = """
import json, resource, sys
from pathlib import Path
from rlhf_hitl.api.health import check_readiness
from rlhf_hitl.store import Store, StoreFailure, queue
from rlhf_hitl.types import Answer, Verdict

url, path, rater = sys.argv[1:]
most = max(p.stat().st_size for p in Path(path).parent.glob("preferences.db*")) + 60_000
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
store, kept = Store.open(url), []
try:
    while True:
        lease = queue.lease(store, rater, seconds=60)
        answer = Answer(Verdict.SKIPPED, rationale="x" * 5000)
        kept.append(queue.submit(store, lease.id, rater, answer).judgment_id)
        print(json.dumps(kept[-1]), flush=True)
except StoreFailure as e:
    # A page or two may still fit where the larger judgment did not.
    is_ready = all(check_readiness(store)[0] for _ in range(50))
    print(json.dumps({"error": str(e), "ready": is_ready}), flush=True)
"""


def test_a_full_disk_is_an_error_and_loses_nothing_that_was_acknowledged(
    sqlite_url, tmp_path, add_comparisons, add_raters
):
    with Store.open(sqlite_url) as store:
        add_comparisons(store, 200)
        [ann] = add_raters(store, 1)
    (tmp_path / "until_full.py").write_text(UNTIL_FULL)
    run = run_module(str(tmp_path / "until_full.py"), sqlite_url, tmp_path / "preferences.db", ann)
    *acknowledged, last = [json.loads(line) for line in run.stdout.splitlines()]
    assert "nothing was changed" in last["error"], run.stderr
    assert not last["ready"], "a server whose disk is full gets no requests"
    assert "Traceback" not in run.stderr
    assert acknowledged
    with Store.open(sqlite_url) as store:
        assert [j.id for j in read_judgments(store)] == acknowledged
        lease = queue.lease(store, ann, seconds=1800)
        assert queue.submit(store, lease.id, ann, SKIP).outcome == "counted", "with room again it goes on"


def _add_ann_without_rights(url: str, result) -> None:
    if os.geteuid() == 0:  # who may do everything has to become somebody who may not
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        with Store.open(url) as store:
            people.add_rater(store, "ann", Role.RATER)
    except (BadInput, StoreFailure) as e:
        result.send(str(e))
    else:
        result.send("it was written")


def test_a_read_only_store_is_refused_with_its_name(sqlite_url, tmp_path, add_comparisons):
    with Store.open(sqlite_url) as store:
        add_comparisons(store, 1)
    for folder in tmp_path.parents[:3]:  # pytest's own are closed to others
        folder.chmod(0o755)
    files = [*tmp_path.glob("preferences.db*"), tmp_path]
    for file in files:
        file.chmod(0o555 if file.is_dir() else 0o444)
    try:
        processes = multiprocessing.get_context("fork")
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=_add_ann_without_rights, args=(sqlite_url, sender))
        process.start()
        line = receiver.recv() if receiver.poll(60) else "nothing"
        process.join()
    finally:
        for file in files:
            file.chmod(0o755 if file.is_dir() else 0o644)
    assert str(tmp_path) in line
    assert "Fix:" in line
    with Store.open(sqlite_url) as store:
        assert people.list_raters(store) == []


def test_a_connection_cut_during_a_submit_is_an_error_and_the_same_key_counts_once(
    postgres_url, add_comparisons, add_raters
):
    with Store.open(postgres_url) as store, Store.open(postgres_url) as other:
        add_comparisons(store, 1)
        [ann] = add_raters(store, 1)
        lease = queue.lease(store, ann, seconds=1800)
        with other.write() as conn:  # the submit waits for this transaction, and is cut while it waits
            other.lock(conn, "judgments")
            with ThreadPoolExecutor(1) as pool:
                submitted = pool.submit(queue.submit, store, lease.id, ann, SKIP)
                waiting = (
                    "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
                )
                while not (pids := conn.exec_driver_sql(waiting).scalars().all()):
                    assert not submitted.done()
                conn.exec_driver_sql(f"SELECT pg_terminate_backend({pids[0]})")
                with pytest.raises(StoreFailure, match="store"):
                    submitted.result(timeout=60)
        assert list(read_judgments(store)) == []
        assert queue.submit(store, lease.id, ann, SKIP).outcome == "counted"
        assert queue.submit(store, lease.id, ann, SKIP).outcome == "repeated"


def test_a_store_reconnects_after_its_database_restarts(postgres_url, add_comparisons, add_raters):
    with Store.open(postgres_url) as store, Store.open(postgres_url) as other:
        add_comparisons(store, 1)
        [ann] = add_raters(store, 1)
        lease = queue.lease(store, ann, seconds=1800)
        with other.write() as conn:
            others = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
            )
            conn.exec_driver_sql(others + "pg_backend_pid()")
        for _ in range(3):  # what was pooled is cut; a caller who tries again gets through
            try:
                outcome = queue.submit(store, lease.id, ann, SKIP).outcome
                break
            except StoreFailure:
                continue
        assert outcome == "counted"


def test_a_standby_is_reported_as_read_only_and_ends_no_thread(postgres_url, tmp_path, add_comparisons, add_raters):
    with Store.open(postgres_url) as store:
        add_comparisons(store, 1)
        [ann] = add_raters(store, 1)
        lease = queue.lease(store, ann, seconds=1800)
        webhooks.add_webhook(store, "http://127.0.0.1:1/", [Event.ALERT_RAISED])
        with store.write() as conn:
            webhooks.enqueue_event(conn, Event.ALERT_RAISED, {})
        name = sa.make_url(postgres_url).database
        with store.write() as conn:
            conn.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with Store.open(postgres_url) as store:
        with pytest.raises(StoreFailure, match="read-only"):
            queue.submit(store, lease.id, ann, SKIP)
        with pytest.raises(StoreFailure):
            WebhookSender(store).send_due()
        with TestClient(
            create_headless_app(store, Settings(workspace=tmp_path)), raise_server_exceptions=False
        ) as client:
            assert client.get("/readyz").status_code == 503
            assert client.post("/login", data={"name": "x", "password": "y"}).status_code == 503
            assert [t.name for t in threading.enumerate() if t.is_alive()].count("webhooks") == 1


def test_a_server_that_froze_during_a_submit_does_not_block_others_for_ever(postgres_url):
    with Store.open(postgres_url) as store, store.read() as conn:
        for name in ("idle_in_transaction_session_timeout", "lock_timeout"):
            assert conn.exec_driver_sql(f"SHOW {name}").scalar_one() not in ("0", "0s")


def test_the_api_answers_503_while_the_database_is_gone_and_then_goes_on(
    postgres_url, tmp_path, add_comparisons, add_raters
):
    with Store.open(postgres_url) as store:
        add_comparisons(store, 2)
        [ann] = add_raters(store, 1)
        key = {"authorization": f"Bearer {tokens.add_api_token(store, ann, '', [Scope.TASK, Scope.FEEDBACK])}"}
        client = TestClient(create_headless_app(store, Settings(workspace=tmp_path)), raise_server_exceptions=False)
        lease = client.post("/api/v1/leases", json={}, headers=key).json()["leases"][0]
        name = sa.make_url(postgres_url).database
        with Store.open(postgres_url) as other, other.write() as conn:
            # No table can be read or written meanwhile, and what waits is cut: a database that does not answer.
            conn.exec_driver_sql("LOCK TABLE raters, tokens, judgments IN ACCESS EXCLUSIVE MODE")
            stop = threading.Event()

            def cut() -> None:
                engine = sa.create_engine(sa.make_url(postgres_url).set(drivername="postgresql+psycopg"))
                query = sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = :name AND wait_event_type = 'Lock'"
                )
                while not stop.is_set():
                    with engine.connect() as admin:
                        admin.execute(query, {"name": name})
                engine.dispose()

            cutter = threading.Thread(target=cut)
            cutter.start()
            body = {"lease_id": lease["id"], "verdict": "skipped"}
            answers = [client.post("/api/v1/judgments", json=body, headers=key) for _ in range(2)]
            answers.append(client.post("/login", data={"name": "x", "password": "y"}))
            ready = client.get("/healthz").status_code
            stop.set()
            cutter.join()
        assert [a.status_code for a in answers] == [503, 503, 503]
        assert answers[0].headers["content-type"] == "application/problem+json"
        assert "psycopg" not in answers[0].text
        assert ready == 200
        outcome = None
        while outcome is None:
            answer = client.post("/api/v1/judgments", json=body, headers=key)
            assert answer.status_code in (201, 503)
            outcome = answer.json().get("outcome")
        assert outcome == "counted"


def test_a_server_whose_clock_is_ahead_loses_no_answer(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    held = queue.lease(store, ann, seconds=600)
    fast = utc_now() + timedelta(hours=1)
    taken = queue.lease(store, bob, seconds=600, now=fast)
    assert taken is not None, "to a clock an hour ahead the lease has run out"
    assert queue.submit(store, held.id, ann, SKIP).outcome == "surplus"
    assert queue.submit(store, taken.id, bob, SKIP).outcome == "counted"
    assert {j.rater_id for j in read_judgments(store)} == {ann, bob}


def test_on_postgresql_leases_run_by_the_databases_clock(postgres_url, add_comparisons, add_raters):
    with Store.open(postgres_url) as store:
        add_comparisons(store, 1)
        [ann] = add_raters(store, 1)
        with store.read() as conn:
            before = store.now(conn)
        held = queue.lease(store, ann, seconds=60)
        with store.read() as conn:
            after = store.now(conn)
        assert before <= held.expires_at - timedelta(seconds=60) <= after


def test_readiness_reports_the_durability_settings(store, tmp_path):
    client = TestClient(create_headless_app(store, Settings(workspace=tmp_path)))
    report = client.get("/readyz").json()
    assert (report["status"], report["schema_version"]) == ("ready", store.schema_version)
    if store.is_sqlite:
        assert report["durability"] == {"journal_mode": "wal", "synchronous": "2"}
    else:
        # The tests' server has synchronous_commit off; the connections of the store turn it on.
        assert report["durability"]["synchronous_commit"] == "on"
        assert report["durability"]["fsync"] == "off"


def test_a_server_on_an_older_store_is_not_ready(store, tmp_path):
    with store.write() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    answer = TestClient(create_headless_app(store, Settings(workspace=tmp_path))).get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["status"] == "not ready"


# What is seen from outside


def test_metrics_need_the_scope_and_report_the_queue(store, tmp_path, add_comparisons, add_raters):
    add_comparisons(store, 3)
    [ann] = add_raters(store, 1)
    lease = queue.lease(store, ann, seconds=1800)
    queue.submit(store, lease.id, ann, SKIP)
    lea = people.add_rater(store, "lea", Role.LEAD)
    client = TestClient(create_headless_app(store, Settings(workspace=tmp_path)))
    assert client.get("/metrics").status_code == 401
    for owner, status in ((ann, 403), (lea.id, 200)):
        key = {"authorization": f"Bearer {tokens.add_api_token(store, owner, '', [Scope.METRICS])}"}
        answer = client.get("/metrics", headers=key)
        assert answer.status_code == status
    lines = answer.text.splitlines()
    assert 'rlhf_hitl_places{project="default",state="filled"} 1.0' in lines
    assert 'rlhf_hitl_places{project="default",state="free"} 2.0' in lines
    assert 'rlhf_hitl_requests_total{method="GET",route="/metrics",status="401"} 1.0' in lines


LOGGED = """
import json, sys
from starlette.testclient import TestClient
from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.store.webhooks.sender import WebhookSender
from rlhf_hitl.api.json_log import log_as_json
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import Store

log_as_json()
url, key, workspace = sys.argv[1:]
store = Store.open(url)
app = create_headless_app(store, Settings(workspace=workspace))
client = TestClient(app, raise_server_exceptions=False)
lease = client.post("/api/v1/leases", json={}, headers={"authorization": f"Bearer {key}"}).json()["leases"][0]
body = {"lease_id": lease["id"], "verdict": "skipped", "rationale": "a secret thought"}
client.post("/api/v1/judgments", json=body, headers={"authorization": f"Bearer {key}"})
client.get("/invite/rh_invite_verysecret?x=verysecret")
client.post("/login", data={"name": "ann", "password": "verysecret"})
"""


def test_log_lines_are_json_and_hold_no_text_and_no_secret(sqlite_url, tmp_path, add_comparisons, add_raters):
    with Store.open(sqlite_url) as store:
        add_comparisons(store, 1)
        key = tokens.add_api_token(store, add_raters(store, 1)[0], "", [Scope.TASK, Scope.FEEDBACK])
    (tmp_path / "logged.py").write_text(LOGGED)
    run = run_module(str(tmp_path / "logged.py"), sqlite_url, key, tmp_path)
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    requests = [(line["method"], line["route"], line["status"]) for line in lines if line["event"] == "request"]
    assert requests == [
        ("POST", "/api/v1/leases", 200),
        ("POST", "/api/v1/judgments", 201),
        ("GET", "/invite/{secret}", 404),
        ("POST", "/login", 401),
    ]
    assert all(line["request_id"] and line["ms"] >= 0 for line in lines if line["event"] == "request")
    for secret in ("verysecret", key, "secret thought", "Question"):
        assert secret not in run.stderr


def test_a_write_that_waits_too_long_for_other_writers_is_an_error(store_url, add_comparisons, add_raters, monkeypatch):
    monkeypatch.setattr(engines, "LOCK_TIMEOUT_SECONDS", 1)
    with Store.open(store_url) as store:
        add_comparisons(store, 1)
        [ann] = add_raters(store, 1)
        lease = queue.lease(store, ann, seconds=1800)
        with store.write() as conn, ThreadPoolExecutor(1) as pool:
            store.lock(conn, "judgments")
            submitted = pool.submit(queue.submit, store, lease.id, ann, SKIP)
            with pytest.raises(StoreFailure, match="others write"):
                submitted.result(timeout=60)
        assert queue.submit(store, lease.id, ann, SKIP).outcome == "counted"
