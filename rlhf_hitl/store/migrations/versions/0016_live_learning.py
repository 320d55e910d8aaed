"""What the head has learnt since its training, as judgments came."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "live_learning",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("worker", sa.String(40), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(), nullable=False),
        sa.Column("reward_model_id", sa.String(40), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
    )
