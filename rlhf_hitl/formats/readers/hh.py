"""Anthropic's HH-RLHF: `chosen` and `rejected` are each a whole transcript as one text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_field_error,
    read_text_field,
    split_shared_prompt,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Messages

NAME = "hh"
ABOUT = 'JSONL of {"chosen", "rejected"} transcripts "\\n\\nHuman: … \\n\\nAssistant: …" (HH-RLHF)'

ROLES = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"\n\n(Human|Assistant):")


def matches(fields: Mapping[str, Any]) -> bool:
    sides = [fields.get("chosen"), fields.get("rejected")]
    return "prompt" not in fields and all(isinstance(t, str) and TURN.match(t) for t in sides)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    chosen, rejected = (_read_transcript_field(row, side) for side in ("chosen", "rejected"))
    split_chats = split_shared_prompt(chosen, rejected)
    if split_chats is None:
        raise make_field_error(row, "rejected", "a transcript that opens like `chosen`")
    prompt, *sides = split_chats
    # The policies are not known, and the name must not depend on which completion was chosen.
    completions = tuple(ImportCompletion(side, "hh-rlhf") for side in sides)
    return [
        ImportRecord(prompt, completions, row.place, ImportVote.of_pair("first"), split=row.split, order_known=False)
    ]


def parse_transcript(text: str) -> Messages | None:
    """Return the turns of a transcript, or None if it does not start with a turn.

    Text is kept as it is, except for the space after the colon. A turn without text is kept: a completion may be empty.
    """
    if not TURN.match(text):
        return None
    parts = TURN.split(text)  # "", role, text, role, text, …
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return tuple(Message(ROLES[role], text.removeprefix(" ")) for role, text in turns)


def _read_transcript_field(row: SourceRow, name: str) -> Messages:
    turns = parse_transcript(read_text_field(row, name))
    if turns is None:
        raise make_field_error(row, name, "a transcript that opens with '\\n\\nHuman: '")
    return turns
