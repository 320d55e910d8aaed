"""How much of a file is read at once: limits that keep the memory and the time that a hostile file takes small.

Both are settings, so that a file that is as large by right can be read: `RLHF_HITL_MAX_LINE_MB` and
`RLHF_HITL_MAX_EXPANSION`.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, AnyStr, cast

from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput

PIECE_BYTES = 1 << 20
PACKINGS = (".gz", ".zst")
#: A file may expand to this much, however small it is.
FREE_BYTES = 2 << 20
#: In a line as long as is allowed, one value of JSON may take so few bytes: each takes 60 to 250 bytes of memory.
BYTES_PER_VALUE = 32


@dataclass(frozen=True)
class Limits:
    """Limits of what is read from a file. `line_mb` is in MiB; `expansion` is expanded size by packed size."""

    line_mb: float
    expansion: float

    @classmethod
    def load(cls) -> Limits:
        settings = load_settings()
        return cls(settings.max_line_mb, settings.max_expansion)

    @property
    def line_bytes(self) -> int:
        return int(self.line_mb * 2**20)

    def make_line_error(self, place: str, noun: str = "line") -> BadInput:
        article = "an" if noun[0] in "aeiou" else "a"
        return BadInput(
            f"{place}: {article} {noun} of more than {self.line_mb:g} MiB",
            expected=f"at most {self.line_mb:g} MiB in {article} {noun}",
            fix="check the file; if it is as it should be, set RLHF_HITL_MAX_LINE_MB to more",
        )

    def check_values(self, place: str, text: bytes | str) -> None:
        """Refuse JSON of more values than its memory should hold; short texts are not looked at."""
        if len(text) < PIECE_BYTES:
            return
        marks: tuple[Any, ...] = (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")
        most = self.line_bytes // BYTES_PER_VALUE
        if (n := sum(text.count(mark) for mark in marks)) > most:  # type: ignore[arg-type]
            raise BadInput(
                f"{place}: about {n:,} values in one line",
                expected=f"at most {most:,} (with RLHF_HITL_MAX_LINE_MB = {self.line_mb:g})",
                fix="check the file; if it is as it should be, set RLHF_HITL_MAX_LINE_MB to more",
            )

    def check_expansion(self, place: str, packed: int, expanded: int) -> None:
        """Refuse a file that expands to so many bytes; the first 2 MiB are free."""
        if expanded > max(FREE_BYTES, self.expansion * packed):
            raise BadInput(
                f"{place}: {packed:,} bytes that expand to {expanded:,} or more",
                expected=f"at most {self.expansion:g} times the size of the file",
                fix="check the file; if it is as it should be, expand it first, or set RLHF_HITL_MAX_EXPANSION to more",
            )


class _CountingReader(io.RawIOBase):
    """Reads a packed file and stops where it expands too far."""

    def __init__(self, file: Any, path: Path, name: str, limits: Limits):
        self._file, self._name, self._limits = file, name, limits
        self._packed, self._expanded = path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = self._file.readinto(buffer)
        self._expanded += n
        self._limits.check_expansion(self._name, self._packed, self._expanded)
        return n

    def close(self) -> None:
        self._file.close()
        super().close()


def open_limited(path: Path, name: str, limits: Limits) -> IO[bytes]:
    """Open a file for reading, expanded if its name ends in .gz or .zst.

    Reading raises BadInput where it expands too far, and OSError, EOFError or zlib.error where it is not whole.
    """
    match find_packing(path):
        case ".gz":
            packed: Any = gzip.GzipFile(path, "rb")
        case ".zst":
            import pyarrow

            packed = pyarrow.input_stream(str(path), compression="zstd")
        case _:
            return path.open("rb", buffering=PIECE_BYTES)
    return cast(IO[bytes], io.BufferedReader(_CountingReader(packed, path, name, limits), 1 << 17))


def find_packing(path: Path) -> str:
    """Return the suffix that says how a file is packed, in lower case, or nothing."""
    suffix = path.suffix.lower()
    return suffix if suffix in PACKINGS else ""


def read_lines(
    file: IO[AnyStr], newline: AnyStr, limit: int, on_long: Callable[[int], None]
) -> Iterator[tuple[int, AnyStr]]:
    """Yield the lines of a file, numbered from 1. Of a longer one than `limit` no more than that is ever in memory.

    Args:
        on_long: called with the number of a line that is too long, which it may refuse by raising. Else the line is
            left out.
    """
    number = 0
    while line := file.readline(PIECE_BYTES):
        number += 1
        if len(line) < PIECE_BYTES or line.endswith(newline):
            yield number, line
            continue
        pieces, length, piece = [line], len(line), line
        while piece and not piece.endswith(newline):
            piece = file.readline(PIECE_BYTES)
            length += len(piece)
            if length > limit:
                if pieces:
                    pieces = []
                    on_long(number)
            else:
                pieces.append(piece)
        if pieces:
            yield number, cast(AnyStr, newline[:0].join(cast(list[Any], pieces)))
