"""RewardBench 2: a prompt, a right answer (several in the subset Ties) and wrong ones (allenai/reward-bench-2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import read_question
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_assistant_message,
    make_field_error,
    read_list_field,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Verdict

NAME = "rewardbench2"
ABOUT = "{prompt, chosen: [texts], rejected: [texts], num_correct, models, subset, id} (RewardBench 2)"
COLUMNS = ("prompt", "chosen", "rejected", "models", "subset", "id")


def matches(fields: Mapping[str, Any]) -> bool:
    sides = [fields.get("chosen"), fields.get("rejected")]
    return {"prompt", "subset"} <= set(fields) and all(
        isinstance(side, list) and all(isinstance(text, str) for text in side) for side in sides
    )


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    right, wrong = (_read_texts_field(row, side) for side in ("chosen", "rejected"))
    models, texts = read_list_field(row, "models"), [*right, *wrong]
    names = models if len(models) == len(texts) else ["unknown"] * len(texts)
    completions = tuple(ImportCompletion(make_assistant_message(text), str(name)) for text, name in zip(texts, names))
    ranking = tuple(range(len(right))), tuple(range(len(right), len(completions)))
    # The id ("tied:7", "ref:7") tells which questions of Ties belong together.
    tags = {"id": str(row.take("id", "tag"))} if "id" in row.fields else {}
    return [
        ImportRecord(
            read_question(row, "prompt"), completions, row.place,
            ImportVote(Verdict.RANKED, ranking, rater="RewardBench 2"), tags, row.split,
            order_known=False, batch=read_text_field(row, "subset"),
        )
    ]  # fmt: skip


def _read_texts_field(row: SourceRow, name: str) -> list[str]:
    value = read_list_field(row, name)
    if not value or not all(isinstance(text, str) for text in value):
        raise make_field_error(row, name, "a list of one or more texts")
    return value
