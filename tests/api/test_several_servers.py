"""Several server processes on one PostgreSQL: a rater who is moved between them in mid-session loses nothing."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from forked_processes import ForkedProcess
from rlhf_hitl.store import Store, audit, people, tokens
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Role, Scope

PASSWORD = "a-good-password"


@contextmanager
def server(url: str, workspace, *more: str) -> Iterator[tuple[ForkedProcess, str]]:
    """A server process and its address."""
    reader, writer = os.pipe()
    flags = ["serve", "--port", "0", "--store", url, "--json", *more]
    process = ForkedProcess("rlhf_hitl", flags, os.environ | {"RLHF_HITL_WORKSPACE": str(workspace)}, [writer, 2])
    os.close(writer)
    with os.fdopen(reader) as output:
        try:
            yield process, json.loads(output.readline())["address"]
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


class RoundRobin:
    """A proxy that gives every request to the next server, and to the one after where that one is gone."""

    def __init__(self, servers: list[str]):
        turn, self.served = itertools.count(), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                first = next(turn)
                for i in range(len(servers)):
                    address = servers[(first + i) % len(servers)]
                    back = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
                    headers = dict(self.headers) | {"Connection": "close", "X-Forwarded-For": "203.0.113.7"}
                    try:
                        back.request(self.command, self.path, body, headers)
                        got = back.getresponse()
                        content = got.read()
                    except OSError:
                        continue
                    outer.served.append(address)
                    self.send_response(got.status)
                    for name, value in got.getheaders():
                        if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                            self.send_header(name, value)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    return self.wfile.write(content)
                self.send_error(502)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def two(postgres_url, tmp_path):
    """Two servers with workspaces of their own, and the proxy before them."""
    with ExitStack() as stack:
        servers = [stack.enter_context(server(postgres_url, tmp_path / name)) for name in ("a", "b")]
        proxy = RoundRobin([address for _, address in servers])
        stack.callback(proxy.server.server_close)
        stack.callback(proxy.server.shutdown)
        yield [process for process, _ in servers], proxy


def test_a_rater_moved_between_servers_during_a_session_loses_nothing(two, postgres_url, add_comparisons):
    processes, proxy = two
    with Store.open(postgres_url) as store, httpx.Client(base_url=proxy.address, timeout=30) as browser:
        add_comparisons(store, 6)
        people.add_rater(store, "ann", Role.RATER, PASSWORD)
        assert browser.post("/login", data={"name": "ann", "password": PASSWORD}).status_code == 303
        config = browser.get("/rate/config").json()
        page = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "page")

        def call(name: str, **sent) -> dict:
            body = {"data": sent, "component_id": page, "session_hash": "one", "fn_name": name}
            answer = browser.post("/rate/gradio_api/component_server/", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        done, told = [], call("open")
        while told["cards"]:
            card = told["cards"][0]
            if len(done) == 3:
                processes[0].kill()  # in mid-session; the other goes on
                processes[0].wait()
            assert call("open")["cards"][0]["id"] == card["id"], "the same card from either server"
            done.append(card["id"])
            answer = {"id": card["id"], "verdict": "ranked", "ranks": [1, 2], "strength": 2}
            told = call("submit", **answer)
            assert told["outcome"] == "counted"
            assert call("submit", **answer)["outcome"] == "repeated"
        assert len(done) == told["progress"]["done"] == 6
        assert sorted(j.idempotency_key for j in read_judgments(store)) == sorted(done)
    assert len(set(proxy.served)) == 2, "both servers had a part in it"


def test_many_clients_over_two_servers_fill_every_place_once(two, postgres_url, add_comparisons):
    _, proxy = two
    with Store.open(postgres_url) as store:
        add_comparisons(store, 20, overlap=2)
        keys = [
            tokens.add_api_token(
                store, people.add_rater(store, f"rater {i}", Role.RATER).id, "", [Scope.TASK, Scope.FEEDBACK]
            )
            for i in range(6)
        ]

        def work(key: str) -> int:
            done = 0
            with httpx.Client(base_url=proxy.address, headers={"authorization": f"Bearer {key}"}, timeout=60) as api:
                while found := api.post("/api/v1/leases", json={}).json()["leases"]:
                    body = {"lease_id": found[0]["id"], "verdict": "all_bad"}
                    assert api.post("/api/v1/judgments", json=body).json()["outcome"] == "counted"
                    done += 1
            return done

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(work, keys)) == 40
        said = [(j.comparison_id, j.rater_id) for j in read_judgments(store)]
        assert len(said) == len(set(said)) == 40


def test_workers_on_one_port_answer_as_one_and_sum_their_metrics(postgres_url, tmp_path, add_comparisons):
    with Store.open(postgres_url) as store:
        add_comparisons(store, 1)
        key = tokens.add_api_token(store, people.add_rater(store, "lea", Role.LEAD).id, "", [Scope.METRICS])
        with server(postgres_url, tmp_path, "--workers", "2") as (_, address):
            deadline = time.monotonic() + 60
            counted = 'route="/healthz",status="200"'
            while True:  # the kernel gives a connection to whichever is free
                httpx.get(f"{address}/healthz").raise_for_status()
                text = httpx.get(f"{address}/metrics", headers={"authorization": f"Bearer {key}"}).text
                if len([line for line in text.splitlines() if counted in line]) == 1:
                    break
                assert time.monotonic() < deadline
            for _ in range(3):  # as many times as it is asked
                text = httpx.get(f"{address}/metrics", headers={"authorization": f"Bearer {key}"}).text
                places = [line for line in text.splitlines() if line.startswith("rlhf_hitl_places")]
                assert places.count('rlhf_hitl_places{project="default",state="free"} 1.0') == 1
                assert len(places) == 3


def test_a_trusted_proxy_gives_the_clients_address_and_scheme(postgres_url, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HITL_TRUSTED_PROXIES", "127.0.0.1")
    with Store.open(postgres_url) as store, server(postgres_url, tmp_path) as (_, address):
        people.add_rater(store, "ann", Role.RATER, PASSWORD)
        told = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}
        answer = httpx.post(f"{address}/login", data={"name": "ann", "password": PASSWORD}, headers=told)
        assert "secure" in answer.headers["set-cookie"].lower()

        [entry] = audit.list_entries(store, actions=["sign_in"])
        assert entry.address == "203.0.113.9"
