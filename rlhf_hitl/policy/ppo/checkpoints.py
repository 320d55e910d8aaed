"""Checkpoints of PPO: a stopped run continues from the newest one and ends as if it had not been stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import make_private_folder, place_folder
from rlhf_hitl.policy.policy_folder import get_checkpoint_folder
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.model import ActorCritic
from rlhf_hitl.policy.reward_scale import RewardScale
from rlhf_hitl.types import Prompt

#: The file of a checkpoint with the weights of the last policy that was measured to be good.
GOOD_WEIGHTS = "good.safetensors"


@dataclass
class PPOProgress:
    """What a checkpoint holds besides weights, optimiser and random states.

    Attributes:
        beta: the weight of the KL penalty.
        good: the trainable weights of the last policy whose answers were measured and found good; saved in a file.
    """

    step: int = 0
    beta: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    scale: RewardScale = field(default_factory=RewardScale)
    good: dict[str, Tensor] = field(default_factory=dict)

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
    """

    def __init__(
        self,
        out: Path,
        config: PPOConfig,
        prompts: Sequence[Prompt],
        accelerator: Accelerator,
        model: ActorCritic,
        progress: PPOProgress,
    ):
        self.folder, self.accelerator, self.model, self.progress = (
            get_checkpoint_folder(out),
            accelerator,
            model,
            progress,
        )
        self.fingerprint = _describe_run(config, prompts, accelerator.num_processes)
        accelerator.register_save_state_pre_hook(self._save_trainable_only)
        accelerator.register_load_state_pre_hook(self._load_trainable_only)

    def save(self) -> None:
        """Write a checkpoint, whole or not at all, and remove the older ones."""
        draft, checkpoint = self.folder / "writing", self.folder / f"step-{self.progress.step:06d}"
        if self.accelerator.is_main_process:
            shutil.rmtree(draft, ignore_errors=True)
            make_private_folder(draft)
            (draft / "settings.json").write_text(self.fingerprint)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(draft))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            place_folder(draft, checkpoint)
            for older in self.folder.glob("step-*"):
                if older != checkpoint:
                    shutil.rmtree(older)
        self.accelerator.wait_for_everyone()

    def load_newest(self) -> None:
        """Continue from the newest checkpoint, if there is one.

        Raises:
            BadInput: the checkpoint is from a run with other settings, prompts or processes.
        """
        checkpoints = sorted(self.folder.glob("step-*"))
        if not checkpoints:
            return
        newest = checkpoints[-1]
        if (newest / "settings.json").read_text() != self.fingerprint:
            raise BadInput(
                f"checkpoint {newest}",
                expected="one of a run with the same settings, prompts and number of processes",
                fix="use the old settings, another output_dir, or --no_resume",
            )
        self.accelerator.load_state(str(newest))

    def _save_trainable_only(self, models: list[Any], weights: list[Any], folder: str) -> None:
        weights.clear()
        if self.accelerator.is_main_process:
            self.model.save_trainable(Path(folder))
            save_file(self.progress.good, Path(folder) / GOOD_WEIGHTS)

    def _load_trainable_only(self, models: list[Any], folder: str) -> None:
        models.clear()
        self.model.load_trainable(Path(folder))
        self.progress.good = load_file(Path(folder) / GOOD_WEIGHTS)


def _describe_run(config: PPOConfig, prompts: Sequence[Prompt], processes: int) -> str:
    """Return the settings that a checkpoint must share with the run that continues from it."""
    settings = dataclasses.asdict(config)
    budgets = ("microbatch_tokens", "sampling_tokens")  # what is out of memory goes on with half of it
    for name in ("output_dir", "resume", "report_to", "save", "save_steps", *budgets):
        del settings[name]
    settings |= {"processes": processes, "prompts": [p.id for p in prompts]}
    return json.dumps(settings, sort_keys=True)
