"""Draw the documentation's tables from `results/*.json`, between `<!-- figures: NAME -->` and `<!-- /figures -->`.

python benchmarks/figures.py            write them            (make docs-figures)
python benchmarks/figures.py --check    fail if one is stale  (a test)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tuning_figures

ROOT = Path(__file__).parent.parent
MARK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- /figures -->)", re.DOTALL)


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


def draw_rater_latency(f: dict[str, Any]) -> str:
    def make_row(name: str, key: str) -> str:
        return f"| {name} | {f[f'{key}p50_ms']:.0f} | {f[f'{key}p95_ms']:.0f} | {f[f'{key}n']} |\n"

    return (
        f"{f['raters']} raters, each of whom answers every {f['think_s']:.0f} s:\n\n"
        "| milliseconds | median | 95th percentile | measurements |\n| --- | ---: | ---: | ---: |\n"
        + make_row("from Enter to the next comparison on the screen", "")
        + make_row("from Enter to the server's confirmation that the judgment is saved", "confirmed_")
        + make_row("a bare Gradio button, from the click to its answer", "bare_")
        + f"\nThe 95th percentile of the next comparison is {f['p95_ratio']:.2f} times that of the bare button.\n"
    )


def draw_crash(f: dict[str, Any]) -> str:
    def make_row(name: str, key: str) -> str:
        return f"| {name} | {f[f'sqlite.{key}']:,} | {f[f'postgres.{key}']:,} |\n"

    return (
        "| | SQLite | PostgreSQL |\n| --- | ---: | ---: |\n"
        + make_row("kills of the server", "kills")
        + f"| kills of the database | | {f['postgres.server_kills']} |\n"
        + make_row("judgments confirmed", "confirmed")
        + make_row("confirmed judgments lost or changed", "lost")
        + make_row("judgments saved twice", "doubled")
        + make_row("judgments that no rater sent", "unasked")
        + make_row("comparisons with more judgments than wanted", "overshot")
    )


def draw_contention(f: dict[str, Any]) -> str:
    def make_row(name: str, key: str, form: str = ",") -> str:
        return f"| {name} | {f[f'sqlite.{key}']:{form}} | {f[f'postgres.{key}']:{form}} |\n"

    return (
        f"{f['clients']} raters at once on {f['comparisons']} comparisons that want {f['wanted']:,} judgments:\n\n"
        "| | SQLite, one process | PostgreSQL, two processes |\n| --- | ---: | ---: |\n"
        + make_row("judgments that count", "judgments")
        + make_row("surplus", "surplus")
        + make_row("lease + submit, per second", "cycles_per_s", ".0f")
        + make_row("95th percentile (ms)", "p95_ms", ".0f")
        + f"\nSecond judgments of a rater on the same comparison: {f['repeats']}. "
        f"Comparisons with more judgments than wanted: {f['overshot']}.\n"
    )


def draw_queue_scale(f: dict[str, Any]) -> str:
    sizes = [key.removeprefix("sqlite.p95_ms_") for key in f if key.startswith("sqlite.p95_ms_")]
    names = {"10k": "10,000", "100k": "100,000", "1m": "1,000,000"}

    def make_row(name: str, database: str) -> str:
        cells = (f"{f[f'{database}.p50_ms_{n}']:.1f} / {f[f'{database}.p95_ms_{n}']:.1f}" for n in sizes)
        return f"| {name} | {' | '.join(cells)} | {f[f'{database}.p95_growth']:.2f} |\n"

    return (
        f"| lease + submit by queued comparisons, median / 95th percentile (ms) "
        f"| {' | '.join(names[n] for n in sizes)} | growth of the 95th percentile |\n"
        f"| --- |{' ---: |' * (len(sizes) + 1)}\n" + make_row("SQLite", "sqlite") + make_row("PostgreSQL", "postgres")
    )


def draw_vs_label_studio(f: dict[str, Any]) -> str:
    ways = {
        "label_studio.start": "Label Studio, `label-studio start`",
        "label_studio.gunicorn": "Label Studio, gunicorn with two workers",
        "ours.one": "`rlhf-hitl serve`",
        "ours.two": "`rlhf-hitl serve --workers 2`",
    }
    rows = (
        f"| {name} | {f[f'{way}.cycles_per_s']:.1f} | {f[f'{way}.p50_ms']:.0f} | {f[f'{way}.p95_ms']:.0f} |\n"
        for way, name in ways.items()
    )
    return (
        f"{f['raters']} raters, {f['comparisons']:,} comparisons, PostgreSQL:\n\n"
        "| next task + submit | per second | median (ms) | 95th percentile (ms) |\n"
        "| --- | ---: | ---: | ---: |\n" + "".join(rows) + "\nIn the faster setup of each, rlhf_hitl serves "
        f"{f['cycles_ratio']:.1f} times as many per second, with {f['p95_ratio']:.2f} times the 95th percentile.\n"
    )


def draw_bulk(f: dict[str, Any]) -> str:
    def make_row(name: str, rows: str, peak: str) -> str:
        return f"| {name} | {f[rows]:,.0f} | {f[peak]:,.0f} MB |\n"

    return (
        f"| {f['judgments']:,.0f} judgments, SQLite | judgments per second | peak memory |\n| --- | ---: | ---: |\n"
        + make_row("export an archive", "export_rows_per_s", "export_peak_mb")
        + make_row("import an archive", "import_rows_per_s", "import_peak_mb")
        + make_row("import votes from a JSONL file", "jsonl.import_rows_per_s", "jsonl.import_peak_mb")
        + make_row("export a snapshot as JSON lines", "jsonl.export_rows_per_s", "jsonl.export_peak_mb")
        + make_row("export a snapshot for TRL", "trl.export_rows_per_s", "trl.export_peak_mb")
    )


def draw_catalog(f: dict[str, Any]) -> str:
    kinds = {
        "list the newest": "open",
        "go on anywhere in the list": "page.deep",
        "search for words": "search.",
        "filter": "filter.",
        "count facets": "facets.",
        "open one with its history": "detail",
    }

    def make_row(what: str, begin: str) -> str:
        names = [k.removeprefix("postgres.")[: -len(".p95_ms")] for k in f if k.endswith(".p95_ms")]
        slowest = max((n for n in names if n.startswith(begin)), key=lambda n: f[f"postgres.{n}.p95_ms"])
        return f"| {what} | {f[f'postgres.{slowest}.p50_ms']:.0f} | {f[f'postgres.{slowest}.p95_ms']:.0f} | 300 |\n"

    return (
        f"| {f['comparisons']:,} comparisons, PostgreSQL; of each the slowest kind | median (ms) "
        "| 95th percentile (ms) | allowed |\n| --- | ---: | ---: | ---: |\n"
        + "".join(make_row(*row) for row in kinds.items())
        + f"\nThe machine's load average was {f['load']:.0f}.\n"
    )


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


def draw_conservative(f: dict[str, Any]) -> str:
    def make_row(case: str, k: str) -> str:
        labels, noise = case.split(".", 1)
        name = f"{case}.k{k}"
        gain = (
            ""
            if k == "0"
            else f"{f[f'{name}.gain']:+.2f} ({f[f'{name}.gain.low']:+.2f} to {f[f'{name}.gain.high']:+.2f})"
        )
        right = "" if f[f"{name}.right"] is None else f"{f[f'{name}.right']:.0%}"
        turned = f", {float(noise):.0%} turned round" if float(noise) else ""
        return f"| {labels}{turned} | {k} | {f[f'{name}.gold']:.2f} | {gain} | {f[f'{name}.pairs']:.0%} | {right} |\n"

    cases = dict.fromkeys(name.rsplit(".k", 1)[0] for name in f if ".k" in name)
    return (
        f"Of {f['prompts']:.0f} left-out prompts of the bundled set with four answers each (*simulated* votes, "
        f"{f['seeds']:.0f} seeds):\n\n"
        "| labels learnt | k | gold reward of the best by the conservative reward | change by k | prompts with a pair "
        "| of these right by gold |\n| --- | ---: | ---: | ---: | ---: | ---: |\n"
        + "".join(make_row(case, k) for case in cases for k in ("0", "0.5", "1", "2"))
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


def draw_promotion(f: dict[str, Any]) -> str:
    rates = ("40", "45", "50", "55", "60")
    kinds = (
        ("votes alone", "", "wrong.votes_alone"),
        (f"with predictions ({f['correlation']:.2f})", "_ppi", "wrong_ppi"),
        (f"with better ones ({f['correlation.all_pairs']:.2f})", "_ppi.all_pairs", "wrong_ppi.all_pairs"),
        ("with a model that is wrong", "_ppi.wrong_way", "wrong_ppi.wrong_way"),
    )
    rows = "".join(
        f"| {name} | "
        + " | ".join(f"{f[f'size_share{kind}.at_{rate}'] * f['fixed_size']:.0f}" for rate in rates)
        + f" | {f[f'size_share{kind}']:.0%} | {f[wrong]:.1%} | {f[f'power{kind}']:.0%} |\n"
        for name, kind, wrong in kinds
    )
    return (
        "| true win rate | " + " | ".join(f"{rate} %" for rate in rates) + " | share | wrong | promoted at 60 % |\n"
        "| --- |" + " ---: |" * (len(rates) + 3) + "\n" + rows + "\n"
        f"Outcomes until a decision, the mean of {f['runs']:,} *simulated* promotions with a least gain of 0.1. A test "
        f"of a fixed size takes {f['fixed_size']}; *share* is the mean over win rates from 40 to 60 % by that. *Wrong* "
        "is the largest share that is promoted at 50 % or less. In brackets: how predictions correlate with single "
        "votes, which are those of a head for MT-Bench within one pair of policies, and over all pairs of policies. "
        f"With predictions, {f['fresh']} prompts that nobody judges come with each that is judged (`--prompts`). "
        f"Predictions bring the share to 45 % from a correlation of about {f['needed_correlation']:.2f} on. With a "
        f"least gain of 0.05 and the same win rates, a test of a fixed size takes {f['gain_5.fixed_size']}, and the "
        f"shares are {f['gain_5.size_share']:.0%} and {f['gain_5.size_share_ppi']:.0%}.\n"
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


def draw_hostile_load(f: dict[str, Any]) -> str:
    def make_row(attack: str, what: str, value: str, limit: str) -> str:
        return f"| {attack} | {what} | {value} | {limit} |\n"

    rows = "".join(
        make_row(
            f"an import of a million votes, {name}",
            "submit, 95th percentile, during it / before it",
            f"{f[f'{key}.submit_p95_import_ms']:.0f} / {f[f'{key}.submit_p95_ms']:.0f} ms: "
            f"{f[f'{key}.import_submit_ratio']:.2f}; longest write {f[f'{key}.longest_write_ms']:.0f} ms; "
            f"refused: {f[f'{key}.refused']:.0f}; {f[f'{key}.import_rows_per_s']:,.0f} votes a second",
            "2; 250 ms; 0",
        )
        for name, key in (("SQLite", "sqlite"), ("PostgreSQL", "postgres"))
    )
    return (
        "| attack | what is measured | measured | allowed |\n| --- | --- | ---: | ---: |\n"
        + make_row(
            "the worst body of each operation, 20 clients without an account",
            "`/healthz`, 99th percentile",
            f"{f['nobody.healthz_p99_ms']:.0f} ms",
            "250 ms",
        )
        + make_row("the same with a lead's token", "the same", f"{f['lead.healthz_p99_ms']:.0f} ms", "250 ms")
        + make_row(
            f"3,000 idle connections and 500 slow senders ({f['slow_senders.connections_open']:,.0f} open in the mean)",
            "submit, 95th percentile, during it / before it",
            f"{f['slow_senders.submit_p95_ms']:.0f} / {f['slow_senders.quiet_submit_p95_ms']:.0f} ms: "
            f"{f['slow_senders_ratio']:.2f}",
            "2",
        )
        + rows
        + make_row(
            f"{f['cards']} cards of nasty texts, each for the first time",
            "drawing one, median / 99th percentile",
            f"{f['card_p50_ms']:.0f} / {f['card_p99_ms']:.0f} ms",
            "200 ms",
        )
    )


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


def draw_error_latency(f: dict[str, Any]) -> str:
    return (
        f"{f['mistakes']} typical mistakes, each made {f['runs'] // f['mistakes']} times:\n\n"
        "| seconds from the start of the command to its error | measured | allowed |\n| --- | ---: | ---: |\n"
        f"| median | {f['p50_s']:.1f} | |\n"
        f"| 95th percentile | {f['p95_s']:.1f} | 3 |\n"
        f"| slowest | {f['worst_s']:.1f} | |\n"
        f"\nThe slowest takes {f['processor_worst_s']:.1f} seconds of a processor; the machine's load average was "
        f"{f['load']:.0f}.\n"
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "contention": draw_contention,
    "doubt": draw_doubt,
    "conservative": draw_conservative,
    "ppi": draw_ppi,
    "features_speed": draw_features_speed,
    "first_minutes": draw_first_minutes,
    "hostile_load": draw_hostile_load,
    "bulk": draw_bulk,
    "catalog": draw_catalog,
    "crash": draw_crash,
    "error_latency": draw_error_latency,
    "rater_latency": draw_rater_latency,
    "audit": draw_audit,
    "promotion": draw_promotion,
    "automation": draw_automation,
    "label_efficiency": draw_label_efficiency,
    "labels_accuracy": draw_labels_accuracy,
    "labels_adaptive": draw_labels_adaptive,
    "labels_simulation": draw_labels_simulation,
    "loop_time": draw_loop_time,
    "queue_scale": draw_queue_scale,
    "replay": draw_replay,
    "reward_accuracy": draw_reward_accuracy,
    "reward_head": draw_reward_head,
    "reward_scoring": draw_reward_scoring,
    "reward_training": draw_reward_training,
    "route_scale": draw_route_scale,
    "vs_label_studio": draw_vs_label_studio,
    **tuning_figures.TABLES,
}


def draw_tables(text: str) -> str:
    """Return a document with new tables. Exits if the benchmark of a table has not been run."""

    def draw_table(match: re.Match[str]) -> str:
        path = Path(__file__).parent / "results" / f"{match[2]}.json"
        if not path.exists():
            sys.exit(f"{path.name} does not exist: run `python benchmarks/{match[2]}.py`")
        result = json.loads(path.read_text(encoding="utf-8"))
        m = result["machine"]
        where = f"<sub>`{result['command']}`, {result['date']}, {m['cores']} cores, {m['gpu'] or 'no GPU'}</sub>\n"
        return match[1] + TABLES[match[2]](result["figures"]) + "\n" + where + match[3]

    return MARK.sub(draw_table, text)


def main() -> None:
    stale = []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        if (new := draw_tables(text)) != text:
            stale.append(document.name)
            if "--check" not in sys.argv:
                document.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"stale figures in {', '.join(stale)}: run `make docs-figures`")


if __name__ == "__main__":
    main()
