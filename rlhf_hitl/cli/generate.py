"""Command `generate`: sample completions of policies and make comparisons of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, make_table
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
from rlhf_hitl.cli.launch import launch_processes
from rlhf_hitl.cli.reward_models import RewardModelName, load_requested_model
from rlhf_hitl.config import DEFAULT_MODEL, load_settings
from rlhf_hitl.errors import LAUNCHED, BadInput
from rlhf_hitl.files import check_may_write
from rlhf_hitl.policy.sampling import BATCH_TOKENS, GenerationBackend
from rlhf_hitl.policy.stop_strings import check_stop_strings
from rlhf_hitl.routing.acquisition_names import RULES, Rule
from rlhf_hitl.terminal import print_note
from rlhf_hitl.types import Split
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.policy.generation_run import GenerationRun
    from rlhf_hitl.policy.sampling import Sampling
    from rlhf_hitl.policy.sources import PolicySource
    from rlhf_hitl.reward.model import RewardModel
    from rlhf_hitl.store import Store
    from rlhf_hitl.types import Prompt

DEFAULT_TEMPERATURES = (0.7, 1.0)
#: Prompts whose comparisons are added to the store in one transaction.
PROMPTS_AT_ONCE = 64


@command(
    "generate",
    if_interrupted="what was sampled is kept. Give the same command again: it samples only the rest",
    counts_time=True,
    extra="train",
)
def generate_command(
    store: StoreUrl,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="A model folder, with an adapter or whole, a hub id, a name from `models get`, or a .jsonl file of "
            "completions that --out wrote; repeat it to compare several policies with each other.",
            show_default=DEFAULT_MODEL,
        ),
    ] = None,
    endpoint: Annotated[
        str,
        typer.Option(help="Ask an OpenAI-compatible endpoint as a policy, such as http://127.0.0.1:8000/v1."),
    ] = "",
    model: Annotated[
        list[str] | None, typer.Option(help="The model, as the endpoint calls it; repeat it for several.")
    ] = None,
    api_key_env: ApiKeyEnv = "",
    api_key_file: ApiKeyFile = "",
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    budget: Budget = None,
    timeout: Timeout = 120.0,
    concurrency: Concurrency = 4,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Read the prompts from this JSONL file instead of the store; a line is "
            '{"prompt": a text or messages, "tags": …}.'
        ),
    ] = None,
    split: Annotated[Split | None, typer.Option(help="Use only the store's prompts of this split.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most this many prompts.")] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option(help="Sample at this temperature; repeat it for several. The default is 0.7 and 1.0."),
    ] = None,
    completions: Annotated[
        int, typer.Option(min=1, help="Sample this many for each prompt, shared among the temperatures.")
    ] = 4,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens that reach this probability.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Cut completions off after this many tokens.")] = 160,
    stop: Annotated[
        list[str] | None, typer.Option(help="End an answer before this text; repeat it for several.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Set the random numbers: the same seed samples the same completions.")] = 0,
    k: Annotated[int, typer.Option("--k", min=2, help="Put this many completions into a comparison.")] = 2,
    pairing: Annotated[
        str,
        typer.Option(
            help="Compare those completions of a prompt that this acquisition rule chooses, by a reward model: see "
            "`route --acquisition`. A tenth of the prompts is paired at random all the same."
        ),
    ] = "random",
    pairs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Make this many comparisons of a prompt, with --pairing.",
            show_default="as many as it takes to compare each completion",
        ),
    ] = None,
    reward_model: RewardModelName = None,
    overlap: Annotated[int, typer.Option(min=1, help="Ask for this many judgments of each comparison.")] = 1,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Compute this many tokens, of prompts and answers, side by side.")
    ] = BATCH_TOKENS,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Sample at most this many completions side by side.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Sample in this many processes, started by `accelerate launch`.")
    ] = 1,
    backend: Annotated[
        GenerationBackend, typer.Option(help="Sample with transformers, or with vllm, which needs a GPU.")
    ] = "transformers",
    out: Annotated[
        Path | None, typer.Option(help="Write the completions to this JSONL file instead of the store.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file of completions.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out and count prompts that the policy's chat template refuses.")
    ] = False,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Keep empty, repeated and looping answers, as a policy is measured.")
    ] = False,
    json: AsJson = False,
) -> Result:
    """Sample completions from policies and make comparisons of them. Raters never learn which policy wrote what."""
    from rlhf_hitl.policy.completion_files import holds_completions, open_completion_file, read_prompts
    from rlhf_hitl.policy.generation_run import GenerationRun
    from rlhf_hitl.policy.lineage import record_sources
    from rlhf_hitl.policy.sampled_comparisons import require_enough_completions
    from rlhf_hitl.policy.sources import find_endpoint, find_policy, is_completion_file
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.comparisons import list_prompts

    endpoints = find_endpoints(
        endpoint, model, api_key_env, api_key_file, price_in, price_out, budget, timeout, concurrency
    )
    policies = policy or ([] if endpoints else [DEFAULT_MODEL])
    rule = _check_pairing(pairing, pairs, k, out, len(policies) + len(endpoints))
    stops = check_stop_strings(stop or ())
    samplings = _plan_samplings(temperature or DEFAULT_TEMPERATURES, completions, top_p, max_new_tokens, seed, stops)
    if not out and not any(map(is_completion_file, policies)):
        require_enough_completions(samplings, len(policies) + len(endpoints), k)
    _check_processes(processes, backend, bool(endpoints))
    if prompts and split:
        raise BadInput(
            f"--split {split.value} with --prompts",
            expected="one of them: the prompts of a file have no splits",
            fix="leave one out",
        )
    chosen = read_prompts(prompts) if prompts else []
    opened = None if prompts and out else Store.open(store)
    try:
        if not prompts:
            assert opened is not None
            chosen = list_prompts(opened, split=split)
        chosen = list({p.id: p for p in chosen}.values())[:limit]
        if not chosen:
            raise BadInput(
                f"--prompts {prompts}" if opened is None or prompts else f"store {opened.safe_url}",
                expected="one prompt or more" + (f" of the {split.value} split" if split else ""),
                fix='add lines such as {"prompt": "Why is the sky blue?"} to the file'
                if prompts
                else "import prompts first (`rlhf-hitl import`)",
            )
        reward = None if rule is None or opened is None else load_requested_model(opened, reward_model)
        how = {"backend": backend, "batch_tokens": batch_tokens, "batch_size": batch_size}
        sources: list[PolicySource] = [find_policy(name, **how) for name in policies]
        sources += map(find_endpoint, endpoints)
        folder = _find_journals(out, opened)
        run = GenerationRun(sources, chosen, samplings, folder, keep_all=keep_all, skip_bad=skip_bad)
        if out and out.exists() and run.goes_on:
            if LAUNCHED not in os.environ:
                print_note(f"{out} is written anew when the answers that are missing have come")
        elif out:
            check_may_write(out, "completions", "file", is_earlier=holds_completions, overwrite=overwrite)
        run.check(require_some=True)
        if processes > 1:
            values = {
                "policy": policies, "prompts": prompts, "split": split and split.value, "limit": limit,
                "temperature": temperature, "completions": completions, "top-p": top_p, "seed": seed, "stop": stops,
                "max-new-tokens": max_new_tokens, "batch-tokens": batch_tokens, "batch-size": batch_size, "out": out,
                "keep-all": keep_all, "skip-bad": skip_bad, "overwrite": overwrite, "k": k,
            }  # fmt: skip
            launch_processes("rlhf_hitl", ["generate", *_make_flags(values)], processes, store=store)
        elif "WORLD_SIZE" in os.environ:
            _draw_part(run)
        data: dict[str, Any] = {"prompts": len(chosen)}
        if out:
            with open_completion_file(out) as write:
                made = 0
                for prompt, answers in run.complete():
                    write(prompt, answers)
                    made += len(answers)
                _require_some(run)
            data |= {"completions": made, "out": str(out)}
            written = f"{say_count(made, 'completion')} of {say_count(len(chosen), 'prompt')}"
            text: Any = f"Wrote {written} to {out}"
        else:
            assert opened is not None
            record_sources(opened, sources)
            data |= _fill_store(opened, run, chosen, k, overlap, rule, reward, pairs, seed)
            _require_some(run)
            text = make_table("Generated", data)
        run.finish()
    finally:
        if opened is not None:
            opened.close()
    more, found = _report(run)
    return Result(data | found, text, more=more)


def _fill_store(
    opened: Store, run: GenerationRun, prompts: Sequence[Prompt], k: int, overlap: int, rule: Rule | None,
    reward: RewardModel | None, pairs: int | None, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Add comparisons to the store as their prompts are finished, and return counts."""
    from rlhf_hitl.policy.sampled_comparisons import make_comparisons
    from rlhf_hitl.store.comparisons import insert_comparisons

    counts = {"completions": 0, "comparisons": 0, "new": 0}
    without = 0

    def add(finished: list[tuple[Prompt, list[Any]]], by_rule: Any = None) -> None:
        nonlocal without
        made = make_comparisons(
            [prompt for prompt, _ in finished], [c for _, answers in finished for c in answers], k, overlap, by_rule,
            run.policies,
        )  # fmt: skip
        with opened.write() as conn:
            counts["new"] += insert_comparisons(opened, conn, made, source="generate")
        counts["completions"] += sum(len(answers) for _, answers in finished)
        counts["comparisons"] += len(made)
        without += len(finished) - len({x.prompt.id for x in made})

    finished: list[tuple[Prompt, list[Any]]] = []
    for each in run.complete():
        finished.append(each)
        if rule is None and len(finished) == PROMPTS_AT_ONCE:
            add(finished)
            finished = []
    if rule is None or reward is None:
        if finished:
            add(finished)
        return counts | ({"without_comparison": without} if without else {})
    from rlhf_hitl.routing.pairing import choose_pairs

    by_rule = choose_pairs(
        reward, prompts, [c for _, answers in finished for c in answers], rule, per_prompt=pairs, seed=seed,
        is_control=lambda prompt: opened.draw("pairing", prompt.id, 10) == 0,
    )  # fmt: skip
    add(finished, by_rule)
    return counts | ({"without_comparison": without} if without else {}) | {"paired_by_rule": len(by_rule)}


