"""What the rules of alerts look at: how long raters took of late, what has waited longest, which prompts are new."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from rlhf_hitl.store.comparisons import measures_raters
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import comparisons, judgments, lanes, places, projects, prompts, reward_models
from rlhf_hitl.types import Messages, Route, Split, parse_messages


@dataclass(frozen=True)
class Waiting:
    """How long the oldest comparison of a project has waited for raters, and how many places wait."""

    project: str
    age: timedelta
    places: int


@dataclass(frozen=True)
class PromptSamples:
    """Prompts that the newest reward model has learnt from, and a block of those that came after it.

    Attributes:
        block: counts the full blocks since the model, from 0.
    """

    reward_model_id: str
    learnt: list[Messages]
    new: list[Messages]
    block: int


def read_newest_seconds(store: Store, limit: int) -> list[float]:
    """Return the measured active times of the newest judgments of raters here, oldest first."""
    query = sa.select(judgments.c.active_seconds).where(
        judgments.c.active_seconds.is_not(None), judgments.c.source == "", judgments.c.role.is_(None)
    )
    with store.read() as conn:
        return list(conn.execute(query.order_by(judgments.c.seq.desc()).limit(limit)).scalars())[::-1]


def find_oldest_waiting(store: Store) -> list[Waiting]:
    """Return, for each project in which raters work and something waits for them, what has waited longest.

    An age is never below 0, whatever the clock says.
    """
    query = (
        sa.select(lanes.c.project_id, sa.func.min(comparisons.c.created_at).label("oldest"), sa.func.count())
        .select_from(places.join(comparisons, comparisons.c.id == places.c.comparison_id))
        .join(lanes, lanes.c.id == places.c.lane_id)
        .join(projects, projects.c.id == lanes.c.project_id)
        .where(places.c.judgment_id.is_(None), places.c.role == "", comparisons.c.route != Route.AUTO.value)
        .where(~measures_raters(), projects.c.paused_at.is_(None))
        .group_by(lanes.c.project_id)
        .order_by(lanes.c.project_id)
    )
    with store.read() as conn:
        now = store.now(conn)
        rows = conn.execute(query).all()
    return [Waiting(project, max(now - oldest, timedelta(0)), n) for project, oldest, n in rows]


def read_prompt_samples(store: Store, newest: int) -> PromptSamples | None:
    """Return the newest full block of `newest` training prompts since the newest reward model, beside twice as many of
    those whose judgments it could learn from; None where there is no model, no full block, or nothing it learnt."""
    is_training = prompts.c.split == Split.TRAIN.value
    with store.read() as conn:
        model = conn.execute(
            sa.select(reward_models.c.id, reward_models.c.created_at)
            .order_by(reward_models.c.created_at.desc())
            .limit(1)
        ).first()
        if model is None:
            return None
        # What a clock that had jumped has dated into the future would be the newest for as long as that is to come.
        came_after = is_training, prompts.c.created_at > model.created_at, prompts.c.created_at <= store.now(conn)
        blocks = conn.execute(sa.select(sa.func.count()).select_from(prompts).where(*came_after)).scalar_one() // newest
        if not blocks:
            return None
        judged = sa.exists().where(
            comparisons.c.prompt_id == prompts.c.id,
            judgments.c.comparison_id == comparisons.c.id,
            judgments.c.created_at <= model.created_at,
        )
        # Ids are hashes, so their order is random; and it is the same each time.
        learnt = sa.select(prompts.c.messages).where(is_training, judged).order_by(prompts.c.id).limit(2 * newest)
        new = sa.select(prompts.c.messages).where(*came_after).order_by(prompts.c.created_at, prompts.c.id)
        new = new.offset((blocks - 1) * newest).limit(newest)
        samples = [[parse_messages(m) for m in conn.execute(query).scalars()] for query in (learnt, new)]
    return PromptSamples(model.id, samples[0], samples[1], blocks - 1) if samples[0] else None
