"""Measure the value heads of PPO on answers of many tokens.

    python benchmarks/ppo_value_head.py

The policy is the tiny random one of `ppo_toy.py`; an answer has up to 32 tokens, and its reward is the mean worth of
its letters, so the value of a token depends on all that was said before it. `KIND.explained_variance` is that of the
returns over the last 15 of 50 steps, `KIND.explained_early` over the steps from the 6th to the 20th, `KIND.reward_gain`
how much the mean reward of the last five steps is above the first's: means over the seeds, each with its standard error
(`.se`).
`--quick` takes one seed and few steps.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from ppo_toy import LETTERS, make_policy
from record import write_result

from rlhf_hitl.policy.ppo.config import PPOConfig, ValueHead
from rlhf_hitl.policy.ppo.trainer import PPOTrainer
from rlhf_hitl.types import Message, Prompt, Split

TOKENS, ROLLOUTS = 32, 64


def run(folder: Path, seed: int, kind: str, steps: int) -> dict[str, float]:
    """Train one policy with one kind of value head."""
    worth = dict(zip(LETTERS, np.random.default_rng(seed).normal(size=len(LETTERS))))
    prompts = [Prompt.create((Message("user", letter),), split=Split.TRAIN) for letter in LETTERS]

    def score(chats) -> np.ndarray:
        texts = ["".join(chat.completion[-1].content.split()) for chat in chats]
        return np.array([sum(worth[letter] for letter in text) / TOKENS for text in texts])

    config = PPOConfig(
        model_name_or_path=str(make_policy(folder / f"policy-{seed}-{kind}", seed)),
        output_dir=str(folder / f"{seed}-{kind}"), steps=steps, rollouts=ROLLOUTS, minibatch=ROLLOUTS // 2, epochs=2,
        max_new_tokens=TOKENS, seed=seed, learning_rate=2e-3, value_learning_rate=1e-2, missing_eos_penalty=0.0,
        precision="float32", lora_r=16, lora_alpha=32, value_head=kind,  # type: ignore[arg-type]
    )  # fmt: skip
    trainer = PPOTrainer(config, prompts, score)
    history = [trainer.run_step(step) for step in range(steps)]
    explained = [figures["explained_variance"] for figures in history]
    reward = [figures["reward"] for figures in history]
    return {
        "explained_variance": float(np.mean(explained[-15:])),
        "explained_early": float(np.mean(explained[5:20])) if steps > 5 else math.nan,
        "reward_gain": float(np.mean(reward[-5:]) - reward[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one seed, few steps")
    args = parser.parse_args()
    logging.getLogger("rlhf_hitl").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    seeds, steps = ([0], 6) if args.quick else (args.seeds, 50)
    figures: dict[str, float | int | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in get_args(ValueHead):
            found = [run(Path(folder), seed, kind, steps) for seed in seeds]
            for name in found[0]:
                values = np.array([one[name] for one in found])
                figures[f"{kind}.{name}"] = float(values.mean())
                figures[f"{kind}.{name}.se"] = (
                    float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
                )
    notes = (
        "A random two-layer policy, answers of up to 32 tokens, 64 of them a step, learning rate 2e-3 (value: 1e-2)."
    )
    write_result("ppo_value_head", figures, seeds=seeds, notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
