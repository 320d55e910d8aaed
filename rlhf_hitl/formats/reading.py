"""Rows of a source become records; what a reader did not ask for is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.readers.columns import is_model_judge
from rlhf_hitl.formats.record import ImportRating, ImportRecord, ImportVote, SourceRow, count_unread
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

    A reader that waits for rows that belong together has a `finish`, which returns the records of the last ones.
    """
    finish: Callable[[], list[ImportRecord]] = getattr(read_row, "finish", list)
    subset = ""
    for row in islice(rows, limit):
        if row.subset != subset:  # rows of two subsets never belong together
            yield from _name_batch(finish(), subset)
            subset = row.subset
        try:
            records = read_row(row)
        except BadInput as e:
            on_bad(e)
            continue
        count_unread(row)
        if watch is not None:
            watch(row)
        yield from _name_batch([_mark_model_judge(row, record) for record in records], subset)
    yield from _name_batch(finish(), subset)


def _mark_model_judge(row: SourceRow, record: ImportRecord) -> ImportRecord:
    """Return a record whose vote and ratings are those of a judge if a model made them that is known by its name."""
    vote, ratings = record.vote, record.ratings
    if vote is not None and _is_unmarked(vote):
        row.noted[f"votes of a model judge: {vote.rater[:60]}"] += 1
        record = replace(record, vote=replace(vote, judge=True))
    people = [rating for rating in ratings if _is_unmarked(rating)]
    if people:
        for rating in people:
            row.noted[f"ratings of a model judge: {rating.rater[:60]}"] += 1
        record = replace(record, ratings=tuple(replace(r, judge=True) if _is_unmarked(r) else r for r in ratings))
    return record


def _is_unmarked(said: ImportVote | ImportRating) -> bool:
    return not said.simulated and not said.judge and is_model_judge(said.rater)


def _name_batch(records: list[ImportRecord], subset: str) -> Iterator[ImportRecord]:
    for record in records:
        yield replace(record, batch=subset) if subset and not record.batch else record
