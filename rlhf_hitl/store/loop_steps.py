"""The finished steps of the loop: a loop that was stopped continues after them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rlhf_hitl.store import webhooks
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import steps
from rlhf_hitl.types import Event, utc_now


def finish_step(
    store: Store, round: int, step: str, result: dict[str, Any], seconds: float, *, last: bool = False
) -> None:
    """Store the result of a step. With `last` the round is finished, and webhooks are sent the result."""
    row = {"round": round, "step": step, "result": result, "seconds": seconds, "finished_at": utc_now()}
    with store.write() as conn:
        if store.insert_new(conn, steps, [row]) and last:
            webhooks.enqueue_event(conn, Event.ROUND_FINISHED, {"round": round, **result})


def read_round_ends(store: Store) -> dict[int, datetime]:
    """Return round → when the last of its finished steps was, for every round that has one."""
    query = sa.select(steps.c.round, sa.func.max(steps.c.finished_at)).group_by(steps.c.round).order_by(steps.c.round)
    with store.read() as conn:
        return dict(conn.execute(query).tuples().all())


def read_finished_steps(store: Store) -> dict[tuple[int, str], dict[str, Any]]:
    """Return (round, step) → its result, with `seconds`, for every finished step of the loop."""
    with store.read() as conn:
        rows = conn.execute(sa.select(steps).order_by(steps.c.finished_at)).mappings().all()
    return {(r["round"], r["step"]): dict(r["result"]) | {"seconds": r["seconds"]} for r in rows}
