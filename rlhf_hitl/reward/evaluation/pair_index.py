"""An index of an evaluation's pairs: arrays of what pairs are filtered and sorted by. The texts stay in the file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import IO

import numpy as np
from pydantic import TypeAdapter, ValidationError

from rlhf_hitl.errors import BadInput, Conflict
from rlhf_hitl.reward.evaluation.slices import describe_pair
from rlhf_hitl.reward.evaluation.storage import PAIRS_FILE, make_unreadable_error
from rlhf_hitl.reward.evaluation_record import EvaluatedPair
from rlhf_hitl.reward.rendering import count_characters

MAX_TAG_VALUES = 100  # a tag with more values, such as an id, is no use as a filter

_PAIR_FORM = TypeAdapter(EvaluatedPair)


@dataclass(frozen=True, eq=False)
class EvaluationIndex:
    """What the `n` pairs of an evaluation are filtered and sorted by: 72 bytes for each pair, and four for each tag.

    Attributes:
        stamp: identifies the state of the file that was read; if it does not match any more, the file was replaced.
        start: (n + 1,) where each pair's line begins.
        comparison, label, family: (n,) digests of the comparison's id, of that with the ids of chosen and rejected, and
            of the prompt's family.
        wrong: (n,) the higher, the more confidently the model contradicts the raters: -margin, and |margin| for
            ties.
        unsure: (n,) the higher, the closer the model's probability is to one half.
        correct: (n,) 1, 0 or 0.5; NaN for ties.
        length: (n,) characters of both answers.
        tags: those of prompts and of `slices.describe_pair`: tag → its values, the most frequent first, and (n,) the
            number of the value that each pair has, -1 for none.
        reach: nearly all margins, with two standard deviations, are no larger than this.
    """

    path: Path
    stamp: tuple[int, ...]
    start: np.ndarray
    comparison: np.ndarray
    label: np.ndarray
    family: np.ndarray
    wrong: np.ndarray
    unsure: np.ndarray
    correct: np.ndarray
    length: np.ndarray
    tags: Mapping[str, tuple[tuple[str, ...], np.ndarray]]
    reach: float

    def __len__(self) -> int:
        return len(self.length)


def load_index(folder: Path) -> EvaluationIndex:
    """Return the index of an evaluation's pairs, built once for each state of the file.

    Raises:
        NotFound: the file does not exist (any more).
        BadInput: a line is not a pair.
    """
    try:
        return _build_index(folder / PAIRS_FILE, _make_stamp(os.stat(folder / PAIRS_FILE)))
    except OSError as e:
        raise make_unreadable_error(folder.name) from e


def read_rows(index: EvaluationIndex, rows: np.ndarray | list[int]) -> list[EvaluatedPair]:
    """Read the pairs of these rows from the file.

    Raises:
        Conflict: the file was replaced since it was indexed.
    """
    with open_pairs_file(index.path, index.stamp) as file:
        pairs = []
        for row in rows:
            file.seek(int(index.start[row]))
            pairs.append(_parse_pair(index.path, row, file.read(int(index.start[row + 1] - index.start[row]))))
        return pairs


def make_pair_key(index: EvaluationIndex, row: int, pair: EvaluatedPair) -> str:
    """Return a pair's key in addresses: the id of its comparison, and for the second of its pairs `id.2`."""
    earlier = int((index.comparison[:row] == index.comparison[row]).sum())
    return f"{pair.comparison_id}.{earlier + 1}" if earlier else pair.comparison_id


def find_row_by_key(index: EvaluationIndex, key: str) -> int | None:
    """Return the row of the pair with this key; None if there is none."""
    for comparison_id, nth in ((key, "1"), (*key.rpartition(".")[::2],)):
        rows = np.flatnonzero(index.comparison == _digest(comparison_id))
        if nth.isdecimal() and 0 < int(nth) <= len(rows):
            return int(rows[int(nth) - 1])
    return None


