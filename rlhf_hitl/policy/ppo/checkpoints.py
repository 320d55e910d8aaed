"""Checkpoints of PPO: a stopped run continues from the newest one and ends as if it had not been stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from rlhf_hitl.files import make_private_folder, place_folder
from rlhf_hitl.policy.best_weights import BestWeights, copy_trainable, set_trainable
from rlhf_hitl.policy.policy_folder import get_checkpoint_folder
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.model import ActorCritic
from rlhf_hitl.policy.reward_scale import RewardScale
from rlhf_hitl.policy.training import refuse_other_inputs

#: The file of a checkpoint with the trainable weights.
TRAINABLE_WEIGHTS = "trained.safetensors"


@dataclass
class PPOProgress:
    """What a checkpoint holds besides weights, optimiser and random states.

    Attributes:
        beta: the weight of the KL penalty.
    """

    step: int = 0
    beta: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    scale: RewardScale = field(default_factory=RewardScale)

    def state_dict(self) -> dict[str, Any]:
        state = {"step": self.step, "beta": self.beta, "history": self.history, "scale": dataclasses.asdict(self.scale)}
        return {"json": json.dumps(state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        values = json.loads(state["json"])
        self.step, self.beta, self.history = values["step"], values["beta"], values["history"]
        self.scale = RewardScale(**values["scale"])


class PPOCheckpoints:
    """Writes and reads the checkpoints of one run, in `get_checkpoint_folder(out)`.

    They hold the trainable weights only: the frozen ones are the starting policy's and are on disk already.

    Args:
        inputs: what the run learns from (`describe_training_inputs`).
    """

    def __init__(
        self,
        out: Path,
        config: PPOConfig,
        inputs: Mapping[str, Any],
        accelerator: Accelerator,
        model: ActorCritic,
        progress: PPOProgress,
        best: BestWeights,
    ):
        self.folder, self.accelerator = get_checkpoint_folder(out), accelerator
        self.model, self.progress, self.best = model, progress, best
        self.run = _describe_run(config, inputs, accelerator.num_processes)
        accelerator.register_save_state_pre_hook(self._save_trainable_only)
        accelerator.register_load_state_pre_hook(self._load_trainable_only)

    def save(self) -> None:
        """Write a checkpoint, whole or not at all, and remove the older ones."""
        draft, checkpoint = self.folder / "writing", self.folder / f"step-{self.progress.step:06d}"
        if self.accelerator.is_main_process:
            shutil.rmtree(draft, ignore_errors=True)
            make_private_folder(draft)
            (draft / "settings.json").write_text(json.dumps(self.run, indent=2))
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(draft))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            place_folder(draft, checkpoint)
            for older in self.folder.glob("step-*"):
                if older != checkpoint:
                    shutil.rmtree(older)
        self.accelerator.wait_for_everyone()

    def delete_all(self) -> None:
        """Delete what an earlier run has left: a run that begins anew must not be gone on from where that one was."""
        if self.accelerator.is_main_process:
            for older in self.folder.glob("step-*"):
                shutil.rmtree(older)
        self.accelerator.wait_for_everyone()

    def load_newest(self) -> None:
        """Continue from the newest checkpoint, if there is one.

        Raises:
            BadInput: the checkpoint is from a run with other settings, prompts, models or processes.
        """
        checkpoints = sorted(self.folder.glob("step-*"))
        if not checkpoints:
            return
        newest = checkpoints[-1]
        then = json.loads((newest / "settings.json").read_text())
        fix = "go on with what it had, choose another output_dir, or begin anew with resume: false"
        refuse_other_inputs(newest, then, self.run, fix)
        self.accelerator.load_state(str(newest))

    def _save_trainable_only(self, models: list[Any], weights: list[Any], folder: str) -> None:
        weights.clear()
        if self.accelerator.is_main_process:
            save_file(copy_trainable(self.model), Path(folder) / TRAINABLE_WEIGHTS)
            self.best.save(Path(folder))

    def _load_trainable_only(self, models: list[Any], folder: str) -> None:
        models.clear()
        set_trainable(self.model, load_file(Path(folder) / TRAINABLE_WEIGHTS))
        self.best.load(Path(folder))


def _describe_run(config: PPOConfig, inputs: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """Return, as plain JSON, what a checkpoint must share with the run that continues from it."""
    settings = dataclasses.asdict(config)
    budgets = ("microbatch_tokens", "sampling_tokens")  # what is out of memory goes on with half of it
    for name in ("output_dir", "resume", "report_to", "save", "save_steps", *budgets):
        del settings[name]
    return settings | {"processes": processes, **inputs}
