"""HTTP connections with limits of time, size and number, which uvicorn itself does not have.

Whoever connects has to send something: a request's head within `HEAD_SECONDS`, and its body at `BODY_BYTES_PER_SECOND`
or faster. Who does not read the response is cut off too. A process holds `limit` connections, and `limit_per_address`
from one address; beyond these it closes the connection that has kept it waiting longest, so that somebody who opens
thousands cannot keep others out.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rlhf_hitl.config import TrustedProxies

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 2**10
BODY_SECONDS = 20.0  # for a start; after that the mean speed counts
BODY_BYTES_PER_SECOND = 1000
#: How long a client may leave a full response buffer unread.
READ_SECONDS = 60.0
CHECK_SECONDS = 1.0
MOST_CONNECTIONS = 4096
#: Files that a process needs beside its connections: the store's, features, reports, libraries.
OTHER_FILES = 256


def make_room_for_connections() -> int:
    """Raise this process's limit of open files as far as is of use, and return how many connections it then allows."""
    wanted = MOST_CONNECTIONS + OTHER_FILES
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < wanted:
        files = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else max(64, min(MOST_CONNECTIONS, files - OTHER_FILES))


class Connections:
    """The connections of one process.

    Args:
        proxies: addresses whose connections carry the requests of many clients and are not limited by address.
    """

    def __init__(self, limit: int, limit_per_address: int, proxies: TrustedProxies):
        self.limit, self.limit_per_address, self._proxies = limit, limit_per_address, proxies
        self._number, self._by_address = 0, Counter[str]()
        # Those that a client keeps waiting, the longest first.
        self._waiting: dict[LimitedProtocol, None] = {}
        self._slow_readers: dict[LimitedProtocol, None] = {}
        self._check: asyncio.TimerHandle | None = None

    def add(self, connection: LimitedProtocol) -> None:
        """Add a new connection. Where there are too many, close the one whose client keeps the server waiting longest.

        That is the new one itself where all others are being answered.
        """
        address = connection.address
        self._number += 1
        self._by_address[address] += 1
        self.expect(connection)
        if address not in self._proxies and self._by_address[address] > self.limit_per_address:
            self._close_longest(lambda c: c.address == address)
        elif self._number > self.limit:
            self._close_longest(lambda c: True)
        if self._check is None:
            self._check = connection.loop.call_later(CHECK_SECONDS, self._close_overdue, connection.loop)

    def remove(self, connection: LimitedProtocol) -> None:
        self._waiting.pop(connection, None)
        self._slow_readers.pop(connection, None)
        self._number -= 1
        self._by_address[connection.address] -= 1
        if not self._by_address[connection.address]:
            del self._by_address[connection.address]

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
        longest = next(filter(is_candidate, self._waiting))
        self.stop_expecting(longest)
        longest.transport.abort()

    def _close_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in [c for c in self._waiting if c.is_overdue(now)]:
            self.stop_expecting(connection)
            connection.time_out()
        for connection in [c for c in self._slow_readers if now > c.read_deadline]:
            connection.transport.abort()
        self._check = loop.call_later(CHECK_SECONDS, self._close_overdue, loop) if self._number else None


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
        self.address = ""
        self.deadline = self.read_deadline = 0.0
        self._phase, self._head_bytes = Phase.IDLE, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.deadline = self.loop.time() + HEAD_SECONDS
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.BODY:
            earned = len(data) / BODY_BYTES_PER_SECOND
            self.deadline = min(self.deadline + earned, self.loop.time() + BODY_SECONDS)
        else:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._phase is Phase.HEAD and self._head_bytes > HEAD_BYTES:
            self._refuse(431, "Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._enter(Phase.HEAD, HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._enter(Phase.BODY, BODY_SECONDS)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._phase, self._head_bytes = Phase.IDLE, 0
        self._all.stop_expecting(self)

    def _enter(self, phase: Phase, seconds: float) -> None:
        """Begin a phase in which the server waits for the client."""
        self._phase, self._head_bytes = phase, 0
        self.deadline = self.loop.time() + seconds
        self._all.expect(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._phase is Phase.IDLE and not self.transport.is_closing():
            self._enter(Phase.IDLE, HEAD_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.read_deadline = self.loop.time() + READ_SECONDS
        self._all.note_reading(self, is_slow=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._all.note_reading(self, is_slow=False)

    def is_overdue(self, now: float) -> bool:
        if self.flow.read_paused:  # the server itself has not taken yet what was sent
            self.deadline = max(self.deadline, now + BODY_SECONDS)
        return now > self.deadline

    def time_out(self) -> None:
        """Close the connection, and say why to a client that has sent a part of a request."""
        if self._phase is Phase.IDLE:
            self.transport.close()
        else:
            self._refuse(408, "Request Timeout")

    def _refuse(self, status: int, reason: str) -> None:
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            head = f"HTTP/1.1 {status} {reason}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            self.transport.write(head.encode())
        self.transport.close()
