"""The tables of the whole: from the installation to a loop's rounds, for `figures.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def draw_replay(f: dict[str, Any]) -> str:
    def make_row(name: str, key: str) -> str:
        cells = []
        for part in ("", "crossed."):
            interval = f" ({f[f'{part}{key}.low']:.1%} to {f[f'{part}{key}.high']:.1%})" if key == "accuracy" else ""
            cells.append(f"{f[part + key]:.1%}{interval}")
        return f"| {name} | {cells[0]} | {cells[1]} |\n"

    return (
        f"| accuracy (95 % interval) | held-out questions | the {f['crossed.questions']} others, cross-validated |\n"
        "| --- | ---: | ---: |\n"
        + make_row("reward model (head on SmolLM2-135M)", "accuracy")
        + make_row("floor: length", "floor.length")
        + make_row("floor: bag of words", "floor.bag_of_words")
        + f"| labels | {f['heldout_labels']} | {f['crossed.labels']} |\n"
        f"\nThe figures leave out ties. The calibration error on the held-out questions is "
        f"{f['ece']:.1%} ({f['ece.low']:.1%} to {f['ece.high']:.1%}).\n"
    )


def draw_loop_time(f: dict[str, Any]) -> str:
    shares = {
        "Model accuracy before human review": f["report.accuracy_before_review"],
        "Human intervention rate": f["report.intervention_rate"],
        "Error reduction by review": f["report.error_reduction"],
    }
    accepted_nothing = f["report.intervention_rate"] == 1
    rows = "".join(f"| {k} | {'not known yet' if v is None else f'{v:.1%}'} |\n" for k, v in shares.items())
    return (
        f"{f['rounds']:.0f} rounds with SmolLM2-135M took {f['minutes']:.0f} minutes. "
        "The report after them, with *simulated* raters:\n\n"
        "| figure | value |\n| --- | ---: |\n"
        + rows
        + f"| Average review time | {f['report.review_seconds']:.1f} s |\n"
        f"| Cost per processed comparison | {f['report.cost_per_comparison']:.3f} USD |\n"
        + (
            "\nThe router accepted nothing: there were too few calibration labels to bound its error.\n"
            if accepted_nothing
            else ""
        )
    )


def draw_first_minutes(f: dict[str, Any]) -> str:
    def make_row(name: str, value: str, worst: str) -> str:
        return f"| {name} | {value} | {worst} |\n"

    return (
        f"{f['runs']} newcomers, each with {f['judgments']} *simulated* judgments of their own:\n\n"
        "| | mean | worst |\n| --- | ---: | ---: |\n"
        + make_row("from `quickstart` to the sign-in page", "", f"{f['first_page_s']:.0f} s")
        + make_row("`train-reward`, `evaluate` and `route` together", "", f"{f['train_evaluate_route_s']:.0f} s")
        + make_row(f"accuracy on {f['heldout_labels']:.0f} held-out labels", f"{f['accuracy']:.1%}", "")
        + make_row("the same before their own judgments", f"{f['author_alone.accuracy']:.1%}", "")
        + make_row(
            "above the highest floor, in points",
            f"{100 * f['accuracy_over_floor']:.1f}",
            f"{100 * f['accuracy_over_floor.worst']:.1f}",
        )
        + make_row(
            "accepted by the router under its default bound",
            f"{f['accepted_share']:.0%}",
            f"{f['accepted_share.worst']:.0%}",
        )
        + f"\nThe whole interval of the accuracy is above every floor in {f['clear_of_floors']} of {f['runs']} runs. "
        + (
            "These simulated judgments add nothing to what the author's rankings teach about this set.\n"
            if f["author_alone.accuracy"] >= f["accuracy"]
            else "\n"
        )
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "first_minutes": draw_first_minutes,
    "loop_time": draw_loop_time,
    "replay": draw_replay,
}
