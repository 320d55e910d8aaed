"""MT-Bench and Arena votes: the judge, the whole conversations of two models, and the winner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import (
    JUDGED_AT,
    RATIONALE,
    is_model_judge,
    read_judged_at,
    read_outcome,
    read_rater,
    read_rationale,
)
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

MT_BENCH_COLUMNS = {"judge", "model_a", "model_b", "winner"}
TAGS = ("category", "question_id", "language")
COLUMNS = (*MT_BENCH_COLUMNS, *TAGS, "turn", "conversation_a", "conversation_b", *RATIONALE, *JUDGED_AT)


def matches(fields: Mapping[str, Any]) -> bool:
    return set(fields) >= MT_BENCH_COLUMNS


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    turn = row.fields.get("turn")
    if isinstance(turn, str) and turn.strip().isdecimal() and len(turn) < 10:  # of a CSV file
        turn = int(turn)
    if not isinstance(turn, int) or turn < 1:
        raise make_field_error(row, "turn", "the number of the turn that was judged, 1 or more")
    (prompt, a), (other_prompt, b) = (_split_at_turn(row, f"conversation_{side}", turn) for side in "ab")
    if prompt != other_prompt:
        raise make_field_error(row, "conversation_b", "a conversation that opens like conversation_a")
    completions = tuple(ImportCompletion(c, read_text_field(row, f"model_{side}")) for c, side in ((a, "a"), (b, "b")))
    judge = read_rater(row, ("judge",))
    vote = ImportVote.of_pair(
        read_outcome(row, "winner"),
        rater=judge,
        rationale=read_rationale(row),
        judged_at=read_judged_at(row),
    )
    # The turn is not a tag: both turns of a question have one prompt. A second turn makes the completion longer.
    tags = {k: str(row.take(k, "tag")) for k in TAGS if not is_nothing(row.look(k))}
    # People saw A on the left. A model judged both orders, or one that the file does not tell.
    order_known = not is_model_judge(judge)
    return [ImportRecord(prompt, completions, row.place, vote, tags, row.split, order_known=order_known)]


def _split_at_turn(row: SourceRow, name: str, turn: int) -> tuple[Messages, Messages]:
    """Return (prompt, completion): up to the first user message, and from there to the answer of that turn."""
    chat = read_chat_field(row, name)
    first_user = next((i for i, m in enumerate(chat) if m.role == "user"), None)
    answers = [i for i, m in enumerate(chat) if m.role == "assistant"]
    if first_user is None or len(answers) < turn or answers[0] < first_user:
        raise make_field_error(row, name, f"a user message and {say_count(turn, 'answer')} to it")
    return chat[: first_user + 1], chat[first_user + 1 : answers[turn - 1] + 1]
