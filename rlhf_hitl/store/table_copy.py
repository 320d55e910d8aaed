"""A whole store, table by table, out and in: what a backup and a move to another database are made of.

A row is a list of plain values, None, int, float or text, one a column, and is the same whichever database it is from:
times are text to the microsecond in UTC, booleans 0 and 1, and a JSON column is the very text that was stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import psycopg
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store.db import Store, alembic_config
from rlhf_hitl.store.tables import Utc, metadata

BATCH = 200
CACHE_KIB = 256 * 1024

#: Table → its columns, for every table; one comes after those it refers to.
COLUMNS = {table.name: [c.name for c in table.columns] for table in metadata.sorted_tables}
#: What the migrations put into a new store: the default project and its lane.
ROWS_OF_A_NEW_STORE = {"projects": 1, "lanes": 1}

PlainRow = Sequence[Any]


def list_schema_versions() -> list[str]:
    """The versions the tables have had, newest first: that is the one this code reads and writes."""
    return [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()]


def count_table_rows(conn: Connection) -> dict[str, int]:
    """Table → number of its rows."""
    return {
        t.name: conn.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in metadata.sorted_tables
    }


def read_table_rows(conn: Connection, name: str) -> Iterator[list[PlainRow]]:
    """All rows of a table in order of their primary key, a batch at a time."""
    table = metadata.tables[name]
    query = sa.select(*(plain_column(c, conn.dialect.name == "sqlite") for c in table.columns))
    query = query.order_by(*(_bytewise(c, conn) for c in table.primary_key.columns))
    for batch in conn.execute(query, execution_options={"yield_per": BATCH}).partitions():
        yield [tuple(row) for row in batch]


def lock_new_store(store: Store, conn: Connection) -> None:
    """Shut others out of the store until the transaction ends.

    Raises:
        BadInput: the store has more in it than a new one has; what that is, is said.
    """
    if not store.is_sqlite:  # SQLite's write transaction has shut them out already
        conn.execute(sa.text(f"LOCK TABLE {_tables(conn)} IN EXCLUSIVE MODE"))
    if held := {t: n for t, n in count_table_rows(conn).items() if n > ROWS_OF_A_NEW_STORE.get(t, 0)}:
        raise BadInput(
            f"store {store.safe_url} with " + ", ".join(f"{n} {table}" for table, n in held.items()),
            expected="a new store",
            fix="name one that does not exist yet with --store",
        )


def prepare_bulk_write(store: Store, conn: Connection) -> None:
    """Make a connection that is about to write many rows in one transaction fit for it."""
    if store.is_sqlite:
        # Ids are random: with the two MB that are SQLite's default, every row would read and write pages of each index.
        conn.exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KIB}")
    else:
        # Of tables that were empty a moment ago PostgreSQL believes until the transaction ends that they still are, and
        # would rather read them through than ask an index.
        conn.exec_driver_sql("SET LOCAL enable_seqscan = off")


def update_statistics(store: Store, conn: Connection) -> None:
    """Tell PostgreSQL how large its tables have become while this transaction writes to them.

    It cannot know by itself before the transaction ends, and goes on with plans it made for tables that were empty.
    """
    if not store.is_sqlite:
        conn.execute(sa.text(f"ANALYZE {_tables(conn)}"))


def fill_store(store: Store, conn: Connection, contents: Callable[[str], Iterable[PlainRow]]) -> None:
    """Fill a new store with the rows `contents` gives for each table, and go on numbering after the highest number.

    Raises:
        BadInput: a value that cannot stand in its column.
    """
    for table in reversed(metadata.sorted_tables):
        if table.name in ROWS_OF_A_NEW_STORE:
            conn.execute(table.delete())
    prepare_bulk_write(store, conn)
    for table in metadata.sorted_tables:
        insert = _insert if store.is_sqlite else _copy
        insert(conn, table, _checked(table, contents(table.name)))
        number = table.autoincrement_column
        if number is not None and not store.is_sqlite:  # SQLite sees to it by itself
            highest = sa.select(sa.func.max(number)).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(table.name, number.name)
            conn.execute(sa.select(sa.func.setval(sequence, highest)).where(highest.is_not(None)))
    update_statistics(store, conn)


def plain_column(column: sa.Column[Any], sqlite: bool) -> sa.ColumnElement[Any]:
    """A column as the plain value a row has of it."""
    match column.type:
        case sa.Boolean():
            return sa.cast(column, sa.Integer)
        case sa.JSON():
            return sa.cast(column, sa.Text)
        case Utc():
            return sa.type_coerce(column, sa.Text) if sqlite else sa.func.to_char(column, "YYYY-MM-DD HH24:MI:SS.US")
        case sa.Float():
            return column + 0.0  # SQLite keeps no negative zero
        case sa.Integer() | sa.String():
            return column
    raise TypeError(f"{column}: say what a plain {column.type!r} is")


def _bytewise(column: sa.Column[Any], conn: Connection) -> sa.ColumnElement[Any]:
    """What orders alike on SQLite and on PostgreSQL, whatever the language of its database."""
    is_text = isinstance(column.type, sa.String)
    return column.collate("C") if is_text and conn.dialect.name == "postgresql" else column


def _insert(conn: Connection, table: sa.Table, found: Iterator[PlainRow]) -> None:
    names, marks = _names(conn, table), ", ".join("?" * len(table.columns))
    statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608
    while batch := list(islice(found, BATCH)):
        conn.exec_driver_sql(statement, [tuple(row) for row in batch])


def _copy(conn: Connection, table: sa.Table, found: Iterator[PlainRow]) -> None:
    statement = f"COPY {table.name} ({_names(conn, table)}) FROM STDIN"
    driver: Any = conn.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in found:
                copy.write_row(row)
    except psycopg.Error as e:  # as SQLAlchemy would have raised it
        raise exc.DBAPIError.instance(statement, None, e, psycopg.Error) from e


def _tables(conn: Connection) -> str:
    return ", ".join(conn.dialect.identifier_preparer.format_table(t) for t in metadata.sorted_tables)


def _names(conn: Connection, table: sa.Table) -> str:
    return ", ".join(conn.dialect.identifier_preparer.quote(c.name) for c in table.columns)


def _checked(table: sa.Table, found: Iterable[PlainRow]) -> Iterator[PlainRow]:
    """The rows, if every value is one its column could have given. SQLite itself would take anything."""
    columns = list(table.columns)
    special = [(i, test) for i, c in enumerate(columns) if (test := _test(c)) is not None]
    good_types: set[tuple[type, ...]] = set()
    for row in found:
        types = tuple(map(type, row))
        if types not in good_types:
            if len(row) != len(columns):
                raise BadInput(f"a row of {table.name} of {len(row)} values", expected=f"{len(columns)}", fix=_FIX)
            for column, value in zip(columns, row):
                if value is not None and type(value) is not _type(column):
                    raise _bad(column, value)
            good_types.add(types)
        for i, is_good in special:
            if row[i] is not None and not is_good(row[i]):
                raise _bad(columns[i], row[i])
        yield row


_FIX = "use an archive that was not altered"


def _bad(column: sa.Column[Any], value: Any) -> BadInput:
    return BadInput(f"{column} = {str(value)[:60]!r}", expected=f"a value of {column.type!r}", fix=_FIX)


def _type(column: sa.Column[Any]) -> type:
    match column.type:
        case sa.Integer() | sa.Boolean():
            return int
        case sa.Float():
            return float
    return str


def _test(column: sa.Column[Any]) -> Callable[[Any], bool] | None:
    """What a value must meet beside its Python type."""
    match column.type:
        case sa.Boolean():
            return (0, 1).__contains__
        case sa.JSON():
            return _is_json
        case Utc():
            return _is_time
    return None


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).isoformat(" ", "microseconds") == value
    except ValueError:
        return False
