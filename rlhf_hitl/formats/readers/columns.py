"""The usual names of columns, and how they are read. `docs/importing.md` lists them for users.

The names come from published sets and tools: `question` and `system` (Orca pairs), `instruction`, `input` and
`history` (Alpaca, LLaMA-Factory), `query` (sets of reward models), `annotator_id`, `worker_id`, `user_id` (crowd
tools). The first of them that holds something is read. What a cell holds is read here as well: a number, a time, an
outcome ("model_a", "tie", "both bad").
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rlhf_hitl.formats.image_columns import IMAGES
from rlhf_hitl.formats.record import (
    FIX,
    UNNAMED,
    ImportCompletion,
    SourceRow,
    is_nothing,
    make_assistant_message,
    make_field_error,
    make_value_error,
    parse_raw_messages,
    read_list_field,
    read_raw_messages,
    read_string_field,
    read_text_field,
    split_shared_prompt,
)
from rlhf_hitl.formats.source import SPLIT_NAMES, get_split_word
from rlhf_hitl.types import Message, Messages, Split

PROMPT = ("prompt", "question", "instruction", "query", "input")
SYSTEM = ("system", "system_prompt", "system_message")
RATER = (
    "rater", "annotator", "rater_id", "annotator_id", "worker", "worker_id", "WorkerId", "user_id", "judge",
    "judge_id", "labeler", "labeler_id", "evaluator", "evaluator_id", "rater_name", "annotator_name",
)  # fmt: skip
RATIONALE = ("rationale", "reason", "explanation", "justification")
JUDGED_AT = ("judged_at", "annotated_at", "timestamp", "tstamp")
STRENGTH = ("strength", "preference_strength")
#: All that a reader of comparisons may read besides the answers.
COMMON = (*PROMPT, *SYSTEM, "history", "tools", *IMAGES, *RATER, *RATIONALE, *JUDGED_AT, *STRENGTH)

_ROLES = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"\n\n(Human|Assistant):")  # of a transcript, as HH-RLHF writes it
LATEST_SECONDS = 1e11  # a larger moment is in milliseconds

#: What a vote on two says, as `squeeze` leaves it. "None" is not among it: pandas writes it where there is nothing.
FIRST = {"first", "left", "a", "modela"}
SECOND = {"second", "right", "b", "modelb"}
TIES = {
    "tie", "tied", "draw", "equal", "equallygood", "bothgood", "same", "nopreference", "aboutthesame",
    "tieinconsistent",
}  # fmt: skip
ALL_BAD = {"bothbad", "neither", "allbad", "tiebothbad", "bothtiebothbad", "neitherisgood"}
OUTCOMES = {
    word: outcome
    for outcome, words in (("first", FIRST), ("second", SECOND), ("tie", TIES), ("all_bad", ALL_BAD))
    for word in words
}


#: Names of judges that are models, with or without the owner before them: gpt-4, gpt4_pair, openai/gpt-4o, claude-v1,
#: claude-3-opus, llama-3-judge. Each needs more than the word, for a person may be called Claude.
MODEL_JUDGE = re.compile(
    r"([\w.-]+/)?((chat)?gpt[\s_-]?(\d|oss)|claude[\s_-]?(v?\d|instant|haiku|sonnet|opus)|llama[\s_-].*judge).*",
    re.IGNORECASE,
)
#: What a file may write for true and false, without capitals.
FLAGS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def is_model_judge(rater: str) -> bool:
    """Return whether a rater is a model that is known by its name."""
    return MODEL_JUDGE.fullmatch(rater) is not None


def parse_flag(value: Any) -> bool | None:
    """Return what true, false, 1 or 0 says, which a CSV file writes as text; None for other values."""
    return FLAGS.get(str(value).strip().lower()) if isinstance(value, bool | int | float | str) else None


def squeeze(word: str) -> str:
    """Return a word without its capitals, spaces and marks: `Tie (both_bad)` is `tiebothbad`."""
    return re.sub(r"[\W_]", "", word.lower())


def read_outcome(row: SourceRow, name: str) -> str:
    """Return what a vote on two says: `first`, `second`, `tie` or `all_bad`."""
    value = row.fields.get(name)
    outcome = OUTCOMES.get(squeeze(value)) if isinstance(value, str) else None
    if outcome is None:
        raise make_field_error(row, name, "model_a, A, left or first; model_b, B, right or second; tie; or both_bad")
    return outcome


def has_column(fields: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Return whether a row has one of some columns."""
    return any(name in fields for name in names)


