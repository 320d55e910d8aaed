"""Commands `train-dpo`, `train-ppo`, `train-rloo` and `train-grpo`: tune the policy."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rlhf_hitl.cli import AsJson, Interrupted, Result, StoreUrl, command, make_table
from rlhf_hitl.cli.launch import launch_processes
from rlhf_hitl.cli.reward_models import RewardModelName, locate_requested_model
from rlhf_hitl.config import DEFAULT_MODEL, load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, LabelModelName
from rlhf_hitl.wording import say_count

Method = Literal["dpo", "ppo", "rloo", "grpo"]
#: Method → the modules in whose dataclasses the settings of its training by TRL are.
_SETTINGS_OF_TRL = ("rlhf_hitl.policy.trl_settings", "trl.trainer.base_config", "transformers.training_args")
MODULES_OF_SETTINGS = {
    "dpo": ("rlhf_hitl.policy.dpo", "trl.trainer.dpo_config", *_SETTINGS_OF_TRL),
    "rloo": ("rlhf_hitl.policy.online_settings", "trl.trainer.rloo_config", *_SETTINGS_OF_TRL),
    "grpo": ("rlhf_hitl.policy.online_settings", "trl.trainer.grpo_config", *_SETTINGS_OF_TRL),
}
#: The loss above which DPO starts only where some pairs are ties: ln 2, and what rounding adds.
LOSS_WITHOUT_TIES = 0.7
#: Values with which a setting does nothing.
OFF = ("", "0", "0.0", "false", "no", "none", "null")

StartPolicy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        "--model-name-or-path",
        help="Tune this policy: a model folder, a hub id, or a name from `models get`.",
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Read settings from this YAML file instead of the bundled one.")
]
PolicyFolder = Annotated[
    Path | None,
    typer.Option("--out", "--output-dir", help="Write the tuned policy to this folder instead of a new one."),
]
ChangedSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Replace one setting of the YAML file; may be repeated."),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out and count what a chat template refuses or makes the same.")
]
Processes = Annotated[int, typer.Option(min=1, help="Train in this many processes, started by `accelerate launch`.")]


@command(
    "train-dpo",
    if_interrupted="no policy was written",
    counts_time=True,
    extra="train",
)
def train_dpo_command(
    store: StoreUrl,
    policy: StartPolicy = None,
    reward_model: RewardModelName = None,
    human_only: Annotated[bool, typer.Option("--human-only", help="Train only on pairs that people judged.")] = False,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sample, pair and train so many times, each time with the policy so far.",
            show_default="the file's, or 1",
        ),
    ] = None,
    label_model: Annotated[
        LabelModelName | None,
        typer.Option(
            help="Make labels of votes as `export` does.", show_default="the file's, or " + DEFAULT_LABEL_MODEL
        ),
    ] = None,
    config: ConfigFile = None,
    set_: ChangedSettings = None,
    out: PolicyFolder = None,
    processes: Processes = 1,
    skip_bad: SkipBad = False,
    json: AsJson = False,
) -> Result:
    """Tune the policy with DPO on people's pairs and on pairs that the reward model makes."""
    extra = (["--human_only"] if human_only else []) + (["--skip_bad", "true"] if skip_bad else [])
    extra += ["--label_model", label_model] if label_model is not None else []
    extra += ["--rounds", str(rounds)] if rounds is not None else []
    return _train("dpo", store, policy, reward_model, config, set_, out, processes, extra)


def _make_reward_command(method: Method, help: str) -> Callable[..., Result]:
    def train(
        store: StoreUrl,
        policy: StartPolicy = None,
        reward_model: RewardModelName = None,
        config: ConfigFile = None,
        set_: ChangedSettings = None,
        out: PolicyFolder = None,
        processes: Processes = 1,
        skip_bad: SkipBad = False,
        json: AsJson = False,
    ) -> Result:
        extra = ["--skip_bad", "true"] if skip_bad else []
        return _train(method, store, policy, reward_model, config, set_, out, processes, extra)

    train.__doc__ = help
    return train


