"""Draws are keyed: what is drawn for a comparison can no longer be computed from its id. Readiness writes a row.

The order in which completions were shown, and the order of the queue, followed from a comparison's id, which is a hash
of the completions and the policies' names: who guessed these names knew who wrote what. From now on both follow from a
key that only the store knows. Leases that were given, and the places filled, stay as they are.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_ROWS = 5000


def upgrade() -> None:
    secrets_table = op.create_table(
        "secrets",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("value", sa.String(80), nullable=False),
    )
    readiness = op.create_table(
        "readiness",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("checked_at", sa.DateTime, nullable=False),
    )
    op.add_column("projects", sa.Column("rater_filters", sa.JSON))
    op.execute("UPDATE projects SET rater_filters = '[]'")
    key = secrets.token_hex(32)
    op.bulk_insert(secrets_table, [{"name": "draws", "value": key}])
    op.bulk_insert(readiness, [{"id": 1, "checked_at": datetime.now(UTC).replace(tzinfo=None)}])
    _draw_positions(bytes.fromhex(key))


def _draw_positions(key: bytes) -> None:
    """Draw the last 28 bits of the positions of open places anew."""
    conn = op.get_bind()
    places = sa.table("places", *map(sa.column, ("comparison_id", "n", "position", "judgment_id")))
    is_open = sa.and_(places.c.judgment_id.is_(None), places.c.position > 0)  # 0 is that of a hidden repeat
    query = sa.select(places.c.comparison_id, places.c.position).where(is_open).order_by(places.c.comparison_id)
    update = (
        places.update()
        .where(places.c.comparison_id == sa.bindparam("comparison"), is_open)
        .values(position=sa.bindparam("drawn"))
    )
    last = ""
    while rows := conn.execute(query.where(places.c.comparison_id > last).limit(_ROWS)).all():
        drawn = {}
        for comparison_id, position in rows:
            digest = hmac.digest(key, f"queue:{comparison_id}".encode(), hashlib.sha256)
            drawn[comparison_id] = position >> 28 << 28 | int.from_bytes(digest[:8]) % 2**28
        conn.execute(update, [{"comparison": id, "drawn": position} for id, position in drawn.items()])
        last = rows[-1].comparison_id
