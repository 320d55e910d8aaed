"""The tables. What they mean is said here; how they came to be is in `migrations/`."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData()


class Utc(TypeDecorator[datetime]):
    """Aware UTC in Python, naive UTC in the database, on both databases alike."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value, dialect):
        return None if value is None else value.replace(tzinfo=UTC)


raters = Table(
    "raters",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("role", String(20), nullable=False),
    Column("password_hash", Text),  # null: may not sign in (imported and simulated raters)
    Column("simulated", Boolean, nullable=False),
    Column("source", String(200), nullable=False),
    Column("disabled_at", Utc),
    Column("created_at", Utc, nullable=False),
)

prompts = Table(
    "prompts",
    metadata,
    Column("id", String(40), primary_key=True),  # hash of the messages
    Column("family", String(40), nullable=False, index=True),  # hash of the opening turn: what the split hangs on
    Column("split", String(20), nullable=False),
    Column("messages", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("source", String(200), nullable=False),
    Column("created_at", Utc, nullable=False),
)

completions = Table(
    "completions",
    metadata,
    Column("id", String(40), primary_key=True),  # hash of prompt, policy and messages
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("messages", JSON, nullable=False),
    Column("policy", String(500), nullable=False),
    Column("sampling", JSON, nullable=False),
    Column("created_at", Utc, nullable=False),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", String(40), primary_key=True),  # hash of its completions' ids
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("completion_ids", JSON, nullable=False),  # canonical order
    Column("overlap", Integer, nullable=False),
    Column("route", String(20), nullable=False, index=True),  # the newest of `routings`
    Column("source", String(200), nullable=False, index=True),
    Column("created_at", Utc, nullable=False),
)

# One row for each judgment a comparison wants. That is what makes overlap exact: a place is filled at most once, and
# there are never more places than are wanted. An open place is one without a judgment; it is free when no lease on it
# is running.
places = Table(
    "places",
    metadata,
    Column("comparison_id", ForeignKey("comparisons.id"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("priority", Integer, nullable=False),  # lower comes first
    Column("shuffle", Integer, nullable=False),  # random order within a priority, the same on every machine
    Column("rater_id", ForeignKey("raters.id")),
    Column("lease_id", String(40)),
    Column("leased_until", Utc),
    Column("judgment_id", String(40)),
    Index("places_open", "priority", "shuffle", "n", sqlite_where=text("judgment_id IS NULL"),
          postgresql_where=text("judgment_id IS NULL")),
    Index("places_held", "rater_id", sqlite_where=text("judgment_id IS NULL"),
          postgresql_where=text("judgment_id IS NULL")),
)  # fmt: skip

# Every hold ever given, with what the rater was shown. A judgment refers to it, so what a client says of the order
# shown, the route or the model is never needed.
leases = Table(
    "leases",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("comparison_id", ForeignKey("comparisons.id"), nullable=False),
    Column("rater_id", ForeignKey("raters.id"), nullable=False),
    Column("place", Integer, nullable=False),
    Column("order_shown", JSON, nullable=False),
    Column("route", String(20), nullable=False),
    Column("reward_model_id", String(40)),
    Column("leased_at", Utc, nullable=False),
    Column("expires_at", Utc, nullable=False),
)

# Append-only: triggers refuse UPDATE and DELETE.
judgments = Table(
    "judgments",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("comparison_id", ForeignKey("comparisons.id"), nullable=False),
    Column("rater_id", ForeignKey("raters.id"), nullable=False),
    Column("lease_id", String(40)),
    Column("verdict", String(20), nullable=False),
    Column("ranking", JSON, nullable=False),
    Column("strength", Integer),
    Column("scores", JSON, nullable=False),
    Column("rationale", Text, nullable=False),
    Column("rewrite", Text, nullable=False),
    Column("active_seconds", Float),
    Column("order_shown", JSON, nullable=False),
    Column("route", String(20), nullable=False),
    Column("reward_model_id", String(40)),
    Column("guideline_version", String(80), nullable=False),
    Column("interface_version", String(80), nullable=False),
    Column("source", String(200), nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("surplus", Boolean, nullable=False),
    Column("supersedes", String(40)),
    Column("idempotency_key", String(200), nullable=False),
    Column("created_at", Utc, nullable=False),
    UniqueConstraint("rater_id", "idempotency_key", name="judgments_idempotency"),
    UniqueConstraint("supersedes", name="judgments_supersedes_once"),
    # One rater never judges one comparison twice; what supersedes is a correction of the first, not a second vote.
    Index("judgments_once", "comparison_id", "rater_id", unique=True, sqlite_where=text("supersedes IS NULL"),
          postgresql_where=text("supersedes IS NULL")),
    Index("judgments_by_rater", "rater_id", "seq"),
    Index("judgments_by_comparison", "comparison_id", "rater_id"),  # judgments_once leaves corrections out
    CheckConstraint("strength IS NULL OR strength BETWEEN 1 AND 3", name="judgments_strength"),
    sqlite_autoincrement=True,
)  # fmt: skip

reward_models = Table(
    "reward_models",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("backend", String(20), nullable=False),
    Column("path", Text, nullable=False),
    Column("backbone", Text, nullable=False),
    Column("data_hash", String(80), nullable=False),
    Column("simulated", Boolean, nullable=False),  # any simulated judgment among its training labels
    Column("figures", JSON, nullable=False),
    Column("created_at", Utc, nullable=False),
)

scores = Table(
    "scores",
    metadata,
    Column("comparison_id", ForeignKey("comparisons.id"), primary_key=True),
    Column("reward_model_id", ForeignKey("reward_models.id"), primary_key=True),
    Column("chosen", String(40), nullable=False),
    Column("rejected", String(40), nullable=False),
    Column("margin", Float, nullable=False),
    Column("uncertainty", Float, nullable=False),
    Column("probability", Float, nullable=False),
    Column("rewards", JSON, nullable=False),
    Column("created_at", Utc, nullable=False),
)

# Every decision about where a comparison goes, append-only; the newest is `comparisons.route`.
routings = Table(
    "routings",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("comparison_id", ForeignKey("comparisons.id"), nullable=False, index=True),
    Column("route", String(20), nullable=False),
    Column("proposed", String(20), nullable=False),  # where it would have gone without the control draw
    Column("round", Integer, nullable=False),
    Column("place_in_line", Integer, nullable=False),  # 0 comes first among those of its route
    Column("reward_model_id", ForeignKey("reward_models.id")),
    Column("reason", Text, nullable=False),
    Column("decided_by", String(40)),  # a lead's id; null: the router
    Column("created_at", Utc, nullable=False),
    sqlite_autoincrement=True,
)

# The loop's memory: one row for each finished step of each round.
steps = Table(
    "steps",
    metadata,
    Column("round", Integer, primary_key=True),
    Column("step", String(40), primary_key=True),
    Column("result", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("finished_at", Utc, nullable=False),
)
