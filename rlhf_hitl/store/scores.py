"""Scores: the margin and uncertainty a reward model gives a comparison."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa

from rlhf_hitl.store.comparisons import is_judged_by_people, measures_raters
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import comparisons, lanes, prompts, routings, scores
from rlhf_hitl.types import Score, Split, utc_now


def insert_scores(store: Store, new: Sequence[Score]) -> int:
    """Insert scores and return how many were new."""
    now = utc_now()
    rows = [vars(s) | {"rewards": dict(s.rewards), "created_at": now} for s in new]
    with store.write() as conn:
        return store.insert_new(conn, scores, rows)


def read_scores(store: Store, model_id: str) -> list[Score]:
    """Return every score of a reward model, by comparison id."""
    columns = [c for c in scores.c if c.name != "created_at"]
    query = sa.select(*columns).where(scores.c.reward_model_id == model_id).order_by(scores.c.comparison_id)
    with store.read() as conn:
        return [Score(**r) for r in conn.execute(query).mappings()]


def count_scores(store: Store, model_id: str) -> int:
    """Return how many comparisons have a score of this reward model."""
    with store.read() as conn:
        query = sa.select(sa.func.count()).select_from(scores).where(scores.c.reward_model_id == model_id)
        return conn.execute(query).scalar_one()


def read_open_confidences(store: Store, model_id: str, most_uncertain: float) -> dict[str, list[float]]:
    """Return project → the model's confidence in its choice on each comparison of a training prompt that it has scored
    and no person has judged: those that a router decides.

    Args:
        most_uncertain: what is more uncertain is never accepted; NaN stands for its confidence.
    """
    query = (
        sa.select(lanes.c.project_id, scores.c.probability, scores.c.uncertainty)
        .join_from(scores, comparisons, comparisons.c.id == scores.c.comparison_id)
        .join(lanes, lanes.c.id == comparisons.c.lane_id)
        .join(prompts, prompts.c.id == comparisons.c.prompt_id)
        .where(scores.c.reward_model_id == model_id, prompts.c.split == Split.TRAIN.value)
        .where(~is_judged_by_people(), ~measures_raters())
    )
    found = defaultdict(list)
    with store.read() as conn:
        for project, probability, uncertainty in conn.execute(query):
            found[project].append(probability if uncertainty <= most_uncertain else math.nan)
    return dict(found)


def read_routed_scores(store: Store, comparison_ids: Sequence[str]) -> dict[str, Score]:
    """Return comparison id → the score of the model that its newest routing names.

    Comparisons that were routed without a model are left out.
    """
    newest = sa.select(sa.func.max(routings.c.seq)).where(store.among(routings.c.comparison_id, comparison_ids))
    same_model = sa.and_(
        routings.c.comparison_id == scores.c.comparison_id, routings.c.reward_model_id == scores.c.reward_model_id
    )
    query = sa.select(*(c for c in scores.c if c.name != "created_at")).join(routings, same_model)
    query = query.where(routings.c.seq.in_(newest.group_by(routings.c.comparison_id)))
    with store.read() as conn:
        return {r["comparison_id"]: Score(**r) for r in conn.execute(query).mappings()}
