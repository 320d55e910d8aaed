"""Somebody without an account: what they send costs the server little, and keeps nobody waiting."""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from raw_http import echo_length, receive_all, served
from rlhf_hitl.api.app import create_app, serve_from_environment
from rlhf_hitl.api.connections import find_network
from rlhf_hitl.api.json_body import count_values
from rlhf_hitl.api.log_limit import LogLimit, limit_log_of_clients
from rlhf_hitl.api.sign_in_throttle import SignInThrottle
from rlhf_hitl.cli.serve import make_uvicorn_options
from rlhf_hitl.config import Settings, load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import Store, audit, people, tokens
from rlhf_hitl.types import Role, Scope

OPERATIONS_WITH_A_BODY = ["judgments", "judgments/j_0/corrections", "leases", "prompts", "completions", "comparisons",
                          "predictions", "projects", "webhooks", "import"]  # fmt: skip


def test_signing_out_of_no_session_does_not_wait_for_who_writes(app, sqlite_store):
    with sqlite_store.write(), ThreadPoolExecutor() as pool:
        cookie = {"cookie": "rlhf_hitl_session=made-up"}
        answer = pool.submit(TestClient(app, follow_redirects=False).post, "/logout", headers=cookie).result(timeout=10)
    assert answer.status_code == 303


def test_bad_requests_leave_few_lines_in_the_log():
    written: list[logging.LogRecord] = []
    handler, logger = logging.Handler(), logging.getLogger("uvicorn.error")
    handler.emit = written.append  # type: ignore[method-assign]
    filters = logger.filters[:]
    try:
        with served(echo_length) as address:
            logger.filters.clear()
            limit_log_of_clients()
            logger.addHandler(handler)
            logger.setLevel(logging.WARNING)
            for _ in range(30):
                with socket.create_connection(address) as client:
                    client.sendall(b"nonsense\r\n\r\n")
                    receive_all(client)
        assert len(written) == 5
    finally:
        logger.removeHandler(handler)
        logger.filters[:] = filters


def test_lines_that_were_left_out_are_counted_in_the_next_one():
    at = [0.0]
    limit, record = LogLimit(most=2, seconds=60, clock=lambda: at[0]), logging.makeLogRecord({"msg": "bad"})
    assert [limit.filter(record) for _ in range(5)] == [True, True, False, False, False]
    at[0] = 61
    assert limit.filter(record)
    assert record.msg == "bad (3 more such lines were left out)"


def test_another_error_is_written_however_often_one_came():
    def raise_one() -> None:
        raise RuntimeError

    def raise_another() -> None:
        raise RuntimeError

    written, limit = [], LogLimit(most=2)
    for fail in (*[raise_one] * 5, raise_another):
        try:
            fail()
        except RuntimeError:
            record = logging.LogRecord("x", logging.ERROR, "one.py", 1, "failed", (), sys.exc_info())
            written.append(limit.filter(record))
    assert written == [True, True, False, False, False, True]


@pytest.mark.parametrize("how", ["one process", "several"])
def test_each_process_that_serves_is_prepared(how, tmp_path, sqlite_store, monkeypatch):
    monkeypatch.setenv("RLHF_HITL_STORE", sqlite_store.url)
    monkeypatch.setenv("RLHF_HITL_WORKSPACE", str(tmp_path / "workspace"))
    interval, logger = sys.getswitchinterval(), logging.getLogger("uvicorn.error")
    filters = logger.filters[:]
    try:
        sys.setswitchinterval(0.005)
        logger.filters.clear()
        if how == "several":
            for of_whole_processes in ("filter_output", "restrict_new_files"):
                monkeypatch.setattr(f"rlhf_hitl.api.app.{of_whole_processes}", lambda: None)
            serve_from_environment()
        else:
            make_uvicorn_options(load_settings())
        assert sys.getswitchinterval() < 0.001
        assert any(isinstance(f, LogLimit) for f in logger.filters)
    finally:
        sys.setswitchinterval(interval)
        logger.filters[:] = filters


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
     ("fe80::1%eth0", "fe80::/64"), ("", ""), ("testclient", "testclient")],
)  # fmt: skip
def test_a_network_of_ipv6_counts_as_one_address(address, network):
    assert find_network(address) == network


