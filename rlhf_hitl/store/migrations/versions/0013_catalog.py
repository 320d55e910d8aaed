"""The catalog: an index of all comparisons by words and facets, and the changes that it has not seen yet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

IN_SAMPLE = sa.text("number % 100 = 0")
FTS5 = "CREATE VIRTUAL TABLE catalog_words USING fts5(words, tokenize = 'ascii', detail = 'none', columnsize = 0)"


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    number = sa.Integer() if is_sqlite else sa.BigInteger()
    op.create_table(
        "catalog_changes",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("comparison_id", sa.String(40), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "catalog_terms",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("facet", sa.String(20), nullable=False),
        sa.Column("value", sa.String(300), nullable=False),
    )
    op.create_index("catalog_terms_once", "catalog_terms", ["value", "facet"], unique=True)
    op.create_table(
        "catalog",
        sa.Column("number", number, primary_key=True, autoincrement=False),
        sa.Column("comparison_id", sa.String(40), nullable=False),
        sa.Column("terms", sa.Text() if is_sqlite else sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("entropy", sa.Float()),
    )
    op.create_index("catalog_once", "catalog", ["comparison_id"], unique=True)
    op.create_index(
        "catalog_sample",
        "catalog",
        ["number"],
        postgresql_include=["terms", "votes", "entropy"],
        postgresql_where=IN_SAMPLE,
        sqlite_where=IN_SAMPLE,
    )
    if is_sqlite:
        _add_search_of_sqlite()
        _note_changes_on_sqlite()
    else:
        op.create_index("catalog_by_terms", "catalog", ["terms"], postgresql_using="gin")
        op.execute("CREATE TABLE catalog_words (number BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)")
        op.execute("CREATE INDEX catalog_by_words ON catalog_words USING gin (words)")
        _note_changes_on_postgres()
    op.execute("INSERT INTO catalog_changes (comparison_id) SELECT id FROM comparisons ORDER BY created_at, id")


def _add_search_of_sqlite() -> None:
    connection = op.get_bind()
    has_fts5 = connection.exec_driver_sql("SELECT sqlite_compileoption_used('ENABLE_FTS5')").scalar_one()
    op.execute(FTS5 if has_fts5 else "CREATE TABLE catalog_words (words TEXT NOT NULL)")


def _note_changes_on_sqlite() -> None:
    # A trigger that writes makes an import a fifth slower. New rows are found by their numbers, which grow in the
    # order of commits, since there is one writer: `catalog_seen` says up to which they were seen.
    op.create_table(
        "catalog_seen",
        sa.Column("source", sa.String(40), primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False),
    )
    for name in ("comparisons", "judgments", "routings"):
        op.execute(f"INSERT INTO catalog_seen SELECT '{name}', coalesce(max(rowid), 0) FROM {name}")
    for name, event, table, row in (
        ("gold", "UPDATE OF is_gold", "comparisons", "NEW.id"),
        ("label", "INSERT", "labels", "NEW.comparison_id"),
        ("new_label", "UPDATE", "labels", "NEW.comparison_id"),
        ("no_label", "DELETE", "labels", "OLD.comparison_id"),
    ):
        op.execute(
            f"CREATE TRIGGER catalog_notes_{name} AFTER {event} ON {table} "
            f"BEGIN INSERT INTO catalog_changes (comparison_id) VALUES ({row}); END"
        )


def _note_changes_on_postgres() -> None:
    # Once for each statement, also for a COPY of thousands of rows.
    for function, column in (("comparisons", "id"), ("others", "DISTINCT comparison_id")):
        op.execute(
            f"CREATE FUNCTION catalog_notes_{function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"INSERT INTO catalog_changes (comparison_id) SELECT {column} FROM changed; RETURN NULL; END $$"
        )
    for name, event, table, function in (
        ("comparison", "INSERT", "comparisons", "comparisons"),
        ("judgment", "INSERT", "judgments", "others"),
        ("routing", "INSERT", "routings", "others"),
        ("label", "INSERT", "labels", "others"),
        ("new_label", "UPDATE", "labels", "others"),
        ("no_label", "DELETE", "labels", "others"),
    ):
        which = "OLD" if event == "DELETE" else "NEW"
        op.execute(
            f"CREATE TRIGGER catalog_notes_{name} AFTER {event} ON {table} REFERENCING {which} TABLE AS changed "
            f"FOR EACH STATEMENT EXECUTE FUNCTION catalog_notes_{function}()"
        )
    op.execute(
        "CREATE FUNCTION catalog_notes_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO catalog_changes (comparison_id) VALUES (NEW.id); RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER catalog_notes_route AFTER UPDATE OF route, is_gold ON comparisons FOR EACH ROW "
        "WHEN (OLD.route IS DISTINCT FROM NEW.route OR OLD.is_gold IS DISTINCT FROM NEW.is_gold) "
        "EXECUTE FUNCTION catalog_notes_row()"
    )
