"""Train a full reward model: parse, build, train, save.

    accelerate launch scripts/train_reward.py --config configs/reward.yaml --dataset workspace/export

Flags override the file; every field of TRL's RewardConfig and ModelConfig is one. `--resume_from_checkpoint latest`
goes on where a run that was stopped had written its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trl import ModelConfig

from rlhf_hitl.arguments import parse, run
from rlhf_hitl.reward.training.full import FullConfig, build_trainer, finish, train


def main(argv: Sequence[str] | None = None) -> None:
    config, model_config = parse((FullConfig, ModelConfig), argv)
    trainer = build_trainer(config, model_config)
    train(trainer, config)
    folder = Path(str(config.output_dir))
    model = finish(trainer, config, folder, workspace=folder)
    if model is not None:
        print(f"saved {model.id} to {folder}; replay it with: rlhf-hitl evaluate --reward-model {folder}")


if __name__ == "__main__":
    run(main)
