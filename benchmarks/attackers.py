"""What `hostile_load.py` sends: each attack runs in a process of its own until its input closes.

python benchmarks/attackers.py bodies ADDRESS CLIENTS [TOKEN SESSION]
python benchmarks/attackers.py connections ADDRESS IDLE SLOW

They come from ten addresses of the loopback network, as Linux has them, because a server limits one address. Each says
when it is ready, and prints at the end what it did, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator
from itertools import cycle
from typing import Any

from rlhf_hitl.api.auth import SESSION_COOKIE

MB = 2**20
#: Every operation of the API that takes a body, with about the largest body it may have, and pages and forms. A test
#: holds it against the description of the API.
TARGETS = {
    "POST /api/v1/judgments": 3 * MB // 2,
    "POST /api/v1/judgments/j_0/corrections": 3 * MB // 2,
    "POST /api/v1/prompts": 4 * MB,
    "POST /api/v1/completions": 4 * MB,
    "POST /api/v1/comparisons": 4 * MB,
    "POST /api/v1/import": 4 * MB,
    "POST /api/v1/predictions": 4 * MB,
    "POST /api/v1/leases": MB // 16,
    "POST /api/v1/leases/l_0/renew": MB // 16,
    "POST /api/v1/projects": MB // 16,
    "PATCH /api/v1/projects/p": MB // 16,
    "PATCH /api/v1/raters/r": MB // 16,
    "POST /api/v1/invites": MB // 16,
    "POST /api/v1/webhooks": MB // 16,
    "POST /api/v1/golds": 4 * MB,
    "POST /api/v1/golds/end": MB // 16,
    "POST /api/v1/adjudications": MB // 16,
    "POST /api/v1/adjudications/leases": MB // 16,
    "POST /api/v1/assignments": MB // 16,
    "POST /api/v1/assignments/end": MB // 16,
    "POST /api/v1/catalog/search": MB // 16,
    "POST /api/v1/policies/ranking": MB // 16,
    "POST /login": 2**14,
    "POST /invite/made-up": 2**14,
    "POST /rate/gradio_api/component_server/": 3 * MB // 2,
    "POST /lead/gradio_api/component_server/": MB // 4,
    "POST /people/gradio_api/component_server/": MB // 4,
    "POST /policies/gradio_api/component_server/": MB // 4,
    "POST /replay/gradio_api/component_server/": MB // 4,
}


def make_bodies(size: int) -> Iterator[bytes]:
    """Yield bodies of `size` bytes that cost more than they look: many values, keys or errors, deep, escaped, none."""
    yield b'{"ranking": [' + b"[]," * ((size - 20) // 3) + b"[]]}"
    yield b'{"completions": [' + b"0," * ((size - 24) // 2) + b"0]}"
    yield b"[" * (size - 1)
    yield b'{"rationale": "' + b"\\u0041" * ((size - 20) // 6) + b'"}'
    keys = ",".join(f'"{i:x}":0' for i in range(size // 12))
    yield ("{" + keys[: keys.rfind(",", 0, size - 4)] + "}").encode()
    wrong = json.dumps({"messages": [{"role": 1, "content": 2, "more": 3}], "tags": {"a": 1}, "split": "x"}) + ","
    yield b'{"prompts": [' + wrong.encode() * ((size - 20) // len(wrong)) + b"{}]}"
    yield b"&".join([b"a=b"] * (size // 4))


async def send_bodies(address: str, clients: int, token: str, session: str, done: Counter[str]) -> None:
    """Let clients send the worst body of each operation, one after another, and a larger one than is allowed as well.

    Args:
        token, session: of a lead, for the API and for the pages; "" for nobody.
        done: counts the answers by their status.
    """
    requests = []
    for target, most in TARGETS.items():
        kind = "x-www-form-urlencoded" if "login" in target or "/invite/" in target else "json"
        access = f"Authorization: Bearer {token}" if "/api/" in target else f"Cookie: {SESSION_COOKIE}={session}"
        head = f"{target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/{kind}\r\nConnection: close\r\n"
        head += f"{access}\r\n" if token else ""
        for body in [*make_bodies(most), *make_bodies(14 * MB if target.endswith("/judgments") else most + 100)]:
            requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    turns = cycle(requests)
    print("ready", flush=True)

    async def send(i: int) -> None:
        while True:
            try:
                reader, writer = await connect(address, i)
                writer.write(next(turns))
                done[(await reader.read(2**16))[9:12].decode() or "none"] += 1
                writer.close()
            except OSError:
                await asyncio.sleep(0.01)

    await asyncio.gather(*(send(i) for i in range(clients)))


async def connect(address: str, i: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = address.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port), local_addr=(f"127.0.0.{2 + i % 10}", 0))


async def hold_connections(address: str, idle: int, slow: int, done: Counter[str]) -> None:
    """Keep connections open that send nothing, and others that send a body a byte a second. Closed ones come again.

    Args:
        done: its `seconds`, and its `open`: the connections that were open, summed over these seconds.
    """
    head = (
        b"POST /api/v1/judgments HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
    )

    async def hold(i: int, sends: bool) -> None:
        while True:
            try:
                reader, writer = await connect(address, i)
                held.add(writer)
                if sends:
                    writer.write(head)
                    senders.add(writer)
                with contextlib.suppress(OSError):
                    await reader.read(1000)
                senders.discard(writer)
                held.discard(writer)
                writer.close()
            except OSError:
                pass
            await asyncio.sleep(0.1)

    async def send_slowly() -> None:
        while True:
            await asyncio.sleep(1)
            done["seconds"] += 1
            done["open"] += len(held)
            for writer in [w for w in senders if not w.is_closing()]:
                writer.write(b" ")

    print("ready", flush=True)
    held: set[asyncio.StreamWriter] = set()
    senders: set[asyncio.StreamWriter] = set()
    await asyncio.gather(send_slowly(), *(hold(i, sends=i < slow) for i in range(idle + slow)))


async def run_until_closed(attack: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(attack)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    task.cancel()


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kind, address, *rest = sys.argv[1:]
    done = Counter[str]()
    if kind == "bodies":
        token, session = rest[1:] or ("", "")
        attack = send_bodies(address, int(rest[0]), token, session, done)
    else:
        attack = hold_connections(address, int(rest[0]), int(rest[1]), done)
    asyncio.run(run_until_closed(attack))
    print(json.dumps(done))


if __name__ == "__main__":
    main()
