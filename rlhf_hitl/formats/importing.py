"""Import a file of any known format into the store: all of it or, if a line is bad, nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import PairSelection, open_source
from rlhf_hitl.formats.chunk_reading import ChunkedReading, ReadingPlan, choose_workers, collect_seldom
from rlhf_hitl.formats.column_map import NO_MAP, ColumnMap
from rlhf_hitl.formats.occurrences import OccurrenceCounter
from rlhf_hitl.formats.reading import read_records
from rlhf_hitl.formats.record import sort_counts
from rlhf_hitl.formats.record_checker import MAX_BATCH_LENGTH, RecordChecker, check_length
from rlhf_hitl.formats.source import raise_bad_row
from rlhf_hitl.store import Store, StoreFailure
from rlhf_hitl.store.imports import (
    ImportStaging,
    finish_import,
    finish_waiting_imports,
    open_own_store,
)
from rlhf_hitl.store.known_names import KnownNames
from rlhf_hitl.types import (
    DEFAULT_PROJECT,
    Split,
)
from rlhf_hitl.types.names import check_label

RECORDS_PER_TURN = 16  # reading so many takes about a millisecond
QUOTED_ERRORS = 5  # how many errors of skipped lines are reported
MAX_OVERLAP = 1000
HOW_IT_GOES_ON = "the next `rlhf-hitl import` or `export`, or a running server within a minute, goes on with it"


@dataclass(frozen=True)
class ImportReport:
    """The result of an import. The first block counts what is new in the store."""

    path: str
    format: str
    prompts: int
    completions: int
    comparisons: int
    judgments: int
    ratings: int  # of single completions
    images: int
    raters: int
    by_split: dict[str, int]  # new prompts
    rows: int  # records read, one for each vote
    repeated_rows: int  # rows that added nothing new
    repeated_votes: int  # a rater's second, different vote on a comparison; the first is kept
    identical_sides: int  # dropped, because they cannot be ranked
    bad_lines: int  # skipped on request
    bad_reasons: tuple[str, ...] = ()
    splits_kept: int = 0  # prompt families that were in another split already and stayed in it
    unread: dict[str, int] = field(default_factory=dict)  # what is in the file and was not read, as "column language"
    noted: dict[str, int] = field(default_factory=dict)  # what readers decided, as "ties, for both ratings are equal"
    longest_write_ms: float = 0.0  # for how long raters could have had to wait, at most

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def import_path(
    store: Store,
    path: str | Path,
    *,
    format: str = "auto",
    skip_bad: bool = False,
    split: Split | None = None,
    overlap: int = 1,
    queue: bool = False,
    limit: int | None = None,
    pairs: PairSelection = "adjacent",
    project: str = DEFAULT_PROJECT,
    batch: str = "",
    column_map: ColumnMap = NO_MAP,
    progress: bool = False,
) -> ImportReport:
    """Import a file, folder or hub id: all of it or, if a line is bad, nothing. Importing it again adds nothing.

    It is read and checked as a whole before the first row counts, and then put into the store in short transactions,
    so that raters do not have to wait (`store/imports`). An import that is interrupted meanwhile is finished by the
    next command that imports or exports, or by a server.

    Args:
        split: put every prompt in this split, instead of the file's own or that of the prompt's hash.
        overlap: judgments wanted for comparisons without votes, and with `queue` for all comparisons.
        queue: also ask raters about comparisons that come with votes.
        limit: the most rows to read.
        pairs: which completions of a prompt are compared if they come without votes.
        project: the project of the comparisons.
        batch: a name for them within the project, so that raters can be given just those; by default the batch that the
            file names (the subset of a benchmark) or the folder within a set that it lies in.
        column_map: columns that are renamed before the format is looked for.
        progress: draw a bar on stderr.

    Raises:
        BadInput: there is nothing, the format is unknown, there is no usable row, or (without `skip_bad`) a line is
            bad. Then nothing is imported.
        NotFound: there is no such project.
    """
    check_length("batch", batch, MAX_BATCH_LENGTH)
    batch = check_label("batch", batch)
    if not 1 <= overlap <= MAX_OVERLAP:
        raise BadInput(f"overlap {overlap}", expected=f"1 to {MAX_OVERLAP}", fix="ask for fewer judgments")
    source, file_format = open_source(path, format, column_map)
    finish_waiting_imports(store)
    bad = BadLines(skip_bad)
    read_row = file_format.make_reader(source, pairs)
    name = f"{file_format.NAME}:{source.path.name}"[:200].encode(errors="replace").decode()
    with open_own_store(store) as own, collect_seldom():
        with (
            ImportStaging(own, name=source.name, format=file_format.NAME, source=name, project=project) as staging,
            tqdm(desc=source.path.name, unit=" rows", disable=None if progress else True) as bar,
            OccurrenceCounter() as occurrences,
        ):
            known, counts = KnownNames(partial(_read_column, own)), Counter[str]()
            is_in_server = threading.current_thread() is not threading.main_thread()
            if source.is_lines and limit is None and not is_in_server and not hasattr(read_row, "finish"):
                plan = ReadingPlan(
                    source.name, column_map, file_format.NAME, pairs, skip_bad, split, overlap, queue, project, batch,
                    own.images.address,
                )  # fmt: skip
                workers = choose_workers(source)
                for chunk in ChunkedReading(plan, source, known, occurrences, bad.handle, workers):
                    for size, payload in chunk.batches:
                        staging.add_packed(size, payload)
                    counts += chunk.counts
                    bar.update(chunk.counts["rows"])
            else:
                checker = RecordChecker(
                    file_format.NAME, known, split=split, overlap=overlap, queue=queue, project=project, batch=batch,
                    occurrences=occurrences, images=own.images, counts=counts, noted=source.noted,
                )  # fmt: skip
                records = read_records(source.rows(bad.handle), read_row, bad.handle, limit)
                for n, record in enumerate(checker.read(records, bad.handle)):
                    staging.add(record)
                    bar.update()
                    if is_in_server and n % RECORDS_PER_TURN == 0:
                        time.sleep(0)  # other threads wait for Python's lock: this hands it over
            if not counts["rows"]:
                raise BadInput(
                    source.name,
                    expected="at least one row that can be used",
                    fix=f"look at the file; {bad.quoted[0]}" if bad.quoted else "the file has none: give another",
                )
            staging.commit(counts)
        with tqdm(
            total=staging.records, desc="into the store", unit=" rows", disable=None if progress else True
        ) as bar:
            try:
                finished = finish_import(own, staging.id, staging.worker, bar.update)
            except StoreFailure as e:  # the disk is full, or the database is gone
                reason = str(e).replace("; nothing was changed", "")  # of this transaction; those before it hold
                raise StoreFailure(f"{reason}. {source.name} is read and kept: {HOW_IT_GOES_ON}") from e
    assert finished is not None
    counts = finished.counts
    return ImportReport(
        path=source.name,
        format=file_format.NAME,
        **{k: counts.get(k, 0) for k in _COUNTED},
        by_split={s.value: counts.get(s.value, 0) for s in Split},
        bad_lines=bad.count,
        bad_reasons=tuple(bad.quoted),
        splits_kept=finished.splits_kept,
        unread=sort_counts(source.unread),
        noted=sort_counts(source.noted),
        longest_write_ms=round(own.longest_write_s * 1000, 1),
    )


_COUNTED = (
    "prompts", "completions", "comparisons", "judgments", "ratings", "images", "raters", "rows", "repeated_rows",
    "repeated_votes", "identical_sides",
)  # fmt: skip


def import_bundled(store: Store) -> ImportReport:
    """Import the prompts and completions that come with the package, and their author's rankings of most of them."""
    with resources.as_file(resources.files("rlhf_hitl.bundled") / "set.jsonl") as path:
        return import_path(store, path, format="native", pairs="all")


def _read_column(store: Store, query: sa.Select[Any]) -> list[str]:
    with store.read() as conn:
        return list(conn.execute(query).scalars())


@dataclass
class BadLines:
    """What to do with bad lines: raise, or count them and quote the first."""

    skip: bool
    count: int = 0
    quoted: list[str] = field(default_factory=list)

    def handle(self, error: BadInput) -> None:
        if not self.skip:
            raise_bad_row(error)
        self.count += 1
        if len(self.quoted) < QUOTED_ERRORS:
            self.quoted.append(str(error))
