"""Commands `loop` and `simulate`: run rounds, and let simulated raters judge."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, make_table
from rlhf_hitl.cli.report import make_report_table
from rlhf_hitl.cli.reward_models import describe_model
from rlhf_hitl.config import load_settings
from rlhf_hitl.terminal import print_note
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.loop.config import LoopConfig
    from rlhf_hitl.store import Store

#: The settings of a round that have flags.
FLAGS = {
    "policy": "--policy", "backbone": "--backbone", "judgments_per_round": "--judgments", "seed": "--seed",
    "acquisition": "--acquisition",
}  # fmt: skip


@command(
    "loop",
    if_interrupted="finished steps are kept. The same command goes on with the step that was not finished",
    extra="train",
)
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
    acquisition: Annotated[
        str | None, typer.Option(help="Ask raters by this rule, as `route` does.", show_default="the file's, or auto")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Set the choice of prompts and the samples.")] = None,
    json: AsJson = False,
) -> Result:
    """Run rounds: sample, route, review, label, train, evaluate, gate, tune, promote. Resumes where it stopped."""
    settings = load_settings()
    flags = {"policy": policy, "backbone": backbone, "judgments_per_round": judgments, "seed": seed}
    flags["acquisition"] = acquisition
    checked = _make_config(config, flags)
    if checked.routing is not None:
        from rlhf_hitl.routing.rules_file import load_rules

        load_rules(checked.routing, "routing:")  # what cannot be used is reported before anything is done
    from rlhf_hitl.kpis import compute_kpi_report
    from rlhf_hitl.loop import Loop, PromotionProgress, ReviewProgress
    from rlhf_hitl.models import locate_model_folder
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.loop_steps import read_finished_steps

    opened = Store.open(store, create=True)
    # What is missing is reported before torch is imported. Later rounds begin with the policy that was promoted.
    if not any(step == "promote" for _, step in read_finished_steps(opened)):
        locate_model_folder(checked.policy)
    locate_model_folder(checked.backbone)
    _import_bundled_set_if_empty(opened)
    printed = ""

    def wait(progress: ReviewProgress | PromotionProgress) -> None:
        nonlocal printed
        if printed != str(progress):
            printed = str(progress)
            print_note(f"waiting: {progress}")
        time.sleep(2)

    def print_step(line: str) -> None:
        print_note(line + (" (simulated raters)" if simulate and line.endswith(("review", "promote")) else ""))

    runner = Loop(opened, settings, checked, on_wait=None if simulate else wait, on_step=print_step)
    steps = runner.run(rounds)
    report = compute_kpi_report(opened, settings)
    data = {
        "rounds": rounds,
        "steps": [{"round": n, "step": step, **result} for (n, step), result in steps.items()],
        "report": report.as_dict(),
    }
    return Result(data, make_report_table(report), more=[_summarise_rounds(opened, steps)])


@command("simulate", if_interrupted="the judgments made so far are kept. The same command makes more")
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
    waiting = places["free"] + places["leased"]
    more = [] if count else [_explain_no_work(places)]
    return Result(
        {"judgments": count, "simulated": True, "queue": places},
        f"{say_count(count, 'simulated judgment')}; {say_count(waiting, 'place')} left in the queue.",
        more=more,
    )


def _explain_no_work(places: dict[str, int]) -> str:
    """Return why simulated raters found nothing to judge, and what to do."""
    if not sum(places.values()):
        return (
            "The store has nothing to judge. Load the bundled set with `rlhf-hitl quickstart --no-serve`, or your own "
            "with `rlhf-hitl import`"
        )
    if not places["free"] + places["leased"]:
        return "All that was wanted is judged. Import or generate more, or ask for more judgments of each (--overlap)"
    return "What is left waits for other raters: it is paused, for members only, in hand, or judged by these already"


def _summarise_rounds(store: Store, steps: dict[tuple[int, str], dict[str, Any]]) -> Any:
    rows = []
    for (n, step), result in steps.items():
        if step == "evaluate" and result.get("n"):
            accuracy, labels = result["accuracy"], say_count(result["n"], "label")
            rows.append((f"round {n}", f"held-out accuracy {accuracy['value']:.1%} on {labels}"))
        if step == "train_reward":
            rows.append((f"round {n}", f"reward model {describe_model(store, result['reward_model_id'])}"))
        if step == "promote":
            kept = "promoted" if result["promoted"] else "kept"
            rows.append((f"round {n}", f"policy {result['policy']} ({kept}: {result.get('reason', '')})"))
    return make_table("Rounds", rows)


def _make_config(file: Path | None, flags: dict[str, Any]) -> LoopConfig:
    """Return the settings of a round: those of the file, over which flags go.

    Raises:
        BadInput: a setting is unknown or has a value that cannot be used; the error names the file or the flag.
    """
    from pydantic import ValidationError

    from rlhf_hitl.arguments import read_yaml_settings
    from rlhf_hitl.loop.config import LoopConfig
    from rlhf_hitl.validation import make_bad_input

    values = {} if file is None else read_yaml_settings(file)
    given = {name: value for name, value in flags.items() if value is not None}

    def name_value(place: str, value: Any) -> str:
        if place in given:
            return f"{FLAGS[place]} {value}"
        return f"{file}: {place} = {value!r}" if place else str(file)

    try:
        return LoopConfig(**{str(name): value for name, value in values.items()} | given)
    except ValidationError as e:
        raise make_bad_input(
            e, name_value, fix="correct it, or leave it out; see configs/loop.yaml", known=LoopConfig.model_fields
        ) from e


def _import_bundled_set_if_empty(store: Any) -> None:
    from rlhf_hitl.formats.importing import import_bundled
    from rlhf_hitl.store.comparisons import count_rows

    if not count_rows(store)["prompts"]:
        print_note("the store is empty: taking the bundled set of prompts and completions")
        import_bundled(store)