command(
    "train-ppo",
    if_interrupted="no policy was written",
    counts_time=True,
    extra="train",
)(_make_reward_command("ppo", "Tune the policy with PPO on the rewards of the reward model."))
_ONLINE_METHODS: tuple[Method, ...] = ("rloo", "grpo")
for _method in _ONLINE_METHODS:
    command(
        f"train-{_method}",
        if_interrupted="no policy was written",
        counts_time=True,
        extra="train",
    )(
        _make_reward_command(
            _method,
            f"Tune the policy with {_method.upper()} (by TRL) on the rewards of the reward model, on many GPUs.",
        )
    )


def _train(
    method: Method,
    store: str,
    policy: str | None,
    reward_model: str | None,
    config: Path | None,
    changed: list[str] | None,
    out: Path | None,
    processes: int,
    extra: list[str],
) -> Result:
    """Run `scripts/train_{method}.py`, here or in several processes, and report from the card it wrote."""
    from importlib import import_module, resources

    from rlhf_hitl.arguments import read_yaml_settings, rename_settings
    from rlhf_hitl.policy.policy_folder import read_training_card, require_free_folder
    from rlhf_hitl.policy.training import FORMER_NAMES, NAMES_FOR_PPO

    file = config or Path(str(resources.files("rlhf_hitl.configs").joinpath(f"{method}.yaml")))
    names = NAMES_FOR_PPO if method == "ppo" else FORMER_NAMES
    settings = rename_settings(_parse_changed_settings(changed or []), names, "--set ")
    in_file = rename_settings(read_yaml_settings(file), names, f"{file}: ", is_quiet=True)
    _refuse_settings_with_flags(settings, in_file, file)
    folder = out or (Path(str(in_file["output_dir"])) if in_file.get("output_dir") else None)
    folder = folder or load_settings().workspace / "policies" / f"{method}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    arguments = ["--config", str(file), "--output_dir", str(folder), *extra]
    arguments += ["--model_name_or_path", policy] if policy else []
    arguments += ["--reward_model", reward_model] if reward_model else []
    for name, value in settings.items():
        arguments += [f"--{name}", value]
    script = f"rlhf_hitl.scripts.train_{method}"
    with _blame_set(settings):
        values = in_file | settings
        _check_settings(method, values, settings, file)
        require_free_folder(folder)
        model_name = _check_what_is_needed(method, store, policy, reward_model, values, extra)
        try:
            if processes == 1:
                import_module(script).main([*arguments, "--store", store])
            else:
                launch_processes(script, arguments, processes, store=store)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {_say_what_is_kept(method, folder)}") from None
    card = read_training_card(folder)
    data = {"policy": str(folder), **{k: v for k, v in card.items() if k not in ("history", "settings", "arguments")}}
    data |= {"first": card["history"][0], "last": card["history"][-1]} if card["history"] else {}
    left_out = [_say_not_paired(reason, n) for reason, n in card.get("not_paired", {}).items()]
    left_out += [
        f"{say_count(one['count'], 'pair' if method == 'dpo' else 'prompt')} left out: {one['reason']} (such as prompt "
        f"{one['prompts'][0]})"
        for one in card.get("left_out", {}).values()
    ]
    title = f"Tuned with {method.upper()}" + (f" on {model_name}" if model_name else "")
    base = policy or values.get("model_name_or_path") or DEFAULT_MODEL
    next_step = f"Next: rlhf-hitl promote {shlex.join(['--policy', str(folder), '--against', str(base)])}"
    more = [*_say_start(card), *left_out, *card.get("warnings", ()), next_step]
    return Result(data, make_table(title, _choose_rows(folder, card)), more=more)


