"""The plots of the report: the trend of each figure with its interval, money, forecasts, gains and audits.

The lead's page and the HTML report draw the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rlhf_hitl.kpi_forecast import TESTED_LABELS
from rlhf_hitl.kpi_groups import GroupFigures, Spread
from rlhf_hitl.kpi_report import KpiReport
from rlhf_hitl.plots import Plot, Series, Unit, XKind
from rlhf_hitl.reward.evaluation_record import Estimate
from rlhf_hitl.routing.threshold_curve import ThresholdCurve
from rlhf_hitl.visible import make_all_visible
from rlhf_hitl.wording import say_count

#: So many of the newest days or rounds are drawn.
MOST_DRAWN = 90
_NOTHING_YET = "Nothing to draw: nothing has been judged or accepted yet."


def make_trend_plots(report: KpiReport, by: str = "day") -> list[Plot]:
    """Return the trend of each figure over days (UTC) or rounds."""
    groups = list(report.groups.get(by, ()))[-MOST_DRAWN:]
    x_kind: XKind = "day" if by == "day" else "number"
    x = [g.group if by == "day" else int(g.group) for g in groups]
    x_label = "day (UTC)" if by == "day" else "round"

    def make(key: str, title: str, unit: Unit, y_label: str, series: Sequence[Series], note: str, missing: str) -> Plot:
        is_empty = all(value is None for s in series for value in s.values)
        empty = (missing if groups else _NOTHING_YET) if is_empty else ""
        return Plot(f"{by}.{key}", title, x, x_label, x_kind, unit, y_label, series, note, empty, report.currency)

    def share(name: str, find: Callable[[GroupFigures], Estimate | None]) -> Series:
        return _make_share(name, [find(g) for g in groups])

    def spread(
        name: str, find: Callable[[GroupFigures], Spread | None], figure: str, *, dashed: bool = False
    ) -> Series:
        found = [find(g) for g in groups]
        value, low, high = ([None if s is None else getattr(s, of) for s in found] for of in (figure, "low", "high"))
        return Series(name, value, low, high) if figure == "mean" else Series(name, value, dashed=dashed)

    no_control = "Nothing to draw: raters have decided no comparison of the control share yet."
    measured = sum(g.accuracy.n for g in groups if g.accuracy)
    return [
        make(
            "accuracy",
            "Model accuracy before review",
            "share",
            "share right",
            [share("accuracy", lambda g: g.accuracy)],
            f"on {say_count(measured, 'comparison')} of the control share, by when they were routed; 95 % intervals",
            no_control,
        ),
        make(
            "intervention",
            "Human intervention rate",
            "share",
            "share judged by people",
            [share("judged by people", lambda g: g.intervention)],
            "of the comparisons processed; 95 % intervals",
            _NOTHING_YET,
        ),
        make(
            "error_reduction",
            "Error reduction by review",
            "share",
            "share of the model's errors",
            [share("seen by raters", lambda g: g.error_reduction)],
            "of the model's errors on the control share, those that raters would have seen; 95 % intervals",
            "Nothing to draw: the model made no error on the control share yet.",
        ),
        make(
            "review",
            "Review time",
            "seconds",
            "seconds a judgment",
            [
                spread("mean", lambda g: g.review, "mean"),
                spread("median", lambda g: g.review, "median", dashed=True),
                spread("95th percentile", lambda g: g.review, "p95"),
            ],
            "active seconds; the interval of the mean is 95 %",
            "Nothing to draw: no judgment has a measured time yet.",
        ),
        make(
            "cost",
            "Cost per processed comparison",
            "money",
            f"{report.currency} a comparison",
            [Series("raters, judges and machine", [g.cost_per_comparison for g in groups])],
            "all that raters, AI judges and the machine cost, divided by what was processed",
            _NOTHING_YET,
        ),
        make(
            "spent",
            "What was spent",
            "money",
            report.currency,
            [Series("raters, judges and machine", [g.cost for g in groups], kind="bars")],
            "on raters, AI judges and the machine",
            _NOTHING_YET,
        ),
        make(
            "agreement",
            "Raters say the same",
            "share",
            "share of pairs of votes",
            [share("the same", lambda g: g.agreement)],
            "by when the second voted; 95 % intervals",
            "Nothing to draw: no two raters have judged the same comparison yet.",
        ),
        make(
            "throughput",
            "Judgments",
            "count",
            "judgments",
            [Series("judgments", [float(g.judgments) for g in groups], kind="bars")],
            "on training prompts",
            _NOTHING_YET,
        ),
        make(
            "latency",
            "Time until decided",
            "hours",
            "hours",
            [
                spread("median", lambda g: g.latency, "median"),
                spread("95th percentile", lambda g: g.latency, "p95", dashed=True),
            ],
            "from when a comparison came until it was first judged or accepted",
            _NOTHING_YET,
        ),
    ]


def make_money_plots(report: KpiReport) -> list[Plot]:
    """Return what automation saved and what it returned, day by day; and what more labels would buy."""
    savings = report.savings
    days = list(savings.days) if savings else []
    days = days[-MOST_DRAWN:]
    x = [d.day.isoformat() for d in days]
    missing = "" if days else "Nothing to draw: nothing is routed yet, or what a judgment costs is not known."
    saved = Plot(
        "saved",
        "Saved against all-manual",
        x,
        "day (UTC)",
        "day",
        "money",
        f"{report.currency} so far",
        [
            Series("saved, net", [d.net for d in days], [d.low for d in days], [d.high for d in days]),
            Series("spent on checks, judges and machine", [d.checks + d.judges + d.machine for d in days], dashed=True),
        ],
        "what people would have cost on all that the model is sure of, less checks of it, AI judges and the machine; "
        "the 95 % interval is that of what people cost",
        missing,
        report.currency,
    )
    returned = Plot(
        "roi",
        "Return on automation",
        x,
        "day (UTC)",
        "day",
        "count",
        "times what was spent",
        [Series("return so far", [d.roi for d in days])],
        "net saved for each unit of money spent on checks, AI judges and the machine; above 0 it pays",
        missing,
        marks=((0.0, "pays above"),),
    )
    return [saved, returned, _make_forecast_plot(report), _make_gain_plot(report), _make_audit_plot(report)]


def make_curve_plot(curve: ThresholdCurve, project: str) -> Plot:
    """Return the threshold curve of a project as the page draws it."""
    points = curve.points
    now = "accepts nothing now" if curve.now > 1 else f"accepts from {curve.now:.3f} on now"
    unlike = f", {curve.unlike:,} of them unlike the training prompts" if curve.unlike else ""
    note = (
        f"{now}; tested on {say_count(curve.tested, 'label')}, the pool has {say_count(curve.pool, 'comparison')}"
        f"{unlike}; "
        f"{1 - curve.delta:.0%} confidence. {curve.advice}"
    )
    return Plot(
        key=f"threshold.{project}",
        title=f"What a threshold would cause, {project}",
        x=[p.confidence for p in points],
        x_label="confidence from which on is accepted",
        x_kind="share",
        unit="share",
        y_label="share",
        series=[
            Series("people judge", [p.load for p in points]),
            Series("error found", [p.error for p in points], [p.low for p in points], [p.high for p in points]),
            Series("error shown below", [p.bound for p in points], kind="steps", dashed=True),
        ],
        note=note,
        marks=((curve.max_error, f"bound in force {curve.max_error:.0%}"),),
    )


def _make_forecast_plot(report: KpiReport) -> Plot:
    forecast = report.forecast
    seen = {m.labels: m for m in forecast.models}
    ahead = {a.labels: a for a in forecast.accuracy}
    x = sorted(seen.keys() | ahead.keys())
    measured = [_estimate(seen[n].accuracy, seen[n].n) if n in seen else None for n in x]
    series = [_make_share("measured", measured)]
    if ahead:
        expected = [Estimate(a.value, a.low, a.high, 0) if (a := ahead.get(n)) else None for n in x]
        series.append(_make_share("expected", expected, dashed=True))
    note = f"on {TESTED_LABELS}; a power law through the models that routed, 95 % intervals"
    if forecast.obstacle and x:
        note = f"on {TESTED_LABELS}. No forecast yet: {forecast.obstacle}"
    empty = "" if x else "Nothing to draw: no model has routed yet."
    title, x_label = "Accuracy against labels", "training labels"
    return Plot("forecast", title, x, x_label, "number", "share", "share right", series, note, empty, from_zero=False)


def _make_gain_plot(report: KpiReport) -> Plot:
    gains = report.gains
    known = [] if gains is None else [("routed", gains.routed), ("at random", gains.random), ("difference", gains.gap)]
    known = [(name, g) for name, g in known if g is not None and math.isfinite(g.low + g.high)]
    # In thousandths of a nat for a hundred labels, as the report says it.
    value, low, high = ([getattr(g, end) * 1e5 for _, g in known] for end in ("value", "low", "high"))
    series = Series("gain", value, low, high)
    note = "what a hundred labels teach, in thousandths of a nat per vote; 95 % intervals"
    if gains is not None:
        note = f"{gains.verdict}. {note}" + (" (simulated)" if gains.simulated else "")
    empty = "" if known else "Nothing to draw: it takes judged comparisons of the control share, and routed ones."
    return Plot(
        "gains", "Control against routed", [name for name, _ in known], "labels", "name", "count", "gain", [series],
        note, empty, marks=((0.0, "no gain"),),
    )  # fmt: skip


def _make_audit_plot(report: KpiReport) -> Plot:
    watches = [w for w in report.audits if w.decided]
    errors = [w.errors / w.decided for w in watches]
    series = [Series("error found", errors, [w.lower for w in watches], [w.upper for w in watches])]
    bounds = sorted({w.max_error for w in watches})
    marks = tuple((bound, f"bound {bound:.0%}") for bound in bounds[:3])
    decided = sum(w.decided for w in watches)
    note = f"in {say_count(decided, 'audited acceptance')}; intervals that hold whenever one looks"
    empty = "" if watches else "Nothing to draw: raters have decided no audit yet."
    names = [make_all_visible(w.project) for w in watches]
    return Plot(
        "audits", "Errors that audits found", names, "project", "name", "share", "share wrong", series, note, empty,
        marks=marks,
    )  # fmt: skip


def _estimate(value: float, n: int) -> Estimate:
    from rlhf_hitl.stats.intervals import wilson_interval

    return Estimate(value, *wilson_interval(round(value * n), n), n)


def _make_share(name: str, found: Sequence[Estimate | None], *, dashed: bool = False) -> Series:
    value, low, high = ([None if e is None else getattr(e, end) for e in found] for end in ("value", "low", "high"))
    return Series(name, value, low, high, dashed=dashed)
