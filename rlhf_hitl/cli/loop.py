"""Commands: loop, simulate and report."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, table
from rlhf_hitl.config import Settings, load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import write_text_atomically

if TYPE_CHECKING:
    from rlhf_hitl.kpis import Report


@command("loop")
def loop(
    store: StoreUrl,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in all; call again with the same number to resume.")] = 1,
    simulate: Annotated[bool, typer.Option("--simulate", help="Simulated raters do the judging.")] = False,
    config: Annotated[Path | None, typer.Option(help="YAML with a round's settings (configs/loop.yaml).")] = None,
    policy: Annotated[str | None, typer.Option(help="The policy to start from.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The reward model's backbone.")] = None,
    judgments: Annotated[int | None, typer.Option(min=1, help="Judgments a round.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes prompts and samples.")] = None,
    json: AsJson = False,
) -> Result:
    """Run rounds: sample, route, review, train the reward model, evaluate, tune, promote. Resumable at any point."""
    from rlhf_hitl.loop import Loop, LoopConfig, Waiting
    from rlhf_hitl.store import Store

    flags = {"policy": policy, "backbone": backbone, "judgments_per_round": judgments, "seed": seed}
    settings = load_settings()
    given = _read_config(config) | {k: v for k, v in flags.items() if v is not None}
    chosen = _checked(LoopConfig, given, config)
    opened = Store.open(store, create=True)
    _bundled_set_where_empty(opened)
    said: dict[str, Any] = {}

    def waits(waiting: Waiting) -> None:
        if said.get("line") != str(waiting):
            said["line"] = str(waiting)
            print(f"waiting: {waiting}", file=sys.stderr)
        time.sleep(2)

    def tells(line: str) -> None:
        print(line + (" (simulated raters)" if simulate and line.endswith("review") else ""), file=sys.stderr)

    steps = Loop(opened, settings, chosen, waits=None if simulate else waits, tells=tells).run(rounds)
    report, text = _report(opened, settings)
    data = {
        "rounds": rounds,
        "steps": [{"round": n, "step": step, **result} for (n, step), result in steps.items()],
        "report": report.as_dict(),
    }
    return Result(data, text, more=[_summary(steps)])


@command("simulate")
def simulate(
    store: StoreUrl,
    judgments: Annotated[int, typer.Option(min=1, help="How many at most.")] = 60,
    json: AsJson = False,
) -> Result:
    """Let simulated raters judge what is in the queue, to try the rest out. What they touch is marked simulated."""
    from rlhf_hitl.simulate import review
    from rlhf_hitl.store import Store, queue

    opened = Store.open(store)
    made = review(opened, judgments)
    left = queue.state(opened)
    return Result(
        {"judgments": made, "simulated": True, "queue": left},
        f"{made} simulated judgments; {left['free'] + left['leased']} places left in the queue.",
    )


@command("report")
def report(
    store: StoreUrl,
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained HTML file with plots.")] = None,
    json: AsJson = False,
) -> Result:
    """The five figures a lead watches, with what they stand on."""
    from rlhf_hitl.store import Store

    settings = load_settings()
    found, text = _report(Store.open(store), settings)
    if html is not None:
        from rlhf_hitl.report_html import render

        write_text_atomically(html, render(found))
    return Result(found.as_dict(), text, more=[f"written to {html}"] if html else [])


def _report(store: Any, settings: Settings) -> tuple[Report, Any]:
    from rlhf_hitl.kpis import report

    found = report(store, settings)
    title = "Report" + (" - with simulated raters" if found.simulated else "")
    return found, table(title, [(f.title, str(f), f.note) for f in found.figures], ("figure", "value", "from"))


def _summary(steps: dict[tuple[int, str], dict[str, Any]]) -> Any:
    rows = []
    for (n, step), result in steps.items():
        if step == "evaluate" and result.get("n"):
            accuracy = result["accuracy"]
            rows.append((f"round {n}", f"held-out accuracy {accuracy['value']:.3f} on {result['n']} labels"))
        if step == "promote":
            rows.append((f"round {n}", f"policy {result['policy']} ({'promoted' if result['promoted'] else 'kept'})"))
    return table("Rounds", rows)


def _read_config(path: Path | None) -> dict[str, Any]:
    import yaml

    if path is None:
        return {}
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as e:
        raise BadInput(f"config {path}", expected="a readable YAML file", fix=str(e).splitlines()[0]) from e
    if not isinstance(read, dict):
        raise BadInput(f"config {path}", expected="keys and values", fix="see configs/loop.yaml")
    return read


def _checked(model: Any, given: dict[str, Any], path: Path | None) -> Any:
    from pydantic import ValidationError

    try:
        return model(**given)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"{path or 'flags'}: {key} = {first['input']!r}", expected=first["msg"].lower(), fix="see configs/loop.yaml"
        ) from e


def _bundled_set_where_empty(store: Any) -> None:
    from rlhf_hitl.formats.importing import import_bundled
    from rlhf_hitl.store.comparisons import count_rows

    if not count_rows(store)["prompts"]:
        print("the store is empty: taking the bundled set of prompts and completions", file=sys.stderr)
        import_bundled(store)