def _say_what_is_kept(method: Method, folder: Path) -> str:
    """Return what an interrupted training has left in or beside the folder of its policy, and how to go on from it."""
    from rlhf_hitl.policy.policy_folder import TRAINING_CARD, get_checkpoint_folder
    from rlhf_hitl.policy.trl_training import INPUTS_FILE

    if (folder / TRAINING_CARD).is_file():
        return f"the policy is in {folder}, and not yet in the store: `generate` or `promote` with it records it"
    rounds = folder.with_name(f".{folder.name}.rounds")
    finished, of_trl = list(rounds.glob(f"round-*/{TRAINING_CARD}")), f"checkpoint-*/{INPUTS_FILE}"
    resumes = any(get_checkpoint_folder(folder).glob(of_trl)) or any(rounds.glob(f".round-*.checkpoints/{of_trl}"))
    kept = [say_count(len(finished), "round")] if finished else []
    kept += ["the newest checkpoint"] if resumes or any(get_checkpoint_folder(folder).glob("step-*")) else []
    kept += ["what was sampled"] if any(folder.parent.glob(f".{folder.name}.parts/*")) else []
    if not kept:
        settings = "save_steps" if method == "ppo" else "save_strategy=steps and save_steps"
        return f"no policy was written. With {settings} there are checkpoints to go on from"
    resume = " and --set resume_from_checkpoint=latest" if resumes else ""
    return (
        f"no policy was written. Kept: {' and '.join(kept)}; the same command with --out {folder}{resume} goes on from "
        "there"
    )


def _say_not_paired(reason: str, n: int) -> str:
    from rlhf_hitl.policy.dpo_pairs import LIMIT_REACHED

    if reason.startswith(LIMIT_REACHED):
        return f"{say_count(n, 'pair')} not used: {reason.removeprefix(LIMIT_REACHED)}"
    return f"{n:,} made no pair: {reason}"


#: Figures of a step that people are shown, first and last; all are in --json and training.json.
SHOWN_FIGURES = {
    "loss": "loss",
    "rewards/accuracies": "accuracy",
    "reward": "reward",
    "gold_reward": "gold reward",
    "kl": "KL",
}


