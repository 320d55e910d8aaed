"""What models said and what was done with it: reward models, scores, routings, and the loop's finished steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import NotFound
from rlhf_hitl.store import catalog, events
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import comparisons, places, routings, scores, steps
from rlhf_hitl.store.tables import reward_models as reward_models_table
from rlhf_hitl.types import Event, Route, Score, utc_now


@dataclass(frozen=True)
class RewardModelRecord:
    """A trained reward model the store knows of. `figures` say what it was trained on."""

    id: str
    backend: str
    path: str
    backbone: str
    data_hash: str
    simulated: bool
    figures: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True)
class Routing:
    """One decision: where a comparison goes, where it would have gone without the control draw, and why.

    `place_in_line`: raters meet the comparisons of one route in this order, 0 first.
    """

    comparison_id: str
    route: Route
    proposed: Route
    reason: str
    reward_model_id: str | None = None
    round: int = 0
    place_in_line: int = 0
    decided_by: str | None = None
    created_at: datetime = field(default_factory=utc_now)


def add_reward_model(store: Store, model: RewardModelRecord) -> None:
    """Enter a model as the newest; one that is known already (its id is its content) becomes the newest again."""
    with store.write() as conn:
        if not store.insert_new(conn, reward_models_table, [vars(model)]):
            same = reward_models_table.c.id == model.id
            conn.execute(reward_models_table.update().where(same).values(created_at=model.created_at, path=model.path))


def reward_models(store: Store) -> list[RewardModelRecord]:
    """Every reward model, oldest first."""
    query = sa.select(reward_models_table).order_by(reward_models_table.c.created_at)
    with store.read() as conn:
        return [RewardModelRecord(**row) for row in conn.execute(query).mappings()]


def reward_model(store: Store, model_id: str | None = None) -> RewardModelRecord:
    """The reward model with that id, or the newest.

    Raises:
        NotFound: there is none.
    """
    found = [m for m in reward_models(store) if model_id in (None, m.id)]
    if not found:
        known = [m.id for m in reward_models(store)][-3:]
        raise NotFound(
            f"reward model {model_id or '(newest)'}",
            expected=f"one of this store's ({', '.join(known)} the newest) or a folder" if known else "a trained one",
            fix="name one of them" if known else "run `rlhf-hitl train-reward` first",
        )
    return found[-1]


def add_scores(store: Store, new: Sequence[Score]) -> int:
    now = utc_now()
    rows = [vars(s) | {"rewards": dict(s.rewards), "created_at": now} for s in new]
    with store.write() as conn:
        return store.insert_new(conn, scores, rows)


def scores_of(store: Store, model_id: str) -> list[Score]:
    columns = [c for c in scores.c if c.name != "created_at"]
    query = sa.select(*columns).where(scores.c.reward_model_id == model_id).order_by(scores.c.comparison_id)
    with store.read() as conn:
        return [Score(**r) for r in conn.execute(query).mappings()]


def scored_by(store: Store, model_id: str) -> int:
    """How many comparisons have a score of this reward model."""
    with store.read() as conn:
        query = sa.select(sa.func.count()).select_from(scores).where(scores.c.reward_model_id == model_id)
        return conn.execute(query).scalar_one()


def scores_routed_on(store: Store, comparison_ids: Sequence[str]) -> dict[str, Score]:
    """Comparison → the score of the model its newest routing names. Those routed without a model are left out."""
    newest = sa.select(sa.func.max(routings.c.seq)).where(store.among(routings.c.comparison_id, comparison_ids))
    on = sa.and_(
        routings.c.comparison_id == scores.c.comparison_id, routings.c.reward_model_id == scores.c.reward_model_id
    )
    query = sa.select(*(c for c in scores.c if c.name != "created_at")).join(routings, on)
    query = query.where(routings.c.seq.in_(newest.group_by(routings.c.comparison_id)))
    with store.read() as conn:
        return {r["comparison_id"]: Score(**r) for r in conn.execute(query).mappings()}


def route(store: Store, decisions: Sequence[Routing], *, now: datetime | None = None) -> None:
    """Keep decisions and carry them out: open places for people, or close the free ones of what is accepted.

    A place that a rater holds or has filled stays theirs.

    Raises:
        NotFound: a decision on a comparison the store does not have; then none of them is kept.
    """
    with store.write() as conn:
        now = now or store.now(conn)
        _lock_comparisons(store, conn, decisions)
        hooks = events.subscriptions(conn)
        for d in decisions:
            conn.execute(routings.insert().values(vars(d) | {"route": d.route.value, "proposed": d.proposed.value}))
            conn.execute(comparisons.update().where(comparisons.c.id == d.comparison_id).values(route=d.route.value))
            if d.route is Route.AUTO:
                events.emit(conn, Event.COMPARISON_RESOLVED, {"comparison_id": d.comparison_id, "by": "model"}, hooks)
                free = sa.or_(places.c.leased_until.is_(None), places.c.leased_until <= now)
                conn.execute(
                    places.delete().where(
                        places.c.comparison_id == d.comparison_id, places.c.judgment_id.is_(None), free
                    )
                )
            else:
                lane, wanted = _places_wanted(conn, d)
                conn.execute(comparisons.update().where(comparisons.c.id == d.comparison_id).values(overlap=wanted))
                catalog.open_places(store, conn, [(d.comparison_id, lane, wanted, d.route)])
                position = catalog.position(d.comparison_id, d.route, d.round, d.place_in_line)
                conn.execute(places.update().where(places.c.comparison_id == d.comparison_id).values(position=position))


def _lock_comparisons(store: Store, conn: Connection, decisions: Sequence[Routing]) -> None:
    """Hold the decided comparisons, in order of id so that two routers cannot wait for each other."""
    wanted = {d.comparison_id for d in decisions}
    query = sa.select(comparisons.c.id).where(store.among(comparisons.c.id, wanted)).order_by(comparisons.c.id)
    known = set(conn.execute(query.with_for_update(key_share=True)).scalars())
    if missing := sorted(wanted - known):
        raise NotFound(f"comparison {missing[0]!r}", expected="one in the store", fix="import it before routing it")


def _places_wanted(conn: Connection, decision: Routing) -> tuple[int, int]:
    """The lane, and how many places: at least one for people; an escalation wants one judgment more than there is."""
    query = sa.select(comparisons.c.lane_id, comparisons.c.overlap).where(comparisons.c.id == decision.comparison_id)
    lane, overlap = conn.execute(query).one()
    if decision.route is not Route.ESCALATED:
        return lane, max(1, overlap)
    filled = conn.execute(
        sa.select(sa.func.count())
        .select_from(places)
        .where(places.c.comparison_id == decision.comparison_id, places.c.judgment_id.is_not(None))
    ).scalar_one()
    return lane, max(overlap, filled + 1)


def routings_of(store: Store, *, round: int | None = None, newest: bool = True) -> list[Routing]:
    """Decisions in the order they were made; with `newest`, only each comparison's last."""
    query = sa.select(routings).order_by(routings.c.seq)
    if round is not None:
        query = query.where(routings.c.round == round)
    with store.read() as conn:
        rows = conn.execute(query).mappings().all()
    out = [
        Routing(
            r["comparison_id"],
            Route(r["route"]),
            Route(r["proposed"]),
            r["reason"],
            r["reward_model_id"],
            r["round"],
            r["place_in_line"],
            r["decided_by"],
            r["created_at"],
        )
        for r in rows
    ]
    return list({r.comparison_id: r for r in out}.values()) if newest else out


def finish_step(
    store: Store, round: int, step: str, result: dict[str, Any], seconds: float, *, last: bool = False
) -> None:
    """Keep a step's result. With `last` the round is finished, which is told with that result."""
    row = {"round": round, "step": step, "result": result, "seconds": seconds, "finished_at": utc_now()}
    with store.write() as conn:
        if store.insert_new(conn, steps, [row]) and last:
            events.emit(conn, Event.ROUND_FINISHED, {"round": round, **result})


def finished_steps(store: Store) -> dict[tuple[int, str], dict[str, Any]]:
    """(round, step) → its result, with `seconds`, of every step of the loop that is done."""
    with store.read() as conn:
        rows = conn.execute(sa.select(steps).order_by(steps.c.finished_at)).mappings().all()
    return {(r["round"], r["step"]): dict(r["result"]) | {"seconds": r["seconds"]} for r in rows}
