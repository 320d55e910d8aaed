"""The tables and the meaning of their columns. `migrations/` creates them."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
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
    false,
    text,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData()


class Utc(TypeDecorator[datetime]):
    """A time: aware UTC in Python, naive UTC in the database, on both databases alike."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value, dialect):
        return None if value is None else value.replace(tzinfo=UTC)


projects = Table(
    "projects",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("open", Boolean, nullable=False),  # true: open to every rater; false: to its members only
    Column(
        "repeat_every", Integer, nullable=False
    ),  # one in so many comparisons a rater gets is a hidden repeat; 0: none
    Column("paused_at", Utc),
    Column("created_at", Utc, nullable=False),
    Column("rater_filters", JSON),  # by what raters may choose their tasks: `batch`, names of tags. Never null
    Column("overlap_rule", JSON(none_as_null=True)),  # when another vote is worth its price; null: overlap is fixed
    Column("gold_every", Integer, nullable=False, server_default="0"),  # one in so many comparisons is gold; 0: none
    Column("gold_feedback", Boolean, nullable=False, server_default=false()),  # the right answer is shown afterwards
    Column("qualification", JSON(none_as_null=True)),  # what a rater must pass first; null: nothing
    Column("judge_overlap", Integer, nullable=False, server_default="0"),  # judgments wanted of models
)

# Keys that nobody outside needs: `draws` is the one of `Store.draw`.
# One row, which is written to show that the store can be written to.
# A lane is a partition of the queue. The filters for a rater treat all comparisons of a lane alike, so the next one is
# the first in the lane and is found without reading the others.
lanes = Table(
    "lanes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column(
        "language", String(40), nullable=False
    ),  # the prompt's tag `language`; empty: not known, given to every rater
    Column("batch", String(200), nullable=False),
    UniqueConstraint("project_id", "language", "batch", name="lanes_once"),
    sqlite_autoincrement=True,
)

raters = Table(
    "raters",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("role", String(20), nullable=False),
    Column("password_hash", Text),  # null: cannot sign in (imported and simulated raters)
    Column("simulated", Boolean, nullable=False),
    Column("source", String(200), nullable=False),
    Column("disabled_at", Utc),
    Column("created_at", Utc, nullable=False),
    Column("languages", JSON(none_as_null=True)),  # the languages they read; null: any
    Column("quota", Integer),  # judgments a day (UTC); null: no limit
    Column("paused_at", Utc),
    # Whose names are the same, and whose look alike (`types/names.py`). An imported rater's key is the name as it is,
    # for they never sign in. Neither is ever null, but not declared so, as `lane_id`.
    Column("name_key", String(200)),
    Column("name_skeleton", String(40)),  # a hash; empty for imported raters
    Column("attributes", JSON(none_as_null=True)),  # groups they agreed to be counted in: name → value; null: none
    Column("vote_weight", Float),  # how much their votes count in labels, 0 to 1; null: 1
    Column("paused_reason", Text),  # for leads; null: none was given
    Index("raters_by_key", "name_key", unique=True),
    Index("raters_by_skeleton", "name_skeleton"),
)

members = Table(
    "members",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("rater_id", ForeignKey("raters.id"), primary_key=True),
)

