"""Policies tuned by this project, and their answers: the one place where benchmarks import the tuning from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_hitl.types import Message, Prompt, Split

#: Returns the rewards (n,) of conversations, as `RewardModel.rewards` does.
Reward = Callable[[list[Any]], np.ndarray]


def make_prompt(text: str) -> Prompt:
    """Return a prompt of one turn that may be trained on."""
    return Prompt.create((Message("user", text),), split=Split.TRAIN)


def tune_with_ppo(
    prompts: Sequence[Prompt], reward: Reward, gold: Reward | None = None, **settings: Any
) -> list[dict[str, float]]:
    """Tune a policy with PPO, settings as of `PPOConfig`, and return its history. `gold` stops it where it falls."""
    from rlhf_hitl.policy.ppo.config import PPOConfig
    from rlhf_hitl.policy.ppo.trainer import train_ppo
    from rlhf_hitl.policy.tuning_watch import TuningWatch

    watch = None if gold is None else TuningWatch(gold, gold_model_id="watch")
    return train_ppo(PPOConfig(**settings), list(prompts), reward, watch=watch).history


def sample_answers(
    policy: str | Path, prompts: Sequence[Prompt], *, max_new_tokens: int, seed: int, batch_size: int = 32
) -> list[str]:
    """Return one answer to each prompt, sampled at temperature 1 by plain `model.generate`, empty ones included.

    The prompts of a batch and its seed are the same for each policy, so two policies that are equal answer equally.
    """
    import torch

    from rlhf_hitl.models import find_best_device, load_policy, load_tokenizer, resolve_dtype

    tokenizer: Any = load_tokenizer(policy)
    model: Any = load_policy(policy, resolve_dtype()).to(find_best_device())  # type: ignore[arg-type]
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        texts = [
            tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in p.messages], add_generation_prompt=True, tokenize=False
            )
            for p in prompts[start : start + batch_size]
        ]
        inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").to(model.device)
        torch.manual_seed(seed + start)
        out = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        for row in out[:, inputs["input_ids"].shape[1] :].tolist():
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            answers.append(str(tokenizer.decode(row[:end], skip_special_tokens=True)).strip())
    return answers


def tune_with_dpo(pairs: Sequence[tuple[Prompt, str, str, float]], **settings: Any) -> dict[str, Any]:
    """Tune a policy with DPO on pairs of answers to a prompt, settings as of `DPOSettings`.

    Args:
        pairs: prompt, the better answer, the worse one, and by how much the reward model prefers it.
    """
    from rlhf_hitl.policy.dpo import DPOSettings, train_dpo
    from rlhf_hitl.policy.dpo_pairs import DPOPair
    from rlhf_hitl.types import Completion

    def complete(prompt: Prompt, text: str) -> Completion:
        return Completion.create(prompt.id, (Message("assistant", text),), "policy")

    made = [DPOPair(p, complete(p, good), complete(p, bad), "model", margin) for p, good, bad, margin in pairs]
    return train_dpo(DPOSettings(**settings), made)
