"""The sections of `gpu.py` that measure TRL's trainers as they come."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from device_speed import read_peak_gib
from gpu_scene import Figures, Scene, Skipped, locate_policy, require
from random_models import read_bundled_prompts

from rlhf_hitl.reward import shared_prefix


def measure_trl_reward(scene: Scene) -> Figures:
    """TRL's RewardTrainer, as it comes, on the pairs of the section `reward`."""
    require("trl", "datasets")
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    folder = locate_policy(scene)
    rows = [{"chosen_ids": a, "rejected_ids": b} for a, b in scene.draw_trees(scene.pairs)] * (2 if scene.quick else 5)
    config = RewardConfig(
        str(scene.folder / "trl_reward"), per_device_train_batch_size=scene.pairs, max_length=None,
        bf16=not scene.quick, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=scene.device == "cpu",
    )  # fmt: skip
    model = scene.build(scene.shape, torch.float32, "AutoModelForSequenceClassification")
    trainer = RewardTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(folder)
    )
    return report_trl("trl_reward", trainer, scene.pairs)


def measure_trl_dpo(scene: Scene) -> Figures:
    """TRL's DPOTrainer, as it comes, on the pairs of the section `dpo`."""
    require("trl", "datasets")
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    folder, pairs = locate_policy(scene), max(2, scene.pairs // 4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for tree in scene.draw_trees(pairs):
        trunk = shared_prefix.measure_tree(tree)[0]
        ids = {"prompt": tree[0][:trunk], "chosen": tree[0][trunk:], "rejected": tree[1][trunk:]}
        rows.append({key: tokenizer.decode(value) for key, value in ids.items()})
    config = DPOConfig(
        str(scene.folder / "trl_dpo"), per_device_train_batch_size=pairs, max_length=None, bf16=not scene.quick,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=scene.device == "cpu",
    )  # fmt: skip
    trainer = DPOTrainer(
        scene.build(scene.shape, scene.dtype), args=config, train_dataset=Dataset.from_list(rows * 5),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    return report_trl("trl_dpo", trainer, pairs)


def measure_trl_ppo(scene: Scene) -> Figures:
    """TRL's PPOTrainer, which it had up to 1.12, with the settings of the section `train_ppo`."""
    require("trl", "datasets")
    if importlib.util.find_spec("trl.experimental.ppo") is None:
        raise Skipped("this version of trl has no PPOTrainer: 1.12 was the last that had one")
    from ppo_race import Run
    from trl_ppo_peer import train

    episodes = 2 * scene.pairs
    run = Run(
        str(locate_policy(scene)), str(scene.folder / "trl_ppo"), read_bundled_prompts()[:64], 3, episodes,
        scene.pairs, 1, scene.answer // 2, 1e-5, 0.05, 16, 32, 0, episodes, 1.0,
        precision=str(scene.dtype).removeprefix("torch."),
    )  # fmt: skip
    told = train(run)
    return {"trl_ppo.episodes_per_s": told["episodes"] / told["seconds"], "trl_ppo.peak_gib": read_peak_gib()}


def report_trl(name: str, trainer: Any, pairs: int) -> Figures:
    """Train one epoch and return the pairs a second of all steps but the first."""
    import time

    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    rate = pairs * (len(ends) - 1) / (ends[-1] - ends[0])
    return {f"{name}.pairs_per_s": rate, f"{name}.peak_gib": read_peak_gib()}
