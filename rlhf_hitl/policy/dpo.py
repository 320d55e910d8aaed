"""DPO with TRL on what people said, and on what the reward model says of fresh samples."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.aggregate import read_labels
from rlhf_hitl.models import fill_in_precision, load_policy, load_tokenizer
from rlhf_hitl.policy.training import checkpoints_of, free_folder, lora, refuse_heldout, save_policy
from rlhf_hitl.reward.training.progress import keep_stdout_free
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons, list_prompts
from rlhf_hitl.types import Completion, Messages, Prompt, Route, Split, messages_to_dicts

log = logging.getLogger(__name__)


class Rewards(Protocol):
    """What is needed of a reward model."""

    def rewards(self, chats: Sequence[tuple[Messages, Messages]], /) -> np.ndarray: ...


@dataclass(frozen=True)
class Pair:
    """One row of DPO. `label_source` is "human" or "model"; `margin` is the reward model's, 0 for people's pairs."""

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    label_source: str
    margin: float = 0.0

    def row(self) -> dict[str, Any]:
        """TRL's conversational columns and where the row is from."""
        return {
            "prompt": messages_to_dicts(self.prompt.messages),
            "chosen": messages_to_dicts(self.chosen.messages),
            "rejected": messages_to_dicts(self.rejected.messages),
            "label_source": self.label_source,
            "prompt_id": self.prompt.id,
        }


