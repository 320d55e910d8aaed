"""Plots of an evaluation, each as the text of one SVG that reports and pages embed unchanged, in light and dark.

With few labels a plot of all of them says how many it needs instead: forty at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_hitl.report_page import (
    BLUE,
    GREY,
    MIN_LABELS_DRAWN,
    ORANGE,
    draw_svg,
    make_figure,
    make_label,
    say_too_few_to_draw,
    show_percent,
)
from rlhf_hitl.reward.evaluation_record import Estimate, EvaluatedPair, Evaluation
from rlhf_hitl.reward.rendering import count_characters
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_SLICES_PLOTTED = 40  # nobody reads a longer forest plot
NARROW_WIDTH = 4.4  # inches: the letters keep their size on the screen of a phone


def plot_accuracy(evaluation: Evaluation, *, is_narrow: bool = False) -> str:
    """Plot the model's accuracy beside its floors and its ceiling, each with its interval.

    Args:
        is_narrow: draw it for the screen of a phone, with the name of each row above it.
    """
    rows = [("reward model", evaluation.accuracy, BLUE)]
    rows += [(f"floor: {name}", floor, GREY) for name, floor in evaluation.floors.items()]
    if evaluation.noise_ceiling is not None:
        rows.append(("ceiling: the raters' noise", evaluation.noise_ceiling, ORANGE))
    figure, axes = (
        make_figure(0.9 + 0.55 * len(rows), NARROW_WIDTH) if is_narrow else make_figure(0.7 + 0.4 * len(rows))
    )
    estimates, colours = [(label, estimate) for label, estimate, _ in rows], [colour for *_, colour in rows]
    _draw_forest(axes, estimates, colours, names_above=is_narrow)
    simulated = _mark_simulated(evaluation, between="\n" if is_narrow else " ")
    axes.set_xlabel(f"accuracy on {say_count(evaluation.n, 'label')}, 95 % interval{simulated}")
    return draw_svg(figure, "Accuracy beside floors and ceiling")


def plot_slices(evaluation: Evaluation, *, is_narrow: bool = False) -> str:
    """Plot the slices' accuracies as a forest, with a line at the accuracy over all labels; empty without slices.

    Args:
        is_narrow: as for `plot_accuracy`.
    """
    rows = [
        (f"{by}: {value if len(value) < 40 else value[:39] + '…'}", estimate)
        for by, values in evaluation.slices.items()
        for value, estimate in values.items()
    ][:MAX_SLICES_PLOTTED]
    if not rows:
        return ""
    figure, axes = (
        make_figure(1.1 + 0.45 * len(rows), NARROW_WIDTH) if is_narrow else make_figure(0.9 + 0.24 * len(rows))
    )
    axes.axvspan(evaluation.accuracy.low, evaluation.accuracy.high, color=BLUE, alpha=0.12, linewidth=0)
    axes.axvline(evaluation.accuracy.value, color=BLUE, linewidth=1)
    _draw_forest(axes, rows, [BLUE] * len(rows), names_above=is_narrow)
    simulated = _mark_simulated(evaluation, between="\n" if is_narrow else " ")
    axes.set_xlabel(f"accuracy by slice, 95 % interval; line: all labels{simulated}")
    return draw_svg(figure, "Accuracy by slice")


def plot_reliability(evaluation: Evaluation) -> str:
    """Plot how often the model is right against its confidence; on the diagonal the two are equal."""
    if evaluation.n < MIN_LABELS_DRAWN:
        return say_too_few_to_draw(evaluation.n)
    figure, axes = make_figure(3.6, width=4.6)
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle="--", linewidth=1)
    for b in evaluation.reliability:
        axes.plot([b.confidence] * 2, [b.right.low, b.right.high], color=BLUE, linewidth=1.5, alpha=0.6)
    axes.plot(
        [b.confidence for b in evaluation.reliability], [b.right.value for b in evaluation.reliability], "o", color=BLUE
    )
    xlabel = "the model's probability of its choice" + _mark_simulated(evaluation, between="\n")
    axes.set(xlim=(0.48, 1.02), ylim=(-0.02, 1.02), xlabel=xlabel, ylabel="share right")
    show_percent(axes.xaxis, axes.yaxis)
    error = evaluation.calibration
    axes.set_title(f"calibration error {error.text} ({error.bounds})", fontsize="medium")
    return draw_svg(figure, "Reliability")


def plot_margins(evaluation: Evaluation, pairs: Sequence[EvaluatedPair]) -> str:
    """Plot how large the margins are where the model is right and where it is wrong."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    sizes = np.array([abs(e.margin) for e in pairs if not e.is_tie])
    right = np.array([bool(e.correct) for e in pairs if not e.is_tie], bool)
    if len(sizes) < MIN_LABELS_DRAWN:
        return say_too_few_to_draw(len(sizes))
    figure, axes = make_figure(3.6, width=4.6)
    bars = min(24, len(sizes) // 8)
    edges = np.linspace(0, np.quantile(sizes, 0.99) or 1.0, bars + 1)
    clipped = np.minimum(sizes, edges[-1])  # the last bar also holds all larger margins
    axes.hist(
        [clipped[right], clipped[~right]], bins=edges.tolist(), stacked=True, color=[BLUE, ORANGE],
        label=[f"right ({int(right.sum())})", f"wrong ({int((~right).sum())})"],
    )  # fmt: skip
    axes.set(xlabel="size of the margin, logits" + _mark_simulated(evaluation, between="\n"), ylabel="labels")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return draw_svg(figure, "Margins where the model is right and wrong")


def plot_lengths(evaluation: Evaluation, pairs: Sequence[EvaluatedPair]) -> str:
    """Plot the margin of the raters' choice against how much longer that is: does the model follow length?"""
    import numpy as np

    decided = [e for e in pairs if not e.is_tie]
    ratio = np.array([np.log2((1 + count_characters(e.chosen)) / (1 + count_characters(e.rejected))) for e in decided])
    margin = np.array([e.margin for e in decided])
    right = margin > 0
    figure, axes = make_figure(3.2)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.axvline(0, color=GREY, linewidth=1)
    # Rasterised: thousands of points as vector shapes would take megabytes.
    axes.plot(ratio[right], margin[right], "o", color=BLUE, alpha=0.5, markersize=3, label="right", rasterized=True)
    axes.plot(ratio[~right], margin[~right], "x", color=ORANGE, alpha=0.7, markersize=4, label="wrong", rasterized=True)
    axes.set(
        xlabel=f"doublings in length from the rejected to the chosen answer{_mark_simulated(evaluation)}",
        ylabel="margin, logits",
    )
    axes.legend(frameon=False)
    return draw_svg(figure, "Margin beside length")


def _mark_simulated(evaluation: Evaluation, between: str = " ") -> str:
    """Return what the labels of a plot have to do with simulated raters, to follow its own words; empty if nothing."""
    if not evaluation.simulated:
        return ""
    return f"{between}({evaluation.measured_on or 'some simulated'})"


def _draw_forest(
    axes: Axes, rows: Sequence[tuple[str, Estimate]], colours: Sequence[str], *, names_above: bool = False
) -> None:
    """Draw a row for each estimate, the first on top: a point, its interval, its value and the number of labels.

    The names of the rows stand beside them, or above them.
    """
    for y, ((label, estimate), colour) in enumerate(zip(rows, colours)):
        axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=2, alpha=0.6, solid_capstyle="butt")
        axes.plot(estimate.value, y, "o", color=colour, markersize=6)
        count = f"  ({estimate.n})" if estimate.n else ""
        axes.text(1.01, y, f"{estimate.text}{count}", va="center", transform=axes.get_yaxis_transform())
        if names_above:  # the name takes no width from the plot
            name = axes.text(0.01, y - 0.22, make_label(label), va="bottom", transform=axes.get_yaxis_transform())
            name.set_in_layout(False)
    axes.set_yticks(range(len(rows)), [""] * len(rows) if names_above else [make_label(label) for label, _ in rows])
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.8 if names_above else -0.6))
    show_percent(axes.xaxis)
    axes.grid(visible=False, axis="y")
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
