"""KTO: one completion a row, and whether it is desirable. Kept as ratings from 0 to 1: nothing is compared."""

# TRL's docs, "Dataset formats": unpaired preference is prompt, completion, label. LLaMA-Factory's data/README.md has
# instruction, input, output, kto_tag, and messages or conversations with a label.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.alpaca import read_history
from rlhf_hitl.formats.cells import (
    RATER_COLUMNS,
    count_unread,
    is_missing,
    prepend_system,
    read_instruction,
    read_prompt_text,
    read_rater,
    read_tools_field,
    split_before_answer,
)
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRating,
    ImportRecord,
    SourceRow,
    make_assistant_message,
    make_field_error,
    read_chat_field,
    read_string_field,
)
from rlhf_hitl.formats.sharegpt import read_turns
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Messages

NAME = "kto"
ABOUT = (
    "{prompt, completion, label: true or false} as text or messages, or {messages, label}, or {instruction, input, "
    "output, kto_tag} (KTO, unpaired preference: kept as ratings)"
)

AXIS = "desirable"
LABELS = ("label", "kto_tag")
COLUMNS = {
    "prompt", "completion", "messages", "conversations", "instruction", "input", "output", "history", "system", "tools",
    "model", *LABELS, *RATER_COLUMNS,
}  # fmt: skip
VALUES = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}


def matches(fields: Mapping[str, Any]) -> bool:
    label = next((fields[name] for name in LABELS if name in fields), None)
    if "completion" in fields:
        return _read_value(label) is not None
    is_flag = isinstance(label, bool) or (isinstance(label, str) and label.lower() in ("true", "false"))
    has_chat = any(isinstance(fields.get(name), list) for name in ("messages", "conversations"))
    return is_flag and "completions" not in fields and (has_chat or {"instruction", "output"} <= set(fields))


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    label = next((name for name in LABELS if name in row.fields), LABELS[0])
    value = _read_value(row.fields.get(label))
    if value is None:
        raise make_field_error(row, label, "true or false")
    prompt, completion, read = _read_chat(row)
    if not prompt or not completion:
        raise make_field_error(row, min(read), "a prompt and an answer to it")
    rater, rater_column = read_rater(row)
    has_model = isinstance(row.fields.get("model"), str) and bool(row.fields["model"])
    rating = ImportRating(0, AXIS, value, 0.0, 1.0, rater=rater)
    count_unread(row, {*read, label, rater_column, "system", "tools", *(["model"] if has_model else [])})
    return [
        ImportRecord(
            prepend_system(row, prompt),
            (ImportCompletion(completion, row.fields["model"] if has_model else "unknown"),),
            row.place, split=row.split, order_known=False, tools=read_tools_field(row),
            ratings=(rating,),
        )
    ]  # fmt: skip


def _read_value(label: Any) -> float | None:
    return VALUES.get(str(label).lower()) if isinstance(label, bool | int | str) else None


def _read_chat(row: SourceRow) -> tuple[Messages, Messages, set[str]]:
    """Return (prompt, completion, the columns they are in)."""
    for name in ("messages", "conversations"):
        if "completion" not in row.fields and not is_missing(row.fields.get(name)):
            return *split_before_answer(read_turns(row, name)), {name}
    if "output" in row.fields and "completion" not in row.fields:
        prompt = (*read_history(row), Message("user", read_instruction(row)))
        answer = make_assistant_message(read_string_field(row, "output"))
        return prompt, answer, {"instruction", "input", "output", "history"}
    if not isinstance(row.fields.get("completion"), list):
        return _read_prompt(row), make_assistant_message(read_string_field(row, "completion")), {"prompt", "completion"}
    completion = read_chat_field(row, "completion")
    if completion[0].role == "assistant":
        return _read_prompt(row), completion, {"prompt", "completion"}
    prompt, answer = split_before_answer(completion)  # the prompt is in it, and a column for it may repeat that
    if not is_missing(row.fields.get("prompt")):
        given = _read_prompt(row)
        if given not in (prompt, prompt[-len(given) :]):
            raise make_field_error(row, "prompt", "what `completion` begins with, or a completion without the prompt")
    return prompt, answer, {"prompt", "completion"}


def _read_prompt(row: SourceRow) -> Messages:
    return (
        read_chat_field(row, "prompt")
        if isinstance(row.fields.get("prompt"), list)
        else read_prompt_text(row, "prompt")
    )
