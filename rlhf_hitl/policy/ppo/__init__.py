"""PPO: sample answers, score them with the reward model, and update a LoRA policy near its reference.

Start with `trainer.py` (`train_ppo`). A step is sampled and scored by `rollouts.py` and learnt from by `update.py`;
`model.py` is the policy with its value head and the batches it reads, `math.py` the formulas, `checkpoints.py` what a
stopped run continues from. `config.py` has the settings; it imports no torch, so that a command refuses a wrong one at
once. So does this module, until one of the names below is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_hitl.policy.ppo.config import PPOConfig
    from rlhf_hitl.policy.ppo.trainer import PPOResult, PPOTrainer, train_ppo

__all__ = ["PPOConfig", "PPOResult", "PPOTrainer", "train_ppo"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{'config' if name == 'PPOConfig' else 'trainer'}"), name)
