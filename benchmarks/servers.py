"""What the benchmarks of the store share: a PostgreSQL server, our server, a filled store and an HTTP client."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, Self

import psutil
from record import COMMAND

from rlhf_hitl.store import Store, people, tokens
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Role, Scope


class ServerProcess:
    """A server in a process of its own. It ends with the `with` block, or with this process, even if that is killed."""

    def __init__(
        self, command: list[str | Path], log: Path, ready: Callable[[], bool], end: str = "TERM", **options: Any
    ):
        # The shell ends the server when its input closes, which it does also when this process is killed.
        self._command = ["sh", "-c", f'"$@" & read -r _; kill -{end} $!; wait', "sh", *command]
        self._log, self._ready, self._options = log, ready, options

    def start(self, seconds: float = 120) -> None:
        """Start the server, for the first time or after a kill, and return once it answers."""
        deadline = time.monotonic() + seconds
        while not self._start(deadline):
            if time.monotonic() > deadline:
                sys.exit(f"no answer from {self._command[4]}:\n{self._log.read_text(errors='replace')[-5000:]}")
            # PostgreSQL does not start while a process of the one that was killed still holds its memory.
            time.sleep(0.2)

    def _start(self, deadline: float) -> bool:
        with open(self._log, "ab") as log:
            self._shell = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=log, **self._options
            )
        while not self._ready():
            # The shell reaps its child only when its own input closes: a server that has ended is a zombie until then.
            has_ended = [p.status() == psutil.STATUS_ZOMBIE for p in psutil.Process(self._shell.pid).children()]
            if time.monotonic() > deadline or any(has_ended):
                self.kill()
                return False
            time.sleep(0.05)
        return True

    def kill(self) -> None:
        """Send SIGKILL to all of its processes."""
        for process in psutil.Process(self._shell.pid).children(recursive=True):  # parents first
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._end()

    def _end(self, seconds: float | None = None) -> None:
        if self._shell.stdin:
            self._shell.stdin.close()
        self._shell.wait(seconds)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shell.poll() is None:
            try:
                self._end(60)
            except subprocess.TimeoutExpired:
                self.kill()


class RlhfHitlServer(ServerProcess):
    """`rlhf-hitl serve` on a store, at the same `address` after each start."""

    def __init__(self, store: str, folder: Path, workers: int = 1):
        port = find_free_port()
        self.address = f"http://127.0.0.1:{port}"
        options = ["--port", str(port), "--store", store, "--workers", str(workers)]
        env = os.environ | {"RLHF_HITL_WORKSPACE": str(folder)}
        command = [*COMMAND, "serve", *options, "--json"]
        super().__init__([*command], folder / "serve.log", lambda: answers_http(port, "/healthz"), env=env)


class PostgresServer(ServerProcess):
    """A PostgreSQL server with its default settings (confirmed writes are on disk), on a socket in its folder.

    Its data are in the folder, too: those that an earlier one has left there, or new ones.
    """

    def __init__(self, folder: Path):
        self._bin, self._folder = _find_postgres_binaries(), folder
        self._user = _find_unprivileged_user() if os.geteuid() == 0 else None  # initdb refuses to run as root
        shutil.chown(folder, self._user or os.geteuid())
        if not (folder / "data").exists():
            self._run("initdb", "-D", folder / "data", "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C")
        command = [self._bin / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses="]
        ready = [self._bin / "pg_isready", "-q", "-h", folder]
        super().__init__(
            command, folder / "log", lambda: subprocess.run(ready).returncode == 0, "INT", user=self._user, cwd=folder
        )

    @property
    def host(self) -> str:
        return str(self._folder)

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        self._run("createdb", "-h", self._folder, "-U", "bench", name)
        return self.name_database(name)

    def name_database(self, name: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://bench@/{name}?host={self.host}"

    def _run(self, program: str, *args: str | Path) -> None:
        command = [self._bin / program, *args]
        subprocess.run(command, check=True, user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL)


@contextmanager
def start_postgres() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL server that was started for this benchmark."""
    # Not in the workspace: a socket's path has at most a hundred bytes or so, and under root the owner is changed.
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, PostgresServer(Path(folder)) as server:
        yield server


def _find_unprivileged_user() -> str:
    return "postgres" if any(u.pw_name == "postgres" for u in pwd.getpwall()) else "nobody"


def _find_postgres_binaries() -> Path:
    newest_first = sorted(glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[4]), reverse=True)
    on_path = shutil.which("initdb")
    candidates = [Path(p) for p in newest_first] + ([Path(on_path).resolve().parent] if on_path else [])
    for path in candidates:
        if (path / "initdb").exists():
            return path
    sys.exit("no PostgreSQL on this machine: apt-get install postgresql")


def make_pair(i: int, *, overlap: int = 1, batch: str = "", tags: dict[str, str] | None = None) -> Comparison:
    """Return a comparison of two short completions."""
    prompt = Prompt.create((Message("user", f"Question {i}?"),), tags)
    answers = [Completion.create(prompt.id, (Message("assistant", f"Answer {i}.{j}"),), "policy") for j in range(2)]
    return Comparison.create(prompt, answers, overlap, batch=batch)


def fill_store(store: Store, rows: Iterable[Comparison], at_once: int = 5000) -> None:
    remaining = iter(rows)
    while chunk := list(islice(remaining, at_once)):
        with store.write() as conn:
            insert_comparisons(store, conn, chunk)


def add_raters(store: Store, n: int) -> dict[str, str]:
    """Add n raters. Returns rater id → API token."""
    rater_ids = [people.add_rater(store, f"rater {i}", Role.RATER).id for i in range(n)]
    return {id: tokens.add_api_token(store, id, "benchmark", [Scope.TASK, Scope.FEEDBACK], days=1) for id in rater_ids}


def make_judgment_body(lease: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the body of `POST /api/v1/judgments` for a lease: the order shown is the ranking."""
    ranking = [[completion["key"]] for completion in lease["completions"]]
    return {"lease_id": lease["id"], "verdict": "ranked", "ranking": ranking, "strength": 2} | more


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers_http(port: int, path: str) -> bool:
    """Whether a server on this port answers over HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class JsonConnection:
    """One keep-alive HTTP/1.1 connection for JSON. Raises ConnectionError when the connection breaks."""

    def __init__(self, address: str, authorization: str):
        self._host, port = address.removeprefix("http://").rsplit(":", 1)
        self._port = int(port)
        self._head = f"Host: {self._host}:{port}\r\nAuthorization: {authorization}\r\nContent-Type: application/json"
        self._reader: asyncio.StreamReader | None = None

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send one request. Returns the status and the answer's JSON, None where it has no body."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}\r\nContent-Length: {len(data)}\r\n\r\n"
        try:
            if self._reader is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            self._writer.write(head.encode() + data)
            return await self._read_answer(self._reader)
        except (OSError, EOFError) as e:
            self.close()
            raise ConnectionError(str(e)) from e

    async def _read_answer(self, reader: asyncio.StreamReader) -> tuple[int, Any]:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "transfer-encoding" in headers:
            raise NotImplementedError("an answer in chunks")
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return int(first.split()[1]), json.loads(data) if data else None

    def close(self) -> None:
        if self._reader is not None:
            self._writer.close()
            self._reader = None
