"""The settings of PPO. `TrlParser` reads them from YAML, and flags override it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

from rlhf_hitl.arguments import read_trackers
from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.errors import BadInput

#: The settings to halve, best first, where memory does not suffice.
MEMORY_SETTINGS = ("microbatch_tokens", "sampling_tokens", "max_new_tokens")
#: The same where a reward model scores answers beside the policy.
SCORING_MEMORY_SETTINGS = ("rollouts (with minibatch)", "max_new_tokens", "max_prompt_tokens")
#: What estimates the value of a token; `model.ActorCritic` says what each is.
ValueHead = Literal["linear", "mlp", "shared", "critic"]


#: What numbers may be: in words, their kind, whether one is in range, and the settings. None may be infinite.
_RANGES: tuple[tuple[str, type, Callable[[float], bool], tuple[str, ...]], ...] = (
    (
        "1 or more, a whole number", Integral, lambda x: x >= 1,
        ("steps", "rollouts", "answers_per_prompt", "minibatch", "microbatch_tokens", "sampling_tokens", "epochs",
         "max_prompt_tokens", "max_new_tokens", "lora_r", "lora_alpha"),
    ),
    ("0 or more, a whole number", Integral, lambda x: x >= 0, ("warmup_steps", "save_steps")),
    ("a whole number from 0 to 4294967295", Integral, lambda x: 0 <= x < 2**32, ("seed",)),  # as NumPy's seeds
    (
        "more than 0, and finite", Real, lambda x: x > 0,
        ("learning_rate", "value_learning_rate", "temperature", "clip", "value_clip", "max_grad_norm", "max_update_kl",
         "max_kl", "value_weight", "kl_target", "kl_horizon"),
    ),
    ("0 or more, and finite", Real, lambda x: x >= 0, ("missing_eos_penalty", "kl_beta")),
    ("a number from 0 to 1", Real, lambda x: 0 <= x <= 1, ("gamma", "lam")),
)  # fmt: skip
_CHOICES = {
    "save": ("merged", "adapter"),
    "schedule": ("linear", "constant"),
    "value_head": get_args(ValueHead),
    "precision": ("auto", "float32", "bfloat16"),
    "sampling_precision": ("same", "float32", "bfloat16"),
}


def _declare_setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO. The defaults fit a 135M policy on two CPU cores; raise rollouts, tokens and steps on a GPU."""

    output_dir: str = _declare_setting("", "Folder for the tuned policy. It must not exist yet.")
    model_name_or_path: str = _declare_setting(DEFAULT_MODEL, "Model folder, hub id, or a name from `models get`.")
    steps: int = _declare_setting(4, "Number of steps; each samples answers and updates the policy on them.")
    rollouts: int = _declare_setting(8, "Answers sampled in a step, over all processes.")
    answers_per_prompt: int = _declare_setting(
        1, "Answers of a step to each of its prompts; with a gold reward model several show earlier where it leads."
    )
    minibatch: int = _declare_setting(4, "Answers in an optimiser step, over all processes.")
    microbatch_tokens: int = _declare_setting(
        512, "Most tokens, prompts and padding included, in one forward and backward pass of a process."
    )
    sampling_tokens: int = _declare_setting(
        16_384, "Most tokens, prompts and padding included, of the answers that a process samples side by side."
    )
    epochs: int = _declare_setting(1, "How often the rollouts of a step are used.")
    max_prompt_tokens: int = _declare_setting(256, "Longer prompts are left out and counted.")
    max_new_tokens: int = _declare_setting(32, "Most tokens of an answer; longer answers are cut off.")
    temperature: float = _declare_setting(1.0, "Temperature of sampling and of the probabilities in the objective.")
    learning_rate: float = _declare_setting(1e-4, "Learning rate of the adapter.")
    value_learning_rate: float = _declare_setting(1e-3, "Learning rate of the value head.")
    warmup_steps: int = _declare_setting(1, "Steps over which the learning rates rise to their full size.")
    schedule: str = _declare_setting("linear", "Schedule of the learning rates: linear (to zero) or constant.")
    lora_r: int = _declare_setting(8, "LoRA rank.")
    lora_alpha: int = _declare_setting(16, "LoRA alpha.")
    gamma: float = _declare_setting(1.0, "Discount of each token.")
    lam: float = _declare_setting(0.95, "Lambda of generalised advantage estimation.")
    clip: float = _declare_setting(0.2, "Clip range of the probability ratio.")
    value_clip: float = _declare_setting(0.5, "How far a value may move from the old one, in standard deviations.")
    value_head: Literal["linear", "mlp", "shared", "critic"] = _declare_setting(
        "mlp", "What estimates the value: linear or mlp (detached), shared (trains the adapter, too), or critic."
    )
    value_weight: float = _declare_setting(
        0.1, "Weight of the value loss beside the policy's where value_head is shared."
    )
    max_grad_norm: float = _declare_setting(
        1.0, "Norm that the gradients of adapter and value head are each clipped to."
    )
    kl_beta: float = _declare_setting(
        0.05, "Weight of the per-token KL penalty: standard deviations of the reward for a nat (estimator k1)."
    )
    kl_target: float | None = _declare_setting(
        None, "KL in nats an answer that beta is adapted to; without it beta is fixed."
    )
    kl_horizon: float = _declare_setting(10_000, "Number of answers over which the adaptive beta moves.")
    max_update_kl: float = _declare_setting(
        0.1, "KL in nats a token from the policy that sampled, beyond which a step's remaining updates are left out."
    )
    max_kl: float = _declare_setting(
        50.0, "KL in nats an answer from the reference, beyond which the run stops and keeps the last good policy."
    )
    missing_eos_penalty: float = _declare_setting(
        1.0, "Subtracted for an answer cut off before its EOS, in standard deviations of the reward."
    )
    precision: Literal["auto", "float32", "bfloat16"] = _declare_setting(
        "auto", "Precision of the frozen weights: auto, float32 or bfloat16. Adapter and head are float32."
    )
    sampling_precision: Literal["same", "float32", "bfloat16"] = _declare_setting(
        "same", "Precision of sampling: same (as `precision`), or a copy of the policy in float32 or bfloat16."
    )
    seed: int = _declare_setting(0, "Seed of the choice of prompts, the samples and the initial weights.")
    save: str = _declare_setting(
        "merged", "merged: save a whole model. adapter: the adapter only, which needs its base to load."
    )
    skip_bad: bool = _declare_setting(
        False, "Leave out and count prompts that a chat template refuses, instead of stopping."
    )
    save_steps: int = _declare_setting(0, "Steps between two checkpoints; 0 writes none.")
    resume: bool = _declare_setting(True, "Continue from the newest checkpoint of the same settings, if there is one.")
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "Trackers such as tensorboard or wandb; or none."}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "report_to", read_trackers(self.report_to))
        for expected, kind, is_in_range, names in _RANGES:
            for name in names:
                value = getattr(self, name)
                if name == "kl_target" and value is None:
                    continue
                is_number = isinstance(value, kind) and not isinstance(value, bool)
                if not is_number or not is_in_range(value) or not value < math.inf:  # nan is in no range
                    raise BadInput(f"{name} {value}", expected=expected, fix=_suggest_default(name))
        if self.rollouts % self.minibatch:
            raise BadInput(
                f"minibatch {self.minibatch}", expected=f"a divisor of rollouts ({self.rollouts})", fix="change one"
            )
        if self.rollouts % self.answers_per_prompt:
            raise BadInput(
                f"answers_per_prompt {self.answers_per_prompt}",
                expected=f"a divisor of rollouts ({self.rollouts})",
                fix="change one",
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise BadInput(
                    f"{name} {getattr(self, name)!r}", expected=" or ".join(choices), fix=_suggest_default(name)
                )


def _suggest_default(name: str) -> str:
    [default] = [f.default for f in fields(PPOConfig) if f.name == name]
    return f"change {name}, or leave it out: its default is {default}"
