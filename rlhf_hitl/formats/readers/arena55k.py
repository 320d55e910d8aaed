"""Chatbot Arena, 55k: votes in a table whose cells are JSON text of lists (lmarena-ai/arena-human-preference-55k)."""

# The columns are those of train.csv, as Kaggle's "LMSYS – Chatbot Arena Human Preference Predictions" describes it.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import parse_flag
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_field_error,
    read_list_field,
    read_text_field,
    split_shared_prompt,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Messages

NAME = "arena55k"
ABOUT = (
    "{model_a, model_b, prompt, response_a, response_b, winner_model_a, winner_model_b, winner_tie}, with JSON lists "
    "of texts (Chatbot Arena 55k)"
)

WINNERS = {"winner_model_a": "first", "winner_model_b": "second", "winner_tie": "tie"}
COLUMNS = {"model_a", "model_b", "prompt", "response_a", "response_b", *WINNERS}


def matches(fields: Mapping[str, Any]) -> bool:
    return {"prompt", "response_a", "response_b", *WINNERS} <= set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    questions = read_list_field(row, "prompt")
    if not questions or not all(isinstance(text, str) for text in questions):
        raise make_field_error(row, "prompt", "a list of texts, one a turn")
    parts = split_shared_prompt(*(_read_chat(row, questions, f"response_{side}") for side in "ab"))
    assert parts is not None  # both begin with the first question
    prompt, *sides = parts
    completions = tuple(
        ImportCompletion(chat, read_text_field(row, f"model_{side}")) for chat, side in zip(sides, "ab", strict=True)
    )
    vote = ImportVote.of_pair(_read_winner(row))
    # A was on the left of the page.
    return [ImportRecord(prompt, completions, row.place, vote, split=row.split)]


def _read_chat(row: SourceRow, questions: list[str], name: str) -> Messages:
    answers = read_list_field(row, name)
    if len(answers) != len(questions) or not all(isinstance(text, str | None) for text in answers):
        raise make_field_error(row, name, f"a list of {len(questions)}, one text for each turn of `prompt`")
    if missing := answers.count(None):
        row.noted[f"nulls in {name}, read as empty answers"] += missing
    turns = zip(questions, answers, strict=True)
    return tuple(
        message
        for question, answer in turns
        for message in (Message("user", question), Message("assistant", answer or ""))
    )


def _read_winner(row: SourceRow) -> str:
    flags = {name: parse_flag(row.fields.get(name)) for name in WINNERS}
    for name, flag in flags.items():
        if flag is None:
            raise make_field_error(row, name, "1 or 0")
    won = [name for name, flag in flags.items() if flag]
    if len(won) != 1:
        raise make_field_error(row, won[-1] if won else "winner_tie", "1 in one of the three winner columns")
    return WINNERS[won[0]]
