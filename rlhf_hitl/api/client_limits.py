"""Limits for one address: how many of its requests are answered at a time, and how fast strangers may ask.

So one client leaves threads and time for the others. Strangers do not slow those at their address who are known: once
a request was answered for somebody known, others with its credentials have places of their own, and do not count
towards the second limit.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlhf_hitl.api.auth import Visitor, set_visitor
from rlhf_hitl.api.connections import find_network
from rlhf_hitl.api.problems import respond_with_problem
from rlhf_hitl.config import TrustedProxies

#: Seconds that a request waits before it is refused: an office that opens its pages at once has to wait, and no more.
WAIT_SECONDS = 10.0
#: Requests of strangers from one address: at once, and a second from then on.
BURST, PER_SECOND = 500.0, 100.0
#: A stranger's request that would have to wait for longer is refused.
LONGEST_WAIT = 5.0
MOST_CLIENTS = MOST_CREDENTIALS = 10_000


@dataclass
class _Client:
    """One address.

    `places` are taken by requests that are being answered, of strangers and of who is known; whoever waits for one gets
    it in turn. `allowance` is how many requests a stranger may send at once; below 0 they wait.
    """

    places: dict[bool, asyncio.Semaphore]
    in_progress: int = 0
    allowance: float = BURST
    _counted_at: float = field(default_factory=time.monotonic)

    def refill(self) -> None:
        now = time.monotonic()
        self.allowance = min(BURST, self.allowance + (now - self._counted_at) * PER_SECOND)
        self._counted_at = now


class ClientLimits:
    """ASGI middleware that lets a request wait while its address (see `find_network`) asks for too much.

    Where it still does after that, the request is answered with 503; pages and clients send it again. Requests that a
    trusted proxy makes for itself are not limited.

    Args:
        most: requests of one address that are in progress at a time, of strangers and of who is known each. One whose
            body is still on its way is not in progress.
    """

    def __init__(self, app: ASGIApp, most: int, proxies: TrustedProxies):
        self._app, self._most, self._proxies = app, most, proxies
        self._clients: dict[str, _Client] = {}
        # Digests of credentials that somebody known sent, the oldest first.
        self._known: dict[bytes, None] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = scope.get("client")
        if scope["type"] != "http" or address is None or address[0] in self._proxies:
            return await self._app(scope, receive, send)
        credentials = _digest_credentials(scope)
        is_known = credentials in self._known
        client, visitor = self._find_client(find_network(address[0])), Visitor()
        set_visitor(scope, visitor)
        places = client.places[is_known]
        client.in_progress += 1
        try:
            if not ((is_known or await self._wait_for_allowance(client)) and await _take(places)):
                refusal = respond_with_problem(503, "Too many requests of this address at once. Fix: send it again")
                refusal.headers["retry-after"] = "1"
                return await refusal(scope, receive, send)
            try:
                await self._app(scope, _leave_place_while_receiving(receive, places), send)
            finally:
                places.release()
        finally:
            client.in_progress -= 1
            self._remember(credentials, visitor.is_known)
            client.allowance += visitor.is_known and not is_known

    async def _wait_for_allowance(self, client: _Client) -> bool:
        """Wait until a stranger's request may be answered. False where that would take too long."""
        client.allowance -= 1
        delay = -client.allowance / PER_SECOND
        if delay > LONGEST_WAIT:
            client.allowance += 1
        if delay > 0:
            await asyncio.sleep(min(delay, LONGEST_WAIT))
        return delay <= LONGEST_WAIT

    def _remember(self, credentials: bytes | None, are_valid: bool) -> None:
        if credentials is not None:
            self._known.pop(credentials, None)  # a session that has ended is a stranger's
            if are_valid:
                self._known[credentials] = None
                if len(self._known) > MOST_CREDENTIALS:
                    del self._known[next(iter(self._known))]

    def _find_client(self, network: str) -> _Client:
        if (client := self._clients.get(network)) is None:
            if len(self._clients) >= MOST_CLIENTS:
                self._forget_idle()
            places = {is_known: asyncio.Semaphore(self._most) for is_known in (False, True)}
            client = self._clients[network] = _Client(places)
        client.refill()
        return client

    def _forget_idle(self) -> None:
        for network, client in list(self._clients.items()):
            client.refill()
            if client.in_progress == 0 and client.allowance >= BURST:
                del self._clients[network]


def _digest_credentials(scope: Scope) -> bytes | None:
    """Return a digest of the token or cookies of a request, None where it has neither."""
    sent = [value for name, value in scope["headers"] if name in (b"authorization", b"cookie")]
    return hashlib.sha256(b"\n".join(sent)).digest() if sent else None


async def _take(places: asyncio.Semaphore) -> bool:
    """Take a place. False where none became free in time."""
    try:
        await asyncio.wait_for(places.acquire(), WAIT_SECONDS)
    except TimeoutError:
        return False
    return True


def _leave_place_while_receiving(receive: Receive, places: asyncio.Semaphore) -> Receive:
    """Return what receives a request's body and meanwhile leaves the place to others: a body may come slowly."""
    is_whole = False

    async def receive_outside() -> Message:
        nonlocal is_whole
        if is_whole:  # what is waited for now is the end of the connection
            return await receive()
        places.release()
        try:
            message = await receive()
        finally:
            await places.acquire()
        is_whole = message["type"] != "http.request" or not message.get("more_body")
        return message

    return receive_outside
