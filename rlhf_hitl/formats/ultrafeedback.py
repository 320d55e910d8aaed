"""UltraFeedback: an instruction and four completions that GPT-4 rated (openbmb/UltraFeedback, also curated).

The overall scores rank the completions, with ties where they are equal. GPT-4 is no person: its votes and ratings are
marked as simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.questions import count_unread, is_nothing, is_number, read_columns
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRating,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_assistant_message,
    make_field_error,
    read_string_field,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Verdict

NAME = "ultrafeedback"
ABOUT = '{instruction, completions: [{"model", "response", "annotations", "overall_score"}]} (UltraFeedback)'

JUDGE = "GPT-4"
#: Of a completion: the score → the axis that it is kept as, with its scale.
SCORES = {"overall_score": ("overall", 1, 10), "fine-grained_score": ("fine-grained", 1, 5)}
ASPECT_SCALE = 1, 5
_NO_RATING = (None, "", "N/A", "NA")
_NO_ANSWERS = (["None"], ["null"])


def matches(fields: Mapping[str, Any]) -> bool:
    completions = fields.get("completions")
    return (
        "instruction" in fields
        and isinstance(completions, list)
        and all(isinstance(one, Mapping) and {"response", "annotations"} <= set(one) for one in completions)
    )


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    raw = row.fields.get("completions")
    if not isinstance(raw, list) or not all(isinstance(one, Mapping) for one in raw):
        raise make_field_error(row, "completions", "a list of completions")
    parts = [SourceRow(one, f"{row.place}: completions[{i}]", unread=row.unread) for i, one in enumerate(raw)]
    completions = tuple(map(_read_completion, parts))
    ratings = tuple(rating for i, part in enumerate(parts) for rating in _read_ratings(part, i))
    scores: dict[float, list[int]] = {}
    for rating in ratings:
        if rating.axis == "overall":
            scores.setdefault(rating.value, []).append(rating.completion)
    ranking = tuple(tuple(scores[score]) for score in sorted(scores, reverse=True))
    vote = ImportVote(Verdict.RANKED, ranking, JUDGE, simulated=True) if sum(map(len, ranking)) >= 2 else None
    tags = {"source": str(row.fields["source"])} if not is_nothing(row.fields.get("source")) else {}
    read = ("instruction", "completions", "source", "models")  # the models are those of the completions
    columns = {name: value for name, value in read_columns(row).items() if value not in _NO_ANSWERS}
    count_unread(row, columns, read)
    prompt = (Message("user", read_text_field(row, "instruction")),)
    return [ImportRecord(prompt, completions, row.place, vote, tags, row.split, order_known=False, ratings=ratings)]


def _read_completion(part: SourceRow) -> ImportCompletion:
    model = part.fields.get("model")
    # Each completion was asked for under a principle, in a system prompt that the raters' prompt does not have.
    asked = {
        key: part.fields[key] for key in ("principle", "custom_system_prompt") if not is_nothing(part.fields.get(key))
    }
    policy = model if isinstance(model, str) and model else "unknown"
    return ImportCompletion(make_assistant_message(read_string_field(part, "response")), policy, asked)


def _read_ratings(part: SourceRow, completion: int) -> list[ImportRating]:
    """Return the scores of a completion, and its rating for each aspect."""
    critique = part.fields.get("critique")
    ratings = []
    for name, (axis, lowest, highest) in SCORES.items():
        value = _read_number(part, name, lowest, highest)
        if value is not None:
            why = critique if axis == "overall" and isinstance(critique, str) else ""
            ratings.append(ImportRating(completion, axis, value, lowest, highest, JUDGE, why, simulated=True))
        elif axis == "overall" and not is_nothing(critique):
            part.unread["completion key critique, without a score"] += 1
    annotations = part.fields.get("annotations") or {}
    if not isinstance(annotations, Mapping):
        raise make_field_error(part, "annotations", "an object of aspects")
    for aspect, said in annotations.items():
        if said is None:
            continue
        if not isinstance(said, Mapping):
            part.unread[f"annotations of {aspect}: several of one aspect"] += 1
            continue
        told = SourceRow(said, f"{part.place}: {aspect}")
        value = _read_number(told, "Rating", *ASPECT_SCALE)
        # Where an aspect has a type and a rating, "Rationale" is why it is of that type.
        key = "Rationale For Rating" if not is_nothing(said.get("Rationale For Rating")) else "Rationale"
        if value is not None:
            why = said[key] if isinstance(said.get(key), str) else ""
            ratings.append(ImportRating(completion, aspect, value, *ASPECT_SCALE, JUDGE, why, simulated=True))
        elif said.get("Rating") is not None:
            part.unread[f"ratings {said['Rating']} of {aspect}"] += 1
        read = ("Rating", key) if value is not None else ("Rating",)
        count_unread(part, said, read, "annotation key")
    read = ("model", "response", "principle", "custom_system_prompt", "critique", "annotations", *SCORES)
    count_unread(part, part.fields, read, "completion key")
    return ratings


def _read_number(part: SourceRow, name: str, lowest: float, highest: float) -> float | None:
    """Return a rating, which the files write as a number or as text; None where there is none."""
    value = part.fields.get(name)
    if value in _NO_RATING or value != value:
        return None
    try:
        number = float(value) if is_number(value) or isinstance(value, str) else None
    except ValueError:
        number = None
    if number is None or not lowest <= number <= highest:
        raise make_field_error(part, name, f"{lowest} to {highest}, or N/A")
    return number
