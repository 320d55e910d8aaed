"""Read files and rows as an import does: their records, and what is counted beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_hitl.formats import Format, get_format, open_source
from rlhf_hitl.formats.reading import read_records
from rlhf_hitl.formats.record import Fields, ImportRecord, SourceRow
from rlhf_hitl.formats.source import BadRowHandler, RowSource, raise_bad_row

#: What is not read, and what was decided.
Counted = Counter[str]


class RowsInMemory(RowSource):
    """Rows that are in no file; their places are a:1, a:2, …"""

    def __init__(self, rows: list[dict[str, Any]]):
        super().__init__("owner/name")
        self._rows = rows

    def rows(self, on_bad: BadRowHandler = raise_bad_row) -> Iterator[SourceRow]:
        for i, row in enumerate(self._rows, 1):
            yield SourceRow(Fields(row), f"a:{i}", unread=self.unread, noted=self.noted)


def read_file(path: Path, format: str = "auto") -> tuple[str, list[ImportRecord], Counted]:
    """Return the name of a file's format, too."""
    source, file_format = open_source(path, format)
    return file_format.NAME, *_read(source, file_format)


def read_rows(format: str, *rows: dict[str, Any]) -> tuple[list[ImportRecord], Counted]:
    return _read(RowsInMemory(list(rows)), get_format(format))


def _read(source: RowSource, file_format: Format) -> tuple[list[ImportRecord], Counted]:
    reader = file_format.make_reader(source, "adjacent")
    records = list(read_records(source.rows(raise_bad_row), reader, raise_bad_row))
    return records, source.unread + source.noted
