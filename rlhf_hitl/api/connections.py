"""HTTP connections with limits of time, size and number, which uvicorn itself does not have.

Whoever connects has to send something: a request's head in some seconds, and its body not too slowly. Who does not read
the response is cut off too. A process holds so many connections, and so many from one address; beyond these it closes
the one that has kept it waiting longest, so that somebody who opens thousands cannot keep others out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import chain
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rlhf_hitl.config import TrustedProxies

CHECK_SECONDS = 0.5
#: For which a connection stays open after the response to a request whose body has not come to its end.
LINGER_SECONDS = 2.0
MOST_CONNECTIONS = 4096
#: Files that a process needs beside its connections: the store's, features, reports, libraries.
OTHER_FILES = 256


@dataclass(frozen=True)
class ConnectionLimits:
    """What one process allows its clients.

    Attributes:
        connections: at the same time.
        per_address: of them, from one address (see `find_network`) that is no trusted proxy.
        head_seconds: for a request's head, and for the next request on a connection.
        head_bytes: of a request's head.
        headers: in it.
        url_bytes: of its address, in which `parameters` may stand.
        chunk_bytes: that a chunk of a body has in the mean, at least: each costs as much as a large one.
        body_seconds: for which a body may stand still, or fall behind `body_bytes_per_second`.
        read_seconds: for which a client may leave a full buffer of a response unread.
    """

    connections: int
    per_address: int
    head_seconds: float = 10
    head_bytes: int = 16 * 2**10
    headers: int = 100
    url_bytes: int = 4096
    parameters: int = 64
    chunk_bytes: int = 16
    body_seconds: float = 20
    body_bytes_per_second: float = 1000
    read_seconds: float = 60


def make_room_for_connections() -> int:
    """Raise this process's limit of open files as far as is of use, and return how many connections it then allows."""
    wanted = MOST_CONNECTIONS + OTHER_FILES
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < wanted:
        files = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else max(64, min(MOST_CONNECTIONS, files - OTHER_FILES))


def find_network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 of an IPv6 one, for a customer has all of it."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a Unix socket has none
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, 64), strict=False))


