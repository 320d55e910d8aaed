"""UltraFeedback as pairs, of HuggingFaceH4 (ultrafeedback_binarized) and Argilla (…-binarized-preferences-cleaned).

A pair with equal scores is a tie, whichever side was drawn as chosen. The scores are GPT-4's, which is no person:
votes and ratings are those of a judge. Sets that others made of these have other columns: they may have another
judge and are read as `trl`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import split_sides
from rlhf_hitl.formats.readers.questions import is_number
from rlhf_hitl.formats.readers.ultrafeedback import JUDGE
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRating,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_field_error,
    read_chat_field,
)
from rlhf_hitl.formats.source import RowSource

NAME = "ultrafeedback_binarized"
ABOUT = (
    "{prompt, prompt_id, chosen, rejected, messages, score_chosen, score_rejected}, or {source, prompt, chosen, "
    "chosen-rating, chosen-model, rejected, …} (UltraFeedback, binarized)"
)

H4_COLUMNS = {"prompt", "prompt_id", "chosen", "rejected", "messages", "score_chosen", "score_rejected"}
ARGILLA_COLUMNS = {
    "source", "prompt", "chosen", "chosen-rating", "chosen-model", "rejected", "rejected-rating", "rejected-model",
}  # fmt: skip
COLUMNS = H4_COLUMNS | ARGILLA_COLUMNS


def matches(fields: Mapping[str, Any]) -> bool:
    is_chats = isinstance(fields.get("chosen"), list) and isinstance(fields.get("rejected"), list)
    return is_chats and set(fields) in (H4_COLUMNS, ARGILLA_COLUMNS)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    chosen, rejected = read_chat_field(row, "chosen"), read_chat_field(row, "rejected")
    parts = split_sides(row, "rejected", chosen, rejected)
    # H4's scores are the overall ones, Argilla's the means of the four aspects.
    is_h4 = "score_chosen" in row.fields
    columns = ("score_chosen", "score_rejected") if is_h4 else ("chosen-rating", "rejected-rating")
    axis, lowest, highest = ("overall", 1.0, 10.0) if is_h4 else ("fine-grained", 1.0, 5.0)
    scores = [_read_score(row, column, lowest, highest) for column in columns]
    if scores[0] < scores[1]:
        row.noted["rating contradicts the choice, which is kept"] += 1
    vote = ImportVote.of_pair("tie" if scores[0] == scores[1] else "first", rater=JUDGE, judge=True)
    ratings = tuple(ImportRating(i, axis, score, lowest, highest, JUDGE, judge=True) for i, score in enumerate(scores))
    policies = [str(row.fields.get(f"{side}-model") or "unknown") for side in ("chosen", "rejected")]
    completions = tuple(ImportCompletion(chat, policy) for chat, policy in zip(parts[1:], policies))
    tags = {"source": str(row.take("source", "tag"))} if row.find(("source",)) else {}
    if row.look("messages") == row.look("chosen"):
        row.take("messages", "chosen")
    if any(message.text == row.look("prompt") for message in parts[0]):
        row.take("prompt", "prompt")
    return [ImportRecord(parts[0], completions, row.place, vote, tags, row.split, order_known=False, ratings=ratings)]


def _read_score(row: SourceRow, name: str, lowest: float, highest: float) -> float:
    value = row.fields.get(name)
    if not is_number(value) or not lowest <= value <= highest:
        raise make_field_error(
            row, name, f"{lowest:g} to {highest:g}", fix="read it with --format trl, or correct the line"
        )
    return float(value)
