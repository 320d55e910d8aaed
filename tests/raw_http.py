"""Serve an application with limits of connections, and talk to it through a socket."""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from rlhf_hitl.api.connections import ConnectionLimits, Connections, LimitedProtocol
from rlhf_hitl.config import TrustedProxies

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
