"""Counted votes with what they can be grouped by: one light row each, since a report reads all there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import find_role
from rlhf_hitl.store.tables import comparisons, judgments, lanes, prompts
from rlhf_hitl.types import Role

ROWS_AT_ONCE = 5000
MAX_IDS_IN_QUERY = 1000


class CountedVote(NamedTuple):
    """A judgment that counts as a vote, of a comparison that is neither a gold nor a hidden repeat.

    `is_judge` says that a model gave it; `source` is where an imported one came from; `family` is that of the prompt.
    """

    seq: int
    comparison_id: str
    rater_id: str
    verdict: str
    ranking: list[list[str]]
    strength: int | None
    order_shown: list[str]
    guideline_version: str
    created_at: datetime
    source: str
    simulated: bool
    is_judge: bool
    project: str
    language: str
    family: str
    tags: Mapping[str, Any]


def read_counted_votes(
    store: Store, *, project: str | None = None, comparison_ids: Collection[str] | None = None
) -> Iterator[CountedVote]:
    """Yield the newest version of every counted judgment, in the order they came.

    Neither surplus judgments nor those by which a lead decides a comparison are votes, and golds and hidden repeats
    measure raters.

    Args:
        comparison_ids: only votes on these.
    """
    newer = judgments.alias()
    query = (
        sa.select(
            *(judgments.c[name] for name in CountedVote._fields[:11]),
            (sa.func.coalesce(find_role(), "") == Role.JUDGE.value).label("is_judge"),
            lanes.c.project_id,
            lanes.c.language,
            prompts.c.family,
            prompts.c.tags,
        )
        .join(comparisons, comparisons.c.id == judgments.c.comparison_id)
        .join(lanes, lanes.c.id == comparisons.c.lane_id)
        .join(prompts, prompts.c.id == comparisons.c.prompt_id)
        .where(
            comparisons.c.repeat_of.is_(None),
            comparisons.c.is_gold.is_not(sa.true()),
            judgments.c.surplus.is_(sa.false()),
            sa.func.coalesce(judgments.c.role, "") != Role.LEAD.value,
            ~sa.exists().where(newer.c.supersedes == judgments.c.id),
        )
        .order_by(judgments.c.seq)
        .limit(ROWS_AT_ONCE)
    )
    if project is not None:
        query = query.where(lanes.c.project_id == project)
    # Few are asked for by name; of many, all votes are read, since every statement would carry all names again.
    is_few = comparison_ids is not None and len(comparison_ids) <= MAX_IDS_IN_QUERY
    wanted = None if comparison_ids is None or is_few else frozenset(comparison_ids)
    if comparison_ids is not None and is_few:
        query = query.where(store.among(judgments.c.comparison_id, comparison_ids))
    after = 0
    while True:
        with store.read() as conn:
            rows = conn.execute(query.where(judgments.c.seq > after)).all()
        if not rows:
            return
        yield from (CountedVote._make(row) for row in rows if wanted is None or row.comparison_id in wanted)
        after = rows[-1][0]
