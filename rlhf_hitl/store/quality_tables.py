"""The tables that measure raters and labels: gold, qualification, findings, fits, judges, slices and assignments.

`tables.py` has the work itself.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text

from rlhf_hitl.store.tables import Utc, metadata

# Comparisons with a known right answer, which measure raters. They are in no label and no dataset.
golds = Table(
    "golds",
    metadata,
    Column("comparison_id", ForeignKey("comparisons.id"), primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False, index=True),
    Column("verdict", String(20), nullable=False),
    Column("ranking", JSON, nullable=False),  # of completion ids
    Column("strength", Integer),
    Column("explanation", Text, nullable=False),
    Column("purpose", String(20), nullable=False),  # hidden: among the others; qualification: before any other
    Column("created_at", Utc, nullable=False),
    Column("ended_at", Utc),  # null: in use
)

# Each attempt of a rater to qualify for a project.
qualifications = Table(
    "qualifications",
    metadata,
    Column("rater_id", ForeignKey("raters.id"), primary_key=True),
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("answered", Integer, nullable=False),
    Column("right", Integer, nullable=False),
    Column("passed", Boolean),  # null: it goes on
    Column("decided_by", String(80), nullable=False),  # a lead who granted or withdrew it; empty: the answers
    Column("began_at", Utc, nullable=False),
    Column("decided_at", Utc),
    Column("expires_at", Utc),
)

# Comparisons that are reserved for a named rater.
assignments = Table(
    "assignments",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("comparison_id", ForeignKey("comparisons.id"), nullable=False, index=True),
    Column("rater_id", ForeignKey("raters.id"), nullable=False, index=True),
    Column("place", Integer, nullable=False),  # the number of the place that is reserved
    Column("opened", Boolean, nullable=False),  # the place was opened for it: all that were wanted were taken
    Column("slice", String(200), nullable=False),  # by which it was assigned; empty: by itself
    Column("assigned_by", String(80), nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("ended_at", Utc),
)

# Saved filters over comparisons.
slices = Table(
    "slices",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("filter", JSON, nullable=False),
    Column("description", Text, nullable=False),
    Column("created_by", String(80), nullable=False),
    Column("created_at", Utc, nullable=False),
)

# What a check says against a rater, and what was done. Only the overruling is ever added to a row.
findings = Table(
    "findings",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("rater_id", ForeignKey("raters.id"), nullable=False, index=True),
    Column("project_id", ForeignKey("projects.id")),
    Column("check_name", String(40), nullable=False),
    Column("statistic", Float, nullable=False),
    Column("p_value", Float),
    Column("false_alarm_rate", Float, nullable=False),  # of the check, for a rater who works as asked
    Column("evidence", JSON, nullable=False),
    Column("action", String(20), nullable=False),  # none, down_weighted, paused
    Column("created_at", Utc, nullable=False),
    Column("overruled_by", String(80)),
    Column("overruled_at", Utc),
    Column("overruled_because", Text),
    sqlite_autoincrement=True,
)

# What votes say of raters and comparisons, as it was last computed: for pages and the queue. Training and exports
# compute labels themselves. The three tables are not in archives.
label_fits = Table(
    "label_fits",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("label_model", String(40), nullable=False),
    Column("reward_model_id", String(40)),  # the witness of the consensus; null: none
    Column("revision", Integer, nullable=False),  # the `seq` of the newest judgment that was read
    Column("parameters", JSON, nullable=False),
    Column("figures", JSON, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("created_at", Utc, nullable=False),
)

rater_estimates = Table(
    "rater_estimates",
    metadata,
    Column("fit_id", ForeignKey("label_fits.id"), primary_key=True),
    Column("rater_id", ForeignKey("raters.id"), primary_key=True),
    Column("votes", Integer, nullable=False),
    *(
        Column(f"{name}{end}", Float, nullable=False)
        for name in ("reliability", "position_bias", "tie_width", "strength_scale")
        for end in ("", "_low", "_high")
    ),
    Column("random", Float, nullable=False),  # the probability that they answer without looking
    Column("looking_reliability", Float, nullable=False),  # if they look, and its standard deviation
    Column("reliability_spread", Float, nullable=False),
)

labels = Table(
    "labels",
    metadata,
    Column("comparison_id", ForeignKey("comparisons.id"), primary_key=True),
    Column("first", String(40), primary_key=True),
    Column("second", String(40), primary_key=True),
    *(Column(f"{of}_{outcome}", Float, nullable=False) for of in "pc" for outcome in ("first", "tie", "second")),
    Column("entropy", Float, nullable=False),  # of p, in nats
    Column("votes", Integer, nullable=False),
    Column("weight", Float, nullable=False),
    Column("state", String(20), nullable=False),  # open, sure, agreed, split, adjudicated
    Column("fit_id", String(40)),
    Column("updated_at", Utc, nullable=False),
)

# What a reward model that saw nothing of a comparison's prompt says of a pair: (first better, tie, second better).
out_of_fold = Table(
    "out_of_fold",
    metadata,
    Column("comparison_id", ForeignKey("comparisons.id"), primary_key=True),
    Column("reward_model_id", ForeignKey("reward_models.id"), primary_key=True),
    Column("first", String(40), primary_key=True),
    Column("second", String(40), primary_key=True),
    Column("p_first", Float, nullable=False),
    Column("p_tie", Float, nullable=False),
    Column("p_second", Float, nullable=False),
)

# Raters that are models, and every call of one. Keys are in neither.
judges = Table(
    "judges",
    metadata,
    Column("rater_id", ForeignKey("raters.id"), primary_key=True),
    Column("kind", String(20), nullable=False),  # endpoint, local
    Column("model", String(500), nullable=False),
    Column("address", Text, nullable=False),  # of an endpoint, without what signs in; empty: local
    Column("template", String(200), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("budget", Float),  # the most it may cost, in the settings' currency; null: no limit
    Column("created_at", Utc, nullable=False),
)

judge_calls = Table(
    "judge_calls",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("judge_id", ForeignKey("judges.rater_id"), nullable=False),
    Column("comparison_id", ForeignKey("comparisons.id"), nullable=False),
    Column("judgment_id", String(40)),  # null: no judgment came of it
    Column("template_version", String(80), nullable=False),
    Column("order_shown", JSON, nullable=False),
    Column("outcome", String(20), nullable=False),  # answered, refused, unreadable, failed, timed_out
    Column("probabilities", JSON(none_as_null=True)),  # of (first shown better, tie, second shown better)
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cost", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("error", Text, nullable=False),
    Column("created_at", Utc, nullable=False),
    Index("judge_calls_by_judge", "judge_id", "seq"),
    sqlite_autoincrement=True,
)