@dataclass
class DPOSettings(DPOConfig):
    """TRL's DPOConfig with ours. Defaults that differ from TRL's fit a LoRA run of a small policy on a CPU; bf16 is
    left off where the hardware emulates it."""

    out: str = field(default="", metadata={"help": "Folder for the tuned policy. Must not be there yet."})
    policy: str = field(
        default="smollm2-135m-instruct", metadata={"help": "Model folder, hub id, or a name from `models get`."}
    )
    lora_r: int = field(default=8, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(default=16, metadata={"help": "LoRA alpha."})
    lora_dropout: float = field(default=0.0, metadata={"help": "LoRA dropout."})
    merge: bool = field(default=True, metadata={"help": "Save a whole model; else the adapter only."})
    learning_rate: float = field(default=5e-5, metadata={"help": "Of AdamW; LoRA takes more than full tuning."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Pairs a device and pass."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Times the pairs are used."})
    max_length: int | None = field(default=1024, metadata={"help": "Tokens; longer pairs are left out, and counted."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Less memory for more time."})
    logging_steps: float = field(default=1, metadata={"help": "Steps between two rows of the history."})
    save_strategy: str = field(default="no", metadata={"help": "no, steps or epoch: when to write checkpoints."})

    def __post_init__(self) -> None:
        fill_in_precision(self)
        if not self.output_dir and self.out:
            self.output_dir = str(checkpoints_of(Path(self.out).expanduser()))
        super().__post_init__()


def human_pairs(store: Store) -> list[Pair]:
    """Pairs of the train split on which people prefer one side; ties and splits down the middle are left out."""
    decided = [label for label in read_labels(store, split=Split.TRAIN) if label.preferred is not None]
    ids = list(dict.fromkeys(label.comparison_id for label in decided))
    comparisons = {c.id: c for c in find_comparisons(store, ids=ids)}
    pairs = []
    for label in decided:
        comparison = comparisons[label.comparison_id]
        loser = label.second if label.preferred == label.first else label.first
        chosen, rejected = comparison.find_completion(label.preferred or ""), comparison.find_completion(loser)
        if chosen.text.strip() and rejected.text.strip():
            pairs.append(Pair(comparison.prompt, chosen, rejected, "human"))
    return pairs


def model_pairs(
    reward_model: Rewards, prompts: Iterable[Prompt], fresh: Sequence[Completion], *, least_margin: float = 0.5
) -> list[Pair]:
    """For each prompt its best fresh completion against its worst by reward, where they are `least_margin` apart."""
    by_id = {p.id: p for p in prompts}
    usable = sorted((c for c in fresh if c.prompt_id in by_id and c.text.strip()), key=lambda c: (c.prompt_id, c.id))
    rewards = reward_model.rewards([(by_id[c.prompt_id].messages, c.messages) for c in usable]) if usable else []
    pairs = []
    for prompt_id, group in groupby(zip(usable, rewards), key=lambda pair: pair[0].prompt_id):
        ranked = sorted(group, key=lambda pair: float(pair[1]))
        (worst, low), (best, high) = ranked[0], ranked[-1]
        if high - low >= least_margin and best.messages != worst.messages:
            pairs.append(Pair(by_id[prompt_id], best, worst, "model", float(high - low)))
    return pairs


def pairs_for_dpo(
    store: Store,
    reward_model: Rewards | None = None,
    fresh: Sequence[Completion] | None = None,
    *,
    least_margin: float = 0.5,
    limit: int | None = None,
    seed: int = 0,
) -> list[Pair]:
    """People's pairs and, given a reward model, pairs it makes of fresh completions; in an order drawn by `seed`.

    Args:
        fresh: completions of prompts of the train split; None takes those of
            comparisons the router accepted: what it sent to raters is not for the model to label.
        limit: at most so many pairs, from people and model in turn while both last.

    Raises:
        BadInput: a fresh completion of a prompt that may not be trained on, or no pair at all.
    """
    rng = random.Random(seed)
    human = human_pairs(store)
    rng.shuffle(human)
    made: list[Pair] = []
    if reward_model is not None:
        prompts, answers = _fresh(store, fresh)
        rng.shuffle(prompts)
        # Scoring is the dear part: no more prompts than there can be pairs, and some that fall short of the margin.
        prompts = prompts[: None if limit is None else 2 * limit]
        refuse_heldout(prompts, store)
        made = model_pairs(reward_model, prompts, answers, least_margin=least_margin)
        rng.shuffle(made)
    judged = {frozenset((p.chosen.id, p.rejected.id)) for p in human}
    made = [p for p in made if frozenset((p.chosen.id, p.rejected.id)) not in judged]
    pairs = [p for both in zip_longest(human, made) for p in both if p is not None][:limit]
    if not pairs:
        raise BadInput(
            "pairs for DPO",
            expected="one or more pairs of the train split with a preferred side",
            fix="have comparisons rated, or give a reward model and fresh completions",
        )
    refuse_heldout((p.prompt for p in pairs), store)
    return pairs


def _fresh(store: Store, given: Sequence[Completion] | None) -> tuple[list[Prompt], list[Completion]]:
    if given is not None:
        wanted = {c.prompt_id for c in given}
        return [p for p in list_prompts(store) if p.id in wanted], list(given)
    accepted = list(find_comparisons(store, split=Split.TRAIN, judged=False, routes=[Route.AUTO]))
    prompts = {c.prompt.id: c.prompt for c in accepted}
    return list(prompts.values()), list({a.id: a for c in accepted for a in c.completions}.values())


def dataset(pairs: Sequence[Pair], tokenizer: Any, max_length: int | None) -> tuple[Dataset, int]:
    """Rows for TRL, and how many were left out as longer than `max_length`: TRL cuts their ends off in silence."""

    def tokens(pair: Pair, answer: Completion) -> int:
        text = tokenizer.apply_chat_template(messages_to_dicts(pair.prompt.messages + answer.messages), tokenize=False)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    kept = [p for p in pairs if max_length is None or max(tokens(p, p.chosen), tokens(p, p.rejected)) <= max_length]
    return Dataset.from_list([p.row() for p in kept]), len(pairs) - len(kept)


def train_dpo(settings: DPOSettings, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Tune a LoRA policy with TRL's trainer and write it to `settings.out`. Returns its figures.

    The reference is the policy with its adapter off, so there is no second model.

    Raises:
        BadInput: pairs of prompts that may not be trained on, none that fit, or an `out` that is taken.
    """
    out = free_folder(settings.out)
    refuse_heldout(p.prompt for p in pairs)
    tokenizer = load_tokenizer(settings.policy)
    rows, too_long = dataset(pairs, tokenizer, settings.max_length)
    if too_long:
        log.warning("%d of %d pairs left out: longer than max_length %s", too_long, len(pairs), settings.max_length)
    if not len(rows):
        raise BadInput(
            f"{len(pairs)} pairs",
            expected=f"at least one of up to {settings.max_length} tokens",
            fix="raise max_length",
        )
    trainer = DPOTrainer(
        model=load_policy(settings.policy, torch.bfloat16 if settings.bf16 else torch.float32),
        args=settings,
        processing_class=tokenizer,
        train_dataset=rows,
        peft_config=lora(settings.lora_r, settings.lora_alpha, settings.lora_dropout),
    )
    keep_stdout_free(trainer)
    trainer.train(resume_from_checkpoint=settings.resume_from_checkpoint)
    sources = [p.label_source for p in pairs]
    history = [row for row in trainer.state.log_history if "loss" in row]
    figures = {
        "human_pairs": sources.count("human"),
        "model_pairs": sources.count("model"),
        "too_long": too_long,
        "steps": trainer.state.global_step,
        "loss": history[-1]["loss"] if history else None,
    }
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        card = {"method": "dpo", "settings": _ours(settings), **figures, "history": history}
        save_policy(model, tokenizer, out, base=settings.policy, merge=settings.merge, card=card)
    trainer.accelerator.wait_for_everyone()
    return figures


def _ours(settings: DPOSettings) -> dict[str, Any]:
    """The settings that are not the defaults, and the policy; no folders of this machine."""
    plain = DPOSettings(out=settings.out).to_dict()
    said = {k: v for k, v in settings.to_dict().items() if plain.get(k) != v}
    return {"policy": settings.policy} | {k: v for k, v in said.items() if k not in ("out", "output_dir")}
