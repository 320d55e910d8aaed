"""Command `generate`: sample completions of a policy and make comparisons of them."""

from __future__ import annotations

import json as jsonlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, make_table
from rlhf_hitl.cli.reward_models import RewardModelName, load_requested_model
from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.files import atomic_file, make_private_folder
from rlhf_hitl.policy.sampling import GenerationBackend
from rlhf_hitl.routing.acquisition_names import RULES, Rule
from rlhf_hitl.types import Split
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.policy.sampling import Sampling
    from rlhf_hitl.types import Completion, Prompt

DEFAULT_TEMPERATURES = (0.7, 1.0)

PolicyName = Annotated[str, typer.Option("--policy", help="A model folder, a hub id, or a name from `models get`.")]


@command(
    "generate",
    if_interrupted="nothing is kept, for completions are stored together. Sample fewer with --limit",
    counts_time=True,
    extra="train",
)
def generate_command(
    store: StoreUrl,
    policy: PolicyName = DEFAULT_MODEL,
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
    batch_size: Annotated[int, typer.Option(min=1, help="Sample this many completions at once.")] = 32,
    backend: Annotated[
        GenerationBackend, typer.Option(help="Sample with transformers, or with vllm, which needs a GPU.")
    ] = "transformers",
    out: Annotated[
        Path | None, typer.Option(help="Write the completions to this JSONL file instead of the store.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out and count prompts that the policy's chat template refuses.")
    ] = False,
    json: AsJson = False,
) -> Result:
    """Sample completions from a policy and make comparisons of them."""
    from rlhf_hitl.models import locate_model_folder
    from rlhf_hitl.policy.sampled_comparisons import make_comparisons
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.comparisons import insert_comparisons, list_prompts

    rule = _check_pairing(pairing, pairs, k, out)
    samplings = _plan_samplings(temperature or DEFAULT_TEMPERATURES, completions, top_p, max_new_tokens, seed)
    if backend == "vllm" and find_spec("vllm") is None:
        raise BadInput(
            "--backend vllm",
            expected="an installed vllm and a GPU",
            fix="`pip install 'rlhf_hitl[vllm]'`, or leave --backend out",
        )
    chosen = read_prompts(prompts) if prompts else []
    opened = None if prompts and out else Store.open(store)
    try:
        if not prompts:
            assert opened is not None
            chosen = list_prompts(opened, split=split)
        chosen = chosen[:limit]
        if not chosen:
            raise BadInput(
                str(prompts) if opened is None or prompts else f"store {opened.safe_url}",
                expected="one prompt or more" + (f" of the {split} split" if split and not prompts else ""),
                fix="import prompts first (`rlhf-hitl import`)",
            )
        model = None if rule is None or opened is None else load_requested_model(opened, reward_model)
        locate_model_folder(policy)  # reports what is missing before torch is imported
        from rlhf_hitl.policy.generation import sample_completions
        from rlhf_hitl.reward.readability import LeftOut

        left_out = LeftOut("prompt")
        sampled = sample_completions(
            policy, chosen, samplings, batch_size=batch_size, backend=backend, skip_bad=skip_bad, left_out=left_out
        )
        data = {"prompts": len(chosen), "completions": len(sampled)}
        unread = {"left_out": left_out.as_dict()} if len(left_out) else {}
        if out:
            _write_completions(out, chosen, sampled)
            written = f"{say_count(len(sampled), 'completion')} of {say_count(len(chosen), 'prompt')}"
            return Result(data | unread | {"out": str(out)}, f"Wrote {written} to {out}", more=left_out.lines())
        assert opened is not None
        by_rule = {}
        if model is not None and rule is not None:
            from rlhf_hitl.routing.pairing import choose_pairs

            drawn = opened.draw
            by_rule = choose_pairs(
                model, chosen, sampled, rule, per_prompt=pairs, seed=seed,
                is_control=lambda prompt: drawn("pairing", prompt.id, 10) == 0,
            )  # fmt: skip
        comparisons = make_comparisons(chosen, sampled, k, overlap, by_rule)
        with opened.write() as conn:
            added = insert_comparisons(opened, conn, comparisons, source="generate")
    finally:
        if opened is not None:
            opened.close()
    data |= {"comparisons": len(comparisons), "new": added} | ({"paired_by_rule": len(by_rule)} if rule else {})
    return Result(data | unread, make_table("Generated", data), more=left_out.lines())


