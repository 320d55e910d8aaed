"""The plot of a tuning: what was made larger, what it cost, and what the watch saw, one panel each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf_hitl.report_page import BLUE, GREY, ORANGE, draw_svg

#: Panels: title → (name in the legend, figure in the history), of which those are drawn that were logged. Two
#: figures of one name are one thing, which methods log under different names.
PANELS: dict[str, tuple[tuple[str, str], ...]] = {
    "reward": (("reward", "reward_before_penalty"), ("reward", "reward"), ("gold reward", "gold")),
    "KL to the reference, nats an answer": (("KL", "kl"),),
    "tokens of an answer": (("tokens", "tokens"), ("tokens", "completions/mean_length")),
    "shares of answers": (("without text", "empty"), ("repeated", "repeated"), ("different", "distinct")),
    "loss": (("loss", "loss"),),
    "margin": (("margin", "rewards/margins"),),
    "entropy, nats a token": (("entropy", "entropy"),),
}
COLOURS = (BLUE, ORANGE, GREY)


def plot_training(history: Sequence[Mapping[str, float]], title: str) -> str:
    """Return what was logged of a training, a panel for each kind, as the text of one SVG; "" where nothing was."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = {panel: lines for panel, names in PANELS.items() if (lines := _read_lines(history, names))}
    if not panels:
        return ""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.3 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (panel, lines) in zip(places, panels.items()):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_title(panel, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for (label, steps, values), colour in zip(lines, COLOURS):
            axes.plot(steps, values, color=colour, label=label, marker="o" if len(steps) < 30 else None, markersize=3)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    return draw_svg(figure, title)


def _read_lines(
    history: Sequence[Mapping[str, float]], names: Sequence[tuple[str, str]]
) -> list[tuple[str, list[int], list[float]]]:
    """Return label, steps and values of the figures that were logged; of two with one label the first."""
    lines: dict[str, tuple[str, list[int], list[float]]] = {}
    for label, name in names:
        steps, values = _read_series(history, name)
        if steps:
            lines.setdefault(label, (label, steps, values))
    return list(lines.values())


def _read_series(history: Sequence[Mapping[str, float]], name: str) -> tuple[list[int], list[float]]:
    """Return the steps, from 1, that logged a figure, and the figure."""
    logged = [(i, row[name]) for i, row in enumerate(history, 1) if isinstance(row.get(name), int | float)]
    return [step for step, _ in logged], [value for _, value in logged]
