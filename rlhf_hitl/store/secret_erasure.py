"""Erase what a database keeps of secrets that were replaced: old pages of SQLite's files, old rows of PostgreSQL."""

from __future__ import annotations

import logging

from sqlalchemy import exc
from sqlalchemy.engine import Engine

#: SQLite's `user_version` while replaced secrets wait to be erased. A migration sets it in its own transaction, so an
#: upgrade that is killed before they are erased is made up for when the store is opened next.
ERASURE_WAITS = 1

log = logging.getLogger("rlhf_hitl.store")


def erase_replaced_secrets(engine: Engine) -> None:
    """Rewrite a SQLite store whose migration has replaced secrets, so that its files no longer hold them.

    Where others use the store at this moment, this is left to the next opening, and the log says so.
    """
    if engine.dialect.name != "sqlite":
        return
    connection = engine.raw_connection()
    try:
        if connection.cursor().execute("PRAGMA user_version").fetchone()[0] != ERASURE_WAITS:
            return
        connection.cursor().execute("VACUUM")
        busy = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if not busy:
            connection.cursor().execute("PRAGMA user_version = 0")
    except Exception as e:  # the driver's own errors: it is locked, the disk is full
        busy = str(e)
    finally:
        connection.close()
    if busy:
        log.warning(
            "store %s: its files may still hold secrets of webhooks in the clear, which are now sealed (%s). "
            "Fix: stop what uses the store and open it again",
            engine.url.database,
            "others use it" if busy == 1 else busy,
        )


def erase_replaced_rows(engine: Engine, table: str) -> None:
    """Rewrite a small table of PostgreSQL, so that no file of the database holds rows that were replaced."""
    try:
        with engine.connect() as plain:
            plain.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(f"VACUUM FULL {table}")
    except exc.SQLAlchemyError as e:
        log.warning("table %s: old rows may still hold secrets (%s). Fix: run VACUUM FULL %s", table, e, table)
