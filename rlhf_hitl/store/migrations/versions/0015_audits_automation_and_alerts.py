"""Audits of what was accepted, whether automation runs, and alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "audits",
        sa.Column("seq", sa.Integer(), sa.ForeignKey("routings.seq"), primary_key=True, autoincrement=False),
        sa.Column("comparison_id", sa.String(40), sa.ForeignKey("comparisons.id"), nullable=False),
        sa.Column("max_error", sa.Float(), nullable=False),
        sa.Column("delta", sa.Float(), nullable=False),
        sa.Column("number", sa.Integer()),
        sa.Column("outcome", sa.String(20)),
        sa.Column("decided_at", sa.DateTime()),
    )
    op.create_index("audits_by_comparison", "audits", ["comparison_id"])
    op.create_index("audits_in_order", "audits", ["number"], unique=True)
    op.create_table(
        "automation",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("project_id", sa.String(80), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.String(80), nullable=False),
        sa.Column("after_decision", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("automation_by_project", "automation", ["project_id", "seq"])
    op.create_table(
        "alerts",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("rule", sa.String(80), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("raised_at", sa.DateTime(), nullable=False),
        sa.Column("cleared_at", sa.DateTime()),
        sa.Column("seen_by", sa.String(80)),
        sa.Column("seen_at", sa.DateTime()),
        sa.Column("silenced_by", sa.String(80)),
        sa.Column("silenced_until", sa.DateTime()),
        sa.Column("emailed_at", sa.DateTime()),
        sqlite_autoincrement=True,
    )
    standing = sa.text("cleared_at IS NULL")
    op.create_index(
        "alerts_standing_once",
        "alerts",
        ["rule", "subject"],
        unique=True,
        sqlite_where=standing,
        postgresql_where=standing,
    )
    _refuse_changes_of_the_history()


def _refuse_changes_of_the_history() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER automation_no_{verb.lower()} BEFORE {verb} ON automation "
                "BEGIN SELECT RAISE(ABORT, 'the history of automation is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION automation_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the history of automation is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER automation_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON automation "
        "FOR EACH STATEMENT EXECUTE FUNCTION automation_append_only()"
    )
