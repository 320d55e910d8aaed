"""What the checks of raters read: every current answer with the circumstances that speak for or against its rater."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import IS_FIRST
from rlhf_hitl.store.quality_tables import golds
from rlhf_hitl.store.queue.gold_places import GOLD_ID
from rlhf_hitl.store.tables import comparisons, completions, judgments, lanes, projects, prompts, raters
from rlhf_hitl.types import GoldPurpose, Role

ROWS_AT_ONCE = 20_000


class CheckedAnswer(NamedTuple):
    """One current judgment that counts. `seconds` is the active time; `repeat_of` the comparison that is shown again;
    `purpose` that of the gold which the comparison is or asks again, None where it is none."""

    seq: int
    rater_id: str
    comparison_id: str
    prompt_id: str
    project: str
    repeat_of: str | None
    verdict: str
    ranking: list[list[str]]
    order_shown: list[str]
    seconds: float | None
    rationale: str
    created_at: datetime
    purpose: str | None

    @property
    def is_learning(self) -> bool:
        """Whether it is part of an attempt to qualify: they may be told what is right, and are asked the same again."""
        return self.purpose == GoldPurpose.QUALIFICATION


class RaterState(NamedTuple):
    """What decides how a check acts upon a rater."""

    id: str
    name: str
    role: Role
    simulated: bool
    source: str


class GoldAnswer(NamedTuple):
    """The right answer of a comparison, what it is for, and what its project asks of raters (None: nothing)."""

    verdict: str
    ranking: list[list[str]]
    purpose: str
    qualification: dict | None


def read_checked_answers(
    store: Store, *, project: str | None = None, rationales: bool = True
) -> Iterator[CheckedAnswer]:
    """Yield the current counted judgments of raters and judges in the order they came; adjudications are no votes.

    Args:
        project: only those in one.
        rationales: False leaves them empty. They are most of what is read, and few need them.
    """
    newer = judgments.alias()
    query = (
        sa.select(
            judgments.c.seq,
            judgments.c.rater_id,
            judgments.c.comparison_id,
            comparisons.c.prompt_id,
            lanes.c.project_id,
            comparisons.c.repeat_of,
            judgments.c.verdict,
            judgments.c.ranking,
            judgments.c.order_shown,
            judgments.c.active_seconds,
            judgments.c.rationale if rationales else sa.literal("").label("rationale"),
            judgments.c.created_at,
            golds.c.purpose,
        )
        .join(comparisons, comparisons.c.id == judgments.c.comparison_id)
        .join(lanes, lanes.c.id == comparisons.c.lane_id)
        .outerjoin(golds, golds.c.comparison_id == GOLD_ID)
        .where(
            judgments.c.surplus.is_(sa.false()),
            # Of a gold, asked again or not, the first answer counts: a rater may correct it after they were told the
            # right one.
            sa.case(
                (golds.c.comparison_id.is_not(None), IS_FIRST),
                else_=~sa.exists().where(newer.c.supersedes == judgments.c.id),
            ),
            sa.func.coalesce(judgments.c.role, "") != Role.LEAD.value,
        )
        .order_by(judgments.c.seq)
        .limit(ROWS_AT_ONCE)
    )
    if project is not None:
        query = query.where(lanes.c.project_id == project)
    after = 0
    while True:
        with store.read() as conn:
            rows = conn.execute(query.where(judgments.c.seq > after)).all()
        if not rows:
            return
        yield from (CheckedAnswer(*row) for row in rows)
        after = rows[-1].seq


def load_rater_states(store: Store) -> dict[str, RaterState]:
    """Return the state of every rater, by id."""
    query = sa.select(raters.c.id, raters.c.name, raters.c.role, raters.c.simulated, raters.c.source)
    with store.read() as conn:
        return {row.id: RaterState(row.id, row.name, Role(row.role), *row[3:]) for row in conn.execute(query)}


def load_gold_answers(store: Store) -> dict[str, GoldAnswer]:
    """Return the right answer of every gold in use, by comparison."""
    query = sa.select(
        golds.c.comparison_id, golds.c.verdict, golds.c.ranking, golds.c.purpose, projects.c.qualification
    )
    query = query.join(projects, projects.c.id == golds.c.project_id).where(golds.c.ended_at.is_(None))
    with store.read() as conn:
        return {row.comparison_id: GoldAnswer(*row[1:]) for row in conn.execute(query)}


def load_text_lengths(store: Store) -> tuple[dict[str, int], dict[str, int]]:
    """Return the length of every judged prompt and of its completions, by id: characters of their JSON."""
    judged = sa.select(comparisons.c.prompt_id).join(judgments, judgments.c.comparison_id == comparisons.c.id)
    lengths = []
    for table, prompt_id in ((prompts, prompts.c.id), (completions, completions.c.prompt_id)):
        length = sa.func.length(sa.cast(table.c.messages, sa.Text))
        with store.read() as conn:
            rows = conn.execute(sa.select(table.c.id, length).where(prompt_id.in_(judged)))
            lengths.append({id: int(characters) for id, characters in rows})
    return lengths[0], lengths[1]
