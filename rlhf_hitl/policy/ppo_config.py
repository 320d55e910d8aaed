"""The settings of PPO, as `TrlParser` reads them: from YAML, overridden by flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rlhf_hitl.errors import BadInput


def _f(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO. The defaults fit a 135M policy on two CPU cores; a GPU takes more rollouts, tokens and steps."""

    out: str = _f("", "Folder for the tuned policy. Must not be there yet.")
    policy: str = _f("smollm2-135m-instruct", "Model folder, hub id, or a name from `models get`.")
    steps: int = _f(4, "Rounds of sampling and updating.")
    rollouts: int = _f(8, "Answers sampled a step, over all processes.")
    minibatch: int = _f(4, "Answers an optimiser step, over all processes.")
    microbatch: int = _f(4, "Answers in one forward and backward pass of a process.")
    epochs: int = _f(1, "Times a step's rollouts are used.")
    max_prompt_tokens: int = _f(256, "Longer prompts are left out, and counted.")
    max_new_tokens: int = _f(32, "An answer is cut off here.")
    temperature: float = _f(1.0, "Of sampling, and of the probabilities the objective is made of.")
    learning_rate: float = _f(1e-4, "Of the adapter.")
    value_learning_rate: float = _f(1e-3, "Of the value head.")
    schedule: str = _f("linear", "linear (to zero) or constant.")
    lora_r: int = _f(8, "LoRA rank.")
    lora_alpha: int = _f(16, "LoRA alpha.")
    gamma: float = _f(1.0, "Discount a token.")
    lam: float = _f(0.95, "GAE's lambda.")
    clip: float = _f(0.2, "Clip range of the probability ratio.")
    value_clip: float = _f(0.5, "How far a value may move from the old one.")
    max_grad_norm: float = _f(1.0, "Gradients are clipped to this norm, adapter and value head each for itself.")
    kl_beta: float = _f(0.05, "Weight of the per-token KL penalty (estimator k1: log p - log reference).")
    kl_target: float | None = _f(None, "Nats an answer; set: beta is adapted towards it. Unset: beta stays.")
    kl_horizon: float = _f(10_000, "Answers over which the adaptive beta moves.")
    missing_eos_penalty: float = _f(1.0, "Taken off the reward of an answer that was cut off before its EOS.")
    precision: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata={"help": "auto, float32 or bfloat16 (the frozen weights; adapter and head are fp32)."},
    )
    seed: int = _f(0, "Fixes prompts, samples and initial weights.")
    save: str = _f("merged", "merged: a whole model. adapter: the adapter only, which needs its base to load.")
    save_steps: int = _f(0, "Write a checkpoint every so many steps; 0: none.")
    resume: bool = _f(True, "Go on from the newest checkpoint of the same settings, if there is one.")
    report_to: str = _f("none", "accelerate trackers, such as tensorboard or wandb; none; or several by commas.")

    def __post_init__(self) -> None:
        for name in ("steps", "rollouts", "minibatch", "microbatch", "epochs", "max_prompt_tokens", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} {getattr(self, name)}", expected="1 or more", fix=f"change {name}")
        for name in ("learning_rate", "value_learning_rate", "temperature", "clip", "value_clip", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise BadInput(f"{name} {getattr(self, name)}", expected="more than 0", fix=f"change {name}")
        if self.rollouts % self.minibatch:
            raise BadInput(
                f"minibatch {self.minibatch}", expected=f"a divisor of rollouts ({self.rollouts})", fix="change one"
            )
        for name, choices in (("save", ("merged", "adapter")), ("schedule", ("linear", "constant"))):
            if getattr(self, name) not in choices:
                raise BadInput(f"{name} {getattr(self, name)!r}", expected=" or ".join(choices), fix=f"change {name}")
