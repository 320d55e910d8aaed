"""What more labels would buy: the accuracy to expect of models that learn from more, and the share that the next
hundred labels let the model accept, in money."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlhf_hitl.routing.threshold_labels import ThresholdLabels, load_threshold_labels
from rlhf_hitl.stats.learning_curve import CurveEstimate, find_obstacle, forecast_accuracy
from rlhf_hitl.store.reward_models import RewardModelRecord

#: On what the accuracy is measured. What looks unlike the training prompts is never accepted, and tests nothing.
TESTED_LABELS = "calibration labels that look like the training prompts"
#: How many labels are asked about, and per how many comparisons to come they are weighed.
NEXT_LABELS, PER_COMPARISONS = 100, 1000
#: The forecast goes on to so many times the labels of the newest model.
TIMES_AHEAD = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class MeasuredModel:
    """A model that routed: from how many labels it learnt, and how often it was right on calibration labels."""

    model_id: str
    labels: int
    accuracy: float
    n: int


@dataclass(frozen=True)
class NextLabels:
    """What the next labels are worth at today's price.

    Attributes:
        labels: how many they are. cost: what raters ask for them, in the currency of the settings.
        share_now, share_then: share of comparisons that these labels, and those with the next ones, let the model
            accept on average.
        saving: what that saves for PER_COMPARISONS comparisons to come, with the 95 % interval of the forecast's mean,
            if the errors go on as in the labels so far.
        pays_from: from how many comparisons to come on they pay; `pays_latest` at the lower end of the interval.
    """

    labels: int
    cost: float
    share_now: float
    share_then: float
    saving: float
    saving_low: float
    saving_high: float
    pays_from: int
    pays_latest: int


@dataclass(frozen=True)
class Forecast:
    """What more labels would buy.

    Attributes:
        models: that routed, in the order in which they came.
        accuracy: what to expect of models that learn from more; empty where `obstacle` says why.
        next_labels: None where `next_obstacle` says why.
    """

    models: tuple[MeasuredModel, ...] = ()
    accuracy: tuple[CurveEstimate, ...] = ()
    obstacle: str = ""
    next_labels: NextLabels | None = None
    next_obstacle: str = ""

    def lines(self, currency: str) -> list[str]:
        """Return what it says, in sentences."""
        return [self._say_accuracy(), self._say_worth(currency)]

    def _say_accuracy(self) -> str:
        if self.obstacle:
            return f"Forecast of the model's accuracy: {self.obstacle}."
        now, then = self.accuracy[0], self.accuracy[-1]
        return (
            f"Forecast of the model's accuracy on {TESTED_LABELS}, if the curve goes on: {now.value:.1%} with the "
            f"{now.labels:,} labels of today, {then.value:.1%} ({then.low:.1%} to {then.high:.1%}) with "
            f"{then.labels:,}."
        )

    def _say_worth(self, currency: str) -> str:
        worth = self.next_labels
        if worth is None:
            return f"What the next {NEXT_LABELS} labels are worth is not known: {self.next_obstacle}."
        bought = (
            f"The next {worth.labels} calibration labels cost {worth.cost:,.2f} {currency} at today's price; with them "
            f"{worth.share_then:.1%} of comparisons would be accepted on average, with those of today "
            f"{worth.share_now:.1%}"
        )
        return (
            f"{bought}. That saves {worth.saving:,.2f} {currency} (95 %: {worth.saving_low:,.2f} to "
            f"{worth.saving_high:,.2f}) for each {PER_COMPARISONS:,} comparisons to come, so they pay from "
            f"{worth.pays_from:,} comparisons on, from {worth.pays_latest:,} at the latest."
        )


def compute_forecast(records: Sequence[RewardModelRecord], manual_cost: float | None) -> Forecast:
    """Return the forecast by the labels that tested the models of a store.

    Args:
        records: in the order in which the models came.
        manual_cost: what raters cost for one comparison.
    """
    models, newest = [], None
    for record in records:
        tested = load_threshold_labels(Path(record.path))
        if tested is None:
            continue
        newest = tested
        wrong, labels = tested.wrong[: tested.calibration], int(record.figures.get("train_labels") or 0)
        if len(wrong) and labels:
            models.append(MeasuredModel(record.id, labels, 1 - float(wrong.mean()), len(wrong)))
    labels, n = (np.array([getattr(m, name) for m in models], int) for name in ("labels", "n"))
    obstacle = find_obstacle(labels, n)
    accuracy: list[CurveEstimate] = []
    if not obstacle:
        errors = np.array([round((1 - m.accuracy) * m.n) for m in models])
        wanted = np.round(labels.max() * np.array(TIMES_AHEAD)).astype(int)
        accuracy = forecast_accuracy(labels, errors, n, wanted)
    worth = _weigh_next_labels(newest, manual_cost)
    is_known = isinstance(worth, NextLabels)
    return Forecast(
        tuple(models), tuple(accuracy), obstacle, worth if is_known else None, "" if is_known else str(worth)
    )


def _weigh_next_labels(tested: ThresholdLabels | None, manual_cost: float | None) -> NextLabels | str:
    """Return what the next labels are worth, or why that is not known."""
    if tested is None:
        return "no model has routed yet"
    if manual_cost is None:
        return "no judgment with a measured time says what a label costs"
    forecasts = tested.choose_threshold(forecasts=True).forecasts
    if len(forecasts) < 2:
        return "too few labels tested the model"
    # The share grows with the logarithm of the labels, if with anything: between two forecasts it is a straight line.
    at = np.log([f.labels for f in forecasts])
    now = forecasts[0]
    weights = np.array([np.interp(np.log(now.labels + NEXT_LABELS), at, one) for one in np.eye(len(forecasts))])
    weights[0] -= 1  # of the gain, no longer of the share
    more = float(weights @ [f.share for f in forecasts])
    # Labels are drawn anew for each forecast, so a part of the difference is chance. Both share their curves, so it is
    # a little less chance than this says.
    half = 1.96 * float(np.sqrt(weights**2 @ np.square([f.error for f in forecasts])))
    if more <= half:
        low, high = f"{more - half:.1%}", f"{more + half:.1%}"
        return f"{NEXT_LABELS} more let {low} to {high} more be accepted on average, by the forecast"
    gain, low, high = (share * (1 - tested.checked_share) for share in (more, more - half, more + half))
    if not gain:
        return "raters check all that would be accepted"
    saving, saving_low, saving_high = (share * manual_cost * PER_COMPARISONS for share in (gain, low, high))
    return NextLabels(
        NEXT_LABELS,
        NEXT_LABELS * manual_cost,
        now.share,
        now.share + more,
        saving,
        saving_low,
        saving_high,
        pays_from=math.ceil(NEXT_LABELS / gain),
        pays_latest=math.ceil(NEXT_LABELS / low),
    )
