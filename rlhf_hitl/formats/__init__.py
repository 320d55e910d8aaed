"""Outside formats: read preferences and guidelines from files, write snapshots and archives.

- in: `importing` reads any format into the store (`chunk_reading` with the help of other processes), `checking` shows
  what it would read. `source` gives the rows of a file, with the columns renamed that the user names (`column_map`),
  and one module of `readers` for each format (`FORMATS`) turns rows into the records of `record`. `reading` counts the
  columns that no reader asked for. `guidance` reads guidelines and tutorials.
- out: `export` writes a snapshot for training or for another tool. `snapshot` reads its rows from the store,
  `snapshot_rows` makes each row, `export_schema` says which columns there are, `export_files` writes them, and
  `dataset_card` says what is in them.
- both: `archive` holds a whole store in one file.

Start with `record` and one small reader, such as `readers/llmbar`. A format's module is imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.column_map import NO_MAP, ColumnMap
from rlhf_hitl.formats.record import NEAR, ImportRecord, SourceRow
from rlhf_hitl.formats.source import RowSource

#: Format → its module, in the order in which they are tried: specific formats before general ones.
FORMATS = {
    name: f"rlhf_hitl.formats.readers.{name}"
    for name in (
        "judgments",
        "argilla",
        "label_studio",
        "oasst",
        "kto",
        "native",
        "helpsteer3",
        "helpsteer2",
        "ultrafeedback",
        "ultrafeedback_binarized",
        "kwise",
        "llmfao",
        "arena",
        "arena55k",
        "mt_bench",
        "llmbar",
        "nectar",
        "shp",
        "several_votes",
        "sharegpt",
        "alpaca",
        "rewardbench2",
        "rewardbench",
        "hh",
        "trl",
    )
}


FIELDS_SHOWN = 6  # of a row, by an error
HOW_TO_LIST = "`rlhf-hitl import --formats` lists what can be read; `--map question=prompt` renames columns"

#: Which completions of a prompt are compared: (1st, 2nd), (3rd, 4th), …, or all of them.
PairSelection = Literal["adjacent", "all"]

#: The formats of a snapshot: a dataset in Parquet, its rows as JSON lines, or what another tool takes in.
SnapshotFormat = Literal["trl", "jsonl", "rewardbench", "argilla", "label_studio"]
#: The formats of an export: a snapshot, or an archive of the whole store.
ExportFormat = Literal["trl", "jsonl", "rewardbench", "argilla", "label_studio", "archive"]


class Format(Protocol):
    """The names that the module of a format defines."""

    NAME: str
    #: What a file looks like.
    ABOUT: str
    #: All columns that it reads, by the names that `--map` may give. Where people name columns themselves, the usual.
    COLUMNS: Collection[str]

    def matches(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a file whose first row has these fields is of this format."""
        ...

    def make_reader(self, source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
        """Return a function that turns one row into records. It raises BadInput with file, line and field.

        Where rows belong together, the function may keep them; its `finish` then returns the records of the last ones.
        """
        ...


def get_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        BadInput: the name is unknown; the error names the nearest one.
    """
    if name not in FORMATS:
        near = get_close_matches(name, FORMATS, 1, NEAR)
        raise BadInput(
            f"format {name!r}",
            expected="auto, or the name of a known format",
            fix=(f"did you mean {near[0]}? " if near else "") + HOW_TO_LIST,
        )
    return import_module(FORMATS[name])  # type: ignore[return-value]


def open_source(path: str | Path, format: str = "auto", column_map: ColumnMap = NO_MAP) -> tuple[RowSource, Format]:
    """Return the source at a path or hub id with its format; `auto` finds the format by the fields of the first row.

    Raises:
        BadInput: there is nothing, the format is unknown, no format matches, or `column_map` names a column that is not
            there, or a name that no format reads.
    """
    named_format = None if format == "auto" else get_format(format)
    crowd_votes = Path(path) / "crowd-comparisons.csv"
    path = crowd_votes if crowd_votes.is_file() else path
    if column_map:
        column_map.check_targets(list_columns() if named_format is None else list_columns(named_format))
        column_map.check_sources(row.fields for row in RowSource(path).rows(lambda error: None))
    source = RowSource(path, column_map)
    if named_format is not None:
        return source, named_format
    for name in FORMATS:
        if get_format(name).matches(source.first.fields):
            return source, get_format(name)
    names = [str(name)[:30] for name in islice(source.first.fields, FIELDS_SHOWN)]
    more = len(source.first.fields) - len(names)
    raise BadInput(
        f"{source.first.place} with the fields {', '.join(names)}" + (f" and {more} more" if more else ""),
        expected="the fields of a known format",
        fix=_suggest_field(names) + HOW_TO_LIST,
    )


def describe_formats() -> dict[str, str]:
    """Return each format's name with what a file of it looks like."""
    return {name: get_format(name).ABOUT for name in FORMATS}


def list_columns(*formats: Format) -> set[str]:
    """Return the columns that some formats read; of all of them by default."""
    return {name for module in formats or map(get_format, FORMATS) for name in module.COLUMNS}


def explain_format(source: RowSource, file_format: Format) -> str:
    """Return why a source is read in a format that was found by its first row."""
    known = list_columns(file_format)
    names = [str(name)[:30] for name in source.first.fields if name in known]
    return f"the first row ({source.first.place}) has {', '.join(names[:FIELDS_SHOWN])}" if names else "--format"


def _suggest_field(names: list[str]) -> str:
    """Return the question whether a field of a known format was meant, or nothing."""
    known = list_columns()
    for name in names:
        if name not in known and (near := get_close_matches(name, known, 1, NEAR)):
            return f"did you mean {near[0]} for {name}? "
    return ""
