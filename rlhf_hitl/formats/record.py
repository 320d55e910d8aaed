"""The record that every outside format is read into: one comparison with at most one vote."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.written_values import decode_value, find_messages, looks_like_messages
from rlhf_hitl.types import Message, Messages, Split, Tools, Verdict, parse_messages
from rlhf_hitl.types.messages import MAX_UNREAD_NAMES, parse_tools
from rlhf_hitl.types.names import UNNAMED as UNNAMED


class Fields(dict[str, Any]):
    """The columns of a row, or the keys of an object in it. They remember what was asked for: the others are not read.

    `name in fields` and loops ask for nothing. `read` is column → what it is read as.
    """

    __slots__ = ("read",)

    def __init__(self, fields: Mapping[str, Any]):
        super().__init__(fields)
        self.read: dict[str, str] = {}

    def __getitem__(self, name: str) -> Any:
        self.read.setdefault(name, name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:  # type: ignore[override]
        self.read.setdefault(name, name)
        return super().get(name, default)

    def list_unread(self) -> list[str]:
        """Return the columns that hold something and that nobody asked for."""
        left = self.keys() - self.read.keys()
        return [name for name in left if not is_nothing(dict.get(self, name))] if left else []


@dataclass(frozen=True)
class SourceRow:
    """One row of a file.

    `place` is where it is ("file:line"), `split` the split its file puts it in, `part` the part of a set with several,
    `subset` the folder of the set that its file lies in.

    What is met and not read is counted in `unread`, for the whole import, by name: "message key weight". Columns are
    counted by `count_unread`: those that the reader did not ask `fields` for. `noted` counts what a reader decided that
    a user has to know: "rating contradicts the choice".

    `inner` are objects within the row that are read as rows are, each with what its keys are called.
    """

    fields: Fields
    place: str
    split: Split | None = None
    part: str = ""
    unread: Counter[str] = field(default_factory=Counter, compare=False, repr=False)
    noted: Counter[str] = field(default_factory=Counter, compare=False, repr=False)
    subset: str = ""
    inner: list[tuple[str, SourceRow]] = field(default_factory=list, compare=False, repr=False)

    def take(self, name: str, meaning: str) -> Any:
        """Return a column, or None, and note what it is read as."""
        self.fields.read[name] = meaning
        return dict.get(self.fields, name)

    def look(self, name: str) -> Any:
        """Return a column, or None, without reading it."""
        return dict.get(self.fields, name)

    def find(self, names: Iterable[str]) -> str | None:
        """Return the first of some columns that holds something, without reading it."""
        fields = self.fields
        for name in names:  # for each row, and hardly any of them is there
            if name in fields and not is_nothing(dict.get(fields, name)):
                return name
        return None

    def count_noted(self, what: str, others: str) -> None:
        """Count something noted that has a name of the file in it; as `others` where there are too many names."""
        self.noted[what if what in self.noted or len(self.noted) < MAX_UNREAD_NAMES else others] += 1

    def enter(self, value: Mapping[Any, Any], keys: str, place: str = "") -> SourceRow:
        """Return an object within this row as a row, at a `place` in it. Its `keys` that nobody asks for are counted
        with the columns of this row."""
        fields = Fields({str(key): inner for key, inner in value.items()})
        part = replace(self, fields=fields, place=f"{self.place}: {place}" if place else self.place, inner=[])
        self.inner.append((keys, part))
        return part


def is_nothing(value: Any) -> bool:
    """Return whether a value is an empty cell: null, NaN as pandas writes it, or a text or a list of nothing."""
    if value is None:
        return True
    return math.isnan(value) if isinstance(value, float) else isinstance(value, str | list | dict) and not value


@dataclass(frozen=True)
class ImportCompletion:
    """One completion of an imported comparison."""

    messages: Messages
    policy: str
    sampling: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ImportVote:
    """One rater's vote. `ranking` holds groups of indices into the record's completions, best first.

    `scores` are axis → index of a completion → 1 to 5; `judged_at`, with its time zone, is when the rater voted, where
    the file says so. `judge` is true where the rater is a model. A rater without a name is `unnamed`: each of their
    votes on a comparison is another rater's.
    """

    verdict: Verdict
    ranking: tuple[tuple[int, ...], ...] = ()
    rater: str = UNNAMED
    strength: int | None = None
    rationale: str = ""
    simulated: bool = False
    scores: Mapping[str, Mapping[int, int]] = field(default_factory=dict, hash=False)
    judged_at: datetime | None = None
    judge: bool = False

    @classmethod
    def of_pair(cls, outcome: str, **more: Any) -> ImportVote:
        """Return a vote on two completions; `outcome` is `first`, `second`, `tie` or `all_bad`."""
        match outcome:
            case "first":
                return cls(Verdict.RANKED, ((0,), (1,)), **more)
            case "second":
                return cls(Verdict.RANKED, ((1,), (0,)), **more)
            case "tie":
                return cls(Verdict.RANKED, ((0, 1),), **more)
            case "all_bad":
                return cls(Verdict.ALL_BAD, **more)
        raise ValueError(outcome)


@dataclass(frozen=True)
class ImportRating:
    """A rater's number for one completion by itself, on the file's own scale: from `lowest` to `highest`, where known.

    `judge` is true where the rater is a model.

    `completion` is the index of the completion in its record, `axis` what was rated ("helpfulness", "overall").
    """

    completion: int
    axis: str
    value: float
    lowest: float | None = None
    highest: float | None = None
    rater: str = UNNAMED
    rationale: str = ""
    simulated: bool = False
    judged_at: datetime | None = None
    judge: bool = False


@dataclass(frozen=True)
class ImportRecord:
    """One imported comparison, with its completions in the file's order.

    With fewer than two completions it adds only a prompt (and a completion). `order_known` is true if the file's order
    is the order the rater saw, and false if the file always puts the preferred completion first. `batch` is the file's
    own name for the set of comparisons that this one belongs to.
    """

    prompt: Messages
    completions: tuple[ImportCompletion, ...]
    place: str
    vote: ImportVote | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    split: Split | None = None
    order_known: bool = True
    batch: str = ""
    tools: Tools = ()
    ratings: tuple[ImportRating, ...] = ()


NEAR = 0.75  # how alike two names are, of at most 1, for one to be taken for a misspelling of the other
_NUMBERED = re.compile(r"\d+$|[_ -]\w$")  # the end of a name that is one of several
CHAT = 'a list of messages {"role": text, "content": text}'
FIX = "correct the line, or skip such lines with --skip-bad"


def make_field_error(row: SourceRow, name: str, expected: str, fix: str = FIX) -> BadInput:
    """Return the error for one field of one row; it names file, line and field."""
    if name in row.fields:
        return make_value_error(row, name, row.look(name), expected, fix)
    if (near := _find_near(name, row.fields)) is not None:  # of a folder, one file may have other names than the first
        fix = f"did you mean {name} for {near[:60]}? Rename the column, or skip such lines with --skip-bad"
    return BadInput(f"{row.place}: {name} is missing", expected=expected, fix=fix)


def _find_near(name: str, fields: Fields) -> str | None:
    """Return the column that a missing one may be by a misspelling; response_1 is none of response_2."""
    spelled = {other.lower(): other for other in fields if other not in fields.read}
    near = get_close_matches(name.lower(), spelled, 1, NEAR)
    ends = [end[0] if (end := _NUMBERED.search(one)) else "" for one in (name.lower(), *near)]
    return spelled[near[0]] if near and ends[0] == ends[1] else None


def make_value_error(row: SourceRow, name: str, value: Any, expected: str, fix: str = FIX) -> BadInput:
    """Return the error for a value within a row; `name` says where it is."""
    shown = repr(value[:60]) if isinstance(value, str) else repr(value)[:60]  # null is not the text "None"
    return BadInput(f"{row.place}: {name} = {shown}", expected=expected, fix=fix)


def read_text_field(row: SourceRow, name: str) -> str:
    """Return a field that must be non-empty text."""
    value = row.fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise make_field_error(row, name, "text that is not empty")
    return value


def read_string_field(row: SourceRow, name: str) -> str:
    """Return a field that must be text and may be empty, because a completion may be empty."""
    value = row.fields.get(name)
    if not isinstance(value, str):
        raise make_field_error(row, name, "text")
    return value


def read_choice_field(row: SourceRow, name: str, choices: Mapping[str, str]) -> str:
    """Return the entry of `choices` for the value of a field."""
    value = row.fields.get(name)
    if not isinstance(value, str) or value not in choices:
        raise make_field_error(row, name, " or ".join(repr(c) for c in choices))
    return choices[value]


def read_tags_field(row: SourceRow) -> dict[str, str]:
    """Return the field `tags`, an object of texts, or its JSON text; {} where it is missing or null."""
    tags = _decode_field(row, "tags") or {}
    if not isinstance(tags, dict) or not all(isinstance(v, str) for v in tags.values()):
        raise make_field_error(row, "tags", "an object of texts")
    return tags


def read_list_field(row: SourceRow, name: str) -> list[Any]:
    """Return a field that must be a list, or the text of one, as CSV files have it; [] where it is missing or null."""
    value = _decode_field(row, name)
    if hasattr(value, "tolist"):  # a NumPy array
        value = value.tolist()
    if is_nothing(value):
        return []
    if not isinstance(value, list | tuple):
        raise make_field_error(row, name, "a list")
    return list(value)


def _decode_field(row: SourceRow, name: str) -> Any:
    """Return a field; a text that is written as a list or an object is decoded."""
    value = row.fields.get(name)
    if not isinstance(value, str):
        return value
    try:
        return decode_value(value) if value.strip() else None
    except ValueError as e:
        raise make_field_error(row, name, f"a value that can be read ({e})") from e


def read_raw_messages(row: SourceRow, name: str, meaning: str = "") -> list[Any] | None:
    """Return the messages in a field as the file has them: in a list, an object, or a text of either. None for others.

    Raises:
        BadInput: it is a text that begins as messages do and cannot be decoded.
    """
    value = row.look(name)
    if type(value) is list and value and all(isinstance(item, Mapping) for item in value):
        row.take(name, meaning or name)
        return value
    messages = _decode_messages(row, name, value)
    if messages is not None:
        row.take(name, meaning or name)
    return messages


def _decode_messages(row: SourceRow, name: str, value: Any) -> list[Any] | None:
    if type(value) is str:
        if not looks_like_messages(value):
            return None
        try:
            value = decode_value(value)
        except ValueError as e:
            raise make_value_error(row, name, value, f"messages that can be read ({e})") from e
    return find_messages(value)


def read_chat_field(row: SourceRow, name: str) -> Messages:
    """Return a field that must be a list of chat messages. Empty messages are kept: a completion may be empty."""
    value = row.fields.get(name)
    if name not in row.fields:
        raise make_field_error(row, name, CHAT)
    return parse_chat(row, name, value)


def parse_chat(row: SourceRow, name: str, value: Any) -> Messages:
    """Return a value within a row that must be a list of chat messages; `name` says where it is."""
    raw = value if isinstance(value, list) else _decode_messages(row, name, value)
    if not raw:
        raise make_value_error(row, name, value, CHAT)
    return parse_raw_messages(row, name, raw)


def parse_raw_messages(row: SourceRow, name: str, raw: list[Any]) -> Messages:
    """Return the messages of a field; the error for one names file, line and field."""
    try:
        return parse_messages(raw, row.unread)
    except BadInput as e:
        raise BadInput(f"{row.place}: {name}: {e.value}", expected=e.expected, fix=e.fix) from e


def read_scores_field(row: SourceRow, n: int) -> dict[str, dict[int, int]]:
    """Return axis → completion → score from the field `scores`: {axis: [a score of 1 to 5, or null, for each]}."""
    value = _decode_field(row, "scores") or {}
    expected = f"{{axis: [{n} scores of 1 to 5, null where there is none]}}"
    if not isinstance(value, dict):
        raise make_field_error(row, "scores", expected)
    scores: dict[str, dict[int, int]] = {}
    for axis, given in value.items():
        if given is None:  # Arrow adds the axes of other rows
            continue
        if not isinstance(given, list) or len(given) != n:
            raise make_field_error(row, "scores", expected)
        if not all(s is None or (type(s) is int and 1 <= s <= 5) for s in given):
            raise make_field_error(row, "scores", expected)
        scores[str(axis)] = {i: s for i, s in enumerate(given) if s is not None}
    return {axis: given for axis, given in scores.items() if given}


def read_tools_field(row: SourceRow) -> Tools:
    """Return the tools that a row's prompt offers."""
    value = row.fields.get("tools")
    try:
        return () if is_nothing(value) else parse_tools(value)
    except BadInput as e:
        raise BadInput(f"{row.place}: {e.value}", expected=e.expected, fix=e.fix) from e


