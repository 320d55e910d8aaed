"""Measure how many pairs a second a full reward model is trained on, beside TRL's stock RewardTrainer.

    python benchmarks/reward_training.py --data ../shared/data

Both train SmolLM2-135M on the same pairs of HH-RLHF helpful-base, in the same batches of 8, of the same tokens, with
TRL's defaults: AdamW, bf16, gradient checkpointing. They take turns, each from the same weights; a short batch warms
up, and the steps after it are counted. The losses are the same up to rounding, which tests/reward/test_shared_prefix.py
shows. Seconds are wall-clock; processor seconds are comparable even if other programs were running. `--quick` takes few
short pairs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from record import Clock, compute_ratios, load_hh_pairs, write_result
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback
from trl import ModelConfig, RewardConfig, RewardTrainer

from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.models import find_best_device, load_tokenizer
from rlhf_hitl.reward.pretrained import locate_full_model, silence_loading_report
from rlhf_hitl.reward.rendering import Renderer
from rlhf_hitl.reward.training.full_config import FullTrainingConfig
from rlhf_hitl.reward.training.full_training import build_reward_trainer
from rlhf_hitl.reward.training.progress import keep_stdout_free
from rlhf_hitl.reward.training.tokenised_rows import tokenise_rows
from rlhf_hitl.types import messages_to_dicts

PAIRS_IN_BATCH = 8


class AfterWarmUp(TrainerCallback):
    """Starts the clock after the first step, and reads it after each step that follows."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == 1:
            self.clock = Clock()
        self.seconds = self.clock.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds hh_rlhf/.")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="Counted steps a turn.")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--fp32", action="store_true", help="On both sides, in place of TRL's default.")
    parser.add_argument("--threads", type=int, help="Of torch; all cores if left out.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    turns, steps, length = (1, 1, 64) if args.quick else (args.turns, args.steps, args.max_length)
    with tempfile.TemporaryDirectory() as folder:
        path = locate_full_model(args.backbone)
        tokenizer = load_tokenizer(path)
        renderer = Renderer(tokenizer, length)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(renderer.pad_id)
        rows = [
            {
                "prompt": messages_to_dicts(chosen.prompt),
                "chosen": messages_to_dicts(chosen.completion),
                "rejected": messages_to_dicts(rejected.completion),
            }
            for chosen, rejected in load_hh_pairs(Path(args.data), PAIRS_IN_BATCH * (turns * steps + 1))
        ]
        # The shortest come first in every turn, as a batch to warm up with.
        rows.sort(key=lambda row: sum(len(m["content"]) for side in row.values() for m in side))
        warm, counted = (
            rows[:PAIRS_IN_BATCH],
            [rows[PAIRS_IN_BATCH + i] for i in np.random.default_rng(0).permutation(turns * steps * PAIRS_IN_BATCH)],
        )
        shared = {
            "output_dir": f"{folder}/out", "per_device_train_batch_size": PAIRS_IN_BATCH, "num_train_epochs": 1,
            "max_length": length, "bf16": not args.fp32, "train_sampling_strategy": "sequential",
            "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
            "use_cpu": find_best_device() == "cpu",
        }  # fmt: skip

        def stock(data: Dataset) -> Trainer:
            with silence_loading_report():
                model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype="float32")
            tokens_of: Any = tokenise_rows(data, renderer)[0]["ids"]
            train = Dataset.from_list(
                [{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in tokens_of]
            )
            tokens: Any = tokenizer
            config = RewardConfig(**shared)  # type: ignore[arg-type]
            trainer = RewardTrainer(model, config, train_dataset=train, processing_class=tokens)
            keep_stdout_free(trainer)
            return trainer

        def ours(data: Dataset) -> Trainer:
            DatasetDict({"train": data}).save_to_disk(f"{folder}/{data._fingerprint}")
            settings = shared | {"dataset": f"{folder}/{data._fingerprint}", "model_name_or_path": path}
            return build_reward_trainer(
                *parse_arguments(
                    (FullTrainingConfig, ModelConfig), [x for k, v in settings.items() for x in (f"--{k}", str(v))]
                )
            )

        turns_taken = []
        for turn in range(turns):
            part = counted[turn * steps * PAIRS_IN_BATCH : (turn + 1) * steps * PAIRS_IN_BATCH]
            seconds = {}
            for make in (stock, ours) if turn % 2 == 0 else (ours, stock):
                trainer, clock = make(Dataset.from_list(warm + part)), AfterWarmUp()
                trainer.add_callback(clock)
                trainer.train()
                seconds[make.__name__] = clock.seconds
                del trainer
            turns_taken.append(seconds)
    figures = {"turns": turns, "threads": torch.get_num_threads(), "bf16": int(not args.fp32)} | compute_ratios(
        turns_taken, steps * PAIRS_IN_BATCH
    )
    notes = f"SmolLM2-135M, HH-RLHF helpful-base, batches of {PAIRS_IN_BATCH} pairs, at most {length} tokens."
    write_result("reward_training", figures, seeds=[0], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
