"""Sign-in, sessions and roles, over the real application (no browser)."""

from __future__ import annotations

import itertools
import re
import stat
import time
import uuid

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from plain_words import assert_plain
from rlhf_hitl.api.app import create_app
from rlhf_hitl.api.auth import SESSION_COOKIE
from rlhf_hitl.api.sign_in_throttle import SignInThrottle
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import Store, audit, people, queue, sign_in
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Role
from rlhf_hitl.ui import rating_service

PASSWORD = "a-good-password"
GRADIO_CALL = {"data": {}, "component_id": 0, "session_hash": "x", "fn_name": "open"}


addresses = (f"10.0.{n // 250}.{n % 250 + 1}" for n in itertools.count())  # what one test fails is not another's


@pytest.fixture
def settings(tmp_path):
    return Settings(store=f"sqlite:///{tmp_path}/preferences.db", workspace=tmp_path / "workspace")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One application for the tests that only sign in and look."""
    folder = tmp_path_factory.mktemp("site")
    store = Store.open(f"sqlite:///{folder}/preferences.db", create=True)
    for name, role in (("ann", Role.RATER), ("lea", Role.LEAD), ("adam", Role.ADMIN), ("eve", Role.EVALUATOR)):
        people.add_rater(store, name, role, PASSWORD)
    app = create_app(store, Settings(store=store.url, workspace=folder / "workspace"), SignInThrottle(store, 3, 8))
    yield app, store
    store.close()


@pytest.fixture
def store(site):
    return site[1]


@pytest.fixture
def client(site):
    return TestClient(site[0], follow_redirects=False, client=(next(addresses), 5000))


def sign_in_as(client, name, password=PASSWORD):
    return client.post("/login", data={"name": name, "password": password})


def comparison(question: str, *answers: str) -> Comparison:
    prompt = Prompt.create((Message("user", question),))
    made = [Completion.create(prompt.id, (Message("assistant", a),), f"policy-{i}") for i, a in enumerate(answers)]
    return Comparison.create(prompt, made)


def test_health_says_ok(client):
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("name", "home"), [("ann", "/rate/"), ("eve", "/replay/"), ("lea", "/lead/"), ("adam", "/lead/")]
)
def test_signing_in_redirects_each_role_to_its_page(client, name, home):
    assert client.get("/").headers["location"] == "/login"
    assert sign_in_as(client, name).headers["location"] == home
    assert client.get("/").headers["location"] == home
    assert client.get(home).status_code == 200


@pytest.mark.parametrize(("name", "password"), [("ann", "wrong-password"), ("nobody", PASSWORD), ("", "")])
def test_a_failed_sign_in_does_not_tell_whether_name_or_password_was_wrong(client, name, password):
    answer = sign_in_as(client, name, password)
    assert answer.status_code == 401
    assert "do not go together" in answer.text
    assert "set-cookie" not in answer.headers


def test_the_login_page_escapes_the_name_it_shows_again(client):
    answer = sign_in_as(client, '"><script>alert(1)</script>')
    assert "<script>alert" not in answer.text


def test_the_cookie_is_same_site_and_http_only_and_secure_over_tls(client):
    cookie = sign_in_as(client, "ann").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie
    client.base_url = "https://testserver"
    assert sign_in_as(client, "ann").headers["set-cookie"].lower().count("; secure") == 1


@pytest.fixture
def kim(store) -> str:
    """The name of a rater whom no other test tries."""
    name = f"kim-{uuid.uuid4().hex[:8]}"
    people.add_rater(store, name, Role.RATER, PASSWORD)
    return name


def test_repeated_failures_of_one_name_are_throttled_in_every_process(client, site, kim):
    for _ in range(3):
        assert sign_in_as(client, kim, "wrong-password").status_code == 401
    refused = sign_in_as(client, kim)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    assert sign_in_as(client, "lea").status_code == 303, "another name is not held up"
    with Store.open(site[1].url) as other:
        assert SignInThrottle(other, 3, 8).record_attempt("192.0.2.99", kim) > 0, "from any address"


def test_one_attempt_a_pause_is_left(store, kim):
    throttle = SignInThrottle(store, per_name=2, pause=0.3)
    assert [throttle.record_attempt("192.0.2.1", kim) for _ in range(2)] == [0, 0]
    for _ in range(2):
        assert throttle.record_attempt("192.0.2.2", kim) > 0
        deadline = time.monotonic() + 10
        while throttle.record_attempt("192.0.2.3", kim) > 0:
            assert time.monotonic() < deadline


def test_leads_are_told_once_that_a_name_is_tried(store, kim):
    throttle = SignInThrottle(store, per_name=2)
    waits = [throttle.record_attempt(f"198.51.100.{i}", kim) for i in range(6)]
    assert [wait > 0 for wait in waits] == [False, False, True, True, True, True]
    told = audit.list_entries(store, actions=["sign_in.throttled"], newest_first=True)
    assert [entry.address for entry in told if entry.subject == kim] == ["198.51.100.2"]


def test_a_browser_that_has_signed_in_is_not_slowed_by_strangers_who_try_its_name(client, kim):
    assert sign_in_as(client, kim).status_code == 303
    device = client.cookies["rlhf_hitl_device"]
    client.cookies.clear()
    assert [sign_in_as(client, kim, "wrong-password").status_code for _ in range(4)] == [401, 401, 401, 429]
    assert sign_in_as(client, kim).status_code == 429, "a stranger's browser waits"
    client.cookies["rlhf_hitl_device"] = device
    again = sign_in_as(client, kim)
    assert again.status_code == 303
    assert "rlhf_hitl_device" not in again.headers["set-cookie"], "it is remembered once"


def test_a_known_browser_does_not_guess_freely_and_is_known_for_its_own_name_only(client, kim):
    assert sign_in_as(client, kim).status_code == 303
    assert [sign_in_as(client, kim, "wrong-password").status_code for _ in range(4)] == [401, 401, 401, 429]
    other = [sign_in_as(client, kim.replace("kim", "sam"), "wrong-password").status_code for _ in range(4)]
    assert other == [401, 401, 401, 429]


def test_guessing_many_names_from_one_address_is_throttled_and_known_browsers_there_are_not(client, kim):
    assert sign_in_as(client, kim).status_code == 303
    device = client.cookies["rlhf_hitl_device"]
    client.cookies.clear()
    for i in range(8):
        assert sign_in_as(client, f"guess-{i}").status_code == 401
    assert sign_in_as(client, "ann").status_code == 429, "no more than eight a minute"
    client.cookies["rlhf_hitl_device"] = device
    assert sign_in_as(client, kim).status_code == 303


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("ann", "/lead"),
        ("ann", "/people"),
        ("ann", "/policies"),
        ("ann", "/replay"),
        ("eve", "/lead"),
        ("eve", "/people"),
        ("eve", "/rate"),
    ],
)
def test_nobody_opens_a_page_of_another_role_by_any_address(client, store, name, page):
    inside = ["/", "/config", "/gradio_api/info", "/theme.css", "//", "/?__theme=dark"]
    assert {client.get(page + path).status_code for path in inside} == {401}
    assert client.get(f"{page}/", headers={"accept": "text/html"}).headers["location"] == "/login"
    call = f"{page}/gradio_api/component_server/"
    assert client.post(call, json=GRADIO_CALL).status_code == 401
    secret = sign_in.start_session(store, sign_in.verify_password(store, name, PASSWORD), 1)
    client.cookies.set(SESSION_COOKIE, secret)
    assert {client.get(page + path).status_code for path in inside} == {403}
    assert client.post(call, json=GRADIO_CALL).status_code == 403


def test_a_browser_without_a_session_is_redirected_to_sign_in(client):
    answer = client.get("/rate/", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_gradios_own_addresses_are_closed(client):
    sign_in_as(client, "ann")
    for path in (
        "info",
        "openapi.json",
        "file=/etc/passwd",
        "queue/status",
        "runs",
        "user",
        "deep_link?session_hash=x",
    ):
        assert client.get(f"/rate/gradio_api/{path}").status_code == 404, path
    for path in ("file=/etc/passwd", "file/etc/passwd", "proxy=http://127.0.0.1:1/", "call/open", "runs"):
        assert client.get(f"/rate/{path}").status_code in (404, 405), path
    for path in ("upload", "run/predict", "call/open", "queue/join", "cancel"):
        assert client.post(f"/rate/gradio_api/{path}", json={}).status_code == 404, path


def test_calls_act_for_the_session_and_for_nobody_else(client, store):
    with store.write() as conn:
        insert_comparisons(store, conn, [comparison("q", "one", "two")])
    assert client.post("/rate/gradio_api/component_server/", json=GRADIO_CALL).status_code == 401
    sign_in_as(client, "ann")
    config = client.get("/rate/config").json()
    component = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "page")
    call = GRADIO_CALL | {"component_id": component}
    opened = client.post("/rate/gradio_api/component_server/", json=call).json()
    assert opened["progress"]["name"] == "ann"
    assert len(opened["cards"]) == 1
    refused = client.post(
        "/rate/gradio_api/component_server/", json=call | {"data": {"rater": "lea", "rater_id": "x"}}
    ).json()
    assert refused["problem"]["kind"] == "refused"


def test_each_call_of_a_page_reads_the_session_once_and_is_refused_as_soon_as_it_ended(client, store):
    people.add_rater(store, "kim", Role.RATER, PASSWORD)
    sign_in_as(client, "kim")
    config = client.get("/rate/config").json()
    component = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "page")
    call = GRADIO_CALL | {"component_id": component}
    statements: list[str] = []

    def note(_conn, _cursor, statement, *_):
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        assert client.post("/rate/gradio_api/component_server/", json=call).status_code == 200
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert sum("tokens.digest" in statement for statement in statements) == 1
    people.change_rater(store, "kim", disabled=True)
    assert client.post("/rate/gradio_api/component_server/", json=call).status_code == 401
    people.change_rater(store, "kim", disabled=False)
    sign_in_as(client, "kim")
    assert client.post("/rate/gradio_api/component_server/", json=call).status_code == 200
    sign_in.end_session(store, client.cookies[SESSION_COOKIE])
    assert client.post("/rate/gradio_api/component_server/", json=call).status_code == 401


def test_a_disabled_rater_loses_access_at_once(client, store):
    people.add_rater(store, "tom", Role.RATER, PASSWORD)
    sign_in_as(client, "tom")
    assert client.get("/me").json() == {"name": "tom", "role": "rater", "pages": ["/rate"]}
    people.change_rater(store, "tom", disabled=True)
    assert client.get("/me").status_code == 401
    assert client.get("/rate/").status_code == 401
    assert sign_in_as(client, "tom").status_code == 401


def test_a_new_password_ends_the_sessions_of_the_old_one(client, site):
    store = site[1]
    people.add_rater(store, "pam", Role.RATER, PASSWORD)
    sign_in_as(client, "pam")
    assert client.get("/rate/").status_code == 200
    assert run("raters", "password", "pam", "--store", store.url).exit_code == 0
    assert client.get("/me").status_code == 401
    assert client.get("/rate/").status_code == 401
    sign_in.set_password(store, "pam", "another-password")
    sign_in_as(client, "pam", "another-password")
    assert client.get("/me").json()["name"] == "pam"


def test_signing_out_ends_the_session(client):
    sign_in_as(client, "ann")
    copy = client.cookies[SESSION_COOKIE]
    assert client.post("/logout").status_code == 303
    assert client.get("/rate/").status_code == 401
    client.cookies.set(SESSION_COOKIE, copy)
    assert client.get("/me").status_code == 401, "a copy of the cookie is worth nothing"


def test_a_forged_cookie_identifies_nobody(client, store):
    rater = next(r for r in people.list_raters(store) if r.name == "lea")
    with store.read() as conn:
        [digest] = conn.exec_driver_sql("SELECT digest FROM tokens LIMIT 1").scalars()
    for forged in (rater.id, digest, "rh_session_", "", "x" * 5000):
        client.cookies.set(SESSION_COOKIE, forged)
        assert client.get("/me").status_code == 401


def test_changes_sent_from_another_site_are_refused(client):
    answer = client.post("/login", data={"name": "ann", "password": PASSWORD}, headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "path", ["/", "/login", "/invite/x", "/healthz", "/me", "/rate/", "/api/v1/leases", "/nowhere"]
)
def test_what_is_no_page_lets_the_browser_do_nothing(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in headers["content-security-policy"]
    assert "script-src" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"


def test_only_scripts_of_a_page_itself_run_in_it(client):
    sign_in_as(client, "adam")
    nonces = []
    for path in ("/rate/", "/lead/", "/people/", "/replay/", "/rate/"):
        answer = client.get(path)
        scripts = re.search(r"script-src ([^;]*)", answer.headers["content-security-policy"])[1].split()
        assert "'unsafe-inline'" not in scripts
        [nonce] = {s.removeprefix("'nonce-").rstrip("'") for s in scripts if s.startswith("'nonce-")}
        tags = re.findall(r"<script[^>]*>", answer.text)
        assert len(tags) > 3
        assert all(f'nonce="{nonce}"' in tag for tag in tags)
        assert answer.headers["cache-control"] == "no-store"
        nonces.append(nonce)
    assert len(set(nonces)) == 5, "each answer has its own"


def test_a_session_outlives_the_application(sqlite_store, settings):
    people.add_rater(sqlite_store, "ann", Role.RATER, PASSWORD)
    with TestClient(create_app(sqlite_store, settings), follow_redirects=False) as first:
        sign_in_as(first, "ann")
        cookies = dict(first.cookies)
    with TestClient(create_app(sqlite_store, settings), cookies=cookies) as second:
        assert second.get("/me").json()["name"] == "ann"


# What the page's calls do with what they are sent.


@pytest.fixture
def ann(sqlite_store):
    return people.add_rater(sqlite_store, "ann", Role.RATER, PASSWORD)


def put(store, *made: Comparison):
    with store.write() as conn:
        insert_comparisons(store, conn, made)


def test_a_partial_rank_of_many_answers_becomes_a_ranking_in_the_order_shown(sqlite_store, settings, ann):
    put(sqlite_store, comparison("q", "one", "two", "three", "four"))
    card = rating_service.answer_call("open", sqlite_store, settings, ann, {})["cards"][0]
    shown = queue.lease(sqlite_store, ann.id, seconds=1800).order_shown
    sent = {"id": card["id"], "verdict": "ranked", "ranks": [2, 1, None, 2]}
    assert rating_service.answer_call("submit", sqlite_store, settings, ann, sent)["outcome"] == "counted"
    (judgment,) = read_judgments(sqlite_store)
    assert judgment.answer.ranking == ((shown[1],), (shown[0], shown[3]))


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"verdict": "ranked"},
        {"verdict": "ranked", "ranks": [1]},
        {"verdict": "ranked", "ranks": [1, 2], "strength": 9},
        {"verdict": "skipped", "strength": 2},
        {"verdict": "adored"},
        {"verdict": "skipped", "active_seconds": -1},
        {"verdict": "skipped", "rationale": "x" * 20_001},
        {"verdict": "skipped", "surplus": False},
        "not even an object",
    ],
)
def test_a_contradictory_answer_is_refused_with_a_message_and_changes_nothing(sqlite_store, settings, ann, sent):
    put(sqlite_store, comparison("q", "one", "two"))
    lease_id = rating_service.answer_call("open", sqlite_store, settings, ann, {})["cards"][0]["id"]
    body = {"id": lease_id} | sent if isinstance(sent, dict) else sent
    problem = rating_service.answer_call("submit", sqlite_store, settings, ann, body)["problem"]
    assert problem["kind"] == "refused"
    assert ": expected " in problem["detail"]
    assert ". Fix: " in problem["detail"]
    assert_plain(problem["detail"])
    assert list(read_judgments(sqlite_store)) == []


def test_the_lease_and_judgment_of_another_rater_cannot_be_used(sqlite_store, settings, ann):
    put(sqlite_store, comparison("q", "one", "two"))
    lease_id = rating_service.answer_call("open", sqlite_store, settings, ann, {})["cards"][0]["id"]
    bob = people.add_rater(sqlite_store, "bob", Role.RATER, PASSWORD)
    sent = {"id": lease_id, "verdict": "skipped"}
    assert rating_service.answer_call("submit", sqlite_store, settings, bob, sent)["problem"]["kind"] == "conflict"
    assert rating_service.answer_call("submit", sqlite_store, settings, ann, sent)["outcome"] == "counted"
    (judgment,) = read_judgments(sqlite_store)
    fix = {"id": judgment.id, "mode": "correct", "verdict": "all_bad"}
    assert rating_service.answer_call("submit", sqlite_store, settings, bob, fix)["problem"]["kind"] == "conflict"
    assert [j.answer for j in read_judgments(sqlite_store)] == [judgment.answer]


def test_progress_counts_today_and_what_is_left_for_this_rater(sqlite_store, settings, ann):
    put(sqlite_store, *(comparison(f"q{i}", "one", "two") for i in range(12)))
    opened = rating_service.answer_call("open", sqlite_store, settings, ann, {})
    assert (opened["progress"]["done"], opened["progress"]["left"]) == (0, 10)
    sent = {"id": opened["cards"][0]["id"], "verdict": "skipped"}
    after = rating_service.answer_call("submit", sqlite_store, settings, ann, sent)
    assert (after["progress"]["done"], after["progress"]["left"]) == (1, 10)


def test_a_page_holds_the_comparison_on_the_screen_and_the_next(sqlite_store, settings, ann):
    put(sqlite_store, *(comparison(f"q{i}", "one", "two") for i in range(4)))
    first, second = (
        card["id"] for card in rating_service.answer_call("open", sqlite_store, settings, ann, {})["cards"]
    )
    again = rating_service.answer_call("open", sqlite_store, settings, ann, {"have": [first]})
    assert [card["id"] for card in again["cards"]] == [second]
    sent = {"id": first, "verdict": "skipped", "have": [first, second]}
    (third,) = rating_service.answer_call("submit", sqlite_store, settings, ann, sent)["cards"]
    assert third["id"] not in (first, second)


def test_scores_of_the_answers_shown_are_kept_by_completion(sqlite_store, settings, ann):
    put(sqlite_store, comparison("q", "one", "two"))
    card = rating_service.answer_call("open", sqlite_store, settings, ann, {})["cards"][0]
    sent = {
        "id": card["id"],
        "verdict": "ranked",
        "ranks": [1, 1],
        "scores": {"honest": [5, None], "helpful": [None, None]},
    }
    rating_service.answer_call("submit", sqlite_store, settings, ann, sent)
    (judgment,) = read_judgments(sqlite_store)
    assert judgment.answer.scores == {"honest": {judgment.order_shown[0]: 5}}


# Commands.


def run(*args, env=None):
    from typer.testing import CliRunner

    from rlhf_hitl.cli import app, register_commands

    register_commands()
    return CliRunner().invoke(app, args, env=env)


def test_raters_are_added_with_a_password_that_signs_them_in_listed_and_disabled(sqlite_store):
    import json

    url = sqlite_store.url
    added = json.loads(run("raters", "add", "bob", "--role", "lead", "--store", url, "--json").stdout)
    assert sign_in.verify_password(sqlite_store, "bob", added["password"]).rater.role is Role.LEAD
    fresh = json.loads(run("raters", "password", "bob", "--store", url, "--json").stdout)["password"]
    assert sign_in.verify_password(sqlite_store, "bob", fresh) is not None
    assert run("raters", "disable", "bob", "--store", url).exit_code == 0
    rows = json.loads(run("raters", "list", "--store", url, "--json").stdout)["raters"]
    row = {"name": "bob", "role": "lead", "judgments": 0, "state": "disabled", "languages": None, "quota": None}
    assert rows == [row]
    assert run("raters", "enable", "bob", "--store", url).exit_code == 0
    assert sign_in.verify_password(sqlite_store, "bob", fresh) is not None
    assert run("raters", "add", "bob", "--store", url).exit_code == 2
    assert run("raters", "disable", "nobody", "--store", url).exit_code == 2


def test_a_port_in_use_is_one_line_that_names_it(sqlite_store):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", str(port), "--store", sqlite_store.url)
    assert result.exit_code == 2
    assert f"--port {port}" in result.stderr
    assert "Fix:" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_quickstart_run_twice_shows_the_same_accounts_and_adds_nothing(tmp_path):
    import json

    env = {"RLHF_HITL_WORKSPACE": str(tmp_path / "workspace")}
    args = ("quickstart", "--no-serve", "--json", "--store", f"sqlite:///{tmp_path}/p.db")
    first, second = (json.loads(run(*args, env=env).stdout) for _ in range(2))
    assert first == second
    assert first["counts"]["comparisons"] > 0
    kept = tmp_path / "workspace" / "sign-in.txt"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert first["accounts"]["lead"] in kept.read_text()


def test_a_password_that_is_too_short_is_refused(sqlite_store):
    with pytest.raises(BadInput):
        people.add_rater(sqlite_store, "kim", Role.RATER, "short")
