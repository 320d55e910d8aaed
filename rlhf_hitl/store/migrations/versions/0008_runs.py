"""Runs: what commands took of a machine. Those of the loop are taken over from its finished steps."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    runs = op.create_table(
        "runs",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("command", sa.String(80), nullable=False),
        sa.Column("round", sa.Integer),
        sa.Column("step", sa.String(40)),
        sa.Column("device", sa.String(200), nullable=False),
        sa.Column("began_at", sa.DateTime, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("outcome", sa.String(20)),
        sqlite_autoincrement=True,
    )
    steps = sa.table(
        "steps",
        *(sa.column(name) for name in ("round", "step", "seconds")),
        sa.column("finished_at", sa.DateTime),
    )
    query = sa.select(steps).where(steps.c.seconds > 0).order_by(steps.c.finished_at, steps.c.round, steps.c.step)
    # A step in which raters were waited for took no second of the machine.
    rows = [
        {"command": "loop", "round": round, "step": step, "device": "", "seconds": seconds, "outcome": "finished",
         "began_at": _go_back(finished_at, seconds)}
        for round, step, seconds, finished_at in op.get_bind().execute(query)
    ]  # fmt: skip
    if rows:
        op.bulk_insert(runs, rows)


def _go_back(time: datetime, seconds: float) -> datetime:
    """Return the time so many seconds earlier; the time itself where there is none so early."""
    try:
        return time - timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return time
