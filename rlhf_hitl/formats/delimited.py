"""CSV and TSV files row by row, as pandas, R, PostgreSQL and Excel write them: a bad row is named, others are read.

Excel writes semicolons where the comma is the decimal mark, a byte order mark, UTF-16, or `sep=;` in a first line.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.limits import Limits, read_lines

SEPARATORS = ",;\t|"
MAX_LINES_PER_ROW = 100_000
#: After so many rows whose quotation mark is never closed the file is refused: their lines are read twice.
MAX_ENDLESS_ROWS = 20
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
SKIP_ROW = "correct the row, or skip such rows with --skip-bad"

Row = tuple[int, dict[str, str]]


class _EndlessRow(Exception):
    """A row whose quotation mark is not closed where a row has to end; with the error that says so."""

    def __init__(self, error: BadInput):
        self.error = error


def read_delimited(
    file: IO[bytes], name: str, limits: Limits, on_bad: Callable[[BadInput], None], separator: str = ""
) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file with a header: (number of the row's first line, column → cell).

    Args:
        on_bad: called for a row with another number of cells than the header, bytes that are not of the file's
            encoding, a quotation mark in a wrong place or never closed, or more text than a row may have. It raises, or
            the row is left out.
        separator: what is between cells; without it the first line tells.

    Raises:
        BadInput: the header cannot be read or names a column twice, or row after row has no end.
    """
    lines = _RowLines(file, name, limits, on_bad)
    columns: list[str] | None = None
    csv.field_size_limit(2 * limits.line_bytes)  # a row has its own limit
    reader = csv.reader(lines, delimiter=lines.find_separator(separator), strict=True)
    while True:
        lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _EndlessRow as e:
            problem: BadInput | None = e.error
            lines.go_back()
        except csv.Error as e:
            problem = BadInput(
                f"{lines.place}: {e}", expected="cells in quotation marks, those within doubled", fix=SKIP_ROW
            )
        else:
            problem = lines.problem
            if not cells and problem is None:
                continue
            if problem is None and columns is None:
                columns = _read_header(cells, lines.place)
                continue
            if problem is None and columns is not None and len(cells) != len(columns):
                expected = f"{len(columns):,}, one for each column of the first line"
                problem = BadInput(f"{lines.place}: {len(cells):,} cells", expected=expected, fix=SKIP_ROW)
            if problem is None and columns is not None:
                yield lines.first, dict(zip(columns, cells))
                continue
        assert problem is not None
        if columns is None:
            raise problem
        on_bad(problem)


