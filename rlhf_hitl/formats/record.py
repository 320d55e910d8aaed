"""The record that every outside format is read into: one comparison with at most one vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import Message, Messages, Split, Tools, Verdict, parse_messages


@dataclass(frozen=True)
class SourceRow:
    """One row of a file.

    `place` is where it is ("file:line"), `split` the split its file puts it in, `part` the part of a set with several.
    `unread` counts, for the whole import, what readers meet and do not read, by name: "message key weight".
    """

    fields: Mapping[str, Any]
    place: str
    split: Split | None = None
    part: str = ""
    unread: Counter[str] = field(default_factory=Counter, compare=False, repr=False)


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
    the file says so. A rater without a name is `unnamed`: each of their votes on a comparison is another rater's.
    """

    verdict: Verdict
    ranking: tuple[tuple[int, ...], ...] = ()
    rater: str = "unnamed"
    strength: int | None = None
    rationale: str = ""
    simulated: bool = False
    scores: Mapping[str, Mapping[int, int]] = field(default_factory=dict, hash=False)
    judged_at: datetime | None = None

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

    `completion` is the index of the completion in its record, `axis` what was rated ("helpfulness", "overall").
    """

    completion: int
    axis: str
    value: float
    lowest: float | None = None
    highest: float | None = None
    rater: str = "unnamed"
    rationale: str = ""
    simulated: bool = False
    judged_at: datetime | None = None


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


def make_field_error(
    row: SourceRow, name: str, expected: str, fix: str = "correct the line, or skip such lines with --skip-bad"
):
    """Return the error for one field of one row; it names file, line and field."""
    value_text = f" = {str(row.fields[name])[:60]!r}" if name in row.fields else " is missing"
    return BadInput(f"{row.place}: {name}{value_text}", expected=expected, fix=fix)


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
    """Return the field `tags`, an object of texts; {} where it is missing or null."""
    tags = row.fields.get("tags") or {}
    if not isinstance(tags, dict) or not all(isinstance(v, str) for v in tags.values()):
        raise make_field_error(row, "tags", "an object of texts")
    return tags


def read_chat_field(row: SourceRow, name: str) -> Messages:
    """Return a field that must be a list of chat messages. Empty messages are kept: a completion may be empty."""
    value = row.fields.get(name)
    if not isinstance(value, list) or not value:
        raise make_field_error(row, name, 'a list of messages {"role": text, "content": text}')
    try:
        return parse_messages(value, row.unread)
    except BadInput as e:
        raise BadInput(f"{row.place}: {name}: {e.value}", expected=e.expected, fix=e.fix) from e


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
