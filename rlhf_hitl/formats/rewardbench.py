"""RewardBench: a prompt with one right and one wrong answer, and its subset (allenai/reward-bench)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    assistant_message,
    string_field,
    text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message

NAME = "rewardbench"
ABOUT = "{prompt, chosen, chosen_model, rejected, rejected_model, subset, id} (RewardBench)"

#: The set on the hub has two parts; published scores are of the other part, `filtered`.
UNSCORED = "raw"


def matches(fields: Mapping[str, Any]) -> bool:
    columns = {"prompt", "chosen", "chosen_model", "rejected", "rejected_model", "subset"}
    return set(fields) >= columns and isinstance(fields["chosen"], str)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return read_row


def read_row(row: SourceRow) -> list[ImportRecord]:
    if row.part == UNSCORED:
        return []
    sides = tuple(
        ImportCompletion(assistant_message(string_field(row, side)), text_field(row, f"{side}_model"))
        for side in ("chosen", "rejected")
    )
    # Some prompts are in several subsets, so the subset is not a tag of the prompt.
    return [
        ImportRecord(
            (Message("user", text_field(row, "prompt")),), sides, row.place,
            ImportVote.of_pair("first", rater="RewardBench"),
            split=row.split, order_known=False, batch=text_field(row, "subset"),
        )
    ]  # fmt: skip