def _require_some(run: GenerationRun) -> None:
    """Raise BadInput where nothing came out, with what became of each policy's answers."""
    if any(counts.kept for counts in run.counts.values()):
        return
    run.finish()
    lines, _ = _report(run)
    raise BadInput(
        f"0 completions of {', '.join(run.counts)}" + (f" ({'; '.join(lines)})" if lines else ""),
        expected="one or more",
        fix="look at what the policy answers: its chat template, the endpoint's filter, --max-new-tokens; --keep-all "
        "keeps empty answers",
    )


def _report(run: GenerationRun) -> tuple[list[str], dict[str, Any]]:
    """Return what was filtered, left out and paid for, as lines for people and as JSON."""
    lines = []
    found: dict[str, Any] = {"policies": {name: counts.as_dict() for name, counts in run.counts.items()}}
    for name, counts in run.counts.items():
        for line in counts.lines(name):
            (print_note if line.startswith("warning: ") else lines.append)(line)
    unread = {name: left_out for name, left_out in run.left_out.items() if len(left_out)}
    lines += [line for left_out in unread.values() for line in left_out.lines()]
    if unread:
        several = len(run.counts) > 1
        shown = {name: left_out.as_dict() for name, left_out in unread.items()}
        found["left_out"] = shown if several else next(iter(shown.values()))
    for name, totals in run.calls.items():
        found["policies"][name] |= {"calls": totals}
        lines.append(say_calls(name, totals))
    return lines, found


