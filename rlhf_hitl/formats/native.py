"""The project's own JSONL: a prompt, its tags, and completions that nobody has judged yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from rlhf_hitl.formats.record import ImportCompletion, ImportRecord, SourceRow, bad_field, chat_field
from rlhf_hitl.formats.source import Source

NAME = "native"
ABOUT = 'JSONL of {"messages", "tags", "completions": [{"messages", "policy", "sampling"}]}; prompts only without them'


def matches(fields: Mapping[str, Any]) -> bool:
    return "messages" in fields and not {"chosen", "rejected"} & set(fields)


def reader(source: Source, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    """`pairs`: `all` of a prompt's completions against each other, or `adjacent` ones (1st, 2nd), (3rd, 4th), …"""

    def read(row: SourceRow) -> list[ImportRecord]:
        prompt = chat_field(row, "messages")
        tags = row.fields.get("tags") or {}
        if not isinstance(tags, dict) or not all(isinstance(v, str) for v in tags.values()):
            raise bad_field(row, "tags", "an object of texts")
        sides = row.fields.get("completions") or []
        if not isinstance(sides, list):
            raise bad_field(row, "completions", "a list of completions")
        found = [_completion(row, i, side) for i, side in enumerate(sides)]
        if pairs == "all" and len(found) > 1:
            groups = list(combinations(found, 2))
        else:
            groups = [tuple(found[i : i + 2]) for i in range(0, len(found), 2)] or [()]
        return [ImportRecord(prompt, group, row.place, tags=tags) for group in groups]

    return read


def _completion(row: SourceRow, index: int, side: Any) -> ImportCompletion:
    inner = SourceRow(side if isinstance(side, dict) else {"messages": side}, f"{row.place}: completions[{index}]")
    policy, sampling = inner.fields.get("policy"), inner.fields.get("sampling") or {}
    if not isinstance(policy, str) or not policy:
        raise bad_field(inner, "policy", "the name of the policy that wrote it")
    if not isinstance(sampling, dict):
        raise bad_field(inner, "sampling", "an object")
    return ImportCompletion(chat_field(inner, "messages"), policy, sampling)
