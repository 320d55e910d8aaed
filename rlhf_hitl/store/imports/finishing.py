"""Carry out committed imports: one's own, or one whose importer died."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rlhf_hitl.store import table_copy
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.engines import WAL_PAGES
from rlhf_hitl.store.imports.applying import BatchApplier
from rlhf_hitl.store.imports.pacing import Pace
from rlhf_hitl.store.imports.records import Batch
from rlhf_hitl.store.service_tables import import_batches, imports

#: Whoever applies an import writes a heartbeat with each transaction. After so long without one, another may take it
#: over: the first would notice in its next transaction, and wait.
HEARTBEAT_TIMEOUT = timedelta(seconds=5)
#: SQLite's log may have so many pages of 4 KiB while nobody else writes. It only begins anew when all of it is written
#: back, for which the next transaction has to wait.
LOG_PAGES = 3 * WAL_PAGES
WAIT_FOR_LOG = 30.0  # seconds, at most
WAIT_SECONDS = 0.2  # between two looks at an import that another process applies

log = logging.getLogger("rlhf_hitl.imports")

Progress = Callable[[int], object]


@dataclass(frozen=True)
class FinishedImport:
    """An import that is in the tables as a whole. `counts` are those of its report."""

    id: str
    name: str
    format: str
    counts: dict[str, int]
    splits_kept: int


class _TakenOver(Exception):
    """Another process applies this import now."""


def finish_import(
    store: Store,
    import_id: str,
    worker: str,
    progress: Progress = lambda n: None,
    stop: Callable[[], bool] = lambda: False,
) -> FinishedImport | None:
    """Apply a committed import or, while another process applies it, wait for that.

    Args:
        store: a store that nobody else uses.
        worker: whose import it is so far.
        progress: called with the number of records after each transaction.
        stop: asked after each transaction; once it says so, the import is left to others, and None is returned.
    """
    run = _ImportRun(store, import_id, worker, progress, stop)
    while not stop():
        with store.read() as conn:
            row = conn.execute(sa.select(imports).where(imports.c.id == import_id)).mappings().one()
        if row["finished_at"] is not None:
            return run.read_result(row)
        if row["worker"] != worker and not _claim(store, import_id, worker):
            time.sleep(WAIT_SECONDS)
            continue
        try:
            run.apply(row)
        except _TakenOver:
            continue
    return None


def finish_waiting_imports(
    store: Store, *, wait: bool = True, stop: Callable[[], bool] = lambda: False
) -> list[FinishedImport]:
    """Finish the imports that were committed and not applied to their end, mostly because their importer died.

    Whoever reads all judgments calls this first, so that no import is read in part.

    Args:
        wait: also wait for those that another process applies at this moment.
        stop: asked after each transaction; once it says so, the rest is left to others.

    Returns:
        What was finished, by this process or by those it waited for.
    """
    with store.read() as conn:  # usually there is none
        query = sa.select(imports.c.id, imports.c.name).where(_WAITS).order_by(imports.c.committed_at)
        waiting = conn.execute(query).all()
    finished = []
    for import_id, name in waiting:
        worker = uuid.uuid4().hex
        with open_own_store(store) as own:
            is_claimed = _claim(own, import_id, worker)
            if not is_claimed and not wait:
                continue
            log.warning("the import of %s %s", name, "was interrupted and goes on" if is_claimed else "is waited for")
            if (result := finish_import(own, import_id, worker, stop=stop)) is not None:
                log.warning("the import of %s is finished: %s", name, result.counts)
                finished.append(result)
    return finished


def has_waiting_imports(conn: Connection) -> bool:
    """Return whether a committed import is not in the tables as a whole."""
    return bool(conn.execute(sa.select(sa.exists().where(_WAITS))).scalar_one())


_WAITS = sa.and_(imports.c.committed_at.is_not(None), imports.c.finished_at.is_(None))


@contextmanager
def open_own_store(store: Store) -> Iterator[Store]:
    """Open the store a second time, with connections of its own.

    Nobody else uses them, so a change that another connection made is somebody else's; and the memory that writing
    many rows takes is given back at the end.
    """
    with Store.open(store.url) as own:
        yield own


def _claim(store: Store, import_id: str, worker: str) -> bool:
    """Take over an import whose worker has not been heard of. Returns whether it is this worker's now."""
    with store.write() as conn:
        now = store.now(conn)
        is_silent = sa.and_(imports.c.id == import_id, imports.c.finished_at.is_(None))
        is_silent = sa.and_(is_silent, imports.c.heartbeat_at < now - HEARTBEAT_TIMEOUT)
        taken = imports.update().where(is_silent).values(worker=worker, heartbeat_at=now)
        return conn.execute(taken).rowcount > 0


class _WriteBack:
    """A thread that writes SQLite's log back while the next transaction runs: half of what a commit would take.

    On PostgreSQL it does nothing.
    """

    def __init__(self, store: Store):
        self._url, self._is_over = store.url if store.is_sqlite else None, False
        self._wanted, self._idle, self._pages = threading.Event(), threading.Event(), 0
        self._thread = threading.Thread(target=self._run, name="write-back", daemon=True)

    def ask(self) -> None:
        """Have the log written back, after a transaction; wait for it where the log is long, so that it begins anew."""
        if self._url is None:
            return
        self._idle.clear()
        self._wanted.set()
        if self._pages > LOG_PAGES and self._thread.is_alive():
            self._idle.wait(timeout=WAIT_FOR_LOG)
            self._pages = 0

    def _run(self) -> None:
        assert self._url is not None
        with Store.open(self._url) as own:  # the importer's own connection has to see who else writes
            while not self._is_over:
                self._wanted.wait()
                self._wanted.clear()
                with suppress(
                    sqlite3.Error, exc.SQLAlchemyError
                ):  # the importer's next commit meets it too, and says so
                    self._pages = own.write_back()
                if not self._wanted.is_set():
                    self._idle.set()

    def __enter__(self) -> Self:
        if self._url is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._url is not None:
            self._is_over = True
            self._wanted.set()
            self._thread.join()


