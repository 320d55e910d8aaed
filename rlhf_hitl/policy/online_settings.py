"""The settings of RLOO and GRPO: TRL's, and those that all tuning of policies here shares."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import GRPOConfig, RLOOConfig

from rlhf_hitl.policy.training import refuse_unknown_choices
from rlhf_hitl.policy.trl_settings import PolicySettings


@dataclass
class OnlineSettings(PolicySettings):
    """What RLOO and GRPO add to the settings of TRL."""

    per_device_train_batch_size: int = field(default=4, metadata={"help": "Answers in one pass of a device."})
    num_generations: int | None = field(default=4, metadata={"help": "Answers to each prompt, compared to each other."})
    max_completion_length: int | None = field(
        default=128, metadata={"help": "Most tokens of an answer; longer answers are cut off."}
    )
    max_prompt_tokens: int = field(default=512, metadata={"help": "Longer prompts are left out and counted."})
    beta: float = field(
        default=0.05,
        metadata={
            "help": "Weight of the KL from the policy without its adapter, beside rewards in standard deviations."
        },
    )
    max_kl: float = field(
        default=50.0,
        metadata={"help": "KL in nats an answer from the reference, beyond which the run stops."},
    )
    missing_eos_penalty: float = field(
        default=1.0,
        metadata={
            "help": "Subtracted from the reward of an answer cut off before its EOS, in standard deviations of the "
            "rewards so far. Nothing is with mask_truncated_completions, which takes such answers out of the loss."
        },
    )


@dataclass
class RLOOSettings(OnlineSettings, RLOOConfig):
    """TRL's RLOOConfig and our settings."""


@dataclass
class GRPOSettings(OnlineSettings, GRPOConfig):
    """TRL's GRPOConfig and our settings. TRL's default for `beta` is 0, which nothing holds to the reference."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unknown_choices("grpo", vars(self))