class _RowLines:
    """Gives a CSV reader its lines. Those of the row that is read are kept, to be read again if it has no end.

    Attributes:
        first: the number of the row's first line.
        problem: what is wrong with the row's lines.
    """

    def __init__(self, file: IO[bytes], name: str, limits: Limits, on_bad: Callable[[BadInput], None]):
        self._name, self._limits, self._on_bad = name, limits, on_bad
        self.encoding, text = _open_text(file)
        self._lines = read_lines(text, "\n", limits.line_bytes, self._leave_out_long)
        self._again: deque[tuple[int, str]] = deque()
        self._row: list[tuple[int, str]] = []
        self._length, self._endless = 0, 0
        self.first, self.problem = 0, None

    first: int
    problem: BadInput | None

    @property
    def place(self) -> str:
        return f"{self._name}:{self.first}"

    def find_separator(self, given: str) -> str:
        """Return what is between cells: what is given, or what Excel's `sep=` or the first line says."""
        line = next(self._lines, None)
        if line is None:
            return given or ","
        words = line[1].strip("\r\n")
        if words[:4].lower() == "sep=" and len(words) == 5:
            return words[4]
        self._again.append(line)
        return given or max(SEPARATORS, key=_blank_quoted(words).count)

    def begin_row(self) -> None:
        self._row, self._length, self.problem = [], 0, None

    def go_back(self) -> None:
        """Go back to the second line of the row."""
        self._endless += 1
        if self._endless > MAX_ENDLESS_ROWS:
            raise BadInput(
                f"{self.place}: the {self._endless}th row with a quotation mark that is not closed",
                expected=f"at most {MAX_ENDLESS_ROWS}",
                fix="write the file again, with quotation marks in cells doubled",
            )
        self._again.extendleft(reversed(self._row[1:]))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line; the CSV reader asks for another one of the same row within quotation marks only."""
        while True:
            try:
                number, line = self._again.popleft() if self._again else next(self._lines)
            except StopIteration:
                if self._row:
                    raise self._make_endless("the end of the file") from None
                raise
            except UnicodeDecodeError as e:  # UTF-16 that ends within a character
                self._on_bad(BadInput(f"{self._name}: {e.reason}", expected="a whole file", fix="save it again"))
                self._lines = iter(())
                continue
            try:
                self._limits.check_values(f"{self._name}:{number}", line)
            except BadInput as e:
                self._leave_out(e)
                continue
            if not self._row:
                self.first = number
            self._row.append((number, line))
            self._length += len(line)
            if self._length > self._limits.line_bytes and len(self._row) > 1:
                raise _EndlessRow(self._limits.make_line_error(self.place, "row"))
            if len(self._row) > MAX_LINES_PER_ROW:
                raise self._make_endless(f"{MAX_LINES_PER_ROW:,} lines")
            if not line.isascii() and not _is_valid(line):
                self.problem = BadInput(
                    f"{self._name}:{number}: a byte that is not {self.encoding.upper()}",
                    expected=f"text in {self.encoding.upper()}, as the file begins",
                    fix="save the file as UTF-8, or skip such rows with --skip-bad",
                )
            return line

    def _make_endless(self, end: str) -> _EndlessRow:
        return _EndlessRow(
            BadInput(
                f"{self.place}: a quotation mark that is not closed before {end}",
                expected=f"at most {MAX_LINES_PER_ROW:,} lines in one row",
                fix="close the quotation mark that was opened in the row, or skip such rows with --skip-bad",
            )
        )

    def _leave_out_long(self, number: int) -> None:
        self._leave_out(self._limits.make_line_error(f"{self._name}:{number}"))

    def _leave_out(self, error: BadInput) -> None:
        """Leave out a line: a row of its own or, within quotation marks, a part of one, which is left out then."""
        if self._row:
            self.problem = error
        else:
            self._on_bad(error)


def _open_text(file: IO[bytes]) -> tuple[str, io.TextIOWrapper]:
    """Return the encoding of a file, by its byte order mark, and its text. Wrong bytes become lone surrogates."""
    buffered = file if hasattr(file, "peek") else io.BufferedReader(file)  # type: ignore[arg-type]
    start = buffered.peek(3)[:3]  # type: ignore[union-attr]
    mark = next((mark for mark in BYTE_ORDER_MARKS if start.startswith(mark)), b"")
    buffered.read(len(mark))
    encoding = BYTE_ORDER_MARKS.get(mark, "utf-8")
    errors = "surrogateescape" if encoding == "utf-8" else "surrogatepass"
    return encoding, io.TextIOWrapper(buffered, encoding=encoding, errors=errors, newline="")


def _blank_quoted(line: str) -> str:
    """Return a line without what is between quotation marks."""
    return "".join(line.split('"')[::2])


def _is_valid(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_header(cells: list[str], place: str) -> list[str]:
    """Return the names of the columns. One without a name, as pandas writes for its index, is `column 1`."""
    columns = [cell.strip() or f"column {i}" for i, cell in enumerate(cells, 1)]
    seen: set[str] = set()
    for name in columns:
        if name in seen:
            raise BadInput(f"{place}: two columns named {name[:60]!r}", expected="a name for each", fix="rename one")
        seen.add(name)
    return columns
