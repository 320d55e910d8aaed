"""Bring the catalog up to date: make anew the rows of comparisons that have changed since it last looked."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.catalog_entries import CatalogEntry, load_entries
from rlhf_hitl.store.catalog_tables import SAMPLE_EVERY, catalog, catalog_changes, catalog_terms
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.table_copy import prepare_bulk_write

#: Comparisons of one transaction, and changes that are looked through for them: an import brings several of each. On
#: SQLite raters wait for it, so it takes some ten milliseconds while a server runs, which then steps aside; a command
#: that has to have the whole catalog takes more at once.
GENTLE, QUICK = (40, 1000), (1000, 20_000)
PAUSE_SECONDS = 0.02
#: A server looks for changes so often. A page that is opened looks first, too.
LOOK_SECONDS = 2.0
#: Stands among the words before the number of a term, and on SQLite in every comparison of the sample. No word has it.
MARK = "¤"

log = logging.getLogger("rlhf_hitl.catalog")


class CatalogIndexer:
    """Makes rows of the catalog. Threads may share one."""

    def __init__(self, store: Store):
        self._store = store
        self._lock = threading.Lock()

    def update(self, *, seconds: float | None = None, gentle: bool = False) -> bool:
        """Work off what has changed. Returns whether the catalog has seen all of it.

        Args:
            seconds: to stop after; None for no limit.
            gentle: in short transactions, with pauses in which others write.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            done = self._work_off(GENTLE if gentle else QUICK)
            if not done:
                return True
            if deadline is not None and time.monotonic() > deadline:
                return not count_changes(self._store)
            if gentle:
                time.sleep(PAUSE_SECONDS)

    def _work_off(self, most: tuple[int, int]) -> int:
        """Make the rows of the oldest changes anew, in one transaction. Returns how many changes there were."""
        most_rows, most_changes = most
        if not count_changes(self._store):
            return 0
        with self._lock, self._store.write(durable=False) as conn:
            # One at a time: a row that was made earlier must not be written later.
            self._store.lock(conn, "catalog index")
            if most == QUICK:
                prepare_bulk_write(self._store, conn)
            if self._store.is_sqlite:
                _note_new_rows(conn, most_changes)
            changes = dict(conn.execute(_select_changes(most_changes).limit(most_rows)).tuples().all())
            if not changes:
                return 0
            ids = list(changes)
            entries = load_entries(self._store, conn, ids)
            known = self._number_terms(conn, entries)
            self._write(conn, entries, known)
            # What is seen is deleted one by one: a lower number may be committed later.
            seen = ",".join(changes.values())
            if self._store.is_sqlite:
                conn.exec_driver_sql(_DELETE_SQLITE, (f"[{seen}]",))
            else:
                conn.exec_driver_sql(_DELETE_POSTGRES, (f"{{{seen}}}",))
        return seen.count(",") + 1

    def _number_terms(self, conn: Connection, entries: Sequence[CatalogEntry]) -> dict[tuple[str, str], int]:
        """Return the numbers of all terms of some entries. New ones are added."""
        wanted = {term for entry in entries for term in entry.terms}
        values = self._store.among(catalog_terms.c.value, (value for _, value in wanted))
        query = sa.select(catalog_terms).where(values)
        known = {(t.facet, t.value): t.id for t in conn.execute(query)}
        if new := sorted(wanted - known.keys()):
            conn.execute(catalog_terms.insert(), [{"facet": facet, "value": value} for facet, value in new])
            known |= {(t.facet, t.value): t.id for t in conn.execute(query)}
        return known

    def _write(self, conn: Connection, entries: Sequence[CatalogEntry], known: dict[tuple[str, str], int]) -> None:
        of_ids = self._store.among(catalog.c.comparison_id, (entry.comparison_id for entry in entries))
        query = sa.select(catalog.c.comparison_id, catalog.c.number).where(of_ids)
        numbers = dict(conn.execute(query).tuples().all())
        highest = conn.execute(sa.select(sa.func.coalesce(sa.func.max(catalog.c.number), 0))).scalar_one()
        rows = []
        for entry in entries:
            number = numbers.get(entry.comparison_id)
            if number is None:
                number = highest = highest + 1
            ids = sorted(known[term] for term in entry.terms)
            words = [*(f"{MARK}{i}" for i in ids), *entry.words]
            rows.append((number, entry.comparison_id, ids, entry.votes, entry.entropy, words))
        if self._store.is_sqlite:
            texts = [(n, id, f" {' '.join(map(str, ids))} ", votes, h) for n, id, ids, votes, h, _ in rows]
            conn.exec_driver_sql(_UPSERT_SQLITE, texts)
            conn.exec_driver_sql(
                "DELETE FROM catalog_words WHERE rowid IN (SELECT value FROM json_each(?))",
                (json.dumps([n for n, *_ in rows if n in set(numbers.values())]),),
            )
            marks = {n: f" {MARK}" for n, *_ in rows if n % SAMPLE_EVERY == 0}
            bodies = [(n, f"{marks.get(n, '')} {' '.join(words)} ") for n, *_, words in rows]
            conn.exec_driver_sql("INSERT INTO catalog_words (rowid, words) VALUES (?, ?)", bodies)
        else:
            # One statement for all: to send a row of lists takes longer than to write it.
            parts = [(n, id, f"{{{','.join(map(str, ids))}}}", votes, h) for n, id, ids, votes, h, _ in rows]
            conn.exec_driver_sql(_UPSERT_POSTGRES, (json.dumps(parts),))
            conn.exec_driver_sql(_UPSERT_WORDS, (json.dumps([(row[0], " ".join(row[-1])) for row in rows]),))


