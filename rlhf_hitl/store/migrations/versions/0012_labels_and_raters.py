"""How raters and labels are measured: gold, qualification, findings, fits, judges, slices and assignments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

OPEN = sa.text("judgment_id IS NULL")
LEADS = sa.text("role = 'lead'")
RESERVED = sa.text("judgment_id IS NULL AND reserved_for IS NOT NULL")


def upgrade() -> None:
    for table, column in (
        ("places", "role VARCHAR(20) NOT NULL DEFAULT ''"),
        ("judgments", "role VARCHAR(20)"),
        ("judgments", "probabilities JSON"),
        ("raters", "attributes JSON"),
        ("raters", "vote_weight FLOAT"),
        ("raters", "paused_reason TEXT"),
        ("projects", "overlap_rule JSON"),
        ("projects", "gold_every INTEGER NOT NULL DEFAULT 0"),
        ("projects", f"gold_feedback BOOLEAN NOT NULL DEFAULT {'0' if _is_sqlite() else 'false'}"),
        ("projects", "qualification JSON"),
        ("projects", "judge_overlap INTEGER NOT NULL DEFAULT 0"),
        ("comparisons", "is_gold BOOLEAN"),
    ):
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    op.drop_index("places_open", "places")
    columns = ["lane_id", "role", "position", "n"]
    op.create_index("places_open", "places", columns, sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index("places_of_leads", "places", ["comparison_id"], sqlite_where=LEADS, postgresql_where=LEADS)
    op.create_index("places_reserved", "places", ["reserved_for"], sqlite_where=RESERVED, postgresql_where=RESERVED)
    _add_gold()
    _add_selections()
    _add_findings()
    _add_fits()
    _add_judges()


def _add_gold() -> None:
    op.create_table(
        "golds",
        sa.Column("comparison_id", sa.String(40), sa.ForeignKey("comparisons.id"), primary_key=True),
        sa.Column("project_id", sa.String(80), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("ranking", sa.JSON(), nullable=False),
        sa.Column("strength", sa.Integer()),
        sa.Column("explanation", sa.Text(), nullable=False),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime()),
    )
    op.create_index("ix_golds_project_id", "golds", ["project_id"])
    op.create_table(
        "qualifications",
        sa.Column("rater_id", sa.String(40), sa.ForeignKey("raters.id"), primary_key=True),
        sa.Column("project_id", sa.String(80), sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("attempt", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("answered", sa.Integer(), nullable=False),
        sa.Column("right", sa.Integer(), nullable=False),
        sa.Column("passed", sa.Boolean()),
        sa.Column("decided_by", sa.String(80), nullable=False),
        sa.Column("began_at", sa.DateTime(), nullable=False),
        sa.Column("decided_at", sa.DateTime()),
        sa.Column("expires_at", sa.DateTime()),
    )


def _add_selections() -> None:
    op.create_table(
        "assignments",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("comparison_id", sa.String(40), sa.ForeignKey("comparisons.id"), nullable=False),
        sa.Column("rater_id", sa.String(40), sa.ForeignKey("raters.id"), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("opened", sa.Boolean(), nullable=False),
        sa.Column("slice", sa.String(200), nullable=False),
        sa.Column("assigned_by", sa.String(80), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime()),
    )
    for column in ("comparison_id", "rater_id"):
        op.create_index(f"ix_assignments_{column}", "assignments", [column])
    op.create_table(
        "slices",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("filter", sa.JSON(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(80), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
    )


def _add_findings() -> None:
    op.create_table(
        "findings",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("rater_id", sa.String(40), sa.ForeignKey("raters.id"), nullable=False),
        sa.Column("project_id", sa.String(80), sa.ForeignKey("projects.id")),
        sa.Column("check_name", sa.String(40), nullable=False),
        sa.Column("statistic", sa.Float(), nullable=False),
        sa.Column("p_value", sa.Float()),
        sa.Column("false_alarm_rate", sa.Float(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("overruled_by", sa.String(80)),
        sa.Column("overruled_at", sa.DateTime()),
        sa.Column("overruled_because", sa.Text()),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_findings_rater_id", "findings", ["rater_id"])


def _add_fits() -> None:
    op.create_table(
        "label_fits",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("label_model", sa.String(40), nullable=False),
        sa.Column("reward_model_id", sa.String(40)),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "rater_estimates",
        sa.Column("fit_id", sa.String(40), sa.ForeignKey("label_fits.id"), primary_key=True),
        sa.Column("rater_id", sa.String(40), sa.ForeignKey("raters.id"), primary_key=True),
        sa.Column("votes", sa.Integer(), nullable=False),
        *(
            sa.Column(f"{name}{end}", sa.Float(), nullable=False)
            for name in ("reliability", "position_bias", "tie_width", "strength_scale")
            for end in ("", "_low", "_high")
        ),
        sa.Column("random", sa.Float(), nullable=False),
        sa.Column("looking_reliability", sa.Float(), nullable=False),
        sa.Column("reliability_spread", sa.Float(), nullable=False),
    )
    op.create_table(
        "labels",
        sa.Column("comparison_id", sa.String(40), sa.ForeignKey("comparisons.id"), primary_key=True),
        sa.Column("first", sa.String(40), primary_key=True),
        sa.Column("second", sa.String(40), primary_key=True),
        *(sa.Column(f"{of}_{name}", sa.Float(), nullable=False) for of in "pc" for name in ("first", "tie", "second")),
        sa.Column("entropy", sa.Float(), nullable=False),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("fit_id", sa.String(40)),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "out_of_fold",
        sa.Column("comparison_id", sa.String(40), sa.ForeignKey("comparisons.id"), primary_key=True),
        sa.Column("reward_model_id", sa.String(40), sa.ForeignKey("reward_models.id"), primary_key=True),
        sa.Column("first", sa.String(40), primary_key=True),
        sa.Column("second", sa.String(40), primary_key=True),
        *(sa.Column(f"p_{name}", sa.Float(), nullable=False) for name in ("first", "tie", "second")),
    )


def _add_judges() -> None:
    op.create_table(
        "judges",
        sa.Column("rater_id", sa.String(40), sa.ForeignKey("raters.id"), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("model", sa.String(500), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("template", sa.String(200), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("budget", sa.Float()),
        sa.Column("created_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "judge_calls",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("judge_id", sa.String(40), sa.ForeignKey("judges.rater_id"), nullable=False),
        sa.Column("comparison_id", sa.String(40), sa.ForeignKey("comparisons.id"), nullable=False),
        sa.Column("judgment_id", sa.String(40)),
        sa.Column("template_version", sa.String(80), nullable=False),
        sa.Column("order_shown", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("probabilities", sa.JSON()),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("judge_calls_by_judge", "judge_calls", ["judge_id", "seq"])


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
