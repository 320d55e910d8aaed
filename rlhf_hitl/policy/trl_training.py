"""What runs of TRL's trainers on policies share: where checkpoints go, resuming, memory, and saving the policy."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import parse_flag_from_env
from huggingface_hub import constants
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import Trainer, TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.models import load_policy
from rlhf_hitl.policy.before_after import MOST_TOKENS, sample_before_and_after
from rlhf_hitl.policy.policy_folder import LOGS, get_checkpoint_folder, save_policy
from rlhf_hitl.policy.training import explain_out_of_memory, refuse_other_inputs
from rlhf_hitl.policy.trl_settings import PolicySettings
from rlhf_hitl.policy.tuning_record import OF_ONE_RUN
from rlhf_hitl.reward.training.progress import keep_stdout_free
from rlhf_hitl.types import Prompt

log = logging.getLogger(__name__)

#: The file of a checkpoint that says what the training learns from. It is written last.
INPUTS_FILE = "inputs.json"
#: Settings that every record of a tuning names, also where they are the defaults.
ALWAYS_RECORDED = (
    "model_name_or_path",
    "lora_r",
    "lora_alpha",
    "learning_rate",
    "beta",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "seed",
)

#: Settings that may differ when a training is resumed: nothing that is learnt depends on them.
FREE_WHEN_RESUMED = (
    "save_strategy", "save_steps", "save_total_limit", "logging_strategy", "logging_steps", "report_to", "run_name",
    "disable_tqdm", "gradient_checkpointing", "dataloader_num_workers", "merge", "skip_bad",
)  # fmt: skip

Settings = TypeVar("Settings", bound=PolicySettings)


def prepare_settings(settings: Settings, out: Path) -> Settings:
    """Return a copy of settings for TRL's trainer, whose own folder is that of the checkpoints: `out` itself is never
    incomplete. The trainer's ping to its makers is switched off where nothing else is set."""
    if "HF_HUB_DISABLE_TELEMETRY" not in os.environ:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # the variable was read when the library was imported
    of_trainer = copy.copy(settings)
    of_trainer.output_dir = str(get_checkpoint_folder(out))
    return of_trainer


def find_dtype(settings: Any) -> torch.dtype:
    """Return the precision of the frozen weights."""
    return torch.bfloat16 if settings.bf16 else torch.float32


