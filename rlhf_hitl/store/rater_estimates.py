"""What the newest fit of the rater model says of raters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.label_fits import load_newest_fit, load_rater_estimates

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
    with store.read() as conn:
        fit = load_newest_fit(conn, RATER_MODEL)
        if fit is None:
            return FittedRaters({}, None)
        rows = load_rater_estimates(conn, fit.id)
    return FittedRaters({row["rater_id"]: _to_estimate(row) for row in rows}, fit.created_at)


def _to_estimate(row: Mapping[str, Any]) -> RaterEstimate:
    def read(name: str) -> tuple[float, float, float]:
        return row[name], row[f"{name}_low"], row[f"{name}_high"]

    return RaterEstimate(
        row["votes"], read("reliability"), read("position_bias"), read("tie_width"), read("strength_scale")
    )
