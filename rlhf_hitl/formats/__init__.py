"""Outside formats: read preferences and guidelines from files, write snapshots and archives.

- in: `importing` reads any format into the store. `source` gives the rows of a file, and one module for each format
  (`FORMATS`) turns rows into the records of `record`; `guidance` reads guidelines and tutorials.
- out: `export` writes a snapshot for training. `snapshot` reads its rows from the store, `snapshot_rows` makes each
  row, `export_files` writes them.
- both: `archive` holds a whole store in one file.

Start with `record` and one small format, such as `llmbar`. A format's module is imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.record import ImportRecord, SourceRow
from rlhf_hitl.formats.source import RowSource

#: Format → its module, in the order in which they are tried: specific formats before general ones.
FORMATS = {
    name: f"rlhf_hitl.formats.{name}"
    for name in ("native", "kwise", "llmfao", "mt_bench", "llmbar", "rewardbench2", "rewardbench", "hh", "trl")
}


#: Which completions of a prompt are compared: (1st, 2nd), (3rd, 4th), …, or all of them.
PairSelection = Literal["adjacent", "all"]

#: The formats of an export: a saved DatasetDict, JSON lines, or an archive of the whole store.
ExportFormat = Literal["trl", "jsonl", "archive"]


class Format(Protocol):
    """The names that the module of a format defines."""

    NAME: str
    ABOUT: str

    def matches(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a file whose first row has these fields is of this format."""
        ...

    def make_reader(self, source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
        """Return a function that turns one row into records. It raises BadInput with file, line and field."""
        ...


def get_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        BadInput: the name is unknown; the error lists the known names.
    """
    if name not in FORMATS:
        raise BadInput(f"format {name!r}", expected=f"auto, {', '.join(FORMATS)}", fix="choose one of them")
    return import_module(FORMATS[name])  # type: ignore[return-value]


def open_source(path: str | Path, format: str = "auto") -> tuple[RowSource, Format]:
    """Return the source at a path or hub id with its format; `auto` finds the format by the fields of the first row.

    Raises:
        BadInput: there is nothing, the format is unknown, or no format matches.
    """
    named_format = None if format == "auto" else get_format(format)
    crowd_votes = Path(path) / "crowd-comparisons.csv"
    source = RowSource(crowd_votes if crowd_votes.is_file() else path)
    if named_format is not None:
        return source, named_format
    for name in FORMATS:
        if get_format(name).matches(source.first.fields):
            return source, get_format(name)
    formats = "; ".join(f"{name}: {get_format(name).ABOUT}" for name in FORMATS)
    names = [str(name)[:40] for name in islice(source.first.fields, 20)]
    more = len(source.first.fields) - len(names)
    raise BadInput(
        f"{source.name} with the fields {', '.join(names)}" + (f" and {more} more" if more else ""),
        expected=f"one of these formats ({formats})",
        fix="convert the file to one of them, or name its format with --format",
    )
