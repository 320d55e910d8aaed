"""What an import would read of a file, without a store: the first rows, the columns, the counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_hitl.formats import PairSelection, explain_format, open_source
from rlhf_hitl.formats.column_map import NO_MAP, ColumnMap
from rlhf_hitl.formats.importing import BadLines
from rlhf_hitl.formats.occurrences import OccurrenceCounter
from rlhf_hitl.formats.reading import read_records
from rlhf_hitl.formats.record import ImportRecord, ImportVote, SourceRow, sort_counts
from rlhf_hitl.formats.record_checker import RecordChecker
from rlhf_hitl.store.known_names import KnownNames
from rlhf_hitl.types import Verdict, messages_to_dicts


@dataclass(frozen=True)
class CheckReport:
    """What an import would read. `counts` are of the whole file, `first` are its first records.

    `columns` is column → what it is read as; `unread`, `noted`, `bad_lines` and `bad_reasons` are as in `ImportReport`.
    """

    path: str
    format: str
    reason: str
    columns: dict[str, str]
    unread: dict[str, int]
    noted: dict[str, int]
    counts: dict[str, int]
    bad_lines: int
    bad_reasons: tuple[str, ...]
    first: tuple[ImportRecord, ...]

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"first": [_to_plain(record) for record in self.first]}


def check_path(
    path: str | Path,
    *,
    format: str = "auto",
    column_map: ColumnMap = NO_MAP,
    rows: int = 5,
    limit: int | None = None,
    pairs: PairSelection = "adjacent",
) -> CheckReport:
    """Read a file, folder or hub id as an import would, and keep nothing of it. Bad lines are counted.

    Args:
        rows: how many records are returned.
        limit: the most rows to read.

    Raises:
        BadInput: there is nothing, the format is unknown, or the file as a whole cannot be read.
    """
    source, file_format = open_source(path, format, column_map)
    reason = explain_format(source, file_format) if format == "auto" else f"--format {format}"
    bad, columns, first = BadLines(skip=True), dict[str, str](), list[ImportRecord]()
    counts, raters = Counter[str](), set[str]()

    def watch(row: SourceRow) -> None:
        columns.update((name, meaning) for name, meaning in row.fields.read.items() if name in row.fields)

    with OccurrenceCounter() as occurrences:
        checker = RecordChecker(file_format.NAME, KnownNames(lambda query: ()), occurrences, noted=source.noted)
        read_row = file_format.make_reader(source, pairs)
        records = read_records(source.rows(bad.handle), read_row, bad.handle, limit, watch)

        def keep_first():
            for record in records:
                if len(first) < rows:
                    first.append(record)
                yield record

        for staged in checker.read(keep_first(), bad.handle):
            if (vote := staged.vote) is not None:
                counts["votes"] += 1
                counts["ties"] += len(vote.answer.ranking) == 1
                counts["all bad"] += vote.answer.verdict is Verdict.ALL_BAD
                raters.add(vote.rater)
            counts["ratings"] += len(staged.ratings)
    counts |= Counter(checker.counts) | Counter(raters=len(raters))
    return CheckReport(
        path=source.name,
        format=file_format.NAME,
        reason=reason,
        columns=columns,
        unread=sort_counts(source.unread),
        noted=sort_counts(source.noted),
        counts={name: n for name, n in counts.items() if n},
        bad_lines=bad.count,
        bad_reasons=tuple(bad.quoted),
        first=tuple(first),
    )


def describe_vote(vote: ImportVote | None) -> str:
    """Return what a vote says, in a few words: `A > B`, `A = B`, `all bad`, with its strength."""
    if vote is None:
        return "none"
    if vote.verdict is not Verdict.RANKED:
        return vote.verdict.value.replace("_", " ")
    ranking = " > ".join(" = ".join(name_completion(i) for i in group) for group in vote.ranking)
    return ranking + (f", strength {vote.strength}" if vote.strength else "")


def name_completion(index: int) -> str:
    """Return the letter of a completion, or its number where letters end."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def _to_plain(record: ImportRecord) -> dict[str, Any]:
    vote = record.vote
    return {
        "place": record.place,
        "prompt": messages_to_dicts(record.prompt),
        "tools": [tool.to_plain() for tool in record.tools],
        "completions": [{"policy": c.policy, "messages": messages_to_dicts(c.messages)} for c in record.completions],
        "vote": None if vote is None else vars(vote) | {"verdict": vote.verdict.value, "said": describe_vote(vote)},
        "ratings": [vars(rating) for rating in record.ratings],
        "tags": dict(record.tags),
        "split": None if record.split is None else record.split.value,
        "batch": record.batch,
    }