prompts = Table(
    "prompts",
    metadata,
    Column("id", String(40), primary_key=True),  # hash of the messages
    Column("family", String(40), nullable=False, index=True),  # hash of the opening turn, which decides the split
    Column("split", String(20), nullable=False),
    Column("messages", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("source", String(200), nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("tools", JSON(none_as_null=True)),  # what the answer may call: JSON schemas; null: nothing
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

# The images that messages name. `store/images.py` keeps the files.
images = Table(
    "images",
    metadata,
    Column("id", String(80), primary_key=True),  # hash of the pixels
    Column("bytes", Integer, nullable=False),
    Column("created_at", Utc, nullable=False),
)

# What people or other models said of one completion by itself, as other tools' files have it. Append-only, by triggers.
# No label is made of them.
ratings = Table(
    "ratings",
    metadata,
    Column("id", String(40), primary_key=True),  # hash of what is said, and of who says it
    Column("completion_id", ForeignKey("completions.id"), nullable=False),
    Column("rater_id", ForeignKey("raters.id"), nullable=False),
    Column("axis", String(80), nullable=False),
    Column("value", Float, nullable=False),
    Column("lowest", Float),  # the ends of the scale; null: not known
    Column("highest", Float),
    Column("rationale", Text, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("source", String(200), nullable=False),
    Column("created_at", Utc, nullable=False),
    Index("ratings_by_completion", "completion_id"),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", String(40), primary_key=True),  # hash of its completions' ids
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("completion_ids", JSON, nullable=False),  # in canonical order
    Column("overlap", Integer, nullable=False),
    Column("route", String(20), nullable=False, index=True),  # the newest of `routings`
    Column("source", String(200), nullable=False, index=True),
    Column("created_at", Utc, nullable=False),
    # Never null, but not declared so: SQLite cannot add a NOT NULL column to a table that has rows.
    Column("lane_id", ForeignKey("lanes.id"), index=True),
    Column("repeat_of", String(40)),  # the comparison this one shows the same rater again
    Column("accepted_seq", Integer),  # the one of `routings` by which it is accepted without raters; null: it is not
    Column("is_gold", Boolean),  # its right answer is known (`golds`); null: no
    Index("comparisons_accepted", "accepted_seq", "lane_id", sqlite_where=text("accepted_seq IS NOT NULL"),
          postgresql_where=text("accepted_seq IS NOT NULL")),
)  # fmt: skip

# One row for each judgment that a comparison wants, of raters, of judges (models) or of leads. This makes overlap
# exact: a place is filled at most once, and there are never more places
# than wanted judgments. A place without a judgment is open; it is free when no lease on it runs.
places = Table(
    "places",
    metadata,
    Column("comparison_id", ForeignKey("comparisons.id"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("lane_id", ForeignKey("lanes.id"), nullable=False),  # the lane of its comparison
    Column("position", BigInteger, nullable=False),  # in the lane; lower comes first (`compute_queue_position`)
    Column("reserved_for", ForeignKey("raters.id")),  # for one rater only: a hidden repeat, a gold, an assignment
    Column("rater_id", ForeignKey("raters.id")),
    Column("lease_id", String(40)),
    Column("leased_until", Utc),
    Column("judgment_id", String(40)),
    Column("role", String(20), nullable=False, server_default=""),  # empty: raters; judge; lead: an adjudication
    Index("places_open", "lane_id", "role", "position", "n", sqlite_where=text("judgment_id IS NULL"),
          postgresql_where=text("judgment_id IS NULL")),
    Index("places_held", "rater_id", sqlite_where=text("judgment_id IS NULL"),
          postgresql_where=text("judgment_id IS NULL")),
    Index("places_of_leads", "comparison_id", sqlite_where=text("role = 'lead'"),
          postgresql_where=text("role = 'lead'")),
    Index("places_reserved", "reserved_for", sqlite_where=text("judgment_id IS NULL AND reserved_for IS NOT NULL"),
          postgresql_where=text("judgment_id IS NULL AND reserved_for IS NOT NULL")),
)  # fmt: skip

# Every lease ever given, with what the rater was shown. A judgment refers to its lease, so the store never depends on
# what a client says about the order shown, the route or the model.
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
    # The version in force when the lease was given, so that a submit need not look it up. Never null, as `lane_id`.
    Column("guideline_version", String(80)),
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
    Column("reason", String(20)),  # why it was flagged or skipped
    Column("role", String(20)),  # judge: of a model; lead: it decides the comparison; null: of a rater
    # A judge's, of (first shown better, tie, second shown better).
    Column("probabilities", JSON(none_as_null=True)),
    UniqueConstraint("rater_id", "idempotency_key", name="judgments_idempotency"),
    UniqueConstraint("supersedes", name="judgments_supersedes_once"),
    # A rater never judges a comparison twice; a judgment that supersedes one is a correction, not a second vote.
    Index("judgments_once", "comparison_id", "rater_id", unique=True, sqlite_where=text("supersedes IS NULL"),
          postgresql_where=text("supersedes IS NULL")),
    Index("judgments_by_rater", "rater_id", "seq"),
    Index("judgments_by_comparison", "comparison_id", "rater_id"),  # the index judgments_once leaves corrections out
    CheckConstraint("strength IS NULL OR strength BETWEEN 1 AND 3", name="judgments_strength"),
    sqlite_autoincrement=True,
)  # fmt: skip

# The instructions for raters. Append-only, by triggers: a judgment names the version it was made under. A project that
# has no guideline uses the one that comes with the package.
guidelines = Table(
    "guidelines",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),  # the highest of a project is the version in force
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("version", String(80), nullable=False),
    Column("text", Text, nullable=False),
    Column("axes", JSON, nullable=False),
    Column("scores", String(20), nullable=False),
    Column("rationale", String(20), nullable=False),
    Column("reasoning", String(20), nullable=False, server_default="shown"),
    Column("created_at", Utc, nullable=False),
    UniqueConstraint("project_id", "version", name="guidelines_once"),
    sqlite_autoincrement=True,
)

# Which rater has read which version.
acknowledgements = Table(
    "acknowledgements",
    metadata,
    Column("rater_id", ForeignKey("raters.id"), primary_key=True),
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("version", String(80), primary_key=True),
    Column("at", Utc, nullable=False),
)

# The tutorial: comparisons with the right answer. They have tables of their own because they are no rater's judgments
# and are in no dataset. `ranking` ranks positions in `completions`.
examples = Table(
    "examples",
    metadata,
    Column("id", String(40), primary_key=True),  # hash of everything in it
    Column("project_id", ForeignKey("projects.id"), nullable=False, index=True),
    Column("position", Integer, nullable=False),  # in the tutorial
    Column("messages", JSON, nullable=False),
    Column("completions", JSON, nullable=False),
    Column("verdict", String(20), nullable=False),
    Column("ranking", JSON, nullable=False),
    Column("strength", Integer),
    Column("explanation", Text, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("ended_at", Utc),  # null: in the current tutorial
)

# A rater's first answer to an example.
example_answers = Table(
    "example_answers",
    metadata,
    Column("example_id", ForeignKey("examples.id"), primary_key=True),
    Column("rater_id", ForeignKey("raters.id"), primary_key=True),
    Column("verdict", String(20), nullable=False),
    Column("ranking", JSON, nullable=False),
    Column("strength", Integer),
    Column("agreed", Boolean, nullable=False),
    Column("at", Utc, nullable=False),
)

reward_models = Table(
    "reward_models",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("backend", String(20), nullable=False),
    Column("path", Text, nullable=False),
    Column("backbone", Text, nullable=False),
    Column("data_hash", String(80), nullable=False),
    Column("simulated", Boolean, nullable=False),  # true: a training label has a simulated judgment
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

# One row for each finished step of each round of the loop; a stopped loop continues after them.
steps = Table(
    "steps",
    metadata,
    Column("round", Integer, primary_key=True),
    Column("step", String(40), primary_key=True),
    Column("result", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("finished_at", Utc, nullable=False),
)

# What each command that works with a model, and each step of the loop, took of a machine. A row is written while its
# run goes on, so that one that is killed counts as well.
runs = Table(
    "runs",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("command", String(80), nullable=False),
    Column("round", Integer),  # of the loop; null: outside it
    Column("step", String(40)),
    Column("device", String(200), nullable=False),  # empty: not known, because the run goes on or was killed
    Column("began_at", Utc, nullable=False),
    Column("seconds", Float, nullable=False),  # so far
    Column("outcome", String(20)),  # null: it goes on, or was killed
    sqlite_autoincrement=True,
)

# How raters and labels are measured is in `quality_tables.py`.
# Sessions, API tokens and invitations: secrets that their holder shows again. Only a digest is kept.
# Who did what. Append-only, like judgments, which are their own record and are not repeated here.
# The outbox of webhooks. A delivery is written in the transaction of the event it reports and sent afterwards: nothing
# is sent that did not happen, and no event is lost.
# An import that is checked and waits, or has waited, to be put into the tables above. `store/imports` says how. The two
# tables are not in archives: an archive is written when no import waits.
