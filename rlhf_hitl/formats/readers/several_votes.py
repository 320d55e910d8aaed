"""Votes of several raters on pairs of responses: a column a rater (PandaLM), or a row a vote.

A vote is 1 or 2 for the better response and 0 for a tie, or A, B, first, second, tie, both bad. Votes that are 0 and 1
throughout are refused: 0 could then be the first of two as well as a tie. Where the responses themselves are called 0
and 1 (`output_0`, `output_1`), a number is the response of that name, and a 2 is refused: it could make 0 a tie.
"""

# PandaLM's data/testset-v1.json has annotator1 to annotator3, its README label_0 to label_2; `cmp_key` names models.

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.readers.columns import (
    FIRST,
    OUTCOMES,
    PROMPT,
    RATER,
    RATIONALE,
    SECOND,
    SYSTEM,
    read_judged_at,
    read_prompt,
    read_rater,
    read_rationale,
    read_split,
    squeeze,
)
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    is_nothing,
    make_assistant_message,
    make_field_error,
    read_string_field,
)
from rlhf_hitl.formats.source import RowSource

NAME = "several_votes"
ABOUT = (
    "{instruction or prompt, response1, response2} with a column for each rater, {annotator1, annotator2} or {rater_1} "
    "or {vote_1} or {label_0}: 1, 2, 0 for a tie, or A, B, tie (PandaLM); or with a vote a row: {annotator, vote}"
)

NOUNS, ENDINGS = ("response", "output", "answer", "completion", "text"), ("12", "ab", "AB", "01", "xy", "XY")
PAIRS = [(f"{noun}{gap}{ends[0]}", f"{noun}{gap}{ends[1]}") for noun in NOUNS for ends in ENDINGS for gap in ("", "_")]
MODELS = [(f"model{gap}{ends[0]}", f"model{gap}{ends[1]}") for ends in ENDINGS for gap in ("", "_")]
RATER_VOTE = re.compile(r"(annotator|annotation|rater|vote|voter|label|labeler|judge|worker)[ _-]?\d+", re.IGNORECASE)
VOTES = ("vote", "preference", "preferred", "winner", "choice", "label")
REASONS = (*RATIONALE, "comment")
TIMES = ("judged_at", "timestamp", "created_at", "time")
COLUMNS = {
    *(name for pair in (*PAIRS, *MODELS) for name in pair), *PROMPT, *SYSTEM, "history", *VOTES, *REASONS, *TIMES,
    *RATER, *(f"annotator{n}" for n in range(1, 10)), "language", "cmp_key", "split",
}  # fmt: skip
NUMBERS = {"1": "first", "2": "second", "0": "tie"}
NUMBERS_FROM_0 = {"0": "first", "1": "second"}  # of responses that are called 0 and 1
EXPECTED = "1, 2 or 0 for a tie; or A, B, first, second, tie or both_bad"
EXPECTED_FROM_0 = "0 or 1, as the responses are called; or A, B, first, second, tie or both_bad"


def matches(fields: Mapping[str, Any]) -> bool:
    keys = set(fields)
    if _find_pair(keys, PAIRS) is None or not keys & set(PROMPT):
        return False
    return bool(_list_vote_columns(fields)) or bool(keys & set(VOTES) and keys & set(RATER))


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    """Return the reader, after looking at the votes of the file until one of them tells what its numbers mean.

    Raises:
        BadInput: it is not clear what 0 means.
    """
    _refuse_unclear_numbers(source)
    return _read_row


def _refuse_unclear_numbers(source: RowSource) -> None:
    """Refuse a file whose 0 may be a tie as well as the first of two.

    Only a 2 shows that numbers begin with 1; A, B, left or first show that sides are not numbered. A tie in a word
    shows neither: beside it 0 may be the first of two.
    """
    zero: tuple[SourceRow, str] | None = None
    for row in source.rows(lambda error: None):  # bad rows are reported when they are read
        counts_from_0 = _counts_from_0(row.fields)
        for name in _list_vote_columns(row.fields) or [n for n in VOTES if n in row.fields][:1]:
            word = _spell(row.fields[name])
            if word == "2" and counts_from_0:
                raise BadInput(
                    f"{row.place}: {name} = {row.fields[name]!r}, and the responses are called 0 and 1",
                    expected="0 or 1, the number in the better response's name, and ties as words",
                    fix="write first, second and tie: 0 could be a tie or the first of two",
                )
            if not counts_from_0 and (word == "2" or squeeze(word) in FIRST | SECOND):
                return
            if word == "0" and zero is None and not counts_from_0:
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
    prompt = read_prompt(row)
    completions = tuple(
        ImportCompletion(make_assistant_message(_read_response(row, name)), policy)
        for name, policy in zip(names, _read_policies(row), strict=True)
    )
    tags = {"language": row.take("language", "tag")} if isinstance(row.look("language"), str) else {}
    split = read_split(row)
    # No file of this kind says in which order a rater saw the responses.
    return [
        ImportRecord(prompt, completions, row.place, vote, tags, split, order_known=False)
        for vote in _read_votes(row) or [None]
    ]


