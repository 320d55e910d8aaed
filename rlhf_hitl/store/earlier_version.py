"""Rows of a store of an earlier version, stepped up to this one: they pass through a small store of that version."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store.db import run_migrations
from rlhf_hitl.store.table_copy import NOT_COPIED, ROWS_OF_A_NEW_STORE, PlainRow, insert_plain_rows, read_table_rows


class EarlierVersion:
    """An empty SQLite store of an earlier version, to be filled once and then read as one of this version.

    `columns` holds the columns of each of its tables.
    """

    def __init__(self, conn: Connection, seal: Callable[[str], str]):
        self._conn, self._seal = conn, seal
        self._tables = sa.MetaData()
        self._tables.reflect(conn)
        for name in ("alembic_version", *NOT_COPIED):
            if name in self._tables.tables:
                self._tables.remove(self._tables.tables[name])
        self.columns = {t.name: [c.name for c in t.columns] for t in self._tables.sorted_tables}

    def step_up(self, contents: Callable[[str], tuple[list[str], Iterable[PlainRow]]]) -> None:
        """Fill the store and upgrade it.

        Args:
            contents: gives the columns and the rows of a table.

        Raises:
            BadInput: the rows break a rule of that version.
        """
        for table in reversed(self._tables.sorted_tables):
            if table.name in ROWS_OF_A_NEW_STORE:
                self._conn.execute(table.delete())
        try:
            for table in self._tables.sorted_tables:
                columns, rows = contents(table.name)
                insert_plain_rows(self._conn, table.name, columns, iter(rows))
            run_migrations(self._conn, self._seal)
        except (exc.DBAPIError, ValueError, TypeError, LookupError) as e:  # a migration may meet any value
            raise BadInput(
                "the rows of an earlier version", expected="such as that version wrote", fix="export them again"
            ) from e

    def read_table(self, name: str) -> Iterator[PlainRow]:
        """Yield the rows of a table as this version has them; only after `step_up`."""
        for batch in read_table_rows(self._conn, name):
            yield from batch


@contextmanager
def open_earlier_version(version: str, seal: Callable[[str], str]) -> Iterator[EarlierVersion]:
    """Give an empty store of a version, in a temporary folder that only its owner can enter."""
    with tempfile.TemporaryDirectory(prefix="rlhf_hitl-") as folder:
        engine = sa.create_engine(f"sqlite:///{Path(folder) / 'earlier.db'}", hide_parameters=True)
        try:
            with engine.connect() as conn:
                run_migrations(conn, seal, version)
                yield EarlierVersion(conn, seal)
        finally:
            engine.dispose()
