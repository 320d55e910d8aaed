"""Plots of an evaluation, each as the text of one SVG: reports and pages put them in as they are.

Colours hold on white and are told apart by people who see no red or green (Okabe & Ito 2008); what a plot says is also
in its title or on its axes, never in colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_hitl.reward.evaluation_record import Evaluation, Example, Share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#767676"
MOST_SLICES = 40  # a forest with more is no longer read


def accuracy(evaluation: Evaluation) -> str:
    """The model's accuracy beside its floors and its ceiling, each with its interval."""
    rows = [("reward model", evaluation.accuracy, BLUE)]
    rows += [(f"floor: {name}", floor, GREY) for name, floor in evaluation.floors.items()]
    if evaluation.noise_ceiling is not None:
        rows.append(("ceiling: the raters' noise", evaluation.noise_ceiling, ORANGE))
    figure, axes = _figure(0.7 + 0.4 * len(rows))
    _forest(axes, [(label, share) for label, share, _ in rows], [colour for *_, colour in rows])
    axes.set_xlabel(f"accuracy on {evaluation.n} labels, 95 % interval{_simulated(evaluation)}")
    return _svg(figure, "Accuracy beside floors and ceiling")


def slices(evaluation: Evaluation) -> str:
    """A forest of the slices' accuracies, the line through it that of all; empty where there is none."""
    rows = [
        (f"{by}: {value if len(value) < 40 else value[:39] + '…'}", share)
        for by, values in evaluation.slices.items()
        for value, share in values.items()
    ][:MOST_SLICES]
    if not rows:
        return ""
    figure, axes = _figure(0.9 + 0.24 * len(rows))
    axes.axvspan(evaluation.accuracy.low, evaluation.accuracy.high, color=BLUE, alpha=0.12, linewidth=0)
    axes.axvline(evaluation.accuracy.value, color=BLUE, linewidth=1)
    _forest(axes, rows, [BLUE] * len(rows))
    axes.set_xlabel(f"accuracy by slice, 95 % interval; line: all labels{_simulated(evaluation)}")
    return _svg(figure, "Accuracy by slice")


def reliability(evaluation: Evaluation) -> str:
    """How often the model is right beside how sure it says it is; on the diagonal it is as right as it says."""
    figure, axes = _figure(3.6, width=4.6)
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle="--", linewidth=1)
    for b in evaluation.reliability:
        axes.plot([b.confidence] * 2, [b.right.low, b.right.high], color=BLUE, linewidth=1.5, alpha=0.6)
    axes.plot(
        [b.confidence for b in evaluation.reliability], [b.right.value for b in evaluation.reliability], "o", color=BLUE
    )
    axes.set(
        xlim=(0.48, 1.02), ylim=(-0.02, 1.02), xlabel="the model's probability of its choice", ylabel="share right"
    )
    axes.set_title(
        f"calibration error {evaluation.ece:.3f} ({evaluation.ece_low:.3f} to {evaluation.ece_high:.3f})"
        f"{_simulated(evaluation)}",
        fontsize="medium",
    )
    return _svg(figure, "Reliability")


def margins(evaluation: Evaluation, examples: Sequence[Example]) -> str:
    """How large the margins are where the model is right and where it is wrong."""
    import numpy as np

    sizes = np.array([abs(e.margin) for e in examples if not e.is_tie])
    right = np.array([bool(e.correct) for e in examples if not e.is_tie], bool)
    figure, axes = _figure(3.6, width=4.6)
    edges = np.linspace(0, np.quantile(sizes, 0.99) or 1.0, 25)
    clipped = np.minimum(sizes, edges[-1])  # the last bar holds all that lie beyond
    axes.hist(
        [clipped[right], clipped[~right]], bins=edges.tolist(), stacked=True, color=[BLUE, ORANGE],
        label=[f"right ({int(right.sum())})", f"wrong ({int((~right).sum())})"],
    )  # fmt: skip
    axes.set(xlabel=f"size of the margin, logits{_simulated(evaluation)}", ylabel="labels")
    axes.legend(frameon=False)
    return _svg(figure, "Margins where the model is right and wrong")


def lengths(evaluation: Evaluation, examples: Sequence[Example]) -> str:
    """The margin of the raters' choice beside how much longer it is: does the model follow length?"""
    import numpy as np

    decided = [e for e in examples if not e.is_tie]
    ratio = np.array([np.log2((1 + _length(e.chosen)) / (1 + _length(e.rejected))) for e in decided])
    margin = np.array([e.margin for e in decided])
    right = margin > 0
    figure, axes = _figure(3.2)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.axvline(0, color=GREY, linewidth=1)
    # Drawn as one picture: thousands of points as shapes would be megabytes.
    axes.plot(ratio[right], margin[right], "o", color=BLUE, alpha=0.5, markersize=3, label="right", rasterized=True)
    axes.plot(ratio[~right], margin[~right], "x", color=ORANGE, alpha=0.7, markersize=4, label="wrong", rasterized=True)
    axes.set(
        xlabel=f"doublings in length from the rejected to the chosen answer{_simulated(evaluation)}",
        ylabel="margin, logits",
    )
    axes.legend(frameon=False)
    return _svg(figure, "Margin beside length")


def _length(chat: Sequence) -> int:
    return sum(len(m.content) for m in chat)


def _simulated(evaluation: Evaluation) -> str:
    return " (simulated raters)" if evaluation.simulated else ""


def _figure(height: float, width: float = 8.0) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _forest(axes: Axes, rows: Sequence[tuple[str, Share]], colours: Sequence[str]) -> None:
    """One row a share, the first on top: a point, its interval, and its value with the number of labels beside it."""
    for y, ((_, share), colour) in enumerate(zip(rows, colours)):
        axes.plot([share.low, share.high], [y, y], color=colour, linewidth=2, alpha=0.6, solid_capstyle="butt")
        axes.plot(share.value, y, "o", color=colour, markersize=6)
        of = f"  ({share.n})" if share.n else ""
        axes.text(1.01, y, f"{share.value:.3f}{of}", va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(rows)), [_plain(label) for label, _ in rows])
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")


def _plain(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar would open a formula."""
    return text.replace("$", r"\$")


def _svg(figure: Figure, title: str) -> str:
    """The figure as an `<svg>` element that names itself to screen readers. Equal figures give equal text."""
    from matplotlib import rc_context

    out = io.StringIO()
    # Text stays text: it is read out, searched, and a tenth of the size of outlines.
    with rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    head, rest = text[text.index("<svg") :].split(">", 1)
    return f'{head} role="img" aria-label="{title}">{rest}'
