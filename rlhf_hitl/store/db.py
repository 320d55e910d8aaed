"""Opening a store: one engine, one way to read, one way to write, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine

from rlhf_hitl.errors import BadInput, RlhfHitlError
from rlhf_hitl.types import utc_now

KEEPALIVE_OPTIONS = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}  # of connections to PostgreSQL
LOCK_NOT_AVAILABLE = "55P03"
LOCK_TIMEOUT_SECONDS = 20  # seconds to wait for others who write
IDLE_CHECK_SECONDS = 1.0  # seconds after which a connection is tried before it is used
INSUFFICIENT_PRIVILEGE = "42501"
MIGRATIONS = Path(__file__).parent / "migrations"
# Alembic's `op` is one for the whole process: two threads that make two stores would write into each other's.
_ONE_UPGRADE = threading.Lock()


class StoreFailure(RlhfHitlError):
    """The database could not do what was asked (disk full, read-only, gone, rule broken). Nothing was half-written."""


class Store:
    """A database of preferences. Cheap to make, safe to share between threads.

    `read()` and `write()` give a connection inside one transaction; a write takes the write lock at its start (SQLite's
    BEGIN IMMEDIATE), so that what it read cannot change before it writes. On PostgreSQL rows are locked where needed.
    """

    def __init__(self, url: str, engine: Engine):
        self.url, self._engine = url, engine
        # SQLite has one writer at a time, and those who wait look again now and then. Threads of one process wait here
        # instead, and are woken in turn.
        self._writer = threading.Lock() if self.is_sqlite else None

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @classmethod
    def open(cls, url: str, *, create: bool = False) -> Store:
        """Open the store at an SQLAlchemy URL.

        With `create`, make it where it is missing and upgrade it where it is older.

        Raises:
            BadInput: no store there, a store of another version, or a URL that cannot be used.
        """
        engine = _engine(url, create)
        store = cls(url, engine)
        try:
            store._check_version(create)
        except exc.SQLAlchemyError as e:
            raise BadInput(
                f"store {store.safe_url}",
                expected="a database that can be opened",
                fix=f"check the URL ({_first_line(e)})",
            ) from e
        return store

    @property
    def safe_url(self) -> str:
        """The URL without its password."""
        return _safe(self._engine.url)

    @property
    def schema_version(self) -> str:
        """The version of the tables this code reads and writes; an open store has it."""
        return str(ScriptDirectory.from_config(alembic_config()).get_current_head())

    def version(self) -> str | None:
        """The version of the tables the database has now."""
        with self.read() as conn:
            return MigrationContext.configure(conn).get_current_revision()

    def check_writable(self) -> None:
        """Raises StoreFailure where the database can only be read, as a standby can."""
        with self.write() as conn:
            if not self.is_sqlite and conn.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on":
                raise StoreFailure(f"store {self.safe_url}: expected one that can be written to. Fix: use the primary")

    def durability(self) -> dict[str, str]:
        """The database's settings on which it hangs whether an acknowledged judgment survives a power cut."""
        names = (
            ("journal_mode", "synchronous") if self.is_sqlite else ("fsync", "full_page_writes", "synchronous_commit")
        )
        ask = "PRAGMA {}" if self.is_sqlite else "SHOW {}"
        with self.read() as conn:
            return {name: str(conn.exec_driver_sql(ask.format(name)).scalar_one()) for name in names}

    def _check_version(self, create: bool) -> None:
        script = ScriptDirectory.from_config(alembic_config())
        head = script.get_current_head()
        with self._engine.connect() as conn:
            version = MigrationContext.configure(conn).get_current_revision()
        if version == head:
            return
        known = {r.revision for r in script.walk_revisions()}
        if version is not None and version not in known:
            raise BadInput(
                f"store {self.safe_url} of version {version}",
                expected=f"version {head} or older",
                fix="upgrade rlhf_hitl: this store was written by a newer one",
            )
        if not create:
            raise BadInput(
                f"store {self.safe_url}" + (f" of version {version}" if version else ""),
                expected=f"a store of version {head}",
                fix="run `rlhf-hitl init` with the same --store",
            )
        with _ONE_UPGRADE, self.write() as conn:
            # Two processes may start on a new store at once: the second waits here, then finds nothing left to do.
            self.lock(conn, "migrations")
            config = alembic_config()
            config.attributes["connection"] = conn
            command.upgrade(config, "head")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        # Under READ COMMITTED each statement sees what was committed before it, with a transaction round it or
        # without; without one, PostgreSQL is asked once instead of three times.
        with self._connection(write=False, isolation="AUTOCOMMIT") as conn:
            yield conn

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection that sees the store as it is now for as long as it is held, whatever others write meanwhile."""
        with self._connection(write=False, isolation="REPEATABLE READ", postgresql_readonly=True) as conn:
            yield conn

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        if self._writer is not None and not self._writer.acquire(timeout=LOCK_TIMEOUT_SECONDS):
            raise self._busy()
        try:
            with self._connection(write=True) as conn:
                yield conn
        finally:
            if self._writer is not None:
                self._writer.release()

    def _busy(self) -> StoreFailure:
        return StoreFailure(
            f"store {self.safe_url}: expected a turn to write within {LOCK_TIMEOUT_SECONDS} s; "
            "others write (an import?). Fix: try again; nothing was changed"
        )

    @contextlib.contextmanager
    def _connection(self, write: bool, isolation: str | None = None, **options: Any) -> Iterator[Connection]:
        kept = "nothing was changed"
        if isolation is not None and not self.is_sqlite:  # whose every transaction sees one state
            options["isolation_level"] = isolation
        try:
            with self._engine.connect() as plain:
                conn = plain.execution_options(write=write, **options)
                with conn.begin() as transaction:
                    yield conn
                    if write and not self.is_sqlite:  # over a line that broke one cannot know what the other end did
                        kept = "it may have been kept all the same: what has a key counts once, so send it again"
                    transaction.commit()
        except exc.TimeoutError as e:
            raise StoreFailure(f"store {self.safe_url}: expected a connection, got none in time. Fix: try again") from e
        except exc.DataError as e:
            raise BadInput(
                f"a value for store {self.safe_url}",
                expected=f"one the database can hold ({_first_line(e)})",
                fix="change the value; nothing was changed",
            ) from e
        except exc.IntegrityError as e:
            raise StoreFailure(
                f"store {self.safe_url}: expected rows that keep its rules, got: {_first_line(e)}. "
                "Fix: check that what they refer to is there; nothing was changed"
            ) from e
        except exc.DBAPIError as e:  # gone, full, read-only, damaged, without rights
            if isinstance(e, exc.ProgrammingError) and getattr(e.orig, "sqlstate", "") != INSUFFICIENT_PRIVILEGE:
                raise  # a mistake of ours: not to be told as the database's
            if getattr(e.orig, "sqlstate", "") == LOCK_NOT_AVAILABLE or "database is locked" in str(e.orig):
                raise self._busy() from e
            raise StoreFailure(
                f"store {self.safe_url}: expected a database that answers, got: {_first_line(e)}. "
                f"Fix: free disk space, check rights, or start the database; {kept}"
            ) from e

    def insert_new(self, conn: Connection, table: sa.Table, rows: list[dict]) -> int:
        """Insert rows, leaving alone those whose key is there already. Returns how many were new."""
        if not rows:
            return 0
        if self.is_sqlite:
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert
        # One statement for each row, prepared once: SQLAlchemy takes longer to write out a statement of many rows than
        # the database takes to insert them. Without the option psycopg's results say -1.
        statement = insert(table).on_conflict_do_nothing()
        return conn.execute(statement, rows, execution_options={"preserve_rowcount": True}).rowcount

    def lock(self, conn: Connection, name: str) -> None:
        """Let one transaction at a time pass here until it ends. SQLite's write transactions are alone already."""
        if not self.is_sqlite:
            conn.execute(_LOCK, {"number": zlib.crc32(name.encode())})

    def now(self, conn: Connection) -> datetime:
        """The time by which leases run: PostgreSQL's own, so that two servers whose clocks differ agree."""
        if self.is_sqlite:
            return utc_now()
        return conn.execute(sa.select(sa.func.clock_timestamp())).scalar_one().astimezone(UTC)

    def among(self, column: sa.Column[str], ids: Iterable[str]) -> sa.ColumnElement[bool]:
        """`column IN ids` for any number of ids: one parameter, where a plain IN has a limit of some ten thousand."""
        listed = sa.literal(json.dumps(sorted(set(ids))))
        if self.is_sqlite:
            return column.in_(sa.select(sa.func.json_each(listed).table_valued("value").c.value))
        return column.in_(sa.select(sa.func.json_array_elements_text(sa.cast(listed, sa.JSON)).column_valued()))

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("number", type_=sa.BigInteger)))


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return config


