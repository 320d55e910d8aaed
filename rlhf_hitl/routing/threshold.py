"""The confidence above which the model may decide alone, with a bound on its errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.stats.selective_bound import (
    Forecast,
    ShownSet,
    count_clusters_needed,
    find_shown_set,
    forecast_share,
    list_sizes,
    respect_ties,
)
from rlhf_hitl.wording import say_count


@dataclass(frozen=True)
class Threshold:
    """Comparisons are accepted where confidence >= `value`; above 1, none is.

    Attributes:
        bound: the error among the accepted is below it, with probability 1 - `delta` over the labels that test it.
        accepted, errors: tested labels at or above `value`, and those among them on which the model is wrong.
        calibration, prompts: number of tested labels, and of the prompts that they are about.
        out_of_fold: how many of them are training labels, each predicted by a head that saw nothing of its prompt.
        elsewhere: share of what is accepted that is taken to be unlike the tested labels, half of it wrong; `bound`
            counts it.
        forecasts: what more labels would show, by the errors that these have.
        shown_from: where a lead demands more confidence than the bound does: from where on it is shown; else None.
    """

    value: float
    bound: float
    accepted: int
    errors: int
    calibration: int
    prompts: int
    max_error: float
    delta: float
    out_of_fold: int = 0
    forecasts: tuple[Forecast, ...] = ()
    shown_from: float | None = None
    elsewhere: float = 0.0

    @property
    def accepts_nothing(self) -> bool:
        return self.value > 1

    @property
    def reason(self) -> str:
        mixed = f"; {self.elsewhere:.0%} of them may be of other prompts, of which half count as wrong" * (
            self.elsewhere > 0
        )
        if not self.accepts_nothing:
            own = f", {self.out_of_fold:,} of them training labels out of fold" if self.out_of_fold else ""
            demanded = "" if self.shown_from is None else f", as a lead demands; from {self.shown_from:.3f} on"
            return (
                f"confidence of {self.value:.3f} or more{demanded}: error below {self.bound:.1%} with "
                f"{1 - self.delta:.0%} confidence; wrong on {self.errors:,} of "
                f"{say_count(self.accepted, 'such calibration label')} "
                f"({say_count(self.calibration, 'label')} on {say_count(self.prompts, 'prompt')} in all{own}){mixed}"
            )
        if (own_error := find_own_error(self.max_error, self.elsewhere)) <= 0:
            said = "accepts nothing: too much of the pool looks unlike the training prompts"
            return f"{said} for an error below {self.max_error:.1%}"
        needed = count_prompts_needed(own_error, self.delta, clustered=self.prompts < self.calibration)
        if self.prompts < needed:
            return (
                f"accepts nothing: calibration labels on {say_count(self.prompts, 'prompt')}, {needed} prompts are the "
                "fewest that can show it"
            )
        none = f"accepts nothing: no confidence keeps the error below {self.max_error:.1%} on the calibration labels"
        return none + mixed

    @property
    def advice(self) -> str:
        """What more calibration labels would bring, in words; empty where there are too few to say."""
        if not self.forecasts:
            return ""
        now, *more = self.forecasts
        if not self.accepts_nothing:
            if not more:
                return ""
            return (
                f"forecast: with {more[0].labels:,} labels ({more[0].labels - now.labels:,} more) "
                f"{_say_share(more[0])} would be accepted; with as many as now it is {now.share:.0%} on average"
            )
        for chance, words in ((0.9, "in nine cases of ten"), (0.5, "as likely as not")):
            enough = next((f for f in self.forecasts if f.chance >= chance), None)
            if enough is now:
                return f"forecast: so many labels show something {words}; this time they did not. Have a few more rated"
            if enough is not None:
                return (
                    f"forecast: {enough.labels:,} labels ({enough.labels - now.labels:,} more) would do {words}: they "
                    f"would let {_say_share(enough)} be accepted"
                )
        return (
            f"forecast: not even {self.forecasts[-1].labels:,} labels would do: by the labels so far, the model is "
            "wrong too often even where it is surest. Train it on more labels, or allow more errors"
        )


def _say_share(forecast: Forecast) -> str:
    return f"{forecast.share:.0%} (80 % interval {forecast.low:.0%} to {forecast.high:.0%})"


def count_prompts_needed(max_error: float, delta: float, *, clustered: bool = False) -> int:
    """Return how many prompts, none of their labels wrong, it takes to show an error below `max_error`.

    Args:
        clustered: some prompts have several labels.
    """
    return count_clusters_needed(max_error, delta, clustered=clustered)


def find_own_error(max_error: float, elsewhere: float) -> float:
    """Return the error that tested labels have to show so that the whole stays below `max_error` with a share from
    elsewhere, half of which is wrong; 0 or less where none does. A bound of a thousandth is the smallest."""
    own = (max_error - elsewhere / 2) / (1 - elsewhere)
    return own if own >= min(max_error, 0.001) else 0.0


def choose_threshold(
    confidence: np.ndarray,
    wrong: np.ndarray,
    prompts: np.ndarray,
    *,
    max_error: float,
    delta: float,
    out_of_fold: int = 0,
    elsewhere: float = 0.0,
    forecasts: bool = False,
) -> Threshold:
    """Return the lowest threshold at which the error among the accepted is shown to be below `max_error`.

    A threshold that breaks the bound is chosen with a probability of at most `delta`, for any model
    (`stats/selective_bound.py` says how). Labels must be like the comparisons that are decided: labels that a router
    chose because they are hard would only make the bound pessimistic, those chosen because they are easy break it.

    Args:
        confidence: (n,) probability of the model's own choice, on labels that it has not learnt from. What has none
            (NaN) is never accepted, and tests nothing.
        wrong: (n,) 1 where the raters prefer the other, 0 where they agree.
        prompts: (n,) the prompt of each label: labels of one prompt are not independent.
        out_of_fold: how many of them are training labels, for the report.
        elsewhere: the share of what will be accepted that is unlike these labels. Half of it is taken to be wrong, so
            these have to show a smaller error; the whole is stated.
        forecasts: say what more labels would show (some tenths of a second).
    """
    c, e, of = np.asarray(confidence, float), np.asarray(wrong, float), np.asarray(prompts)
    finite = np.flatnonzero(np.isfinite(c))
    order = finite[np.argsort(-c[finite], kind="stable")]
    c, e, of = c[order], e[order], of[order]
    own_error, shown, found = find_own_error(max_error, elsewhere), ShownSet(), ()
    if own_error > 0:
        sizes = respect_ties(c, list_sizes(of, own_error, delta))
        shown = find_shown_set(e, of, sizes, max_error=own_error, delta=delta)
        found = tuple(forecast_share(c, e, of, max_error=own_error, delta=delta)) if forecasts else ()
    counts = len(c), len(np.unique(of)), max_error, delta, out_of_fold, found, None, elsewhere
    if shown == ShownSet():
        return Threshold(math.inf, 1.0, 0, 0, *counts)
    bound = shown.bound * (1 - elsewhere) + elsewhere / 2
    return Threshold(float(c[shown.size - 1]), bound, shown.size, int(e[: shown.size].sum()), *counts)
