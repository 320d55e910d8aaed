"""What was last computed of labels and raters: kept for pages and the queue, which cannot wait for a fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.quality_tables import label_fits, labels, rater_estimates
from rlhf_hitl.store.tables import raters
from rlhf_hitl.types import Label, utc_now

LABELS_AT_ONCE = 1000


@dataclass(frozen=True)
class LabelFit:
    """A fit of a label model to all votes up to `revision`, the sequence number of a judgment.

    `parameters` are the model's own, `figures` what people are told of it.
    """

    id: str
    label_model: str
    reward_model_id: str | None
    revision: int
    parameters: Mapping[str, Any]
    figures: Mapping[str, Any]
    simulated: bool
    created_at: datetime


def insert_label_fit(store: Store, fit: LabelFit, estimates: Sequence[Mapping[str, Any]]) -> None:
    """Keep a fit with its estimates of raters (rows of `rater_estimates` without `fit_id`) in place of earlier ones of
    its label model."""
    with store.write() as conn:
        earlier = sa.select(label_fits.c.id).where(label_fits.c.label_model == fit.label_model)
        conn.execute(rater_estimates.delete().where(rater_estimates.c.fit_id.in_(earlier)))
        conn.execute(label_fits.delete().where(label_fits.c.label_model == fit.label_model))
        conn.execute(label_fits.insert(), {c.name: getattr(fit, c.name) for c in label_fits.c})
        if estimates:
            conn.execute(rater_estimates.insert(), [{"fit_id": fit.id, **estimate} for estimate in estimates])


def list_label_fits(store: Store) -> list[LabelFit]:
    """Return the fits that are kept, the newest first."""
    query = sa.select(label_fits).order_by(label_fits.c.created_at.desc(), label_fits.c.id)
    with store.read() as conn:
        return [LabelFit(**row) for row in conn.execute(query).mappings()]


def load_newest_fit(conn: Connection, label_model: str) -> LabelFit | None:
    """Return the newest fit of a label model; None where there is none."""
    query = sa.select(label_fits).where(label_fits.c.label_model == label_model)
    row = conn.execute(query.order_by(label_fits.c.created_at.desc(), label_fits.c.id.desc()).limit(1)).mappings()
    return next((LabelFit(**one) for one in row), None)


def load_rater_estimates(conn: Connection, fit_id: str) -> list[dict[str, Any]]:
    """Return what a fit says of raters: rows of `rater_estimates` with `name`, the most reliable first."""
    query = (
        sa.select(rater_estimates, raters.c.name)
        .join(raters, raters.c.id == rater_estimates.c.rater_id)
        .where(rater_estimates.c.fit_id == fit_id)
        .order_by(rater_estimates.c.reliability.desc(), raters.c.name)
    )
    return [dict(row) for row in conn.execute(query).mappings()]


def save_labels(store: Store, new: Iterable[Label], fit_id: str) -> None:
    """Keep labels for pages, in short transactions. What is believed with the reward model's word, and whether a
    comparison is settled, stay as they are."""
    now = utc_now()
    remaining = iter(new)
    while some := list(islice(remaining, LABELS_AT_ONCE)):
        with store.write() as conn:
            conn.execute(_make_upsert(store.is_sqlite), [_to_row(label, fit_id, now) for label in some])


def _to_row(label: Label, fit_id: str, now: datetime) -> dict[str, Any]:
    first, tie, second = label.probabilities
    return {
        "comparison_id": label.comparison_id,
        "first": label.first,
        "second": label.second,
        "p_first": first,
        "p_tie": tie,
        "p_second": second,
        "c_first": first,
        "c_tie": tie,
        "c_second": second,
        "entropy": label.entropy,
        "votes": label.votes,
        "weight": label.weight,
        "state": "adjudicated" if label.adjudicated else "open",
        "fit_id": fit_id,
        "updated_at": now,
    }


@cache
def _make_upsert(is_sqlite: bool) -> Any:
    if is_sqlite:
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert
    statement = insert(labels)
    new = statement.excluded
    changed: dict[str, Any] = {
        name: new[name] for name in ("p_first", "p_tie", "p_second", "entropy", "votes", "weight", "fit_id")
    }
    changed |= {"updated_at": new.updated_at}
    changed["state"] = sa.case((new.state == "adjudicated", new.state), else_=labels.c.state)
    return statement.on_conflict_do_update(index_elements=list(labels.primary_key.columns), set_=changed)
