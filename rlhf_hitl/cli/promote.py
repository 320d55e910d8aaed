"""Command `promote`: raters compare a new policy with an old one, blind, until a test has decided."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Interrupted, Result, StoreUrl, command, make_table
from rlhf_hitl.cli.endpoint_options import (
    ApiKeyEnv,
    ApiKeyFile,
    Budget,
    Concurrency,
    PriceIn,
    PriceOut,
    Timeout,
    find_endpoints,
    say_calls,
)
from rlhf_hitl.cli.reward_models import RewardModelName, load_requested_model
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.extras import require_extra
from rlhf_hitl.terminal import print_note
from rlhf_hitl.types import DEFAULT_PROJECT

if TYPE_CHECKING:
    from rlhf_hitl.store.promotions import Promotion

#: Seconds between two looks at what raters said.
LOOK_INTERVAL = 2.0


@command("promote")
def promote_command(
    policy: Annotated[
        str | None,
        typer.Option(
            help="Try this new policy: a model folder, a hub id, a name, or a .jsonl file of its answers that "
            "`generate --out` wrote."
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Compare it with this policy, which is in use; the same kinds.")
    ] = None,
    endpoint: Annotated[
        str,
        typer.Option(help="Compare it with a model behind this OpenAI-compatible endpoint instead of --against."),
    ] = "",
    model: Annotated[str | None, typer.Option(help="The model, as the endpoint calls it.")] = None,
    api_key_env: ApiKeyEnv = "",
    api_key_file: ApiKeyFile = "",
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    budget: Budget = None,
    timeout: Timeout = 120.0,
    concurrency: Concurrency = 4,
    reward_model: RewardModelName = None,
    no_reward_model: Annotated[
        bool, typer.Option("--no-reward-model", help="Decide on the votes alone, without a reward model's help.")
    ] = False,
    judgments: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Ask raters about this many prompts at most.",
            show_default="all held-out prompts, up to twice what a test of a fixed size would take",
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Let both policies answer this many held-out prompts at most. Those that are not judged make the "
            "reward model's predictions help.",
            show_default="all",
        ),
    ] = None,
    least_gain: Annotated[
        float, typer.Option(help="Reject the new policy once a win rate of 0.5 and this is ruled out.")
    ] = 0.1,
    alpha: Annotated[float, typer.Option(help="Promote what is no better with this chance at most.")] = 0.05,
    beta: Annotated[float, typer.Option(help="Reject what is better by --least-gain with this chance at most.")] = 0.1,
    overlap: Annotated[int, typer.Option(min=1, help="Have each comparison judged by this many raters.")] = 1,
    beside: Annotated[
        bool, typer.Option("--beside", help="Mix the comparisons with the other work instead of putting them first.")
    ] = False,
    project: Annotated[str, typer.Option(help="Ask the raters of this project.")] = DEFAULT_PROJECT,
    temperature: Annotated[float, typer.Option(help="Sample both policies at this temperature.")] = 0.7,
    top_p: Annotated[
        float, typer.Option(help="Sample both from the likeliest tokens of this total probability.")
    ] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="End answers after this many tokens.")] = 160,
    seed: Annotated[int, typer.Option(help="Set the order of the prompts and the samples.")] = 0,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Let simulated raters decide, to try it out. The result says so.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Open the promotion, or look at it, and return at once.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Only list the promotions of the store, and how they stand.")
    ] = False,
    end: Annotated[
        int | None, typer.Option(help="Only end the promotion of this number as it stands; the old policy is kept.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out and count prompts that a chat template refuses.")
    ] = False,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Have raters compare a new policy with an old one, blind, until that is decided.

    Waits for the decision, and exits with 0 if the new policy is promoted and with 1 if it is rejected or nothing is
    shown. With --no-wait, --list and --end the exit code is 0; --json says how the promotion stands.
    """
    from rlhf_hitl.store import Store

    endpoints = find_endpoints(
        endpoint, None if model is None else [model], api_key_env, api_key_file, price_in, price_out, budget, timeout,
        concurrency,
    )  # fmt: skip
    _check_flags(policy, against, endpoint, list_=list_, end=end, no_wait=no_wait, simulate=simulate)
    opened = Store.open(store)
    if list_:
        return _list_promotions(opened)
    if end is not None:
        from rlhf_hitl.policy.promotion_votes import end_promotion

        return _report(end_promotion(opened, end, "ended by somebody with a shell"))
    if policy is None or (against is None and not endpoints):
        missing = "--policy" if policy is None else "--against"
        raise BadInput(f"{missing}, which is not given", expected="a policy", fix="give both, --list or --end")
    require_extra("train", "`rlhf-hitl promote`")
    from rlhf_hitl.policy.promotion import PromotionSettings, start_promotion
    from rlhf_hitl.policy.promotion_votes import look_at_promotion, say_progress, wait_for_decision
    from rlhf_hitl.policy.sources import find_endpoint, find_policy
    from rlhf_hitl.store.promotions import find_promotion
    from rlhf_hitl.store.reward_models import list_reward_models

    settings = PromotionSettings(
        judgments, prompts, least_gain, alpha, beta, overlap, not beside, project,
        temperature, top_p, max_new_tokens, seed,
    )  # fmt: skip
    new, old = find_policy(policy), find_policy(against) if against is not None else find_endpoint(endpoints[0])
    if reward_model is None and (going_on := find_promotion(opened, new.name, old.name, open_only=True)) is not None:
        reward_model = going_on.reward_model_id  # a newer one has come since, perhaps
        no_reward_model = no_reward_model or reward_model is None
    predictor = None
    if not no_reward_model and (reward_model is not None or list_reward_models(opened)):
        predictor = load_requested_model(opened, reward_model)
    try:
        promotion = start_promotion(
            opened, new, old, settings, workspace=load_settings().workspace, reward_model=predictor, simulated=simulate,
            skip_bad=skip_bad, on_calls=lambda name, totals: print_note(say_calls(name, totals)),
        )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted: no promotion was opened; what was sampled is kept. The same command samples only the rest"
        ) from None
    promotion = look_at_promotion(opened, promotion.id)
    printed = ""

    def wait(current: Promotion) -> bool:
        nonlocal printed
        if simulate:
            from rlhf_hitl.simulate import judge_queue

            return judge_queue(opened, 1) > 0
        if printed != (line := say_progress(current)):
            printed = line
            print_note(f"waiting: promotion {current.id}: {line}")
        time.sleep(LOOK_INTERVAL)
        return True

    if no_wait:
        return _report(promotion)
    try:
        promotion = wait_for_decision(opened, promotion.id, wait)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: promotion {promotion.id} stays open, and raters go on. The same command goes on with it"
        ) from None
    return _report(promotion, exit_code=0 if promotion.is_promoted else 1)


