"""Command `train-reward`: train a reward model on the labels of the store."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, table
from rlhf_hitl.cli.reward_models import load_model
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput


class Backend(StrEnum):
    HEAD = "head"
    FULL = "full"
    CLASSIFIER = "classifier"


class Uncertainty(StrEnum):
    LAPLACE = "laplace"
    BOOTSTRAP = "bootstrap"


BACKBONE = "smollm2-135m-instruct"


BackboneName = Annotated[
    str | None,
    typer.Option("--backbone", help="A local folder, a hub id or a fetched model's name.", show_default=BACKBONE),
]


@command("train-reward")
def train_reward(
    store: StoreUrl,
    backbone: BackboneName = None,
    backend: Annotated[
        Backend,
        typer.Option(
            help="head: frozen backbone, seconds on a CPU. full: TRL, for a GPU. classifier: the backbone is a trained "
            "reward model and is taken as it is, with an uncertainty and a temperature from the store's labels."
        ),
    ] = Backend.HEAD,
    layer: Annotated[
        int | None, typer.Option(help="The one backbone layer the head reads.", show_default="three of them")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="last: read at the EOS. mean: over the completion.", show_default="both")
    ] = None,
    uncertainty: Annotated[
        Uncertainty | None,
        typer.Option(help="Of the head: its posterior, or an ensemble on drawn prompts.", show_default="laplace"),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Go on from the newest model: only votes that are new move its head.")
    ] = False,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tokens; the prompt's left is cut, and counted.", show_default="1024")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32 or bfloat16, of the frozen backbone.", show_default="auto")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML of TRL's RewardConfig, for --backend full (configs/reward.yaml).")
    ] = None,
    json: AsJson = False,
) -> Result:
    """Train a reward model on the store's labels and make it the store's newest."""
    from rlhf_hitl.store import Store

    given = {
        "--config": config, "--layer": layer, "--pooling": pooling, "--dtype": dtype, "--uncertainty": uncertainty,
        "--backbone": backbone, "--max-length": max_length,
    }  # fmt: skip
    if update:
        return _update(Store.open(store), [flag for flag, value in given.items() if value is not None], backend)
    of_head = ["--layer", "--pooling", "--uncertainty"]
    for flag in {"head": ["--config"], "full": [*of_head, "--dtype"], "classifier": ["--config", *of_head]}[backend]:
        if given[flag] is not None:
            raise BadInput(
                f"{flag} {given[flag]} with --backend {backend.value}",
                expected="it with another backend only",
                fix=f"leave {flag} out or choose another --backend",
            )
    if backend is Backend.CLASSIFIER and backbone is None:
        raise BadInput(
            "--backend classifier without --backbone",
            expected="the folder or hub id of a reward model",
            fix="name it: --backbone owner/name",
        )
    opened = Store.open(store)
    workspace = load_settings().workspace
    if backend is Backend.FULL:
        from rlhf_hitl.reward.training.full_from_store import train_full_from_store

        model = train_full_from_store(
            opened, backbone, workspace, default_backbone=BACKBONE, config=config, max_length=max_length
        )
    elif backend is Backend.CLASSIFIER:
        from rlhf_hitl.reward.training.classifier_adoption import adopt_classifier

        model = adopt_classifier(opened, str(backbone), workspace, max_length=max_length or 1024, dtype=dtype or "auto")
    else:
        from rlhf_hitl.reward.backbone import Backbone
        from rlhf_hitl.reward.training.head_training import train_head
        from rlhf_hitl.reward.training.training_labels import load_training_pairs

        load_training_pairs(opened)  # says what is missing before the backbone is loaded
        made = Backbone(
            backbone or BACKBONE, layer=layer, pooling=pooling, max_length=max_length or 1024, dtype=dtype or "auto"
        )
        model = train_head(opened, made, workspace, uncertainty="laplace" if uncertainty is None else uncertainty.value)
    return _trained(model, workspace, "taken in" if backend is Backend.CLASSIFIER else "trained")


def _update(opened, flags: list[str], backend: Backend) -> Result:
    if flags or backend is not Backend.HEAD:
        given = " ".join([*flags, *([] if backend is Backend.HEAD else [f"--backend {backend.value}"])])
        raise BadInput(f"--update with {given}", expected="--update alone", fix="the model keeps what it has")
    model = load_model(opened, None)
    from rlhf_hitl.reward.training.head_update import update_with_new_votes

    workspace = load_settings().workspace
    updated = update_with_new_votes(opened, model, workspace)
    return _trained(updated, workspace, "updated" if updated is not model else "as it was: no new votes")


def _trained(model, workspace: Path, done: str) -> Result:
    folder = workspace / "reward" / model.id
    data = model.card | {"id": model.id, "path": str(folder)}  # in this order: an updated model's card has the old id
    rows = {
        "model": model.id,
        "folder": folder,
        "labels (votes)": f"{model.card['train_labels']} ({model.card['train_votes']})",
        "calibration labels": model.card["calibration_labels"],
        "cut prompts / completions": f"{model.card['prompts_cut']} / {model.card['completions_cut']}",
    }
    title = f"Reward model {done}" + (" on simulated judgments" if model.card["simulated"] else "")
    return Result(data, table(title, rows), more=["Next: rlhf-hitl evaluate"])
