"""Check that no confirmed judgment is lost while sixteen raters work and the server is SIGKILLed again and again.

    python benchmarks/crash.py

Over HTTP, on SQLite and on PostgreSQL at the same time. A killed server is started again at once; with every fifth
kill of the server PostgreSQL is killed too, all its processes at once. A rater whose connection breaks cannot know
whether the answer was saved: they send it again under the same idempotency key until it is confirmed, and remember
what was confirmed. Kills come at random moments, each after at least sixteen more answers. In the end the store is
compared with the raters' memory: `lost` are confirmed judgments that are missing or changed, `doubled` those stored
twice (or a rater's second on one comparison), `unasked` those that no rater sent, `overshot` comparisons with more
judgments than they wanted.

Left out: power cuts. A killed process leaves its writes with the operating system, so what a power cut does to them
rests on the databases' own settings: SQLite's `synchronous=FULL` and PostgreSQL's `fsync=on`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from record import write_result
from servers import (
    JsonConnection,
    RlhfHitlServer,
    ServerProcess,
    add_raters,
    fill_store,
    make_judgment_body,
    make_pair,
    start_postgres,
)

from rlhf_hitl.store import Store
from rlhf_hitl.store.judgments import read_judgments

WANTED = 2
#: Idempotency key → the judgment's id, of every answer that was confirmed.
Confirmed = dict[str, str]


async def send_until_answered(client: JsonConnection, path: str, body: dict[str, Any]) -> Any:
    """Send a request until it is answered. After a 503 (no database) it is unknown whether the answer was saved."""
    while True:
        try:
            status, answer = await client.call("POST", path, body)
        except ConnectionError:
            status, answer = 503, None
        if status in (200, 201):
            return answer
        if status != 503:
            raise RuntimeError(f"{path}: {status} {answer}")
        await asyncio.sleep(0.1)


async def rate_until_stopped(address: str, token: str, confirmed: Confirmed, enough: asyncio.Event) -> None:
    client = JsonConnection(address, f"Bearer {token}")
    while not enough.is_set():
        leases = (await send_until_answered(client, "/api/v1/leases", {"count": 1}))["leases"]
        if not leases:
            raise RuntimeError("nothing is left: take more --comparisons")
        key = uuid.uuid4().hex
        body = make_judgment_body(leases[0], idempotency_key=key, rationale=key)
        receipt = await send_until_answered(client, "/api/v1/judgments", body)
        confirmed[key] = receipt["id"]


async def rate_and_kill(
    server: ServerProcess,
    address: str,
    database: ServerProcess | None,
    tokens: list[str],
    kills: int,
    chance: random.Random,
) -> tuple[Confirmed, int]:
    """Let raters work while servers are killed. Returns what was confirmed, and how often the database was killed."""
    confirmed: Confirmed = {}
    enough, database_kills = asyncio.Event(), 0

    async def wait_a_moment() -> None:
        before = len(confirmed)
        while len(confirmed) < before + 16:
            await asyncio.sleep(0.01)
        await asyncio.sleep(chance.random())

    async with asyncio.TaskGroup() as raters:  # a rater's failure ends the run
        for token in tokens:
            raters.create_task(rate_until_stopped(address, token, confirmed, enough))
        for k in range(kills):
            await wait_a_moment()
            server.kill()
            await asyncio.to_thread(server.start)
            if database is not None and k % 5 == 0:
                await wait_a_moment()
                database.kill()
                await asyncio.to_thread(database.start)
                database_kills += 1
        await wait_a_moment()
        enough.set()
    return confirmed, database_kills


def compare_with_store(store: Store, confirmed: Confirmed) -> dict[str, int]:
    """Count the differences between the judgments of a store and those that raters know to be confirmed."""
    stored = list(read_judgments(store, current=False))
    # A judgment is complete if it is as it was sent: the order shown was its ranking and the key its rationale.
    complete = [j for j in stored if j.answer.ranking == tuple((i,) for i in j.order_shown)]
    ids_by_key = {j.answer.rationale: j.id for j in complete if j.answer.rationale == j.idempotency_key}
    keys = Counter((j.rater_id, j.idempotency_key) for j in stored)
    votes = Counter((j.comparison_id, j.rater_id) for j in stored)
    filled = Counter(j.comparison_id for j in stored if not j.surplus)
    return {
        "confirmed": len(confirmed),
        "lost": sum(ids_by_key.get(key) != id for key, id in confirmed.items()),
        "doubled": sum(n - 1 for n in keys.values()) + sum(n - 1 for n in votes.values()),
        "unasked": len({j.idempotency_key for j in stored} - confirmed.keys()),
        "overshot": sum(n > WANTED for n in filled.values()),
    }


def measure_losses(
    url: str, folder: Path, database: ServerProcess | None, comparisons: int, kills: int
) -> dict[str, int]:
    store = Store.open(url, create=True)
    fill_store(store, (make_pair(i, overlap=WANTED) for i in range(comparisons)))
    tokens = list(add_raters(store, 16).values())
    with RlhfHitlServer(url, folder) as server:
        run = rate_and_kill(server, server.address, database, tokens, kills, random.Random(kills))
        confirmed, database_kills = asyncio.run(run)
    counts = compare_with_store(store, confirmed)
    store.close()
    return {"kills": kills} | ({"server_kills": database_kills} if database else {}) | counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="On each database; 50, or 5 with --quick.")
    parser.add_argument("--comparisons", type=int, help="Wanting two judgments each; 40,000, or 2,000 with --quick.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    kills = args.kills or (5 if args.quick else 50)
    comparisons = args.comparisons or (2_000 if args.quick else 40_000)
    with start_postgres() as pg, tempfile.TemporaryDirectory() as folder:
        places = {"sqlite": f"sqlite:///{folder}/preferences.db", "postgres": pg.create_database("crash")}

        def measure_on(database: str) -> dict[str, int]:
            workspace = Path(folder) / database
            workspace.mkdir()
            return measure_losses(
                places[database], workspace, pg if database == "postgres" else None, comparisons, kills
            )

        with ThreadPoolExecutor() as both:  # most of the time a server is starting, on one core
            results = dict(zip(places, both.map(measure_on, places)))
    figures: dict[str, float | int | None] = {
        f"{d}.{key}": value for d, f in results.items() for key, value in f.items()
    }
    notes = "server_kills: SIGKILLs of PostgreSQL itself, all its processes at once, beside those of our server."
    write_result("crash", figures, seeds=[kills], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
