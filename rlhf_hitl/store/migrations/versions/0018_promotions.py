"""Promotions of policies by raters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("new_policy", sa.String(500), nullable=False),
        sa.Column("old_policy", sa.String(500), nullable=False),
        sa.Column("reward_model_id", sa.String(40), sa.ForeignKey("reward_models.id")),
        sa.Column("round", sa.Integer()),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("opened_at", sa.DateTime(), nullable=False),
        sa.Column("decided_at", sa.DateTime()),
        sa.Column("decision", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("outcomes", sa.Integer(), nullable=False),
        sa.Column("judgments", sa.Integer(), nullable=False),
        sa.Column("win_rate", sa.Float()),
        sa.Column("low", sa.Float(), nullable=False),
        sa.Column("high", sa.Float(), nullable=False),
        sa.Column("evidence_for", sa.Float(), nullable=False),
        sa.Column("evidence_against", sa.Float(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("length_controlled", sa.JSON()),
        sa.Column("tags", sa.JSON(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "promotion_draws",
        sa.Column("promotion_id", sa.Integer(), sa.ForeignKey("promotions.id"), primary_key=True),
        sa.Column("n", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("prompt_id", sa.String(40), sa.ForeignKey("prompts.id"), nullable=False),
        sa.Column("new_completion", sa.String(40), sa.ForeignKey("completions.id"), nullable=False),
        sa.Column("old_completion", sa.String(40), sa.ForeignKey("completions.id"), nullable=False),
        sa.Column("comparison_id", sa.String(40), sa.ForeignKey("comparisons.id")),
        sa.Column("prediction", sa.Float()),
    )
    op.create_index("promotion_draws_by_comparison", "promotion_draws", ["comparison_id"])
