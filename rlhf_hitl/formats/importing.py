"""Any known format into the store: all of a file or, where a line is bad, nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import resources
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

from sqlalchemy.engine import Connection
from tqdm import tqdm

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import open_source
from rlhf_hitl.formats.record import ImportCompletion, ImportRecord
from rlhf_hitl.formats.source import BadRowHandler, Source, raise_bad_row
from rlhf_hitl.store import Store, people, projects, table_copy
from rlhf_hitl.store.comparisons import (
    find_existing_ids,
    insert_comparisons,
    insert_completions,
    insert_prompts,
    read_family_splits,
)
from rlhf_hitl.store.judgments import idempotency_keys, insert_imported_judgments
from rlhf_hitl.types import DEFAULT_PROJECT, Answer, Comparison, Completion, Messages, Prompt, Split, make_content_id

BATCH = 1000
REASONS = 5  # how many skipped lines are quoted
NAME_LENGTH = 150  # of raters; with the format's name in front they fit the store's column
POLICY_LENGTH = 500
BATCH_LENGTH = 200

PairSelection = Literal["all", "adjacent"]


@dataclass(frozen=True)
class ImportReport:
    """What an import did. The first block counts what is new in the store."""

    path: str
    format: str
    prompts: int
    completions: int
    comparisons: int
    judgments: int
    raters: int
    by_split: dict[str, int]  # new prompts
    rows: int  # comparisons read, one a vote
    repeated_rows: int  # said nothing that was not known
    repeated_votes: int  # a rater's second, different vote on a comparison: the first is kept
    identical_sides: int  # dropped: they cannot be ranked
    bad_lines: int  # skipped, as was asked
    bad_reasons: tuple[str, ...] = ()
    splits_kept: int = 0  # prompt families that were in another split already and stayed there

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
        split: pin every prompt to this split, instead of the file's own or the prompt's hash.
        overlap: judgments wanted of comparisons that come without votes, and with `queue` of all.
        queue: ask raters also about comparisons that come with votes.
        limit: read this many rows only.
        pairs: which completions of a prompt are compared where nobody has judged them.
        project: where the comparisons belong; `batch` names them within it, so that raters can be given just those.
            Without it, they are in the batch that the file itself names (the subset of a benchmark).
        progress: draw a bar on stderr.

    Raises:
        BadInput: nothing there, an unknown format, no row at all, or (without `skip_bad`) a bad line: then nothing
            is imported.
        NotFound: no such project.
    """
    _check_length("batch", batch, BATCH_LENGTH)
    source, found = open_source(path, format)
    bad: list[str] = []
    bad_lines = 0

    def skip(error: BadInput) -> None:
        nonlocal bad_lines
        bad_lines += 1
        if len(bad) < REASONS:
            bad.append(str(error))

    on_bad: BadRowHandler = skip if skip_bad else raise_bad_row
    records = _records(source, found.reader(source, pairs), on_bad, limit)
    with store.write() as conn, tqdm(records, desc=source.path.name, unit=" rows", disable=not progress) as bar:
        projects.require_project(conn, project)
        table_copy.prepare_bulk_write(store, conn)
        name = f"{found.NAME}:{source.path.name}"[:200]
        batches = _Batches(store, conn, found.NAME, name, split, overlap, queue, project, batch)
        prepared = batches.prepared(bar, on_bad)
        for n in count(1):
            if not (some := list(islice(prepared, BATCH))):
                break
            batches.add(some)
            if n & (n - 1) == 0:  # each time the tables have doubled
                table_copy.update_statistics(store, conn)
        if not batches.counts["rows"]:
            raise BadInput(
                source.name,
                expected="at least one row that can be used",
                fix=f"look at the file; {bad[0]}" if bad else "the file has none: give another",
            )
    counts = batches.counts
    return ImportReport(
        path=source.name,
        format=found.NAME,
        **{k: counts[k] for k in ("prompts", "completions", "comparisons", "judgments", "raters", "rows")},
        **{k: counts[k] for k in ("repeated_rows", "repeated_votes", "identical_sides")},
        by_split={s.value: counts[s] for s in Split},
        bad_lines=bad_lines,
        bad_reasons=tuple(bad),
        splits_kept=len(batches.splits_kept),
    )


def import_bundled(store: Store) -> ImportReport:
    """Import the prompts and completions that come with the package."""
    with resources.as_file(resources.files("rlhf_hitl.bundled") / "set.jsonl") as path:
        return import_path(store, path, format="native")


def _records(source: Source, read: Callable, on_bad: BadRowHandler, limit: int | None) -> Iterator[ImportRecord]:
    for row in islice(source.rows(on_bad), limit):
        try:
            yield from read(row)
        except BadInput as e:
            on_bad(e)


@dataclass(frozen=True)
class _Vote:
    """A vote in the store's nouns. Its key is its content: the same vote read again has the same key."""

    rater: str
    answer: Answer
    order_shown: tuple[str, ...]
    simulated: bool
    key: str


