"""Train a full reward model: parse, build, train, save.

    accelerate launch scripts/train_reward.py --config configs/reward.yaml --dataset workspace/export

Flags override the file; every field of TRL's RewardConfig and ModelConfig is one. `--resume_from_checkpoint latest`
goes on where a run that was stopped had written its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trl import ModelConfig

from rlhf_hitl.arguments import parse_arguments, run_script
from rlhf_hitl.reward.training.full_config import FullTrainingConfig
from rlhf_hitl.reward.training.full_training import build_reward_trainer, run_reward_training, save_trained_model


def main(argv: Sequence[str] | None = None) -> None:
    config, model_config = parse_arguments((FullTrainingConfig, ModelConfig), argv)
    trainer = build_reward_trainer(config, model_config)
    run_reward_training(trainer, config)
    folder = Path(str(config.output_dir))
    model = save_trained_model(trainer, config, folder, workspace=folder.parent)  # features stand beside the model
    if model is not None:
        print(f"saved {model.id} to {folder}; replay it with: rlhf-hitl evaluate --reward-model {folder}")


if __name__ == "__main__":
    run_script(main)
