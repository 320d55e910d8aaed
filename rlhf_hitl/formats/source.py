"""Sources of rows: JSONL, JSON, CSV, TSV or Parquet files, packed or not, a saved dataset, or one on the hub."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import orjson

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.column_map import NO_MAP, ColumnMap
from rlhf_hitl.formats.delimited import read_delimited
from rlhf_hitl.formats.hub_dataset import load_hub_dataset
from rlhf_hitl.formats.limits import PACKINGS, Limits, find_packing, open_limited, read_lines
from rlhf_hitl.formats.packed_rows import NotAnArray, read_array, read_parquet_rows
from rlhf_hitl.formats.record import Fields, SourceRow
from rlhf_hitl.types import Split

BadRowHandler = Callable[[BadInput], None]
PlacedFields = tuple[Mapping[str, Any], str]
#: A line of a file and its number, from 1 on; None in place of one that is too long.
Line = tuple[int, bytes | None]

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
FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
#: What lies beside the data files of a set and holds no rows of it.
NO_DATA_FILES = ("dataset_info.json", "dataset_infos.json", "manifest.json", "package.json")
# Held-out rows come first, so that a prompt that is in two splits stays out of training.
SPLIT_ORDER = [Split.HELDOUT, Split.CALIBRATION, Split.TRAIN, None]
ROWS_AT_ONCE = 100  # of a saved dataset
#: Folders of a set that say nothing of what is in them.
PLAIN_FOLDERS = ("data", "dataset")
HUB_ID_PATTERN = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.-]+)?")


def raise_bad_row(error: BadInput) -> None:
    """Stop at the first bad row: the default `on_bad`."""
    raise error


class RowSource:
    """A file, a folder or a hub id that gives rows. Nothing is read before `rows()` or `first` is used.

    Attributes:
        unread: what is met and not read, by name, as in "column language". The rows share it.
        noted: what readers decided that a user has to know of, as in "rating contradicts the choice". Shared, too.

    Args:
        column_map: the columns that the user named, which are renamed in every row.

    Raises:
        BadInput: there is no such file and it is not a hub id, or the kind of file cannot be read.
    """

    def __init__(self, path: str | Path, column_map: ColumnMap = NO_MAP):
        self.name = str(path)
        self.path = Path(path)
        self.column_map = column_map
        self.unread: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self.suffix = _find_suffix(self.path)
        if self.path.exists() and not self.path.is_dir() and self.suffix is None:
            raise BadInput(
                f"{self.name}",
                expected=f"a file ending in {', '.join(FILE_SUFFIXES)} (or {' or '.join(PACKINGS)} behind it)",
                fix="unpack it, and give the file or the folder"
                if _is_packed_otherwise(self.path)
                else "convert or rename it",
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
        if self.path.is_file():
            for fields, place in self._read_file(on_bad):
                yield self._make_row(fields, place)
        elif files := self._list_data_files():
            yield from self._read_files(files, on_bad)
        else:
            yield from self._read_dataset_rows()

    def _make_row(self, fields: Mapping[str, Any], place: str) -> SourceRow:
        return SourceRow(self._wrap(fields), place, unread=self.unread, noted=self.noted)

    def _wrap(self, fields: Mapping[str, Any]) -> Fields:
        return Fields(self.column_map.apply(fields) if self.column_map else fields)

    def _read_file(self, on_bad: BadRowHandler) -> Iterator[PlacedFields]:
        with self._name_packing_errors():
            match self.suffix:
                case ".jsonl" | ".ndjson":
                    yield from self._parse_lines(self._read_lines(), on_bad)
                case ".json":
                    yield from self._read_json(on_bad)
                case ".csv" | ".tsv":
                    with self._open(Limits.load()) as f:
                        separator = "\t" if self.suffix == ".tsv" else ""
                        for number, cells in read_delimited(f, self.name, Limits.load(), on_bad, separator):
                            yield cells, f"{self.name}:{number}"
                case _:
                    yield from self._read_parquet(on_bad)

    @contextmanager
    def _name_packing_errors(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as e:
            packing = find_packing(self.path)
            if not packing or (isinstance(e, OSError) and e.errno is not None):
                raise
            noun = "gzip" if packing == ".gz" else "Zstandard"
            raise BadInput(self.name, expected=f"a whole {noun} file", fix=f"download it again ({e})") from e

    @property
    def is_lines(self) -> bool:
        """Whether this is one file of a row a line, whose lines can be read apart from each other."""
        return self.path.is_file() and self.suffix in (".jsonl", ".ndjson")

    def read_line_chunks(self, size: int) -> Iterator[list[Line]]:
        """Yield the lines of a file of lines, so many bytes at a time or a line more."""
        lines, length = list[Line](), 0
        with self._name_packing_errors():
            for number, line in self._read_lines():
                lines.append((number, line))
                length += len(line or b"")
                if length >= size:
                    yield lines
                    lines, length = [], 0
        if lines:
            yield lines

    def parse_lines(self, lines: Iterable[Line], on_bad: BadRowHandler) -> Iterator[SourceRow]:
        """Yield the rows of some lines of a file of lines, as `rows` does."""
        for fields, place in self._parse_lines(lines, on_bad):
            yield self._make_row(fields, place)

    def find_sibling(self, name: str) -> RowSource | None:
        """Return the file of this name (or its .gz or .zst) beside this one, if there is one."""
        for path in (self.path.parent / f"{name}{packing}" for packing in ("", *PACKINGS)):
            if path.is_file():
                return RowSource(path)
        return None

    def _open(self, limits: Limits) -> IO[bytes]:
        return open_limited(self.path, self.name, limits)

    def _read_lines(self) -> Iterator[Line]:
        limits, too_long = Limits.load(), list[int]()
        with self._open(limits) as f:
            for line in read_lines(f, b"\n", limits.line_bytes, too_long.append):
                if too_long:
                    yield from ((number, None) for number in too_long)
                    too_long.clear()
                yield line
            yield from ((number, None) for number in too_long)

    def _parse_lines(self, lines: Iterable[Line], on_bad: BadRowHandler) -> Iterator[PlacedFields]:
        limits = Limits.load()
        for number, line in lines:
            place = f"{self.name}:{number}"
            if line is None:
                on_bad(limits.make_line_error(place))
                continue
            if not line.strip():
                continue
            try:
                limits.check_values(place, line)
                value = parse_json(line, has_mark=number == 1)
            except BadInput as e:
                on_bad(e)
                continue
            except (ValueError, RecursionError) as e:  # JSON errors, UTF-8 errors, and lists nested too deeply
                on_bad(_make_json_error(place, str(e)))
                continue
            if isinstance(value, dict):
                yield value, place
            else:
                on_bad(_make_row_error(value, place))

    def _read_json(self, on_bad: BadRowHandler) -> Iterator[PlacedFields]:
        limits = Limits.load()
        with self._open(limits) as f:
            try:
                for number, item in enumerate(read_array(f, self.name, limits), 1):
                    place = f"{self.name}: item {number}"
                    if isinstance(item, dict):
                        yield item, place
                    else:
                        on_bad(_make_row_error(item, place))
            except NotAnArray as e:
                raise BadInput(
                    self.name, expected="a JSON array of objects", fix="one object a line is .jsonl: rename it"
                ) from e
            except (ValueError, RecursionError) as e:
                raise _make_json_error(self.name, str(e)) from e

    def _read_parquet(self, on_bad: BadRowHandler) -> Iterator[PlacedFields]:
        import pyarrow

        limits = Limits.load()
        try:
            with self._open(limits) as f:
                for number, fields in read_parquet_rows(f, self.path, self.name, limits, on_bad):
                    yield fields, f"{self.name}: row {number}"
        except (pyarrow.ArrowException, OSError) as e:
            if isinstance(e, OSError) and e.errno is not None:  # Arrow's own have no number
                raise
            raise BadInput(self.name, expected="a Parquet file", fix=f"write it again ({str(e)[:200]})") from e

    def _list_data_files(self) -> list[Path]:
        """Return the files of a folder that are read one by one: those in it or, if there are none, those below it."""
        if not self.path.is_dir() or self._is_saved_dataset():
            return []
        # Of our own export the judgments, in which every vote is: its other folders say the same otherwise, or less.
        is_export = (self.path / "manifest.json").is_file() and (self.path / "judgments").is_dir()
        folder = self.path / "judgments" if is_export else self.path
        below = [path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path, folder)]
        data = sorted(path for path in below if _is_data_file(path))
        files = [path for path in data if path.parent == folder] or data
        if files:
            others = set(below) - set(files)
            self.unread |= Counter(_name_unread_file(path, self.path) for path in others)
        return files

    def _read_files(self, files: list[Path], on_bad: BadRowHandler) -> Iterator[SourceRow]:
        parts = {path: _find_part(path.relative_to(self.path)) for path in files}
        splits = _find_splits(set(parts.values()))
        for path in sorted(files, key=lambda path: SPLIT_ORDER.index(splits[parts[path]])):
            source = RowSource(path, self.column_map)
            source.unread, source.noted = self.unread, self.noted
            subset = _find_subset(path.relative_to(self.path).parent)
            for row in source.rows(on_bad):
                yield replace(row, split=splits[parts[path]], part=parts[path], subset=subset)

    def _read_dataset_rows(self) -> Iterator[SourceRow]:
        loaded = self._load()
        import datasets

        is_single = not isinstance(loaded, datasets.DatasetDict)
        parts: dict[str, Any] = {"": loaded} if is_single else {str(name): part for name, part in loaded.items()}
        split_by_part = _find_splits(set(parts))
        for name in sorted(parts, key=lambda n: SPLIT_ORDER.index(split_by_part[n])):
            part_name = f"{self.name}[{name}]" if name else self.name
            # As Arrow keeps it: `datasets` would open the files that images name.
            tables = parts[name].with_format("arrow").iter(ROWS_AT_ONCE)
            rows = (fields for table in tables for fields in table.to_pylist())
            for number, fields in enumerate(rows, 1):
                place = f"{part_name}: row {number}"
                yield SourceRow(
                    self._wrap(fields), place, split_by_part[name], name, unread=self.unread, noted=self.noted
                )

    def _is_saved_dataset(self) -> bool:
        return any((self.path / f).exists() for f in ("dataset_dict.json", "state.json"))

    def _load(self) -> Any:
        if self.path.is_dir():
            if not self._is_saved_dataset():
                # Not by `load_dataset`: it opens whatever files and addresses the card of a folder names.
                raise BadInput(
                    self.name,
                    expected=f"a folder with files ending in {', '.join(FILE_SUFFIXES)}, or a saved dataset",
                    fix="put the data into it in such a file"
                    if any(p.is_file() for p in self.path.rglob("*"))
                    else "it is empty: check the path",
                )
            _check_state(self.path)
        import datasets

        hub_id, _, config = self.name.partition(":")
        try:
            if self.path.is_dir():
                return datasets.load_from_disk(self.name)
            return load_hub_dataset(hub_id, config or None)
        # The errors of `load_dataset` (no network, no such set, a private set, a broken file) have no common base.
        except Exception as e:
            if self.path.is_dir():
                expected, fix = "a dataset saved by `datasets`", "check the folder"
            else:
                expected, fix = "a file, or a dataset the hub gives out", "check the name and the network"
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
            raise BadInput(self.name, expected=expected, fix=f"{fix} ({reason})") from e


def get_split_word(name: str) -> str:
    """Return the part of a split's name that tells which it is: "test" of Test_prefs."""
    return re.split(r"[^a-z]", name.strip().lower())[0]


