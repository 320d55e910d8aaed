"""A comparison knows the decision by which it is accepted, so that what models accepted is listed page by page."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

ACCEPTED = sa.text("accepted_seq IS NOT NULL")


def upgrade() -> None:
    op.execute("ALTER TABLE comparisons ADD COLUMN accepted_seq INTEGER")
    op.execute(
        "UPDATE comparisons SET accepted_seq = "
        "(SELECT max(seq) FROM routings WHERE routings.comparison_id = comparisons.id) WHERE route = 'auto'"
    )
    op.create_index(
        "comparisons_accepted",
        "comparisons",
        ["accepted_seq", "lane_id"],
        sqlite_where=ACCEPTED,
        postgresql_where=ACCEPTED,
    )
