"""Commands `train-dpo` and `train-ppo`: tune the policy."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, make_table
from rlhf_hitl.cli.launch import launch_processes
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput

StartPolicy = Annotated[
    str | None,
    typer.Option("--policy", help="Tune this policy: a model folder, a hub id, or a name from `models get`."),
]
RewardModelName = Annotated[
    str, typer.Option("--reward-model", help="Use this reward model (id or folder) instead of the store's newest.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Read settings from this YAML file instead of the bundled one.")
]
PolicyFolder = Annotated[
    Path | None, typer.Option("--out", help="Write the tuned policy to this folder instead of a new one.")
]
ChangedSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Replace one setting of the YAML file; may be repeated."),
]
Processes = Annotated[int, typer.Option(min=1, help="Train in this many processes, started by `accelerate launch`.")]


@command("train-dpo", counts_time=True)
def train_dpo_command(
    store: StoreUrl,
    policy: StartPolicy = None,
    reward_model: RewardModelName = "",
    human_only: Annotated[bool, typer.Option("--human-only", help="Train only on pairs that people judged.")] = False,
    config: ConfigFile = None,
    set_: ChangedSettings = None,
    out: PolicyFolder = None,
    processes: Processes = 1,
    json: AsJson = False,
) -> Result:
    """Tune the policy with DPO on people's pairs and on pairs that the reward model makes."""
    extra = ["--human_only"] if human_only else []
    return _train("dpo", store, policy, reward_model, config, set_, out, processes, extra)


@command("train-ppo", counts_time=True)
def train_ppo_command(
    store: StoreUrl,
    policy: StartPolicy = None,
    reward_model: RewardModelName = "",
    config: ConfigFile = None,
    set_: ChangedSettings = None,
    out: PolicyFolder = None,
    processes: Processes = 1,
    json: AsJson = False,
) -> Result:
    """Tune the policy with PPO on the rewards of the reward model."""
    return _train("ppo", store, policy, reward_model, config, set_, out, processes, [])


def _train(
    method: str,
    store: str,
    policy: str | None,
    reward_model: str,
    config: Path | None,
    changed: list[str] | None,
    out: Path | None,
    processes: int,
    extra: list[str],
) -> Result:
    """Run `scripts/train_{method}.py`, here or in several processes, and report from the card it wrote."""
    from importlib import import_module, resources

    from rlhf_hitl.policy.policy_folder import read_training_card

    folder = out or load_settings().workspace / "policies" / f"{method}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    file = config or Path(str(resources.files("rlhf_hitl.configs").joinpath(f"{method}.yaml")))
    arguments = ["--config", str(file), "--out", str(folder), *extra]
    arguments += ["--policy", policy] if policy else []
    arguments += ["--reward_model", reward_model] if reward_model else []
    for setting in changed or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise BadInput(f"--set {setting}", expected="NAME=VALUE", fix="such as --set steps=20")
        arguments += [f"--{name}", value]
    script = f"rlhf_hitl.scripts.train_{method}"
    if processes == 1:
        import_module(script).main([*arguments, "--store", store])
    else:
        launch_processes(script, arguments, processes, store=store)
    card = read_training_card(folder)
    data = {"policy": str(folder), **{k: v for k, v in card.items() if k not in ("history", "settings")}}
    data |= {"first": card["history"][0], "last": card["history"][-1]} if card["history"] else {}
    rows = {k: v for k, v in data.items() if not isinstance(v, dict)} | data.get("last", {})
    return Result(data, make_table(f"Tuned with {method.upper()}; the last step's figures", rows))