def _check_state(folder: Path) -> None:
    """Refuse a saved dataset whose state names files outside of it, which `load_from_disk` would open.

    Raises:
        BadInput: it does, or it cannot be read.
    """
    root = folder.resolve()
    try:
        listing = folder / "dataset_dict.json"
        parts = json.loads(listing.read_text())["splits"] if listing.exists() else [""]
        for state in (folder / part / "state.json" for part in parts):
            names = [file["filename"] for file in json.loads(state.read_text())["_data_files"]]
            for path in (state, *(state.parent / name for name in names)):
                if not path.resolve().is_relative_to(root):
                    raise BadInput(
                        f"{folder}: it names {str(path)[:200]!r}",
                        expected="files within the folder",
                        fix="leave it out",
                    )
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as e:
        raise BadInput(
            str(folder), expected="a dataset saved by `datasets`", fix=f"save it again ({str(e)[:200]})"
        ) from e


def parse_json(line: bytes, *, has_mark: bool = False) -> Any:
    """Return what JSON in UTF-8 says, the same as Python's own `json` makes of it, several times as fast.

    Args:
        has_mark: whether it may begin with a byte order mark.

    Raises:
        ValueError, RecursionError: it is no JSON, no UTF-8, or nested too deeply.
    """
    if _LONG_NUMBER not in line.translate(_DIGITS_AS_ZEROS):  # orjson makes a float of an integer of so many digits
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(line)
    # Of NaN, halves of surrogate pairs and what is wrong, `json` says what it is.
    return json.loads(line.decode("utf-8-sig" if has_mark else "utf-8"))


