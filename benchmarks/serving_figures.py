"""The tables of the server, the queue, imports, the catalog and errors, for `figures.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


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
    "bulk": draw_bulk,
    "catalog": draw_catalog,
    "contention": draw_contention,
    "crash": draw_crash,
    "error_latency": draw_error_latency,
    "hostile_load": draw_hostile_load,
    "queue_scale": draw_queue_scale,
    "rater_latency": draw_rater_latency,
    "vs_label_studio": draw_vs_label_studio,
}
