"""HelpSteer and HelpSteer 2: ratings of responses, and preferences with each annotator's strength (nvidia/HelpSteer2).

- ratings: {prompt, response, helpfulness, correctness, coherence, complexity, verbosity}, 0 to 4. Rows one after the
  other with the same prompt are the answers to it: they become one comparison, with ratings and without a vote.
- disagreements: the same, with a list for each attribute: one number an annotator.
- preference: {prompt, response_1, response_2, all_preferences_unprocessed: [{strength, justification}], …}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.columns import read_answer, read_split
from rlhf_hitl.formats.readers.questions import is_number
from rlhf_hitl.formats.record import (
    ImportRating,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_field_error,
    make_value_error,
    read_string_field,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Messages

NAME = "helpsteer2"
ABOUT = (
    "{prompt, response, helpfulness, correctness, …} with 0 to 4, or {prompt, response_1, response_2, "
    "preference_strength, …} with -3 to 3 (HelpSteer, HelpSteer 2)"
)

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
LOWEST, HIGHEST = 0, 4
PREFERENCES = ("all_preferences_unprocessed", "three_most_similar_preferences")
_OF_PREFERENCE = ("strength", "statement", "elaboration")
COLUMNS = (
    "prompt", "response", *ATTRIBUTES, "response_1", "response_2", *(f"preference_{key}" for key in _OF_PREFERENCE),
    *PREFERENCES, "split",
)  # fmt: skip
#: The strength of an annotator for whom neither response was good.
NEITHER = -100
POLICY = "helpsteer2"  # which policy gave a response is not published
_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def matches(fields: Mapping[str, Any]) -> bool:
    names = set(fields)
    is_preference = {"prompt", "response_1", "response_2"} <= names and bool(
        {"preference_strength", "all_preferences_unprocessed"} & names
    )
    return is_preference or {"prompt", "response", *ATTRIBUTES} <= names


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _Reader()


class _Reader:
    """Reads a row at a time, and keeps those of one prompt until the next prompt comes."""

    def __init__(self) -> None:
        self._same: list[SourceRow] = []  # rows of ratings with the same prompt

    def __call__(self, row: SourceRow) -> list[ImportRecord]:
        if "response_1" in row.fields:
            return [*self.finish(), *_read_preferences(row)]
        _read_ratings(row, 0)  # a bad row is found here, in its turn
        is_next = bool(self._same) and (self._same[0].fields["prompt"], self._same[0].split) != (
            row.fields["prompt"],
            row.split,
        )
        records = self.finish() if is_next else []
        self._same.append(row)
        return records

    def finish(self) -> list[ImportRecord]:
        """Return the record of the last prompt."""
        rows, self._same = self._same, []
        if not rows:
            return []
        completions = tuple(read_answer(row, "response", POLICY) for row in rows)
        ratings = tuple(rating for i, row in enumerate(rows) for rating in _read_ratings(row, i))
        return [
            ImportRecord(_read_prompt(rows[0]), completions, rows[0].place, None, {}, rows[0].split, ratings=ratings)
        ]


def _read_ratings(row: SourceRow, completion: int) -> list[ImportRating]:
    """Return the ratings of one response. A single number is the mean of its annotators, who are not told apart."""
    _read_prompt(row)
    read_string_field(row, "response")
    ratings = []
    for axis in ATTRIBUTES:
        value = row.fields.get(axis)
        by_annotator = isinstance(value, list)
        for n, one in enumerate(value if by_annotator else [value], 1):
            if one is None and by_annotator:
                continue
            if one in tuple("01234"):  # of a CSV file
                one = int(one)
            if not is_number(one) or not LOWEST <= one <= HIGHEST:
                raise make_field_error(row, axis, f"{LOWEST} to {HIGHEST}, or a list of them")
            rater = name_annotator(n) if by_annotator else "HelpSteer2"
            ratings.append(ImportRating(completion, axis, float(one), LOWEST, HIGHEST, rater))
    return ratings


def _read_preferences(row: SourceRow) -> list[ImportRecord]:
    """Return a record for each annotator's preference."""
    completions = tuple(read_answer(row, f"response_{n}", POLICY) for n in (1, 2))
    column, entries = _find_entries(row)
    prompt, split = _read_prompt(row), read_split(row)
    # The annotators saw the responses by these numbers: their reasons name "@Response 1".
    return [
        ImportRecord(prompt, completions, row.place, _read_vote(row, column, entry), {}, split) for entry in entries
    ] or [ImportRecord(prompt, completions, row.place, None, {}, split)]


def _find_entries(row: SourceRow) -> tuple[str, list[SourceRow]]:
    """Return the column of the annotators' own preferences, and its entries; without it the aggregate is one."""
    for column in PREFERENCES:
        if row.find((column,)) is None:
            continue
        entries = row.take(column, "votes")
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise make_field_error(row, column, "a list of objects with a strength")
        return column, [row.enter(entry, f"{column} key", f"{column}[{i}]") for i, entry in enumerate(entries)]
    if row.look("preference_strength") is None:
        return "preference_strength", []
    row.noted["preferences of several annotators together, read as one vote"] += 1
    entry = {key: row.fields.get(f"preference_{key}") for key in _OF_PREFERENCE}
    return "preference_strength", [row.enter(entry, "preference key")]


def _read_vote(row: SourceRow, column: str, entry: SourceRow) -> ImportVote:
    texts = [entry.fields.get(key) for key in ("justification", "statement", "elaboration")]
    rationale = " ".join(text for text in texts if isinstance(text, str) and text)
    strength = entry.fields.get("strength")
    if strength == NEITHER:
        return ImportVote.of_pair("all_bad", rationale=rationale)
    rater = "HelpSteer2" if column == "preference_strength" else "unnamed"
    return make_vote(row, column, strength, rater=rater, rationale=rationale)


def name_annotator(n: int) -> str:
    """Return the name of the nth annotator of one response, whom the set does not name."""
    return "unnamed" if n == 1 else f"unnamed {n}"


def make_vote(row: SourceRow, name: str, strength: Any, **more: Any) -> ImportVote:
    """Return the vote of a strength: -3 is the first much better, 0 about the same, 3 the second much better.

    Raises:
        BadInput: it is no whole number from -3 to 3.
    """
    if not is_number(strength) or strength != int(strength) or not -3 <= strength <= 3:
        raise make_value_error(row, name, strength, "a whole number from -3 to 3")
    if strength == 0:
        return ImportVote.of_pair("tie", **more)
    return ImportVote.of_pair("first" if strength < 0 else "second", strength=abs(int(strength)), **more)


def _read_prompt(row: SourceRow) -> Messages:
    """Return the turns of a prompt: `<extra_id_1>Assistant` or `<extra_id_1>User` stands before each but the first."""
    first, *rest = _TURN.split(read_text_field(row, "prompt"))
    turns = [Message("user", first)] if first or not rest else []
    return (*turns, *(Message(role.lower(), text) for role, text in zip(rest[::2], rest[1::2])))
