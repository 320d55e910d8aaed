"""What was last computed of labels and raters: kept for pages and the queue, which cannot wait for a fit.

`labels` has two writers: a fit writes all of them (`save_labels`), and the queue those of the comparison that was just
judged (`beliefs.py`). Both write rows of `make_label_row`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.stats.entropy import entropy_in_nats
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.quality_tables import label_fits, labels, rater_estimates
from rlhf_hitl.store.tables import raters

LABELS_AT_ONCE = 1000
#: Digits of a probability that is kept: the same votes are the same label, whatever the last bits of a sum are.
DIGITS = 9
#: open: one more vote is asked; sure: none is worth its price; agreed: no rater disagrees and the label is in doubt all
#: the same; split: raters differ, and more votes would not tell; adjudicated: a lead has decided
LabelState = Literal["open", "sure", "agreed", "split", "adjudicated"]


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


def load_rater_estimates(
    conn: Connection, fit_id: str, rater_ids: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Return what a fit says of raters: rows of `rater_estimates` with `name`, the most reliable first.

    Args:
        rater_ids: only of these few.
    """
    query = (
        sa.select(rater_estimates, raters.c.name)
        .join(raters, raters.c.id == rater_estimates.c.rater_id)
        .where(rater_estimates.c.fit_id == fit_id)
        .order_by(rater_estimates.c.reliability.desc(), raters.c.name)
    )
    if rater_ids is not None:
        query = query.where(rater_estimates.c.rater_id.in_(rater_ids))
    return [dict(row) for row in conn.execute(query).mappings()]


def save_labels(store: Store, rows: Iterable[Mapping[str, Any]]) -> None:
    """Keep the labels of a fit, rows of `make_label_row`, in short transactions.

    Whether a comparison is settled is the queue's to say, and stays as it is, but for what leads have decided.
    """
    remaining = iter(rows)
    while some := list(islice(remaining, LABELS_AT_ONCE)):
        with store.write() as conn:
            conn.execute(_make_upsert(store.is_sqlite, is_fit=True), some)


def save_label_rows(store: Store, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep rows of `make_label_row` with the state that they have."""
    conn.execute(_make_upsert(store.is_sqlite, is_fit=False), rows)


def make_label_row(
    pair: tuple[str, str, str],
    label: Sequence[float],
    consensus: Sequence[float],
    *,
    votes: int,
    weight: float,
    state: LabelState,
    fit_id: str | None,
    now: datetime,
) -> dict[str, Any]:
    """Return the row of `labels` for a pair (comparison, first, second).

    Args:
        label, consensus: (3,) first better, tie, second better. What a lead has decided is both.
        votes: the judgments that rank the pair, decisions among them.
        weight: what they are worth, in votes of a reference rater.
    """
    label = [round(p, DIGITS) for p in label]
    row: dict[str, Any] = dict(zip(("comparison_id", "first", "second"), pair))
    row |= dict(zip(("p_first", "p_tie", "p_second"), label))
    row |= dict(zip(("c_first", "c_tie", "c_second"), (round(p, DIGITS) for p in consensus)))
    row |= {"entropy": entropy_in_nats(label) + 0.0, "votes": votes, "weight": round(weight, DIGITS)}
    return row | {"state": state, "fit_id": fit_id, "updated_at": now}


@cache
def _make_upsert(is_sqlite: bool, *, is_fit: bool) -> Any:
    if is_sqlite:
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert
    statement = insert(labels)
    new = statement.excluded
    changed: dict[str, Any] = {c.name: new[c.name] for c in labels.c if not c.primary_key}
    if is_fit:
        decided = "adjudicated"
        # A decision that was taken back is none.
        was_decided = sa.case((labels.c.state == decided, "open"), else_=labels.c.state)
        changed["state"] = sa.case((new.state == decided, new.state), else_=was_decided)
    return statement.on_conflict_do_update(index_elements=list(labels.primary_key.columns), set_=changed)