def read_rater(row: SourceRow, names: Sequence[str] = RATER) -> str:
    """Return the name of the rater; a number is a name, 0 too. `UNNAMED` where there is none.

    A list of texts is one name: MT-Bench calls a judge `["gpt-4", "pair-v2"]`, a model and the prompt it was given.
    """
    name = row.find(names)
    if name is None:
        return UNNAMED
    value = row.take(name, "rater")
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = " ".join(value)
    if isinstance(value, float) and value.is_integer():  # as pandas writes a column of ids in which one is missing
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise make_field_error(row, name, "the rater's name or number")
    return str(value).strip() or UNNAMED


def read_rationale(row: SourceRow, names: Sequence[str] = RATIONALE) -> str:
    name = row.find(names)
    value = "" if name is None else row.take(name, "rationale")
    if not isinstance(value, str):
        raise make_field_error(row, name or "", "text")
    return value


def read_simulated(row: SourceRow) -> bool:
    """Return whether the column `simulated` says that no person voted.

    Raises:
        BadInput: it is neither true nor false.
    """
    value = row.take("simulated", "simulated")
    if is_nothing(value):
        return False
    flag = parse_flag(value)
    if flag is None:
        raise make_field_error(row, "simulated", "true or false")
    return flag


def read_split(row: SourceRow) -> Split | None:
    """Return the split that the column `split` puts a row in, by the names that files have; else that of its file.

    As with files, a row of "train" is in no split yet: other names tell what is not for training.
    """
    value = row.look("split")
    if is_nothing(value):
        return row.split
    word = get_split_word(value) if isinstance(value, str) else ""
    if word not in SPLIT_NAMES and word not in ("train", "training"):
        row.noted["values of the column split that name no split"] += 1
        return row.split
    row.take("split", "split")
    return SPLIT_NAMES.get(word, row.split)


def read_strength(row: SourceRow) -> int | None:
    """Return the strength of a preference, 1 to 3, or 0 where a file says that there is none; None where it is silent.

    Raises:
        BadInput: it is another value.
    """
    name = row.find(STRENGTH)
    if name is None:
        return None
    value = parse_number(row.take(name, "strength"))
    if value is None or value not in (0, 1, 2, 3):
        expected = "1 (slightly), 2 (clearly) or 3 (much better), or 0 for a tie"
        raise make_field_error(row, name, expected, f"correct it, or leave the column out with --map {name}=")
    return int(value)


def read_judged_at(row: SourceRow, names: Sequence[str] = JUDGED_AT) -> datetime | None:
    """Return when the rater voted: an ISO 8601 text, or seconds or milliseconds since 1970; UTC without a zone."""
    name = row.find(names)
    if name is None:
        return None
    fix = f"correct it, or leave the column out with --map {name}="
    return parse_moment(row, name, row.take(name, "time of the vote"), fix)


def parse_moment(row: SourceRow, name: str, value: Any, fix: str = FIX) -> datetime:
    """Return a moment in time; `name` is where it is, for the error."""
    try:
        if isinstance(value, datetime):
            moment = value
        elif (seconds := parse_number(value)) is not None:
            moment = datetime.fromtimestamp(seconds / 1000 if abs(seconds) > LATEST_SECONDS else seconds, UTC)
        else:
            moment = datetime.fromisoformat(str(value).strip())
        # The first and the last day there is may have none in UTC.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError) as e:
        expected = "a time such as 2026-05-01T12:30:00Z, or seconds since 1970"
        raise make_value_error(row, name, value, expected, fix) from e


