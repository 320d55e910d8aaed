"""Rows of a source become records; what a reader did not ask for is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.record import ImportRecord, SourceRow, count_unread_columns
from rlhf_hitl.formats.source import BadRowHandler

ReadRow = Callable[[SourceRow], list[ImportRecord]]


def read_records(
    rows: Iterable[SourceRow],
    read_row: ReadRow,
    on_bad: BadRowHandler,
    limit: int | None = None,
    watch: Callable[[SourceRow], None] | None = None,
) -> Iterator[ImportRecord]:
    """Yield the records of rows. A record without a batch of its own is of its row's subset.

    Args:
        on_bad: called for a row that cannot be read; it raises, or the row is left out.
        limit: the most rows to read.
        watch: called with each row that was read.
    """
    for row in islice(rows, limit):
        try:
            records = read_row(row)
        except BadInput as e:
            on_bad(e)
            continue
        count_unread_columns(row)
        if watch is not None:
            watch(row)
        for record in records:
            yield replace(record, batch=row.subset) if row.subset and not record.batch else record
    if finish := getattr(read_row, "finish", None):  # of a reader that waits for rows that belong together
        yield from finish()
