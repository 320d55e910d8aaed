"""Guidelines by version, the tutorial, and why a comparison was flagged or skipped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE judgments ADD COLUMN reason VARCHAR(20)")
    op.execute("ALTER TABLE leases ADD COLUMN guideline_version VARCHAR(80)")
    op.execute("UPDATE leases SET guideline_version = 'default-1'")  # there was no other
    op.create_table(
        "guidelines",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("project_id", sa.String(80), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("version", sa.String(80), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("axes", sa.JSON(), nullable=False),
        sa.Column("scores", sa.String(20), nullable=False),
        sa.Column("rationale", sa.String(20), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.UniqueConstraint("project_id", "version", name="guidelines_once"),
        sqlite_autoincrement=True,
    )
    _refuse_changes("guidelines")
    op.create_table(
        "acknowledgements",
        sa.Column("rater_id", sa.String(40), sa.ForeignKey("raters.id"), primary_key=True),
        sa.Column("project_id", sa.String(80), sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("version", sa.String(80), primary_key=True),
        sa.Column("at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "examples",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("project_id", sa.String(80), sa.ForeignKey("projects.id"), nullable=False, index=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("completions", sa.JSON(), nullable=False),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("ranking", sa.JSON(), nullable=False),
        sa.Column("strength", sa.Integer()),
        sa.Column("explanation", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime()),
    )
    op.create_table(
        "example_answers",
        sa.Column("example_id", sa.String(40), sa.ForeignKey("examples.id"), primary_key=True),
        sa.Column("rater_id", sa.String(40), sa.ForeignKey("raters.id"), primary_key=True),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("ranking", sa.JSON(), nullable=False),
        sa.Column("strength", sa.Integer()),
        sa.Column("agreed", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
    )


def _refuse_changes(table: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} are append-only'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
    )
