"""Measure what raters notice of an import of a million votes: the time of a submit without it and during it.

    python benchmarks/import_load.py

Eight raters lease and submit over HTTP, ten submits a second together, at times that are fixed before (an open loop: a
slow answer does not lower the load). They work for a minute and have a break for another, in which an import goes on
faster: it notices within half a minute that nobody works, and at once that somebody does again. Then they go on while
another process, `rlhf-hitl import`, imports votes on other comparisons, on SQLite and on PostgreSQL, each served by one
process. `--quick` imports a few thousand votes.

`submit_p95_ms` is measured before the import, `submit_p95_import_ms` from its start to its end, each from the moment
at which the submit was due; `import_submit_ratio` is their ratio. `longest_write_ms` is measured by the importer
itself: from the start of a write transaction, when the lock is held, to the end of its commit, at most. `refused`
counts every answer but 200 and 201, to raters and to `/readyz`, which is asked once a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from bulk import generate_votes
from record import COMMAND, write_result
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

RATERS = 8
SUBMITS_PER_SECOND = 10.0
VOTES = 4  # on each imported comparison, see bulk.py
WARM_UP_SECONDS = 5.0
WORK_SECONDS, BREAK_SECONDS = 60.0, 60.0


@dataclass
class Load:
    """What the raters saw."""

    submit_ms: list[float] = field(default_factory=list)
    refused: int = 0


def measure_import(
    url: str, folder: Path, rows: int, *, seconds: float = 60.0, raters: int = RATERS, votes: Path | None = None
) -> dict[str, float]:
    """Measure submits for `seconds` without an import, and then during one of `rows` votes, on a new store.

    Args:
        folder: where the server may write.
        votes: a file of so many votes, if there is one already.
    """
    if votes is None:
        votes = folder / "votes.jsonl"
        with votes.open("w") as f:
            f.writelines(generate_votes(rows // VOTES))
    with Store.open(url, create=True) as store:
        # An import has 400 rows a second or more; whoever measures a slower one needs more comparisons here.
        comparisons = int(SUBMITS_PER_SECOND * (seconds + 60 + rows / 400))
        fill_store(store, (make_pair(i) for i in range(comparisons)))
        tokens = list(add_raters(store, raters).values())
    with RlhfHitlServer(url, folder) as server:
        warm_until = time.monotonic() + min(WARM_UP_SECONDS, seconds)
        asyncio.run(_rate(server.address, tokens, lambda: time.monotonic() > warm_until))
        quiet_until = time.monotonic() + seconds
        quiet = asyncio.run(_rate(server.address, tokens, lambda: time.monotonic() > quiet_until))
        begun = time.monotonic()
        process = subprocess.Popen(
            [*COMMAND, "import", str(votes), "--store", url, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        busy = asyncio.run(_rate(server.address, tokens, lambda: process.poll() is not None))
        import_seconds = time.monotonic() - begun
    assert process.stdout is not None
    report = json.load(process.stdout)
    if report.get("rows") != rows:
        sys.exit(f"the import reports {report}")
    p95, p95_import = (float(np.percentile(load.submit_ms, 95)) for load in (quiet, busy))
    return {
        "import_submit_ratio": p95_import / p95,
        "submit_p95_ms": p95,
        "submit_p95_import_ms": p95_import,
        "submit_max_import_ms": max(busy.submit_ms),
        "submits": len(quiet.submit_ms),
        "submits_import": len(busy.submit_ms),
        "longest_write_ms": report["longest_write_ms"],
        "import_rows_per_s": rows / import_seconds,
        "refused": quiet.refused + busy.refused,
        "load": os.getloadavg()[0],
    }


async def _rate(address: str, tokens: list[str], is_over: Callable[[], bool]) -> Load:
    """Let the raters work in turn, and ask whether the server is ready, until it is over."""
    load = Load()
    period = len(tokens) / SUBMITS_PER_SECOND
    begun = time.monotonic()
    raters = (
        _work(address, token, begun + i * period / len(tokens), period, is_over, load) for i, token in enumerate(tokens)
    )
    await asyncio.gather(*raters, _ask_whether_ready(address, is_over, load))
    return load


async def _work(address: str, token: str, due: float, period: float, is_over: Callable[[], bool], load: Load) -> None:
    """Submit once in each period. The lease was taken when the answer before was sent, as the rating page does."""
    client, begun = JsonConnection(address, f"Bearer {token}"), time.monotonic()
    while not is_over():
        if (time.monotonic() - begun) % (WORK_SECONDS + BREAK_SECONDS) > WORK_SECONDS:
            client.close()  # the server ends idle connections, and a browser opens another one after a break
            await asyncio.sleep(0.1)
            # Each keeps their own beat: were all to begin at once after a break, they would wait for each other.
            due += period * max(0, 1 + (time.monotonic() - due) // period)
            continue
        status, answer = await client.call("POST", "/api/v1/leases", {"count": 1})
        load.refused += status not in (200, 201)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if status in (200, 201) and answer["leases"]:
            status, _ = await client.call("POST", "/api/v1/judgments", make_judgment_body(answer["leases"][0]))
            load.refused += status not in (200, 201)
            load.submit_ms.append((time.monotonic() - due) * 1000)
        due += period
    client.close()


async def _ask_whether_ready(address: str, is_over: Callable[[], bool], load: Load) -> None:
    client = JsonConnection(address, "")
    while not is_over():
        status, _ = await client.call("GET", "/readyz")
        load.refused += status != 200
        await asyncio.sleep(1)
    client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60, help="Without an import.")
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgres"], default=["sqlite", "postgres"])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rows, seconds = (4000, 3.0) if args.quick else (args.rows, args.seconds)
    figures: dict[str, float | int | None] = {"rows": rows, "raters": RATERS, "submits_per_s": SUBMITS_PER_SECOND}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for database in args.databases:
            if database == "sqlite":
                measured = measure_import(f"sqlite:///{folder}/preferences.db", folder, rows, seconds=seconds)
            else:
                with start_postgres() as pg:
                    measured = measure_import(pg.create_database("load"), folder, rows, seconds=seconds)
            figures |= {f"{database}.{key}": value for key, value in measured.items()}
    notes = f"All judgments are simulated. Imported: {VOTES} votes on each comparison."
    write_result("import_load", figures, seeds=[0], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
