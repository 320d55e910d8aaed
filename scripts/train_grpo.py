"""Tune a policy with GRPO: as `train_rloo.py`, with the fields of TRL's GRPOConfig as flags.

accelerate launch -m rlhf_hitl.scripts.train_grpo --config configs/grpo.yaml --output_dir workspace/policies/grpo
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_hitl.arguments import run_script
from rlhf_hitl.policy.online_settings import GRPOSettings
from rlhf_hitl.scripts import train_rloo


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, and return the folder of the policy and the figures of the training."""
    return train_rloo.main(argv, GRPOSettings)


if __name__ == "__main__":
    run_script(lambda: print(f"saved {main()['policy']}"))