def _find_journals(out: Path | None, opened: Store | None) -> Path:
    """Return where answers are kept until all are there: beside the file, or in the workspace for a store."""
    from rlhf_hitl.policy.draws import name_journal_folder

    if out is not None:
        return out.parent / f".{out.name}.parts"
    assert opened is not None
    return name_journal_folder(load_settings().workspace, opened.safe_url)


def _check_processes(processes: int, backend: GenerationBackend, has_endpoint: bool) -> None:
    if processes > 1 and (has_endpoint or backend == "vllm"):
        given = "--endpoint" if has_endpoint else "--backend vllm"
        fix = "give --concurrency" if has_endpoint else "leave --processes out"
        raise BadInput(f"--processes {processes} with {given}", expected="one process", fix=fix)


def _draw_part(run: GenerationRun) -> None:
    """Draw the share of one of the processes of `accelerate launch`. Only the main one returns, when all are ready, and
    goes on; of those that a command of ours has launched, none does."""
    from accelerate import PartialState

    from rlhf_hitl.models import find_best_device

    state = PartialState(cpu=find_best_device() == "cpu")
    run.draw_part(state.process_index, state.num_processes)
    state.wait_for_everyone()
    if LAUNCHED in os.environ or not state.is_main_process:
        raise typer.Exit(0)


def _make_flags(values: dict[str, Any]) -> list[str]:
    """Return a command line that gives these values."""
    flags: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            flags += [f"--{name}"] * value
        elif isinstance(value, list | tuple):
            flags += [f"--{name}={one}" for one in value]
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


def _check_pairing(pairing: str, pairs: int | None, k: int, out: Path | None, policies: int) -> Rule | None:
    """Return the rule that pairs completions; None where pairs are drawn at random."""
    if pairing not in RULES:
        raise BadInput(f"--pairing {pairing}", expected=f"one of {', '.join(RULES)}", fix="e.g. mutual-information")
    if pairing == "random":
        if pairs is not None:
            raise BadInput(f"--pairs {pairs} without a rule", expected="--pairing", fix="e.g. --pairing d-optimal")
        return None
    if k != 2 or out is not None or policies > 1:
        given = f"--k {k}" if k != 2 else f"--out {out}" if out else "several policies"
        raise BadInput(
            f"--pairing {pairing} with {given}", expected="pairs of one policy in a store", fix=f"leave {given} out"
        )
    return cast("Rule", pairing)


def _plan_samplings(
    temperatures: list[float] | tuple[float, ...],
    total: int,
    top_p: float,
    max_new_tokens: int,
    seed: int,
    stop: tuple[str, ...],
) -> list[Sampling]:
    from rlhf_hitl.policy.sampling import share_among_temperatures

    samplings = share_among_temperatures(
        temperatures, total, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed, stop=stop
    )
    if len(samplings) < (distinct := len(set(temperatures))):
        raise BadInput(
            f"--completions {total}",
            expected=f"at least one for each of the {distinct} temperatures",
            fix="ask for more completions or fewer temperatures",
        )
    return samplings
