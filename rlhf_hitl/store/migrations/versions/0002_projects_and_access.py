"""Projects and lanes of the queue; who may come in and what they did; what other programs are told."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

OPEN = sa.text("judgment_id IS NULL")
DUE = sa.text("next_try_at IS NOT NULL")


def upgrade() -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    projects = op.create_table(
        "projects",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("repeat_every", sa.Integer(), nullable=False),
        sa.Column("paused_at", sa.DateTime()),
        sa.Column("created_at", sa.DateTime(), nullable=False),
    )
    op.bulk_insert(projects, [{"id": "default", "open": True, "repeat_every": 0, "created_at": now}])
    op.create_table(
        "lanes",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("project_id", sa.String(80), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("language", sa.String(40), nullable=False),
        sa.Column("batch", sa.String(200), nullable=False),
        sa.UniqueConstraint("project_id", "language", "batch", name="lanes_once"),
        sqlite_autoincrement=True,
    )
    for column in (("languages", sa.JSON()), ("quota", sa.Integer()), ("paused_at", sa.DateTime())):
        op.add_column("raters", sa.Column(*column))
    op.create_table(
        "members",
        sa.Column("project_id", sa.String(80), sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("rater_id", sa.String(40), sa.ForeignKey("raters.id"), primary_key=True),
    )
    _lay_lanes()
    _remake_places()
    _add_access()
    _add_webhooks()


def _lay_lanes() -> None:
    """Every comparison into the lane of its prompt's language."""
    op.execute("ALTER TABLE comparisons ADD COLUMN lane_id INTEGER REFERENCES lanes (id)")
    op.execute("ALTER TABLE comparisons ADD COLUMN repeat_of VARCHAR(40)")
    conn = op.get_bind()
    tag = "json_extract(tags, '$.language')" if _sqlite() else "tags ->> 'language'"
    raw = conn.execute(sa.text(f"SELECT DISTINCT {tag} FROM prompts WHERE {tag} IS NOT NULL")).scalars().all()
    # In Python, as `Prompt.language` does it: databases differ in what a small letter is. A tag of two hundred letters
    # is no language: such prompts stay in the lane of those whose language is unknown.
    found = {tag: tag.strip().lower() if len(tag.strip().lower()) <= 40 else "" for tag in raw}
    lanes = sa.table("lanes", sa.column("id"), sa.column("project_id"), sa.column("language"), sa.column("batch"))
    rows = [{"project_id": "default", "language": n, "batch": ""} for n in sorted({"", *found.values()})]
    op.bulk_insert(lanes, rows)
    lane_of = {language: id for id, language in conn.execute(sa.select(lanes.c.id, lanes.c.language))}
    conn.execute(sa.text("UPDATE comparisons SET lane_id = :lane"), {"lane": lane_of[""]})
    for tagged, language in found.items():
        theirs = sa.text(
            f"UPDATE comparisons SET lane_id = :lane WHERE prompt_id IN (SELECT id FROM prompts WHERE {tag} = :tagged)"
        )
        conn.execute(theirs, {"lane": lane_of[language], "tagged": tagged})
    op.create_index("ix_comparisons_lane_id", "comparisons", ["lane_id"])


def _remake_places() -> None:
    """One number for a place's position in line instead of two, as `catalog.position` makes it."""
    op.create_table(
        "places_remade",
        sa.Column("comparison_id", sa.String(40), sa.ForeignKey("comparisons.id"), primary_key=True),
        sa.Column("n", sa.Integer(), primary_key=True),
        sa.Column("lane_id", sa.Integer(), sa.ForeignKey("lanes.id"), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("reserved_for", sa.String(40), sa.ForeignKey("raters.id")),
        sa.Column("rater_id", sa.String(40), sa.ForeignKey("raters.id")),
        sa.Column("lease_id", sa.String(40)),
        sa.Column("leased_until", sa.DateTime()),
        sa.Column("judgment_id", sa.String(40)),
    )
    newest = "(SELECT round FROM routings WHERE comparison_id = places.comparison_id ORDER BY seq DESC LIMIT 1)"
    rank, line = "CAST(priority / 1000000 AS BIGINT)", "priority % 1000000"
    op.execute(
        "INSERT INTO places_remade SELECT places.comparison_id, n, lane_id, "
        f"(({rank} * 4096 + 4095 - coalesce({newest}, 0)) * 1048576 + {line}) * 268435456 + shuffle, "
        "NULL, rater_id, lease_id, leased_until, judgment_id "
        "FROM places JOIN comparisons ON comparisons.id = places.comparison_id"
    )
    op.drop_table("places")
    op.rename_table("places_remade", "places")
    for name, columns in {"places_open": ["lane_id", "position", "n"], "places_held": ["rater_id"]}.items():
        op.create_index(name, "places", columns, sqlite_where=OPEN, postgresql_where=OPEN)


def _add_access() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("rater_id", sa.String(40), sa.ForeignKey("raters.id"), index=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("role", sa.String(20)),
        sa.Column("project_id", sa.String(80), sa.ForeignKey("projects.id")),
        sa.Column("created_by", sa.String(80), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime()),
        sa.Column("ended_at", sa.DateTime()),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("address", sa.String(80), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_action", "audit", ["action", "at"])
    if _sqlite():
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()"
    )


def _add_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(80), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime()),
    )
    op.create_table(
        "deliveries",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(40), nullable=False, unique=True),
        sa.Column("webhook_id", sa.String(40), sa.ForeignKey("webhooks.id"), nullable=False, index=True),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sa.DateTime()),
        sa.Column("delivered_at", sa.DateTime()),
        sa.Column("last_error", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("deliveries_due", "deliveries", ["next_try_at"], sqlite_where=DUE, postgresql_where=DUE)


def _sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
