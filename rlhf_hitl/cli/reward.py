"""Commands of the reward model: train-reward, score, route. `evaluate` has a file of its own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, table
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput


class Backend(StrEnum):
    HEAD = "head"
    FULL = "full"


ModelId = Annotated[
    str | None, typer.Option("--reward-model", help="Its id or folder; the newest of the store by default.")
]
BACKBONE = "smollm2-135m-instruct"
BackboneName = Annotated[
    str | None,
    typer.Option("--backbone", help="A local folder, a hub id or a fetched model's name.", show_default=BACKBONE),
]


@command("train-reward")
def train_reward(
    store: StoreUrl,
    backbone: BackboneName = None,
    backend: Annotated[Backend, typer.Option(help="head: frozen backbone, seconds on a CPU. full: TRL, for a GPU.")] = (
        Backend.HEAD
    ),
    layer: Annotated[
        int | None, typer.Option(help="Backbone layer of the head's features.", show_default="what predicts best")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="last: read at the EOS. mean: over the completion.", show_default="the same")
    ] = None,
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

    other = {"--config": config} if backend is Backend.HEAD else {
        "--layer": layer, "--pooling": pooling, "--dtype": dtype
    }  # fmt: skip
    for flag, value in other.items():
        if value is not None:
            raise BadInput(
                f"{flag} {value} with --backend {backend.value}",
                expected="it with the other backend only",
                fix=f"leave {flag} out or choose the other --backend",
            )
    opened = Store.open(store)
    workspace = load_settings().workspace
    if backend is Backend.FULL:
        from rlhf_hitl.reward.full import train_full

        # What is not typed is the file's to say.
        backbone = backbone or (None if config else BACKBONE)
        model = train_full(opened, backbone, workspace, config=config, max_length=max_length)
    else:
        from rlhf_hitl.reward.features import Backbone
        from rlhf_hitl.reward.train import train_head

        made = Backbone(
            backbone or BACKBONE, layer=layer, pooling=pooling, max_length=max_length or 1024, dtype=dtype or "auto"
        )
        model = train_head(opened, made, workspace)
    folder = workspace / "reward" / model.id
    data = {"id": model.id, "path": str(folder), **model.card}
    rows = {
        "model": model.id,
        "folder": folder,
        "labels (votes)": f"{model.card['train_labels']} ({model.card['train_votes']})",
        "calibration labels": model.card["calibration_labels"],
        "cut prompts / completions": f"{model.card['prompts_cut']} / {model.card['completions_cut']}",
    }
    title = "Reward model trained" + (" on simulated judgments" if model.card["simulated"] else "")
    return Result(data, table(title, rows), more=["Next: rlhf-hitl evaluate"])


@command("score")
def score(store: StoreUrl, reward_model: ModelId = None, json: AsJson = False) -> Result:
    """Score every comparison that is not judged yet."""
    from rlhf_hitl.store import Store

    opened = Store.open(store)
    model = load_model(opened, reward_model)
    from rlhf_hitl.routing.router import score_pool

    scores = score_pool(opened, model)
    data = {"reward_model_id": model.id, "scored": len(scores)}
    if scores:
        data["mean_margin"] = sum(s.margin for s in scores) / len(scores)
        data["mean_uncertainty"] = sum(s.uncertainty for s in scores) / len(scores)
    return Result(data, table("Scored", data), more=["Next: rlhf-hitl route"])


@command("route")
def route(
    store: StoreUrl,
    reward_model: ModelId = None,
    max_error: Annotated[float, typer.Option(help="Bound on the share of accepted comparisons that are wrong.")] = 0.1,
    delta: Annotated[float, typer.Option(help="Chance that the bound fails.")] = 0.05,
    control_share: Annotated[float, typer.Option(help="Share that goes to raters at random, to measure both.")] = 0.1,
    json: AsJson = False,
) -> Result:
    """Send scored comparisons to raters, or accept those the model is sure of, under a bound on its errors."""
    from dataclasses import asdict

    from rlhf_hitl.routing.router import Policy, route_pool, score_pool
    from rlhf_hitl.store import Store

    policy = Policy(max_error, delta, control_share)
    opened = Store.open(store)
    model = load_model(opened, reward_model)
    score_pool(opened, model)
    routed = route_pool(opened, model, policy)
    data = {
        "reward_model_id": model.id,
        "routes": routed.counts,
        "threshold": asdict(routed.threshold) | {"reason": routed.threshold.reason},
    }
    if routed.threshold.accepts_nothing:
        data["threshold"]["value"] = None  # infinity is not JSON
    return Result(data, table("Routed", routed.counts), more=[routed.threshold.reason])


def load_model(store, name: str | None):
    """A reward model by folder or id, the store's newest for None."""
    from rlhf_hitl.store import ledger

    if name is None:
        ledger.reward_model(store)  # says what is missing before anything heavy is imported
    from rlhf_hitl.reward.train import open_reward_model

    return open_reward_model(store, name, load_settings().workspace)
