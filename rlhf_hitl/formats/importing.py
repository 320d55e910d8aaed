"""Import a file of any known format into the store: all of it or, if a line is bad, nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import resources
from itertools import count, islice
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection
from tqdm import tqdm

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import PairSelection, open_source
from rlhf_hitl.formats.record import ImportCompletion, ImportRecord
from rlhf_hitl.formats.source import BadRowHandler, RowSource, raise_bad_row
from rlhf_hitl.store import Store, people, projects, table_copy
from rlhf_hitl.store.comparisons import (
    find_existing_ids,
    insert_comparisons,
    insert_completions,
    insert_prompts,
    read_family_splits,
)
from rlhf_hitl.store.judgments import insert_imported_judgments, load_idempotency_keys
from rlhf_hitl.store.known_names import KnownNames
from rlhf_hitl.types import DEFAULT_PROJECT, Answer, Comparison, Completion, Messages, Prompt, Split, make_content_id
from rlhf_hitl.types.names import check_label

RECORDS_PER_BATCH = 1000
QUOTED_ERRORS = 5  # how many errors of skipped lines are reported
MAX_NAME_LENGTH = 150  # of raters; with the format's name as a prefix it fits the store's column
MAX_POLICY_LENGTH = 500
MAX_BATCH_LENGTH = 200


@dataclass(frozen=True)
class ImportReport:
    """The result of an import. The first block counts what is new in the store."""

    path: str
    format: str
    prompts: int
    completions: int
    comparisons: int
    judgments: int
    raters: int
    by_split: dict[str, int]  # new prompts
    rows: int  # records read, one for each vote
    repeated_rows: int  # rows that added nothing new
    repeated_votes: int  # a rater's second, different vote on a comparison; the first is kept
    identical_sides: int  # dropped, because they cannot be ranked
    bad_lines: int  # skipped on request
    bad_reasons: tuple[str, ...] = ()
    splits_kept: int = 0  # prompt families that were in another split already and stayed in it

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
    progress: bool = False,
) -> ImportReport:
    """Import a file, folder or hub id in one transaction. Importing it again adds nothing.

    Args:
        split: put every prompt in this split, instead of the file's own or that of the prompt's hash.
        overlap: judgments wanted for comparisons without votes, and with `queue` for all comparisons.
        queue: also ask raters about comparisons that come with votes.
        limit: the most rows to read.
        pairs: which completions of a prompt are compared if they come without votes.
        project: the project of the comparisons.
        batch: a name for them within the project, so that raters can be given just those; by default the batch that the
            file names (the subset of a benchmark).
        progress: draw a bar on stderr.

    Raises:
        BadInput: there is nothing, the format is unknown, there is no usable row, or (without `skip_bad`) a line is
            bad. Then nothing is imported.
        NotFound: there is no such project.
    """
    _check_length("batch", batch, MAX_BATCH_LENGTH)
    batch = check_label("batch", batch)
    source, file_format = open_source(path, format)
    quoted_errors: list[str] = []
    bad_lines = 0

    def count_bad_line(error: BadInput) -> None:
        nonlocal bad_lines
        bad_lines += 1
        if len(quoted_errors) < QUOTED_ERRORS:
            quoted_errors.append(str(error))

    on_bad: BadRowHandler = count_bad_line if skip_bad else raise_bad_row
    records = _read_records(source, file_format.make_reader(source, pairs), on_bad, limit)
    with store.write() as conn, tqdm(records, desc=source.path.name, unit=" rows", disable=not progress) as bar:
        projects.require_project(conn, project)
        table_copy.prepare_bulk_write(store, conn)
        name = f"{file_format.NAME}:{source.path.name}"[:200]
        importer = _BatchImporter(
            store, conn, file_format.NAME, name, split, overlap, queue, project, batch, KnownNames(conn)
        )
        prepared = importer.prepare_records(bar, on_bad)
        for n in count(1):
            if not (batch_records := list(islice(prepared, RECORDS_PER_BATCH))):
                break
            importer.add_records(batch_records)
            if n & (n - 1) == 0:  # whenever the tables have doubled
                table_copy.update_statistics(store, conn)
        if not importer.counts["rows"]:
            raise BadInput(
                source.name,
                expected="at least one row that can be used",
                fix=f"look at the file; {quoted_errors[0]}" if quoted_errors else "the file has none: give another",
            )
    counts = importer.counts
    return ImportReport(
        path=source.name,
        format=file_format.NAME,
        **{k: counts[k] for k in ("prompts", "completions", "comparisons", "judgments", "raters", "rows")},
        **{k: counts[k] for k in ("repeated_rows", "repeated_votes", "identical_sides")},
        by_split={s.value: counts[s] for s in Split},
        bad_lines=bad_lines,
        bad_reasons=tuple(quoted_errors),
        splits_kept=len(importer.splits_kept),
    )


def import_bundled(store: Store) -> ImportReport:
    """Import the prompts and completions that come with the package."""
    with resources.as_file(resources.files("rlhf_hitl.bundled") / "set.jsonl") as path:
        return import_path(store, path, format="native")


def _read_records(
    source: RowSource, read_row: Callable, on_bad: BadRowHandler, limit: int | None
) -> Iterator[ImportRecord]:
    for row in islice(source.rows(on_bad), limit):
        try:
            yield from read_row(row)
        except BadInput as e:
            on_bad(e)


@dataclass(frozen=True)
class _StoreVote:
    """A vote with the store's ids. Its idempotency key is the hash of its content, so reading it again adds nothing."""

    rater: str
    answer: Answer
    order_shown: tuple[str, ...]
    simulated: bool
    key: str


