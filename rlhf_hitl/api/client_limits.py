"""Limits for one address: how many of its requests are answered at a time, and how fast strangers may ask.

So one client leaves threads and time for the others. Requests of who is signed in, or has a token, do not count towards
the second limit; but they wait too while strangers at their address have used it up.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from rlhf_hitl.api.auth import Visitor, set_visitor
from rlhf_hitl.api.connections import find_network
from rlhf_hitl.api.problems import respond_with_problem
from rlhf_hitl.config import TrustedProxies

#: Seconds that a request waits before it is refused: an office that opens its pages at once has to wait, and no more.
WAIT_SECONDS, LOOK_SECONDS = 10.0, 0.2
#: Requests of strangers from one address: at once, and a second from then on.
BURST, PER_SECOND = 500.0, 100.0
#: A stranger's request that would have to wait for longer is refused.
LONGEST_WAIT = 5.0
MOST_CLIENTS = 10_000


@dataclass
class _Client:
    """One address. `allowance` is how many requests a stranger may send at once; below 0 they wait."""

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
        most: requests of one address that are in progress at a time.
    """

    def __init__(self, app: ASGIApp, most: int, proxies: TrustedProxies):
        self._app, self._most, self._proxies = app, most, proxies
        self._clients: dict[str, _Client] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = scope.get("client")
        if scope["type"] != "http" or address is None or address[0] in self._proxies:
            return await self._app(scope, receive, send)
        client = self._find_client(find_network(address[0]))
        client.allowance -= 1
        visitor = Visitor()
        set_visitor(scope, visitor)
        if not await self._wait(client):
            refusal = respond_with_problem(503, "Too many requests of this address at once. Fix: send it again")
            refusal.headers["retry-after"] = "1"
            return await refusal(scope, receive, send)
        client.in_progress += 1
        try:
            await self._app(scope, receive, send)
        finally:
            client.in_progress -= 1
            client.allowance += visitor.is_known

    async def _wait(self, client: _Client) -> bool:
        """Wait until a request may be answered. False where it may not."""
        delay = -client.allowance / PER_SECOND
        if delay > LONGEST_WAIT:
            client.allowance += 1
            await asyncio.sleep(LONGEST_WAIT)
            return False
        if delay > 0:
            await asyncio.sleep(delay)
        ends_at = time.monotonic() + WAIT_SECONDS
        while client.in_progress >= self._most and time.monotonic() < ends_at:
            await asyncio.sleep(LOOK_SECONDS)
        return client.in_progress < self._most

    def _find_client(self, network: str) -> _Client:
        if (client := self._clients.get(network)) is None:
            if len(self._clients) >= MOST_CLIENTS:
                self._forget_idle()
            client = self._clients[network] = _Client()
        client.refill()
        return client

    def _forget_idle(self) -> None:
        for network, client in list(self._clients.items()):
            client.refill()
            if client.in_progress == 0 and client.allowance >= BURST:
                del self._clients[network]
