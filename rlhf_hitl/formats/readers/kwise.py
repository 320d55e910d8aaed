"""Rankings of K completions, ties included; each line is one rater's ranking for one prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.image_columns import fill_images, read_images
from rlhf_hitl.formats.readers.columns import (
    COMMON,
    PROMPT,
    has_column,
    read_judged_at,
    read_rater,
    read_rationale,
    read_raw_prompt,
    read_split,
    read_strength,
)
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_assistant_message,
    make_field_error,
    parse_chat,
    parse_raw_messages,
    read_list_field,
    read_scores_field,
    read_tags_field,
    read_tools_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Verdict

NAME = "kwise"
ABOUT = (
    'JSONL of {"prompt", "completions": [texts], "ranking": [[best], [next, its equal], …] as positions} and, where '
    'known, {"policies", "rater", "rationale", "strength" of a pair, "scores": {axis: [1 to 5, …]}, "judged_at", '
    '"tags"} (K-wise rankings)'
)
COLUMNS = ("completions", "ranking", "policies", "scores", "tags", "split", *COMMON)


def matches(fields: Mapping[str, Any]) -> bool:
    return {"completions", "ranking"} <= set(fields) and has_column(fields, PROMPT)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    raw_prompt = read_raw_prompt(row)
    if raw_prompt is None:
        raise make_field_error(row, "prompt", "text that is not empty, or messages")
    (raw_prompt,) = fill_images(row, read_images(row), raw_prompt)
    prompt = parse_raw_messages(row, "prompt", raw_prompt)
    texts = read_list_field(row, "completions")
    if len(texts) < 2:
        raise make_field_error(row, "completions", "a list of two or more")
    policies = read_list_field(row, "policies") or ["unknown"] * len(texts)
    if len(policies) != len(texts):
        raise make_field_error(row, "policies", f"{len(texts)} names, one a completion")
    tags = read_tags_field(row)
    completions = tuple(
        _to_completion(row, i, side, str(policy)) for i, (side, policy) in enumerate(zip(texts, policies))
    )
    strength = read_strength(row) or None
    ranking = _read_ranking(row, len(completions))
    if strength is not None and (len(completions) > 2 or len(ranking) < 2):
        raise make_field_error(row, "strength", "none, unless one of two completions is better")
    vote = ImportVote(
        Verdict.RANKED,
        ranking,
        rater=read_rater(row),
        strength=strength,
        rationale=read_rationale(row),
        scores=read_scores_field(row, len(completions)),
        judged_at=read_judged_at(row),
    )
    # In which order the rater saw the completions is not in the file.
    return [
        ImportRecord(
            prompt, completions, row.place, vote, tags, read_split(row), order_known=False, tools=read_tools_field(row)
        )
    ]  # fmt: skip


def _to_completion(row: SourceRow, index: int, side: Any, policy: str) -> ImportCompletion:
    if isinstance(side, str):  # may be empty: a completion may be empty
        return ImportCompletion(make_assistant_message(side), policy)
    return ImportCompletion(parse_chat(row, f"completions[{index}]", side), policy)


def _read_ranking(row: SourceRow, n: int) -> tuple[tuple[int, ...], ...]:
    """Return groups of positions; a bare position is a group of one. Completions not named are not ranked."""
    value = read_list_field(row, "ranking")
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
