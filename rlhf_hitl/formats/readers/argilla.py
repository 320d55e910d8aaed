"""Argilla 2: rows of `dataset.records.to_datasets()`, `to_json()` or `dataset.to_disk()`, or records of its server.

One person's response to the questions of a record is one vote: a ranking, or a label that names an answer, with
their ratings and reasons. Only the rows of `to_datasets()` and of the server say which responses were submitted, and
rankings have ranks only where they were written with them: Argilla's client, version 2, leaves out the ranks of what
its pages sent (its issues 5677 and 5712), and every list is in the order of the settings then, whatever people said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.readers.argilla_records import OWN_COLUMNS, ArgillaRecord, ArgillaResponse, read_record
from rlhf_hitl.formats.readers.questions import (
    JUDGE,
    SIMULATED,
    USUAL_COLUMNS,
    Choice,
    add_strength,
    find_answer,
    find_answers,
    is_number,
    is_reason,
    join_reasons,
    read_answer,
    read_choice,
    read_policies,
    read_prompt,
    read_strength_label,
    read_tags,
    split_axis,
)
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRating,
    ImportRecord,
    ImportVote,
    SourceRow,
    is_nothing,
    make_value_error,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Verdict

NAME = "argilla"
ABOUT = (
    "records of Argilla 2: to_datasets() as Parquet or saved (QUESTION.responses, .users, .status), to_json(), "
    "to_disk(), or its server's"
)
COLUMNS = ("fields", "metadata", "responses", *OWN_COLUMNS, *USUAL_COLUMNS)


def matches(fields: Mapping[str, Any]) -> bool:
    if "fields" in fields and "responses" in fields:
        return isinstance(fields["fields"], Mapping)
    return "_server_id" in fields or any(name.endswith(".responses.users") for name in map(str, fields))


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    forms = _Forms(source)

    def read_row(row: SourceRow) -> list[ImportRecord]:
        return _read_row(row, forms)

    return read_row


def _read_row(row: SourceRow, forms: _Forms) -> list[ImportRecord]:
    record = read_record(row)
    answers = _find_answers(row, record)
    shown, metadata = record.shown, record.metadata
    others = [name for name in record.names if name not in answers]
    others_said = others if record.is_flat else list(metadata.fields)
    policies = read_policies(metadata, others_said, answers)
    completions = tuple(
        ImportCompletion(read_answer(row, name, shown.take(name, "answer")), policy)
        for name, policy in zip(answers, policies)
    )
    unread = [name for name in others if name not in shown.fields.read] if record.is_flat else others
    prompt = read_prompt(shown, unread, is_all_shown=not record.is_flat)
    tags = read_tags(metadata, others_said)
    read = [_read_response(row, response, answers, forms) for response in record.responses]
    said = [(vote, ratings) for vote, ratings in read if vote is not None or ratings] or [(None, ())]
    # Pages of Argilla show fields and options in the order of the dataset's settings, which is not in the records.
    return [
        ImportRecord(prompt, completions, row.place, vote, tags, row.split, order_known=False, ratings=ratings)
        for vote, ratings in said
    ]


def _find_answers(row: SourceRow, record: ArgillaRecord) -> list[str]:
    """Return the fields with the answers: those that a ranking names, or those that are called like answers."""
    options = [
        option
        for response in record.responses
        for value in response.answers.values()
        for option in _list_options(value)
    ]
    values = {name: record.shown.look(name) for name in record.names}
    named = {option for option in options if values.get(option) is not None}
    if len(named) >= 2:
        return [name for name in record.names if name in named]
    columns = [name for name, value in values.items() if not is_nothing(value) or value == ""]
    if found := find_answers(columns):
        return found
    single = [name for name in ("response", "completion", "answer", "output", "generation") if name in columns]
    if len(single) == 1:
        return single
    raise BadInput(
        f"{row.place}: {', '.join(columns)[:60]}",
        expected="fields with the answers, such as response1 and response2",
        fix="name them so, or let the ranking's values be the names of the fields",
    )


def _read_response(
    row: SourceRow, response: ArgillaResponse, answers: Sequence[str], forms: _Forms
) -> tuple[ImportVote | None, tuple[ImportRating, ...]]:
    if response.status == "draft":
        row.unread["responses that are drafts"] += 1
        return None, ()
    if not response.status:
        row.noted["responses without a status, taken as submitted"] += 1
    elif response.status not in ("submitted", "discarded"):
        raise make_value_error(row, "status", response.status, "submitted, draft or discarded")
    choice, ratings = None, []
    reasons: dict[str, str] = {}
    strengths: dict[str, int] = {}
    simulated, judge = (response.answers.get(SIMULATED) == who for who in (SIMULATED, JUDGE))
    for question, value in response.answers.items():
        if value is None or (question == SIMULATED and (simulated or judge)):
            continue
        kind = forms.find_kind(question, value, answers)
        here = forms.read_choice(row, question, value, answers) if kind in ("ranking", "label_selection") else None
        about = split_axis(question, answers)
        if here is not None and choice is None:
            choice = here
        elif kind == "rating" and about is not None and is_number(value):
            ratings.append((question, *about, float(value)))
        elif kind == "text" and isinstance(value, str) and is_reason(question):
            reasons[question] = value
        elif isinstance(value, str) and (by := read_strength_label(value)) is not None:
            strengths[question] = by
        else:
            row.unread[f"question {question}"] += 1
    for question, by in strengths.items():
        if (stronger := add_strength(choice, by)) is not None:
            choice = stronger
        else:
            row.unread[f"question {question}"] += 1
    if response.status == "discarded":
        row.unread["questions of discarded responses"] += len(ratings) + (choice is not None)
        choice, ratings = (Choice(Verdict.SKIPPED) if len(answers) > 1 else None), []
    rated = {completion for _, _, completion, _ in ratings}
    own: dict[int, str] = {}  # why one answer was rated as it was
    for question in list(reasons):
        about = split_axis(question, answers)
        if len(answers) > 1 and about is not None and about[1] in rated and about[1] not in own:
            own[about[1]] = reasons.pop(question)
    why = join_reasons(reasons)
    if choice is None and not ratings:
        row.unread.update(f"question {question}" for question in reasons)
        return None, ()
    vote = None
    if choice is not None:
        at = response.judged_at
        rater = forms.find_rater(response.user)
        vote = ImportVote(
            choice.verdict, choice.ranking, rater, choice.strength, why, simulated, judged_at=at, judge=judge
        )
    return vote, tuple(
        ImportRating(
            completion, axis, value, *forms.find_scale(question), rater=forms.find_rater(response.user),
            rationale=own.get(completion, "" if vote is not None else why), simulated=simulated,
            judged_at=response.judged_at, judge=judge,
        )
        for question, axis, completion, value in ratings
    )  # fmt: skip


def _list_options(value: Any) -> list[str]:
    """Return the names in the value of a ranking, with ranks or without."""
    if not isinstance(value, list):
        return []
    names = [one.get("value") if isinstance(one, Mapping) else one for one in value]
    return [name for name in names if isinstance(name, str)]


class _Forms:
    """What is known of the questions: from the settings beside the records, or else from all responses of the file."""

    def __init__(self, source: RowSource):
        self._source = source

    @cached_property
    def _settings(self) -> dict[str, Mapping[str, Any]]:
        """Question → its settings, where `.argilla/settings.json` is beside the records, as `to_disk` writes it."""
        return self._read_beside(
            "settings.json",
            "the settings of an Argilla dataset",
            lambda settings: {question["name"]: question["settings"] for question in settings["questions"]},
        )

    @cached_property
    def _raters(self) -> dict[str, str]:
        """Argilla's id of a user → the rater, where `.argilla/users.json` is beside the records, as we write it."""
        return self._read_beside(
            "users.json",
            "a list of users, each with id and rater_id",
            lambda users: {str(user["id"]): str(user["rater_id"]) for user in users},
        )

    def _read_beside(self, name: str, expected: str, read: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        folder = self._source.path if self._source.path.is_dir() else self._source.path.parent
        path = folder / ".argilla" / name
        if not path.is_file():
            return {}
        try:
            return read(json.loads(path.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise BadInput(str(path), expected=expected, fix="write it again, or remove it") from e

    def find_rater(self, user: str) -> str:
        return self._raters.get(user, user)

    @cached_property
    def _met(self) -> dict[str, _Met]:
        met: dict[str, _Met] = {}
        for row in self._source.rows(lambda _: None):
            try:
                responses = read_record(row).responses
            except BadInput:
                continue
            for response in responses:
                for question, value in response.answers.items():
                    met.setdefault(question, _Met()).add(value)
        return met

    def find_kind(self, question: str, value: Any, answers: Sequence[str]) -> str:
        """Return the type of a question, in Argilla's words."""
        if question in self._settings:
            return str(self._settings[question].get("type"))
        if is_number(value):
            return "rating"
        if isinstance(value, str):
            return "label_selection" if read_choice(value, answers) is not None and not is_reason(question) else "text"
        if isinstance(value, list) and value and all(isinstance(one, Mapping) and "rank" in one for one in value):
            return "ranking"
        options = _list_options(value)
        places = [find_answer(option, answers) for option in options]
        is_whole = isinstance(value, list) and len(options) == len(value)
        is_ranking = is_whole and sum(place is not None for place in places) >= 2
        # A ranking ranks all: a list that is longer for one person than for another is a choice of several.
        return "ranking" if is_ranking and len(self._met.get(question, _Met()).sets) == 1 else "other"

    def read_choice(self, row: SourceRow, question: str, value: Any, answers: Sequence[str]) -> Choice | None:
        if isinstance(value, str):
            return read_choice(value, answers)
        options = _list_options(value)
        expected = f"each of {', '.join(answers)} at most once, with its rank"
        if not isinstance(value, list) or len(options) != len(value):
            raise make_value_error(row, question, value, expected)
        # An answer that may be left out is among the options, and not in every record.
        found = [
            (one, place) for one, option in zip(value, options) if (place := find_answer(option, answers)) is not None
        ]
        kept, places = [one for one, _ in found], [place for _, place in found]
        if len(places) < 2 or len(set(places)) < len(places):
            raise make_value_error(row, question, value, expected)
        if len(places) < len(options):
            row.unread[f"ranks in {question} of answers that the record does not have"] += len(options) - len(places)
        if not all(isinstance(one, Mapping) for one in kept):
            if not self._met.get(question, _Met()).has_orders:
                raise BadInput(
                    f"{row.place}: {question} = {str(value)[:60]}",
                    expected="a rank for each answer: Argilla 2's client leaves the ranks out, and all lists of this "
                    "question are in one order, whatever people said",
                    fix='take the records from Argilla\'s server, as [{"value": "response1", "rank": 1}, …]',
                )
            row.noted["ties of rankings: the file has an order and no ranks"] += 1
            ranks: list[Any] = list(range(len(places)))
        else:
            ranks = [one.get("rank") for one in kept]
            if all(rank is None for rank in ranks):
                return None
        if not all(rank is None or (isinstance(rank, int) and not isinstance(rank, bool)) for rank in ranks):
            raise make_value_error(row, question, value, "ranks that are whole numbers, the best 1")
        groups: dict[int, list[int]] = {}
        for place, rank in zip(places, ranks):
            if rank is not None:
                groups.setdefault(rank, []).append(place)
        ranking = tuple(tuple(sorted(groups[rank])) for rank in sorted(groups))
        return Choice(Verdict.RANKED, ranking) if sum(map(len, ranking)) >= 2 else None

    def find_scale(self, question: str) -> tuple[float | None, float | None]:
        """Return the ends of a rating's scale, where the settings say them."""
        options = self._settings.get(question, {}).get("options")
        values = [v for one in options or () if isinstance(one, Mapping) and is_number(v := one.get("value"))]
        if values:
            return float(min(values)), float(max(values))
        return None, None


class _Met:
    """What the responses of a file to one question have in common."""

    def __init__(self) -> None:
        self.sets: set[frozenset[str]] = set()  # of options; two tell as much as more
        self._pairs: set[tuple[str, str]] = set()
        self.has_orders = False  # two lists order the same two options differently

    def add(self, value: Any) -> None:
        options = _list_options(value)
        if options and len(self.sets) < 2:
            self.sets.add(frozenset(options))
        if options and not self.has_orders and len(options) <= 26:
            pairs = {(a, b) for i, a in enumerate(options) for b in options[i + 1 :]}
            self.has_orders = any((b, a) in self._pairs for a, b in pairs)
            self._pairs |= pairs
