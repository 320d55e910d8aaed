"""The tables of labels, for `figures.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def draw_labels_accuracy(f: dict[str, Any]) -> str:
    names = {
        "majority": "majority", "dawid_skene": "Dawid-Skene", "label": "our label",
        "crowdlab": "CROWDLAB (with the reward model)", "consensus": "our consensus (with the reward model)",
    }  # fmt: skip
    out = (
        f"| set | votes | {' | '.join(names.values())} | the consensus over the best of the three |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    for key, title in (("llmfao", "LLMFAO"), ("mt_bench", "MT-Bench")):
        for n in (1, 2, 3):
            cells = " | ".join(f"{f[f'{key}.accuracy.{name}_{n}']:.1%}" for name in names)
            gain, low, high = (f[f"{key}.accuracy_gain_{n}{end}"] * 100 for end in ("", ".low", ".high"))
            out += f"| {title} | {n} | {cells} | {gain:+.1f} points ({low:+.1f} to {high:+.1f}) |\n"
    return out


def draw_labels_adaptive(f: dict[str, Any]) -> str:
    def interval(key: str, scale: float = 1, form: str = ".2f") -> str:
        value, low, high = (f[f"adaptive.{key}{end}"] * scale for end in ("", ".low", ".high"))
        return f"{value:{form}} ({low:{form}} to {high:{form}})"

    return (
        f"At the price that simulated votes suggest ({f['adaptive.price']:g}) the rule asks for "
        f"{interval('votes_share')} of the votes, and the labels' accuracy changes by "
        f"{interval('accuracy_change', 100, '+.1f')} points against three votes of each. The votes of a pair over "
        f"those with which ActiveLab's own labels are as good: {interval('vs_activelab')}; with our labels of "
        f"ActiveLab's votes: {interval('vs_activelab.labels')} (below 1: fewer votes).\n"
    )


def draw_labels_simulation(f: dict[str, Any]) -> str:
    rows = "".join(
        f"| {name} | {f[f'coverage.{key}']:.1%} | {f[f'coverage.ordinary.{key}']:.1%} |\n"
        for key, name in (
            ("reliability", "reliability"), ("position_bias", "position bias"), ("tie_width", "tie width"),
        )
    )  # fmt: skip
    return (
        f"| in the 95 % interval, {f['coverage.runs']} runs (*simulated*) | populations drawn | ordinary population |\n"
        f"| --- | ---: | ---: |\n{rows}\n"
        "Where a fifth of the raters answers at random and a tenth always chooses what is shown first, labels lose "
        f"{f['spam.loss_ratio']:.0%} of the accuracy that the majority loses; to leave out the votes of these raters, "
        f"were they known, costs {f['spam.known_loss_ratio']:.0%}.\n"
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "labels_accuracy": draw_labels_accuracy,
    "labels_adaptive": draw_labels_adaptive,
    "labels_simulation": draw_labels_simulation,
}
