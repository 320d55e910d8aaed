"""Chatbot Arena, 100k and 140k: a vote a row, with the conversations of both models (lmarena-ai on the hub).

The older 33k, whose votes have a judge and a turn as those of MT-Bench, is read by `mt_bench`.
"""

# The columns are those of the cards of lmarena-ai/arena-human-preference-100k and -140k and lmarena-ai/arena-expert-5k.
# `evaluation_session_id`: one person's visit, with one or more votes.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import read_judged_at, read_outcome, read_rater, split_sides
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    read_chat_field,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource

NAME = "arena"
ABOUT = (
    "votes of {model_a, model_b, winner, conversation_a, conversation_b} with judge_hash and tstamp, or "
    "evaluation_session_id and timestamp (Chatbot Arena 100k, 140k)"
)

TIMES = ("tstamp", "timestamp")
RATERS = ("judge_hash", "evaluation_session_id")
SIDES = {"model_a", "model_b", "conversation_a", "conversation_b"}
COLUMNS = {
    *SIDES, *TIMES, *RATERS, "winner", "language", "is_code", "category_tag", "occupational_tags", "evaluation_order",
}  # fmt: skip


def matches(fields: Mapping[str, Any]) -> bool:
    keys = set(fields)
    return {*SIDES, "winner"} <= keys and "judge" not in keys


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    first, second = (read_chat_field(row, f"conversation_{side}") for side in "ab")
    prompt, *chats = split_sides(row, "conversation_b", first, second)
    completions = tuple(
        ImportCompletion(chat, read_text_field(row, f"model_{side}")) for chat, side in zip(chats, "ab", strict=True)
    )
    vote = ImportVote.of_pair(
        read_outcome(row, "winner"), rater=read_rater(row, RATERS), judged_at=read_judged_at(row, TIMES)
    )
    order = row.fields.get("evaluation_order")
    if isinstance(order, int | float) and order > 1 and "full_conversation" in row.fields:
        row.noted["votes whose conversation went on from earlier turns with other models (in full_conversation)"] += 1
    # A was on the left of the page.
    return [ImportRecord(prompt, completions, row.place, vote, _read_tags(row), row.split)]


def _read_tags(row: SourceRow) -> dict[str, str]:
    tags = {}
    if isinstance(row.fields.get("language"), str) and row.fields["language"]:
        tags["language"] = row.fields["language"]
    if isinstance(row.fields.get("is_code"), bool):
        tags["is_code"] = str(row.fields["is_code"]).lower()
    for column, tag in (("category_tag", "category"), ("occupational_tags", "occupation")):
        if names := _list_true(row.fields.get(column)):
            tags[tag] = ", ".join(names)
    return tags


def _list_true(value: Any) -> list[str]:
    """Return the names that are true in `{"math_v0.1": {"math": true}}` or in `{"mathematical": true}`."""
    if not isinstance(value, dict):
        return []
    flat = {name: flag for group in value.values() if isinstance(group, dict) for name, flag in group.items()} | value
    return sorted(str(name) for name, flag in flat.items() if flag is True)
