"""Measure the catalog of a million comparisons: opening, searching, filtering, counting facets, one whole history.

    python benchmarks/catalog.py

On each database a store is filled with that many comparisons of its own question each, two judgments and a label on
two thirds of them; words are as frequent as in a language (Zipf), one project and one language stand at the bottom
only. The catalog is made of it as a server makes it. Then each kind of request is sent a hundred times, with another
word or value each time. What is measured is the store's own time, without HTTP. `--folder` keeps the filled stores
there, and measures those that are there. `load` is the machine's load average over five minutes, which shows what else
was running.

`search.rare` has some ten hits, `search.common` a third of all; `filter.bottom` finds only the oldest comparisons, and
those called `none` find nothing. PostgreSQL has the settings of a fresh installation, and its autovacuum is waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from queue_scale import await_autovacuum
from record import write_result
from servers import PostgresServer

from rlhf_hitl.store import Store, people, projects
from rlhf_hitl.store.catalog import count_facets, search_catalog
from rlhf_hitl.store.catalog_history import load_history
from rlhf_hitl.store.catalog_index import CatalogIndexer, count_changes
from rlhf_hitl.store.catalog_tables import catalog
from rlhf_hitl.store.comparisons import find_or_create_lanes
from rlhf_hitl.store.imports.records import format_time
from rlhf_hitl.store.table_copy import copy_rows, insert_plain_rows, prepare_bulk_write, update_statistics
from rlhf_hitl.types import Role, utc_now
from rlhf_hitl.types.catalog import ComparisonFilter

SEED = 0
AT_ONCE = 5000
WORDS, RATERS = 60_000, 400
POLICIES = ("small", "large", "tuned", "base", "frontier")
TOPICS = tuple(f"topic {i}" for i in range(40))
ROUTES = ("human",) * 8 + ("auto", "control")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgres"], default=["postgres", "sqlite"])
    parser.add_argument("--folder", type=Path, help="Keep the stores here. It is given to the user of PostgreSQL.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    comparisons, times = (2000, 3) if args.quick else (args.comparisons, args.times)
    figures: dict[str, float | int | None] = {"comparisons": comparisons, "times": times}
    for database in args.databases:
        with open_database(database, args.folder) as url:
            figures |= {f"{database}.{k}": v for k, v in measure(url, comparisons, times, not args.quick).items()}
    figures["load"] = os.getloadavg()[1]
    notes = "One process, no HTTP. Judgments and labels are simulated."
    write_result("catalog", figures, seeds=[SEED], notes=notes, quick=args.quick)


@contextmanager
def open_database(database: str, folder: Path | None) -> Iterator[str]:
    """Yield the URL of a store: a new one, or where it is kept in a folder, the one that was filled before."""
    with ExitStack() as stack:
        kept = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-")))
        kept.mkdir(exist_ok=True)
        if database == "sqlite":
            yield f"sqlite:///{kept}/catalog.db"
        else:
            is_new = not (kept / "data").exists()
            server = stack.enter_context(PostgresServer(kept))
            yield server.create_database("catalog") if is_new else server.name_database("catalog")


def measure(url: str, comparisons: int, times: int, waits: bool) -> dict[str, float]:
    """Fill a store, make its catalog, and return the milliseconds of each kind of request."""
    with Store.open(url, create=True) as store:
        figures = {}
        with store.read() as conn:
            ids = list(conn.execute(sa.select(catalog.c.comparison_id).order_by(catalog.c.number)).scalars())
        if not ids:
            ids, figures = fill_and_catalog(store, comparisons)
        if waits and not store.is_sqlite:
            await_autovacuum(url)
        if len(ids) != comparisons or count_changes(store):
            sys.exit(f"{store.safe_url}: expected a catalog of {comparisons} comparisons, got {len(ids)}")
        for name, call in list_requests(store, ids).items():
            for _ in range(3):  # warm-up
                call(random.Random(-1))
            seconds = []
            rng = random.Random(SEED)
            for _ in range(times):
                start = time.perf_counter()
                call(rng)
                seconds.append(time.perf_counter() - start)
            for p in (50, 95):
                figures[f"{name}.p{p}_ms"] = float(np.percentile(seconds, p) * 1000)
            print(f"{name}: {figures[f'{name}.p50_ms']:.0f} / {figures[f'{name}.p95_ms']:.0f} ms", file=sys.stderr)
        pages = [v for k, v in figures.items() if k.endswith("p95_ms")]
        return figures | {"slowest_p95_ms": max(pages)}


def fill_and_catalog(store: Store, comparisons: int) -> tuple[list[str], dict[str, float]]:
    """Return the ids of the comparisons, the oldest first, and how quickly the catalog was made."""
    begun = time.monotonic()
    ids = fill(store, comparisons)
    print(f"{store.safe_url}: filled in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    with store.write() as conn:
        update_statistics(store, conn)
    begun = time.monotonic()
    CatalogIndexer(store).update()
    per_s = comparisons / (time.monotonic() - begun)
    print(f"catalogued in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    with store.write() as conn:
        update_statistics(store, conn)
    return ids, {"catalogued_per_s": per_s}


def list_requests(store: Store, ids: Sequence[str]) -> dict[str, Callable[[random.Random], Any]]:
    """Return name of a kind of request → what sends one."""

    def page(make: Callable[[random.Random], ComparisonFilter]) -> Callable[[random.Random], Any]:
        return lambda rng: search_catalog(store, make(rng))

    def facets(make: Callable[[random.Random], ComparisonFilter]) -> Callable[[random.Random], Any]:
        return lambda rng: count_facets(store, make(rng))

    of_raters = [rater.id for rater in people.list_raters(store)]
    filters: dict[str, Callable[[random.Random], ComparisonFilter]] = {
        "open": lambda rng: ComparisonFilter(),
        "search.rare": lambda rng: ComparisonFilter(words=f"w{rng.randint(WORDS // 2, WORDS)}"),
        "search.middle": lambda rng: ComparisonFilter(words=f"w{rng.randint(100, 2000)}"),
        "search.common": lambda rng: ComparisonFilter(words=f"w{rng.randint(1, 8)}"),
        "search.two": lambda rng: ComparisonFilter(words=f"w{rng.randint(1, 30)} w{rng.randint(30, 3000)}"),
        "search.begin": lambda rng: ComparisonFilter(words=f"w{rng.randint(10, 99)}*"),
        "search.filtered": lambda rng: ComparisonFilter(f"w{rng.randint(1, 500)}", policy=(rng.choice(POLICIES),)),
        "filter.tag": lambda rng: ComparisonFilter(tag=(f"topic={rng.choice(TOPICS)}",)),
        "filter.rater": lambda rng: ComparisonFilter(rater=(rng.choice(of_raters),)),
        "filter.several": lambda rng: ComparisonFilter(
            policy=(rng.choice(POLICIES),), route=("human", "control"), agreement=("split",), language=("en",)
        ),
        "filter.several_none": lambda rng: ComparisonFilter(
            policy=(rng.choice(POLICIES),), route=("human", "control"), agreement=("split",), language=("de",)
        ),
        "filter.entropy": lambda rng: ComparisonFilter(least_entropy=0.5 + rng.random() / 5, most_votes=2),
        "filter.unjudged": lambda rng: ComparisonFilter(state=("unjudged",), tag=(f"topic={rng.choice(TOPICS)}",)),
        "filter.bottom": lambda rng: ComparisonFilter(project=("old",), route=(rng.choice(ROUTES),)),
        "filter.bottom_words": lambda rng: ComparisonFilter(project=("old",), words=f"w{rng.randint(1, 50)}"),
        "filter.none": lambda rng: ComparisonFilter(project=("old",), language=("de",), tag=("topic=topic 1",)),
    }  # fmt: skip
    requests = {name: page(make) for name, make in filters.items()}
    requests |= {f"facets.{name}": facets(make) for name, make in filters.items()}
    requests["page.deep"] = lambda rng: search_catalog(store, ComparisonFilter(), after=rng.randint(1, len(ids)))
    requests["detail"] = lambda rng: load_history(store, rng.choice(ids))
    return requests


def fill(store: Store, n: int) -> list[str]:
    """Write comparisons with judgments and labels, as quickly as the database takes them. Returns their ids."""
    rng = np.random.default_rng(SEED)
    people_ids = [people.add_rater(store, f"rater {i}", Role.RATER, simulated=True).id for i in range(RATERS)]
    projects.add_project(store, "old")
    keys = {("default", language, "") for language in ("en", "de")} | {("old", "fr", "")}
    with store.write() as conn:
        lane_ids = find_or_create_lanes(store, conn, keys)
    shares = 1 / np.arange(1, WORDS + 1)
    ranks = np.searchsorted(np.cumsum(shares) / shares.sum(), rng.random(2_000_000))  # as frequent as in a language
    known = [f"w{rank}" for rank in range(1, WORDS + 1)]
    words = [known[rank] for rank in ranks.tolist()]
    ids: list[str] = []
    for start in range(0, n, AT_ONCE):
        rows = _Rows(rng, words, people_ids, lane_ids, start, min(start + AT_ONCE, n), n)
        with store.write(durable=False) as conn:
            prepare_bulk_write(store, conn)
            if not store.is_sqlite:
                # Without triggers: every reference of these rows is right, and what they note of changes is copied in.
                conn.exec_driver_sql("SET LOCAL session_replication_role = replica")
                changed = [row[0] for row in rows.comparisons] + [row[0] for row in rows.labels] * 2
                copy_rows(conn, "catalog_changes", ["comparison_id"], ((id,) for id in changed))
            for table, columns, made in rows.tables():
                if store.is_sqlite:
                    insert_plain_rows(conn, table, columns, iter(made))
                else:
                    copy_rows(conn, table, columns, made)
        ids += [row[0] for row in rows.comparisons]
    return ids


class _Rows:
    """The rows of some comparisons, by table."""

    def __init__(
        self, rng: np.random.Generator, words: Sequence[str], people_ids: Sequence[str],
        lane_ids: dict[tuple[str, str, str], int], start: int, stop: int, n: int,
    ):  # fmt: skip
        self.prompts, self.completions, self.comparisons = [], [], []
        self.judgments, self.labels, self.places = [], [], []
        now = format_time(utc_now())
        for i in range(start, stop):
            is_old = i < n // 10
            language = "fr" if is_old else "de" if i % 3 == 0 else "en"
            pick = rng.integers(0, 2**31, 12)
            tags = json.dumps({"language": language, "topic": TOPICS[pick[0] % 40]})
            id = f"{i:024x}"
            texts = [_make_text(words, int(p), 10 + int(p) % 30) for p in pick[1:4]]
            chat = json.dumps([{"role": "user", "content": texts[0]}])
            split = "train" if pick[4] % 10 else "heldout"
            self.prompts.append((f"p_{id}", id, split, chat, tags, "benchmark", now))
            policies = [POLICIES[(pick[5] + k) % 5] for k in (0, 1 + int(pick[5]) % 4)]
            sides = [f"c_{id}{k}" for k in "ab"]
            for side, text, policy in zip(sides, texts[1:], policies):
                answer = json.dumps([{"role": "assistant", "content": text}])
                self.completions.append((side, f"p_{id}", answer, policy, "{}", now))
            route = ROUTES[pick[6] % 10]
            lane = lane_ids["old" if is_old else "default", language, ""]
            self.comparisons.append((f"x_{id}", f"p_{id}", json.dumps(sides), 2, route, "benchmark", now, lane))
            if i % 3:
                self._judge(id, sides, people_ids, pick, route, now)
            if route != "auto":
                raters = [judgment[2] for judgment in self.judgments[-2:]] if i % 3 else [None, None]
                for k in (0, 1):
                    filled = f"j_{id}{k}" if i % 3 else None
                    self.places.append((f"x_{id}", k, lane, int(pick[11]), raters[k], filled))

    def _judge(
        self, id: str, sides: list[str], people_ids: Sequence[str], pick: np.ndarray, route: str, now: str
    ) -> None:
        orders = [sides, sides[::-1]]
        chosen = [int(pick[7]) % 2, int(pick[7] if pick[8] % 3 else pick[9]) % 2]
        for k in (0, 1):
            ranking = json.dumps([[side] for side in orders[chosen[k]]])
            rater = people_ids[(int(pick[10]) + k * 7) % RATERS]
            given = (f"j_{id}{k}", f"x_{id}", rater, "ranked", ranking, 2, "{}", "", "", json.dumps(sides), route)
            self.judgments.append((*given, "", "", "", 1, 0, f"{id}{k}", now))
        first = 1 - sum(chosen) / 2
        shares = (first, 0.0, 1 - first)
        entropy, state = (0.6931471805599453, "split") if first == 0.5 else (0.0, "sure")
        self.labels.append((f"x_{id}", *sides, *shares, *shares, entropy, 2, 2.0, state, now))

    def tables(self) -> Iterator[tuple[str, list[str], Iterable[tuple]]]:
        """Yield name, columns and rows of each table, in the order in which they refer to each other."""
        message = ["messages", "policy", "sampling", "created_at"]
        yield "prompts", ["id", "family", "split", "messages", "tags", "source", "created_at"], self.prompts
        yield "completions", ["id", "prompt_id", *message], self.completions
        columns = ["id", "prompt_id", "completion_ids", "overlap", "route", "source", "created_at", "lane_id"]
        yield "comparisons", columns, self.comparisons
        columns = ["comparison_id", "n", "lane_id", "position", "rater_id", "judgment_id"]
        yield "places", columns, self.places
        columns = [
            "id",
            "comparison_id",
            "rater_id",
            "verdict",
            "ranking",
            "strength",
            "scores",
            "rationale",
            "rewrite",
        ]
        columns += ["order_shown", "route", "guideline_version", "interface_version", "source", "simulated", "surplus"]
        yield "judgments", [*columns, "idempotency_key", "created_at"], self.judgments
        shares = [f"{of}_{name}" for of in "pc" for name in ("first", "tie", "second")]
        rest = ["entropy", "votes", "weight", "state", "updated_at"]
        yield "labels", ["comparison_id", "first", "second", *shares, *rest], self.labels


def _make_text(words: Sequence[str], start: int, length: int) -> str:
    start %= len(words) - length
    return " ".join(words[start : start + length])


if __name__ == "__main__":
    main()
