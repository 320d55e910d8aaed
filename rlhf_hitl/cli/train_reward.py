"""Command `train-reward`: train a reward model on the labels of the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rlhf_hitl.cli import AsJson, LabelModelOption, Result, StoreUrl, command, make_table
from rlhf_hitl.cli.reward_models import load_requested_model
from rlhf_hitl.config import DEFAULT_MODEL, load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import Precision
from rlhf_hitl.reward import DEFAULT_MAX_TOKENS
from rlhf_hitl.reward.training import UncertaintyMethod
from rlhf_hitl.types import DEFAULT_LABEL_MODEL
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel
    from rlhf_hitl.store import Store

RewardBackend = Literal["head", "full", "classifier"]

#: The options that only some backends have.
HEAD_OPTIONS = ("--layer", "--pooling", "--uncertainty", "--length-neutral", "--half")
REFUSED_OPTIONS: dict[RewardBackend, tuple[str, ...]] = {
    "head": ("--config",),
    "full": (*HEAD_OPTIONS, "--dtype"),
    "classifier": ("--config", *HEAD_OPTIONS),
}

BackboneName = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        "--model-name-or-path",
        help="Use this backbone: a local folder, a hub id or the name of a fetched model.",
        show_default=DEFAULT_MODEL,
    ),
]


@command(
    "train-reward",
    if_interrupted="no model was made. Give the same command again; what a head has read of the texts is kept",
    counts_time=True,
    extra="train",
)
def train_reward_command(
    store: StoreUrl,
    backbone: BackboneName = None,
    backend: Annotated[
        RewardBackend,
        typer.Option(
            help="Train a head on the frozen backbone (head, in seconds on a CPU) or the whole model with TRL (full, "
            "for a GPU), or adopt the backbone as a trained reward model (classifier), with an uncertainty and a "
            "temperature from the store's labels."
        ),
    ] = "head",
    layer: Annotated[
        int | None, typer.Option(help="Let the head read only this layer.", show_default="three of them")
    ] = None,
    pooling: Annotated[
        Literal["last", "mean"] | None,
        typer.Option(help="Read the states at the EOS (last) or over the completion (mean).", show_default="both"),
    ] = None,
    uncertainty: Annotated[
        UncertaintyMethod | None,
        typer.Option(
            help="Take the head's uncertainty from its posterior or from an ensemble on resampled prompts.",
            show_default="laplace",
        ),
    ] = None,
    length_neutral: Annotated[
        bool, typer.Option("--length-neutral", help="Take what goes with the answers' lengths out of a head's margins.")
    ] = False,
    half: Annotated[
        Literal["first", "second"] | None,
        typer.Option(
            help="Let a head learn from this half of the training prompts only: for a gold model that watches the "
            "tuning on the rewards of another (`gold_reward_model`).",
            show_default="all prompts",
        ),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Update the head of the newest model with new votes only.")
    ] = False,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Cut prompts on the left to fit this many tokens; cut prompts are counted.",
            show_default=str(DEFAULT_MAX_TOKENS),
        ),
    ] = None,
    dtype: Annotated[
        Precision | None,
        typer.Option(help="Compute the frozen backbone in this precision.", show_default="auto"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Read TRL's RewardConfig for --backend full from this YAML file (see configs/reward.yaml)."),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out and count pairs that the chat template refuses or makes the same."),
    ] = False,
    label_model: LabelModelOption = DEFAULT_LABEL_MODEL,
    json: AsJson = False,
) -> Result:
    """Train a reward model on the store's labels and make it the store's newest."""
    from rlhf_hitl.models import refuse_empty_name
    from rlhf_hitl.store import Store

    options = {
        "--config": config, "--layer": layer, "--pooling": pooling, "--dtype": dtype, "--uncertainty": uncertainty,
        "--backbone": backbone, "--max-length": max_length, "--length-neutral": length_neutral or None,
        "--half": half,
    }  # fmt: skip
    if update:
        flags = [flag for flag, value in options.items() if value is not None] + ["--skip-bad"] * skip_bad
        flags += ["--label-model"] * (label_model != DEFAULT_LABEL_MODEL)
        return _update(Store.open(store), flags, backend)
    for flag in REFUSED_OPTIONS[backend]:
        if options[flag] is not None:
            raise BadInput(
                f"{flag} {options[flag]} with --backend {backend}",
                expected=f"{flag} with another backend only",
                fix=f"leave {flag} out or choose another --backend",
            )
    if backbone is not None:
        refuse_empty_name(backbone)
    if backend == "classifier" and backbone is None:
        raise BadInput(
            "--backend classifier without --backbone",
            expected="the folder or hub id of a reward model",
            fix="name it: --backbone owner/name",
        )
    opened = Store.open(store)
    workspace = load_settings().workspace
    # What is missing is reported before anything heavy is imported.
    from rlhf_hitl.arguments import read_yaml_settings
    from rlhf_hitl.models import locate_model_folder
    from rlhf_hitl.reward.bundled_reader import is_bundled_only
    from rlhf_hitl.reward.training.training_labels import load_training_pairs

    values = {} if config is None else read_yaml_settings(config)
    if backend != "classifier":
        load_training_pairs(opened, label_model, half)
    name = backbone or values.get("model_name_or_path") or DEFAULT_MODEL
    if backend != "head" or not is_bundled_only(name):
        locate_model_folder(name)
    backbone_options: dict[str, Any] = {
        k: v for k, v in {"max_length": max_length, "dtype": dtype}.items() if v is not None
    }
    if backend == "full":
        from rlhf_hitl.reward.training.full_from_store import train_full_from_store

        model = train_full_from_store(
            opened,
            backbone,
            workspace,
            default_backbone=DEFAULT_MODEL,
            config=config,
            max_length=max_length,
            skip_bad=skip_bad,
            label_model=label_model,
        )
    elif backend == "classifier":
        from rlhf_hitl.reward.training.classifier_adoption import adopt_classifier

        model = adopt_classifier(
            opened, str(backbone), workspace, skip_bad=skip_bad, label_model=label_model, **backbone_options
        )
    else:
        from rlhf_hitl.reward.backbone import Backbone
        from rlhf_hitl.reward.training.head_training import train_head

        loaded = Backbone(backbone or DEFAULT_MODEL, layer=layer, pooling=pooling, **backbone_options)
        model = train_head(
            opened,
            loaded,
            workspace,
            uncertainty=uncertainty or "laplace",
            skip_bad=skip_bad,
            label_model=label_model,
            length_neutral=length_neutral,
            half=half,
        )
    return _report_model(opened, model, workspace, "adopted" if backend == "classifier" else "trained")


def _update(opened: Store, flags: list[str], backend: RewardBackend) -> Result:
    if flags or backend != "head":
        others = " ".join([*flags, *([] if backend == "head" else [f"--backend {backend}"])])
        raise BadInput(
            f"--update with {others}", expected="--update alone", fix=f"leave out {others}, or train a new model"
        )
    model = load_requested_model(opened, None)
    from rlhf_hitl.reward.training.head_update import update_with_new_votes

    workspace = load_settings().workspace
    updated = update_with_new_votes(opened, model, workspace)
    return _report_model(opened, updated, workspace, "updated" if updated is not model else "unchanged: no new votes")


def _report_model(opened: Store, model: RewardModel, workspace: Path, outcome: str) -> Result:
    from rlhf_hitl.store.reward_models import display_name, get_reward_model

    folder, record = workspace / "reward" / model.id, get_reward_model(opened, model.id)
    # In this order: an updated model's card has the old id.
    data = model.card | {"id": model.id, "name": display_name(record), "path": str(folder)}
    rows = {
        "model": display_name(record, with_id=True),
        "folder": folder,
        "labels (votes)": f"{model.card['train_labels']} ({model.card['train_votes']})",
        "calibration labels": model.card["calibration_labels"],
        **({"half of the training prompts": model.card["half"]} if "half" in model.card else {}),
    }
    title = _make_title(model.card, outcome)
    return Result(
        data,
        make_table(title, rows),
        more=[*_explain_cuts(model), *_explain_left_out(model.card), "Next: rlhf-hitl evaluate"],
    )


def _make_title(card: Mapping[str, Any], outcome: str) -> str:
    """Return what happened to a model, and on how many labels it learnt where some of them are simulated."""
    from rlhf_hitl.reward.evaluation_record import LabelOrigin

    origin = LabelOrigin.of_card(card)
    if origin is None or not origin.has_simulated:
        return f"Reward model {outcome}"
    return f"Reward model {outcome}{' on' if outcome == 'trained' else ', learnt from'} {origin.text}"


def _explain_cuts(model: RewardModel) -> list[str]:
    prompts, completions = model.card["prompts_cut"], model.card["completions_cut"]
    if not prompts and not completions:
        return []
    counted = f"{say_count(prompts, 'prompt')} lost the beginning and {say_count(completions, 'completion')} the end"
    fix = "A model judges by what it has read: give a higher --max-length"
    return [f"To fit {model.cache.backbone.renderer.max_length:,} tokens, {counted}. {fix}."]


def _explain_left_out(card: Mapping[str, Any]) -> list[str]:
    """Say what the model has not read: labels that were left out, and text that its chat template left out."""
    lines = [
        f"{say_count(one['count'], 'label')} left out: {one['reason']} (such as prompt {one['prompts'][0]})"
        for one in card.get("left_out", {}).values()
    ]
    if unshown := card.get("unshown"):
        parts = (f"{name.partition(': ')[2]} of {say_count(n, name.partition(':')[0])}" for name, n in unshown.items())
        lines.append(f"The chat template leaves out the {', the '.join(parts)}: the model has not read them.")
    return lines
