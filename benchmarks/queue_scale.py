"""Measure how long a lease and its submit take with ten thousand, a hundred thousand and a million comparisons queued.

    python benchmarks/queue_scale.py

On each database three stores of those sizes are filled through `insert_comparisons`: short texts, four languages in
five batches (twenty lanes), half of the comparisons wanting two judgments. Thirty raters, two thirds of whom read only
some of the languages, then lease and submit in turns of ten, one after the other, so that each meets comparisons they
have judged. The stores take turns too, a hundred cycles each, so that a slow minute of the machine affects all of them.
What is measured is the store's own time, without HTTP. PostgreSQL has the settings of a fresh installation; its
autovacuum is waited for after the filling, as it would have come in a running installation.

Left out: raters who come at the same time; `contention.py` has those.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice

import numpy as np
import psycopg
from record import write_result
from servers import PostgresServer, fill_store, make_pair, start_postgres

from rlhf_hitl.store import Store, people, queue
from rlhf_hitl.types import Answer, Comparison, Role, Verdict

LANGUAGES = ("en", "de", "fr", "hi")
NAMES = {10**3: "1k", 2 * 10**3: "2k", 10**4: "10k", 10**5: "100k", 10**6: "1m"}
CYCLES_PER_TURN = 10  # cycles of one rater in a row


def generate_comparisons(n: int) -> Iterator[Comparison]:
    for i in range(n):
        yield make_pair(i, overlap=1 + i // 20 % 2, batch=f"batch {i % 5}", tags={"language": LANGUAGES[i % 4]})


class FilledStore:
    """A store with `n` queued comparisons, and raters who judge them."""

    def __init__(self, url: str, n: int, raters: int):
        self.store = Store.open(url, create=True)
        start = time.monotonic()
        fill_store(self.store, generate_comparisons(n))
        self.filled_in = time.monotonic() - start
        new_raters = [people.add_rater(self.store, f"rater {i}", Role.RATER) for i in range(raters)]
        for i, rater in enumerate(new_raters):
            if i % 3:
                people.change_rater(self.store, rater.name, languages=[LANGUAGES[i % 4], LANGUAGES[(i + 1) % 4]])
        self._next = cycle([r.id for r in new_raters for _ in range(CYCLES_PER_TURN)])

    def work(self, cycles: int) -> list[float]:
        """Lease and submit so many times. Returns the seconds of each cycle."""
        seconds = []
        for rater in islice(self._next, cycles):
            start = time.perf_counter()
            lease = queue.lease(self.store, rater, seconds=1800)
            if lease is None:
                sys.exit("the queue is empty: take fewer cycles or more comparisons")
            answer = Answer(Verdict.RANKED, tuple((i,) for i in lease.order_shown), strength=2)
            queue.submit(self.store, lease.id, rater, answer)
            seconds.append(time.perf_counter() - start)
        return seconds


def await_autovacuum(url: str) -> None:
    """Wait until PostgreSQL's autovacuum, which runs once a minute, has processed every table that was filled."""
    waiting = """
        SELECT 1 FROM pg_stat_user_tables t JOIN pg_class c ON c.oid = t.relid
        WHERE n_mod_since_analyze > 50 + 0.1 * greatest(reltuples, 0)
           OR n_ins_since_vacuum > 1000 + 0.2 * greatest(reltuples, 0)
        UNION ALL SELECT 1 FROM pg_stat_progress_vacuum"""
    deadline = time.monotonic() + 1800
    with psycopg.connect(url, autocommit=True) as conn:
        while conn.execute(waiting).fetchone():
            if time.monotonic() > deadline:
                sys.exit("autovacuum did not come")
            time.sleep(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=1000, help="Of each size on each database, after a warm-up.")
    parser.add_argument("--raters", type=int, default=30)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    sizes, cycles = ((1000, 2000), 30) if args.quick else ((10**4, 10**5, 10**6), args.cycles)
    turn = min(100, cycles)
    figures: dict[str, float | int | None] = {"raters": args.raters, "cycles": cycles}
    with start_postgres() as pg, tempfile.TemporaryDirectory() as folder:
        for database in ("sqlite", "postgres"):
            filled = {}
            for n in sizes:
                url = _make_url(database, folder, pg, n)
                filled[n] = FilledStore(url, n, args.raters)
                print(f"{database}: {n} comparisons added in {filled[n].filled_in:.0f} s", file=sys.stderr)
                if database == "postgres" and not args.quick:
                    await_autovacuum(url)
            seconds: dict[int, list[float]] = {n: [] for n in sizes}
            for filled_store in filled.values():
                filled_store.work(turn)  # warm-up
            for _ in range(cycles // turn):
                for n, filled_store in filled.items():
                    seconds[n] += filled_store.work(turn)
            for n, filled_store in filled.items():
                filled_store.store.close()
                for p in (50, 95):
                    figures[f"{database}.p{p}_ms_{NAMES[n]}"] = float(np.percentile(seconds[n], p) * 1000)
            first, last = (np.percentile(seconds[n], 95) for n in (sizes[0], sizes[-1]))
            figures[f"{database}.p95_growth"] = float(last / first)
            figures[f"{database}.added_per_s"] = sizes[-1] / filled[sizes[-1]].filled_in
    notes = "One process, no HTTP. Lease + submit, each a transaction that is on disk when it returns."
    write_result("queue_scale", figures, seeds=[], notes=notes, quick=args.quick)


def _make_url(database: str, folder: str, pg: PostgresServer, n: int) -> str:
    return f"sqlite:///{folder}/{n}.db" if database == "sqlite" else pg.create_database(f"queue_{n}")


if __name__ == "__main__":
    main()