def test_who_has_a_network_of_ipv6_guesses_no_more_than_who_has_one_address(app):
    waits = []
    for i in range(40):
        client = TestClient(app, client=(f"2001:db8:1:2::{i + 1:x}", 5000))
        waits.append(client.post("/login", data={"name": f"made up {i}", "password": "x"}).status_code)
    assert waits.count(401) == 30
    assert waits.count(429) == 10


def test_a_redirect_names_no_other_site(app):
    client = TestClient(app, follow_redirects=False, headers={"host": "evil.example"})
    for path in ("/api/v1/leases/", "/rate", "/login/", "//evil.example/login/"):
        answer = client.get(path)
        if answer.is_redirect:
            assert answer.headers["location"].startswith("/")
            assert not answer.headers["location"].startswith("//")
    assert client.get("/login/").headers["location"] == "/login"


@pytest.mark.parametrize("header", [b'a="' + b'\\"' * 30_000 + b'"', b"; " * 30_000, b"rlhf_hitl_session=" * 3_000])
def test_no_cookie_takes_long(app, header):
    begun = time.process_time()
    answer = TestClient(app).get("/me", headers=[(b"cookie", header)])
    assert answer.status_code == 401
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403), ({"origin": "http://testserver:81"}, 403),
     ({"sec-fetch-site": "same-site"}, 403), ({"origin": "http://["}, 403), ({"origin": "//]"}, 403),
     ({"origin": "http://testserver"}, 303), ({}, 303)],
)  # fmt: skip
def test_another_site_cannot_change_anything_with_or_without_the_newer_header(app, headers, status):
    assert TestClient(app, follow_redirects=False).post("/logout", headers=headers).status_code == status


def test_made_up_names_from_one_address_leave_one_line_and_one_alert(sqlite_store):
    throttle = SignInThrottle(sqlite_store, per_address=5)
    waits = [throttle.record_attempt("192.0.2.7", f"made up {i}") for i in range(40)]
    assert sum(wait == 0 for wait in waits) == 5
    assert len(audit.list_entries(sqlite_store, actions=["sign_in.throttled"])) == 1


@pytest.mark.parametrize("operation", OPERATIONS_WITH_A_BODY)
@pytest.mark.parametrize("length", ["Content-Length: 15000000", "Transfer-Encoding: chunked"])
def test_nobodys_body_is_refused_before_it_is_read(app, operation, length):
    with served(app) as address, socket.create_connection(address) as client:
        head = f"POST /api/v1/{operation} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
        client.sendall(head.encode())
        if "chunked" in length:
            client.sendall(b"%x\r\n" % 100_000 + b"[" * 100_000 + b"\r\n")
        answer = receive_all(client)
        assert answer.startswith(b"HTTP/1.1 401"), "and the connection is closed, for its body is not waited for"


@pytest.mark.parametrize("path", ["/login", "/invite/made-up"])
def test_a_form_is_refused_when_it_is_longer_than_a_name_and_a_password(app, path):
    client = TestClient(app)
    assert client.post(path, content=b"name=a&" * 10_000).status_code == 413
    assert client.post(path, content=b"&".join([b"a=b"] * 1000)).status_code == 413
    assert client.post(path, content=b"name=%ff%00&password=" + b"%F0%9F%98%80" * 1000).status_code in (401, 404)


@pytest.mark.parametrize("body", [b"[]," * 500_000, b'{"a":' * 300_000, b"[" * 1_500_000, b'"' + b"\\u0041" * 240_000])
def test_a_costly_body_of_somebody_with_access_is_refused_in_a_moment(app, sqlite_store, body):
    rater = people.add_rater(sqlite_store, "ann", Role.RATER)
    key = tokens.add_api_token(sqlite_store, rater.id, "", list(Scope))
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    begun = time.monotonic()
    answer = TestClient(app).post("/api/v1/judgments", content=body, headers=headers)
    assert answer.status_code in (400, 413, 422)
    assert time.monotonic() - begun < 3
    assert len(answer.content) < 10_000


