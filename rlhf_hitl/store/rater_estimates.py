"""What the newest fit of the rater model says of raters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.quality_tables import label_fits, rater_estimates

RATER_MODEL = "raters"


@dataclass(frozen=True)
class RaterEstimate:
    """A rater's parameters, each as (estimate, lower end, upper end) of its 95 % interval."""

    votes: int
    reliability: tuple[float, float, float]
    position_bias: tuple[float, float, float]
    tie_width: tuple[float, float, float]
    strength_scale: tuple[float, float, float]


@dataclass(frozen=True)
class FittedRaters:
    """The estimates of one fit by rater, and when it was made; none, and None, before the first."""

    estimates: Mapping[str, RaterEstimate]
    fitted_at: datetime | None


def load_newest_estimates(store: Store) -> FittedRaters:
    """Return the estimates of the newest fit of the rater model."""
    newest = sa.select(label_fits.c.id, label_fits.c.created_at).where(label_fits.c.label_model == RATER_MODEL)
    newest = newest.order_by(label_fits.c.created_at.desc(), label_fits.c.id).limit(1)
    with store.read() as conn:
        fit = conn.execute(newest).first()
        if fit is None:
            return FittedRaters({}, None)
        rows = conn.execute(sa.select(rater_estimates).where(rater_estimates.c.fit_id == fit.id)).mappings().all()
    return FittedRaters({row["rater_id"]: _to_estimate(row) for row in rows}, fit.created_at)


def _to_estimate(row: sa.RowMapping) -> RaterEstimate:
    def read(name: str) -> tuple[float, float, float]:
        return row[name], row[f"{name}_low"], row[f"{name}_high"]

    return RaterEstimate(
        row["votes"], read("reliability"), read("position_bias"), read("tie_width"), read("strength_scale")
    )
