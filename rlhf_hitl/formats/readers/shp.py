"""SHP: a post and two comments, with the one that readers of Reddit or StackExchange preferred (stanfordnlp/SHP)."""

# The fields are those of the dataset's card on the hub; `domain` is a forum and a split, as in "askculinary_train".

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import read_answer, read_question
from rlhf_hitl.formats.record import (
    ImportRecord,
    ImportVote,
    SourceRow,
    is_nothing,
    make_field_error,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Split

NAME = "shp"
ABOUT = "{history, human_ref_A, human_ref_B, labels: 1 if A is preferred, 0 if B, domain} (SHP, SHP-2)"

LABELS = {"1": "first", "0": "second"}
SPLITS = {"train": None, "validation": Split.CALIBRATION, "test": Split.HELDOUT}
COLUMNS = {"history", "human_ref_A", "human_ref_B", "labels", "domain"}


def matches(fields: Mapping[str, Any]) -> bool:
    return {"history", "human_ref_A", "human_ref_B", "labels"} <= set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    label = LABELS.get(str(row.fields.get("labels")))
    if label is None:
        raise make_field_error(row, "labels", "1 (A is preferred) or 0 (B is preferred)")
    # People wrote both, and many together preferred one: neither the writers nor the voters have names.
    completions = tuple(read_answer(row, f"human_ref_{side}", "shp") for side in "AB")
    prompt = read_question(row, "history")
    tags, split = {}, row.split
    if not is_nothing(row.fields.get("domain")):
        forum, _, cut = read_text_field(row, "domain").rpartition("_")
        if cut in SPLITS and forum:
            tags["domain"], split = forum, split or SPLITS[cut]
        else:
            tags["domain"] = row.fields["domain"]
    # The votes for each comment are counts without a scale, and no rating.
    vote = ImportVote.of_pair(label, rater="SHP")
    return [ImportRecord(prompt, completions, row.place, vote, tags, split, order_known=False)]
