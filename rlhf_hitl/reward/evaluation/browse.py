"""Finding examples in an evaluation of any size: what they are found by is in arrays, and texts stay in the file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import IO, Literal

import numpy as np
import orjson
from pydantic import TypeAdapter, ValidationError

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.reward.evaluation.compare import difference
from rlhf_hitl.reward.evaluation.slices import characters, traits
from rlhf_hitl.reward.evaluation_record import EXAMPLES, SUMMARY, Difference, Evaluation, Example, load

Show = Literal["disagreements", "agreements", "ties", "all", "one_right", "first_right", "second_right", "none_right"]
Order = Literal["wrong", "unsure", "longest", "replayed"]

_FORM = TypeAdapter(Example)
MOST_VALUES = 100  # of a tag that has more, such as an id, it is not worth choosing one


@dataclass(frozen=True, eq=False)
class Index:
    """What `n` examples are found by, 72 bytes of each and four for every tag.

    Attributes:
        stamp: of the file as it was read; another stands there if it does not match any more.
        start: (n + 1,) where each example's line begins.
        comparison, label, family: (n,) digests of the comparison's id, of that with the ids of chosen and rejected, and
            of the prompt's family.
        wrong: (n,) the higher, the surer the model of what raters did not say: -margin, and |margin| of ties.
        unsure: (n,) the higher, the closer the model's probability is to one half.
        correct: (n,) 1, 0 or 0.5, NaN of ties.
        length: (n,) characters of both answers.
        tags: of prompts, and `slices.traits`: tag → its values, the most frequent first, and (n,) which of them each
            example has: -1 for none.
        reach: margins up to here, with two standard deviations, are nearly all there are.
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


@dataclass(frozen=True)
class Query:
    """Which examples, and in which order. `first_right` and its like need a second evaluation to compare with; every
    one of the `words` occurs in the prompt or an answer, whatever its case."""

    show: Show = "disagreements"
    tag: tuple[str, str] | None = None
    order: Order = "wrong"
    words: str = ""


@dataclass(frozen=True)
class Both:
    """Labels without ties that two evaluations share, as rows of the first, and who is right. Whoever has more of a
    label right (equal rewards are half right) is right alone, as in `compare.compare`. `difference` is the first's less
    the second's; None where they share no label."""

    rows: np.ndarray
    first_right: np.ndarray
    second_right: np.ndarray
    both_right: np.ndarray
    difference: Difference | None

    @property
    def one_right(self) -> np.ndarray:
        return self.first_right | self.second_right

    @property
    def none_right(self) -> np.ndarray:
        return ~(self.one_right | self.both_right)


def named(workspace: Path, name: str) -> Path:
    """The folder of the workspace's evaluation of this name. No other folder can be named.

    Raises:
        NotFound: the workspace has none.
    """
    found = {path.parent.name: path.parent for path in (workspace / "evaluations").glob(f"*/{SUMMARY}")}
    if name not in found:
        raise NotFound(f"evaluation {name[:80]!r}", expected="one of the workspace's", fix="choose one from the list")
    return found[name]


def summary(folder: Path) -> Evaluation:
    """`evaluation.load`, where the file is gone, half-written or of another version in a line without its path."""
    try:
        return load(folder)
    except (BadInput, OSError, ValueError) as e:
        raise _unreadable(folder.name) from e


def index(folder: Path) -> Index:
    """The index of the folder's examples, read once for each state of the file.

    Raises:
        NotFound: there is no such file (any more).
        BadInput: a line is no example.
    """
    try:
        return _index(folder / EXAMPLES, _stamp(os.stat(folder / EXAMPLES)))
    except OSError as e:
        raise _unreadable(folder.name) from e


def find(of: Index, query: Query, beside: Index | None = None) -> np.ndarray:
    """The rows a query is after, in its order."""
    keep = _shown(of, query.show, beside)
    if query.tag:
        values, which = of.tags.get(query.tag[0], ((), np.zeros(0)))
        keep = keep & (which == values.index(query.tag[1])) if query.tag[1] in values else np.zeros(len(of), bool)
    if query.words.split():
        keep = keep & _with_words(of, tuple(query.words.casefold().split()))
    rows = np.flatnonzero(keep)
    if query.order == "replayed":
        return rows
    by = {"wrong": of.wrong, "unsure": of.unsure, "longest": of.length}[query.order]
    return rows[np.argsort(-by[rows], kind="stable")]


def read(of: Index, rows: np.ndarray | list[int]) -> list[Example]:
    """The examples of these rows.

    Raises:
        Conflict: the file was replaced since it was indexed.
    """
    with _opened(of.path, of.stamp) as file:
        examples = []
        for row in rows:
            file.seek(int(of.start[row]))
            examples.append(_example(of.path, row, file.read(int(of.start[row + 1] - of.start[row]))))
        return examples


def key(of: Index, row: int, example: Example) -> str:
    """What an example is called in addresses: the id of its comparison, and for the second of its pairs `id.2`."""
    before = int((of.comparison[:row] == of.comparison[row]).sum())
    return f"{example.comparison_id}.{before + 1}" if before else example.comparison_id


def row_of(of: Index, key: str) -> int | None:
    """The row of the example with this key; None where there is none."""
    for comparison_id, nth in ((key, "1"), (*key.rpartition(".")[::2],)):
        rows = np.flatnonzero(of.comparison == _digest(comparison_id))
        if nth.isdecimal() and 0 < int(nth) <= len(rows):
            return int(rows[int(nth) - 1])
    return None


