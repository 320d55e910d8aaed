"""LLMBar: an instruction, two outputs, and which output follows the instruction (princeton-nlp/LLMBar)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_assistant_message,
    make_field_error,
    read_string_field,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message

NAME = "llmbar"
ABOUT = "{input, output_1, output_2, label: 1 or 2} (LLMBar)"

COLUMNS = ("input", "output_1", "output_2", "label")
LABELS = {"1": "first", "2": "second"}


def matches(fields: Mapping[str, Any]) -> bool:
    return {"input", "output_1", "output_2", "label"} <= set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    # All files are called dataset.json; the folder names the set: Natural, GPTInst, …
    is_alone = source.path.is_file() and source.path.name.startswith("dataset.json")
    own_folder = source.path.resolve().parent.name if is_alone else ""

    def read_row(row: SourceRow) -> list[ImportRecord]:
        label = LABELS.get(str(row.fields.get("label")))
        if label is None:
            raise make_field_error(row, "label", "1 or 2")
        # The policies are not given, and the label is by the authors of the set, not by a rater who saw an order.
        completions = tuple(
            ImportCompletion(make_assistant_message(read_string_field(row, f"output_{n}")), "llmbar") for n in (1, 2)
        )
        prompt = (Message("user", read_text_field(row, "input")),)
        vote = ImportVote.of_pair(label, rater="LLMBar")
        subset = own_folder or row.subset.split("/")[-1]
        return [ImportRecord(prompt, completions, row.place, vote, split=row.split, order_known=False, batch=subset)]

    return read_row