def is_model_in_parts() -> bool:
    """Whether the launcher of these processes has the weights sharded: FSDP or DeepSpeed."""
    return any(parse_flag_from_env(name) for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"))


class CheckpointMarker(TrainerCallback):
    """Notes in each checkpoint what the training learns from, once all else of it is written: without that file it is
    not whole, for a process may be killed while it writes one. To be the last of a trainer's callbacks."""

    def __init__(self, accelerator: Accelerator, inputs: Mapping[str, Any]):
        self.accelerator, self.inputs = accelerator, inputs

    def on_save(self, args, state, control, **kwargs) -> None:
        self.accelerator.wait_for_everyone()  # each process writes its random states
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            write_text_atomically(folder / INPUTS_FILE, json.dumps(self.inputs, indent=2, default=str))


def find_checkpoint(settings: Any, inputs: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint that a trainer's settings name, to go on from; None: begin anew.

    Raises:
        BadInput: there is no whole checkpoint at the path that is given, or it is of a training on other inputs.
    """
    named = settings.resume_from_checkpoint
    if not named:
        return None
    found = Path(named).expanduser()
    if named == "latest":
        folders = sorted(
            Path(settings.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-[0-9]*"),
            key=lambda f: int(f.name.rpartition("-")[2]),
        )
        whole = [folder for folder in folders if (folder / INPUTS_FILE).is_file()]
        if folders[-1:] != whole[-1:]:
            log.warning("%s is not whole: it was being written when the training was stopped", folders[-1])
        if not whole:
            return None
        found = whole[-1]
    elif not (found / INPUTS_FILE).is_file():
        raise BadInput(
            f"resume_from_checkpoint {named}",
            expected=f"latest, or the folder of a checkpoint that was written whole, with {INPUTS_FILE}",
            fix="give another one, or leave resume_from_checkpoint out",
        )
    then = json.loads((found / INPUTS_FILE).read_text(encoding="utf-8"))
    now = json.loads(json.dumps(inputs, default=str))
    fix = "leave resume_from_checkpoint out to begin anew"
    if then.get("pairs") == now.get("pairs"):  # otherwise raters have judged meanwhile, and nobody can give them again
        fix = "give the same again, or " + fix
    refuse_other_inputs(found, then, now, fix)
    return found


def run_training(
    trainer: Trainer, *memory_settings: str, inputs: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Run a trainer, from its checkpoint where its settings name one, and return the rows that it logged.

    `resume_from_checkpoint` takes `latest` for the newest one that is whole, if there is any.

    Args:
        inputs: what the training learns from, which must be the same when it is resumed (`describe_training_inputs`).

    Raises:
        BadInput: the checkpoint cannot be gone on from, or the memory does not suffice; it names `memory_settings`.
    """
    keep_stdout_free(trainer)
    trainer.add_callback(CheckpointMarker(trainer.accelerator, inputs or {}))
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(Path(str(trainer.args.output_dir)) / LOGS)
    checkpoint = find_checkpoint(trainer.args, inputs or {})
    if checkpoint is None and trainer.accelerator.is_main_process:
        # Of a training that begins anew the number of a checkpoint must not be that of another one's.
        for older in Path(str(trainer.args.output_dir)).glob(f"{PREFIX_CHECKPOINT_DIR}-[0-9]*"):
            shutil.rmtree(older)
    trainer.accelerator.wait_for_everyone()
    trainer.args.resume_from_checkpoint = None if checkpoint is None else str(checkpoint)
    with explain_out_of_memory(*memory_settings):
        trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    return [row for row in trainer.state.log_history if "loss" in row]


def is_sharded(trainer: Trainer) -> bool:
    """Whether no process has all weights."""
    return trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def save_trained_policy(
    trainer: Trainer,
    tokenizer: Any,
    out: Path,
    *,
    base: str,
    merge: bool,
    card: dict[str, Any],
    prompts: Sequence[Prompt],
    max_new_tokens: int | None = None,
) -> None:
    """Write the policy of a trainer with its card; all processes call it, and the main one writes.

    Under FSDP and ZeRO-3 the weights are in parts. Then the adapter is gathered and put on a copy of the base model.
    Nothing is sampled from that copy: it is on a CPU.

    Args:
        prompts: of the training, of which a record is kept; some are answered before and after.
        max_new_tokens: most tokens of these answers.

    Raises:
        BadInput: weights that were trained are not finite.
    """
    accelerator = trainer.accelerator
    accelerator.wait_for_everyone()
    model: Any = accelerator.unwrap_model(trainer.model)
    if not is_sharded(trainer) and not all(p.isfinite().all() for p in model.parameters() if p.requires_grad):
        raise BadInput(
            "weights after the training",
            expected="finite numbers, and some are not",
            fix="lower learning_rate or max_grad_norm; nothing was saved",
        )
    if is_sharded(trainer):
        state: Any = accelerator.get_state_dict(trainer.model)
        if accelerator.is_main_process:
            unset_hf_deepspeed_config()  # otherwise what this process alone loads waits for the others
            adapter = get_peft_model_state_dict(model, state_dict=state)
            model = PeftModel(load_policy(base, find_dtype(trainer.args)), model.peft_config["default"])
            set_peft_model_state_dict(model, adapter)
    if accelerator.is_main_process:
        of_text = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one
        samples = []
        if not is_sharded(trainer):
            samples = sample_before_and_after(
                model, of_text, prompts, max_new_tokens=max_new_tokens or MOST_TOKENS, seed=trainer.args.seed
            )
        save_policy(model, tokenizer, out, base=base, merge=merge, card=card, prompts=prompts, samples=samples)
    accelerator.wait_for_everyone()


def describe_settings(changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return of the settings that `list_changed_settings` lists those that a training has to share with one that goes
    on from its checkpoint."""
    return {name: value for name, value in changed.items() if name not in FREE_WHEN_RESUMED}


def list_changed_settings(settings: PolicySettings) -> dict[str, Any]:
    """Return the settings that differ from the defaults, our own and those in ALWAYS_RECORDED in any case, without
    folders of this machine."""
    defaults = type(settings)().to_dict()  # type: ignore[attr-defined]
    given = settings.to_dict()  # type: ignore[attr-defined]
    changed = {k: v for k, v in given.items() if defaults.get(k) != v and k not in OF_ONE_RUN}
    ours = [n for c in type(settings).__mro__ if c.__module__.startswith("rlhf_hitl.") for n in c.__annotations__]
    always = [n for n in (*ALWAYS_RECORDED, *ours) if n not in OF_ONE_RUN and given.get(n) not in (None, "", [])]
    return {name: given[name] for name in always} | changed
