"""Read judged comparisons with all their judgments as plain dictionaries, for exports.

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
from rlhf_hitl.store.tables import comparisons, completions, judgments, lanes, prompts
from rlhf_hitl.types import Split

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

    `comparison` has the keys comparison_id, prompt_id, prompt, completions (of id, policy, messages) and tags;
    chats are lists of {"role", "content"}, `tags` is JSON text. A judgment has the keys of `JUDGMENT_FIELDS`.
    """

    comparison: JsonFields
    judgments: list[JsonFields]
    is_repeat: bool


def read_judged_comparisons(
    store: Store, *, split: Split, project: str | None = None
) -> Iterator[list[JudgedComparison]]:
    """Yield lists of up to COMPARISONS_PER_BATCH comparisons of a split that have a judgment, in order of id."""
    query = (
        _select_plain(
            store,
            *(comparisons.c[name] for name in ("id", "prompt_id", "repeat_of", "completion_ids")),
            prompts.c.messages,
            prompts.c.tags,
        )
        .join(prompts, prompts.c.id == comparisons.c.prompt_id)
        .where(prompts.c.split == split.value)
        .where(sa.exists().where(judgments.c.comparison_id == comparisons.c.id))
        .order_by(comparisons.c.id)
        .limit(COMPARISONS_PER_BATCH)
    )
    if project is not None:
        query = query.join(lanes, lanes.c.id == comparisons.c.lane_id).where(lanes.c.project_id == project)
    completion_query = _select_plain(store, completions.c.id, completions.c.policy, completions.c.messages)
    judgment_query = _select_plain(store, *_COLUMNS.values(), judgments.c.comparison_id).order_by(judgments.c.seq)
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
                r.id: {"id": r.id, "policy": r.policy, "messages": orjson.loads(r.messages)}
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
                    "prompt": orjson.loads(r.messages),
                    "completions": [completions_by_id[i] for i in ids],
                    "tags": sort_json_keys(r.tags),
                },
                judgments_by_comparison[r.id],
                r.repeat_of is not None,
            )
            for r, ids in zip(page, completion_ids, strict=True)
        ]
        after = page[-1].id


def _to_judgment_fields(values: Sequence[Any]) -> JsonFields:
    row: JsonFields = dict(zip(JUDGMENT_FIELDS, values))
    row["ranking"] = orjson.loads(row["ranking"])
    row["order_shown"] = orjson.loads(row["order_shown"])
    row["scores"] = sort_json_keys(row["scores"])
    row["simulated"] = bool(row["simulated"])
    row["surplus"] = bool(row["surplus"])
    day, time = row["created_at"].split()
    row["created_at"] = f"{day}T{time.removesuffix('.000000')}+00:00"  # in the form of `datetime.isoformat`
    return row


def sort_json_keys(text: str) -> str:
    """Return JSON text with its keys sorted, so that it is the same on every database."""
    # orjson cannot do it: it would round integers of more than 64 bits and refuses infinity.
    return text if text == "{}" else _encode(json.loads(text))


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


def _select_plain(store: Store, *columns: sa.Column[Any]) -> sa.Select[Any]:
    """Select plain values and JSON as text: SQLAlchemy and psycopg take several times as long to parse JSON."""
    return sa.select(*(table_copy.cast_to_plain(c, store.is_sqlite).label(c.name) for c in columns))