def test_an_uploaded_line_of_very_many_values_is_refused_before_it_is_read(app, sqlite_store):
    lead = people.add_rater(sqlite_store, "lea", Role.LEAD)
    key = tokens.add_api_token(sqlite_store, lead.id, "", list(Scope))
    headers = {"authorization": f"Bearer {key}", "content-type": "application/x-ndjson"}
    answer = TestClient(app).post("/api/v1/import", content=b"\n[" + b"0," * 60_000 + b"0]", headers=headers)
    assert answer.status_code == 422
    assert "upload:2: a line of more than 50,000 values" in answer.text
    prose = {"role": "user", "content": "Well, " * 60_000}  # commas of a text are no values
    line = json.dumps({"messages": [prose], "completions": [{"messages": [prose], "policy": p} for p in "ab"]})
    answer = TestClient(app).post("/api/v1/import", content=line.encode(), headers=headers)
    assert "values" not in answer.text


@pytest.mark.parametrize(
    ("text", "values"),
    [(b"1", 1), (b"[]", 2), (b"[1,2]", 3), (b'{"a":1,"b":[2]}', 4), (b'["a,[{\\",b"]', 2), (b'["\\\\",1]', 3)],
)
def test_values_are_counted_outside_of_strings(text, values):
    assert count_values(text) == values


def test_errors_that_are_not_described_are_counted(app, sqlite_store):
    rater = people.add_rater(sqlite_store, "ann", Role.RATER)
    key = tokens.add_api_token(sqlite_store, rater.id, "", [Scope.TASK])
    headers = {"authorization": f"Bearer {key}"}
    answer = TestClient(app).post("/api/v1/leases", json={f"unknown{i}": 1 for i in range(30)}, headers=headers)
    errors = answer.json()["errors"]
    assert len(errors) == 20
    assert errors[-1] == {"at": "body", "problem": "11 more errors are not listed"}


@pytest.fixture
def site(sqlite_store: Store, tmp_path):
    def make(proxies: str, address: str = "203.0.113.5") -> TestClient:
        settings = Settings(store=sqlite_store.url, workspace=tmp_path / "workspace", trusted_proxies=proxies)
        return TestClient(create_app(sqlite_store, settings), client=(address, 5000), follow_redirects=False)

    return make


FORWARDED = {"x-forwarded-for": "198.51.100.9", "x-forwarded-proto": "https", "x-forwarded-host": "evil.example"}


@pytest.mark.parametrize(
    ("proxies", "address", "believed"),
    [("", "127.0.0.1", False), ("", "203.0.113.5", False), ("127.0.0.1", "203.0.113.5", False),
     ("127.0.0.1", "127.0.0.1", True), ("10.0.0.0/8, ::1", "10.1.2.3", True)],
)  # fmt: skip
def test_what_a_proxy_says_counts_where_it_is_configured(sqlite_store, site, proxies, address, believed):
    people.add_rater(sqlite_store, "ann", Role.RATER, "a-good-password")
    client = site(proxies, address)
    answer = client.post("/login", data={"name": "ann", "password": "a-good-password"}, headers=FORWARDED)
    assert ("secure" in answer.headers["set-cookie"].lower()) == believed
    sign_in = audit.list_entries(sqlite_store, actions=["sign_in"])[0]
    assert sign_in.address == ("198.51.100.9" if believed else address)
    client.base_url = f"{'https' if believed else 'http'}://testserver"
    page = client.get("/rate/", headers=FORWARDED)
    assert page.status_code == 200
    assert ("evil.example" in page.text) == believed


def test_a_proxy_that_is_no_address_is_refused_with_its_name(monkeypatch):
    monkeypatch.setenv("RLHF_HITL_TRUSTED_PROXIES", "10.0.0.0/8,proxy.example")
    with pytest.raises(BadInput, match=r"proxy\.example"):
        load_settings()
