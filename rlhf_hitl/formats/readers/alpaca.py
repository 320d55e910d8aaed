"""Alpaca pairs: an instruction, perhaps its input, and the outputs [better, worse] (GPT-4-LLM, older LLaMA-Factory)."""

# The columns are those of LLaMA-Factory, data/README.md: `history` holds pairs of texts, `system` a system message.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import SYSTEM, read_prompt, read_split
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_assistant_message,
    make_field_error,
)
from rlhf_hitl.formats.source import RowSource

NAME = "alpaca"
ABOUT = "{instruction, input, output: [better, worse]} and, where known, history, system (Alpaca pairs)"

INSTRUCTION = ("instruction", "input")
COLUMNS = {*INSTRUCTION, *SYSTEM, "output", "history", "split"}


def matches(fields: Mapping[str, Any]) -> bool:
    output = fields.get("output")
    return "instruction" in fields and isinstance(output, list) and all(isinstance(text, str) for text in output)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    outputs = row.fields.get("output")
    if not isinstance(outputs, list) or len(outputs) != 2 or not all(isinstance(text, str) for text in outputs):
        raise make_field_error(row, "output", "two texts: [better, worse]")
    prompt = read_prompt(row, INSTRUCTION)
    completions = tuple(ImportCompletion(make_assistant_message(text), "unknown") for text in outputs)
    vote = ImportVote.of_pair("first")
    return [ImportRecord(prompt, completions, row.place, vote, split=read_split(row), order_known=False)]
