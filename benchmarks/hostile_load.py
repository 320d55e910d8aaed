"""Measure what raters notice of an attack: on bodies, on connections, by a large import, and by nasty texts.

    python benchmarks/hostile_load.py

* `healthz_p99_ms`: `/healthz`, while 20 clients send the worst body that each operation takes: half of the time without
  credentials, half with a lead's token, who may send them.
* `slow_senders_ratio`: the 95th percentile of a submit while 3,000 connections send nothing and 500 a byte a second,
  divided by that without them.
* `sqlite.import_submit_ratio`, `postgres.import_submit_ratio`: the same while a million votes are imported.
* `card_p99_ms`: drawing a card of nasty texts, each for the first time.

Clients, server and database share the machine's cores. Attackers come from ten addresses, raters from another one. How
the attackers' requests were answered, and how many of their connections were open, is among the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from bulk import VOTES, generate_votes
from card_rendering import measure_cards
from import_load import measure_import
from record import RESULTS, write_result
from servers import (
    JsonConnection,
    RlhfHitlServer,
    add_raters,
    fill_store,
    make_judgment_body,
    make_pair,
    start_postgres,
)

from rlhf_hitl.store import Store, people, tokens
from rlhf_hitl.store.sign_in import start_session, verify_password
from rlhf_hitl.types import Role, Scope

ATTACKERS = Path(__file__).parent / "attackers.py"
PASSWORD = "a-good-password"


@contextmanager
def attack(*arguments: str | int) -> Iterator[Counter[str]]:
    """Let an attack go on meanwhile. What it did is counted in what is yielded, once it is over."""
    command = [sys.executable, ATTACKERS, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it makes its bodies first
    done = Counter[str]()
    try:
        yield done
        if process.poll() is not None:
            sys.exit(f"the attack {arguments[0]} has ended by itself")
        told, _ = process.communicate(timeout=30)
        done.update(json.loads(told))
    finally:
        process.kill()
        process.wait()


async def probe_health(address: str, seconds: float) -> list[float]:
    """Ask `/healthz` fifty times a second. Returns the milliseconds of each answer, from when it was due."""
    connection, milliseconds = JsonConnection(address, ""), []
    begin = time.perf_counter()
    for i in range(int(seconds * 50)):
        due = begin + i / 50
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        status, _ = await connection.call("GET", "/healthz")
        if status != 200:
            raise RuntimeError(f"healthz: {status}")
        milliseconds.append(1000 * (time.perf_counter() - due))
    return milliseconds


async def submit_at_a_pace(address: str, keys: list[str], seconds: float, per_second: float) -> list[float]:
    """Let raters judge at a pace together. Returns the milliseconds of each submit, from when it was due."""

    async def rate(i: int, key: str) -> list[float]:
        connection, milliseconds = JsonConnection(address, f"Bearer {key}"), []
        pace = len(keys) / per_second
        due = time.perf_counter() + pace * (1 + i / len(keys))
        while len(milliseconds) < seconds / pace:
            status, leased = await connect_again(connection, "POST", "/api/v1/leases", {"count": 1})
            body = make_judgment_body(leased["leases"][0])
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            status, receipt = await connect_again(connection, "POST", "/api/v1/judgments", body)
            if status != 201:
                raise RuntimeError(f"judgments: {status} {receipt}")
            milliseconds.append(1000 * (time.perf_counter() - due))
            due += pace
        return milliseconds

    measured = await asyncio.gather(*(rate(i, key) for i, key in enumerate(keys)))
    return [ms for of_rater in measured for ms in of_rater]


async def connect_again(connection: JsonConnection, method: str, path: str, body: object) -> tuple[int, dict]:
    """Call as a browser does, which connects again where a connection that was kept has been closed."""
    for _ in range(20):
        try:
            return await connection.call(method, path, body)
        except ConnectionError:
            await asyncio.sleep(0.02)
    raise RuntimeError("the server does not let a rater in")


def measure_bodies(folder: Path, clients: int, seconds: float) -> dict[str, float]:
    url = f"sqlite:///{folder}/bodies.db"
    with Store.open(url, create=True) as store:
        lead = people.add_rater(store, "lea", Role.LEAD, PASSWORD)
        token = tokens.add_api_token(store, lead.id, "benchmark", list(Scope), days=1)
        verified = verify_password(store, "lea", PASSWORD)
        assert verified is not None
        session = start_session(store, verified, 1)
    figures = {}
    with RlhfHitlServer(url, folder) as served:
        quiet = asyncio.run(probe_health(served.address, seconds / 4))
        for name, access in (("nobody.", ()), ("lead.", (token, session))):
            with attack("bodies", served.address, clients, *access) as done:
                asyncio.run(probe_health(served.address, min(2, seconds)))  # until the attack has begun
                ms = asyncio.run(probe_health(served.address, seconds))
            if done.total() < seconds:
                sys.exit(f"the attack was hardly one: {done}")
            figures |= {f"{name}answered_{status}": n for status, n in sorted(done.items())}
            figures[f"{name}healthz_p99_ms"] = float(np.percentile(ms, 99))
            figures[f"{name}healthz_max_ms"] = max(ms)
    figures["quiet.healthz_p99_ms"] = float(np.percentile(quiet, 99))
    return figures | {"healthz_p99_ms": max(figures["nobody.healthz_p99_ms"], figures["lead.healthz_p99_ms"])}


def measure_connections(folder: Path, idle: int, slow: int, seconds: float) -> dict[str, float]:
    url = f"sqlite:///{folder}/connections.db"
    per_second = 10.0
    with Store.open(url, create=True) as store:
        fill_store(store, (make_pair(i) for i in range(int(2 * per_second * seconds) + 500)))
        keys = list(add_raters(store, 8).values())
    with RlhfHitlServer(url, folder) as served:
        asyncio.run(submit_at_a_pace(served.address, keys, min(5, seconds), per_second))
        quiet = asyncio.run(submit_at_a_pace(served.address, keys, seconds, per_second))
        with attack("connections", served.address, idle, slow) as done:
            asyncio.run(submit_at_a_pace(served.address, keys, min(5, seconds), per_second))  # until all are connected
            attacked = asyncio.run(submit_at_a_pace(served.address, keys, seconds, per_second))
    p95, p95_attacked = float(np.percentile(quiet, 95)), float(np.percentile(attacked, 95))
    figures = {"slow_senders.quiet_submit_p95_ms": p95, "slow_senders.submit_p95_ms": p95_attacked}
    figures |= {"slow_senders.connections_open": done["open"] / max(1, done["seconds"])}
    return figures | {"slow_senders_ratio": p95_attacked / p95}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    # A part that is measured alone replaces its figures among those that are published.
    published = RESULTS / "hostile_load.json"
    figures: dict[str, float | int | None] = {}
    if len(args.only) < len(PARTS) and published.exists() and not args.quick:
        figures = json.loads(published.read_text())["figures"]
    with tempfile.TemporaryDirectory() as name:
        for part in args.only:
            measured = PARTS[part](Path(name), args.quick)
            print(part, json.dumps(measured), file=sys.stderr, flush=True)  # kept where a later part fails
            figures |= measured
    notes = "Server, database, clients and attackers on one machine. SQLite, one process, where no database is named."
    write_result("hostile_load", figures, seeds=[], notes=notes, quick=args.quick)


def measure_imports(folder: Path, quick: bool) -> dict[str, float]:
    rows = 400 if quick else 1_000_000
    votes = folder / "votes.jsonl"
    with votes.open("w") as f:
        f.writelines(generate_votes(rows // VOTES))
    figures = {}
    with start_postgres() as server:
        for name, url in (("sqlite", f"sqlite:///{folder}/import.db"), ("postgres", server.create_database("import"))):
            (folder / name).mkdir()
            measured = measure_import(url, folder / name, rows, seconds=1 if quick else 60, votes=votes)
            figures |= {f"{name}.{key}": value for key, value in measured.items()}
    return figures


PARTS = {
    "bodies": lambda folder, quick: measure_bodies(folder, *((8, 1) if quick else (20, 60))),
    "connections": lambda folder, quick: measure_connections(folder, *((30, 10, 1) if quick else (3000, 500, 60))),
    "cards": lambda folder, quick: measure_cards(most=8 if quick else None),
    "imports": measure_imports,
}

if __name__ == "__main__":
    main()
