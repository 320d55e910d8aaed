"""MT-Bench and Arena votes: the judge, the whole conversations of two models, and the winner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from rlhf_hitl.formats.columns import JUDGED_AT, RATIONALE, read_judged_at, read_rater, read_rationale
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    is_nothing,
    make_field_error,
    read_chat_field,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Messages
from rlhf_hitl.wording import say_count

NAME = "mt_bench"
ABOUT = "votes of {judge, model_a, model_b, turn, winner, conversation_a, conversation_b} (MT-Bench, Chatbot Arena)"

#: As published sets write the winner, in lower case and without spaces.
WINNERS = {
    "model_a": "first", "a": "first", "model_b": "second", "b": "second",
    "tie": "tie", "tie(inconsistent)": "tie",
    "tie(bothbad)": "all_bad", "tie(both_bad)": "all_bad", "bothbad": "all_bad", "both_bad": "all_bad",
    "bothtie(bothbad)": "all_bad", "neither": "all_bad", "bothgood": "tie", "both_good": "tie",
}  # fmt: skip
MT_BENCH_COLUMNS = {"judge", "model_a", "model_b", "winner"}
TAGS = ("category", "question_id", "language")
COLUMNS = (*MT_BENCH_COLUMNS, *TAGS, "turn", "conversation_a", "conversation_b", *RATIONALE, *JUDGED_AT)


def matches(fields: Mapping[str, Any]) -> bool:
    return set(fields) >= MT_BENCH_COLUMNS


class _Split(NamedTuple):
    raw: list[Any]
    turn: int
    prompt: Messages
    completion: Messages


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return partial(_read_row, {})


def _read_row(last: dict[str, _Split], row: SourceRow) -> list[ImportRecord]:
    """Return the record of a row; `last` is how the conversations of the row before were split, by their column."""
    turn = row.fields.get("turn")
    if isinstance(turn, str) and turn.strip().isdecimal() and len(turn) < 10:  # of a CSV file
        turn = int(turn)
    if not isinstance(turn, int) or turn < 1:
        raise make_field_error(row, "turn", "the number of the turn that was judged, 1 or more")
    (prompt, a), (other_prompt, b) = (_split_at_turn(row, f"conversation_{side}", turn, last) for side in "ab")
    if prompt != other_prompt:
        raise make_field_error(row, "conversation_b", "a conversation that opens like conversation_a")
    completions = tuple(ImportCompletion(c, read_text_field(row, f"model_{side}")) for c, side in ((a, "a"), (b, "b")))
    vote = ImportVote.of_pair(
        read_winner(row),
        rater=read_rater(row, ("judge",)),
        rationale=read_rationale(row),
        judged_at=read_judged_at(row),
    )
    # The turn is not a tag: both turns of a question have one prompt. A second turn makes the completion longer.
    tags = {k: str(row.take(k, "tag")) for k in TAGS if not is_nothing(row.look(k))}
    return [ImportRecord(prompt, completions, row.place, vote, tags, row.split)]


def read_winner(row: SourceRow) -> str:
    """Return the outcome of a vote: `first`, `second`, `tie` or `all_bad`."""
    value = row.fields.get("winner")
    outcome = WINNERS.get("".join(value.split()).lower()) if isinstance(value, str) else None
    if outcome is None:
        raise make_field_error(row, "winner", "'model_a' or 'model_b' or 'tie' or 'both_bad'")
    return outcome


def _split_at_turn(row: SourceRow, name: str, turn: int, last: dict[str, _Split]) -> tuple[Messages, Messages]:
    """Return (prompt, completion): up to the first user message, and from there to the answer of that turn."""
    raw = row.fields.get(name)
    if (known := last.get(name)) is not None and known.turn == turn and known.raw == raw:
        return known.prompt, known.completion  # votes on one comparison mostly follow each other
    chat = read_chat_field(row, name)
    first_user = next((i for i, m in enumerate(chat) if m.role == "user"), None)
    answers = [i for i, m in enumerate(chat) if m.role == "assistant"]
    if first_user is None or len(answers) < turn or answers[0] < first_user:
        raise make_field_error(row, name, f"a user message and {say_count(turn, 'answer')} to it")
    prompt, completion = chat[: first_user + 1], chat[first_user + 1 : answers[turn - 1] + 1]
    if isinstance(raw, list) and all(isinstance(m, Mapping) and m.keys() == {"role", "content"} for m in raw):
        last[name] = _Split(raw, turn, prompt, completion)  # of others, what is not read is counted each time
    return prompt, completion
