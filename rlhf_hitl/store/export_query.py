"""What was judged and all that was said of it, as the plain values a snapshot is made of.

All else takes whole objects from `catalog.find` and `queue.history`. A snapshot would spend most of its time on making
a million of them, only to take them apart again.
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

BATCH = 500
JsonFields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JudgedComparison:
    """A comparison, and its judgments in the order they came, superseded ones too.

    `comparison` has the keys comparison_id, prompt_id, prompt, completions (of id, policy, messages) and tags;
    chats are lists of {"role", "content"}, `tags` is JSON. A judgment has the keys of `_JUDGMENT`.
    """

    comparison: JsonFields
    judgments: list[JsonFields]
    is_repeat: bool


def read_judged_comparisons(
    store: Store, *, split: Split, project: str | None = None
) -> Iterator[list[JudgedComparison]]:
    """Every comparison of a split with at least one judgment, in order of id, up to BATCH at a time."""
    of = comparisons.c
    query = (
        _select(store, of.id, of.prompt_id, of.repeat_of, of.completion_ids, prompts.c.messages, prompts.c.tags)
        .join(prompts, prompts.c.id == comparisons.c.prompt_id)
        .where(prompts.c.split == split.value)
        .where(sa.exists().where(judgments.c.comparison_id == comparisons.c.id))
        .order_by(comparisons.c.id)
        .limit(BATCH)
    )
    if project is not None:
        query = query.join(lanes, lanes.c.id == comparisons.c.lane_id).where(lanes.c.project_id == project)
    sides = _select(store, completions.c.id, completions.c.policy, completions.c.messages)
    columns = (judgments.c[name.removeprefix("judgment_")] for name in _JUDGMENT)
    spoken = _select(store, *columns, judgments.c.comparison_id).order_by(judgments.c.seq)
    after = ""
    while True:
        with store.read() as conn:
            found = conn.execute(query.where(comparisons.c.id > after)).all()
            if not found:
                return
            ids = [orjson.loads(r.completion_ids) for r in found]
            shown = sides.where(store.among(completions.c.id, (i for group in ids for i in group)))
            answers = {
                r.id: {"id": r.id, "policy": r.policy, "messages": orjson.loads(r.messages)}
                for r in conn.execute(shown).all()
            }
            said: dict[str, list[JsonFields]] = {r.id: [] for r in found}
            rows = spoken.where(store.among(judgments.c.comparison_id, said))
            for row in conn.execute(rows).all():
                said[row.comparison_id].append(_judgment(row))
        yield [
            JudgedComparison(
                {
                    "comparison_id": r.id,
                    "prompt_id": r.prompt_id,
                    "prompt": orjson.loads(r.messages),
                    "completions": [answers[i] for i in group],
                    "tags": sorted_json(r.tags),
                },
                said[r.id],
                r.repeat_of is not None,
            )
            for r, group in zip(found, ids, strict=True)
        ]
        after = found[-1].id


def _judgment(values: Sequence[Any]) -> JsonFields:
    row = dict(zip(_JUDGMENT, values))
    row["ranking"] = orjson.loads(row["ranking"])
    row["order_shown"] = orjson.loads(row["order_shown"])
    row["scores"] = sorted_json(row["scores"])
    row["simulated"] = bool(row["simulated"])
    row["surplus"] = bool(row["surplus"])
    day, time = row["created_at"].split()
    row["created_at"] = f"{day}T{time.removesuffix('.000000')}+00:00"  # as `datetime.isoformat` writes it
    return row


def sorted_json(text: str) -> str:
    """JSON with its keys in order, the same on every database."""
    # Not by orjson: it would round integers of more than 64 bits, and takes no infinity.
    return text if text == "{}" else _encode(json.loads(text))


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


_JUDGMENT: tuple[str, ...] = (
    "judgment_id", "rater_id", "verdict", "ranking", "strength", "scores", "rationale", "rewrite", "active_seconds",
    "order_shown", "route", "reward_model_id", "guideline_version", "interface_version", "source", "simulated",
    "surplus", "supersedes", "created_at", "reason",
)  # fmt: skip


def _select(store: Store, *columns: sa.Column[Any]) -> sa.Select[Any]:
    """Plain values and JSON as text: SQLAlchemy and psycopg take several times as long to parse it."""
    return sa.select(*(table_copy.plain_column(c, store.is_sqlite).label(c.name) for c in columns))