def _check_flags(
    policy: str | None,
    against: str | None,
    endpoint: str,
    *,
    list_: bool,
    end: int | None,
    no_wait: bool,
    simulate: bool,
) -> None:
    """Raise BadInput for flags of which one would be ignored beside the other."""
    only = ["--list"] * list_ + [f"--end {end}"] * (end is not None)
    others = ["--policy"] * (policy is not None) + ["--against"] * (against is not None)
    others += ["--endpoint"] * bool(endpoint) + ["--simulate"] * simulate + ["--no-wait"] * no_wait
    if only and (beside := [*only[1:], *others]):
        raise BadInput(f"{only[0]} with {', '.join(beside)}", expected=f"{only[0]} alone", fix="leave the others out")
    if endpoint and policy is None and not only:
        raise BadInput(
            "--endpoint without --policy",
            expected="a policy that stays as raters have judged it; behind an endpoint it may be another tomorrow",
            fix="give the endpoint the place of --against; or write its answers to a file (`generate --endpoint … "
            "--keep-all --out FILE`) and give that as --policy",
        )
    if endpoint and against is not None:
        raise BadInput(
            f"--against {against} with --endpoint",
            expected="one of them: the endpoint is the policy in use",
            fix="leave one out",
        )
    if simulate and no_wait:
        raise BadInput(
            "--simulate with --no-wait",
            expected="one of them: simulated raters judge while the command waits",
            fix="leave --no-wait out",
        )


def _report(promotion: Promotion, exit_code: int = 0) -> Result:
    return Result(describe_promotion(promotion), _draw(promotion), exit_code)


def describe_promotion(promotion: Promotion) -> dict[str, Any]:
    """Return a promotion as plain values."""
    from rlhf_hitl.policy.promotion_votes import say_progress

    plain = asdict(promotion) | {"state": "open" if promotion.is_open else "decided"}
    plain |= {"promoted": promotion.is_promoted, "regressions": promotion.regressions, "says": say_progress(promotion)}
    decided_at = None if promotion.decided_at is None else promotion.decided_at.isoformat()
    return plain | {"opened_at": promotion.opened_at.isoformat(), "decided_at": decided_at}


def _draw(promotion: Promotion) -> Any:
    from rlhf_hitl.policy.promotion_votes import say_progress

    rows: dict[str, Any] = {
        "new policy": promotion.new_policy,
        "against": promotion.old_policy,
        "state": "open: raters judge at `rlhf-hitl serve`" if promotion.is_open else promotion.decision.value,
        "because": promotion.reason or say_progress(promotion),
        "judgments": promotion.judgments,
        **{name.replace("_", " "): count for name, count in promotion.counts.items()},
    }
    if (controlled := promotion.length_controlled) is not None:
        low, high = controlled["low"], controlled["high"]
        rows["win rate at equal length"] = f"{controlled['value']:.1%} ({low:.1%} to {high:.1%})"
    if promotion.tags:
        rows["tags that lose"] = ", ".join(promotion.regressions) or f"none of {len(promotion.tags)} is shown to"
    simulated = " (simulated)" if promotion.simulated else ""
    return make_table(f"Promotion {promotion.id}{simulated}", rows)


def _list_promotions(store: Any) -> Result:
    from rlhf_hitl.policy.promotion_votes import watch_promotions
    from rlhf_hitl.store.promotions import list_promotions

    watch_promotions(store)
    found = list_promotions(store)
    columns = ("", "new policy", "against", "state", "outcomes", "because")
    lines = [
        (
            f"{p.id}{' (simulated)' if p.simulated else ''}",
            p.new_policy,
            p.old_policy,
            "open" if p.is_open else p.decision.value,
            p.outcomes,
            p.reason or describe_promotion(p)["says"],
        )
        for p in found
    ]
    text = make_table("Promotions", lines, columns) if lines else "No policy was compared with another yet."
    return Result({"promotions": [describe_promotion(p) for p in found]}, text)