class _ImportRun:
    """Applies an import from where it stands, as long as it is this worker's."""

    def __init__(self, store: Store, import_id: str, worker: str, progress: Progress, stop: Callable[[], bool]):
        self.store, self.id, self.worker, self.progress, self.stop = store, import_id, worker, progress, stop
        self.pace = Pace(store.is_sqlite)

    def apply(self, row: Any) -> None:
        """Apply what is left.

        Raises:
            _TakenOver: another worker has taken the import.
        """
        applier = BatchApplier(self.store, row["format"], row["source"], row["project_id"])
        with self.store.read() as conn:
            row = conn.execute(sa.select(imports).where(imports.c.id == self.id)).mappings().one()
        with _WriteBack(self.store) as write_back:
            applied = self._apply_rest(applier, row["applied"], Counter(row["counts"]), write_back)
        if applied is not None:
            self._finish(applied)

    def _apply_rest(
        self, applier: BatchApplier, applied: int, counts: Counter[str], write_back: _WriteBack
    ) -> int | None:
        """Apply the records after those that are applied. Returns how many then are, or None where it was stopped."""
        next_statistics = 1000
        for first, whole in self._read_batches(applied):
            while applied < first + len(whole.records):
                start = applied - first
                part = whole.slice(start, start + self.pace.choose_size(len(whole.records) - start))
                counts, held = self._apply_part(applier, part, first, whole, applied, counts)
                applied += len(part.records)
                self.progress(len(part.records))
                if self.stop():
                    return None
                if not self.pace.is_gentle:
                    write_back.ask()
                self.pace.step_aside(held, len(part.records))
                if applied >= next_statistics:
                    with self.store.read() as conn:
                        table_copy.update_statistics(self.store, conn)
                    next_statistics = 2 * applied
        return applied

    def _read_batches(self, applied: int) -> Iterator[tuple[int, Batch]]:
        """Yield each batch that is left, with the number of records before it."""
        columns = (import_batches.c.first, import_batches.c.size, import_batches.c.payload)
        own = import_batches.c.import_id == self.id
        query = sa.select(*columns).where(own, import_batches.c.payload.is_not(None)).order_by(import_batches.c.first)
        after = -1
        while True:
            with self.store.read() as conn:
                row = conn.execute(query.where(import_batches.c.first > after).limit(1)).first()
            if row is None:
                return
            after = row.first
            yield row.first, Batch.unpack(row.payload)

    def _apply_part(
        self, applier: BatchApplier, part: Batch, first: int, whole: Batch, applied: int, counts: Counter[str]
    ) -> tuple[Counter[str], float]:
        """Apply records in one transaction. Returns the counts so far, and the seconds in which it held its locks."""
        with self.store.write(durable=False) as conn:
            begun = time.monotonic()
            # While nobody else writes, the log is written back beside the transactions, and need not be by them.
            log_pages = WAL_PAGES // 2 if self.pace.is_gentle else 2 * LOG_PAGES
            table_copy.prepare_bulk_write(self.store, conn, log_pages)
            new, splits_kept = applier.apply(conn, part)
            counts, done = counts + new, applied + len(part.records)
            self._move_on(conn, applied, done, counts)
            self._mark_batch(conn, first, splits_kept, is_over=done == first + len(whole.records))
            self.pace.look(conn)
        return counts, time.monotonic() - begun

    def _move_on(self, conn: Connection, expected: int, applied: int, counts: Counter[str]) -> None:
        own = (imports.c.id == self.id, imports.c.worker == self.worker, imports.c.applied == expected)
        values = {"applied": applied, "counts": dict(counts), "heartbeat_at": self.store.now(conn)}
        if not conn.execute(imports.update().where(*own).values(values)).rowcount:
            raise _TakenOver

    def _mark_batch(self, conn: Connection, first: int, splits_kept: set[str], *, is_over: bool) -> None:
        the_batch = (import_batches.c.import_id == self.id, import_batches.c.first == first)
        if splits_kept:
            known = conn.execute(sa.select(import_batches.c.splits_kept).where(*the_batch)).scalar_one()
            splits_kept |= set(known)
            conn.execute(import_batches.update().where(*the_batch).values(splits_kept=sorted(splits_kept)))
        if is_over:  # the row stays, for the families
            conn.execute(import_batches.update().where(*the_batch).values(payload=None))

    def _finish(self, applied: int) -> None:
        with self.store.write() as conn:  # durable, and with it all that was applied
            now = self.store.now(conn)
            own = (imports.c.id == self.id, imports.c.worker == self.worker, imports.c.applied == applied)
            if not conn.execute(imports.update().where(*own).values(finished_at=now, heartbeat_at=now)).rowcount:
                raise _TakenOver

    def read_result(self, row: Any) -> FinishedImport:
        """Return the result of the finished import."""
        with self.store.read() as conn:
            own = import_batches.c.import_id == self.id
            families = {
                f for kept in conn.execute(sa.select(import_batches.c.splits_kept).where(own)).scalars() for f in kept
            }
        counts = dict(row["counts"])
        return FinishedImport(self.id, row["name"], row["format"], counts, len(families))
