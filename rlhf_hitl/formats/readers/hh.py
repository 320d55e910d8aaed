"""Anthropic's HH-RLHF: `chosen` and `rejected` are each a whole transcript as one text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import PROMPT, has_column, parse_transcript, split_sides
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_field_error,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Messages

NAME = "hh"
ABOUT = 'JSONL of {"chosen", "rejected"} transcripts "\\n\\nHuman: … \\n\\nAssistant: …" (HH-RLHF)'
COLUMNS = ("chosen", "rejected")


def matches(fields: Mapping[str, Any]) -> bool:
    sides = [fields.get("chosen"), fields.get("rejected")]
    return not has_column(fields, PROMPT) and all(isinstance(t, str) and parse_transcript(t) for t in sides)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    chosen, rejected = (_read_transcript_field(row, side) for side in ("chosen", "rejected"))
    prompt, *sides = split_sides(row, "rejected", chosen, rejected)
    # The policies are not known, and the name must not depend on which completion was chosen.
    completions = tuple(ImportCompletion(side, "hh-rlhf") for side in sides)
    return [
        ImportRecord(prompt, completions, row.place, ImportVote.of_pair("first"), split=row.split, order_known=False)
    ]


def _read_transcript_field(row: SourceRow, name: str) -> Messages:
    turns = parse_transcript(read_text_field(row, name))
    if turns is None:
        raise make_field_error(row, name, "a transcript that opens with '\\n\\nHuman: '")
    return turns