def _read_response(row: SourceRow, name: str) -> str:
    """Return a response, which may be empty. A number, or True, is the text that pandas took for one, as in PandaLM."""
    value = row.fields.get(name)
    if isinstance(value, bool | int | float) and not is_nothing(value):
        row.noted[f"{name} that are no text, read as their text"] += 1
        return str(value)
    return read_string_field(row, name)


def _read_votes(row: SourceRow) -> list[ImportVote]:
    """Return the votes of a row. An empty cell is no vote."""
    if columns := _list_vote_columns(row.fields):
        # Columns are named and not people.
        votes = [(name, _read_outcome(row, name)) for name in columns]
        return [ImportVote.of_pair(outcome, rater=name) for name, outcome in votes if outcome is not None]
    name = row.find(VOTES)
    outcome = None if name is None else _read_outcome(row, name)
    if outcome is None:
        return []
    return [
        ImportVote.of_pair(
            outcome,
            rater=read_rater(row),
            rationale=read_rationale(row, [name for name in REASONS if isinstance(row.look(name), str)]),
            judged_at=read_judged_at(row, TIMES),
        )
    ]


def _read_outcome(row: SourceRow, name: str) -> str | None:
    """Return the outcome in a column, which may be the name of a response's; None where it is empty."""
    value = row.take(name, "vote")
    if is_nothing(value):
        return None
    word, pair = _spell(value), _find_pair(row.fields, PAIRS)
    counts_from_0 = _counts_from_0(row.fields)
    number = (NUMBERS_FROM_0 if counts_from_0 else NUMBERS).get(word)
    outcome = number or OUTCOMES.get(squeeze(word))
    if outcome is None and pair is not None and value in pair:
        outcome = "first" if value == pair[0] else "second"
    if outcome is None:
        raise make_field_error(row, name, EXPECTED_FROM_0 if counts_from_0 else EXPECTED)
    if number is not None and counts_from_0 and pair is not None:
        row.noted[f"votes 0 and 1, read as {pair[0]} and {pair[1]}"] += 1
    return outcome


def _spell(value: Any) -> str:
    """Return a vote as text: 1.0, which pandas makes of a column with gaps, is 1."""
    is_vote = isinstance(value, str | int | float) and not isinstance(value, bool)
    return str(value).strip().removesuffix(".0") if is_vote else ""


def _read_policies(row: SourceRow) -> tuple[str, str]:
    """Return the models of both responses."""
    names = _find_pair(row.fields, MODELS)
    if names is not None and all(isinstance(row.look(name), str) and row.look(name) for name in names):
        return row.take(names[0], "policy"), row.take(names[1], "policy")
    key = row.look("cmp_key")
    models = key.split("_") if isinstance(key, str) else []
    if len(models) == 2 and all(models):
        row.take("cmp_key", "policies")
        return models[0], models[1]
    return "unknown", "unknown"


def _counts_from_0(fields: Mapping[str, Any]) -> bool:
    """Return whether the responses are called 0 and 1."""
    pair = _find_pair(fields, PAIRS)
    return pair is not None and pair[0].endswith("0")


def _list_vote_columns(fields: Mapping[str, Any]) -> list[str]:
    return [name for name in fields if isinstance(name, str) and RATER_VOTE.fullmatch(name)]


def _find_pair(keys: Iterable[str], pairs: list[tuple[str, str]]) -> tuple[str, str] | None:
    known = set(keys)
    return next((pair for pair in pairs if known.issuperset(pair)), None)