@dataclass(frozen=True)
class _Prepared:
    """A record in the store's nouns. `comparison` is None where there are too few completions for one."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    comparison: Comparison | None
    vote: _Vote | None
    asked_split: Split | None


@dataclass
class _Batches:
    """Adds records batch by batch within one transaction and keeps count."""

    store: Store
    conn: Connection
    format: str
    source: str
    split: Split | None
    overlap: int
    queue: bool
    project: str
    batch: str
    counts: Counter = field(default_factory=Counter)
    splits_kept: set[str] = field(default_factory=set)

    def prepared(self, records: Iterable[ImportRecord], on_bad: BadRowHandler) -> Iterator[_Prepared]:
        nouns = lru_cache(BATCH)(self._nouns)  # the votes on a comparison mostly stand together
        for record in records:
            self.counts["rows"] += 1
            if len({c.messages for c in record.completions}) < len(record.completions):
                self.counts["identical_sides"] += 1
                continue
            try:
                asked = self.split or record.split
                overlap = self.overlap if record.vote is None or self.queue else 0
                batch = self.batch or record.batch
                found = nouns(record.prompt, tuple(record.tags.items()), record.completions, asked, overlap, batch)
                yield _Prepared(*found, self._vote(record, *found), asked)
            except BadInput as e:
                on_bad(BadInput(f"{record.place}: {e.value}", expected=e.expected, fix=e.fix))
            except UnicodeEncodeError as e:
                # Half of a surrogate pair: JSON can spell it, but it is no text.
                on_bad(BadInput(f"{record.place}: {e.object[:60]!r}", expected="valid Unicode", fix="mend the line"))

    def _nouns(
        self,
        chat: Messages,
        tags: tuple[tuple[str, str], ...],
        sides: tuple[ImportCompletion, ...],
        asked: Split | None,
        overlap: int,
        batch: str,
    ) -> tuple[Prompt, tuple[Completion, ...], Comparison | None]:
        "".join(text for tag in tags for text in tag).encode()
        _check_length("batch", batch, BATCH_LENGTH)
        prompt = Prompt.create(chat, dict(tags), asked)
        for side in sides:
            _check_length("policy", side.policy, POLICY_LENGTH)
        completions = tuple(Completion.create(prompt.id, c.messages, c.policy, c.sampling) for c in sides)
        if len(completions) < 2:
            return prompt, completions, None
        return (
            prompt,
            completions,
            Comparison.create(prompt, completions, overlap, project=self.project, batch=batch),
        )

    def _vote(
        self, record: ImportRecord, _: Prompt, completions: tuple[Completion, ...], comparison: Comparison | None
    ) -> _Vote | None:
        vote = record.vote
        if vote is None or comparison is None:
            return None
        _check_length("rater", vote.rater, NAME_LENGTH)
        # Ids, not the file's order: a comparison that is met again the other way round is the same one. Ties are
        # sorted so that they too have one spelling.
        ranking = tuple(tuple(sorted(completions[i].id for i in group)) for group in vote.ranking)
        answer = Answer(vote.verdict, ranking, vote.strength, rationale=vote.rationale)
        said = (vote.verdict.value, ranking, vote.strength, vote.rationale)
        key = make_content_id("v", self.format, vote.rater, comparison.id, said)
        order = tuple(c.id for c in completions) if record.order_known else ()
        return _Vote(vote.rater, answer, order, vote.simulated, key)

    def add(self, batch: list[_Prepared]) -> None:
        known = find_existing_ids(self.conn, "prompts", {p.prompt.id for p in batch})
        new_prompts = {p.prompt.id: p.prompt.family for p in batch if p.prompt.id not in known}
        completions = {c.id: c for p in batch for c in p.completions}
        comparisons = {p.comparison.id: p.comparison for p in batch if p.comparison is not None}
        self.counts["prompts"] += len(new_prompts)
        self.counts["completions"] += len(completions) - len(find_existing_ids(self.conn, "completions", completions))
        known |= find_existing_ids(self.conn, "comparisons", comparisons)

        alone = [p for p in batch if p.comparison is None]
        insert_prompts(self.store, self.conn, list({p.prompt.id: p.prompt for p in alone}.values()), self.source)
        insert_completions(self.store, self.conn, list({c.id: c for p in alone for c in p.completions}.values()))
        added = insert_comparisons(self.store, self.conn, list(comparisons.values()), self.source)
        self.counts["comparisons"] += added

        splits = read_family_splits(self.conn, {p.prompt.family for p in batch})
        self.counts.update(splits[family].value for family in new_prompts.values())
        asked = {p.prompt.family: p.asked_split for p in batch if p.asked_split is not None}
        self.splits_kept |= {family for family, split in asked.items() if splits[family] is not split}
        self._add_votes([(p.comparison.id, p.vote) for p in batch if p.comparison is not None and p.vote is not None])
        for p in batch:
            if p.vote is None:
                told = p.comparison.id if p.comparison is not None else p.prompt.id
                self.counts["repeated_rows"] += told in known
                known.add(told)

    def _add_votes(self, votes: list[tuple[str, _Vote]]) -> None:
        raters, new = people.insert_imported_raters(self.store, self.conn, {v.rater for _, v in votes}, self.format)
        self.counts["raters"] += new
        first = idempotency_keys(self.store, self.conn, [comparison_id for comparison_id, _ in votes])
        rows = []
        for comparison_id, vote in votes:
            rater_id = raters[vote.rater]
            kept = first.get((comparison_id, rater_id))
            if kept is None:
                first[comparison_id, rater_id] = vote.key
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
                self.counts["repeated_rows" if kept == vote.key else "repeated_votes"] += 1
        self.counts["judgments"] += insert_imported_judgments(self.store, self.conn, rows)


def _check_length(what: str, name: str, most: int) -> None:
    if len(name) > most:
        raise BadInput(f"{what} {name[:60]!r}…", expected=f"{most} letters or fewer", fix="shorten the name")
