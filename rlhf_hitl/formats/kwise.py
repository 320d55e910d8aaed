"""Rankings of K completions, ties included; each line is one rater's ranking for one prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_assistant_message,
    make_field_error,
    read_chat_field,
    read_tags_field,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Verdict

NAME = "kwise"
ABOUT = (
    'JSONL of {"prompt", "completions": [texts], "ranking": [[best], [next, its equal], …] as positions} and, where '
    'known, "policies", "rater", "tags" (K-wise rankings)'
)


def matches(fields: Mapping[str, Any]) -> bool:
    return {"prompt", "completions", "ranking"} <= set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    if isinstance(row.fields.get("prompt"), list):
        prompt = read_chat_field(row, "prompt")
    else:
        prompt = (Message("user", read_text_field(row, "prompt")),)
    texts = row.fields.get("completions")
    if not isinstance(texts, list) or len(texts) < 2:
        raise make_field_error(row, "completions", "a list of two or more")
    policies = row.fields.get("policies") or ["unknown"] * len(texts)
    if not isinstance(policies, list) or len(policies) != len(texts):
        raise make_field_error(row, "policies", f"{len(texts)} names, one a completion")
    tags = read_tags_field(row)
    completions = tuple(
        _to_completion(row, i, side, str(policy)) for i, (side, policy) in enumerate(zip(texts, policies))
    )
    rater = str(row.fields.get("rater") or "unnamed")
    vote = ImportVote(Verdict.RANKED, _read_ranking(row, len(completions)), rater=rater)
    return [ImportRecord(prompt, completions, row.place, vote, tags, row.split)]


def _to_completion(row: SourceRow, index: int, side: Any, policy: str) -> ImportCompletion:
    if isinstance(side, str):  # may be empty: a completion may be empty
        return ImportCompletion(make_assistant_message(side), policy)
    name = f"completions[{index}]"
    return ImportCompletion(read_chat_field(SourceRow({name: side}, row.place), name), policy)


def _read_ranking(row: SourceRow, n: int) -> tuple[tuple[int, ...], ...]:
    """Return groups of positions; a bare position is a group of one. Completions not named are not ranked."""
    value = row.fields["ranking"] if isinstance(row.fields.get("ranking"), list) else []
    groups = [group if isinstance(group, list) else [group] for group in value]
    positions = [i for group in groups for i in group]
    is_valid = (
        all(type(i) is int and 0 <= i < n for i in positions)
        and len(set(positions)) == len(positions) >= 2
        and all(groups)
    )
    if not is_valid:
        raise make_field_error(row, "ranking", f"groups of positions from 0 to {n - 1}, best first, each position once")
    return tuple(tuple(group) for group in groups)