def open_pairs_file(path: Path, stamp: tuple[int, ...]) -> IO[bytes]:
    """Open a file of pairs.

    Raises:
        NotFound: the file does not exist (any more).
        Conflict: it was replaced since it had this stamp.
    """
    try:
        file = path.open("rb", buffering=1 << 20)
    except OSError as e:
        raise make_unreadable_error(path.parent.name) from e
    if _make_stamp(os.fstat(file.fileno())) != stamp:
        file.close()
        raise Conflict(f"The evaluation {path.parent.name!r} was replaced meanwhile. Reload the page.")
    return file


@lru_cache(maxsize=8)
def _build_index(path: Path, stamp: tuple[int, ...]) -> EvaluationIndex:
    start, digests, figures, tags = [0], [], [], _TagColumns()
    with open_pairs_file(path, stamp) as file:
        for row, line in enumerate(file):
            pair = _parse_pair(path, row, line)
            start.append(start[-1] + len(line))
            label = f"{pair.comparison_id}\n{pair.chosen_id}\n{pair.rejected_id}"
            digests.append((_digest(pair.comparison_id), _digest(label), _digest(pair.family)))
            correct = np.nan if pair.correct is None else pair.correct
            length = count_characters(pair.chosen) + count_characters(pair.rejected)
            figures.append((pair.margin, pair.uncertainty, pair.probability, correct, length))
            tags.add_row(describe_pair(pair) | dict(pair.tags))
    comparison, label, family = np.array(digests, np.uint64).reshape(-1, 3).T
    margin, std, probability, correct, length = np.array(figures, float).reshape(-1, 5).T
    return EvaluationIndex(
        path=path,
        stamp=stamp,
        start=np.array(start),
        comparison=comparison,
        label=label,
        family=family,
        wrong=np.where(np.isnan(correct), np.abs(margin), -margin),
        unsure=-np.abs(probability - 0.5),
        correct=correct,
        length=length,
        tags=tags.to_arrays(),
        reach=float(np.quantile(np.abs(margin) + 2 * std, 0.98)) if len(margin) else 1.0,
    )


class _TagColumns:
    """Collects the tags of pairs row by row, each value as a number."""

    def __init__(self) -> None:
        self.n = 0
        # tag → (value → number, (row, number) of each row that has the tag)
        self.columns: dict[str, tuple[dict[str, int], list[tuple[int, int]]]] = {}

    def add_row(self, tags: Mapping[str, str]) -> None:
        for tag, value in tags.items():
            numbers, entries = self.columns.setdefault(tag, ({}, []))
            entries.append((self.n, numbers.setdefault(str(value), len(numbers))))
        self.n += 1

    def to_arrays(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Return tag → its values, the most frequent first, and (n,) the number of each row's value, -1 for none."""
        return {
            tag: self._to_array(numbers, entries)
            for tag, (numbers, entries) in sorted(self.columns.items())
            if len(numbers) <= MAX_TAG_VALUES
        }

    def _to_array(self, numbers: dict[str, int], entries: list[tuple[int, int]]) -> tuple[tuple[str, ...], np.ndarray]:
        frequency = Counter(number for _, number in entries)
        values = sorted(numbers, key=lambda value: (-frequency[numbers[value]], value))
        place = np.empty(len(numbers), np.int32)
        place[[numbers[value] for value in values]] = np.arange(len(values))
        array = np.full(self.n, -1, np.int32)
        rows, row_numbers = np.array(entries).T
        array[rows] = place[row_numbers]
        return tuple(values), array


def _parse_pair(path: Path, row: int, line: bytes) -> EvaluatedPair:
    try:
        if line.endswith(b"\n"):  # otherwise it is cut off, if only by its last letter
            return _PAIR_FORM.validate_json(line)
    except ValidationError:
        pass
    raise BadInput(
        f"{path.parent.name}/{path.name}:{row + 1}", expected="a pair as `evaluate` writes it", fix="evaluate again"
    )


def _digest(text: str) -> int:
    """Return 64 bits: among a million ids, two collide with a probability of 3e-8."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _make_stamp(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
