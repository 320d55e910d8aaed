"""Nectar: a prompt and seven answers of models, ranked by GPT-4 (berkeley-nest/Nectar)."""

# The fields are those of the dataset's card on the hub.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import read_answer, read_number, read_prompt
from rlhf_hitl.formats.readers.ranks import Ranked, drop_repeats, group_by_rank
from rlhf_hitl.formats.record import (
    ImportRecord,
    ImportVote,
    SourceRow,
    is_nothing,
    make_field_error,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Verdict

NAME = "nectar"
ABOUT = (
    '{prompt: "\\n\\nHuman: … \\n\\nAssistant: ", answers: [{answer, model, rank}]}: a ranking by GPT-4 of 7 answers '
    "(Nectar)"
)

COLUMNS = {"prompt", "answers", "source", "good_natured"}


def matches(fields: Mapping[str, Any]) -> bool:
    answers = fields.get("answers")
    return (
        "prompt" in fields
        and isinstance(answers, list)
        and bool(answers)
        and all(isinstance(answer, dict) and {"answer", "rank"} <= answer.keys() for answer in answers)
    )


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    answers = row.fields.get("answers")
    if not isinstance(answers, list) or not answers:
        raise make_field_error(row, "answers", 'a list of {"answer": text, "model": name, "rank": number}')
    prompt = read_prompt(row, ("prompt",))
    ranked = drop_repeats(row, [_read_ranked(row, i, answer) for i, answer in enumerate(answers)])
    ranks = [rank for _, rank in ranked]
    if unranked := ranks.count(None):
        row.noted["answers without a rank"] += unranked
    # GPT-4 ranked them, in an order that is not given: no person did.
    groups = group_by_rank(ranks)
    vote = ImportVote(Verdict.RANKED, groups, rater="gpt-4", judge=True) if groups else None
    completions = tuple(completion for completion, _ in ranked)
    return [ImportRecord(prompt, completions, row.place, vote, _read_tags(row), row.split, order_known=False)]


def _read_ranked(row: SourceRow, index: int, answer: Any) -> Ranked:
    if not isinstance(answer, dict):
        raise make_field_error(row, "answers", 'a list of {"answer": text, "model": name, "rank": number}')
    part, rank = row.enter(answer, "answer key", f"answers[{index}]"), None
    if not is_nothing(part.look("rank")):
        rank = read_number(part, "rank", "a number, of which the lowest is best")
    model = "unknown" if is_nothing(part.look("model")) else read_text_field(part, "model")
    return read_answer(part, "answer", model), rank


def _read_tags(row: SourceRow) -> dict[str, str]:
    tags = {}
    sources, good_natured = row.fields.get("source"), row.fields.get("good_natured")
    if not is_nothing(sources):
        tags["source"] = ", ".join(map(str, sources)) if isinstance(sources, list) else str(sources)
    if not is_nothing(good_natured):
        tags["good_natured"] = str(good_natured).lower()
    return tags
