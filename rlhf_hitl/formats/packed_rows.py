"""Rows of files that are no lines: JSON arrays and Parquet, read piece by piece within the limits."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.limits import PIECE_BYTES, Limits

WHITESPACE = re.compile(r"[ \t\n\r]*")  # of JSON
PARQUET_ROWS = 100  # at once, and fewer of large ones
PARQUET_MAGIC = b"PAR1"


class NotAnArray(ValueError):
    """A JSON file holds something else."""


def read_array(file: IO[bytes], name: str, limits: Limits) -> Iterator[Any]:
    """Yield the items of a JSON array, of which one at a time is in memory.

    Raises:
        NotAnArray: it is another value.
        ValueError: it is not JSON in UTF-8.
        RecursionError: an item is nested too deeply.
        BadInput: an item is too long, or the file expands too far.
    """
    text = _Window(file, name, limits)
    if text.skip_space() != "[":
        raise NotAnArray
    text.position += 1
    if text.skip_space() != "]":
        while True:
            yield text.decode_item()
            if (mark := text.skip_space()) == "]":
                break
            if mark != ",":
                raise ValueError(f"expected , or ] and got {mark!r}")
            text.position += 1
            text.skip_space()
    text.position += 1
    if text.skip_space():
        raise ValueError("expected nothing after the array")


class _Window:
    """The part of a text from `position` on that has been read so far."""

    def __init__(self, file: IO[bytes], name: str, limits: Limits):
        self._file, self._name, self._limits = file, name, limits
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._decode_value = json.JSONDecoder().raw_decode
        self.text, self.position, self.is_whole = "", 0, False

    def skip_space(self) -> str:
        """Move to the next mark and return it; empty at the end."""
        while True:
            match = WHITESPACE.match(self.text, self.position)
            self.position = self.position if match is None else match.end()
            if self.position < len(self.text) or self.is_whole:
                return self.text[self.position : self.position + 1]
            self._read_more()

    def decode_item(self) -> Any:
        """Return the value at the position and move behind it."""
        while True:
            try:
                value, end = self._decode_value(self.text, self.position)
            except ValueError:
                if self.is_whole:
                    raise
            else:
                # A number that ends where the text read so far ends may go on.
                if self.is_whole or end < len(self.text):
                    self.position = end
                    return value
            self._read_more()
            self._limits.check_values(self._name, self.text)  # this item is a long one: the text begins with it

    def _read_more(self) -> None:
        self.text, self.position = self.text[self.position :], 0
        if len(self.text) > self._limits.line_bytes:
            raise self._limits.make_line_error(self._name, "item")
        # As much again as there is, so that a long item is not tried too often.
        block = self._file.read(max(PIECE_BYTES, len(self.text)))
        self.is_whole = not block
        self.text += self._decode(block, final=self.is_whole)


def read_parquet_rows(
    file: IO[bytes], path: Path, name: str, limits: Limits, on_bad: Callable[[BadInput], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, row) of a Parquet file. Texts that a dictionary repeats stay in it until their row is reached.

    Args:
        on_bad: called for a row that is too long; it raises, or the row is left out.

    Raises:
        BadInput: it expands too far.
        ArrowException: it is not Parquet.
    """
    import pyarrow
    import pyarrow.parquet

    footer = pyarrow.parquet.read_metadata(file)
    size, expanded = path.stat().st_size, 0
    limits.check_expansion(name, size, _measure_by_footer(footer))
    seen: set[int] = set()  # hashes of texts: one that is repeated is stored once
    schema = footer.schema.to_arrow_schema()
    texts = [f.name for f in schema if pyarrow.types.is_string(f.type) or pyarrow.types.is_large_string(f.type)]
    file.seek(0)
    packed = pyarrow.parquet.ParquetFile(file, read_dictionary=texts, buffer_size=PIECE_BYTES)
    number = 0
    for batch in packed.iter_batches(_choose_batch_size(footer, limits)):
        is_large = batch.nbytes > limits.line_bytes
        columns = [_list_values(column, is_large) for column in batch.columns]
        for i in range(batch.num_rows):
            number += 1
            if is_large and _measure_row(batch, i) > limits.line_bytes:
                on_bad(limits.make_line_error(f"{name}: row {number}", "row"))
                continue
            values = [get(i) for get in columns]
            for value in values:
                if isinstance(value, str) and (key := hash(value)) not in seen:
                    seen.add(key)
                    expanded += len(value)
            limits.check_expansion(name, size, expanded)  # whatever the footer says
            yield number, dict(zip(batch.schema.names, values))


def _measure_by_footer(footer: Any) -> int:
    """Return how many bytes a Parquet file says that it expands to."""
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    columns = sum(group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns))
    return max(columns, sum(group.total_byte_size for group in groups))


def _choose_batch_size(footer: Any, limits: Limits) -> int:
    """Return how many rows are read at once, so that those of images take no more than the longest row may."""
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    longest = max((group.total_byte_size / group.num_rows for group in groups if group.num_rows), default=0)
    return max(1, min(PARQUET_ROWS, int(limits.line_bytes / max(longest, 1))))


def _measure_row(batch: Any, i: int) -> int:
    """Return the bytes of a row. Of a text that a dictionary repeats, those of the text."""
    import pyarrow

    size = 0
    for column in batch.columns:
        if pyarrow.types.is_dictionary(column.type):
            place = column.indices[i].as_py()
            size += 0 if place is None else column.dictionary.slice(place, 1).nbytes
        else:
            size += column.slice(i, 1).nbytes
    return size


def _list_values(column: Any, is_large: bool) -> Any:
    """Return a function that gives the value of a row; of a large batch each is made when it is asked for."""
    import pyarrow

    if not pyarrow.types.is_dictionary(column.type):
        return (lambda i: column[i].as_py()) if is_large else column.to_pylist().__getitem__
    places, known = column.indices.to_pylist(), {}

    def get(i: int) -> Any:
        place = places[i]
        if place is None:
            return None
        if place not in known:
            known[place] = column.dictionary[place].as_py()
        return known[place]

    return get
