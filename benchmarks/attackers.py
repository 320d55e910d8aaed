"""What `hostile_load.py` sends: each attack runs in a process of its own until its input closes.

python benchmarks/attackers.py bodies ADDRESS CLIENTS [TOKEN]
python benchmarks/attackers.py connections ADDRESS IDLE SLOW
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Coroutine, Iterator
from itertools import cycle
from typing import Any

MB = 2**20
#: Every operation of the API that takes a body, with the largest body it may have, and pages and forms.
TARGETS = {
    "/api/v1/judgments": 3 * MB // 2,
    "/api/v1/judgments/j_0/corrections": 3 * MB // 2,
    "/api/v1/prompts": 4 * MB,
    "/api/v1/completions": 4 * MB,
    "/api/v1/comparisons": 4 * MB,
    "/api/v1/predictions": 4 * MB,
    "/api/v1/leases": MB // 16,
    "/api/v1/leases/l_0/renew": MB // 16,
    "/api/v1/projects": MB // 16,
    "/api/v1/webhooks": MB // 16,
    "/login": 2**14,
    "/invite/made-up": 2**14,
    "/rate/gradio_api/component_server/": 3 * MB // 2,
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


async def send_bodies(address: str, clients: int, token: str) -> None:
    """Let clients send the worst body of each operation, one after another, and twice the largest as well."""
    host, port = address.removeprefix("http://").split(":")
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    requests = []
    for path, most in TARGETS.items():
        kind = "x-www-form-urlencoded" if path.startswith(("/login", "/invite")) else "json"
        for body in [*make_bodies(most), *make_bodies(14 * MB if path == "/api/v1/judgments" else most + 100)]:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{authorization}Content-Type: application/{kind}\r\n"
            requests.append(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    turns = cycle(requests)

    async def send() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(next(turns))
                await reader.read(2**16)
                writer.close()
            except OSError:
                await asyncio.sleep(0.01)

    await asyncio.gather(*(send() for _ in range(clients)))


async def hold_connections(address: str, idle: int, slow: int) -> None:
    """Keep connections open that send nothing, and others that send a body a byte a second. Closed ones come again.

    They come from ten addresses of the loopback network, as Linux has them, so that no limit of one address ends them.
    """
    host, port = address.removeprefix("http://").split(":")
    head = (
        b"POST /api/v1/judgments HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
    )

    async def hold(i: int, sends: bool) -> None:
        while True:
            try:
                from_address = (f"127.0.0.{2 + i % 10}", 0)
                reader, writer = await asyncio.open_connection(host, int(port), local_addr=from_address)
                if sends:
                    writer.write(head)
                    senders.add(writer)
                await reader.read(1000)
                senders.discard(writer)
                writer.close()
            except OSError:
                pass
            await asyncio.sleep(5)

    async def send_slowly() -> None:
        while True:
            await asyncio.sleep(1)
            for writer in [w for w in senders if not w.is_closing()]:
                writer.write(b" ")

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
    attack = (
        send_bodies(address, int(rest[0]), rest[1] if len(rest) > 1 else "")
        if kind == "bodies"
        else hold_connections(address, int(rest[0]), int(rest[1]))
    )
    asyncio.run(run_until_closed(attack))


if __name__ == "__main__":
    main()