@lru_cache(maxsize=16)
def both(of: Index, beside: Index) -> Both:
    """Two evaluations beside each other."""
    decided, decided_beside = (np.flatnonzero(~np.isnan(i.correct)) for i in (of, beside))
    _, at, at_beside = np.intersect1d(of.label[decided], beside.label[decided_beside], return_indices=True)
    rows = decided[at]
    first, second = of.correct[rows], beside.correct[decided_beside[at_beside]]
    found = difference(first - second, of.family[rows], beside.path.parent.name) if len(rows) else None
    return Both(rows, first > second, first < second, (first == 1) & (second == 1), found)


def _shown(of: Index, show: Show, beside: Index | None) -> np.ndarray:
    """(n,) which examples `show` means. Equal rewards side with nobody, so they are among the disagreements."""
    match show:
        case "all":
            return np.ones(len(of), bool)
        case "ties":
            return np.isnan(of.correct)
        case "agreements":
            return of.correct == 1
        case "disagreements":
            return of.correct < 1
    if beside is None:
        raise BadInput(f"show={show}", expected="a second evaluation to compare with", fix="choose two of the list")
    two = both(of, beside)
    wanted: np.ndarray = getattr(two, show)
    keep = np.zeros(len(of), bool)
    keep[two.rows[wanted]] = True
    return keep


@lru_cache(maxsize=32)
def _with_words(of: Index, words: tuple[str, ...]) -> np.ndarray:
    """(n,) whether every word, casefolded, is in an example's text. The file is read through, a line at a time."""
    keep = np.zeros(len(of), bool)
    with _opened(of.path, of.stamp) as file:
        for row, line in enumerate(file):
            example = orjson.loads(line)  # three times as fast as `_example`, and the index has found it to be one
            chats = example["prompt"], example["chosen"], example["rejected"]
            text = "\n".join(m["content"] for chat in chats for m in chat).casefold()
            keep[row] = all(word in text for word in words)
    return keep


@lru_cache(maxsize=8)
def _index(path: Path, stamp: tuple[int, ...]) -> Index:
    start, digests, figures, tags = [0], [], [], _Tags()
    with _opened(path, stamp) as file:
        for row, line in enumerate(file):
            e = _example(path, row, line)
            start.append(start[-1] + len(line))
            label = f"{e.comparison_id}\n{e.chosen_id}\n{e.rejected_id}"
            digests.append((_digest(e.comparison_id), _digest(label), _digest(e.family)))
            correct = np.nan if e.correct is None else e.correct
            length = characters(e.chosen) + characters(e.rejected)
            figures.append((e.margin, e.uncertainty, e.probability, correct, length))
            tags.add(traits(e) | dict(e.tags))
    comparison, label, family = np.array(digests, np.uint64).reshape(-1, 3).T
    margin, std, probability, correct, length = np.array(figures, float).reshape(-1, 5).T
    return Index(
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
        tags=tags.arrays(),
        reach=float(np.quantile(np.abs(margin) + 2 * std, 0.98)) if len(margin) else 1.0,
    )


class _Tags:
    """Tags of examples as they come, each value a number."""

    def __init__(self) -> None:
        self.n = 0
        self.found: dict[str, tuple[dict[str, int], list[tuple[int, int]]]] = {}

    def add(self, tags: Mapping[str, str]) -> None:
        for tag, value in tags.items():
            numbers, which = self.found.setdefault(tag, ({}, []))
            which.append((self.n, numbers.setdefault(str(value), len(numbers))))
        self.n += 1

    def arrays(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        return {tag: self._array(*self.found[tag]) for tag in sorted(self.found) if self._is_worth(tag)}

    def _is_worth(self, tag: str) -> bool:
        return len(self.found[tag][0]) <= MOST_VALUES

    def _array(self, numbers: dict[str, int], which: list[tuple[int, int]]) -> tuple[tuple[str, ...], np.ndarray]:
        often = Counter(number for _, number in which)
        values = sorted(numbers, key=lambda value: (-often[numbers[value]], value))
        place = np.empty(len(numbers), np.int32)
        place[[numbers[value] for value in values]] = np.arange(len(values))
        array = np.full(self.n, -1, np.int32)
        rows, given = np.array(which).T
        array[rows] = place[given]
        return tuple(values), array


def _example(path: Path, row: int, line: bytes) -> Example:
    try:
        if line.endswith(b"\n"):  # else it is cut off, if only by its last letter
            return _FORM.validate_json(line)
    except ValidationError:
        pass
    raise BadInput(
        f"{path.parent.name}/{path.name}:{row + 1}", expected="an example as `evaluate` writes it", fix="evaluate again"
    )


def _digest(text: str) -> int:
    """64 bits: of a million ids, two share one with a probability of 3e-8."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_mtime_ns, found.st_size


def _opened(path: Path, stamp: tuple[int, ...]) -> IO[bytes]:
    try:
        file = path.open("rb", buffering=1 << 20)
    except OSError as e:
        raise _unreadable(path.parent.name) from e
    if _stamp(os.fstat(file.fileno())) != stamp:
        file.close()
        raise Conflict(f"The evaluation {path.parent.name!r} was made anew meanwhile. Reload the page.")
    return file


def _unreadable(name: str) -> NotFound:
    return NotFound(f"evaluation {name!r}", expected="whole files of this version", fix="evaluate again")
