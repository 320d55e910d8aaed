"""The project's own JSONL: a prompt, its tags, and completions that nobody has judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    SourceRow,
    make_field_error,
    read_chat_field,
    read_tags_field,
)
from rlhf_hitl.formats.source import RowSource

NAME = "native"
ABOUT = 'JSONL of {"messages", "tags", "completions": [{"messages", "policy", "sampling"}]}; prompts only without them'


def matches(fields: Mapping[str, Any]) -> bool:
    return "messages" in fields and not {"chosen", "rejected"} & set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    """Return the reader; `pairs` is `all` pairs of a prompt's completions, or `adjacent`: (1st, 2nd), (3rd, 4th), …"""

    def read_row(row: SourceRow) -> list[ImportRecord]:
        prompt = read_chat_field(row, "messages")
        tags = read_tags_field(row)
        raw_completions = row.fields.get("completions") or []
        if not isinstance(raw_completions, list):
            raise make_field_error(row, "completions", "a list of completions")
        completions = [_to_completion(row, i, side) for i, side in enumerate(raw_completions)]
        if pairs == "all" and len(completions) > 1:
            groups = list(combinations(completions, 2))
        else:
            groups = [tuple(completions[i : i + 2]) for i in range(0, len(completions), 2)] or [()]
        return [ImportRecord(prompt, group, row.place, tags=tags) for group in groups]

    return read_row


def _to_completion(row: SourceRow, index: int, side: Any) -> ImportCompletion:
    completion_row = SourceRow(
        side if isinstance(side, dict) else {"messages": side}, f"{row.place}: completions[{index}]"
    )
    policy, sampling = completion_row.fields.get("policy"), completion_row.fields.get("sampling") or {}
    if not isinstance(policy, str) or not policy:
        raise make_field_error(completion_row, "policy", "the name of the policy that wrote it")
    if not isinstance(sampling, dict):
        raise make_field_error(completion_row, "sampling", "an object")
    return ImportCompletion(read_chat_field(completion_row, "messages"), policy, sampling)
