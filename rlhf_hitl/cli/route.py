"""Commands `score` and `route`: decide which comparisons go to raters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Interrupted, Result, SliceName, StoreUrl, command, make_table
from rlhf_hitl.cli.launch import launch_processes
from rlhf_hitl.cli.reward_models import RewardModelName, describe_model, load_requested_model
from rlhf_hitl.config import load_settings
from rlhf_hitl.reward.readability import Obstacle
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.routing.router import RoutingReport
    from rlhf_hitl.routing.scoring import ScoringSummary
    from rlhf_hitl.routing.threshold import Threshold
    from rlhf_hitl.store import Store


@command("score", counts_time=True, extra="train")
def score_comparisons_command(
    store: StoreUrl,
    reward_model: RewardModelName = None,
    length_neutral: Annotated[
        bool,
        typer.Option(
            "--length-neutral",
            help="Take what goes with the answers' lengths out of the margins: a model without it is made and used.",
        ),
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Score in this many processes, started by `accelerate launch`.")
    ] = 1,
    json: AsJson = False,
) -> Result:
    """Score every comparison that no person has judged yet."""
    from rlhf_hitl.store import Store

    opened = Store.open(store)
    model = load_requested_model(opened, reward_model)
    if length_neutral and not model.card.get("length_neutral"):
        from rlhf_hitl.reward.training.head_update import remove_length

        model = remove_length(opened, model, load_settings().workspace)
        reward_model = model.id
    from rlhf_hitl.routing.scoring import score_pool
    from rlhf_hitl.store.scores import count_scores

    before = count_scores(opened, model.id)
    with _explain_interruption(opened, model.id, "score"):
        if processes > 1:
            arguments = ["--reward_model", model.id if reward_model is None else reward_model]
            launch_processes("rlhf_hitl.scripts.score", arguments, processes, store=store)
        summary = score_pool(opened, model)  # after several processes: what was added meanwhile
    data = {
        "reward_model_id": model.id,
        "scored": count_scores(opened, model.id) - before,
        "without_text": summary.without_text,
        "left_out": summary.left_out.as_dict(),
        "doubts": summary.doubts.as_dict(),
    }
    if summary.scored and processes == 1:
        data |= {"mean_margin": summary.mean_margin, "mean_uncertainty": summary.mean_uncertainty}
    rows = {name: value for name, value in data.items() if name not in ("reward_model_id", "left_out", "doubts")}
    return Result(
        data,
        make_table(f"Scored with {describe_model(opened, model.id)}", rows),
        more=[*_explain_reading(summary), *summary.doubts.lines, "Next: rlhf-hitl route"],
    )


@command("route", counts_time=True, extra="train")
def route_comparisons_command(
    store: StoreUrl,
    reward_model: RewardModelName = None,
    config: Annotated[
        str | None,
        typer.Option(help="Follow the rules in this YAML file, or those that come with the package by their name."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Keep the share of accepted comparisons that are wrong below this bound.", show_default="0.1"
        ),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Allow the bound to fail with this probability.", show_default="0.05")
    ] = None,
    control_share: Annotated[
        float | None,
        typer.Option(
            help="Send this share to raters at random, to measure the model and the router.", show_default="0.1"
        ),
    ] = None,
    audit_share: Annotated[
        float, typer.Option(help="Have raters judge this share of what is accepted, at random, to watch the bound.")
    ] = 0.05,
    acquisition: Annotated[
        str,
        typer.Option(
            help="Ask raters by this rule: auto, random, least-margin, entropy, mutual-information, d-optimal, "
            "double-thompson, double-reverse-thompson or optimistic-gaps. auto takes what is measured to teach most."
        ),
    ] = "auto",
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Where the model is not sure enough, put what it says together with the votes of this AI judge, which "
            "`judges run` asked; repeat it for several, the cheapest first."
        ),
    ] = None,
    slice: SliceName = None,
    json: AsJson = False,
) -> Result:
    """Send scored comparisons to raters, or accept those the model is sure of, with a bound on its errors."""
    from rlhf_hitl.routing.config import RoutingConfig
    from rlhf_hitl.routing.rules import RoutingRules
    from rlhf_hitl.routing.rules_file import load_rules
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.slices import find_slice_ids

    rules = RoutingRules() if config is None else load_rules(config)
    shares = {"max_error": max_error, "delta": delta, "control_share": control_share}
    others = {"audit_share": audit_share, "acquisition": acquisition, "judges": tuple(judge or ())}
    settings = RoutingConfig.from_rules(rules, **shares, **others)
    opened = Store.open(store)
    chosen = find_slice_ids(opened, slice)
    model = load_requested_model(opened, reward_model)
    from rlhf_hitl.routing.router import route_pool
    from rlhf_hitl.routing.scoring import score_pool

    with _explain_interruption(opened, model.id, "route"):
        summary = score_pool(opened, model, comparison_ids=chosen)
        routed = route_pool(opened, model, settings, comparison_ids=chosen)
    data = {
        "reward_model_id": model.id,
        "routes": routed.counts,
        "by_rule": routed.by_rule,
        "without_text": summary.without_text,
        "left_out": summary.left_out.as_dict(),
        "doubts": routed.doubts.as_dict(),
        "halted": list(routed.halted),
        "sent_by_leads": routed.sent_by_leads,
        "demanded": {name: _describe_threshold(of) for name, of in routed.demanded.items()},
        "threshold": _describe_threshold(routed.threshold),
        "acquisition": routed.gains.as_dict(),
        "cascade": _describe_cascade(routed),
    }
    halted = [f"Nothing is accepted: {said}" for said in routed.halted]
    if routed.sent_by_leads:
        sent = say_count(routed.sent_by_leads, "comparison stays", "comparisons stay")
        halted.append(f"{sent} with raters, because a lead sent them there")
    rules = _explain_rules(routed.by_rule)
    asked = f"Raters are asked by {routed.gains.rule}: {routed.gains.reason}"
    more = [
        *_explain_reading(summary), *halted, *rules, *routed.doubts.lines, *_explain_thresholds(routed),
        *_explain_cascade(routed), asked, str(routed.gains),
    ]  # fmt: skip
    return Result(data, make_table(f"Routed with {describe_model(opened, model.id)}", routed.counts), more=more)


def _explain_thresholds(routed: RoutingReport) -> list[str]:
    """Say from which confidence on was accepted, and what more labels would bring: of each project where a lead demands
    something, and of the others."""
    said = [(f"Project {name}, as a lead demands: ", of) for name, of in routed.demanded.items()]
    if routed.projects - routed.demanded.keys() or not said:
        said.append(("Other projects: " if said else "", routed.threshold))
    lines = []
    for of_whom, threshold in said:
        lines.append(of_whom + threshold.reason)
        if threshold.advice:
            rules = ", before what rules send to people" if routed.by_rule else ""
            lines.append(f"{of_whom}{threshold.advice}{rules}")
    return lines


def _describe_cascade(routed: RoutingReport) -> dict[str, Any] | None:
    cascade = routed.acceptance.cascade
    if cascade is None:
        said = routed.acceptance.unheard
        return {"judges": [], "reason": said, "confirmed": 0} if said else None
    counts = {"confirmed": routed.confirmed, "fitted": cascade.fitted, "tested": cascade.asked}
    return {"judges": list(cascade.names), "threshold": _describe_threshold(cascade.threshold)} | counts


def _explain_cascade(routed: RoutingReport) -> list[str]:
    cascade = routed.acceptance.cascade
    if cascade is None:
        return [f"No judge is heard: {routed.acceptance.unheard}"] if routed.acceptance.unheard else []
    accepted = say_count(routed.confirmed, "comparison was", "comparisons were")
    return [f"{accepted} accepted because judges made them sure: {cascade.reason}"]


def _describe_threshold(threshold: Threshold) -> dict[str, Any]:
    """Return a threshold as JSON has it: infinity is null."""
    from dataclasses import asdict

    value = None if threshold.accepts_nothing else threshold.value
    return asdict(threshold) | {"value": value, "reason": threshold.reason, "advice": threshold.advice}


#: A route → what is said of a comparison that a rule sent there.
SENT = {"human": "to raters", "escalated": "to raters, before all others", "auto": "accepted, as the bound allows"}


def _explain_rules(by_rule: dict[str, dict[str, int]]) -> list[str]:
    """Say what each rule did: `12 by rule 'dosage': to raters, before all others`."""
    return [
        f"{count:,} by rule '{name}': {SENT.get(route, route)}"
        for name, routes in by_rule.items()
        for route, count in routes.items()
    ]


@contextmanager
def _explain_interruption(store: Store, model_id: str, name: str) -> Iterator[None]:
    """Say what is kept when somebody stops the work, and how to go on."""
    from rlhf_hitl.store.scores import count_scores

    try:
        yield
    except KeyboardInterrupt:
        kept = count_scores(store, model_id)
        scored = say_count(kept, "comparison has its score", "comparisons have their score")
        raise Interrupted(
            f"interrupted: {scored}, and what the model has read of others is kept. Give "
            "the same command again: it goes on from there"
            + (" and decides for all that nobody has judged" if name == "route" else "")
        ) from None


def _explain_reading(summary: ScoringSummary) -> list[str]:
    """Say which comparisons got no score, and what the chat template left out of the others."""
    lines = []
    if without_text := summary.without_text:
        counted = say_count(without_text, "comparison has", "comparisons have")
        them = "it" if without_text == 1 else "them"
        lines.append(f"{counted} a completion without text: raters judge {them} without a score")
    others = summary.left_out.lines(but=Obstacle.NO_TEXT)
    lines += [f"{line}. Raters judge without a score" for line in others]
    return lines + ([summary.unshown] if summary.unshown else [])
