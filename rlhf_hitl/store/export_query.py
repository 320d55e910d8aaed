"""Read judged comparisons with all their judgments, and ratings, as plain dictionaries, for exports.

Other code reads objects with `comparisons.find_comparisons` and `judgments.read_judgments`. An export would spend most
of its time on building a million objects only to take them apart again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from rlhf_hitl.store import table_copy
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import find_role
from rlhf_hitl.store.quality_tables import golds
from rlhf_hitl.store.tables import comparisons, completions, judgments, lanes, prompts, raters, ratings
from rlhf_hitl.types import Role, Split

COMPARISONS_PER_BATCH = 500
JsonFields = dict[str, Any]

#: Columns of the table `judgments` that an export leaves out, or that it takes from the comparison.
_NOT_EXPORTED = ("seq", "comparison_id", "lease_id", "idempotency_key")
#: Field of a judgment in an export → its column. Columns are never reordered, and a new one comes last.
_COLUMNS = {"judgment_id" if c.name == "id" else str(c.name): c for c in judgments.c if c.name not in _NOT_EXPORTED}
JUDGMENT_FIELDS = tuple(_COLUMNS)
#: Those of these fields that are numbers or truth values, with their Python types.
JUDGMENT_FIELD_TYPES: dict[str, type] = {
    name: column.type.python_type
    for name, column in _COLUMNS.items()
    if isinstance(column.type, sa.Integer | sa.Float | sa.Boolean)
}


@dataclass(frozen=True, slots=True)
class JudgedComparison:
    """A comparison and its judgments in the order they came, superseded ones too.

    `comparison` has the keys comparison_id, prompt_id, prompt, tools, completions (of id, policy, messages) and tags;
    chats are lists of messages (`Message.to_plain`), `tags` is JSON text, and so is `tools`, or None. A judgment has
    the keys of `JUDGMENT_FIELDS`.
    """

    comparison: JsonFields
    judgments: list[JsonFields]
    repeat_of: str | None = None  # the comparison that this one shows the same rater again

    @property
    def is_repeat(self) -> bool:
        return self.repeat_of is not None


def read_judged_comparisons(
    store: Store, *, split: Split, project: str | None = None
) -> Iterator[list[JudgedComparison]]:
    """Yield lists of up to COMPARISONS_PER_BATCH comparisons of a split that have a judgment, in order of id.

    Golds are not among them: one whose right answer is published measures nobody any more.
    """
    query = (
        _select_plain(
            store,
            *(comparisons.c[name] for name in ("id", "prompt_id", "repeat_of", "completion_ids")),
            prompts.c.messages,
            prompts.c.tools,
            prompts.c.tags,
        )
        .join(prompts, prompts.c.id == comparisons.c.prompt_id)
        .where(prompts.c.split == split.value)
        # A repeat of a gold is of a later attempt to qualify.
        .where(sa.func.coalesce(comparisons.c.repeat_of, comparisons.c.id).not_in(sa.select(golds.c.comparison_id)))
        .where(sa.exists().where(judgments.c.comparison_id == comparisons.c.id))
        .order_by(comparisons.c.id)
        .limit(COMPARISONS_PER_BATCH)
    )
    if project is not None:
        query = query.join(lanes, lanes.c.id == comparisons.c.lane_id).where(lanes.c.project_id == project)
    completion_query = _select_plain(store, completions.c.id, completions.c.policy, completions.c.messages)
    columns = [find_role().label("role") if name == "role" else column for name, column in _COLUMNS.items()]
    judgment_query = _select_plain(store, *columns, judgments.c.comparison_id).order_by(judgments.c.seq)
    after = ""
    while True:
        with store.read() as conn:
            page = conn.execute(query.where(comparisons.c.id > after)).all()
            if not page:
                return
            completion_ids = [orjson.loads(r.completion_ids) for r in page]
            query_of_page = completion_query.where(
                store.among(completions.c.id, (i for ids in completion_ids for i in ids))
            )
            completions_by_id = {
                r.id: {"id": r.id, "policy": r.policy, "messages": _load_messages(r.messages)}
                for r in conn.execute(query_of_page).all()
            }
            judgments_by_comparison: dict[str, list[JsonFields]] = {r.id: [] for r in page}
            query_of_page = judgment_query.where(store.among(judgments.c.comparison_id, judgments_by_comparison))
            for row in conn.execute(query_of_page).all():
                judgments_by_comparison[row.comparison_id].append(_to_judgment_fields(row))
        yield [
            JudgedComparison(
                {
                    "comparison_id": r.id,
                    "prompt_id": r.prompt_id,
                    "prompt": _load_messages(r.messages),
                    "tools": write_tools(r.tools),
                    "completions": [completions_by_id[i] for i in ids],
                    "tags": sort_json_keys(r.tags),
                },
                judgments_by_comparison[r.id],
                r.repeat_of,
            )
            for r, ids in zip(page, completion_ids, strict=True)
        ]
        after = page[-1].id


@dataclass(frozen=True)
class MessageKinds:
    """What the messages of an export hold besides a role and a text."""

    only_text: bool = True
    images: bool = False
    tools: bool = False


def find_message_kinds(store: Store, project: str | None = None) -> MessageKinds:
    """Return what the messages of all prompts and completions hold, or of those that have a comparison in a project."""
    only_text, images = True, False
    with store.read() as conn:
        for table, prompt_id in (prompts, prompts.c.id), (completions, completions.c.prompt_id):
            text = table_copy.cast_to_plain(table.c.messages, store.is_sqlite)
            more = sa.or_(*(text.contains(mark, autoescape=True) for mark in _MARKS))
            query = _of_project(sa.select(table.c.id, text.label("text")).where(more), prompt_id, project)
            query, after = query.order_by(table.c.id).limit(COMPARISONS_PER_BATCH), ""
            while (only_text or not images) and (page := conn.execute(query.where(table.c.id > after)).all()):
                messages = [message for row in page for message in orjson.loads(row.text)]
                only_text = only_text and all(
                    m.keys() == {"role", "content"} and isinstance(m["content"], str) for m in messages
                )
                parts = (part for m in messages if isinstance(m["content"], list) for part in m["content"])
                images = images or any(part["type"] == "image" for part in parts)
                after = page[-1].id
        query = _of_project(sa.select(prompts.c.id).where(prompts.c.tools.is_not(None)), prompts.c.id, project)
        tools = conn.execute(query.limit(1)).first() is not None
    return MessageKinds(only_text, images, tools)


#: What stands in the JSON of a message that is more than a role and a text; within a text the quotes are escaped.
_MARKS = (
    *('"tool_calls"', '"name"', '"tool_call_id"', '"reasoning_content"'),
    *('"content": [', '"content":[', '"content": null', '"content":null'),
)


def _of_project(query: Any, prompt_id: sa.Column[Any], project: str | None) -> Any:
    if project is None:
        return query
    in_project = sa.exists().where(
        comparisons.c.prompt_id == prompt_id, comparisons.c.lane_id == lanes.c.id, lanes.c.project_id == project
    )
    return query.where(in_project)


def read_ratings(store: Store, *, split: Split, project: str | None = None) -> Iterator[list[JsonFields]]:
    """Yield lists of up to COMPARISONS_PER_BATCH ratings of a split, with their prompt and completion, in order of id.

    A project's ratings are those about prompts that have a comparison in it: a rating itself is of no project.
    """
    names = ("axis", "value", "lowest", "highest", "rater_id", "rationale", "simulated", "source", "created_at")
    query = (
        _select_plain(store, *(ratings.c[name] for name in ("id", "completion_id", *names)))
        .add_columns(
            *(
                table_copy.cast_to_plain(column, store.is_sqlite).label(name)
                for name, column in {
                    "prompt_id": prompts.c.id,
                    "prompt": prompts.c.messages,
                    "tools": prompts.c.tools,
                    "tags": prompts.c.tags,
                    "completion": completions.c.messages,
                    "policy": completions.c.policy,
                    "role": raters.c.role,
                }.items()
            )
        )
        .join(completions, completions.c.id == ratings.c.completion_id)
        .join(prompts, prompts.c.id == completions.c.prompt_id)
        .join(raters, raters.c.id == ratings.c.rater_id)
        .where(prompts.c.split == split.value)
        .order_by(ratings.c.id)
        .limit(COMPARISONS_PER_BATCH)
    )
    query = _of_project(query, prompts.c.id, project)
    after = ""
    while True:
        with store.read() as conn:
            page = conn.execute(query.where(ratings.c.id > after)).all()
        if not page:
            return
        yield [
            {
                "prompt": _load_messages(r.prompt),
                "tools": write_tools(r.tools),
                "completion": _load_messages(r.completion),
                "rating_id": r.id,
                "prompt_id": r.prompt_id,
                "completion_id": r.completion_id,
                "policy": r.policy,
                **{name: getattr(r, name) for name in names},
                "simulated": bool(r.simulated),
                "created_at": _to_iso(r.created_at),
                "tags": sort_json_keys(r.tags),
                "role": Role.JUDGE.value if r.role == Role.JUDGE else Role.RATER.value,
            }
            for r in page
        ]
        after = page[-1].id


def _to_judgment_fields(values: Sequence[Any]) -> JsonFields:
    row: JsonFields = dict(zip(JUDGMENT_FIELDS, values))
    row["ranking"] = orjson.loads(row["ranking"])
    row["order_shown"] = orjson.loads(row["order_shown"])
    row["scores"] = sort_json_keys(row["scores"])
    row["role"] = row["role"] or Role.RATER.value
    row["probabilities"] = None if row["probabilities"] is None else orjson.loads(row["probabilities"])
    row["simulated"] = bool(row["simulated"])
    row["surplus"] = bool(row["surplus"])
    row["created_at"] = _to_iso(row["created_at"])
    return row


def _to_iso(text: str) -> str:
    day, time = text.split()
    return f"{day}T{time.removesuffix('.000000')}+00:00"  # in the form of `datetime.isoformat`


def _load_messages(text: str) -> list[JsonFields]:
    # orjson would round integers of more than 64 bits, which the arguments of a tool call may be.
    return json.loads(text) if '"tool_calls"' in text else orjson.loads(text)


def write_tools(tools: str | None) -> str | None:
    """Return the tools of a prompt as JSON text in one spelling, with their keys in their order."""
    return None if tools is None else _encode_as_is(json.loads(tools))


def sort_json_keys(text: str) -> str:
    """Return JSON text with its keys sorted, so that it is the same on every database."""
    # orjson cannot do it: it would round integers of more than 64 bits and refuses infinity.
    return text if text == "{}" else _encode(json.loads(text))


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
_encode_as_is = json.JSONEncoder(ensure_ascii=False).encode


def _select_plain(store: Store, *columns: sa.Column[Any] | sa.Label[Any]) -> sa.Select[Any]:
    """Select plain values and JSON as text: SQLAlchemy and psycopg take several times as long to parse JSON."""
    return sa.select(*(table_copy.cast_to_plain(c, store.is_sqlite).label(c.name) for c in columns))
