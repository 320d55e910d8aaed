"""Train a full reward model: parse, build, train, save.

    accelerate launch scripts/train_reward.py --config configs/reward.yaml --dataset workspace/export

Flags override the file; every field of TRL's RewardConfig and ModelConfig is one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rlhf_hitl.errors import RlhfHitlError
from rlhf_hitl.reward.full import build_trainer, finish, parser


def main() -> None:
    config, model_config = parser().parse_args_and_config()
    trainer = build_trainer(config, model_config)
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    folder = Path(str(config.output_dir))
    model = finish(trainer, config, folder, workspace=folder)
    if model is not None:
        print(f"saved {model.id} to {folder}; replay it with: rlhf-hitl evaluate --reward-model {folder}")


if __name__ == "__main__":
    try:
        main()
    except RlhfHitlError as e:
        sys.exit(f"error: {e}")
