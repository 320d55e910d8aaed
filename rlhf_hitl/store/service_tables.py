"""The tables beside the work itself: access, the audit log, webhooks, policies, promotions, automation and alerts,
imports that wait, and the store's own keys.

`tables.py` has the others.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    text,
)

from rlhf_hitl.store.tables import Utc, metadata

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", String(80), nullable=False),
)

readiness = Table(
    "readiness",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("checked_at", Utc, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),  # sha256 of a secret of 256 random bits
    Column("rater_id", ForeignKey("raters.id"), index=True),  # whose it is; of an invitation: who accepted it
    Column("name", String(200), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("role", String(20)),  # of an invitation: the role it gives
    Column("project_id", ForeignKey("projects.id")),  # of an invitation: the project it gives access to
    Column("created_by", String(80), nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("expires_at", Utc),
    Column("ended_at", Utc),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at", Utc, nullable=False),
    Column("actor", String(80), nullable=False),
    Column("action", String(40), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("address", String(80), nullable=False),
    Column("details", JSON, nullable=False),
    Index("audit_by_action", "action", "at"),
    sqlite_autoincrement=True,
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("url", Text, nullable=False),
    # Signs the deliveries, so it is stored itself and not as a digest, but sealed (`sealing.py`). No length is checked.
    # Sealed, and longer than what SQLite was told, which checks no length and cannot change a column.
    Column("secret", String(80).with_variant(Text, "postgresql"), nullable=False),
    Column("events", JSON, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("ended_at", Utc),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("webhook_id", ForeignKey("webhooks.id"), nullable=False, index=True),
    Column("event", String(40), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_try_at", Utc),  # null: delivered or given up
    Column("delivered_at", Utc),
    Column("last_error", Text, nullable=False),
    Index("deliveries_due", "next_try_at", sqlite_where=text("next_try_at IS NOT NULL"),
          postgresql_where=text("next_try_at IS NOT NULL")),
    sqlite_autoincrement=True,
)  # fmt: skip

# How policies came about, those that were tuned here above all. The newest row of a name counts. Completions name their
# policy, and those of others, such as imported ones, need no row.
policies = Table(
    "policies",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("name", String(500), nullable=False),  # as its completions carry it
    Column("path", Text, nullable=False),  # a folder, a hub id, or an address; it may be gone
    Column("parent", String(500)),  # the name of the policy it was made of; null: of none
    Column("method", String(20), nullable=False),  # base, dpo, ppo, rloo, grpo, import, endpoint
    Column("reward_model_id", String(40)),  # what it was tuned on; null: nothing
    Column("round", Integer),  # of the loop; null: outside one
    Column("settings_digest", String(64), nullable=False),  # sha256 of the settings as JSON; empty: not known
    Column("created_at", Utc, nullable=False),
    Index("policies_by_name", "name", "seq"),
    sqlite_autoincrement=True,
)

# The accepted comparisons that raters judge all the same: one row for each decision that drew one. `audit` above is the
# log.
audits = Table(
    "audits",
    metadata,
    Column("seq", ForeignKey("routings.seq"), primary_key=True, autoincrement=False),  # the acceptance it audits
    Column("comparison_id", ForeignKey("comparisons.id"), nullable=False),
    Column("max_error", Float, nullable=False),  # the bound under which it was accepted
    Column("delta", Float, nullable=False),
    Column("number", Integer),  # counts what raters have decided, in that order; null: they have not
    Column("outcome", String(20)),  # right, wrong, tie: written once, whatever labels say later
    Column("decided_at", Utc),
    Index("audits_by_comparison", "comparison_id"),
    Index("audits_in_order", "number", unique=True),
)

# Whether models may accept comparisons of a project: the newest row says; without one they may. Append-only, by
# triggers.
automation = Table(
    "automation",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("state", String(20), nullable=False),  # running, paused, stopped
    Column("reason", Text, nullable=False),
    Column("by", String(80), nullable=False),
    Column("after_decision", Integer, nullable=False),  # the newest of `routings` when it was written: no clock
    Column("at", Utc, nullable=False),
    Index("automation_by_project", "project_id", "seq"),
    sqlite_autoincrement=True,
)

# A rule that became true, once until it is true no more.
alerts = Table(
    "alerts",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("rule", String(80), nullable=False),
    Column("subject", String(200), nullable=False),  # what it is about, such as a project or a rater; empty: all
    Column("message", Text, nullable=False),
    Column("figures", JSON, nullable=False),
    Column("raised_at", Utc, nullable=False),
    Column("cleared_at", Utc),  # null: it stands
    Column("seen_by", String(80)),
    Column("seen_at", Utc),
    Column("silenced_by", String(80)),
    Column("silenced_until", Utc),  # until then the rule tells nobody of this subject, though it be raised again
    Column("emailed_at", Utc),
    Index("alerts_standing_once", "rule", "subject", unique=True, sqlite_where=text("cleared_at IS NULL"),
          postgresql_where=text("cleared_at IS NULL")),
    sqlite_autoincrement=True,
)  # fmt: skip

# What the head has learnt since its training from judgments as they came: one row, written by the one process that
# learns. It is no history: whoever takes over begins with the registered model again.
live_learning = Table(
    "live_learning",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("worker", String(40), nullable=False),  # who learns. Somebody else may, once the heartbeat is old
    Column("heartbeat_at", Utc, nullable=False),
    Column("reward_model_id", String(40), nullable=False),  # the model that was trained; empty: there is none yet
    Column("revision", Integer, nullable=False),  # the newest judgment that the order of the queue knows
    Column("state", JSON, nullable=False),
)

# Raters compare a new policy with an old one, blind, until a sequential test is decided (`policy/promotion.py`).
promotions = Table(
    "promotions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("new_policy", String(500), nullable=False),  # as completions name it
    Column("old_policy", String(500), nullable=False),
    Column("reward_model_id", ForeignKey("reward_models.id")),  # whose word helps; null: nobody's
    Column("round", Integer),  # of the loop; null: outside it
    Column("settings", JSON, nullable=False),
    Column("simulated", Boolean, nullable=False),  # true: simulated raters decide, and nobody else's votes are missing
    Column("opened_at", Utc, nullable=False),
    Column("decided_at", Utc),  # null: it is open
    Column("decision", String(20), nullable=False),  # promote, reject, undecided
    Column("reason", Text, nullable=False),
    # What the outcomes so far say, as of the last look; of a decided one, as of its last outcome.
    Column("outcomes", Integer, nullable=False),
    Column("judgments", Integer, nullable=False),
    Column("win_rate", Float),  # null: there is no outcome
    Column("low", Float, nullable=False),
    Column("high", Float, nullable=False),
    Column("evidence_for", Float, nullable=False),
    Column("evidence_against", Float, nullable=False),
    Column("counts", JSON, nullable=False),
    Column("length_controlled", JSON(none_as_null=True)),
    Column("tags", JSON, nullable=False),
    sqlite_autoincrement=True,
)

# The prompts of a promotion in the order in which they are drawn, with what both policies answered.
promotion_draws = Table(
    "promotion_draws",
    metadata,
    Column("promotion_id", ForeignKey("promotions.id"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False),
    Column("new_completion", ForeignKey("completions.id"), nullable=False),
    Column("old_completion", ForeignKey("completions.id"), nullable=False),
    Column("comparison_id", ForeignKey("comparisons.id")),  # null: nobody is asked
    Column("prediction", Float),  # the reward model's, of the new one's win rate, before the first vote
    Index("promotion_draws_by_comparison", "comparison_id"),
)

imports = Table(
    "imports",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", Text, nullable=False),  # the file's, for people
    Column("format", String(40), nullable=False),
    Column("source", String(200), nullable=False),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("applied", Integer, nullable=False),  # how many of its records are in the tables
    Column("counts", JSON, nullable=False),  # what the report counts, so far
    # Who reads or applies it. Somebody else may, once the heartbeat is old.
    Column("worker", String(40), nullable=False),
    Column("heartbeat_at", Utc, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("committed_at", Utc),  # null: still being read, and nothing of it counts
    Column("finished_at", Utc),
)

import_batches = Table(
    "import_batches",
    metadata,
    Column("import_id", ForeignKey("imports.id"), primary_key=True),
    Column("first", Integer, primary_key=True),  # how many records of the import come before it
    Column("size", Integer, nullable=False),
    Column("payload", LargeBinary),  # null: applied
    Column("splits_kept", JSON, nullable=False),  # families that stayed in another split than the file asked for
)
