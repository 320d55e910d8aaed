"""When PPO stops before its last step, and what it keeps then."""

from __future__ import annotations

import math

from rlhf_hitl.policy.ppo.config import PPOConfig


class RunStopped(Exception):
    """The run has to stop, and the last policy that was measured to be good is kept.

    Args:
        figures: those of the step, as far as it came.
    """

    def __init__(self, reason: str, figures: dict[str, float]):
        self.reason, self.figures = reason, figures
        super().__init__(reason)


def find_reason_to_stop(figures: dict[str, float], config: PPOConfig) -> str | None:
    """Return why a policy with these figures is not good, or None."""
    for name in ("reward", "kl", "policy_loss", "value_loss", "gradient_norm"):
        if name in figures and not math.isfinite(figures[name]):
            return f"the {name.replace('_', ' ')} is {figures[name]}"
    if figures.get("kl", 0.0) > config.max_kl:
        return f"the KL from the reference is {figures['kl']:.1f} nats an answer, more than max_kl {config.max_kl:g}"
    return None
