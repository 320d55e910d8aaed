"""When PPO stops before its last step, and what it keeps then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.tuning_watch import Sighting, TuningWatch
from rlhf_hitl.types import Prompt

if TYPE_CHECKING:
    from accelerate import Accelerator


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


def ask_watch(
    watch: TuningWatch,
    accelerator: Accelerator,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    rewards: Sequence[float],
    figures: dict[str, float],
) -> Sighting:
    """Show the answers of all processes to the main one's watch, in the order of their positions; all hear of it."""
    from accelerate.utils import broadcast_object_list, gather_object

    shares = gather_object([list(zip(prompts, texts, rewards))])
    seen: list[Any] = [None]
    if accelerator.is_main_process:
        rows = [row for rows in zip(*shares) for row in rows]  # position p is the process p % processes
        seen = [watch.observe([p for p, _, _ in rows], [t for _, t, _ in rows], [r for *_, r in rows], figures)]
    return broadcast_object_list(seen)[0] if accelerator.num_processes > 1 else seen[0]
