"""Write a JSON array of objects as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from rlhf_hitl.formats.export_schema import encode_row
from rlhf_hitl.store.export_query import JsonFields


class JsonArrayWriter:
    """Writes objects to a file, one a line."""

    def __init__(self, path: Path):
        self._file = path.open("wb")
        self._file.write(b"[")
        self._between = b"\n"

    def write(self, row: JsonFields) -> None:
        self._file.write(self._between + encode_row(row))
        self._between = b",\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.write(b"\n]\n")
        self._file.close()
