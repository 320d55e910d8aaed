"""Outside formats, in and out: one file a format, each imported only where it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.record import ImportRecord, SourceRow
from rlhf_hitl.formats.source import Source

#: Format → its module, in the order they are tried: the particular before the general.
FORMATS = {
    name: f"rlhf_hitl.formats.{name}"
    for name in ("native", "kwise", "llmfao", "mt_bench", "llmbar", "rewardbench2", "rewardbench", "hh", "trl")
}


class Format(Protocol):
    """What a format's module offers."""

    NAME: str
    ABOUT: str

    def matches(self, fields: Mapping[str, Any]) -> bool:
        """Whether a file whose first row has these fields is of this format."""
        ...

    def reader(self, source: Source, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
        """A function that turns one row into records. It raises BadInput with file, line and field."""
        ...


def get_format(name: str) -> Format:
    """The format of that name.

    Raises:
        BadInput: an unknown name; the known ones are listed.
    """
    if name not in FORMATS:
        raise BadInput(f"format {name!r}", expected=f"auto, {', '.join(FORMATS)}", fix="choose one of them")
    return import_module(FORMATS[name])  # type: ignore[return-value]


def open_source(path: str | Path, format: str = "auto") -> tuple[Source, Format]:
    """A file, folder or hub id with its format; with `auto`, found by the fields of its first row.

    Raises:
        BadInput: nothing there, an unknown format, or a file that is of none of them.
    """
    wanted = None if format == "auto" else get_format(format)
    crowd_votes = Path(path) / "crowd-comparisons.csv"
    source = Source(crowd_votes if crowd_votes.is_file() else path)
    if wanted is not None:
        return source, wanted
    for name in FORMATS:
        if get_format(name).matches(source.first.fields):
            return source, get_format(name)
    known = "; ".join(f"{name}: {get_format(name).ABOUT}" for name in FORMATS)
    raise BadInput(
        f"{source.name} with the fields {', '.join(map(str, source.first.fields))}",
        expected=f"one of these formats ({known})",
        fix="convert the file to one of them, or name its format with --format",
    )
