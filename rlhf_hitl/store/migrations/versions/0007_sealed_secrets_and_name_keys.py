"""Secrets of webhooks are sealed, and people's names are compared as they look: `raters.name_key`, `name_skeleton`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

from rlhf_hitl.store.secret_erasure import ERASURE_WAITS
from rlhf_hitl.types.names import MAX_KEY_LENGTH, hash_name_skeleton, make_name_key

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    _seal_secrets()
    _add_name_keys()


def _seal_secrets() -> None:
    conn = op.get_bind()
    if conn.dialect.name != "sqlite":  # which checks no length and cannot change a column's type
        op.alter_column("webhooks", "secret", type_=sa.Text())
    rows = conn.execute(sa.text("SELECT id, secret FROM webhooks ORDER BY id")).all()
    for id, secret in rows:
        sealed = context.config.attributes["seal"](secret)
        conn.execute(sa.text("UPDATE webhooks SET secret = :sealed WHERE id = :id"), {"sealed": sealed, "id": id})
    if rows:
        context.config.attributes["secrets_replaced"] = True
        if conn.dialect.name == "sqlite":
            op.execute(f"PRAGMA user_version = {ERASURE_WAITS}")


def _add_name_keys() -> None:
    """Give every rater the key of their name. Where two names have one key, the account made first has it.

    The others get a key that no name has, so both sign in as before, with the exact spelling.
    """
    op.execute("ALTER TABLE raters ADD COLUMN name_key VARCHAR(200)")
    op.execute("ALTER TABLE raters ADD COLUMN name_skeleton VARCHAR(40)")
    conn = op.get_bind()
    taken: set[str] = set()
    changes = []
    for id, name, source in conn.execute(sa.text("SELECT id, name, source FROM raters ORDER BY created_at, id")):
        key = name if source else make_name_key(name)
        if key in taken or len(key) > MAX_KEY_LENGTH:
            key = f"id:{id}"
        taken.add(key)
        changes.append({"id": id, "key": key, "skeleton": "" if source else hash_name_skeleton(name)})
    if changes:
        change = "UPDATE raters SET name_key = :key, name_skeleton = :skeleton WHERE id = :id"
        conn.execute(sa.text(change), changes)
    op.create_index("raters_by_key", "raters", ["name_key"], unique=True)
    op.create_index("raters_by_skeleton", "raters", ["name_skeleton"])
