"""Sources of rows: JSONL, JSON, CSV or Parquet files (each also .gz), a saved dataset, or a dataset on the hub."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NoReturn

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.limits import Limits, open_limited, read_lines
from rlhf_hitl.formats.packed_rows import NotAnArray, read_array, read_parquet_rows
from rlhf_hitl.formats.record import SourceRow
from rlhf_hitl.types import Split

BadRowHandler = Callable[[BadInput], None]

# Split names of published sets; names like "test_prefs" are matched by their first word.
SPLIT_NAMES = {
    "test": Split.HELDOUT,
    "testing": Split.HELDOUT,
    "eval": Split.HELDOUT,
    "evaluation": Split.HELDOUT,
    "heldout": Split.HELDOUT,
    "validation": Split.CALIBRATION,
    "valid": Split.CALIBRATION,
    "val": Split.CALIBRATION,
    "dev": Split.CALIBRATION,
    "calibration": Split.CALIBRATION,
}
FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
#: What lies beside the data files of a set and holds no rows of it.
NO_DATA_FILES = ("dataset_info.json", "dataset_infos.json", "manifest.json", "package.json")
# Held-out rows come first, so that a prompt that is in two splits stays out of training.
SPLIT_ORDER = [Split.HELDOUT, Split.CALIBRATION, Split.TRAIN, None]
MAX_LINES_PER_ROW = 100_000  # of a CSV file
HUB_ID_PATTERN = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.-]+)?")


def raise_bad_row(error: BadInput) -> None:
    """Stop at the first bad row: the default `on_bad`."""
    raise error


class RowSource:
    """A file, a folder or a hub id that gives rows. Nothing is read before `rows()` or `first` is used.

    Raises:
        BadInput: there is no such file and it is not a hub id, or the kind of file cannot be read.
    """

    def __init__(self, path: str | Path):
        self.name = str(path)
        self.path = Path(path)
        self.suffix = next((s for s in FILE_SUFFIXES if self.path.name.removesuffix(".gz").endswith(s)), None)
        if self.path.exists() and not self.path.is_dir() and self.suffix is None:
            raise BadInput(
                f"{self.name}",
                expected=f"a file ending in {', '.join(FILE_SUFFIXES)} (or .gz)",
                fix="convert or rename it",
            )
        if not self.path.exists() and (self.suffix is not None or not HUB_ID_PATTERN.fullmatch(self.name)):
            raise BadInput(
                f"{self.name}", expected="a file, a saved dataset or a hub id (owner/name)", fix="check the path"
            )

    @cached_property
    def first(self) -> SourceRow:
        """The first row that can be read, by which the format is recognised.

        Raises:
            BadInput: there is no row; if all rows are bad, this is the error of the first one.
        """
        errors: list[BadInput] = []
        for row in self.rows(errors.append):
            return row
        raise (
            errors[0]
            if errors
            else BadInput(self.name, expected="at least one row", fix="the file is empty: give another")
        )

    def rows(self, on_bad: BadRowHandler = raise_bad_row) -> Iterator[SourceRow]:
        """Yield every row. For a row that cannot be read, `on_bad` is called, which raises or records the error."""
        if files := self._list_data_files():
            yield from self._read_files(files, on_bad)
            return
        if not self.path.is_file():
            yield from self._read_dataset_rows()
            return
        try:
            if self.suffix == ".jsonl":
                yield from self._read_jsonl(on_bad)
            elif self.suffix == ".json":
                yield from self._read_json(on_bad)
            elif self.suffix == ".csv":
                yield from self._read_csv()
            else:
                yield from self._read_parquet()
        except (EOFError, gzip.BadGzipFile, zlib.error) as e:
            raise BadInput(self.name, expected="a whole gzip file", fix=f"download it again ({e})") from e

    def find_sibling(self, name: str) -> RowSource | None:
        """Return the file of this name (or its .gz) beside this one, if there is one."""
        for path in (self.path.parent / name, self.path.parent / f"{name}.gz"):
            if path.is_file():
                return RowSource(path)
        return None

    def _open(self, limits: Limits) -> IO[bytes]:
        return open_limited(self.path, self.name, limits)

    def _read_jsonl(self, on_bad: BadRowHandler) -> Iterator[SourceRow]:
        limits = Limits.load()

        def refuse_long(number: int) -> None:
            on_bad(limits.make_line_error(f"{self.name}:{number}"))

        with self._open(limits) as f:
            for number, line in read_lines(f, b"\n", limits.line_bytes, refuse_long):
                if not line.strip():
                    continue
                place = f"{self.name}:{number}"
                try:
                    limits.check_values(place, line)
                    value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except BadInput as e:
                    on_bad(e)
                    continue
                except (ValueError, RecursionError) as e:  # JSON errors, UTF-8 errors, and lists nested too deeply
                    on_bad(_make_json_error(place, str(e)))
                    continue
                if (row := _check_row(value, place, on_bad)) is not None:
                    yield row

    def _read_json(self, on_bad: BadRowHandler) -> Iterator[SourceRow]:
        limits = Limits.load()
        with self._open(limits) as f:
            try:
                for number, item in enumerate(read_array(f, self.name, limits), 1):
                    if (row := _check_row(item, f"{self.name}: item {number}", on_bad)) is not None:
                        yield row
            except NotAnArray as e:
                raise BadInput(
                    self.name, expected="a JSON array of objects", fix="one object a line is .jsonl: rename it"
                ) from e
            except (ValueError, RecursionError) as e:
                raise _make_json_error(self.name, str(e)) from e

    def _read_csv(self) -> Iterator[SourceRow]:
        import io

        limits, rows_end = Limits.load(), 0

        def refuse_long(number: int) -> NoReturn:
            raise limits.make_line_error(f"{self.name}:{number}")

        def read_text(f: io.TextIOWrapper) -> Iterator[str]:
            """Yield lines, as long as one row is not too long: a quoted field goes on over many lines."""
            length = 0
            for number, line in read_lines(f, "\n", limits.line_bytes, refuse_long):
                limits.check_values(f"{self.name}:{number}", line)
                length = len(line) if rows_end == number - 1 else length + len(line)
                if length > limits.line_bytes:
                    raise limits.make_line_error(f"{self.name}:{number}", "row")
                if number - rows_end > MAX_LINES_PER_ROW:
                    raise BadInput(
                        f"{self.name}:{number}",
                        expected=f"at most {MAX_LINES_PER_ROW:,} lines in one row",
                        fix="close the quotation mark that was opened in the row",
                    )
                yield line

        csv.field_size_limit(limits.line_bytes)
        with io.TextIOWrapper(self._open(limits), encoding="utf-8-sig", newline="") as f:
            reader = csv.DictReader(read_text(f), restkey="")
            try:
                rows_end = reader.line_num if reader.fieldnames is not None else 0
                for fields in reader:
                    rows_end = reader.line_num
                    yield SourceRow(fields, f"{self.name}:{reader.line_num}")
            except (csv.Error, UnicodeDecodeError) as e:
                raise BadInput(
                    f"{self.name}:{reader.line_num + 1}", expected="CSV in UTF-8", fix=f"correct the line ({e})"
                ) from e

    def _read_parquet(self) -> Iterator[SourceRow]:
        import pyarrow

        limits = Limits.load()
        try:
            with self._open(limits) as f:
                for number, fields in enumerate(read_parquet_rows(f, self.path, self.name, limits), 1):
                    yield SourceRow(fields, f"{self.name}: row {number}")
        except (pyarrow.ArrowException, OSError) as e:
            if isinstance(e, OSError) and e.errno is not None:  # Arrow's own have no number
                raise
            raise BadInput(self.name, expected="a Parquet file", fix=f"write it again ({str(e)[:200]})") from e

    def _list_data_files(self) -> list[Path]:
        """Return the files of a folder that are read one by one: those in it or, if there are none, those below it."""
        if not self.path.is_dir() or self._is_saved_dataset():
            return []
        # Of our own export the pairs: its other folders say the same otherwise.
        is_export = (self.path / "manifest.json").is_file() and (self.path / "pairs").is_dir()
        folder = self.path / "pairs" if is_export else self.path
        for paths in (folder.glob("*"), folder.rglob("*")):
            if files := sorted(path for path in paths if _is_data_file(path)):
                return files
        return []

    def _read_files(self, files: list[Path], on_bad: BadRowHandler) -> Iterator[SourceRow]:
        parts = {path: _find_part(path.relative_to(self.path)) for path in files}
        splits = _find_splits(set(parts.values()))
        for path in sorted(files, key=lambda path: SPLIT_ORDER.index(splits[parts[path]])):
            for row in RowSource(path).rows(on_bad):
                yield SourceRow(row.fields, row.place, splits[parts[path]], parts[path])

    def _read_dataset_rows(self) -> Iterator[SourceRow]:
        loaded = self._load()
        import datasets

        is_single = not isinstance(loaded, datasets.DatasetDict)
        parts: dict[str, Any] = {"": loaded} if is_single else {str(name): part for name, part in loaded.items()}
        split_by_part = _find_splits(set(parts))
        for name in sorted(parts, key=lambda n: SPLIT_ORDER.index(split_by_part[n])):
            part_name = f"{self.name}[{name}]" if name else self.name
            for number, fields in enumerate(parts[name], 1):
                yield SourceRow(fields, f"{part_name}: row {number}", split_by_part[name], name)

    def _is_saved_dataset(self) -> bool:
        return any((self.path / f).exists() for f in ("dataset_dict.json", "state.json"))

    def _load(self) -> Any:
        if self.path.is_dir() and not self._is_saved_dataset() and not any(p.is_file() for p in self.path.rglob("*")):
            raise BadInput(self.name, expected="a folder with data files", fix="it is empty: check the path")
        import datasets

        hub_id, _, config = self.name.partition(":")
        try:
            if self._is_saved_dataset():
                return datasets.load_from_disk(self.name)
            if self.path.is_dir():
                return datasets.load_dataset(self.name)
            return datasets.load_dataset(hub_id, config or None)
        # The errors of `load_dataset` (no network, no such set, a private set, a broken file) have no common base.
        except Exception as e:
            if self.path.is_dir():
                expected, fix = "a dataset saved by `datasets`, or a folder of its data files", "check the folder"
            else:
                expected, fix = "a file, or a dataset the hub gives out", "check the name and the network"
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
            raise BadInput(self.name, expected=expected, fix=f"{fix} ({reason})") from e


def _is_data_file(path: Path) -> bool:
    is_readable = path.name.removesuffix(".gz").endswith(FILE_SUFFIXES) and path.name not in NO_DATA_FILES
    return is_readable and path.name[0] not in "._" and path.is_file()


def _find_part(path: Path) -> str:
    """Return the part of a set that a file in it belongs to: `raw` for data/raw-00000-of-00002.parquet.

    A folder that is named after a split, as in test/votes.jsonl, comes before the name of the file.
    """
    words = [re.split(r"[-.]", name)[0] for name in reversed(path.parts)]
    return next((word for word in words if _find_splits({word})[word] is not None), words[0])


def _find_splits(parts: set[str]) -> dict[str, Split | None]:
    """Return part → the split that its name says."""
    splits = {name: SPLIT_NAMES.get(re.split(r"[^a-z]", name.lower())[0]) for name in parts}
    # Our own exports give the split of every prompt; other sets only tell what is not for training.
    if {"train", "calibration", "heldout"} == parts:
        splits["train"] = Split.TRAIN
    return splits


def _check_row(value: Any, place: str, on_bad: BadRowHandler) -> SourceRow | None:
    if isinstance(value, dict):
        return SourceRow(value, place)
    on_bad(BadInput(f"{place}: {str(value)[:60]!r}", expected="a JSON object", fix="correct the line"))
    return None


def _make_json_error(place: str, reason: str) -> BadInput:
    return BadInput(
        place, expected="JSON in UTF-8", fix=f"correct the line, or skip such lines with --skip-bad ({reason})"
    )
