"""Measure PPO on a task whose optimum is known, and its KL against the exact one.

    python benchmarks/ppo_toy.py

A tiny, random policy answers with two tokens of a small vocabulary; the reward of an answer is the mean worth of its
tokens, which are known numbers. With a KL penalty of weight b the best policy is known, too: it is the reference times
exp(reward / b), and the objective reward - b KL has the value b log E[exp(reward / b)] under it. All answers are
enumerated, so rewards, KL and objective of any policy are exact.

`optimal_share` is the mean over seeds of (objective after PPO - before) / (best - before), at a low weight, and `.low`
the worst seed's. `kl_high_weight` is the exact KL in nats an answer of the policies that were trained with a high
weight, the largest of the seeds, and `kl_low_weight` the smallest of the others. `kl_error` is the difference between
the KL that a step estimates and the exact one of the policy that sampled, in standard errors of the estimate: the root
mean square over steps and seeds, which is 1 of an unbiased estimate.
`--quick` takes one seed and few steps.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_result

from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.trainer import PPOTrainer
from rlhf_hitl.types import Message, Prompt, Split

LETTERS = "abcdefghijkl"
#: Weights of the KL penalty in units of the reward's spread. With the first the best policy is far from the reference.
LOW_WEIGHT, HIGH_WEIGHT = 0.1, 100.0
TOKENS = 2


def make_policy(folder: Path, seed: int) -> Path:
    """Write a random two-layer Llama whose words are LETTERS."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<end>", "<ask>", "<say>", *LETTERS]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}<ask> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<say>{% endif %}"
    raw.add_special_tokens(words[:4])  # they are no part of a text
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<end>", chat_template=template
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            pad_token_id=0, eos_token_id=1, bos_token_id=None, tie_word_embeddings=False,
        )
    )  # fmt: skip
    model.lm_head.weight.data.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Task:
    """The prompts, the worth of each token, and everything exact about a policy.

    An answer is what is sampled: two tokens, or the EOS alone, or one token and the EOS.
    """

    def __init__(self, seed: int):
        self.worth = np.r_[np.zeros(4), np.random.default_rng(seed).normal(size=len(LETTERS))]
        self.prompts = [Prompt.create((Message("user", w),), split=Split.TRAIN) for w in LETTERS[:4]]
        size = 4 + len(LETTERS)
        self.answers = [(1,), *((a, b) for a, b in itertools.product(range(size), repeat=2) if a != 1)]
        self.rewards = np.array([self.worth[list(a)].sum() / TOKENS for a in self.answers])

    def score(self, chats) -> np.ndarray:
        """Return the reward of answers, read as text as a reward model does."""
        texts = ["".join(chat.completion[-1].content.split()) for chat in chats]
        return np.array([sum(self.worth[4 + LETTERS.index(letter)] for letter in text) / TOKENS for text in texts])

    @torch.no_grad()
    def enumerate_logprobs(self, trainer: PPOTrainer) -> tuple[np.ndarray, np.ndarray]:
        """Return log p of each answer to each prompt, (prompts, answers), of the policy and of the reference."""
        from rlhf_hitl.policy.ppo.batches import collate_rollouts

        found = []
        for prompt in trainer.sampler.prompt_tokens:
            batch = collate_rollouts([prompt] * len(self.answers), self.answers, 0, "cpu")
            policy, reference = trainer.model.evaluate(batch).logprobs, trainer.reference.compute_logprobs(batch, 2**16)
            found.append([(x * batch.mask).double().sum(1).numpy() for x in (policy, reference)])
        both = np.array(found)
        return both[:, 0], both[:, 1]

    def compute_objective(self, policy: np.ndarray, reference: np.ndarray, weight: float) -> float:
        """Return E[reward] - weight KL, the mean over prompts."""
        return float((np.exp(policy) * (self.rewards - weight * (policy - reference))).sum(1).mean())

    def compute_best_objective(self, reference: np.ndarray, weight: float) -> float:
        return float(weight * np.log((np.exp(reference) * np.exp(self.rewards / weight)).sum(1)).mean())


def run(folder: Path, seed: int, weight: float, steps: int, rollouts: int, rate: float = 2e-3) -> dict[str, Any]:
    """Train one policy. Returns its share of the optimum, its exact KL and each step's error in standard errors."""
    task, name = Task(seed), f"{seed}-{weight:g}"
    config = PPOConfig(
        model_name_or_path=str(make_policy(folder / f"policy-{name}", seed)), output_dir=str(folder / name),
        steps=steps, rollouts=rollouts, minibatch=rollouts // 4, epochs=4, max_new_tokens=TOKENS, seed=seed,
        learning_rate=rate, value_learning_rate=1e-2, kl_beta=weight, missing_eos_penalty=0.0, precision="float32",
        lora_r=16, lora_alpha=32, lam=1.0,
    )  # fmt: skip
    trainer = PPOTrainer(config, task.prompts, task.score)
    errors, before = [], math.nan
    for step in range(steps):
        policy, reference = task.enumerate_logprobs(trainer)
        assert np.allclose(np.exp(policy).sum(1), 1, atol=1e-4), "all answers are enumerated"
        difference = policy - reference
        exact = (np.exp(policy) * difference).sum(1)
        variance = (np.exp(policy) * difference**2).sum(1) - exact**2
        figures = trainer.run_step(step)
        if step == 0:
            start_policy, start_reference = policy, reference
        else:  # before the first update both are 0
            standard_error = math.sqrt(float(variance.mean()) / rollouts)  # each prompt has as many rollouts
            errors.append((figures["kl"] - float(exact.mean())) / standard_error)
    policy, reference = task.enumerate_logprobs(trainer)
    in_units = weight * trainer.progress.scale.spread  # of the reward
    before = task.compute_objective(start_policy, start_reference, in_units)
    best = task.compute_best_objective(reference, in_units)
    share = (task.compute_objective(policy, reference, in_units) - before) / (best - before)
    return {"share": share, "kl": float((np.exp(policy) * (policy - reference)).sum(1).mean()), "errors": errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, few steps")
    args = parser.parse_args()
    logging.getLogger("rlhf_hitl").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    seeds, steps, rollouts = ([0], 8, 64) if args.quick else ([0, 1, 2, 3, 4], 30, 64)
    with tempfile.TemporaryDirectory() as folder:
        low = [run(Path(folder), seed, LOW_WEIGHT, steps, rollouts) for seed in seeds]
        high = [run(Path(folder), seed, HIGH_WEIGHT, steps, rollouts) for seed in seeds]
    errors = np.array([e for one in low for e in one["errors"]])
    figures = {
        "optimal_share": float(np.mean([one["share"] for one in low])),
        "optimal_share.low": float(np.min([one["share"] for one in low])),
        "kl_high_weight": float(np.max([one["kl"] for one in high])),
        "kl_low_weight": float(np.min([one["kl"] for one in low])),
        "kl_error": float(np.sqrt(np.mean(errors**2))),
        "kl_error.mean": float(errors.mean()),
        "steps": steps,
        "rollouts": rollouts,
    }
    notes = (
        f"optimal_share: of the objective reward - b KL at b = {LOW_WEIGHT} standard deviations of the reward, between "
        f"the reference's and the best; kl_high_weight: nats an answer at b = {HIGH_WEIGHT:g}; kl_error: root mean "
        "square of (estimated - exact KL) in standard errors."
    )
    write_result("ppo_toy", figures, seeds=seeds, notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
