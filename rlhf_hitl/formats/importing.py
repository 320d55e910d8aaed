"""Import a file of any known format into the store: all of it or, if a line is bad, nothing."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import PairSelection, open_source
from rlhf_hitl.formats.column_map import NO_MAP, ColumnMap
from rlhf_hitl.formats.occurrences import OccurrenceCounter
from rlhf_hitl.formats.reading import read_records
from rlhf_hitl.formats.record import UNNAMED, ImportCompletion, ImportRating, ImportRecord
from rlhf_hitl.formats.source import BadRowHandler, raise_bad_row
from rlhf_hitl.store import Store, StoreFailure
from rlhf_hitl.store.images import ImageFolder
from rlhf_hitl.store.imports import (
    ImportStaging,
    StagedRating,
    StagedRecord,
    StagedVote,
    finish_import,
    finish_waiting_imports,
    open_own_store,
)
from rlhf_hitl.store.known_names import KnownNames
from rlhf_hitl.types import (
    DEFAULT_PROJECT,
    Answer,
    Comparison,
    Completion,
    Messages,
    Prompt,
    Split,
    Tools,
    make_content_id,
)
from rlhf_hitl.types.content import refuse_nul
from rlhf_hitl.types.messages import list_images
from rlhf_hitl.types.names import check_label

RECORDS_REMEMBERED = 1000
RECORDS_PER_TURN = 16  # reading so many takes about a millisecond
QUOTED_ERRORS = 5  # how many errors of skipped lines are reported
MAX_NAME_LENGTH = 150  # of raters; with the format's name as a prefix it fits the store's column
MAX_POLICY_LENGTH = 500
MAX_BATCH_LENGTH = 200
MAX_AXIS_LENGTH = 80
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
    _check_length("batch", batch, MAX_BATCH_LENGTH)
    batch = check_label("batch", batch)
    if not 1 <= overlap <= MAX_OVERLAP:
        raise BadInput(f"overlap {overlap}", expected=f"1 to {MAX_OVERLAP}", fix="ask for fewer judgments")
    source, file_format = open_source(path, format, column_map)
    finish_waiting_imports(store)
    bad = BadLines(skip_bad)
    records = read_records(source, file_format.make_reader(source, pairs), bad.handle, limit)
    name = f"{file_format.NAME}:{source.path.name}"[:200].encode(errors="replace").decode()
    with open_own_store(store) as own:
        with (
            ImportStaging(own, name=source.name, format=file_format.NAME, source=name, project=project) as staging,
            tqdm(records, desc=source.path.name, unit=" rows", disable=None if progress else True) as bar,
            OccurrenceCounter() as occurrences,
        ):
            known = KnownNames(partial(_read_column, own))
            reader = RecordChecker(
                file_format.NAME, known, split=split, overlap=overlap, queue=queue, project=project, batch=batch,
                occurrences=occurrences, images=own.images,
            )  # fmt: skip
            is_in_server = threading.current_thread() is not threading.main_thread()
            for n, record in enumerate(reader.read(bar, bad.handle)):
                staging.add(record)
                if is_in_server and n % RECORDS_PER_TURN == 0:
                    time.sleep(0)  # other threads wait for Python's lock: this hands it over
            if not reader.counts["rows"]:
                raise BadInput(
                    source.name,
                    expected="at least one row that can be used",
                    fix=f"look at the file; {bad.quoted[0]}" if bad.quoted else "the file has none: give another",
                )
            staging.commit(reader.counts)
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
        unread=dict(source.unread.most_common()),
        noted=dict(source.noted.most_common()),
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


@dataclass
class RecordChecker:
    """Makes domain objects of records, which the store can hold, and counts the records.

    Args:
        format: the name of the file's format; raters of two formats are different ones.
        known_names: of batches and policies, which must not look like others.
        split, overlap, queue, project, batch: as for `import_path`.
        occurrences: counts the votes without a rater's name.
        images: where images are kept; None keeps none.
    """

    format: str
    known_names: KnownNames
    occurrences: OccurrenceCounter
    images: ImageFolder | None = None
    split: Split | None = None
    overlap: int = 1
    queue: bool = False
    project: str = DEFAULT_PROJECT
    batch: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def read(self, records: Iterable[ImportRecord], on_bad: BadRowHandler) -> Iterator[StagedRecord]:
        """Yield the records; `on_bad` is called for those that cannot be stored."""
        # The votes on a comparison are mostly adjacent.
        make_objects = lru_cache(RECORDS_REMEMBERED)(self._make_objects)
        for record in records:
            self.counts["rows"] += 1
            if len({c.messages for c in record.completions}) < len(record.completions):
                self.counts["identical_sides"] += 1
                continue
            try:
                requested_split = self.split or record.split
                overlap = self.overlap if record.vote is None or self.queue else 0
                batch = self.batch or record.batch
                objects = make_objects(
                    record.prompt,
                    record.tools,
                    tuple(record.tags.items()),
                    record.completions,
                    requested_split,
                    overlap,
                    batch,
                )
                ratings = tuple(self._make_rating(rating, objects[1]) for rating in record.ratings)
                yield StagedRecord(*objects, self._make_vote(record, *objects), requested_split, ratings)
            except BadInput as e:
                on_bad(BadInput(f"{record.place}: {e.value}", expected=e.expected, fix=e.fix))
            except UnicodeEncodeError as e:
                # Half of a surrogate pair, which JSON can hold but UTF-8 cannot.
                on_bad(BadInput(f"{record.place}: {e.object[:60]!r}", expected="valid Unicode", fix="correct the line"))

    def _make_objects(
        self,
        chat: Messages,
        tools: Tools,
        tags: tuple[tuple[str, str], ...],
        import_completions: tuple[ImportCompletion, ...],
        requested_split: Split | None,
        overlap: int,
        batch: str,
    ) -> tuple[Prompt, tuple[Completion, ...], Comparison | None]:
        "".join(text for tag in tags for text in tag).encode()
        _check_length("batch", batch, MAX_BATCH_LENGTH)
        batch = check_label("batch", batch)
        prompt = Prompt.create(chat, dict(tags), requested_split, tools)
        for completion in import_completions:
            _check_length("policy", completion.policy, MAX_POLICY_LENGTH)
            _check_sampling(completion)
        completions = tuple(Completion.create(prompt.id, c.messages, c.policy, c.sampling) for c in import_completions)
        for completion in completions:
            self.known_names.check_policy(completion.policy)
        if self.images is not None:
            for image in list_images(chat, *(c.messages for c in completions)):
                self.images.save(image)
        if len(completions) < 2:
            return prompt, completions, None
        self.known_names.check_batch(self.project, batch)
        return (
            prompt,
            completions,
            Comparison.create(prompt, completions, overlap, project=self.project, batch=batch),
        )

    def _make_vote(
        self, record: ImportRecord, _: Prompt, completions: tuple[Completion, ...], comparison: Comparison | None
    ) -> StagedVote | None:
        vote = record.vote
        if vote is None or comparison is None:
            return None
        _check_length("rater", vote.rater, MAX_NAME_LENGTH)
        check_label("rater", vote.rater)
        refuse_nul("rationale", vote.rationale)
        for axis in vote.scores:
            _check_length("axis", axis, MAX_AXIS_LENGTH)
            check_label("axis", axis)
        # The ranking is of ids and not of positions, so that the same comparison in the other order is the same one.
        # Ties are sorted, so that each has one form.
        ranking = tuple(tuple(sorted(completions[i].id for i in group)) for group in vote.ranking)
        scores = {axis: {completions[i].id: n for i, n in of_axis.items()} for axis, of_axis in vote.scores.items()}
        answer = Answer(vote.verdict, ranking, vote.strength, scores, vote.rationale)
        content: tuple[object, ...] = (vote.verdict.value, ranking, vote.strength, vote.rationale)
        content += (scores,) if scores else ()
        key = make_content_id("v", self.format, vote.rater, comparison.id, content)
        if vote.rater == UNNAMED and (n := self.occurrences.count(key.encode())) > 1:
            key = make_content_id("v", self.format, f"{UNNAMED} {n}", comparison.id, content)
        order = tuple(c.id for c in completions) if record.order_known else ()
        return StagedVote(vote.rater, answer, order, vote.simulated, key, vote.judged_at)

    def _make_rating(self, rating: ImportRating, completions: tuple[Completion, ...]) -> StagedRating:
        _check_length("rater", rating.rater, MAX_NAME_LENGTH)
        _check_length("axis", rating.axis, MAX_AXIS_LENGTH)
        check_label("rater", rating.rater)
        check_label("axis", rating.axis)
        refuse_nul("rationale", rating.rationale)
        if not all(math.isfinite(n) for n in (rating.value, rating.lowest, rating.highest) if n is not None):
            raise BadInput(f"rating {rating.value}", expected="a number", fix="correct it, or leave it out")
        completion_id = completions[rating.completion].id
        scale = rating.lowest, rating.highest
        content = (completion_id, rating.axis, rating.value, *scale, rating.rationale)
        return StagedRating(
            make_content_id("r", self.format, rating.rater, *content),
            completion_id,
            rating.rater,
            rating.axis,
            rating.value,
            *scale,
            rating.rationale,
            rating.simulated,
            rating.judged_at,
        )


def _check_sampling(completion: ImportCompletion) -> None:
    try:
        json.dumps(dict(completion.sampling), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as e:
        raise BadInput(
            f"sampling of policy {completion.policy!r}",
            expected="settings that JSON can hold: no NaN, no infinity, not nested too deeply",
            fix=f"correct it ({e})",
        ) from e


def _check_length(field_name: str, value: str, limit: int) -> None:
    if len(value) > limit:
        raise BadInput(f"{field_name} {value[:60]!r}…", expected=f"{limit} letters or fewer", fix="shorten the name")
