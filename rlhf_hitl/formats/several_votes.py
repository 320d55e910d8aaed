"""Votes of several raters on pairs of responses: a column a rater (PandaLM), or a row a vote.

A vote is 1 or 2 for the better response and 0 for a tie, or A, B, first, second, tie, both bad. Votes that are 0 and 1
throughout are refused: 0 could then be the first of two as well as a tie.
"""

# PandaLM's data/testset-v1.json has annotator1 to annotator3, its README label_0 to label_2; `cmp_key` names models.

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.cells import (
    RATER_COLUMNS,
    count_unread,
    is_missing,
    note,
    read_instruction,
    read_rater,
    read_time,
)
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_assistant_message,
    make_field_error,
    read_chat_field,
    read_string_field,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Messages

NAME = "several_votes"
ABOUT = (
    "{instruction or prompt, response1, response2} with a column for each rater, {annotator1, annotator2} or {rater_1} "
    "or {vote_1} or {label_0}: 1, 2, 0 for a tie, or A, B, tie (PandaLM); or with a vote a row: {annotator, vote}"
)

NOUNS, ENDINGS = ("response", "output", "answer", "completion", "text"), ("12", "ab", "AB", "01", "xy", "XY")
PAIRS = [(f"{noun}{gap}{ends[0]}", f"{noun}{gap}{ends[1]}") for noun in NOUNS for ends in ENDINGS for gap in ("", "_")]
MODELS = [(f"model{gap}{ends[0]}", f"model{gap}{ends[1]}") for ends in ENDINGS for gap in ("", "_")]
PROMPTS = ("prompt", "instruction", "question", "query", "input")
RATER_VOTE = re.compile(r"(annotator|annotation|rater|vote|voter|label|labeler|judge|worker)[ _-]?\d+", re.IGNORECASE)
VOTES = ("vote", "preference", "preferred", "winner", "choice", "label")
REASONS = ("rationale", "reason", "explanation", "comment")
TIMES = ("judged_at", "timestamp", "created_at", "time")
COLUMNS = {
    *(name for pair in (*PAIRS, *MODELS) for name in pair), *PROMPTS, *VOTES, *REASONS, *TIMES, *RATER_COLUMNS,
    *(f"annotator{n}" for n in range(1, 10)), "language", "cmp_key",
}  # fmt: skip
OUTCOMES = {
    "1": "first", "2": "second", "0": "tie", "a": "first", "b": "second", "first": "first", "second": "second",
    "left": "first", "right": "second", "model_a": "first", "model_b": "second", "tie": "tie", "same": "tie",
    "equal": "tie", "both_bad": "all_bad", "both bad": "all_bad", "tie (bothbad)": "all_bad",
}  # fmt: skip
EXPECTED = "1, 2 or 0 for a tie; or A, B, first, second, tie or both_bad"


def matches(fields: Mapping[str, Any]) -> bool:
    keys = set(fields)
    if _find_pair(keys, PAIRS) is None or not keys & set(PROMPTS):
        return False
    return bool(_list_vote_columns(fields)) or bool(keys & set(VOTES) and keys & set(RATER_COLUMNS))


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    """Return the reader, after looking at the votes of the file until one of them is a 2.

    Raises:
        BadInput: numbers are 0 and 1 throughout.
    """
    _refuse_zero_based(source)
    return _read_row


def _refuse_zero_based(source: RowSource) -> None:
    zero: tuple[SourceRow, str] | None = None
    for row in source.rows(lambda error: None):  # bad rows are reported when they are read
        for name in _list_vote_columns(row.fields) or [n for n in VOTES if n in row.fields][:1]:
            value = _spell(row.fields[name])
            if value == "2" or (value in OUTCOMES and not value.isdigit()):
                return
            if value == "0" and zero is None:
                zero = row, name
    if zero is not None:
        row, name = zero
        raise BadInput(
            f"{row.place}: {name} = {row.fields[name]!r}, and no vote of the file is 2",
            expected="1 or 2 for the better response, and 0 for a tie",
            fix="write first, second and tie: 0 could be a tie or the first of two",
        )


