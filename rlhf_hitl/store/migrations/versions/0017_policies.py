"""How policies came about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("parent", sa.String(500)),
        sa.Column("method", sa.String(20), nullable=False),
        sa.Column("reward_model_id", sa.String(40)),
        sa.Column("round", sa.Integer()),
        sa.Column("settings_digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("policies_by_name", "policies", ["name", "seq"])
