"""HelpSteer 3: preferences with each annotator's score and reasoning, and its other parts (nvidia/HelpSteer3).

- preference: a vote of each annotator, -3 to 3.
- feedback: two responses, each with what annotators say of it. They begin with how helpful it is: that is a rating.
- edit, edit_quality: a response, feedback on it, and what it was edited into. That the good edit follows the feedback
  and the bad one does not is said by the authors of the set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import read_answer
from rlhf_hitl.formats.readers.helpsteer2 import make_vote, name_annotator
from rlhf_hitl.formats.record import (
    ImportRating,
    ImportRecord,
    ImportVote,
    SourceRow,
    is_nothing,
    make_field_error,
    read_chat_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Verdict

NAME = "helpsteer3"
ABOUT = (
    "{context: messages, response1, response2, overall_preference, individual_preference: [{score, reasoning}]}, "
    "or feedback and edits (HelpSteer 3)"
)

#: Part → the fields of its completions. The first part that a row has all fields of is its own.
PARTS = {
    "edit_quality": ("original_response", "good_edited_response", "bad_edited_response"),
    "edit": ("original_response", "edited_response"),
    "preference": ("response1", "response2"),
}
#: The field of feedback on a completion, for each field of a completion.
FEEDBACK = {"original_response": "feedback", "response1": "feedback1", "response2": "feedback2"}
#: How feedback begins: "The response is mostly helpful".
HELPFULNESS = {"not": 1, "slightly": 2, "partially": 3, "mostly": 4, "perfectly": 5}
TAGS = ("domain", "language")
COLUMNS = {
    "context", *(name for names in PARTS.values() for name in names), *FEEDBACK.values(), "overall_preference",
    "individual_preference", *TAGS,
}  # fmt: skip
POLICY = "helpsteer3"  # which policy gave a response is not published
_OPENING = re.compile(rf"\W*the response is ({'|'.join(HELPFULNESS)}) helpful\b", re.IGNORECASE)


def matches(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields.get("context"), list) and _find_part(fields) is not None


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _find_part(fields: Mapping[str, Any]) -> str | None:
    return next((part for part, names in PARTS.items() if all(fields.get(name) is not None for name in names)), None)


def _read_row(row: SourceRow) -> list[ImportRecord]:
    part = _find_part(dict(row.fields)) or "preference"
    names = PARTS[part]
    prompt = read_chat_field(row, "context")
    completions = tuple(read_answer(row, name, POLICY) for name in names)
    tags = {name: str(row.take(name, "tag")) for name in TAGS if row.find((name,))}
    ratings = [
        rating for i, name in enumerate(names) if name in FEEDBACK for rating in _read_feedback(row, i, FEEDBACK[name])
    ]
    votes = _read_votes(row, ratings)
    if part == "edit_quality":
        votes = [ImportVote(Verdict.RANKED, ((1,), (2,)), rater="HelpSteer3")]
    # Annotators saw the two of a preference by their numbers: their reasons name "@Response 1".
    return [
        ImportRecord(
            prompt, completions, row.place, vote, tags, row.split, order_known=part == "preference",
            ratings=tuple(ratings) if i == 0 else (),
        )
        for i, vote in enumerate(votes or [None])
    ]  # fmt: skip


def _read_votes(row: SourceRow, ratings: list[ImportRating]) -> list[ImportVote]:
    """Return each annotator's vote, or else the set's own. What they say of one response is added to `ratings`."""
    entries = row.fields.get("individual_preference")
    if is_nothing(entries):
        overall = row.fields.get("overall_preference")
        return [] if overall is None else [make_vote(row, "overall_preference", overall, rater="HelpSteer3")]
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise make_field_error(row, "individual_preference", "a list of objects with a score")
    votes = []
    for n, raw in enumerate(entries, 1):
        entry = row.enter(raw, "individual_preference key")
        reasoning = entry.fields.get("reasoning")
        rationale = reasoning if isinstance(reasoning, str) else ""
        votes.append(make_vote(row, "individual_preference.score", entry.fields.get("score"), rationale=rationale))
        for i, name in enumerate(("feedback1", "feedback2")):
            ratings += _read_feedback(entry, i, name, n)
    return votes


def _read_feedback(row: SourceRow, completion: int, name: str, first: int = 1) -> list[ImportRating]:
    """Return a rating for each text that says how helpful a response is, the first by annotator `first`.

    Other texts are counted as not read.
    """
    texts = row.fields.get(name)
    if is_nothing(texts):
        return []
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise make_field_error(row, name, "a text, or a list of them")
    ratings = []
    for n, text in enumerate(texts, first):
        if (opening := _OPENING.match(text)) is None:
            row.unread[f"{name} that does not say how helpful the response is"] += 1
        else:
            value = HELPFULNESS[opening[1].lower()]
            rater = name_annotator(n)
            ratings.append(ImportRating(completion, "helpfulness", value, 1, len(HELPFULNESS), rater, text))
    return ratings
