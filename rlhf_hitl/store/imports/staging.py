"""Staging: checked records wait in the store until the import as a whole is known to be good."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from rlhf_hitl.errors import RlhfHitlError
from rlhf_hitl.store import projects
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.imports.records import BatchBuilder, StagedRecord
from rlhf_hitl.store.service_tables import import_batches, imports

BATCHES_PER_DELETE = 5  # deleting so many takes milliseconds
#: After so long without a sign of life, what was staged and not committed is deleted. The importer may read from a hub,
#: and wait for it, so this is much longer than for an import that is applied.
STAGING_KEPT = timedelta(hours=1)
#: How long finished imports are kept for whoever waits for their report.
REPORT_KEPT = timedelta(days=1)


class ImportLost(RlhfHitlError):
    """What was staged is gone: the importer stood still for too long."""


class ImportStaging:
    """Stages the records of one import. Unless `commit` is called within the `with` block, nothing of them stays.

    Args:
        store: a store that nobody else uses: its write lock would keep other threads waiting while this one packs.
        name: the file's, for people.
        source: written with every row.

    Raises:
        NotFound: there is no such project.
    """

    def __init__(self, store: Store, *, name: str, format: str, source: str, project: str):
        self.store, self.id, self.worker = store, f"i_{uuid.uuid4().hex[:24]}", uuid.uuid4().hex
        self._builder, self.records = BatchBuilder(), 0
        self._is_committed = False
        with store.write() as conn:
            projects.require_project(conn, project)
            now = store.now(conn)
            row = {"id": self.id, "name": name, "format": format, "source": source, "project_id": project}
            row |= {"applied": 0, "counts": {}, "worker": self.worker, "heartbeat_at": now, "created_at": now}
            conn.execute(imports.insert().values(row))

    def add(self, record: StagedRecord) -> None:
        """Stage a record, which the caller has checked: the store is able to hold it."""
        self._builder.add(record)
        if self._builder.is_full:
            self._stage_own()

    def add_packed(self, size: int, payload: bytes) -> None:
        """Stage a packed `Batch` of so many records, as `add` does with each of them."""
        self._stage_own()
        self._stage(size, payload)

    def commit(self, counts: Mapping[str, Any]) -> None:
        """Commit the import: it will be applied as a whole, by this process or by another.

        Args:
            counts: what the report counts already.
        """
        self._stage_own()
        with self.store.write() as conn:
            now = self.store.now(conn)
            values = {"counts": dict(counts), "committed_at": now, "heartbeat_at": now}
            if not conn.execute(self._own.values(values)).rowcount:
                raise _make_lost_error()
        self._is_committed = True

    @property
    def _own(self) -> sa.Update:
        return imports.update().where(imports.c.id == self.id, imports.c.worker == self.worker)

    def _stage_own(self) -> None:
        if len(self._builder):
            batch = self._builder.take()
            self._stage(len(batch.records), batch.pack())

    def _stage(self, size: int, payload: bytes) -> None:
        row = {"import_id": self.id, "first": self.records, "size": size, "payload": payload, "splits_kept": []}
        with self.store.write(durable=False) as conn:  # it is durable once the import is committed
            if not conn.execute(self._own.values(heartbeat_at=self.store.now(conn))).rowcount:
                raise _make_lost_error()
            conn.execute(import_batches.insert().values(row))
        self.records += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: object, _trace: TracebackType | None) -> None:
        if not self._is_committed:
            _delete_import(self.store, self.id)


def _make_lost_error() -> ImportLost:
    return ImportLost(
        f"import: expected a sign of life within {STAGING_KEPT.total_seconds() / 3600:g} h, so that what was read is "
        "kept. Fix: import it again; nothing was imported"
    )


def delete_old_imports(store: Store, now: datetime | None = None) -> int:
    """Delete what importers staged that died before they committed it, and old reports. Returns how many imports."""
    with store.read() as conn:  # usually there is nothing, and finding that out must not take the write lock
        now = now or store.now(conn)
        is_abandoned = sa.and_(imports.c.committed_at.is_(None), imports.c.heartbeat_at < now - STAGING_KEPT)
        is_over = imports.c.finished_at < now - REPORT_KEPT
        ids = list(conn.execute(sa.select(imports.c.id).where(sa.or_(is_abandoned, is_over))).scalars())
    for import_id in ids:
        _delete_import(store, import_id)
    return len(ids)


def _delete_import(store: Store, import_id: str) -> None:
    """Delete an import and its batches, some at a time."""
    own = import_batches.c.import_id == import_id
    some = sa.select(import_batches.c.first).where(own).order_by(import_batches.c.first).limit(BATCHES_PER_DELETE)
    with store.write(durable=False) as conn:
        conn.execute(imports.update().where(imports.c.id == import_id).values(worker=""))  # its importer stops now
    while True:
        with store.write(durable=False) as conn:
            first = list(conn.execute(some).scalars())
            conn.execute(import_batches.delete().where(own, import_batches.c.first.in_(first)))
            if len(first) < BATCHES_PER_DELETE:
                conn.execute(imports.delete().where(imports.c.id == import_id))
                return