def _read_row(row: SourceRow) -> list[ImportRecord]:
    names = _find_pair(row.fields, PAIRS)
    if names is None:
        raise make_field_error(row, "response1", "two responses: response1 and response2")
    prompt_column = next((name for name in PROMPTS if not is_missing(row.fields.get(name))), "prompt")
    prompt, read = _read_prompt(row, prompt_column), {*names, prompt_column}
    if prompt_column == "instruction":
        read.add("input")
    policies, policy_columns = _read_policies(row)
    completions = tuple(
        ImportCompletion(make_assistant_message(_read_response(row, name)), policy)
        for name, policy in zip(names, policies, strict=True)
    )
    votes, vote_columns = _read_votes(row)
    count_unread(row, {*read, *policy_columns, *vote_columns})
    tags = {"language": row.fields["language"]} if isinstance(row.fields.get("language"), str) else {}
    return [ImportRecord(prompt, completions, row.place, vote, tags, row.split) for vote in votes or [None]]


def _read_prompt(row: SourceRow, name: str) -> Messages:
    if isinstance(row.fields.get(name), list):
        return read_chat_field(row, name)
    return (Message("user", read_instruction(row) if name == "instruction" else read_text_field(row, name)),)


def _read_response(row: SourceRow, name: str) -> str:
    """Return a response, which may be empty. A number, or True, is the text that pandas took for one, as in PandaLM."""
    value = row.fields.get(name)
    if isinstance(value, bool | int | float) and not is_missing(value):
        note(row, f"{name} that are no text, read as their text")
        return str(value)
    return read_string_field(row, name)


def _read_votes(row: SourceRow) -> tuple[list[ImportVote], set[str]]:
    """Return the votes of a row, and the columns that were read. An empty cell is no vote."""
    if columns := _list_vote_columns(row.fields):
        # The order in which a response was shown is not given; columns are named and not people.
        votes = [
            ImportVote.of_pair(_read_outcome(row, name), rater=name)
            for name in columns
            if not is_missing(row.fields[name])
        ]
        return votes, {*columns, "language"}
    name = next((name for name in VOTES if not is_missing(row.fields.get(name))), None)
    rater, rater_column = read_rater(row)
    reason = next((n for n in REASONS if isinstance(row.fields.get(n), str) and row.fields[n]), "")
    time = next((n for n in TIMES if not is_missing(row.fields.get(n))), "")
    if name is None:
        return [], {rater_column, "language"}
    vote = ImportVote.of_pair(
        _read_outcome(row, name),
        rater=rater,
        rationale=row.fields[reason] if reason else "",
        judged_at=read_time(row, time) if time else None,
    )
    return [vote], {name, rater_column, reason, time, "language"}


def _read_outcome(row: SourceRow, name: str) -> str:
    value = row.fields.get(name)
    outcome = OUTCOMES.get(_spell(value))
    if outcome is None and isinstance(value, str) and (pair := _find_pair(row.fields, PAIRS)) and value in pair:
        outcome = "first" if value == pair[0] else "second"
    if outcome is None:
        raise make_field_error(row, name, EXPECTED)
    return outcome


def _spell(value: Any) -> str:
    """Return a vote as `OUTCOMES` has it: 1.0, which pandas makes of a column with gaps, is 1."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip().lower().removesuffix(".0") if isinstance(value, str | int) else ""


def _read_policies(row: SourceRow) -> tuple[tuple[str, str], set[str]]:
    """Return the models of both responses, and the columns that name them."""
    names = _find_pair(row.fields, MODELS)
    if names is not None and all(isinstance(row.fields[name], str) and row.fields[name] for name in names):
        return (row.fields[names[0]], row.fields[names[1]]), set(names)
    key = row.fields.get("cmp_key")
    models = key.split("_") if isinstance(key, str) else []
    if len(models) == 2 and all(models):
        return (models[0], models[1]), {"cmp_key"}
    return ("unknown", "unknown"), set()


def _list_vote_columns(fields: Mapping[str, Any]) -> list[str]:
    return [name for name in fields if isinstance(name, str) and RATER_VOTE.fullmatch(name)]


def _find_pair(keys: Iterable[str], pairs: list[tuple[str, str]]) -> tuple[str, str] | None:
    known = set(keys)
    return next((pair for pair in pairs if known.issuperset(pair)), None)
