"""When PPO stops before its last step, and what it keeps then."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.types import Prompt

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Looks at a step's answers of all processes once they are scored: (step, prompts, texts, rewards (n,), figures).
#: Returns why the run has to stop, or None. It is called on the main process.
Observer = Callable[[int, Sequence[Prompt], Sequence[str], np.ndarray, dict[str, float]], str | None]


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


def ask_observer(
    observe: Observer,
    accelerator: Accelerator,
    step: int,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    rewards: Sequence[float],
    figures: dict[str, float],
) -> str | None:
    """Show the answers of all processes to an observer, in the order of their positions; all get its reason."""
    from accelerate.utils import broadcast_object_list, gather_object

    shares = gather_object([list(zip(prompts, texts, rewards))])
    reasons: list[str | None] = [None]
    if accelerator.is_main_process:
        rows = [row for rows in zip(*shares) for row in rows]  # position p is the process p % processes
        seen = np.array([r for _, _, r in rows], dtype=np.float64)
        reasons = [observe(step, [p for p, _, _ in rows], [t for _, t, _ in rows], seen, figures)]
    return broadcast_object_list(reasons)[0] if accelerator.num_processes > 1 else reasons[0]
