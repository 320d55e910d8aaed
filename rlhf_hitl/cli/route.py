"""Commands `score` and `route`: decide which comparisons go to raters."""

from __future__ import annotations

from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, make_table
from rlhf_hitl.cli.launch import launch_processes
from rlhf_hitl.cli.reward_models import ModelId, load_requested_model


@command("score", counts_time=True)
def score_comparisons_command(
    store: StoreUrl,
    reward_model: ModelId = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Score in this many processes, started by `accelerate launch`.")
    ] = 1,
    json: AsJson = False,
) -> Result:
    """Score every comparison that is not judged yet."""
    from rlhf_hitl.store import Store

    opened = Store.open(store)
    model = load_requested_model(opened, reward_model)
    from rlhf_hitl.routing.scoring import score_pool
    from rlhf_hitl.store.scores import count_scores

    before = count_scores(opened, model.id)
    if processes > 1:
        arguments = ["--reward_model", reward_model or model.id]
        launch_processes("rlhf_hitl.scripts.score", arguments, processes, store=store)
    summary = score_pool(opened, model)  # after several processes: what was added meanwhile
    data = {
        "reward_model_id": model.id,
        "scored": count_scores(opened, model.id) - before,
        "without_text": summary.without_text,
    }
    if summary.scored and processes == 1:
        data |= {"mean_margin": summary.mean_margin, "mean_uncertainty": summary.mean_uncertainty}
    return Result(
        data, make_table("Scored", data), more=[*_explain_without_text(summary.without_text), "Next: rlhf-hitl route"]
    )


@command("route", counts_time=True)
def route_comparisons_command(
    store: StoreUrl,
    reward_model: ModelId = None,
    max_error: Annotated[
        float, typer.Option(help="Keep the share of accepted comparisons that are wrong below this bound.")
    ] = 0.1,
    delta: Annotated[float, typer.Option(help="Allow the bound to fail with this probability.")] = 0.05,
    control_share: Annotated[
        float, typer.Option(help="Send this share to raters at random, to measure the model and the router.")
    ] = 0.1,
    json: AsJson = False,
) -> Result:
    """Send scored comparisons to raters, or accept those the model is sure of, with a bound on its errors."""
    from dataclasses import asdict

    from rlhf_hitl.routing.router import RoutingConfig, route_pool
    from rlhf_hitl.routing.scoring import score_pool
    from rlhf_hitl.store import Store

    config = RoutingConfig(max_error, delta, control_share)
    opened = Store.open(store)
    model = load_requested_model(opened, reward_model)
    summary = score_pool(opened, model)
    routed = route_pool(opened, model, config)
    data = {
        "reward_model_id": model.id,
        "routes": routed.counts,
        "without_text": summary.without_text,
        "threshold": asdict(routed.threshold) | {"reason": routed.threshold.reason},
    }
    if routed.threshold.accepts_nothing:
        data["threshold"]["value"] = None  # infinity is not JSON
    more = [*_explain_without_text(summary.without_text), routed.threshold.reason]
    return Result(data, make_table("Routed", routed.counts), more=more)


def _explain_without_text(without_text: int) -> list[str]:
    if not without_text:
        return []
    return [f"{without_text} comparisons have a completion without text: raters judge them without a score"]
