"""Copy a whole store out and in, table by table, for backups and for a move to another database.

A row is a list of plain values (None, int, float or text), one for each column. It is the same on both databases: times
are UTC text with microseconds, booleans are 0 and 1, and a JSON column is exactly the text that was stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.engines import WAL_PAGES
from rlhf_hitl.store.reference_checks import check_references
from rlhf_hitl.store.row_checks import CHECKS, RowChecks
from rlhf_hitl.store.tables import Utc, metadata
from rlhf_hitl.wording import say_count

ROWS_PER_COPY = 200
CACHE_KIB = 256 * 1024
MAX_TEXT = 64 << 20  # letters; an archive has no longer line

#: Tables that are not copied: nobody copies a store before the imports that wait are finished, every store has its own
#: row of readiness, labels are computed of the votes, the catalog is made of the rest, and what a head has learnt since
#: its training is learnt anew.
NOT_COPIED = (
    *("imports", "import_batches", "readiness", "live_learning", "label_fits", "rater_estimates", "labels"),
    *("catalog", "catalog_changes", "catalog_terms"),
)
_COPIED = [table for table in metadata.sorted_tables if table.name not in NOT_COPIED]
#: Table → its columns, for every table that is copied; a table comes after the tables it refers to.
TABLE_COLUMNS = {table.name: [c.name for c in table.columns] for table in _COPIED}
#: Rows that the migrations put into a new store: the default project and its lane, and a key.
ROWS_OF_A_NEW_STORE = {"projects": 1, "lanes": 1, "secrets": 1}

PlainRow = Sequence[Any]
_POSTGRES = postgresql.dialect()


def count_table_rows(conn: Connection) -> dict[str, int]:
    """Return table → number of its rows."""
    return {t.name: conn.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in _COPIED}


def read_table_rows(conn: Connection, name: str) -> Iterator[list[PlainRow]]:
    """Yield all rows of a table in order of the primary key, in batches."""
    table = metadata.tables[name]
    query = sa.select(*(cast_to_plain(c, conn.dialect.name == "sqlite") for c in table.columns))
    query = query.order_by(*(_collate_bytewise(c, conn) for c in table.primary_key.columns))
    for batch in conn.execute(query, execution_options={"yield_per": ROWS_PER_COPY}).partitions():
        yield [tuple(row) for row in batch]


def lock_new_store(store: Store, conn: Connection) -> None:
    """Lock every table until the transaction ends, after checking that the store is new.

    Raises:
        BadInput: the store holds more rows than a new one; the error names the tables.
    """
    if not store.is_sqlite:  # SQLite's write transaction excludes other writers already
        conn.execute(sa.text(f"LOCK TABLE {_list_table_names(conn)} IN EXCLUSIVE MODE"))
    if surplus := {t: n for t, n in count_table_rows(conn).items() if n > ROWS_OF_A_NEW_STORE.get(t, 0)}:
        raise BadInput(
            f"store {store.safe_url} with rows of " + ", ".join(f"{table} ({n:,})" for table, n in surplus.items()),
            expected="a new store",
            fix="name one that does not exist yet with --store",
        )


def prepare_bulk_write(store: Store, conn: Connection, log_pages: int = WAL_PAGES // 2) -> None:
    """Tune a transaction that is about to write many rows.

    Args:
        log_pages: a commit that makes SQLite's log longer writes it back: earlier than a rater's commit would have to.
    """
    if store.is_sqlite:
        # Ids are random: with SQLite's default cache of two MB, every row would read and write pages of each index.
        conn.exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KIB}")
        conn.exec_driver_sql(f"PRAGMA wal_autocheckpoint = {log_pages}")
    else:
        # Until the transaction ends, PostgreSQL plans as if tables that were empty at its start still are, and would
        # scan them instead of using an index.
        conn.exec_driver_sql("SET LOCAL enable_seqscan = off")


def update_statistics(store: Store, conn: Connection) -> None:
    """Update PostgreSQL's table statistics while many rows are written.

    PostgreSQL does not update them by itself before a transaction ends, or for a minute, and would keep plans for empty
    tables.
    """
    if not store.is_sqlite:
        conn.execute(sa.text(f"ANALYZE {_list_table_names(conn)}"))


def fill_store(store: Store, conn: Connection, contents: Callable[[str], Iterable[PlainRow]]) -> None:
    """Fill a new store with the rows that `contents` gives for each table, and continue each sequence after them.

    Everything is checked within the transaction, against the columns, the types of the domain and each other: the store
    is new, so nobody waits for it or sees it before, and each row is read once.

    Raises:
        BadInput: a row could not have been written by this program.
    """
    checks = RowChecks()
    for table in reversed(_COPIED):
        if table.name in ROWS_OF_A_NEW_STORE:
            conn.execute(table.delete())
    prepare_bulk_write(store, conn)
    for table in _COPIED:
        write_rows = _insert_rows if store.is_sqlite else _copy_rows
        write_rows(conn, table, _check_rows(table, contents(table.name), checks))
        number = table.autoincrement_column
        if number is not None and not store.is_sqlite:  # SQLite continues by itself
            highest = sa.select(sa.func.max(number)).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(table.name, number.name)
            conn.execute(sa.select(sa.func.setval(sequence, highest)).where(highest.is_not(None)))
    store.forget_key()
    update_statistics(store, conn)
    check_references(conn)


def cast_to_plain(column: sa.ColumnElement[Any], sqlite: bool) -> sa.ColumnElement[Any]:
    """Return the expression that selects a column as a plain value."""
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
    raise TypeError(f"{column}: no plain form is defined for {column.type!r}")


def _collate_bytewise(column: sa.Column[Any], conn: Connection) -> sa.ColumnElement[Any]:
    """Return the column with a collation that sorts alike on SQLite and on PostgreSQL in any locale."""
    is_text = isinstance(column.type, sa.String)
    return column.collate("C") if is_text and conn.dialect.name == "postgresql" else column


def _insert_rows(conn: Connection, table: sa.Table, rows: Iterator[PlainRow]) -> None:
    insert_plain_rows(conn, table.name, [c.name for c in table.columns], rows)


def insert_plain_rows(conn: Connection, table: str, columns: Sequence[str], rows: Iterator[PlainRow]) -> None:
    """Insert plain rows of these columns into a table of SQLite, as they are."""
    names, marks = ", ".join(map(conn.dialect.identifier_preparer.quote, columns)), ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608
    while batch := list(islice(rows, ROWS_PER_COPY)):
        conn.exec_driver_sql(statement, [tuple(row) for row in batch])


def _copy_rows(conn: Connection, table: sa.Table, rows: Iterator[PlainRow]) -> None:
    copy_rows(conn, table.name, [c.name for c in table.columns], rows)


def copy_rows(conn: Connection, table: str, columns: Sequence[str], rows: Iterable[PlainRow]) -> None:
    """Insert plain rows of these columns into a table of PostgreSQL, as they are."""
    names = ", ".join(map(conn.dialect.identifier_preparer.quote, columns))
    statement = f"COPY {table} ({names}) FROM STDIN"
    driver: Any = conn.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as e:  # raised in the form SQLAlchemy would have given it
        raise exc.DBAPIError.instance(statement, None, e, psycopg.Error) from e


def _list_table_names(conn: Connection) -> str:
    return ", ".join(conn.dialect.identifier_preparer.format_table(t) for t in metadata.sorted_tables)


def _check_rows(table: sa.Table, rows: Iterable[PlainRow], checks: RowChecks) -> Iterator[PlainRow]:
    """Yield the rows after checking that every value fits its column; SQLite itself would accept any value."""
    columns, names = list(table.columns), [c.name for c in table.columns]
    value_checks = [(i, check) for i, c in enumerate(columns) if (check := _find_value_check(c)) is not None]
    types = [c.type.dialect_impl(_POSTGRES) for c in columns]  # which knows the lengths
    text_limits = [(i, type.length or MAX_TEXT) for i, type in enumerate(types) if isinstance(type, sa.String)]
    json_places = [i for i, c in enumerate(columns) if isinstance(c.type, sa.JSON)]
    domain_checks = [(i, CHECKS[str(c)]) for i, c in enumerate(columns) if str(c) in CHECKS]
    check_row = checks.of_table.get(table.name)
    good_types: set[tuple[type, ...]] = set()
    for row in rows:
        types = tuple(map(type, row))
        if types not in good_types:
            if len(row) != len(columns):
                raise BadInput(
                    f"a row of {table.name} of {say_count(len(row), 'value')}", expected=f"{len(columns)}", fix=_FIX
                )
            for column, value in zip(columns, row):
                if not column.nullable if value is None else type(value) is not _find_python_type(column):
                    raise _make_value_error(column, value)
            good_types.add(types)
        for i, is_good in value_checks:
            if row[i] is not None and not is_good(row[i]):
                raise _make_value_error(columns[i], row[i])
        texts = [row[i] for i, _ in text_limits if row[i] is not None]
        if not _is_text("".join(texts)):
            raise BadInput(f"{table.name} {str(row[0])[:60]!r}", expected="text of Unicode without NUL", fix=_FIX)
        for i, limit in text_limits:  # SQLite checks no length
            if row[i] is not None and len(row[i]) > limit:
                raise _make_value_error(columns[i], row[i])
        parsed = list(row)
        for i in json_places:
            if row[i] is not None:
                parsed[i] = _parse_json(columns[i], row[i])
        for i, is_good in domain_checks:
            if row[i] is not None and not is_good(parsed[i]):
                raise BadInput(f"{columns[i]} = {str(row[i])[:60]!r}", expected="a value of the domain", fix=_FIX)
        if check_row is not None:
            _check_row(table, check_row, dict(zip(names, parsed)))
        yield row


def _check_row(table: sa.Table, check: Callable[[Mapping[str, Any]], bool], row: Mapping[str, Any]) -> None:
    place = f"{table.name} {next(iter(row.values()))!r}"
    try:
        is_good = check(row)
    except BadInput as e:
        raise BadInput(f"{place}: {e.value}", expected=e.expected, fix=_FIX) from e
    except (TypeError, KeyError, ValueError) as e:  # a part that cannot be made of these fields
        raise BadInput(f"{place}: {str(e)[:60]}", expected="a row of this program", fix=_FIX) from e
    if not is_good:
        raise BadInput(place, expected="a row whose parts fit each other, with the id of its content", fix=_FIX)


@lru_cache(1000)
def _parse_text(text: str) -> Any:
    return json.loads(text)


def _parse_json(column: sa.Column[Any], text: str) -> Any:
    """Return the value of a JSON text. Short texts are mostly those of the rows before."""
    try:
        return _parse_text(text) if len(text) < 200 else json.loads(text)
    except (ValueError, RecursionError) as e:
        raise _make_value_error(column, text) from e


_FIX = "use an archive that was not altered"


def _make_value_error(column: sa.Column[Any], value: Any) -> BadInput:
    if value is None:
        return BadInput(f"{column} without a value", expected="one in every row", fix=_FIX)
    return BadInput(f"{column} = {str(value)[:60]!r}", expected=f"a value of {column.type!r}", fix=_FIX)


def _find_python_type(column: sa.Column[Any]) -> type:
    match column.type:
        case sa.Integer() | sa.Boolean():
            return int
        case sa.Float():
            return float
    return str


def _find_value_check(column: sa.Column[Any]) -> Callable[[Any], bool] | None:
    """Return the check a value must pass beside its Python type."""
    match column.type:
        case sa.Boolean():
            return (0, 1).__contains__
        case Utc():
            return _is_time
        case sa.BigInteger():
            return lambda value: -(2**63) <= value < 2**63
        case sa.Integer():
            return lambda value: -(2**31) <= value < 2**31
        case sa.JSON():
            return None
    return None


def _is_text(value: str) -> bool:
    """Whether both databases can hold a text: no NUL, and no half of a surrogate pair."""
    if value.isascii():
        return "\x00" not in value
    try:
        return b"\x00" not in value.encode()
    except UnicodeEncodeError:
        return False


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).isoformat(" ", "microseconds") == value
    except ValueError:
        return False
