"""The tables of the catalog: an index of what the other tables say of each comparison, made after the fact.

A trigger on the tables that matter writes each change of a comparison to `catalog_changes`; `catalog_index.py` makes
the comparison's row of `catalog` anew and deletes the changes it has seen. So an import or a submit pays for one short
row, and nobody waits for texts to be indexed. On SQLite new rows of the large tables are found by their numbers instead
(`catalog_seen`): a trigger there would make an import a fifth slower. None of these tables is in archives.

There is one more table, `catalog_words`, of a kind that each database has of its own, so it is not described here. On
PostgreSQL it has `number` and `words`, a tsvector: rows of `catalog`, read by the ten thousand, stay small. On
SQLite it is of the full-text index FTS5, or a plain one where SQLite was built without it; its `rowid` is the number.
Its `words` are words and terms, so that one index finds what has both.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table, text
from sqlalchemy.dialects.postgresql import ARRAY

from rlhf_hitl.store.tables import metadata

_BIG = BigInteger().with_variant(Integer, "sqlite")

catalog_changes = Table(
    "catalog_changes",
    metadata,
    Column("seq", _BIG, primary_key=True, autoincrement=True),
    Column("comparison_id", String(40), nullable=False),
    sqlite_autoincrement=True,
)

# Every value that any comparison has of a facet (`types/catalog.py: FACETS`), by a number.
catalog_terms = Table(
    "catalog_terms",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("facet", String(20), nullable=False),
    Column("value", String(300), nullable=False),
    Index("catalog_terms_once", "value", "facet", unique=True),
)


#: One row in so many is in the sample by which large counts are estimated.
SAMPLE_EVERY = 100
IN_SAMPLE = f"number % {SAMPLE_EVERY} = 0"

catalog = Table(
    "catalog",
    metadata,
    Column("number", _BIG, primary_key=True, autoincrement=False),  # the newest comparison has the highest
    Column("comparison_id", String(40), nullable=False),
    # The ids of its terms. On SQLite a text of them with spaces between and around.
    Column("terms", ARRAY(Integer).with_variant(sa.Text(), "sqlite"), nullable=False),
    Column("votes", Integer, nullable=False),  # of raters, that rank it
    Column("entropy", Float),  # of its label, in nats; of several pairs the largest; null: no label
    Index("catalog_once", "comparison_id", unique=True),
    Index("catalog_sample", "number", postgresql_include=["terms", "votes", "entropy"],
          postgresql_where=text(IN_SAMPLE), sqlite_where=text(IN_SAMPLE)),
    Index("catalog_by_terms", "terms", postgresql_using="gin").ddl_if(dialect="postgresql"),
)  # fmt: skip
