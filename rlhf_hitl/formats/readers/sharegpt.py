"""ShareGPT: conversations of {"from", "value"}, with a better and a worse answer, or without (LLaMA-Factory, Axolotl).

A conversation without a preference adds its prompt and its last answer, and no comparison.
"""

# The roles and columns are those of LLaMA-Factory, data/README.md and src/llamafactory/data/converter.py.

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import SYSTEM, add_system, read_split, split_sides
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    is_nothing,
    make_field_error,
    make_value_error,
    parse_raw_messages,
    read_tools_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Messages

NAME = "sharegpt"
ABOUT = (
    "{conversations: [{from, value}], chosen: {from, value}, rejected: {from, value}} and, where known, system, tools, "
    "images; without chosen and rejected only prompts and answers (ShareGPT)"
)

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "system": "system", "observation": "tool", "function_response": "tool", "tool": "tool",
}  # fmt: skip
CALL_ROLES = ("function_call", "tool_call")
IMAGE_MARK = "<image>"
COLUMNS = {"conversations", "chosen", "rejected", *SYSTEM, "tools", "images", "split"}
EXPECTED = 'a list of turns {"from": "human", "value": text}'


def matches(fields: Mapping[str, Any]) -> bool:
    sides = [fields.get(name) for name in ("chosen", "rejected")]
    if _is_turns(fields.get("conversations")):
        return True
    return all(_is_turns(side, ("from",)) or _is_turn(side, ("from",)) for side in sides)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    images = _list_images(row)
    chat = read_turns(row, "conversations", images) if not is_nothing(row.look("conversations")) else ()
    completions: tuple[ImportCompletion, ...]
    if row.find(("chosen", "rejected")) is not None:
        prompt, sides = _read_sides(row, chat, images)
        completions, vote = tuple(ImportCompletion(side, "unknown") for side in sides), ImportVote.of_pair("first")
    else:
        prompt, answer = split_before_answer(chat)
        completions, vote = (ImportCompletion(answer, "unknown"),) if answer else (), None
    if not any(message.role == "user" for message in prompt):
        raise make_field_error(row, "conversations", "a turn of the human before the answer")
    if images is not None and (left := len(list(images))):
        raise make_field_error(row, "images", f"one {IMAGE_MARK} in the texts for each image; {left} are left over")
    return [
        ImportRecord(
            add_system(row, prompt), completions, row.place, vote, split=read_split(row), order_known=False,
            tools=read_tools_field(row),
        )
    ]  # fmt: skip


def _read_sides(
    row: SourceRow, chat: Messages, images: Iterator[Any] | None
) -> tuple[Messages, tuple[Messages, Messages]]:
    first, second = (read_turns(row, name, images) for name in ("chosen", "rejected"))
    if chat:
        if chat[-1].role == "assistant":
            raise make_field_error(row, "conversations", "a conversation that ends before the answer to be judged")
        return chat, (first, second)
    prompt, *sides = split_sides(row, "rejected", first, second)
    return prompt, (sides[0], sides[1])


def read_turns(row: SourceRow, name: str, images: Iterator[Any] | None = None) -> Messages:
    """Return the messages of a field: a list of turns, one turn, or the text of an answer.

    Args:
        images: those of the row, of which each `<image>` in a text takes the next; None where it has none.
    """
    value = row.fields.get(name)
    turns = (
        [{"from": "gpt", "value": value}] if isinstance(value, str) else [value] if isinstance(value, dict) else value
    )
    if not isinstance(turns, list) or not turns:
        raise make_field_error(row, name, EXPECTED)
    plain = [_convert_turn(row, f"{name}[{i}]", turn, images) for i, turn in enumerate(turns)]
    return parse_raw_messages(row, name, plain)


def split_before_answer(chat: Messages) -> tuple[Messages, Messages]:
    """Return (prompt, completion) of a conversation: its last message is the completion if it is the assistant's."""
    return (chat[:-1], chat[-1:]) if chat and chat[-1].role == "assistant" else (chat, ())


def _convert_turn(row: SourceRow, place: str, turn: Any, images: Iterator[Any] | None) -> dict[str, Any]:
    """Return a turn as a message with `role` and `content`; what else it has stays in it."""
    if not isinstance(turn, dict):
        raise make_value_error(row, f"{place}: turn", turn, '{"from": "human", "value": text}')
    if "from" not in turn and "role" in turn:  # turns as OpenAI writes them
        return turn
    role, text = turn.get("from"), turn.get("value")
    if not isinstance(role, str) or role not in (*ROLES, *CALL_ROLES):
        raise make_value_error(row, f"{place}: from", role, " or ".join([*ROLES, *CALL_ROLES]))
    if not isinstance(text, str):
        raise make_value_error(row, f"{place}: value", text, "text")
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    if role in CALL_ROLES:
        return {"role": "assistant", "content": None, "tool_calls": _read_calls(row, f"{place}: value", text)} | rest
    return {"role": ROLES[role], "content": _insert_images(row, f"{place}: value", text, images)} | rest


def _read_calls(row: SourceRow, place: str, text: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise make_value_error(
            row, place, text, 'JSON text of a call {"name", "arguments"}, or of a list of calls'
        ) from e
    return [{"type": "function", "function": call} for call in (value if isinstance(value, list) else [value])]


def _list_images(row: SourceRow) -> Iterator[Any] | None:
    value = row.fields.get("images")
    if is_nothing(value):
        return None
    return iter(value if isinstance(value, list) else [value])


def _insert_images(row: SourceRow, place: str, text: str, images: Iterator[Any] | None) -> str | list[dict[str, Any]]:
    """Return a text with the row's images where it says `<image>`; in a row without images that is text."""
    pieces = text.split(IMAGE_MARK)
    if images is None or len(pieces) == 1:
        return text
    parts: list[dict[str, Any]] = []
    for i, piece in enumerate(pieces):
        if i:
            image = next(images, None)
            if image is None:
                raise make_value_error(row, place, text, f"an image in `images` for each {IMAGE_MARK}")
            parts.append({"type": "image", "image": image})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _is_turn(value: Any, keys: tuple[str, ...] = ("from", "role")) -> bool:
    return isinstance(value, dict) and any(isinstance(value.get(key), str) for key in keys)


def _is_turns(value: Any, keys: tuple[str, ...] = ("from", "role")) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_turn(turn, keys) for turn in value)
