"""Records of Argilla 2, read alike: written flat or nested by its client, or as its server has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rlhf_hitl.formats.questions import count_unread, is_nothing, read_columns, read_time
from rlhf_hitl.formats.record import SourceRow, make_field_error

#: What a record has beside its fields, metadata and vectors.
OWN_COLUMNS = ("id", "_server_id", "status", "score", "external_id", "inserted_at", "updated_at", "dataset_id")


@dataclass
class ArgillaResponse:
    """What one person said of one record. `status` is empty where the file does not say it."""

    user: str
    status: str = ""
    answers: dict[str, Any] = field(default_factory=dict)  # question → value
    judged_at: datetime | None = None


@dataclass
class ArgillaRecord:
    """A record, however it was written: what is shown, what else there is, and the responses."""

    fields: dict[str, Any]
    metadata: dict[str, Any]  # without `all_shown` it is among the fields
    responses: list[ArgillaResponse]
    all_shown: bool  # whether `fields` holds fields only


def read_record(row: SourceRow) -> ArgillaRecord:
    columns = read_columns(row)
    fields = columns.get("fields")
    if isinstance(fields, Mapping) and "responses" in columns:
        metadata = row.fields.get("metadata") or {}
        if not isinstance(metadata, Mapping):
            raise make_field_error(row, "metadata", "an object")
        count_unread(row, columns, ("fields", "metadata", "responses", "suggestions"))
        suggestions = columns.get("suggestions") or []
        if not isinstance(suggestions, Mapping | list):
            raise make_field_error(row, "suggestions", "an object or a list")
        row.unread.update({"suggestions": len(suggestions)} if suggestions else {})
        return ArgillaRecord(dict(fields), dict(metadata), _read_nested(row), all_shown=True)
    count_unread(row, {name: columns.pop(name) for name in OWN_COLUMNS if name in columns})
    questions = [name.removesuffix(".responses.users") for name in columns if name.endswith(".responses.users")]
    responses = list(_read_flat(row, questions))
    for name in list(columns):
        if name.endswith(
            (".suggestion.score", ".suggestion.agent", ".responses", ".responses.users", ".responses.status")
        ):
            del columns[name]
        elif name.endswith(".suggestion") and not is_nothing(columns.pop(name)):
            row.unread["suggestions"] += 1
    return ArgillaRecord(columns, {}, responses, all_shown=False)


def _read_flat(row: SourceRow, questions: Sequence[str]) -> Iterator[ArgillaResponse]:
    """Yield the responses of a row of `to_datasets`, where each question has three lists."""
    people: list[ArgillaResponse] = []
    for question in questions:
        name = f"{question}.responses"
        lists = [row.fields.get(f"{name}{end}") or [] for end in ("", ".users", ".status")]
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
        time = next((k for k in ("updated_at", "inserted_at") if one.get(k) is not None), "updated_at")
        person = ArgillaResponse(
            _name_user(one.get("user_id")), str(one.get("status") or ""), {}, read_time(row, time, one.get(time))
        )
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
    return "unnamed" if user is None or str(user) in ("", "None") else str(user)
