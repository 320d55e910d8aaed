"""What was done, as light rows without texts: one reading of the judgments serves every figure and every grouping."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from rlhf_hitl.store.comparisons import measures_raters
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import find_role
from rlhf_hitl.store.quality_tables import judge_calls
from rlhf_hitl.store.tables import comparisons, judgments, lanes, prompts, routings
from rlhf_hitl.types import Role

ROWS_AT_ONCE = 5000


class ComparisonFact(NamedTuple):
    """A comparison that raters here have judged, a router has decided, or a judge was asked about.

    `is_work` is false where it measures raters: a hidden repeat or a gold.
    """

    id: str
    project: str
    split: str
    tags: Mapping[str, Any]
    created_at: datetime
    is_work: bool


class JudgmentFact(NamedTuple):
    """The newest version of a judgment that a person, or a simulated rater, made here; imported ones are left out."""

    seq: int
    comparison_id: str
    rater_id: str
    verdict: str
    ranking: list[list[str]]
    seconds: float | None
    created_at: datetime
    simulated: bool
    surplus: bool


class FeeFact(NamedTuple):
    """A call of an AI judge that cost something, in the currency of its prices."""

    comparison_id: str
    cost: float
    created_at: datetime


def read_comparison_facts(store: Store) -> dict[str, ComparisonFact]:
    """Return the comparisons that raters here have judged, a router has decided, or a judge was asked about, by id."""
    of_it = judgments.c.comparison_id == comparisons.c.id
    is_judged = sa.exists().where(of_it, judgments.c.source == "")
    is_routed = sa.exists().where(routings.c.comparison_id == comparisons.c.id)
    is_asked_about = sa.exists().where(judge_calls.c.comparison_id == comparisons.c.id)
    columns = (comparisons.c.id, lanes.c.project_id, prompts.c.split, prompts.c.tags, comparisons.c.created_at)
    query = (
        sa.select(*columns, ~measures_raters())
        .join(lanes, lanes.c.id == comparisons.c.lane_id)
        .join(prompts, prompts.c.id == comparisons.c.prompt_id)
        .where(sa.or_(is_judged, is_routed, is_asked_about))
    )
    with store.snapshot() as conn:
        rows: Any = conn.execution_options(yield_per=ROWS_AT_ONCE).execute(query)
        # An is_gold of null makes the condition null: it is work.
        facts = (ComparisonFact._make((*row[:5], row[5] is None or bool(row[5]))) for row in rows)
        return {fact.id: fact for fact in facts}


def read_judgment_facts(store: Store) -> list[JudgmentFact]:
    """Return what people and simulated raters judged here, in the order it came."""
    newer = judgments.alias()
    names = ("seq", "comparison_id", "rater_id", "verdict", "ranking", "active_seconds", "created_at", "simulated")
    query = (
        sa.select(*(judgments.c[name] for name in (*names, "surplus")))
        .where(
            judgments.c.source == "",
            sa.func.coalesce(find_role(), "") != Role.JUDGE.value,
            ~sa.exists().where(newer.c.supersedes == judgments.c.id),
        )
        .order_by(judgments.c.seq)
    )
    with store.snapshot() as conn:
        rows: Any = conn.execution_options(yield_per=ROWS_AT_ONCE).execute(query)
        return [JudgmentFact._make(row) for row in rows]


def read_fee_facts(store: Store) -> list[FeeFact]:
    """Return the calls of judges that cost something, whatever came of them, in the order they were made."""
    query = sa.select(*(judge_calls.c[name] for name in FeeFact._fields)).where(judge_calls.c.cost > 0)
    with store.snapshot() as conn:
        rows: Any = conn.execution_options(yield_per=ROWS_AT_ONCE).execute(query.order_by(judge_calls.c.seq))
        return [FeeFact._make(row) for row in rows]