def _choose_rows(folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what people are shown of a training: what it learnt from, and its main figures, first and last."""
    rows: dict[str, Any] = {"policy": folder}
    names = ("rater_pairs", "model_pairs", "prompts", "steps", "stopped")
    rows |= {name.replace("_", " "): card[name] for name in names if card.get(name)}
    for name, shown in SHOWN_FIGURES.items():
        found = [step[name] for step in card["history"] if isinstance(step.get(name), int | float)]
        if found:
            rows[shown] = f"{found[0]:.4g} → {found[-1]:.4g}" if len(found) > 1 else found[0]
    return rows


def _say_start(card: Mapping[str, Any]) -> list[str]:
    """Say why the loss of DPO with ties begins above ln 2, which is known as where DPO begins."""
    first = card["history"][0].get("loss", 0.0) if card["history"] else 0.0
    if not card.get("pairs_with_ties") or first < LOSS_WITHOUT_TIES:
        return []
    return [f"With ties a policy that has learnt nothing starts at a loss of about {first:.3g}, above ln 2"]


#: Settings of the scripts that the command has flags for and passes on itself → the flag.
FLAGS_OF_SETTINGS = {"store": "--store", "output_dir": "--out"}


def _refuse_settings_with_flags(settings: Mapping[str, str], in_file: Mapping[str, Any], file: Path) -> None:
    """Raise BadInput for a setting that the command's own flag would override. A file's `output_dir` is followed."""
    for name, flag in FLAGS_OF_SETTINGS.items():
        if name in settings:
            raise BadInput(f"--set {name}", expected=f"{flag} instead", fix=f"give {flag}")  # a URL may hold a password
    if in_file.get("store"):
        raise BadInput(f"{file}: store", expected="--store instead", fix="leave it out of the file, and give --store")


def _parse_changed_settings(changed: list[str]) -> dict[str, str]:
    settings = {}
    for setting in changed:
        name, equals, value = setting.partition("=")
        if not equals:
            raise BadInput(f"--set {setting}", expected="NAME=VALUE", fix="such as --set steps=20")
        settings[name] = value
    return settings


@contextmanager
def _blame_set(settings: dict[str, str]) -> Iterator[None]:
    """Name `--set` in an error about a setting that it gave: the scripts under this command know it as a flag."""
    try:
        yield
    except BadInput as e:
        name = e.value.removeprefix("--").split(" ")[0]
        if not e.value.startswith("--") or name not in settings:
            raise
        raise type(e)(f"--set {name}={settings[name]}", expected=e.expected, fix=e.fix) from e


def _check_settings(method: str, values: dict[str, Any], settings: dict[str, str], file: Path) -> None:
    """Raise BadInput for an unknown setting or a value it cannot have, before the seconds that importing TRL takes."""
    from rlhf_hitl.arguments import check_settings, make_unknown_setting_error, read_field_names, read_whole_number
    from rlhf_hitl.policy.dpo_pairs import DPOPairArguments
    from rlhf_hitl.policy.ppo.config import PPOConfig
    from rlhf_hitl.policy.training import UNSUPPORTED_SETTINGS, DataArguments, refuse_unknown_choices
    from rlhf_hitl.policy.tuning_watch import WatchArguments

    of_method = {"ppo": (WatchArguments, PPOConfig), "dpo": (DPOPairArguments,)}.get(method, (WatchArguments,))
    kinds: tuple[Any, ...] = (DataArguments, *of_method)
    known = {f.name for kind in kinds for f in fields(kind)} | {"config", "env"}
    known = known.union(*map(read_field_names, MODULES_OF_SETTINGS.get(method, ())))
    unsupported = UNSUPPORTED_SETTINGS.get(method, {})
    for name in values:
        if name not in known:
            raise make_unknown_setting_error(name, known, None if name in settings else file)
        if name in unsupported and str(values[name]).lower() not in OFF:
            where = f"--set {name}={values[name]}" if name in settings else f"{file}: {name} {values[name]!r}"
            raise BadInput(where, expected=f"{name} left out", fix=unsupported[name])
        refuse_unknown_choices(method, {name: values[name]}, "--" if name in settings else f"{file}: ")
    check_settings(kinds, values, settings, file)
    if (
        method in _ONLINE_METHODS
        and (least := read_whole_number(values.get("num_generations"))) is not None
        and least < 2
    ):
        where = "--" if "num_generations" in settings else f"{file}: "
        raise BadInput(
            f"{where}num_generations {least}",
            expected="2 or more: the answers to a prompt are compared with each other",
            fix="raise num_generations, or leave it out",
        )


def _check_what_is_needed(
    method: str, url: str, policy: str | None, reward_model: str | None, values: dict[str, Any], extra: list[str]
) -> str | None:
    """Raise BadInput where the store, the reward model, pairs to train on or the policy is missing.

    Returns the reward model's name, or None where none is needed.
    """
    from rlhf_hitl.models import locate_model_folder
    from rlhf_hitl.policy.dpo_pairs import DPOPairArguments, require_some_pairs
    from rlhf_hitl.store import Store

    human_only = "--human_only" in extra or str(values.get("human_only", False)).lower() in ("true", "1", "yes")
    with Store.open(url) as store:
        model_name = None
        if not human_only:
            named = values.get("reward_model") or None  # the scripts' own setting is empty where it is not set
            model_name = locate_requested_model(store, named if reward_model is None else reward_model)
        if method == "dpo":
            samples = str(values.get("sample_prompts", 0)) != "0"
            chosen = extra[extra.index("--label_model") + 1] if "--label_model" in extra else values.get("label_model")
            wanted = DPOPairArguments(human_only, sample_prompts=int(samples))
            if chosen is not None:
                wanted = replace(wanted, label_model=str(chosen))
            require_some_pairs(store, wanted, ties=values.get("ties") != "leave_out")
    locate_model_folder((values.get("model_name_or_path") or DEFAULT_MODEL) if policy is None else policy)
    return model_name