def count_unread(row: SourceRow, keys: str = "column") -> None:
    """Count what nobody asked for of a row that was read: its columns, and the keys of the objects within it."""
    unread = row.unread
    for name in row.fields.list_unread():
        what = f"{keys} {str(name)[:60] or 'without a name'}"
        unread[what if what in unread or len(unread) < MAX_UNREAD_NAMES else f"other {keys}s"] += 1
    for keys_within, part in row.inner:
        count_unread(part, keys_within)


def add_unread(unread: Counter[str], more: Mapping[str, int]) -> None:
    """Add counts of what is not read to others, so that they do not have too many names together either."""
    for name, n in more.items():
        unread[name if name in unread or len(unread) < MAX_UNREAD_NAMES else "other names"] += n


def sort_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts by name, the largest first and equal ones by name: columns come in no order of their own."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def split_shared_prompt(first: Messages, second: Messages) -> tuple[Messages, Messages, Messages] | None:
    """Return (prompt, rest of first, rest of second), with the longest shared prompt before an assistant message.

    The prompt never ends with an assistant message: where two conversations differ in the second of two assistant
    messages in a row, both messages are the completion. Identical conversations are split before the last answer.
    Returns None if there is no such start.
    """
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    for n in range(shared, 0, -1):
        both_continue = all(n < len(chat) and chat[n].role == "assistant" for chat in (first, second))
        if both_continue and first[n - 1].role != "assistant":
            return first[:n], first[n:], second[n:]
    return None


def make_assistant_message(text: str) -> Messages:
    """Return a completion of one assistant message."""
    return (Message("assistant", text),)
