"""A guideline says whether raters see the reasoning of policies."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute("ALTER TABLE guidelines ADD COLUMN reasoning VARCHAR(20) NOT NULL DEFAULT 'shown'")
