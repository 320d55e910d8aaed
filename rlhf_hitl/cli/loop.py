"""Commands `loop` and `simulate`: run rounds, and let simulated raters judge."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, make_table
from rlhf_hitl.cli.report import make_report_table
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.terminal import print_note


@command("loop")
def run_loop_command(
    store: StoreUrl,
    rounds: Annotated[
        int, typer.Option(min=1, help="Finish this many rounds in all; to resume, give the same number again.")
    ] = 1,
    simulate: Annotated[bool, typer.Option("--simulate", help="Let simulated raters do the judging.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="Read the settings of a round from this YAML file (see configs/loop.yaml).")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Start from this policy.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Train reward models on this backbone.")] = None,
    judgments: Annotated[int | None, typer.Option(min=1, help="Wait for this many judgments in a round.")] = None,
    seed: Annotated[int | None, typer.Option(help="Set the choice of prompts and the samples.")] = None,
    json: AsJson = False,
) -> Result:
    """Run rounds: sample, route, review, train the reward model, evaluate, tune, promote. Resumes where it stopped."""
    from rlhf_hitl.kpis import compute_kpi_report
    from rlhf_hitl.loop import Loop, LoopConfig, ReviewProgress
    from rlhf_hitl.store import Store

    flags = {"policy": policy, "backbone": backbone, "judgments_per_round": judgments, "seed": seed}
    settings = load_settings()
    values = _read_config(config) | {k: v for k, v in flags.items() if v is not None}
    checked = _validate(LoopConfig, values, config)
    opened = Store.open(store, create=True)
    _import_bundled_set_if_empty(opened)
    printed = ""

    def wait(progress: ReviewProgress) -> None:
        nonlocal printed
        if printed != str(progress):
            printed = str(progress)
            print_note(f"waiting: {progress}")
        time.sleep(2)

    def print_step(line: str) -> None:
        print_note(line + (" (simulated raters)" if simulate and line.endswith("review") else ""))

    runner = Loop(opened, settings, checked, on_wait=None if simulate else wait, on_step=print_step)
    steps = runner.run(rounds)
    report = compute_kpi_report(opened, settings)
    data = {
        "rounds": rounds,
        "steps": [{"round": n, "step": step, **result} for (n, step), result in steps.items()],
        "report": report.as_dict(),
    }
    return Result(data, make_report_table(report), more=[_summarise_rounds(steps)])


@command("simulate")
def simulate_raters_command(
    store: StoreUrl,
    judgments: Annotated[int, typer.Option(min=1, help="Make at most this many judgments.")] = 60,
    json: AsJson = False,
) -> Result:
    """Let simulated raters judge what is in the queue, to try things out. Their judgments are marked as simulated."""
    from rlhf_hitl.simulate import judge_queue
    from rlhf_hitl.store import Store, queue

    opened = Store.open(store)
    count = judge_queue(opened, judgments)
    places = queue.count_places(opened)
    return Result(
        {"judgments": count, "simulated": True, "queue": places},
        f"{count} simulated judgments; {places['free'] + places['leased']} places left in the queue.",
    )


def _summarise_rounds(steps: dict[tuple[int, str], dict[str, Any]]) -> Any:
    rows = []
    for (n, step), result in steps.items():
        if step == "evaluate" and result.get("n"):
            accuracy = result["accuracy"]
            rows.append((f"round {n}", f"held-out accuracy {accuracy['value']:.1%} on {result['n']} labels"))
        if step == "promote":
            rows.append((f"round {n}", f"policy {result['policy']} ({'promoted' if result['promoted'] else 'kept'})"))
    return make_table("Rounds", rows)


def _read_config(path: Path | None) -> dict[str, Any]:
    import yaml

    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as e:
        raise BadInput(f"config {path}", expected="a readable YAML file", fix=str(e).splitlines()[0]) from e
    if not isinstance(content, dict):
        raise BadInput(f"config {path}", expected="keys and values", fix="see configs/loop.yaml")
    return content


def _validate(model: Any, values: dict[str, Any], path: Path | None) -> Any:
    """Return the pydantic model of these values. Raises BadInput that names the first wrong one."""
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"{path or 'flags'}: {key} = {first['input']!r}", expected=first["msg"].lower(), fix="see configs/loop.yaml"
        ) from e


def _import_bundled_set_if_empty(store: Any) -> None:
    from rlhf_hitl.formats.importing import import_bundled
    from rlhf_hitl.store.comparisons import count_rows

    if not count_rows(store)["prompts"]:
        print_note("the store is empty: taking the bundled set of prompts and completions")
        import_bundled(store)
