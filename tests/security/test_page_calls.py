"""What a signed-in person may send to the addresses of a page: each malformed call is a plain 4xx, and costs little."""

from __future__ import annotations

import json
import logging
import random
import re
import time

import pytest
from starlette.testclient import TestClient

from rlhf_hitl.api.app import create_app
from rlhf_hitl.api.auth import SESSION_COOKIE
from rlhf_hitl.api.page_calls import MAX_VALUES
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store, people, sign_in
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Role

PAGES = ("rate", "adjudicate", "lead", "data", "raters", "people", "replay")
PASSWORD = "a-good-password"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with Store.open(f"sqlite:///{folder}/preferences.db", create=True) as store:
        people.add_rater(store, "adam", Role.ADMIN, PASSWORD)
        prompt = Prompt.create((Message("user", "q"),))
        made = [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in ("one", "two")]
        with store.write() as conn:
            insert_comparisons(store, conn, [Comparison.create(prompt, made)])
        verified = sign_in.verify_password(store, "adam", PASSWORD)
        assert verified is not None
        secret = sign_in.start_session(store, verified, 1)
        app = create_app(store, Settings(store=store.url, workspace=folder / "workspace"))
        # A trace-back must not be what a client sees, nor the test: it is looked for in the log.
        yield TestClient(app, cookies={SESSION_COOKIE: secret}, raise_server_exceptions=False)


@pytest.fixture(scope="module", params=PAGES)
def page(request, site):
    config = site.get(f"/{request.param}/config").json()
    return Page(site, request.param, config)


class Page:
    def __init__(self, client, name, config):
        self.client, self.name, self.address = client, name, f"/{name}/gradio_api/component_server/"
        self.component = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "page")

    def send(self, body, **options):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | options.pop("headers", {})
        return self.client.post(self.address, content=text, headers=headers, **options)

    def call(self, name="open", data=None, **changes):
        body = {"data": data or {}, "component_id": self.component, "session_hash": "x", "fn_name": name} | changes
        return self.send({key: value for key, value in body.items() if value is not ...})


@pytest.fixture(autouse=True)
def nothing_unexpected(caplog):
    with caplog.at_level(logging.ERROR):
        yield
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


def assert_refused(answer, *statuses):
    assert answer.status_code in (statuses or (400, 404, 413, 415, 422)), answer.text[:300]
    problem = answer.json()
    assert problem["detail"]
    assert "Traceback" not in answer.text


def test_a_call_is_answered(page):
    assert page.call().status_code == 200


@pytest.mark.parametrize("component", [-1, 0, 99_999, 2**80, 1.5, "1", "page", None, [], {}, True, ...])
def test_an_unknown_component_is_refused(page, component):
    if component is True and page.component == 1:
        component = False
    assert_refused(page.call(component_id=component), 404, 422)


@pytest.mark.parametrize(
    "name", ["nosuch", "", "__class__", "__init__", "render", "load_event", "éé", 5, None, [], ...]
)
def test_an_unknown_function_is_refused(page, name):
    assert_refused(page.call(fn_name=name), 404, 422)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"1", b'"open"', b"{", b"{}", b'{"fn_name":"open"}', b"\xff\xfe", b"\x00", b"NaN",
        b"[1e999",
        b'{"fn_name":"open","component_id":NaN,"data":{}}', b"[" * 100_000, b'{"a":' * 20_000, b"[" * 50 + b"]" * 50,
        b'{"fn_name": 1, "fn_index": 0, "data": []}', b"1" * 100_000, b'{"fn_name":"open","data":"\\ud800"}',
    ],
)  # fmt: skip
def test_what_is_no_call_is_refused(page, body):
    assert_refused(page.send(body), 400, 422)


@pytest.mark.parametrize(
    "value",
    ["1,", '"",', "[],", "{},", "[[]],", "null,"],
)
def test_a_call_of_very_many_values_is_refused_quickly(page, value):
    room = 100_000 // len(value)
    body = f'{{"fn_name":"open","component_id":{page.component},"data":[{value * room}0]}}'.encode()
    begun = time.process_time()
    assert_refused(page.send(body), 422)
    assert time.process_time() - begun < 1


def test_as_many_names_are_refused_before_each_is_complained_about(page):
    data = {f"n{i}": 1 for i in range(MAX_VALUES)}
    assert_refused(page.call(data=data), 422)


