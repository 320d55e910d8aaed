"""The project's own JSONL: a prompt, its tags, and completions that nobody has judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from rlhf_hitl.formats.record import ImportCompletion, ImportRecord, SourceRow, make_field_error, read_chat_field
from rlhf_hitl.formats.source import RowSource

NAME = "native"
ABOUT = 'JSONL of {"messages", "tags", "completions": [{"messages", "policy", "sampling"}]}; prompts only without them'


def matches(fields: Mapping[str, Any]) -> bool:
    return "messages" in fields and not {"chosen", "rejected"} & set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    """Return the reader; `pairs` is `all` pairs of a prompt's completions, or `adjacent`: (1st, 2nd), (3rd, 4th), …"""

    def read_row(row: SourceRow) -> list[ImportRecord]:
        prompt = read_chat_field(row, "messages")
        tags = row.fields.get("tags") or {}
        if not isinstance(tags, dict) or not all(isinstance(v, str) for v in tags.values()):
            raise make_field_error(row, "tags", "an object of texts")
        raw = row.fields.get("completions") or []
        if not isinstance(raw, list):
            raise make_field_error(row, "completions", "a list of completions")
        completions = [_to_completion(row, i, side) for i, side in enumerate(raw)]
        if pairs == "all" and len(completions) > 1:
            groups = list(combinations(completions, 2))
        else:
            groups = [tuple(completions[i : i + 2]) for i in range(0, len(completions), 2)] or [()]
        return [ImportRecord(prompt, group, row.place, tags=tags) for group in groups]

    return read_row


def _to_completion(row: SourceRow, index: int, side: Any) -> ImportCompletion:
    inner = SourceRow(side if isinstance(side, dict) else {"messages": side}, f"{row.place}: completions[{index}]")
    policy, sampling = inner.fields.get("policy"), inner.fields.get("sampling") or {}
    if not isinstance(policy, str) or not policy:
        raise make_field_error(inner, "policy", "the name of the policy that wrote it")
    if not isinstance(sampling, dict):
        raise make_field_error(inner, "sampling", "an object")
    return ImportCompletion(read_chat_field(inner, "messages"), policy, sampling)
