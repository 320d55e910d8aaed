"""Plots of pages and of the HTML report: what is drawn, as data; `plots.js` draws it with uPlot, which comes along.

A plot has a table behind it with the same figures, and says in words why it is empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

XKind = Literal["day", "number", "name", "share"]
Unit = Literal["share", "seconds", "hours", "money", "count"]


@dataclass(frozen=True)
class Series:
    """One line of a plot.

    Attributes:
        values, low, high: one for each place on the axis; None where there is none.
        kind: a line with dots, steps, or bars.
    """

    name: str
    values: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    kind: Literal["line", "steps", "bars"] = "line"
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        x: of `x_kind`: days as text (2026-11-30), numbers, shares, or names.
        unit: of all series; `currency` is written beside money.
        empty: why there is nothing to draw; "" where there is.
        marks: lines across, each (value, what it says).
        from_zero: whether the axis has 0 on it, and all of it for shares above a half.
    """

    key: str
    title: str
    x: Sequence[Any]
    x_label: str
    x_kind: XKind
    unit: Unit
    y_label: str
    series: Sequence[Series]
    note: str = ""
    empty: str = ""
    currency: str = ""
    marks: Sequence[tuple[float, str]] = field(default_factory=tuple)
    from_zero: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return it as `plots.js` takes it; what is not finite is null."""
        series = [
            vars(s) | {name: None if (of := getattr(s, name)) is None else [_finite(v) for v in of] for name in _VALUES}
            for s in self.series
        ]
        return vars(self) | {"x": list(self.x), "series": series, "marks": [list(mark) for mark in self.marks]}


_VALUES = ("values", "low", "high")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


@cache
def read_script() -> str:
    """Return uPlot and what draws our plots with it, as one script that defines `createPlot`."""
    return _read("uplot.js") + "\n" + _read("plots.js")


@cache
def read_report_script() -> str:
    """Return the script of an HTML report: `read_script`, and what draws each element that has `data-plots`."""
    return read_script() + "\n" + _read("report.js")


@cache
def read_styles() -> str:
    """Return the styles of the plots."""
    return _read("uplot.css") + "\n" + _read("plots.css")


def _read(name: str) -> str:
    return (resources.files("rlhf_hitl.plots") / name).read_text(encoding="utf-8")