@dataclass(frozen=True)
class _StoreRecord:
    """A record as domain objects. `comparison` is None if there are fewer than two completions."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    comparison: Comparison | None
    vote: _StoreVote | None
    requested_split: Split | None


@dataclass
class _BatchImporter:
    """Adds records in batches within one transaction, and counts what was added."""

    store: Store
    conn: Connection
    format: str
    source: str
    split: Split | None
    overlap: int
    queue: bool
    project: str
    batch: str
    known_names: KnownNames
    counts: Counter = field(default_factory=Counter)
    splits_kept: set[str] = field(default_factory=set)

    def prepare_records(self, records: Iterable[ImportRecord], on_bad: BadRowHandler) -> Iterator[_StoreRecord]:
        """Yield the records as domain objects; `on_bad` is called for those that cannot be stored."""
        make_objects = lru_cache(RECORDS_PER_BATCH)(self._make_objects)  # the votes on a comparison are mostly adjacent
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
                    record.prompt, tuple(record.tags.items()), record.completions, requested_split, overlap, batch
                )
                yield _StoreRecord(*objects, self._make_vote(record, *objects), requested_split)
            except BadInput as e:
                on_bad(BadInput(f"{record.place}: {e.value}", expected=e.expected, fix=e.fix))
            except UnicodeEncodeError as e:
                # Half of a surrogate pair, which JSON can hold but UTF-8 cannot.
                on_bad(BadInput(f"{record.place}: {e.object[:60]!r}", expected="valid Unicode", fix="correct the line"))

    def _make_objects(
        self,
        chat: Messages,
        tags: tuple[tuple[str, str], ...],
        import_completions: tuple[ImportCompletion, ...],
        requested_split: Split | None,
        overlap: int,
        batch: str,
    ) -> tuple[Prompt, tuple[Completion, ...], Comparison | None]:
        "".join(text for tag in tags for text in tag).encode()
        _check_length("batch", batch, MAX_BATCH_LENGTH)
        batch = check_label("batch", batch)
        prompt = Prompt.create(chat, dict(tags), requested_split)
        for completion in import_completions:
            _check_length("policy", completion.policy, MAX_POLICY_LENGTH)
        completions = tuple(Completion.create(prompt.id, c.messages, c.policy, c.sampling) for c in import_completions)
        for completion in completions:
            self.known_names.check_policy(completion.policy)
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
    ) -> _StoreVote | None:
        vote = record.vote
        if vote is None or comparison is None:
            return None
        _check_length("rater", vote.rater, MAX_NAME_LENGTH)
        check_label("rater", vote.rater)
        # The ranking is of ids and not of positions, so that the same comparison in the other order is the same one.
        # Ties are sorted, so that each has one form.
        ranking = tuple(tuple(sorted(completions[i].id for i in group)) for group in vote.ranking)
        answer = Answer(vote.verdict, ranking, vote.strength, rationale=vote.rationale)
        content = (vote.verdict.value, ranking, vote.strength, vote.rationale)
        key = make_content_id("v", self.format, vote.rater, comparison.id, content)
        order = tuple(c.id for c in completions) if record.order_known else ()
        return _StoreVote(vote.rater, answer, order, vote.simulated, key)

    def add_records(self, batch: list[_StoreRecord]) -> None:
        existing = find_existing_ids(self.conn, "prompts", {p.prompt.id for p in batch})
        new_prompts = {p.prompt.id: p.prompt.family for p in batch if p.prompt.id not in existing}
        completions = {c.id: c for p in batch for c in p.completions}
        comparisons = {p.comparison.id: p.comparison for p in batch if p.comparison is not None}
        self.counts["prompts"] += len(new_prompts)
        self.counts["completions"] += len(completions) - len(find_existing_ids(self.conn, "completions", completions))
        existing |= find_existing_ids(self.conn, "comparisons", comparisons)

        without_comparison = [p for p in batch if p.comparison is None]
        insert_prompts(
            self.store, self.conn, list({p.prompt.id: p.prompt for p in without_comparison}.values()), self.source
        )
        insert_completions(
            self.store, self.conn, list({c.id: c for p in without_comparison for c in p.completions}.values())
        )
        added = insert_comparisons(self.store, self.conn, list(comparisons.values()), self.source)
        self.counts["comparisons"] += added

        splits = read_family_splits(self.conn, {p.prompt.family for p in batch})
        self.counts.update(splits[family].value for family in new_prompts.values())
        requested_splits = {p.prompt.family: p.requested_split for p in batch if p.requested_split is not None}
        self.splits_kept |= {family for family, split in requested_splits.items() if splits[family] is not split}
        self._add_votes([(p.comparison.id, p.vote) for p in batch if p.comparison is not None and p.vote is not None])
        for p in batch:
            if p.vote is None:
                added_id = p.comparison.id if p.comparison is not None else p.prompt.id
                self.counts["repeated_rows"] += added_id in existing
                existing.add(added_id)

    def _add_votes(self, votes: list[tuple[str, _StoreVote]]) -> None:
        raters, new = people.insert_imported_raters(self.store, self.conn, {v.rater for _, v in votes}, self.format)
        self.counts["raters"] += new
        first_keys = load_idempotency_keys(self.store, self.conn, [comparison_id for comparison_id, _ in votes])
        rows = []
        for comparison_id, vote in votes:
            rater_id = raters[vote.rater]
            kept_key = first_keys.get((comparison_id, rater_id))
            if kept_key is None:
                first_keys[comparison_id, rater_id] = vote.key
                rows.append(
                    {
                        "comparison_id": comparison_id,
                        "rater_id": rater_id,
                        "answer": vote.answer,
                        "order_shown": vote.order_shown,
                        "source": self.source,
                        "idempotency_key": vote.key,
                        "simulated": vote.simulated,
                    }
                )
            else:
                self.counts["repeated_rows" if kept_key == vote.key else "repeated_votes"] += 1
        self.counts["judgments"] += insert_imported_judgments(self.store, self.conn, rows)


def _check_length(field_name: str, value: str, limit: int) -> None:
    if len(value) > limit:
        raise BadInput(f"{field_name} {value[:60]!r}…", expected=f"{limit} letters or fewer", fix="shorten the name")
