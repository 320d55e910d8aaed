"""The tables of routing, for `figures.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def draw_automation(f: dict[str, Any]) -> str:
    def make_row(name: str, key: str) -> str:
        return "".join(
            f"| {name}, {bound} % | {f[f'{key}.coverage_at_{bound}']:.1%} | {f[f'{key}.oracle_at_{bound}']:.1%} | "
            f"{f[f'{key}.violations_at_{bound}']:.1%} |\n"
            for bound in (10, 5)
        )

    ways = (("cascade.head_alone", "the head alone"), ("cascade.gpt4_alone", "GPT-4 alone"), ("cascade", "both"))
    cascade = "".join(
        f"| {name} | {f[f'{key}.coverage_at_10']:.1%} | {f[f'{key}.coverage_at_5']:.1%} | "
        f"{max(f[f'{key}.violations_at_10'], f[f'{key}.violations_at_5']):.1%} |\n"
        for key, name in ways
    )
    power = "".join(
        f"| {name} | {f[f'{key}.share_at_20']:.1%} | {f[f'{key}.share_at_15']:.1%} |\n"
        for key, name in (("power", "250 labels"), ("power.with_training", "and 1,000 training labels out of fold"))
    )
    return (
        f"| set, errors of at most | accepted | an oracle accepts | bound broken (delta is {f['delta']:.0%}) |\n"
        "| --- | ---: | ---: | ---: |\n" + make_row("MT-Bench", "mt_bench") + make_row("LLMFAO", "llmfao") + "\n"
        "| MT-Bench, asked in turn | accepted at 10 % | at 5 % | bound broken |\n| --- | ---: | ---: | ---: |\n"
        + cascade
        + "\n| *simulated* judges: accepted, of what an oracle accepts | at 20 % | at 15 % |\n| --- | ---: | ---: |\n"
        + power
        + f"\nThe bound was broken in at most {f['power.broken']:.1%} of the simulated splits of any kind.\n"
    )


def draw_audit(f: dict[str, Any]) -> str:
    rows = "".join(
        f"| {accepted:,} | {f[f'{key}stopped']:.0%} | {f[f'{key}stopped_week']:.0%} | {f[f'{key}days']:.0f} | "
        f"{f[f'{key}false_stops']:.1%} |\n"
        for accepted, key in ((200, "audit.200_a_day."), (1000, "audit."), (5000, "audit.5000_a_day."))
    )
    return (
        "| accepted a day | stopped before the error of all that was accepted passed 15 % | before that of the last "
        "seven days did | days to the stop (median) | falsely stopped at an error of exactly 10 % |\n"
        "| ---: | ---: | ---: | ---: | ---: |\n" + rows
    )


def draw_route_scale(f: dict[str, Any]) -> str:
    rules = [k.removesuffix(".seconds") for k in f if k.endswith(".seconds")]
    return "| rule | seconds | peak memory |\n| --- | ---: | ---: |\n" + "".join(
        f"| {rule} | {f[f'{rule}.seconds']:.1f} | {f[f'{rule}.peak_mb']:,.0f} MB |\n" for rule in rules
    )


def draw_ppi(f: dict[str, Any]) -> str:
    words = {"wins": "the head", "judge": "GPT-4", "both": "the mean of both", "ceiling": "a perfect word"}
    rows = "".join(
        f"| {word} | {f[f'mt_bench.{kind}.width_ratio']:.2f} | {f[f'llmfao.{kind}.width_ratio']:.2f} |\n"
        for kind, word in words.items()
    )
    return (
        "| width by that of the plain interval, with the word of | MT-Bench | LLMFAO |\n| --- | ---: | ---: |\n"
        + rows
        + f"\nIntervals hold the truth in {f['coverage']:.1%} ({f['coverage.low']:.1%} to {f['coverage.high']:.1%}), "
        f"the plain ones in {f['coverage.plain']:.1%}.\n"
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "audit": draw_audit,
    "automation": draw_automation,
    "ppi": draw_ppi,
    "route_scale": draw_route_scale,
}