_DIGITS_AS_ZEROS = bytes(ord("0") if ord("0") <= byte <= ord("9") else ord(" ") for byte in range(256))
_LONG_NUMBER = b"0" * 19


def _find_suffix(path: Path) -> str | None:
    name = path.name.lower().removesuffix(find_packing(path))
    return next((suffix for suffix in FILE_SUFFIXES if name.endswith(suffix)), None)


def _is_packed_otherwise(path: Path) -> bool:
    return path.name.lower().endswith((".zip", ".tar", ".tgz", ".7z", ".bz2", ".xz", ".rar", ".tar.gz", ".tar.zst"))


def _is_data_file(path: Path) -> bool:
    return _find_suffix(path) is not None and path.name not in NO_DATA_FILES


def _is_hidden(path: Path, folder: Path) -> bool:
    return path.name[0] in "._" or any(name[0] in "._" for name in path.relative_to(folder).parts)


def _name_unread_file(path: Path, folder: Path) -> str:
    """Return the name by which a file that is not read is counted: others than data files by their kind."""
    is_data = _is_data_file(path) or not path.suffix
    return f"file {path.relative_to(folder)}" if is_data else f"file ending in {path.suffix[:20]}"


def _find_subset(folder: Path) -> str:
    """Return the subset of a set that a folder within it says: all of its names that are no splits."""
    names = [name for name in folder.parts if name.lower() not in PLAIN_FOLDERS]
    return "/".join(name for name in names if _find_splits({name})[name] is None and name.lower() != "train")


def _find_part(path: Path) -> str:
    """Return the part of a set that a file in it belongs to: `raw` for data/raw-00000-of-00002.parquet.

    A folder that is named after a split, as in test/votes.jsonl, comes before the name of the file.
    """
    words = [re.split(r"[-.]", name)[0] for name in reversed(path.parts)]
    return next((word for word in words if _find_splits({word})[word] is not None), words[0])


def _find_splits(parts: set[str]) -> dict[str, Split | None]:
    """Return part → the split that its name says."""
    splits = {name: SPLIT_NAMES.get(get_split_word(name)) for name in parts}
    # Our own exports give the split of every prompt; other sets only tell what is not for training.
    if {"train", "calibration", "heldout"} == parts:
        splits["train"] = Split.TRAIN
    return splits


def _make_row_error(value: Any, place: str) -> BadInput:
    return BadInput(f"{place}: {str(value)[:60]!r}", expected="a JSON object", fix="correct the line")


def _make_json_error(place: str, reason: str) -> BadInput:
    return BadInput(
        place, expected="JSON in UTF-8", fix=f"correct the line, or skip such lines with --skip-bad ({reason})"
    )
