"""Somebody without an account: what they send costs the server little, and keeps nobody waiting."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from rlhf_hitl.api import client_limits
from rlhf_hitl.api.app import create_app, create_headless_app, serve_from_environment
from rlhf_hitl.api.client_limits import ClientLimits
from rlhf_hitl.api.connections import ConnectionLimits, Connections, LimitedProtocol, find_network
from rlhf_hitl.api.json_body import count_values
from rlhf_hitl.api.log_limit import LogLimit, limit_log_of_clients
from rlhf_hitl.api.sign_in_throttle import SignInThrottle
from rlhf_hitl.cli.serve import make_uvicorn_options
from rlhf_hitl.config import Settings, TrustedProxies, load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import Store, audit, people, tokens
from rlhf_hitl.types import Role, Scope

QUICK = ConnectionLimits(
    connections=40, per_address=20, head_seconds=1, head_bytes=4096, body_seconds=1, body_bytes_per_second=100,
    read_seconds=1,
)  # fmt: skip


@contextmanager
def served(
    app: ASGIApp, limits: ConnectionLimits = QUICK, proxies: str = "", connections: list[Connections] | None = None
) -> Iterator[tuple[str, int]]:
    """Serve an application with these limits; yield its host and port. What counts connections is put into a list."""
    counting = Connections(limits, TrustedProxies(proxies))
    if connections is not None:
        connections.append(counting)
    protocol = functools.partial(LimitedProtocol, connections=counting)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=protocol, log_level="error", lifespan="off"))  # type: ignore[arg-type]
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()


async def echo_length(scope, receive, send):
    """Answer with the length of the body; `/large` answers fifty megabytes."""
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    body = b"x" * 50_000_000 if scope["path"] == "/large" else str(length).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def receive_all(client: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    client.settimeout(15)
    received = b""
    try:
        while chunk := client.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


# ------------------------------------------------------------------------------------------------------- connections


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"GET / HT", b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"HTTP/1.1 408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{", b"HTTP/1.1 408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", b"HTTP/1.1 408"),
    ],
    ids=["nothing", "half a line", "half a head", "half a body", "half a chunk"],
)
def test_who_stops_sending_is_cut_off(sent, answer):
    with served(echo_length) as address, socket.create_connection(address) as client:
        client.sendall(sent)
        assert receive_all(client).startswith(answer)


def test_who_sends_a_byte_at_a_time_is_cut_off_and_who_is_slow_but_steady_is_not():
    with (
        served(echo_length) as address,
        socket.create_connection(address) as dripping,
        socket.create_connection(address) as steady,
    ):
        for client in (dripping, steady):
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 600\r\n\r\n")
        for _ in range(30):  # three seconds at 10 and at 200 bytes a second
            steady.sendall(b"x" * 20)
            with contextlib.suppress(OSError):
                dripping.sendall(b"x")
            time.sleep(0.1)
        assert receive_all(steady).endswith(b"600")
        assert receive_all(dripping).startswith(b"HTTP/1.1 408")


def test_who_does_not_read_the_answer_is_cut_off():
    connections: list[Connections] = []
    with served(echo_length, connections=connections) as address, socket.create_connection(address) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 15
        while connections[0].number == 0 or client.recv(1, socket.MSG_PEEK) == b"":
            assert time.monotonic() < deadline
        while connections[0].number > 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(receive_all(client)) < 50_000_000


def test_a_head_without_end_is_refused_before_it_fills_the_memory():
    with served(echo_length) as address, socket.create_connection(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(OSError):
            for i in range(2000):
                client.sendall(b"X-%d: " % i + b"y" * 1000 + b"\r\n")
        assert receive_all(client)[:12] in (b"HTTP/1.1 431", b"")


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        (b"GET /?" + b"%61=&" * 70, b"", b"414"),
        (b"GET /?" + b"a" * 5000, b"", b"414"),
        (b"GET /", b"Accept-Language: " + b"a," * 10_000 + b"\r\n", b"431"),
        (b"GET /", b"a:\r\n" * 120, b"431"),
        (b"GET /", b"a:\r\n" * 16_000, b"431"),
    ],
    ids=["many parameters", "a long address", "a long header", "many headers", "very many headers"],
)
def test_what_costs_more_to_read_than_to_send_is_refused(request_line, headers, status):
    usual = ConnectionLimits(connections=40, per_address=20)
    with served(echo_length, usual) as address, socket.create_connection(address) as client:
        client.sendall(request_line + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
        assert receive_all(client)[9:12] == status


def test_a_body_in_chunks_of_a_byte_is_refused_and_one_in_short_lines_is_taken():
    for chunk, status in ((b"1\r\na\r\n", b"400"), (b"20\r\n" + b"a" * 32 + b"\r\n", b"200")):
        with served(echo_length) as address, socket.create_connection(address) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            with contextlib.suppress(OSError):
                client.sendall(chunk * 1000 + b"0\r\n\r\n")
            assert receive_all(client)[9:12] == status


def test_a_body_that_goes_on_after_the_response_ends_the_connection(app):
    connections: list[Connections] = []
    with served(app, connections=connections) as address, socket.create_connection(address) as client:
        client.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        begun, is_closed = time.monotonic(), False
        while not is_closed:
            try:
                client.sendall(b"400\r\n" + b"a" * 1024 + b"\r\n")
            except OSError:
                is_closed = True
            assert time.monotonic() < begun + 20


@pytest.fixture
def waiting_app():
    """An application that answers once it is released, and the number of requests that wait in it."""
    release, waiting = threading.Event(), []

    async def wait(scope, receive, send):
        waiting.append(scope)
        while not release.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return wait, waiting, release


def test_one_address_has_only_so_many_requests_in_progress(waiting_app, monkeypatch):
    app, waiting, release = waiting_app
    monkeypatch.setattr(client_limits, "WAIT_SECONDS", 0.5)
    limited = ClientLimits(app, 3, TrustedProxies("192.0.2.9"))

    def ask(last: int) -> int:
        return TestClient(limited, client=(f"192.0.2.{last}", 1)).get("/").status_code

    with ThreadPoolExecutor(20) as pool:
        first = [pool.submit(ask, 1) for _ in range(3)]
        deadline = time.monotonic() + 10
        while len(waiting) < 3:
            assert time.monotonic() < deadline
        assert ask(1) == 503
        monkeypatch.setattr(client_limits, "WAIT_SECONDS", 10.0)
        later = pool.submit(ask, 1)
        others = [pool.submit(ask, last) for last in (2, 9, 9, 9, 9)]
        release.set()
        assert [asked.result() for asked in (*first, *others, later)] == [200] * 9, "who waits gets in"


def test_strangers_of_one_address_are_slowed_and_who_is_known_is_not(app, sqlite_store, monkeypatch):
    monkeypatch.setattr(client_limits, "BURST", 10.0)
    monkeypatch.setattr(client_limits, "PER_SECOND", 20.0)
    monkeypatch.setattr(client_limits._Client, "allowance", 10.0)
    rater = people.add_rater(sqlite_store, "ann", Role.RATER)
    key = tokens.add_api_token(sqlite_store, rater.id, "", [Scope.TASK])

    def ask(last: int, **headers: str) -> float:
        client, begun = TestClient(app, client=(f"192.0.2.{last}", 1)), time.monotonic()
        for _ in range(30):
            assert client.get("/api/v1/queue", headers=headers).status_code == (200 if headers else 401)
        return time.monotonic() - begun

    assert ask(1) >= 0.9, "ten at once, and twenty a second"
    begun = time.process_time()
    assert ask(2, authorization=f"Bearer {key}") < 0.9 + 2 * (time.process_time() - begun)


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


def test_a_large_body_in_the_packet_of_a_short_head_is_taken():
    with served(echo_length) as address, socket.create_connection(address) as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50000
        )
        assert receive_all(client).endswith(b"50000")


def test_somebody_who_opens_connections_closes_their_own_and_keeps_nobody_out():
    with served(echo_length) as address:
        opened = [socket.create_connection(address) for _ in range(60)]
        assert httpx.get(f"http://127.0.0.1:{address[1]}/").text == "0"
        for client in opened:
            client.setblocking(False)
        deadline, closed = time.monotonic() + 0.5, 0
        while time.monotonic() < deadline:
            closed = sum(_is_closed(client) for client in opened)
        assert closed >= 40, "twenty from one address are kept"
        for client in opened:
            client.close()


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_trailers_without_end_are_refused():
    with served(echo_length) as address, socket.create_connection(address) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n")
        with contextlib.suppress(OSError):
            for i in range(2000):
                client.sendall(b"X-%d: " % i + b"y" * 1000 + b"\r\n")
        assert receive_all(client)[:12] in (b"HTTP/1.1 431", b"")


def test_a_second_request_before_the_first_answer_ends_the_connection():
    connections: list[Connections] = []
    with served(echo_length, connections=connections) as address, socket.create_connection(address) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        receive_all(client)
        deadline = time.monotonic() + 15
        while connections[0].number:
            assert time.monotonic() < deadline


def test_a_connection_that_is_closed_and_not_read_is_cut_off():
    connections: list[Connections] = []
    with served(echo_length, connections=connections) as address, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect(address)
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
        deadline = time.monotonic() + 20
        while not connections or connections[0].number:
            assert time.monotonic() < deadline, "it is neither read nor waited for"
            time.sleep(0.05)


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


def test_a_trusted_proxy_may_open_more_connections_than_one_client():
    with served(echo_length, proxies="127.0.0.1") as address:
        opened = [socket.create_connection(address) for _ in range(30)]
        assert httpx.get(f"http://127.0.0.1:{address[1]}/").text == "0"
        for client in opened:
            client.setblocking(False)
        assert not any(map(_is_closed, opened))
        for client in opened:
            client.close()


# ------------------------------------------------------------------------------------------------------------- bodies


@pytest.fixture
def app(sqlite_store: Store, tmp_path):
    return create_headless_app(sqlite_store, Settings(store=sqlite_store.url, workspace=tmp_path / "workspace"))


OPERATIONS_WITH_A_BODY = ["judgments", "judgments/j_0/corrections", "leases", "prompts", "completions", "comparisons",
                          "predictions", "projects", "webhooks", "import"]  # fmt: skip


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


# ------------------------------------------------------------------------------------------------------------ proxies


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
