"""Records of Argilla 2, read alike: written flat or nested by its client, or as its server has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rlhf_hitl.formats.readers.columns import parse_moment
from rlhf_hitl.formats.record import UNNAMED, SourceRow, is_nothing, make_field_error

#: What a record has beside its fields, metadata and vectors.
OWN_COLUMNS = ("id", "_server_id", "status", "score", "external_id", "inserted_at", "updated_at", "dataset_id")
#: How the columns of a question end. What a model suggested is not read.
_OF_QUESTIONS = (
    ".responses", ".responses.users", ".responses.status", ".suggestion", ".suggestion.score", ".suggestion.agent",
)  # fmt: skip


@dataclass
class ArgillaResponse:
    """What one person said of one record. `status` is empty where the file does not say it."""

    user: str
    status: str = ""
    answers: dict[str, Any] = field(default_factory=dict)  # question → value
    judged_at: datetime | None = None


@dataclass
class ArgillaRecord:
    """A record, however it was written: what is shown, what else there is, and the responses.

    `names` are the columns of `shown` that may be fields. In flat records `metadata` is the same row: any of these
    columns may be of the metadata.
    """

    shown: SourceRow
    names: list[str]
    metadata: SourceRow
    responses: list[ArgillaResponse]

    @property
    def is_flat(self) -> bool:
        return self.metadata is self.shown


def read_record(row: SourceRow) -> ArgillaRecord:
    fields = row.look("fields")
    if isinstance(fields, Mapping) and "responses" in row.fields:
        row.take("fields", "fields")
        metadata = row.fields.get("metadata") or {}
        if not isinstance(metadata, Mapping):
            raise make_field_error(row, "metadata", "an object")
        shown = row.enter(fields, "field")
        return ArgillaRecord(shown, list(shown.fields), row.enter(metadata, "metadata key"), _read_nested(row))
    questions = [name.removesuffix(".responses.users") for name in row.fields if name.endswith(".responses.users")]
    names = [name for name in row.fields if name not in OWN_COLUMNS and not name.endswith(_OF_QUESTIONS)]
    return ArgillaRecord(row, names, row, list(_read_flat(row, questions)))


def _read_flat(row: SourceRow, questions: Sequence[str]) -> Iterator[ArgillaResponse]:
    """Yield the responses of a row of `to_datasets`, where each question has three lists."""
    people: list[ArgillaResponse] = []
    for question in questions:
        name = f"{question}.responses"
        columns = {name: "what raters said", f"{name}.users": "raters", f"{name}.status": "status"}
        lists = [row.take(column, meaning) or [] for column, meaning in columns.items()]
        if not all(isinstance(part, list) and len(part) == len(lists[0]) for part in lists):
            raise make_field_error(row, name, "a list as long as those of its users and its status")
        for value, user, status in zip(*lists):
            _add_answer(people, question, value, user, status)
    yield from people


def _read_nested(row: SourceRow) -> list[ArgillaResponse]:
    """Return the responses of a record of `to_json` (question → people) or of the server (people → questions)."""
    responses = row.fields.get("responses") or {}
    people: list[ArgillaResponse] = []
    if isinstance(responses, Mapping):
        for question, said in responses.items():
            if not isinstance(said, list) or not all(isinstance(one, Mapping) for one in said):
                raise make_field_error(row, "responses", "question → a list of objects")
            for one in said:
                _add_answer(people, question, one.get("value"), one.get("user_id"), one.get("status"))
        return people
    for one in responses if isinstance(responses, list) else [None]:
        if not isinstance(one, Mapping) or not isinstance(one.get("values") or {}, Mapping):
            raise make_field_error(row, "responses", "objects with values, user_id and status")
        times = [(key, one[key]) for key in ("updated_at", "inserted_at") if not is_nothing(one.get(key))]
        at = parse_moment(row, *times[0]) if times else None
        person = ArgillaResponse(_name_user(one.get("user_id")), str(one.get("status") or ""), {}, at)
        for question, value in (one.get("values") or {}).items():
            person.answers[question] = value.get("value") if isinstance(value, Mapping) else value
        people.append(person)
    return people


def _add_answer(people: list[ArgillaResponse], question: str, value: Any, user: Any, status: Any) -> None:
    """Add an answer to its person, or to a new one where this person has answered the question before."""
    name, status = _name_user(user), str(status or "")
    for person in people:
        if person.user == name and person.status == status and question not in person.answers and user is not None:
            break
    else:
        people.append(person := ArgillaResponse(name, status))
    person.answers[question] = value


def _name_user(user: Any) -> str:
    return UNNAMED if user is None or str(user) in ("", "None") else str(user)
