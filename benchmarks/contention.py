"""Check that 64 concurrent raters leave exactly 1,500 judgments on 500 comparisons that want three each.

    python benchmarks/contention.py

Over HTTP, on SQLite with one server process and on PostgreSQL with two. Each rater takes and answers comparisons
until nothing is left, and sends every fifth answer twice at the same moment, as a double click does.
The store is then read: how many judgments count, whether somebody judged one comparison twice (`repeats`), whether a
comparison got more than it wanted (`overshot`). An unexpected answer of the server, or a store that does not hold
exactly what was confirmed, ends the run with an error.

Left out: leases that run out, where a late answer is stored as surplus by design; the tests have those.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from record import write_result
from servers import (
    JsonConnection,
    RlhfHitlServer,
    add_raters,
    fill_store,
    make_judgment_body,
    make_pair,
    start_postgres,
)

from rlhf_hitl.store import Store
from rlhf_hitl.store.judgments import read_judgments

WANTED = 3


async def rate_until_empty(address: str, token: str) -> tuple[list[float], list[str]]:
    """Let one rater work until nothing is left. Returns the seconds of each cycle and the ids of its judgments."""
    client, other = (JsonConnection(address, f"Bearer {token}") for _ in range(2))
    seconds, confirmed = [], []
    while True:
        start = time.perf_counter()
        status, answer = await client.call("POST", "/api/v1/leases", {"count": 1})
        if status != 200:
            raise RuntimeError(f"leases: {status} {answer}")
        if not answer["leases"]:
            return seconds, confirmed
        body = make_judgment_body(answer["leases"][0])
        clicks = (client, other) if len(seconds) % 5 == 4 else (client,)
        receipts = await asyncio.gather(*(c.call("POST", "/api/v1/judgments", body) for c in clicks))
        outcomes = sorted((s, r.get("outcome")) for s, r in receipts)
        if outcomes != [(200, "repeated")] * (len(clicks) - 1) + [(201, "counted")]:
            raise RuntimeError(f"judgments: {receipts}")
        confirmed.append(receipts[0][1]["id"])
        seconds.append(time.perf_counter() - start)


async def rate_all(address: str, tokens: list[str]) -> list[tuple[list[float], list[str]]]:
    return await asyncio.gather(*(rate_until_empty(address, token) for token in tokens))


def measure_contention(url: str, folder: Path, comparisons: int, clients: int, workers: int) -> dict[str, float]:
    store = Store.open(url, create=True)
    fill_store(store, (make_pair(i, overlap=WANTED) for i in range(comparisons)))
    tokens = add_raters(store, clients)
    with RlhfHitlServer(url, folder, workers) as served:
        start = time.monotonic()
        outcomes = asyncio.run(rate_all(served.address, list(tokens.values())))
        seconds = time.monotonic() - start
    stored = list(read_judgments(store, current=False))
    store.close()
    confirmed = [id for _, ids in outcomes for id in ids]
    if Counter(j.id for j in stored) != Counter(confirmed):
        sys.exit(f"{len(confirmed)} judgments were confirmed, but the store has {len(stored)}, or other ones")
    p50, p95 = np.percentile([t for cycle_seconds, _ in outcomes for t in cycle_seconds], [50, 95]) * 1000
    return {
        "judgments": sum(not j.surplus for j in stored),
        "surplus": sum(j.surplus for j in stored),
        "repeats": sum(n - 1 for n in Counter((j.comparison_id, j.rater_id) for j in stored).values()),
        "overshot": sum(n > WANTED for n in Counter(j.comparison_id for j in stored if not j.surplus).values()),
        "cycles_per_s": len(stored) / seconds,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--comparisons", type=int, default=500)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    comparisons, clients = (40, 16) if args.quick else (args.comparisons, args.clients)
    with start_postgres() as pg, tempfile.TemporaryDirectory() as folder:
        results = {
            "sqlite": measure_contention(
                f"sqlite:///{folder}/preferences.db", Path(folder), comparisons, clients, workers=1
            ),
            "postgres": measure_contention(
                pg.create_database("contention"), Path(folder), comparisons, clients, workers=1 if args.quick else 2
            ),
        }
    totals = {name: sum(f.pop(name) for f in results.values()) for name in ("repeats", "overshot")}
    figures: dict[str, float | int | None] = {
        "clients": clients,
        "comparisons": comparisons,
        "wanted": comparisons * WANTED,
    } | totals
    figures |= {f"{database}.{name}": value for database, f in results.items() for name, value in f.items()}
    processes = "one" if args.quick else "two"
    notes = f"Every fifth answer was sent twice at once. SQLite: one server process; PostgreSQL: {processes}."
    write_result("contention", figures, seeds=[], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