def test_half_a_letter_is_refused(page):
    for data in ({"id": "\ud800"}, {"\udfff": 1}, ["\ud800"]):
        assert_refused(page.call(data=data), 422)


def test_each_page_has_a_limit_of_its_own(page):
    limit = (1_280 if page.name in ("rate", "adjudicate") else 128) * 2**10
    assert_refused(page.call(data={"id": "x" * limit}), 413)
    assert_refused(page.client.post(page.address, content=iter([b"x" * 65_536] * 40), headers=JSON), 413)
    assert page.call(data={"id": "x" * (limit - 1_000)}).status_code == 200  # which says what is wrong with it


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_only_json_is_read(page, kind):
    assert_refused(page.send(b"--x\r\n\r\n--x--", headers={"content-type": kind}), 415)


def test_the_longest_answer_that_a_rater_may_give_is_read(site):
    rate = Page(site, "rate", site.get("/rate/config").json())
    lease = rate.call().json()["cards"][0]["id"]
    sent = {"id": lease, "verdict": "ranked", "ranks": [1, 2], "rationale": "😀" * 20_000, "rewrite": "字" * 100_000}
    assert rate.call("submit", sent).json()["outcome"] == "counted"


def test_whatever_a_page_is_sent_it_answers(page):
    """Random values for the fields of every call: no 5xx, no trace-back."""
    dice = random.Random(page.name)
    calls = {
        "rate": ("open", "submit", "revisit", "history", "difference", "acknowledge", "try_example", "renew"),
        "lead": ("open", "figures", "accepted", "escalate"),
        "adjudicate": ("open", "submit", "revisit", "history", "difference", "renew"),
        "data": ("open", "search", "facets", "look", "send", "save"),
        "raters": ("open", "detail", "pause", "overrule", "check"),
        "people": ("open", "change", "invite"),
        "replay": ("open", "evaluation", "look", "difference"),
    }[page.name]
    fields = re.findall(
        r"\w+",
        """day have lapsed guidelines id mode verdict ranks strength reason scores rationale rewrite active_seconds
        paused disabled quota languages role project days of beside show order tag value words at example
        project shown newest before limit filter after ids all because name description rater action""",
    )
    values = [
        None, True, -1, 0, 2**63, 2**200, 1e308, -0.0, "", "x", "\x00", "../../etc/passwd", "a@b", "tutorial",
        "correct",
        "2020-01-01", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "ranked", "skipped", "flagged", "x" * 5_000,
        [], [None], [1, 2], [[1]], ["x"] * 9, {}, {"x": [1]}, {"": None}, {"honest": [5, None]}, "\u202e", "%00",
    ]  # fmt: skip
    for _ in range(150):
        data = dice.choice(values)
        if dice.random() < 0.9:
            chosen = [*dice.sample(fields, dice.randint(0, 4)), *dice.sample(["id", "of", "verdict", "mode"], 2)]
            data = {field: dice.choice(values) for field in chosen if dice.random() < 0.9}
        answer = page.call(dice.choice(calls), data)
        assert answer.status_code < 500, (data, answer.text)


@pytest.mark.parametrize(
    "address",
    [
        "gradio_api/info", "gradio_api/queue/join", "gradio_api/upload", "gradio_api/file=/etc/passwd",
        "gradio_api/reset",
        "gradio_api/heartbeat/x", "gradio_api/proxy=http://evil.example/", "gradio_api/component_server/x",
        "monitoring", "gradio_api/startup-events", "svelte/x", "pwa_icon", "manifest.json", "run-history/records",
        "monitoring/summary", "login", "token", "user", "logout", "queue/join", "file=/etc/passwd",
        "custom_component/a/b/c/d",
        "dev/reload", "openapi.json", "docs", "run/open", "api/open", "gradio_api/call/open", "gradio_api/vibe-edit/",
    ],
)  # fmt: skip
def test_no_other_address_of_gradio_can_be_reached(page, address):
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        answer = page.client.request(method, f"/{page.name}/{address}", follow_redirects=False)
        assert answer.status_code == 404, (method, answer.status_code)


def test_what_a_static_address_is_asked_for_stays_in_its_folder(page):
    for path in ("..%2f..%2froutes.py", "%2e%2e/%2e%2e/routes.py", "/etc/passwd", "x" * 5_000, "%00", "a%0ab"):
        for folder in ("assets", "static", "svelte"):
            answer = page.client.get(f"/{page.name}/{folder}/{path}")
            assert 400 <= answer.status_code < 500, (folder, path, answer.status_code)
