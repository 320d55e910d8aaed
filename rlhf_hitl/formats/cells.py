"""What a cell of a row holds, for many formats: a time, a rater, a number, JSON, a prompt; and which are not read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.hh import parse_transcript
from rlhf_hitl.formats.record import SourceRow, make_field_error, read_text_field
from rlhf_hitl.types import Message, Messages, Tools
from rlhf_hitl.types.messages import parse_tools

#: So many names of what is not read are counted each by itself; a file with more is no table.
MAX_UNREAD_NAMES = 500
MAX_UNREAD_LENGTH = 60
RATER_COLUMNS = (
    "rater", "rater_id", "annotator", "annotator_id", "labeler", "labeler_id", "worker", "worker_id", "judge",
    "judge_id", "user_id",
)  # fmt: skip


def is_missing(value: Any) -> bool:
    """Return whether a cell holds nothing: null, NaN as pandas writes it, an empty text or an empty list."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str | Sequence | Mapping) and not value)
    )


def count_unread(row: SourceRow, read: Collection[str], what: str = "column") -> None:
    """Count the fields of a row that are not read, by name, in `row.unread`. Empty ones do not count.

    Fields that know themselves what was read of them are counted by the import.
    """
    if hasattr(row.fields, "list_unread"):
        return
    for name, value in row.fields.items():
        if name not in read and not is_missing(value):
            key = f"{what} {str(name)[:MAX_UNREAD_LENGTH] or 'without a name'}"
            if key not in row.unread and len(row.unread) >= MAX_UNREAD_NAMES:
                key = f"other {what}s"
            row.unread[key] += 1


def note(row: SourceRow, what: str, n: int = 1) -> None:
    """Count what a reader decided and a user has to know, by name, for the summary of the import."""
    getattr(row, "noted", row.unread)[what] += n


def read_rater(row: SourceRow, columns: Sequence[str] = RATER_COLUMNS) -> tuple[str, str]:
    """Return (rater, the column that names them); `unnamed` and an empty text where no column does."""
    for name in columns:
        value = row.fields.get(name)
        if not is_missing(value) and not isinstance(value, list | dict | bool):
            return str(value).strip() or "unnamed", name
    return "unnamed", ""


def read_time(row: SourceRow, name: str) -> datetime | None:
    """Return when something was, in UTC, from seconds since 1970 or ISO text; without a zone the text is in UTC."""
    value = row.fields.get(name)
    if is_missing(value):
        return None
    try:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, str) and not re.fullmatch(r"[\d.]+", value):
            moment = datetime.fromisoformat(value)
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        else:
            moment = datetime.fromtimestamp(float(value), UTC)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError) as e:
        expected = "a time: seconds since 1970, or text such as 2025-05-29T14:48:41+00:00"
        raise make_field_error(row, name, expected) from e


def read_number(row: SourceRow, name: str, expected: str) -> float:
    """Return a field that must be a finite number; text of one is read, since a CSV file has only texts."""
    value = row.fields.get(name)
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        if not math.isfinite(number := float(value)):
            raise ValueError
    except (ValueError, OverflowError) as e:
        raise make_field_error(row, name, expected) from e
    return number


def decode_list(row: SourceRow, name: str, expected: str) -> list[Any]:
    """Return a field that is a list with something in it, or JSON text of one."""
    value = row.fields.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as e:
            raise make_field_error(row, name, f"{expected}, or JSON text of it") from e
    if not isinstance(value, list) or not value:
        raise make_field_error(row, name, expected)
    return value


def read_instruction(row: SourceRow) -> str:
    """Return the text of a prompt that is in two columns: an `input` follows its `instruction` after a blank line."""
    instruction, more = row.fields.get("instruction"), row.fields.get("input")
    if is_missing(more):
        return read_text_field(row, "instruction")
    if not isinstance(more, str):
        raise make_field_error(row, "input", "text, or nothing")
    if is_missing(instruction) or (isinstance(instruction, str) and not instruction.strip()):
        return read_text_field(row, "input")
    return f"{read_text_field(row, 'instruction')}\n\n{more}"


def read_prompt_text(row: SourceRow, name: str) -> Messages:
    """Return the prompt in a text: a question, or a transcript whose last "Assistant:" only announces the answer."""
    text = read_text_field(row, name)
    chat = parse_transcript(text) or (Message("user", text),)
    return chat[:-1] if len(chat) > 1 and not chat[-1].text.strip() else chat


def read_tools_field(row: SourceRow, name: str = "tools") -> Tools:
    """Return the tools in a field: a list of JSON schemas, or JSON text of one; none where it is empty."""
    value = row.fields.get(name)
    try:
        return () if is_missing(value) else parse_tools(value)
    except BadInput as e:
        raise BadInput(f"{row.place}: {e.value}", expected=e.expected, fix=e.fix) from e


def prepend_system(row: SourceRow, chat: Messages, name: str = "system") -> Messages:
    """Return a chat with the system message of a column before it, unless it has a system message of its own."""
    if is_missing(row.fields.get(name)):
        return chat
    text = read_text_field(row, name)
    if chat and chat[0].role == "system":
        if chat[0].text != text:
            raise make_field_error(row, name, "the system message that the conversation begins with, or nothing")
        return chat
    return (Message("system", text), *chat)


def split_before_answer(chat: Messages) -> tuple[Messages, Messages]:
    """Return (prompt, completion) of a conversation: its last message is the completion if it is the assistant's."""
    return (chat[:-1], chat[-1:]) if chat and chat[-1].role == "assistant" else (chat, ())
