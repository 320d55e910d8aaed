"""How connections to a store are made and set up, on SQLite and on PostgreSQL."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import make_private_file, make_private_folder
from rlhf_hitl.workspace import protect_store_files

KEEPALIVE_OPTIONS = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}  # for PostgreSQL
HOW_TO_MAKE_A_STORE = (
    "to try things out run `rlhf-hitl quickstart`, for an empty store `rlhf-hitl init`, with the same --store"
)
LOCK_TIMEOUT_SECONDS = 20  # how long a write waits for other writers
LOCK_POLL_SECONDS = 0.001  # between two looks at SQLite's write lock
IDLE_CHECK_SECONDS = 1.0  # a connection that was idle for longer is tested before it is used
WAL_PAGES = 16 * 1024  # of 4 KiB


def create_engine(url: str, create: bool) -> Engine:
    """Return an engine for a store's URL. With `create`, the file of a SQLite store is made where it is missing.

    Raises:
        BadInput: the URL cannot be used, or there is no such file.
    """
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):  # a port that is not a number raises ValueError
        # A URL that cannot be parsed may still hold a password, between its first colon and the host.
        raise BadInput(
            f"store {re.sub(':.*@', ':***@', url)!r}",
            expected="an SQLAlchemy URL",
            fix="write e.g. sqlite:///workspace/preferences.db",
        ) from None
    safe_url = hide_password(parsed)
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return _create_postgres_engine(parsed)
    if backend != "sqlite":
        raise BadInput(f"store {safe_url}", expected="sqlite:/// or postgresql://", fix="use one of the two databases")
    if not parsed.database or parsed.database == ":memory:":
        raise BadInput(
            f"store {safe_url}", expected="a file", fix="give a path, as in sqlite:///workspace/preferences.db"
        )
    path = Path(parsed.database)
    if not path.exists():
        if not create:
            raise BadInput(f"store {safe_url}", expected="an existing store", fix=HOW_TO_MAKE_A_STORE)
        try:
            make_private_folder(path.parent)
            make_private_file(path)  # SQLite gives its -wal and -shm the mode of this file
        except FileExistsError:  # another process was quicker, or this is a link to nothing
            if not path.exists():
                raise BadInput(
                    f"store {safe_url}", expected="a file, not a link to nothing", fix="remove the link"
                ) from None
        except OSError as e:
            raise BadInput(f"store {safe_url}", expected="a file that can be made", fix=str(e)) from e
    protect_store_files(path)
    engine = sa.create_engine(
        parsed, connect_args={"timeout": LOCK_TIMEOUT_SECONDS, "check_same_thread": False}, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def _configure(connection, _record):
        connection.isolation_level = None  # BEGIN is sent below
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # an acknowledged judgment survives a power cut
        cursor.execute("PRAGMA foreign_keys = ON")
        # A commit that makes the log longer than this writes it back. A server does it before, beside the requests.
        cursor.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")

        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(conn):
        if conn.get_execution_options().get("write", True):
            _begin_to_write(conn)
        else:
            conn.exec_driver_sql("BEGIN")

    return engine


def _begin_to_write(conn: Connection) -> None:
    """Begin a transaction that holds SQLite's write lock, as soon as no other process holds it.

    SQLite itself looks for the lock in intervals that grow to a tenth of a second, and so misses the moments in which
    an import of another process has stepped aside.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    conn.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                conn.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except exc.OperationalError as e:
                if "database is locked" not in str(e.orig) or time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_POLL_SECONDS)
    finally:
        conn.exec_driver_sql(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_SECONDS * 1000}")


def _create_postgres_engine(url: URL) -> Engine:
    # The pool serves the forty threads of a server; PostgreSQL allows a hundred connections by default.
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=10,
        max_overflow=10,
        connect_args=KEEPALIVE_OPTIONS,
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection, _record):
        # A database with synchronous_commit off may lose its last commits in a crash, so it is turned on for this
        # connection; a stricter setting is left as it is.
        current = "current_setting('synchronous_commit')"
        connection.execute(
            f"SELECT set_config('synchronous_commit', CASE {current} WHEN 'off' THEN 'on' ELSE {current} END, false)"
        )
        # A client that freezes in a transaction or loses its connection must not block the others for ever.
        for name, seconds in {"idle_in_transaction_session_timeout": 60, "lock_timeout": LOCK_TIMEOUT_SECONDS}.items():
            connection.execute(f"SET {name} = '{seconds}s'")
        connection.commit()

    # A connection that was idle may have been cut meanwhile, so it is tested before it is used. One that was in use
    # a moment ago is not tested: that would add a round trip to every query.
    @event.listens_for(engine, "checkin")
    def _note_idle_since(_connection, record):
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _test_idle_connection(connection, record, _proxy):
        if time.monotonic() - record.info.get("idle_since", math.inf) > IDLE_CHECK_SECONDS:
            try:
                connection.execute("SELECT 1")
                connection.rollback()
            except Exception as e:
                raise exc.DisconnectionError from e

    return engine


def hide_password(url: URL) -> str:
    return url.difference_update_query(["password", "sslpassword"]).render_as_string(hide_password=True)


def get_first_line(e: Exception) -> str:
    return str(getattr(e, "orig", None) or e).strip().splitlines()[0]
