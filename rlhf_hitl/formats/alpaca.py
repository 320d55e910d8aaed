"""Alpaca pairs: an instruction, perhaps its input, and the outputs [better, worse] (GPT-4-LLM, older LLaMA-Factory)."""

# The columns are those of LLaMA-Factory, data/README.md: `history` holds pairs of texts, `system` a system message.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.cells import count_unread, is_missing, prepend_system, read_instruction
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_assistant_message,
    make_field_error,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Messages

NAME = "alpaca"
ABOUT = "{instruction, input, output: [better, worse]} and, where known, history, system (Alpaca pairs)"

COLUMNS = {"instruction", "input", "output", "history", "system"}


def matches(fields: Mapping[str, Any]) -> bool:
    output = fields.get("output")
    return "instruction" in fields and isinstance(output, list) and all(isinstance(text, str) for text in output)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    outputs = row.fields.get("output")
    if not isinstance(outputs, list) or len(outputs) != 2 or not all(isinstance(text, str) for text in outputs):
        raise make_field_error(row, "output", "two texts: [better, worse]")
    prompt = prepend_system(row, (*read_history(row), Message("user", read_instruction(row))))
    completions = tuple(ImportCompletion(make_assistant_message(text), "unknown") for text in outputs)
    count_unread(row, COLUMNS)
    vote = ImportVote.of_pair("first")
    return [ImportRecord(prompt, completions, row.place, vote, split=row.split, order_known=False)]


def read_history(row: SourceRow) -> Messages:
    """Return the earlier turns of a row: its column `history`, a list of [question, answer]."""
    history = row.fields.get("history")
    if is_missing(history):
        return ()
    if not isinstance(history, list) or not all(_is_turn(turn) for turn in history):
        raise make_field_error(row, "history", "a list of [question, answer], or nothing")
    return tuple(
        message for question, answer in history for message in (Message("user", question), Message("assistant", answer))
    )


def _is_turn(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)
