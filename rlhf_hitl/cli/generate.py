"""Command `generate`: sample completions of a policy and make comparisons of them."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, table
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.files import atomic_file

if TYPE_CHECKING:
    from rlhf_hitl.types import Completion, Prompt


Policy = Annotated[str, typer.Option("--policy", help="A model folder, a hub id, or a name from `models get`.")]


@command("generate")
def generate(
    store: StoreUrl,
    policy: Policy = "smollm2-135m-instruct",
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts from this JSONL file ({messages, tags}) in place of the store's.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Only the store's prompts of this split: train, calibration, heldout.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many prompts.")] = None,
    temperature: Annotated[
        list[float] | None, typer.Option(help="Give it again for each temperature. Default: 0.7 and 1.0.")
    ] = None,
    completions: Annotated[
        int, typer.Option(min=1, help="How many for each prompt, shared among the temperatures.")
    ] = 4,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens that reach this probability.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="An answer is cut off here.")] = 160,
    seed: Annotated[int, typer.Option(help="The same seed draws the same completions.")] = 0,
    k: Annotated[int, typer.Option("--k", min=2, help="Completions in a comparison.")] = 2,
    overlap: Annotated[int, typer.Option(min=1, help="Judgments a comparison wants.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Completions sampled at once.")] = 32,
    backend: Annotated[str, typer.Option(help="transformers, or vllm (wants a GPU).")] = "transformers",
    out: Annotated[
        Path | None, typer.Option(help="Write the completions to this JSONL file, not to the store.")
    ] = None,
    json: AsJson = False,
) -> Result:
    """Sample completions and make comparisons of them."""
    from rlhf_hitl.policy.generation import comparisons_of, sample_completions
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.comparisons import insert_comparisons, list_prompts
    from rlhf_hitl.types import Split

    if backend not in ("transformers", "vllm"):
        raise BadInput(f"--backend {backend}", expected="transformers or vllm", fix="give one of the two")
    if split and split not in list(Split):
        raise BadInput(f"--split {split}", expected="one of " + ", ".join(Split), fix="give one of these")
    samplings = _samplings(temperature or [0.7, 1.0], completions, top_p, max_new_tokens, seed)
    opened = None if prompts and out else Store.open(store)
    try:
        if prompts:
            asked = read_prompts(prompts)
        else:
            assert opened is not None
            asked = list_prompts(opened, split=Split(split) if split else None)
        asked = asked[:limit]
        if not asked:
            raise BadInput(
                str(prompts) if opened is None or prompts else f"store {opened.safe_url}",
                expected="one prompt or more",
                fix="import prompts first (`rlhf-hitl import`)",
            )
        made = sample_completions(policy, asked, samplings, batch_size=batch_size, backend=backend)  # type: ignore[arg-type]
        data = {"prompts": len(asked), "completions": len(made)}
        if out:
            _write(out, asked, made)
            return Result(data | {"out": str(out)}, f"{len(made)} completions of {len(asked)} prompts in {out}")
        assert opened is not None
        new = comparisons_of(asked, made, k, overlap)
        with opened.write() as conn:
            added = insert_comparisons(opened, conn, new, source="generate")
    finally:
        if opened is not None:
            opened.close()
    data |= {"comparisons": len(new), "new": added}
    return Result(data, table("Generated", data))


def _samplings(temperatures: list[float], total: int, top_p: float, max_new_tokens: int, seed: int):
    from rlhf_hitl.policy.generation import Sampling

    each, more = divmod(total, len(temperatures))
    if each == 0:
        raise BadInput(
            f"--completions {total}",
            expected=f"at least one for each of the {len(temperatures)} temperatures",
            fix="ask for more completions or fewer temperatures",
        )
    return [
        Sampling(t, top_p, max_new_tokens, seed, count=each + (i < more))
        for i, t in enumerate(dict.fromkeys(temperatures))
    ]


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a JSONL file with `messages` and, where there are any, `tags`."""
    from rlhf_hitl.types import Prompt, parse_messages

    if not path.is_file():
        raise NotFound(f"--prompts {path}", expected="a JSONL file", fix="check the path")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = jsonlib.loads(line)
            found.append(Prompt.create(parse_messages(row["messages"]), row.get("tags")))
        except (ValueError, KeyError, TypeError, AttributeError, BadInput) as e:
            raise BadInput(
                f"{path}:{number}: messages",
                expected=f'a JSON object with "messages" ({e.expected if isinstance(e, BadInput) else e!r})',
                fix="mend the line",
            ) from e
    return found


def _write(out: Path, prompts: list[Prompt], made: list[Completion]) -> None:
    from rlhf_hitl.types import messages_to_dicts

    by_prompt: dict[str, list[Completion]] = {}
    for c in made:
        by_prompt.setdefault(c.prompt_id, []).append(c)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as draft, draft.open("w", encoding="utf-8") as f:
        for p in prompts:
            answers = [
                {"messages": messages_to_dicts(c.messages), "policy": c.policy, "sampling": dict(c.sampling)}
                for c in by_prompt.get(p.id, [])
            ]
            row = {"messages": messages_to_dicts(p.messages), "tags": dict(p.tags), "completions": answers}
            f.write(jsonlib.dumps(row, ensure_ascii=False) + "\n")
