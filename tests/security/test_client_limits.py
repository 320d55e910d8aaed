"""How much one address may ask for: strangers there keep nobody waiting at others, and little at their own."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from rlhf_hitl.api import client_limits
from rlhf_hitl.api.client_limits import ClientLimits
from rlhf_hitl.config import TrustedProxies
from rlhf_hitl.store import Store, people, tokens
from rlhf_hitl.types import Role, Scope


def in_own_thread(test):
    """Run a test in an event loop of its own: the browser's runs in this thread, once a test has opened one."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, test(*args, **kwargs)).result()

    return run


class Site:
    """An application behind limits. It reads the body, and answers once it is released."""

    def __init__(self, most: int, proxies: str = ""):
        self.released, self.waiting = asyncio.Event(), 0
        self.limits = ClientLimits(self.answer, most, TrustedProxies(proxies))

    async def answer(self, scope, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.waiting += 1
        await self.released.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self, last: int, body: AsyncIterator[bytes] | None = None) -> int:
        return await request(self.limits, last, content=body)

    async def wait_for(self, waiting: int) -> None:
        async with asyncio.timeout(10):
            while self.waiting < waiting:
                await asyncio.sleep(0.001)


async def request(app, last: int, path: str = "/", **options) -> int:
    transport = httpx.ASGITransport(app, client=(f"192.0.2.{last}", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        return (await client.request("POST" if options.get("content") else "GET", path, **options)).status_code


@in_own_thread
async def test_one_address_has_only_so_many_requests_in_progress(monkeypatch):
    monkeypatch.setattr(client_limits, "WAIT_SECONDS", 0.2)
    site = Site(3, "192.0.2.9")
    first = [asyncio.create_task(site.ask(1)) for _ in range(3)]
    await site.wait_for(3)
    assert await site.ask(1) == 503
    monkeypatch.setattr(client_limits, "WAIT_SECONDS", 10.0)
    later = asyncio.create_task(site.ask(1))
    others = [asyncio.create_task(site.ask(last)) for last in (2, 9, 9, 9, 9)]
    await site.wait_for(8)
    site.released.set()
    assert await asyncio.gather(*first, *others, later) == [200] * 9, "who waits gets in"


@in_own_thread
async def test_a_body_that_comes_slowly_takes_nobodys_place():
    site = Site(2)
    site.released.set()
    ends = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield b"a"
        await ends.wait()
        yield b"b"

    slow = [asyncio.create_task(receive_slowly(site, slow_body())) for _ in range(5)]
    async with asyncio.timeout(5):
        assert [await site.ask(1) for _ in range(5)] == [200] * 5
    ends.set()
    assert await asyncio.gather(*slow) == [200] * 5


async def receive_slowly(site: Site, body: AsyncIterator[bytes]) -> int:
    """Call the application as a server does: httpx's transport would wait for the whole body first."""
    sent: list = []

    async def receive():
        async for part in body:
            return {"type": "http.request", "body": part, "more_body": True}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "client": ("192.0.2.1", 1), "headers": [], "method": "POST", "path": "/"}
    await site.limits(scope, receive, send)
    return sent[0]["status"]


@in_own_thread
async def test_addresses_that_have_been_quiet_are_forgotten_and_those_that_ask_are_not(monkeypatch):
    monkeypatch.setattr(client_limits, "MOST_CLIENTS", 3)
    monkeypatch.setattr(client_limits, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(client_limits, "PER_SECOND", 1e9)  # whoever has no request in progress has been quiet for long
    site = Site(1)
    held = [asyncio.create_task(site.ask(last)) for last in range(4)]
    await site.wait_for(4)
    assert [await site.ask(last) for last in range(4)] == [503] * 4, "each still has a request, so none is forgotten"
    site.released.set()
    assert await asyncio.gather(*held) == [200] * 4
    assert [await site.ask(last) for last in range(10, 20)] == [200] * 10
    assert len(site.limits._clients) <= 3


@pytest.fixture
def slow_strangers(monkeypatch):
    monkeypatch.setattr(client_limits, "BURST", 10.0)
    monkeypatch.setattr(client_limits, "PER_SECOND", 20.0)
    monkeypatch.setattr(client_limits._Client, "allowance", 10.0)


@in_own_thread
async def test_strangers_of_one_address_are_slowed_and_who_is_known_is_not(app, sqlite_store, slow_strangers):
    known = {"authorization": f"Bearer {add_token(sqlite_store)}"}

    async def ask(last: int, **headers: str) -> float:
        begun = time.monotonic()
        for _ in range(30):
            assert await request(app, last, "/api/v1/queue", headers=headers) == (200 if headers else 401)
        return time.monotonic() - begun

    assert await ask(1) >= 0.9, "ten at once, and twenty a second"
    begun = time.process_time()
    assert await ask(2, **known) < 0.9 + 2 * (time.process_time() - begun)


@in_own_thread
async def test_who_is_known_is_answered_while_strangers_at_their_address_are_refused(
    app, sqlite_store, slow_strangers, monkeypatch
):
    monkeypatch.setattr(client_limits, "LONGEST_WAIT", 0.5)
    known = {"authorization": f"Bearer {add_token(sqlite_store)}"}
    assert await request(app, 1, "/api/v1/queue", headers=known) == 200
    strangers = [asyncio.create_task(request(app, 1, "/api/v1/queue")) for _ in range(60)]
    await asyncio.sleep(0)
    begun = time.monotonic()
    answers = [await request(app, 1, "/api/v1/queue", headers=known) for _ in range(5)]
    assert answers == [200] * 5
    assert not all(stranger.done() for stranger in strangers) or time.monotonic() - begun < 0.5
    assert 503 in await asyncio.gather(*strangers)


@in_own_thread
async def test_credentials_that_are_no_longer_valid_are_a_strangers(app, sqlite_store, slow_strangers):
    key = add_token(sqlite_store)
    known = {"authorization": f"Bearer {key}"}
    assert await request(app, 1, "/api/v1/queue", headers=known) == 200
    people.change_rater(sqlite_store, "ann", disabled=True)
    begun = time.monotonic()
    assert [await request(app, 1, "/api/v1/queue", headers=known) for _ in range(30)] == [401] * 30
    assert time.monotonic() - begun >= 0.8, "all but the first count"


def add_token(store: Store) -> str:
    rater = people.add_rater(store, "ann", Role.RATER)
    return tokens.add_api_token(store, rater.id, "", [Scope.TASK])