def parse_number(value: Any) -> float | None:
    """Return a number, which a CSV file writes as text; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_number(row: SourceRow, name: str, expected: str) -> float:
    """Return a field that must be a finite number, or the text of one."""
    number = parse_number(row.fields.get(name))
    if number is None:
        raise make_field_error(row, name, expected)
    return number


def read_prompt(row: SourceRow, names: Sequence[str] = PROMPT) -> Messages:
    """Return the prompt of a row, as `read_raw_prompt` does.

    Raises:
        BadInput: there is none.
    """
    raw = read_raw_prompt(row, names)
    if raw is None:
        raise make_field_error(row, names[0], "text that is not empty, or messages")
    return parse_raw_messages(row, row.find(names) or names[0], raw)


def read_raw_prompt(row: SourceRow, names: Sequence[str] = PROMPT) -> list[Any] | None:
    """Return the prompt's messages as the file has them: the system message, earlier turns, and the prompt itself.

    None where no column holds a prompt. An `input` beside an `instruction` follows it after a blank line.
    """
    name = row.find(names)
    if name is None:
        return None
    messages = read_raw_messages(row, name, "prompt")
    if messages is None:
        text = row.take(name, "prompt")
        if name == "instruction" and isinstance(text, str) and not is_nothing(row.look("input")):
            more = row.take("input", "prompt")
            if not isinstance(more, str):
                raise make_field_error(row, "input", "text, or nothing")
            text = f"{text}\n\n{more}" if text.strip() else more
        if not isinstance(text, str) or not text.strip():
            raise make_field_error(row, name, "text that is not empty, or messages")
        messages = [*_read_history(row), *(_parse_opening(text) or [{"role": "user", "content": text}])]
    first = messages[0] if messages and isinstance(messages[0], Mapping) else {}
    system = _read_system(row, str(first.get("role")), first.get("content"))
    return [{"role": "system", "content": system}, *messages] if system else messages


def read_question(row: SourceRow, name: str) -> Messages:
    """Return a prompt that is the text of one column."""
    return (Message("user", read_text_field(row, name)),)


def read_answer(row: SourceRow, name: str, policy: str) -> ImportCompletion:
    """Return a completion that is the text of one column, which may be empty."""
    return ImportCompletion(make_assistant_message(read_string_field(row, name)), policy)


def split_sides(row: SourceRow, name: str, first: Messages, second: Messages) -> tuple[Messages, Messages, Messages]:
    """Return (prompt, rest of first, rest of second) of two conversations; `name` is the column of the second.

    Raises:
        BadInput: they do not open alike, or do not go on with an answer.
    """
    parts = split_shared_prompt(first, second)
    if parts is None:
        raise make_field_error(row, name, "a conversation that opens like the other side's and goes on with an answer")
    return parts


def add_system(row: SourceRow, chat: Messages) -> Messages:
    """Return a chat with the row's system message before it; one that is there already is kept instead."""
    system = _read_system(row, chat[0].role, chat[0].text) if chat else _read_system(row, "", "")
    return (Message("system", system), *chat) if system else chat


def _read_system(row: SourceRow, first_role: str, first_text: Any) -> str:
    """Return the system message that a row's column adds to a chat with this beginning; empty where it adds none."""
    name = row.find(SYSTEM)
    if name is None:
        return ""
    text = row.look(name)
    if not isinstance(text, str):
        raise make_field_error(row, name, "the text of a system message")
    is_there = first_role in ("system", "developer")
    if text.strip() and is_there and first_text != text:
        return ""  # the column counts as unread: it says something else
    row.take(name, "system message")
    return "" if is_there else text.strip() and text


def _read_history(row: SourceRow) -> list[Any]:
    """Return earlier turns as LLaMA-Factory writes them: `[[question, answer], …]`."""
    if is_nothing(row.look("history")):
        return []
    turns = read_list_field(row, "history")
    row.take("history", "earlier turns")
    if not all(isinstance(t, list | tuple) and len(t) == 2 and all(isinstance(x, str) for x in t) for t in turns):
        raise make_field_error(row, "history", "a list of [question, answer]")
    return [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn)]


def parse_transcript(text: str) -> Messages | None:
    """Return the turns of a transcript, or None if it does not start with a turn.

    Text is kept as it is, except for the space after the colon. A turn without text is kept: a completion may be empty.
    """
    if not _TURN.match(text):
        return None
    parts = _TURN.split(text)  # "", role, text, role, text, …
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return tuple(Message(_ROLES[role], text.removeprefix(" ")) for role, text in turns)


def _parse_opening(text: str) -> list[Any] | None:
    """Return the turns of a prompt that is a transcript; "… \n\nAssistant:" at its end only announces the answer."""
    turns = parse_transcript(text)
    if turns is None:
        return None
    messages = [m.to_plain() for m in turns]
    return messages[:-1] if len(messages) > 1 and not turns[-1].text.strip() else messages
