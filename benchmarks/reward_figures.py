"""The tables of reward models, for `figures.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def draw_reward_accuracy(f: dict[str, Any]) -> str:
    names = {
        "hh": f"HH-RLHF helpful-base, {f['hh.pairs']:,} pairs",
        "mt_bench": "MT-Bench",
        "llmfao": "LLMFAO",
    }
    rows = (
        f"| {title} | {f[f'{n}.labels']:,} ({f[f'{n}.prompts']:,}) | {f[f'{n}.accuracy']:.1%} "
        f"({f[f'{n}.accuracy.low']:.1%} to {f[f'{n}.accuracy.high']:.1%}) | {f[f'{n}.floor.length']:.1%} | "
        f"{f[f'{n}.floor.bag_of_words']:.1%} | {f[f'{n}.ece']:.1%} "
        f"({f[f'{n}.ece.low']:.1%} to {f[f'{n}.ece.high']:.1%}) |\n"
        for n, title in names.items()
    )
    return (
        "| head on SmolLM2-135M | labels (prompts) | accuracy (95 % interval) | floor: length | floor: bag of words | "
        "calibration error (95 % interval) |\n| --- | ---: | ---: | ---: | ---: | ---: |\n" + "".join(rows)
    )


def draw_reward_head(f: dict[str, Any]) -> str:
    return (
        f"| head with {f['inputs']} inputs, votes with strengths and ties | time |\n| --- | ---: |\n"
        f"| refit on {f['labels']:,} labels | {f['refit_s']:.2f} s |\n"
        f"| choose the vote weight by cross-validation | {f['choice_s']:.0f} s |\n"
        f"| update after one label | {f['update_ms']:.1f} ms |\n"
    )


def draw_doubt(f: dict[str, Any]) -> str:
    names = ("mt_bench", "llmfao", "bundled", "mt_bench_gpt4", "llmfao_gpt4")
    rows = "".join(
        f"| {name} | {f[f'{name}.labels']:,} | {f[f'{name}.nll']:.3f} | {f[f'{name}.nll_change']:+.4f} | "
        f"{f[f'{name}.nll_change.doubt']:+.4f} | {f[f'{name}.nll_change.calibration']:+.4f} |\n"
        for name in names
    )
    pairs = [k.removesuffix(".auc") for k in f if k.endswith(".auc")]
    shifts = "".join(
        f"| {home} | {other} | {f[f'{home}.{other}.auc']:.2f} ({f[f'{home}.{other}.auc.without']:.2f}) | "
        f"{f[f'{home}.{other}.home_barred']:.0%} | {f[f'{home}.{other}.elsewhere_barred']:.0%} | "
        f"{f[f'{home}.{other}.accepted']:.0%} ({f[f'{home}.{other}.accepted.without']:.0%}) | "
        f"{f[f'{home}.{other}.error']:.2f} ({f[f'{home}.{other}.error.without']:.2f}) |\n"
        for home, other in (pair.split(".") for pair in pairs)
    )
    return (
        "| votes of | labels | log likelihood lost at T = 1, a vote | change by T | by T and doubt | "
        "by the calibration split's T |\n| --- | ---: | ---: | ---: | ---: | ---: |\n" + rows + "\n"
        f"The worst of all sets and repeats is {f['nll_change']:+.4f} by T, "
        f"{f['nll_change.doubt']:+.4f} by T and doubt.\n\n"
        "| home | elsewhere | area under the curve (posterior alone) | barred at home | barred elsewhere | "
        "accepted (nothing barred) | wrong of these |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
        + shifts
        + "\n"
        f"The mean area is {f['elsewhere_auc']:.3f} (0.8 was aimed at); by the posterior alone it is "
        f"{f['elsewhere_auc.without']:.3f}. The highest share wrong is {f['shifted_error']:.3f}, for a bound of "
        f"{f['alpha']:.2f}.\n"
    )


def draw_label_efficiency(f: dict[str, Any]) -> str:
    def name(figure: str, rule: str) -> str:
        return figure if rule == "auto" else f"{figure}.{rule}"

    def make_cell(figure: str, rule: str) -> str:
        key = name(figure, rule)
        return f"{f[key]:.2f} ({f[f'{key}.low']:.2f} to {f[f'{key}.high']:.2f})"

    listed = {k.removeprefix("mean_label_share.") for k in f if k.startswith("mean_label_share.")}
    rules = sorted(
        (rule for rule in listed if not rule.endswith(("low", "high"))), key=lambda rule: f[f"mean_label_share.{rule}"]
    )
    sets = ("hh", "mt_bench", "llmfao")
    rows = "".join(
        f"| {'**auto**' if rule == 'auto' else rule} | {make_cell('mean_label_share', rule)} | "
        + " | ".join(make_cell(f"{of}.label_share", rule) for of in sets)
        + " |\n"
        for rule in ("auto", *rules)
    )
    sizes = ", ".join(f"{of}: {f[f'{of}.budget']} of {f[f'{of}.pool']}" for of in sets)
    return (
        "| rule | mean | HH | MT-Bench | LLMFAO |\n| --- | ---: | ---: | ---: | ---: |\n"
        + rows
        + f"\nBudgets of labels, and the pools they are asked of: {sizes}.\n"
    )


def draw_features_speed(f: dict[str, Any]) -> str:
    def make_row(precision: str, prefix: str) -> str:
        ratio, worst, best = (f[f"{prefix}tokens_ratio{end}"] for end in ("", ".worst_turn", ".best_turn"))
        return (
            f"| {precision} | {f[f'{prefix}library.tokens_per_s']:,.0f} | {f[f'{prefix}fused.tokens_per_s']:,.0f} | "
            f"{ratio:.1f} ({worst:.1f} to {best:.1f}) |\n"
        )

    def describe_change(name: str, key: str) -> str:
        change, low, high = (100 * f[f"{key}.accuracy_change{end}"] for end in ("", ".low", ".high"))
        return (
            f"On {f[f'{key}.labels']} labels of {name} a head on the fused decoder's features is right in "
            f"{f[f'{key}.fused.accuracy']:.1%}, on the library's in {f[f'{key}.library.accuracy']:.1%} "
            f"({change:+.1f} points, {low:+.1f} to {high:+.1f}). "
        )

    return (
        f"| tokens a second, {f['threads']} threads | as the library runs it | fused | ratio (worst to best turn) |\n"
        "| --- | ---: | ---: | ---: |\n"
        + (make_row("bfloat16", "") + make_row("float32", "float32.") if f["bits"] == 16 else make_row("float32", ""))
        + "\n"
        + f"The two ways' features differ by {f['features_difference']:.1%} in bfloat16 (by rounding), in the mean. "
        + (describe_change("HH-RLHF helpful-base", "hh") + describe_change("MT-Bench", "mt_bench")).strip()
        + "\n"
    )


def draw_reward_training(f: dict[str, Any]) -> str:
    return _draw_speeds(f, "training", "TRL's `RewardTrainer`")


def draw_reward_scoring(f: dict[str, Any]) -> str:
    return _draw_speeds(f, "scoring", "the text-classification pipeline")


def _draw_speeds(f: dict[str, Any], task: str, stock: str) -> str:
    return (
        f"| {task} | pairs per second |\n| --- | ---: |\n"
        f"| {stock} | {f['stock.pairs_per_s']:.2f} |\n"
        f"| rlhf_hitl | {f['ours.pairs_per_s']:.2f} |\n"
        f"\nrlhf_hitl is {f['pairs_ratio']:.1f} times as fast (from {f['pairs_ratio.low']:.1f} to "
        f"{f['pairs_ratio.high']:.1f} in the {f['turns']} turns), "
        f"and {f['processor.pairs_ratio']:.1f} times as fast by processor time. "
        f"{f['pairs']} pairs, measured in turns on {f['threads']} thread{'s' * (f['threads'] > 1)}; "
        f"the machine's load average was {f['load']:.0f}.\n"
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "doubt": draw_doubt,
    "features_speed": draw_features_speed,
    "label_efficiency": draw_label_efficiency,
    "reward_accuracy": draw_reward_accuracy,
    "reward_head": draw_reward_head,
    "reward_scoring": draw_reward_scoring,
    "reward_training": draw_reward_training,
}
