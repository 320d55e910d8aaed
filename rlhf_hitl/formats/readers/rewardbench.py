"""RewardBench: a prompt with one right and one wrong answer, and its subset (allenai/reward-bench)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import read_answer, read_question
from rlhf_hitl.formats.record import (
    ImportRecord,
    ImportVote,
    SourceRow,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource

NAME = "rewardbench"
ABOUT = "{prompt, chosen, chosen_model, rejected, rejected_model, subset, id} (RewardBench)"

#: The set on the hub has two parts; published scores are of the other part, `filtered`.
UNSCORED = "raw"
COLUMNS = ("prompt", "chosen", "chosen_model", "rejected", "rejected_model", "subset")


def matches(fields: Mapping[str, Any]) -> bool:
    columns = {"prompt", "chosen", "chosen_model", "rejected", "rejected_model", "subset"}
    return set(fields) >= columns and isinstance(fields["chosen"], str)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    if row.part == UNSCORED:
        row.noted[f"rows of the part {UNSCORED}, which published scores leave out"] += 1
        return []
    completions = tuple(
        read_answer(row, side, read_text_field(row, f"{side}_model")) for side in ("chosen", "rejected")
    )
    # Some prompts are in several subsets, so the subset is not a tag of the prompt.
    return [
        ImportRecord(
            read_question(row, "prompt"), completions, row.place,
            ImportVote.of_pair("first", rater="RewardBench"),
            split=row.split, order_known=False, batch=read_text_field(row, "subset"),
        )
    ]  # fmt: skip
