"""The usual names of columns, and how they are read. `docs/importing.md` lists them for users.

The names come from published sets and tools: `question` and `system` (Orca pairs), `instruction`, `input` and
`history` (Alpaca, LLaMA-Factory), `query` (sets of reward models), `annotator_id`, `worker_id`, `user_id` (crowd
tools). The first of them that holds something is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rlhf_hitl.formats.record import (
    UNNAMED,
    SourceRow,
    is_nothing,
    make_field_error,
    read_list_field,
    read_raw_messages,
)

PROMPT = ("prompt", "question", "instruction", "query", "input")
SYSTEM = ("system", "system_prompt", "system_message")
RATER = (
    "rater", "annotator", "rater_id", "annotator_id", "worker", "worker_id", "WorkerId", "user_id", "judge", "labeler",
    "labeler_id", "evaluator", "evaluator_id", "rater_name", "annotator_name",
)  # fmt: skip
RATIONALE = ("rationale", "reason", "explanation", "justification")
JUDGED_AT = ("judged_at", "annotated_at", "timestamp", "tstamp")
STRENGTH = ("strength", "preference_strength")
IMAGES = ("images", "image")
#: All that a reader of comparisons may read besides the answers.
COMMON = (*PROMPT, *SYSTEM, "history", "tools", *IMAGES, *RATER, *RATIONALE, *JUDGED_AT, *STRENGTH)

LATEST_SECONDS = 1e11  # a larger moment is in milliseconds


def find_column(row: SourceRow, names: Sequence[str]) -> str | None:
    """Return the first of some columns that holds something, without reading it."""
    fields = row.fields
    for name in names:  # for each row, and hardly any of them is there
        if name in fields and not is_nothing(row.look(name)):
            return name
    return None


def has_column(fields: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Return whether a row has one of some columns."""
    return any(name in fields for name in names)


def read_rater(row: SourceRow, names: Sequence[str] = RATER) -> str:
    """Return the name of the rater; a number is a name, 0 too. `UNNAMED` where there is none."""
    name = find_column(row, names)
    if name is None:
        return UNNAMED
    value = row.take(name, "rater")
    if isinstance(value, float) and math.isnan(value):
        return UNNAMED
    if isinstance(value, float) and value.is_integer():  # as pandas writes a column of ids in which one is missing
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise make_field_error(row, name, "the rater's name or number")
    return str(value).strip() or UNNAMED


def read_rationale(row: SourceRow) -> str:
    name = find_column(row, RATIONALE)
    value = "" if name is None else row.take(name, "rationale")
    if not isinstance(value, str):
        raise make_field_error(row, name or "", "text")
    return value


def read_strength(row: SourceRow) -> int | None:
    """Return the strength of a preference, 1 to 3, or 0 where a file says that there is none; None where it is silent.

    Raises:
        BadInput: it is another value.
    """
    name = find_column(row, STRENGTH)
    if name is None:
        return None
    value = read_number(row.take(name, "strength"))
    if value is None or value not in (0, 1, 2, 3):
        expected = "1 (slightly), 2 (clearly) or 3 (much better), or 0 for a tie"
        raise make_field_error(row, name, expected, f"correct it, or leave the column out with --map {name}=")
    return int(value)


def read_judged_at(row: SourceRow) -> datetime | None:
    """Return when the rater voted: an ISO 8601 text, or seconds or milliseconds since 1970; UTC without a zone."""
    name = find_column(row, JUDGED_AT)
    return None if name is None else parse_moment(row, name, row.take(name, "time of the vote"))


def parse_moment(row: SourceRow, name: str, value: Any) -> datetime:
    """Return a moment in time; `name` is the column's, for the error."""
    try:
        if isinstance(value, datetime):
            moment = value
        elif (seconds := read_number(value)) is not None:
            moment = datetime.fromtimestamp(seconds / 1000 if abs(seconds) > LATEST_SECONDS else seconds, UTC)
        else:
            moment = datetime.fromisoformat(str(value).strip())
    except (ValueError, OverflowError, OSError) as e:
        raise make_field_error(
            row, name, "a time such as 2026-05-01T12:30:00Z", f"correct it, or leave the column out with --map {name}="
        ) from e
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def read_number(value: Any) -> float | None:
    """Return a number, which a CSV file writes as text; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_prompt(row: SourceRow) -> list[Any] | None:
    """Return the prompt's messages as the file has them: the system message, earlier turns, and the prompt itself.

    None where no column holds a prompt. An `input` beside an `instruction` follows it after a blank line.
    """
    name = find_column(row, PROMPT)
    if name is None:
        return None
    messages = read_raw_messages(row, name, "prompt")
    if messages is None:
        text = row.take(name, "prompt")
        if not isinstance(text, str) or not text.strip():
            raise make_field_error(row, name, "text that is not empty, or messages")
        if name == "instruction" and not is_nothing(more := row.look("input")):
            row.take("input", "prompt")
            if not isinstance(more, str):
                raise make_field_error(row, "input", "text")
            text = f"{text}\n\n{more}"
        messages = [*_read_history(row), *(_parse_transcript(text) or [{"role": "user", "content": text}])]
    return add_system(row, messages)


def add_system(row: SourceRow, messages: list[Any]) -> list[Any]:
    """Return messages with the row's system message before them; one that is there already is kept instead."""
    name = find_column(row, SYSTEM)
    if name is None:
        return messages
    text = row.look(name)
    if not isinstance(text, str):
        raise make_field_error(row, name, "the text of a system message")
    if not text.strip():
        row.take(name, "system message")
        return messages
    first = messages[0] if messages and isinstance(messages[0], Mapping) else {}
    if first.get("role") in ("system", "developer"):
        if first.get("content") == text:
            row.take(name, "system message")
        return messages  # the column counts as unread if it says something else
    row.take(name, "system message")
    return [{"role": "system", "content": text}, *messages]


def _read_history(row: SourceRow) -> list[Any]:
    """Return earlier turns as LLaMA-Factory writes them: `[[question, answer], …]`."""
    if is_nothing(row.look("history")):
        return []
    turns = read_list_field(row, "history")
    row.take("history", "earlier turns")
    if not all(isinstance(t, list | tuple) and len(t) == 2 and all(isinstance(x, str) for x in t) for t in turns):
        raise make_field_error(row, "history", "a list of [question, answer]")
    return [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn)]


def _parse_transcript(text: str) -> list[Any] | None:
    """Return the turns of a prompt that is a transcript; "… \n\nAssistant:" at its end only announces the answer."""
    from rlhf_hitl.formats.hh import parse_transcript

    turns = parse_transcript(text)
    if turns is None:
        return None
    messages = [m.to_plain() for m in turns]
    return messages[:-1] if len(messages) > 1 and not turns[-1].text.strip() else messages