def _check_pairing(pairing: str, pairs: int | None, k: int, out: Path | None) -> Rule | None:
    """Return the rule that pairs completions; None where pairs are drawn at random."""
    if pairing not in RULES:
        raise BadInput(f"--pairing {pairing}", expected=f"one of {', '.join(RULES)}", fix="e.g. mutual-information")
    if pairing == "random":
        if pairs is not None:
            raise BadInput(f"--pairs {pairs} without a rule", expected="--pairing", fix="e.g. --pairing d-optimal")
        return None
    if k != 2 or out is not None:
        given = f"--k {k}" if k != 2 else f"--out {out}"
        raise BadInput(f"--pairing {pairing} with {given}", expected="pairs in a store", fix=f"leave {given} out")
    return cast("Rule", pairing)


def _plan_samplings(
    temperatures: list[float] | tuple[float, ...], total: int, top_p: float, max_new_tokens: int, seed: int
) -> list[Sampling]:
    from rlhf_hitl.policy.sampling import share_among_temperatures

    samplings = share_among_temperatures(temperatures, total, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    if len(samplings) < (distinct := len(set(temperatures))):
        raise BadInput(
            f"--completions {total}",
            expected=f"at least one for each of the {distinct} temperatures",
            fix="ask for more completions or fewer temperatures",
        )
    return samplings


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts from a JSONL file. A line has a `prompt`, as text or messages, or `messages`, and optional `tags`.

    Raises:
        NotFound: there is no such file.
        BadInput: a line cannot be read; the error names file and line.
    """
    if not path.is_file():
        raise NotFound(f"--prompts {path}", expected="a JSONL file", fix="check the path")
    prompts = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as e:
        raise BadInput(f"--prompts {path}", expected="text in UTF-8", fix="save it as UTF-8") from e
    for number, line in enumerate(lines, 1):
        if line.strip():
            prompts.append(_read_prompt(line, f"{path}:{number}"))
    return prompts


def _read_prompt(line: str, place: str) -> Prompt:
    from rlhf_hitl.types import Message, Prompt, parse_messages, parse_tools

    expected = 'a JSON object with "prompt" (a text or messages) or "messages"'
    try:
        row = jsonlib.loads(line)
    except (ValueError, RecursionError) as e:
        raise BadInput(place, expected=expected, fix=f"correct the line ({str(e).split(':')[0]})") from e
    found = [name for name in ("prompt", "messages") if isinstance(row, dict) and name in row]
    if len(found) != 1:
        shown = f"with {', '.join(map(str, row))}"[:60] if isinstance(row, dict) else line.strip()[:40]
        raise BadInput(f"{place}: {shown}", expected=expected, fix="correct the line")
    value: Any = row[found[0]]
    try:
        is_text = isinstance(value, str) and bool(value.strip())
        parts: Any = value  # `parse_messages` says what is wrong with it
        messages = (Message("user", str(value)),) if is_text else parse_messages(parts)
        return Prompt.create(messages, row.get("tags"), tools=parse_tools(row.get("tools")))
    except BadInput as e:
        raise BadInput(f"{place}: {e.value}", expected=e.expected, fix="correct the line") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadInput(
            f"{place}: {found[0]}",
            expected="a text, or a list of messages with role and content; and tags with names and values",
            fix="correct the line",
        ) from e


def _write_completions(out: Path, prompts: list[Prompt], completions: list[Completion]) -> None:
    """Write one JSON line a prompt, whole or not at all."""
    from rlhf_hitl.types import messages_to_dicts

    by_prompt: dict[str, list[Completion]] = {}
    for c in completions:
        by_prompt.setdefault(c.prompt_id, []).append(c)
    make_private_folder(out.parent)
    with atomic_file(out) as draft, draft.open("w", encoding="utf-8") as f:
        for p in prompts:
            answers = [
                {"messages": messages_to_dicts(c.messages), "policy": c.policy, "sampling": dict(c.sampling)}
                for c in by_prompt.get(p.id, [])
            ]
            row = {"messages": messages_to_dicts(p.messages), "tags": dict(p.tags), "completions": answers}
            row |= {"tools": [tool.to_plain() for tool in p.tools]} if p.tools else {}
            f.write(jsonlib.dumps(row, ensure_ascii=False) + "\n")
