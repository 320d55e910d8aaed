"""UltraFeedback: an instruction and four completions that GPT-4 rated (openbmb/UltraFeedback, also curated).

The overall scores rank the completions, with ties where they are equal. GPT-4 is no person: its votes and ratings are
those of a judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rlhf_hitl.formats.readers.columns import parse_number, read_answer, read_question
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRating,
    ImportRecord,
    ImportVote,
    SourceRow,
    is_nothing,
    make_field_error,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Verdict

NAME = "ultrafeedback"
ABOUT = '{instruction, completions: [{"model", "response", "annotations", "overall_score"}]} (UltraFeedback)'

JUDGE = "GPT-4"
#: Of a completion: the score → the axis that it is kept as, with its scale.
SCORES = {"overall_score": ("overall", 1, 10), "fine-grained_score": ("fine-grained", 1, 5)}
ASPECT_SCALE = 1, 5
_NO_RATING = (None, "", "N/A", "NA")
_ANSWERS, _NO_ANSWERS = ("correct_answers", "incorrect_answers"), (["None"], ["null"])
COLUMNS = ("instruction", "completions", "source", "models", *_ANSWERS)


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
    parts = [row.enter(one, "completion key", f"completions[{i}]") for i, one in enumerate(raw)]
    completions = tuple(map(_read_completion, parts))
    ratings = tuple(rating for i, part in enumerate(parts) for rating in _read_ratings(part, i))
    scores: dict[float, list[int]] = {}
    for rating in ratings:
        if rating.axis == "overall":
            scores.setdefault(rating.value, []).append(rating.completion)
    ranking = tuple(tuple(scores[score]) for score in sorted(scores, reverse=True))
    vote = ImportVote(Verdict.RANKED, ranking, JUDGE, judge=True) if sum(map(len, ranking)) >= 2 else None
    tags = {"source": str(row.take("source", "tag"))} if row.find(("source",)) else {}
    row.take("models", "policies")  # those of the completions
    for name in _ANSWERS:
        if row.look(name) in _NO_ANSWERS:
            row.take(name, "nothing, where there is none")
    prompt = read_question(row, "instruction")
    return [ImportRecord(prompt, completions, row.place, vote, tags, row.split, order_known=False, ratings=ratings)]


def _read_completion(part: SourceRow) -> ImportCompletion:
    model = part.fields.get("model")
    # Each completion was asked for under a principle, in a system prompt that the raters' prompt does not have.
    asked = {
        key: value for key in ("principle", "custom_system_prompt") if not is_nothing(value := part.fields.get(key))
    }
    policy = model if isinstance(model, str) and model else "unknown"
    return replace(read_answer(part, "response", policy), sampling=asked)


def _read_ratings(part: SourceRow, completion: int) -> list[ImportRating]:
    """Return the scores of a completion, and its rating for each aspect."""
    critique = part.fields.get("critique")
    ratings = []
    for name, (axis, lowest, highest) in SCORES.items():
        value = _read_number(part, name, lowest, highest)
        if value is not None:
            why = critique if axis == "overall" and isinstance(critique, str) else ""
            ratings.append(ImportRating(completion, axis, value, lowest, highest, JUDGE, why, judge=True))
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
        told = part.enter(said, "annotation key", str(aspect))
        value = _read_number(told, "Rating", *ASPECT_SCALE)
        # Where an aspect has a type and a rating, "Rationale" is why it is of that type.
        if value is not None:
            key = told.find(("Rationale For Rating", "Rationale"))
            why = told.take(key, "rationale") if key and isinstance(told.look(key), str) else ""
            ratings.append(ImportRating(completion, aspect, value, *ASPECT_SCALE, JUDGE, why, judge=True))
        elif told.look("Rating") is not None:
            part.unread[f"ratings {told.look('Rating')} of {aspect}"] += 1
    return ratings


def _read_number(part: SourceRow, name: str, lowest: float, highest: float) -> float | None:
    """Return a rating, which the files write as a number or as text; None where there is none."""
    value = part.fields.get(name)
    if value in _NO_RATING or is_nothing(value):
        return None
    number = parse_number(value)
    if number is None or not lowest <= number <= highest:
        raise make_field_error(part, name, f"{lowest} to {highest}, or N/A")
    return number