def _engine(url: str, create: bool) -> Engine:
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):  # ValueError: of a port that is no number
        # What cannot be taken apart may hold a password all the same, between its first colon and the host.
        raise BadInput(
            f"store {re.sub(':.*@', ':***@', url)!r}",
            expected="an SQLAlchemy URL",
            fix="write e.g. sqlite:///workspace/preferences.db",
        ) from None
    safe = _safe(parsed)
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return _postgres_engine(parsed)
    if backend != "sqlite":
        raise BadInput(f"store {safe}", expected="sqlite:/// or postgresql://", fix="use one of the two databases")
    if not parsed.database or parsed.database == ":memory:":
        raise BadInput(f"store {safe}", expected="a file", fix="give a path, as in sqlite:///workspace/preferences.db")
    path = Path(parsed.database)
    if not path.exists():
        if not create:
            raise BadInput(
                f"store {safe}", expected="an existing store", fix="run `rlhf-hitl init` with the same --store"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise BadInput(f"store {safe}", expected="a folder that can be made", fix=str(e)) from e
    engine = sa.create_engine(
        parsed, connect_args={"timeout": LOCK_TIMEOUT_SECONDS, "check_same_thread": False}, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def _configure(connection, _record):
        connection.isolation_level = None  # we say BEGIN ourselves, below
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # an acknowledged judgment survives a power cut
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(conn):
        write = conn.get_execution_options().get("write", True)
        conn.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _postgres_engine(url: URL) -> Engine:
    # A pool for the forty threads a server answers with; PostgreSQL itself allows a hundred connections by default.
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=10,
        max_overflow=10,
        connect_args=KEEPALIVE_OPTIONS,
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection, _record):
        # A server that may lose its last commits in a crash is told not to, for ours; a stricter one is left as it is.
        now = "current_setting('synchronous_commit')"
        connection.execute(
            f"SELECT set_config('synchronous_commit', CASE {now} WHEN 'off' THEN 'on' ELSE {now} END, false)"
        )
        # A server that froze in mid-transaction, or cannot be reached any more, must not hold up all others for ever.
        for name, seconds in {"idle_in_transaction_session_timeout": 60, "lock_timeout": LOCK_TIMEOUT_SECONDS}.items():
            connection.execute(f"SET {name} = '{seconds}s'")
        connection.commit()

    # A connection that has lain idle may have been cut meanwhile; it is tried before it is used. One that was in use a
    # moment ago is not: that would be a question to the database before every question.
    @event.listens_for(engine, "checkin")
    def _lay_down(_connection, record):
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _take_up(connection, record, _proxy):
        if time.monotonic() - record.info.get("idle_since", math.inf) > IDLE_CHECK_SECONDS:
            try:
                connection.execute("SELECT 1")
                connection.rollback()
            except Exception as e:
                raise exc.DisconnectionError from e

    return engine


def _safe(url: URL) -> str:
    return url.difference_update_query(["password", "sslpassword"]).render_as_string(hide_password=True)


def _first_line(e: Exception) -> str:
    return str(getattr(e, "orig", None) or e).strip().splitlines()[0]
