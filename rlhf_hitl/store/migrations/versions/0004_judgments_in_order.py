"""PostgreSQL itself lets one transaction at a time add judgments: they are numbered in the order they commit."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        return  # which has one writer at a time as it is
    # Before the statement, for a row has its number by the time a trigger sees it. The lock is the one that servers of
    # earlier versions take by hand.
    op.execute(
        "CREATE FUNCTION judgments_in_order() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(212867559); RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER judgments_in_order BEFORE INSERT ON judgments "
        "FOR EACH STATEMENT EXECUTE FUNCTION judgments_in_order()"
    )