class Connections:
    """The connections of one process, and the limits they keep.

    Args:
        proxies: addresses whose connections carry the requests of many clients and are not limited by address.
    """

    def __init__(self, limits: ConnectionLimits, proxies: TrustedProxies):
        self.limits, self._proxies = limits, proxies
        self.number, self._by_network = 0, Counter[str]()
        # Those that a client keeps waiting, the longest first.
        self._waiting: dict[LimitedProtocol, None] = {}
        self._slow_readers: dict[LimitedProtocol, None] = {}
        self._open: set[LimitedProtocol] = set()
        # Those that are closed as soon as the client has read what is left → since when.
        self._closing: dict[LimitedProtocol, float] = {}
        self._check: asyncio.TimerHandle | None = None

    def add(self, connection: LimitedProtocol) -> None:
        """Add a new connection. Where there are too many, close the one whose client keeps the server waiting longest.

        That is the new one itself where all others are being answered.
        """
        network = "" if connection.address in self._proxies else find_network(connection.address)
        connection.network = network
        self.number += 1
        self._by_network[network] += 1
        self._open.add(connection)
        self.expect(connection)
        if network and self._by_network[network] > self.limits.per_address:
            self._close_longest(lambda c: c.network == network)
        elif self.number > self.limits.connections:
            self._close_longest(lambda c: True)
        if self._check is None:
            self._check = connection.loop.call_later(CHECK_SECONDS, self._close_overdue, connection.loop)

    def remove(self, connection: LimitedProtocol) -> None:
        self._open.discard(connection)
        self._closing.pop(connection, None)
        self._waiting.pop(connection, None)
        self._slow_readers.pop(connection, None)
        self.number -= 1
        self._by_network[connection.network] -= 1
        if not self._by_network[connection.network]:
            del self._by_network[connection.network]

    def expect(self, connection: LimitedProtocol) -> None:
        """Note that the server waits for something of the client from now on."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None

    def stop_expecting(self, connection: LimitedProtocol) -> None:
        self._waiting.pop(connection, None)

    def note_reading(self, connection: LimitedProtocol, is_slow: bool) -> None:
        if is_slow:
            self._slow_readers[connection] = None
        else:
            self._slow_readers.pop(connection, None)

    def _close_longest(self, is_candidate: Callable[[LimitedProtocol], bool]) -> None:
        longest = next(filter(is_candidate, chain(self._closing, self._waiting)))
        self._closing.pop(longest, None)
        self.stop_expecting(longest)
        longest.transport.abort()

    def _close_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in [c for c in self._waiting if c.is_overdue(now)]:
            self.stop_expecting(connection)
            connection.time_out()
        for connection in [c for c in self._slow_readers if now > c.read_deadline]:
            connection.transport.abort()
        for connection in [c for c in self._open if c.transport.is_closing()]:
            if now > self._closing.setdefault(connection, now) + self.limits.head_seconds:
                connection.transport.abort()
        self._check = loop.call_later(CHECK_SECONDS, self._close_overdue, loop) if self.number else None


class Phase(Enum):
    """What a connection is waiting for: a request, the rest of its head, or the rest of its body."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, with the limits of `Connections`."""

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._all = connections
        self.address = self.network = ""
        self.deadline = self.read_deadline = 0.0
        self._phase, self._head_bytes, self._bytes_beside_body = Phase.IDLE, 0, 0
        self._is_over = False  # the response is complete, and what still comes of the request is dropped
        self._start_count()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.deadline = self.loop.time() + self._all.limits.head_seconds
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.remove(self)
        super().connection_lost(exc)

    def _start_count(self) -> None:
        self._url_bytes = self._parameters = self._parsed_bytes = self._headers = 0
        self._chunks = self._chunked_bytes = 0
        self._refusal = 400, "Bad Request"

    def data_received(self, data: bytes) -> None:
        if self._is_over or self.transport.is_closing():
            return
        if self._phase is Phase.BODY:
            earned = len(data) / self._all.limits.body_bytes_per_second
            latest = self.loop.time() + self._all.limits.body_seconds
            self.deadline = min(self.deadline + earned, latest)
            if self.deadline == latest:  # a body that comes fast enough keeps nobody waiting, however long it is
                self._all.expect(self)
            self._bytes_beside_body += len(data)
        else:
            self._head_bytes += len(data)
        super().data_received(data)
        # Beside a body come the lengths of chunks, which are short, and trailers, which may have no end.
        most = self._all.limits.head_bytes
        too_much = self._phase is Phase.BODY and self._bytes_beside_body > most + len(data)
        if too_much or (self._phase is Phase.HEAD and self._head_bytes > most):
            self._refuse(431, "Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            raise ValueError(
                "a request before the answer to the one before: nobody needs that, and it could be endless"
            )
        super().on_message_begin()
        self._start_count()
        self._enter(Phase.HEAD, self._all.limits.head_seconds)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._enter(Phase.BODY, self._all.limits.body_seconds)

    def on_url(self, url: bytes) -> None:
        self._url_bytes += len(url)
        self._parameters += url.count(b"&")
        limits = self._all.limits
        if self._url_bytes > limits.url_bytes or self._parameters > limits.parameters:
            self._refusal = 414, "URI Too Long"
            raise ValueError("a request's address is too long")
        super().on_url(url)

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self._refusal)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is not Phase.BODY:  # trailers are left out
            self._count_head(name, value)
            super().on_header(name, value)

    def _count_head(self, *parts: bytes) -> None:
        """Count a header of a head that came whole: it costs more to read than to send."""
        self._parsed_bytes += sum(map(len, parts)) + 4  # with the colon and the end of the line
        self._headers += 1
        if self._parsed_bytes > self._all.limits.head_bytes or self._headers > self._all.limits.headers:
            self._refusal = 431, "Request Header Fields Too Large"
            raise ValueError("a request's head is too large")

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > 256 and self._chunked_bytes < self._chunks * self._all.limits.chunk_bytes:
            raise ValueError("a body in chunks that are too small")

    def on_body(self, body: bytes) -> None:
        self._bytes_beside_body = 0
        self._chunked_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._phase, self._head_bytes = Phase.IDLE, 0
        self._all.stop_expecting(self)

    def _enter(self, phase: Phase, seconds: float) -> None:
        """Begin a phase in which the server waits for the client."""
        self._phase, self._head_bytes, self._bytes_beside_body = phase, 0, 0
        self.deadline = self.loop.time() + seconds
        self._all.expect(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._phase is Phase.IDLE:
            self._enter(Phase.IDLE, self._all.limits.head_seconds)
        else:  # nobody reads the rest, which may have no end; the client has some time to read the response
            self._is_over = True
            self.deadline = self.loop.time() + LINGER_SECONDS
            self._all.expect(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.read_deadline = self.loop.time() + self._all.limits.read_seconds
        self._all.note_reading(self, is_slow=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._all.note_reading(self, is_slow=False)

    def is_overdue(self, now: float) -> bool:
        if self.flow.read_paused:  # the server itself has not taken yet what was sent
            self.deadline = max(self.deadline, now + self._all.limits.body_seconds)
        return now > self.deadline

    def time_out(self) -> None:
        """Close the connection, and say why to a client that has sent a part of a request."""
        if self._phase is Phase.IDLE or self._is_over:
            self.transport.close()
        else:
            self._refuse(408, "Request Timeout")

    def _refuse(self, status: int, reason: str) -> None:
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            head = f"HTTP/1.1 {status} {reason}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            self.transport.write(head.encode())
        self.transport.close()