def _select_changes(most: int) -> sa.Select:
    """Return the query for the comparisons of the oldest changes, the oldest first, each with the numbers of its own.

    Args:
        most: changes that are looked through.
    """
    oldest = sa.select(catalog_changes).order_by(catalog_changes.c.seq).limit(most).subquery()
    numbers = sa.func.aggregate_strings(sa.cast(oldest.c.seq, sa.Text), ",")
    query = sa.select(oldest.c.comparison_id, numbers)
    return query.group_by(oldest.c.comparison_id).order_by(sa.func.min(oldest.c.seq))


_DELETE_SQLITE = "DELETE FROM catalog_changes WHERE seq IN (SELECT value FROM json_each(?))"
_DELETE_POSTGRES = "DELETE FROM catalog_changes WHERE seq = ANY(%s::bigint[])"
_UPSERT_SQLITE = (
    "INSERT INTO catalog (number, comparison_id, terms, votes, entropy) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (number) DO UPDATE SET terms = excluded.terms, votes = excluded.votes, entropy = excluded.entropy"
)
_UPSERT_POSTGRES = (
    "INSERT INTO catalog (number, comparison_id, terms, votes, entropy) "
    "SELECT (r->>0)::bigint, r->>1, (r->>2)::int[], (r->>3)::int, (r->>4)::float8 "
    "FROM json_array_elements(%s::json) AS r ON CONFLICT (number) DO UPDATE SET "
    "terms = excluded.terms, votes = excluded.votes, entropy = excluded.entropy"
)

#: Where neither words nor terms have changed, they are not put into the index again.
_UPSERT_WORDS = (
    "INSERT INTO catalog_words (number, words) "
    "SELECT (r->>0)::bigint, array_to_tsvector(string_to_array(r->>1, ' ')) "
    "FROM json_array_elements(%s::json) AS r ON CONFLICT (number) "
    "DO UPDATE SET words = excluded.words WHERE catalog_words.words IS DISTINCT FROM excluded.words"
)


#: On SQLite: the tables whose new rows are changes, and the column that names the comparison.
_SOURCES = {"comparisons": "id", "judgments": "comparison_id", "routings": "comparison_id"}


def _note_new_rows(conn: Connection, most: int) -> None:
    """On SQLite, put the comparisons of rows that were not seen yet among the changes."""
    for table, column in _SOURCES.items():
        query = f"SELECT rowid, {column} FROM {table} WHERE rowid > (SELECT number FROM catalog_seen WHERE source = ?) "  # noqa: S608
        rows = conn.exec_driver_sql(f"{query} ORDER BY rowid LIMIT {most}", (table,)).all()
        if rows:
            ids = [(id,) for id in dict.fromkeys(id for _, id in rows)]
            conn.exec_driver_sql("INSERT INTO catalog_changes (comparison_id) VALUES (?)", ids)
            conn.exec_driver_sql("UPDATE catalog_seen SET number = ? WHERE source = ?", (rows[-1][0], table))


def count_changes(store: Store) -> int:
    """Return about how many changes the catalog has not seen yet; 0 is exact."""
    query = sa.select(sa.func.min(catalog_changes.c.seq), sa.func.max(catalog_changes.c.seq))
    with store.read() as conn:
        least, most = conn.execute(query).one()
        waiting = 0 if least is None else most - least + 1
        if store.is_sqlite:
            newest = ", ".join(f"(SELECT max(rowid) FROM {table})" for table in _SOURCES)  # noqa: S608
            seen = dict(conn.exec_driver_sql("SELECT source, number FROM catalog_seen").tuples().all())
            numbers = conn.exec_driver_sql(f"SELECT {newest}").one()
            waiting += sum((number or 0) - seen[table] for table, number in zip(_SOURCES, numbers))
    return waiting


class CatalogKeeper:
    """A thread that keeps the catalog up to date while a server runs. Every process may run one on the same store."""

    def __init__(self, store: Store, indexer: CatalogIndexer | None = None):
        self._indexer = indexer or CatalogIndexer(store)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="catalog keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                while not self._indexer.update(seconds=0.5, gentle=True) and not self._stop.is_set():
                    pass
            except Exception as e:  # of any kind: the thread has to go on
                log.error("the catalog cannot be brought up to date", exc_info=e)
