"""What live learning needs of the store: who learns, which comparisons wait, and their new order.

One process learns at a time. Its row says until which judgment the order of the queue knows what raters said, and is
written in the transaction that orders: whoever is killed leaves the one order or the other, and no half of one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.comparisons import measures_raters
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import live_learning
from rlhf_hitl.store.tables import comparisons, judgments, places, prompts, routings, scores
from rlhf_hitl.types import Route, Split
from rlhf_hitl.wording import say_count

#: Whoever learns says so more often than this, but while it reads all labels; after it, somebody else may take over. A
#: clock that has jumped makes somebody take over too soon, which does no harm: the one before sees it before it writes.
STALE_SECONDS = 60.0


class OpenComparison(NamedTuple):
    """A comparison that the router sent to raters by its rank, and that nobody has judged."""

    comparison_id: str
    lane_id: int
    family: str
    chosen: str
    rejected: str
    margin: float
    uncertainty: float


@dataclass(frozen=True)
class LiveFacts:
    """What live learning has done since the reward model was trained.

    Attributes:
        labels, votes: learnt since then.
        open: comparisons whose order follows the head; `waiting` are still to be loaded, and those `beyond` stand too
            far behind to be followed.
        unread: comparisons and labels that are not followed, because their features are not at hand: `score` reads
            them.
        corrected: labels of which raters corrected a vote that the training had learnt. It takes a training to unlearn.
        moved, of: how many of the comparisons at the head of the queue got another place when it was ordered last, and
            how many there are.
        updated_at: when that was, as ISO text; empty: not yet.
        problem: why nothing is learnt; empty: it is.
    """

    labels: int = 0
    votes: float = 0.0
    open: int = 0
    waiting: int = 0
    beyond: int = 0
    unread: int = 0
    corrected: int = 0
    moved: int = 0
    of: int = 0
    updated_at: str = ""
    problem: str = ""


@dataclass(frozen=True)
class LiveState:
    """The state of live learning. `runs` is whether somebody learns now."""

    runs: bool
    reward_model_id: str
    revision: int
    heartbeat_at: datetime
    facts: LiveFacts = field(default_factory=LiveFacts)

    def __str__(self) -> str:
        facts = self.facts
        if not self.runs:
            return f"Live learning does not run; it last did at {self.heartbeat_at:%Y-%m-%d %H:%M} UTC."
        if facts.problem:
            return f"Live learning waits: {facts.problem}."
        said = f"{say_count(facts.labels, 'label')} learnt since the training"
        if facts.updated_at:
            at = datetime.fromisoformat(facts.updated_at)
            said += f"; {facts.moved:,} of the first {facts.of:,} moved at {at:%H:%M:%S} UTC"
        said += f"; {say_count(facts.open, 'open comparison')} followed"
        if facts.waiting:
            said += f", {facts.waiting:,} still to be loaded"
        if facts.beyond:
            said += f"; {facts.beyond:,} behind them are not"
        if facts.unread:
            said += f"; {facts.unread:,} not followed until `rlhf-hitl score` has read them"
        if facts.corrected:
            said += f"; {say_count(facts.corrected, 'corrected label')} left to the next training"
        return said + "."


def claim(store: Store, worker: str) -> bool:
    """Become the one who learns, or say that one still is. False: somebody else is."""
    with store.read() as conn:
        if not _is_free(conn, store.now(conn), worker):
            return False
    with store.write(durable=False) as conn:
        store.lock(conn, "live learning")
        now = store.now(conn)
        if not _is_free(conn, now, worker):
            return False
        changed = conn.execute(live_learning.update().values(worker=worker, heartbeat_at=now))
        if not changed.rowcount:
            row = {"id": 1, "worker": worker, "heartbeat_at": now, "reward_model_id": "", "revision": 0, "state": {}}
            conn.execute(live_learning.insert().values(row))
    return True


def release(store: Store, worker: str) -> None:
    """Let somebody else learn at once."""
    with store.write(durable=False) as conn:
        gone = datetime(2000, 1, 1, tzinfo=store.now(conn).tzinfo)
        conn.execute(live_learning.update().where(live_learning.c.worker == worker).values(heartbeat_at=gone))


def read_live_state(store: Store) -> LiveState | None:
    """Return the state of live learning; None where nobody has ever learnt."""
    with store.read() as conn:
        row = conn.execute(sa.select(live_learning)).mappings().first()
        if row is None:
            return None
        runs = not _is_stale(row["heartbeat_at"], store.now(conn))
    facts = LiveFacts(**row["state"])
    return LiveState(runs, row["reward_model_id"], row["revision"], row["heartbeat_at"], facts)


class RoutedBy(NamedTuple):
    """The model whose scores the newest routing by a model is by, and the number of the newest decision."""

    reward_model_id: str
    newest: int


def find_routing_model(store: Store) -> RoutedBy | None:
    """Return by which model comparisons were routed last; None where none ever was."""
    by_model = sa.select(routings.c.reward_model_id).where(
        routings.c.reward_model_id.is_not(None), routings.c.decided_by.is_(None)
    )
    with store.read() as conn:
        model = conn.execute(by_model.order_by(routings.c.seq.desc()).limit(1)).scalar()
        newest = conn.execute(sa.select(sa.func.max(routings.c.seq))).scalar()
    return None if model is None else RoutedBy(model, newest or 0)


def read_open_comparisons(store: Store, model_id: str, limit: int) -> tuple[list[OpenComparison], int]:
    """Return the first comparisons in line that a model ranked and nobody has judged, and how many stand behind them.

    Controls, audits and prompts that measure models are not among them: their places were drawn, and stay.
    """
    newest = sa.select(sa.func.max(routings.c.seq)).where(routings.c.comparison_id == comparisons.c.id)
    query = (
        sa.select(
            comparisons.c.id,
            comparisons.c.lane_id,
            prompts.c.family,
            *(scores.c[name] for name in ("chosen", "rejected", "margin", "uncertainty")),
        )
        .select_from(places.join(comparisons, comparisons.c.id == places.c.comparison_id))
        .join(prompts, prompts.c.id == comparisons.c.prompt_id)
        .join(scores, sa.and_(scores.c.comparison_id == comparisons.c.id, scores.c.reward_model_id == model_id))
        .join(routings, routings.c.seq == newest.correlate(comparisons).scalar_subquery())
        .where(
            *_can_move(),
            prompts.c.split == Split.TRAIN.value,
            ~measures_raters(),
            routings.c.proposed == Route.HUMAN.value,
            routings.c.reward_model_id == model_id,
            ~sa.exists().where(judgments.c.comparison_id == comparisons.c.id),
        )
        .order_by(places.c.position, places.c.n)
    )
    with store.read() as conn:
        found = dict.fromkeys(OpenComparison(*row) for row in conn.execute(query))
    in_line = list(found)  # one with several places comes once
    return in_line[:limit], max(0, len(in_line) - limit)


def read_heads(store: Store, lane_ids: Collection[int], per_lane: int) -> list[str]:
    """Return the comparisons at the head of each lane, whatever put them there."""
    query = sa.select(places.c.comparison_id).where(
        places.c.lane_id == sa.bindparam("lane"), places.c.role == "", places.c.judgment_id.is_(None)
    )
    query = query.order_by(places.c.position, places.c.n).limit(per_lane)
    with store.read() as conn:
        return [id for lane in sorted(lane_ids) for id in conn.execute(query, {"lane": lane}).scalars()]


class Ordered(NamedTuple):
    """How many comparisons got another place, how many there were, and when it was, as ISO text."""

    moved: int
    of: int
    updated_at: str


def order_places(
    store: Store,
    worker: str,
    wanted: Sequence[str],
    *,
    reward_model_id: str,
    revision: int,
    facts: Mapping[str, Any],
) -> Ordered | None:
    """Let some comparisons exchange their positions, so that they come in the wanted order; and write the state.

    All positions stay in use, so what stands between them at random stays where it is. A place that somebody has
    locked at this moment stays, too.

    Returns:
        None where somebody else learns now: nothing was written.
    """
    try:
        with store.write(durable=False) as conn:
            now = store.now(conn)
            moved, of = _exchange_positions(store, conn, wanted) if wanted else (0, 0)
            ordered = Ordered(moved, of, now.isoformat())
            state = dict(facts) | (ordered._asdict() if wanted else {})
            row = {"heartbeat_at": now, "reward_model_id": reward_model_id, "revision": revision, "state": state}
            own = live_learning.update().where(live_learning.c.worker == worker)
            if not conn.execute(own.values(row)).rowcount:
                raise _SomebodyElseLearns
    except _SomebodyElseLearns:
        return None
    return ordered


class _SomebodyElseLearns(Exception):
    """Undoes the transaction."""


def _exchange_positions(store: Store, conn: Connection, wanted: Sequence[str]) -> tuple[int, int]:
    query = (
        sa.select(places.c.comparison_id, places.c.n, places.c.position)
        .select_from(places.join(comparisons, comparisons.c.id == places.c.comparison_id))
        .where(*_can_move(), store.among(places.c.comparison_id, wanted))
        .with_for_update(skip_locked=True, of=places)
    )
    positions: dict[str, int] = {}
    numbers: dict[str, list[int]] = {}
    for comparison_id, n, position in conn.execute(query):
        positions[comparison_id] = min(position, positions.get(comparison_id, position))
        numbers.setdefault(comparison_id, []).append(n)
    in_order = [id for id in wanted if id in positions]
    new = dict(zip(in_order, sorted(positions.values())))
    changed = [id for id in in_order if new[id] != positions[id]]
    rows = [{"of_comparison": id, "number": n, "new": new[id]} for id in sorted(changed) for n in numbers[id]]
    if rows:
        conn.execute(_MOVE, rows)
    return len(changed), len(in_order)


def _can_move() -> list[sa.ColumnElement[bool]]:
    """Return the conditions that a place is open, for any rater, and of a comparison that the router ranked."""
    return [
        places.c.judgment_id.is_(None),
        places.c.role == "",
        places.c.reserved_for.is_(None),
        comparisons.c.route == Route.HUMAN.value,
    ]


_MOVE = (
    places.update()
    .where(places.c.comparison_id == sa.bindparam("of_comparison"), places.c.n == sa.bindparam("number"))
    .values(position=sa.bindparam("new"))
)


def _is_free(conn: Connection, now: datetime, worker: str) -> bool:
    row = conn.execute(sa.select(live_learning.c.worker, live_learning.c.heartbeat_at)).first()
    return row is None or row.worker == worker or _is_stale(row.heartbeat_at, now)


def _is_stale(heartbeat_at: datetime, now: datetime) -> bool:
    return abs(now - heartbeat_at) > timedelta(seconds=STALE_SECONDS)
