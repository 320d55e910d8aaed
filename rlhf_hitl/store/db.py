"""Open a store and read or write it in transactions, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput, RlhfHitlError
from rlhf_hitl.store import (
    catalog_tables,  # noqa: F401  (registers its tables)
    engines,
    quality_tables,  # noqa: F401
)
from rlhf_hitl.store.engines import create_engine, get_first_line, hide_password
from rlhf_hitl.store.images import ImageFolder
from rlhf_hitl.store.sealing import Sealer
from rlhf_hitl.store.secret_erasure import erase_replaced_rows, erase_replaced_secrets
from rlhf_hitl.store.service_tables import readiness, secrets
from rlhf_hitl.store.tables import Utc
from rlhf_hitl.types import utc_now

LOCK_NOT_AVAILABLE = "55P03"
INSUFFICIENT_PRIVILEGE = "42501"
MIGRATIONS = Path(__file__).parent / "migrations"
# Alembic's `op` is global to the process: two threads that create two stores would write into each other's store.
_UPGRADE_LOCK = threading.Lock()


class StoreFailure(RlhfHitlError):
    """The database could not do what was asked (disk full, read-only, gone, constraint violated).

    Nothing was half-written.
    """


class Store:
    """A database of preferences. It is cheap to create and safe to share between threads.

    `read()` and `write()` give a connection inside one transaction. On SQLite a write takes the write lock at its start
    (BEGIN IMMEDIATE), so that what it has read cannot change before it writes. On PostgreSQL the functions that need it
    lock rows.
    """

    def __init__(self, url: str, engine: Engine):
        self.url, self._engine = url, engine
        # SQLite allows one writer at a time, and waiting writers poll. Threads of one process wait for this lock
        # instead, which wakes them in turn.
        self._write_lock = threading.Lock() if self.is_sqlite else None
        self._draw_key: bytes | None = None
        self.longest_write_s = 0.0  # seconds from the start of a write transaction to the end of its commit, at most

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @classmethod
    def open(cls, url: str, *, create: bool = False) -> Store:
        """Open the store at an SQLAlchemy URL.

        With `create`, create the store if it is missing and upgrade its tables if they are older. The files of a SQLite
        store become their owner's alone, whatever the umask; a line of the log says what others could read.

        Raises:
            BadInput: there is no store, it has another version, or the URL cannot be used.
        """
        engine = create_engine(url, create)
        store = cls(url, engine)
        try:
            store._check_version(create)
            erase_replaced_secrets(engine)
        except exc.SQLAlchemyError as e:
            raise BadInput(
                f"store {store.safe_url}",
                expected="a database that can be opened",
                fix=f"check the URL ({get_first_line(e)})",
            ) from e
        return store

    @cached_property
    def sealer(self) -> Sealer:
        """What seals secrets with the key of this installation. The key is read when it is first needed."""
        database = self._engine.url.database
        beside = Path(f"{database}.key") if self.is_sqlite and database else load_settings().workspace / "secret.key"
        return Sealer(beside)

    @cached_property
    def images(self) -> ImageFolder:
        """Where the images of this store are."""
        settings, database = load_settings(), self._engine.url.database
        beside = f"{database}.images" if self.is_sqlite and database else str(settings.workspace / "images")
        return ImageFolder(settings.images or beside)

    @property
    def safe_url(self) -> str:
        """The URL without its password."""
        return hide_password(self._engine.url)

    @property
    def file(self) -> Path:
        """The file of a store on SQLite."""
        return Path(str(self._engine.url.database))

    def write_back(self) -> int:
        """Write SQLite's log back into the file of the store, as far as no reader needs it. Writers do not wait.

        Returns how many pages the log has.
        """
        with self._engine.connect() as conn:
            driver: Any = conn.connection.driver_connection
            _, pages, _ = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            return pages

    @property
    def schema_version(self) -> str:
        """The version of the tables that this code reads and writes; every open store has it."""
        return list_schema_versions()[0]

    def read_version(self) -> str | None:
        """Return the version of the tables that the database has now."""
        with self.read() as conn:
            return MigrationContext.configure(conn).get_current_revision()

    def check_writable(self) -> None:
        """Write a row. Raises StoreFailure where that cannot be done: a full disk, a read-only file, a standby."""
        with self.write() as conn:
            conn.execute(_CHECK_WRITABLE, {"at": utc_now()})

    def draw(self, purpose: str, id: str, choices: int) -> int:
        """Return a number below `choices` that is drawn for `id` once and for all, for each purpose another one.

        It is the same whenever it is asked of this store, and cannot be known without the store's key: an id alone says
        nothing about it.
        """
        return int.from_bytes(self._make_digest(purpose, id)[:8]) % choices

    def sign(self, purpose: str, id: str) -> str:
        """Return a text that only this store can make of `id`: who holds it was given it for this purpose."""
        return self._make_digest(f"sign {purpose}", id)[:16].hex()

    def _make_digest(self, purpose: str, id: str) -> bytes:
        if self._draw_key is None:
            with self.read() as conn:
                self._draw_key = bytes.fromhex(conn.execute(_DRAW_KEY).scalar_one())
        return hmac.digest(self._draw_key, f"{purpose}:{id}".encode(), hashlib.sha256)

    def forget_key(self) -> None:
        """Read the key of `draw` again when it is needed next, because it was replaced."""
        self._draw_key = None

    def read_durability(self) -> dict[str, str]:
        """Return the database settings that decide whether an acknowledged judgment survives a power cut."""
        names = (
            ("journal_mode", "synchronous") if self.is_sqlite else ("fsync", "full_page_writes", "synchronous_commit")
        )
        query = "PRAGMA {}" if self.is_sqlite else "SHOW {}"
        with self.read() as conn:
            return {name: str(conn.exec_driver_sql(query.format(name)).scalar_one()) for name in names}

    def _check_version(self, create: bool) -> None:
        head, *_ = revisions = list_schema_versions()
        with self._engine.connect() as conn:
            version = MigrationContext.configure(conn).get_current_revision()
        if version == head:
            return
        if version is not None and version not in revisions:
            raise BadInput(
                f"store {self.safe_url} of version {version}",
                expected=f"version {head} or older",
                fix="upgrade rlhf_hitl: this store was written by a newer one",
            )
        if not create:
            raise BadInput(
                f"store {self.safe_url}" + (f" of version {version}" if version else ""),
                expected=f"a store of version {head}",
                fix="run `rlhf-hitl init` with the same --store" if version else engines.HOW_TO_MAKE_A_STORE,
            )
        with self.write() as conn:
            # Two processes may open a new store at once: the second waits here, then finds the tables upgraded.
            self.lock(conn, "migrations")
            replaced = run_migrations(conn, self.sealer.seal)
        if replaced and not self.is_sqlite:
            erase_replaced_rows(self._engine, "webhooks")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection for reading."""
        # Under READ COMMITTED each statement sees what was committed before it, whether it is in a transaction or not.
        # Without one, PostgreSQL is sent one statement instead of three.
        with self._open_connection(write=False, isolation="AUTOCOMMIT") as conn:
            yield conn

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Give a connection that sees the store as it is now until it is closed, whatever others write meanwhile."""
        with self._open_connection(write=False, isolation="REPEATABLE READ", postgresql_readonly=True) as conn:
            yield conn

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """Give a connection for writing; the transaction is committed when the block ends without an exception.

        One that is not `durable` may be undone by a power cut, and then so are those after it; the next durable one
        makes it last. It does not wait for the disk while it holds its locks.
        """
        if self._write_lock is not None and not self._write_lock.acquire(timeout=engines.LOCK_TIMEOUT_SECONDS):
            raise self._make_busy_error()
        try:
            with self._open_connection(write=True, durable=durable) as conn:
                yield conn
        finally:
            if self._write_lock is not None:
                self._write_lock.release()

    def _make_busy_error(self) -> StoreFailure:
        return StoreFailure(
            f"store {self.safe_url}: expected a turn to write within {engines.LOCK_TIMEOUT_SECONDS} s; "
            "others write (an import?). Fix: try again; nothing was changed"
        )

    @contextlib.contextmanager
    def _open_connection(
        self, write: bool, isolation: str | None = None, durable: bool = True, **options: Any
    ) -> Iterator[Connection]:
        outcome = "nothing was changed"
        if isolation is not None and not self.is_sqlite:  # every SQLite transaction sees one state anyway
            options["isolation_level"] = isolation
        try:
            with self._engine.connect() as plain, self._wait_for_disk(plain, durable):
                conn = plain.execution_options(write=write, **options)
                with conn.begin() as transaction:
                    begun = time.monotonic()
                    if not durable and not self.is_sqlite:
                        conn.exec_driver_sql("SET LOCAL synchronous_commit = off")
                    yield conn
                    if write and not self.is_sqlite:  # a lost connection does not tell whether the server committed
                        outcome = "it may have been kept all the same: what has a key counts once, so send it again"
                    transaction.commit()
                    if write:
                        self.longest_write_s = max(self.longest_write_s, time.monotonic() - begun)
        except exc.TimeoutError as e:
            raise StoreFailure(f"store {self.safe_url}: expected a connection, got none in time. Fix: try again") from e
        except exc.DataError as e:
            raise BadInput(
                f"a value for store {self.safe_url}",
                expected=f"one the database can hold ({get_first_line(e)})",
                fix="change the value; nothing was changed",
            ) from e
        except exc.IntegrityError as e:
            raise StoreFailure(
                f"store {self.safe_url}: expected rows that keep its rules, got: {get_first_line(e)}. "
                "Fix: check that what they refer to is there; nothing was changed"
            ) from e
        except exc.DBAPIError as e:  # the database is gone, full, read-only, damaged or denies access
            if isinstance(e, exc.ProgrammingError) and getattr(e.orig, "sqlstate", "") != INSUFFICIENT_PRIVILEGE:
                raise  # a bug in our SQL must not be reported as a failure of the database
            if getattr(e.orig, "sqlstate", "") == LOCK_NOT_AVAILABLE or "database is locked" in str(e.orig):
                raise self._make_busy_error() from e
            raise StoreFailure(
                f"store {self.safe_url}: expected a database that answers, got: {get_first_line(e)}. "
                f"Fix: free disk space, check rights, or start the database; {outcome}"
            ) from e

    @contextlib.contextmanager
    def _wait_for_disk(self, plain: Connection, durable: bool) -> Iterator[None]:
        """On SQLite, set whether commits of this connection wait for the disk; it cannot be set in a transaction."""
        if durable or not self.is_sqlite:
            yield
            return
        driver: Any = plain.connection.driver_connection
        driver.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.ProgrammingError):  # Ctrl-C has closed it
                driver.execute("PRAGMA synchronous = FULL")

    def insert_new(self, conn: Connection, table: sa.Table, rows: list[dict]) -> int:
        """Insert rows, skip those whose key exists already, and return how many were new."""
        if not rows:
            return 0
        if self.is_sqlite:
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert
        # One prepared statement is executed per row: SQLAlchemy takes longer to compile one statement of many rows than
        # the database takes to insert them. Without the option psycopg reports a row count of -1.
        statement = insert(table).on_conflict_do_nothing()
        return conn.execute(statement, rows, execution_options={"preserve_rowcount": True}).rowcount

    def lock(self, conn: Connection, name: str) -> None:
        """Hold a named lock until the transaction ends. SQLite has one write transaction at a time and needs none."""
        if not self.is_sqlite:
            conn.execute(_ADVISORY_LOCK, {"number": zlib.crc32(name.encode())})

    def now(self, conn: Connection) -> datetime:
        """Return the time for leases: by PostgreSQL's clock, so that servers whose clocks differ agree."""
        if self.is_sqlite:
            return utc_now()
        return conn.execute(sa.select(sa.func.clock_timestamp())).scalar_one().astimezone(UTC)

    def among(self, column: sa.Column[str], ids: Iterable[str]) -> sa.ColumnElement[bool]:
        """Return `column IN ids` for any number of ids, as one parameter; a plain IN allows about ten thousand."""
        id_list = sa.literal(json.dumps(sorted(set(ids))))
        if self.is_sqlite:
            return column.in_(sa.select(sa.func.json_each(id_list).table_valued("value").c.value))
        return column.in_(sa.select(sa.func.json_array_elements_text(sa.cast(id_list, sa.JSON)).column_valued()))

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_CHECK_WRITABLE = readiness.update().values(checked_at=sa.bindparam("at", type_=Utc))
_DRAW_KEY = sa.select(secrets.c.value).where(secrets.c.name == "draws")
_ADVISORY_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("number", type_=sa.BigInteger)))


def run_migrations(conn: Connection, seal: Callable[[str], str], version: str = "head") -> bool:
    """Upgrade the tables in a transaction of the caller; returns whether secrets in the clear were replaced.

    Args:
        seal: encrypts a secret that an earlier version kept in the clear.
    """
    config = make_alembic_config()
    config.attributes |= {"connection": conn, "seal": seal}
    with _UPGRADE_LOCK:
        command.upgrade(config, version)
    return "secrets_replaced" in config.attributes


@cache
def list_schema_versions() -> tuple[str, ...]:
    """Return every version the tables have had, newest first; this code reads and writes the newest.

    Alembic compiles all migrations anew each time it is asked, which took most of the time of opening a store.
    """
    scripts = ScriptDirectory.from_config(make_alembic_config()).walk_revisions()
    return tuple(s.revision for s in scripts)


def make_alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return config
