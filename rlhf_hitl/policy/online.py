"""Tune a LoRA policy with TRL's RLOO or GRPO trainer on the rewards of a reward model.

Unlike our PPO they run under every launcher of accelerate, and sample with vLLM where that is set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

from datasets import Dataset
from trl import GRPOTrainer, RLOOTrainer

from rlhf_hitl.arguments import refuse_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_policy, load_tokenizer
from rlhf_hitl.policy.online_rewards import RewardCallable, RewardKeeper
from rlhf_hitl.policy.online_settings import GRPOSettings, RLOOSettings
from rlhf_hitl.policy.policy_folder import require_free_folder
from rlhf_hitl.policy.rewards import ProblemFinder, RewardFunction
from rlhf_hitl.policy.token_sampling import PromptReader, find_eos_ids
from rlhf_hitl.policy.training import (
    UNSUPPORTED_ONLINE_SETTINGS,
    describe_training_inputs,
    explain_out_of_memory,
    make_policy_lora_config,
    refuse_heldout,
)
from rlhf_hitl.policy.training_prompts import read_training_prompts
from rlhf_hitl.policy.trl_training import (
    describe_settings,
    find_dtype,
    is_sharded,
    list_changed_settings,
    prepare_settings,
    run_training,
    save_trained_policy,
)
from rlhf_hitl.policy.tuning_watch import TuningWatch
from rlhf_hitl.reward.training.full_config import refuse_missing_trackers
from rlhf_hitl.types import Prompt
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

OnlineMethod = Literal["rloo", "grpo"]
#: The settings to halve, best first, where the memory does not suffice.
MEMORY_SETTINGS = ("per_device_train_batch_size (and double gradient_accumulation_steps)", "max_completion_length")


class _RenderedPrompts:
    """Takes prompts that are rendered already: TRL would put what a tokenizer adds in front of them once more."""

    processing_class: Any

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}


class RLOOPolicyTrainer(_RenderedPrompts, RLOOTrainer):
    """TRL's trainer of RLOO on prompts that are rendered."""


class GRPOPolicyTrainer(_RenderedPrompts, GRPOTrainer):
    """TRL's trainer of GRPO on prompts that are rendered."""


def train_online(
    settings: RLOOSettings | GRPOSettings,
    prompts: Sequence[Prompt],
    reward: RewardFunction,
    find_problem: ProblemFinder | None = None,
    *,
    watch: TuningWatch | None = None,
    card: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Tune a LoRA policy on prompts of the train split and write it to `settings.output_dir`.

    The kind of the settings says by which method. The reference is the policy with its adapter switched off.

    Args:
        reward: returns rewards of conversations, whatever the policy's tokenizer.
        find_problem: says which prompts and answers the reward model cannot read. None: it reads all.
        watch: stops the training where it hacks the reward; then the policy is that of its best step.
        card: more of what the policy's card should say.

    Returns:
        The figures of the training, and the rows of its steps under `history`.

    Raises:
        BadInput: a prompt may not be trained on or not be read, no prompt or too few fit, a reward is not a finite
            number, `output_dir` is taken, a setting or tracker cannot be followed, or the memory does not suffice.
    """
    method: OnlineMethod = "rloo" if isinstance(settings, RLOOSettings) else "grpo"
    refuse_settings([settings], UNSUPPORTED_ONLINE_SETTINGS)
    refuse_missing_trackers(settings.report_to)
    if settings.use_vllm and find_spec("vllm") is None:
        raise BadInput(
            "use_vllm True", expected="vLLM, which is not installed", fix="install it, or leave use_vllm out"
        )
    if settings.max_prompt_tokens < 1:
        raise BadInput(
            f"max_prompt_tokens {settings.max_prompt_tokens}", expected="1 or more", fix="change max_prompt_tokens"
        )
    out = require_free_folder(settings.output_dir)
    refuse_heldout(prompts)
    tokenizer = load_tokenizer(settings.model_name_or_path)
    reader = PromptReader(tokenizer)
    read = read_training_prompts(
        prompts,
        reader,
        find_problem,
        policy=settings.model_name_or_path,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_new_tokens=settings.max_completion_length or 0,
        skip_bad=settings.skip_bad,
        watch=watch,
    )
    _require_whole_batch(settings, len(read.prompts))
    _require_whole_generations(settings)
    warnings = []
    if settings.beta == 0:
        warnings.append(f"beta is 0, and TRL measures no KL then: max_kl {settings.max_kl:g} stops nothing")
        log.warning("%s", warnings[0])
    rows = [{"prompt": reader.template.apply(p.messages, None, p.tools), "prompt_id": p.id} for p in read.prompts]
    changed = list_changed_settings(settings)  # before there is a trainer: it makes others, which reset accelerate
    of_trainer = prepare_settings(settings, out)
    with explain_out_of_memory(*MEMORY_SETTINGS):
        model = load_policy(settings.model_name_or_path, find_dtype(settings))
        rewards = RewardCallable(
            {p.id: p for p in read.prompts},
            reward,
            find_problem,
            reader,
            find_eos_ids(model, tokenizer),
            0.0 if settings.mask_truncated_completions else settings.missing_eos_penalty,
            watch,
        )
        keeper = RewardKeeper(rewards, settings.max_kl)
        trainer = (RLOOPolicyTrainer if method == "rloo" else GRPOPolicyTrainer)(
            model=model,
            reward_funcs=rewards,  # type: ignore[arg-type]
            args=of_trainer,  # type: ignore[arg-type]
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=make_policy_lora_config(settings.lora_r, settings.lora_alpha, settings.lora_dropout),
            callbacks=[keeper],
        )
        if not is_sharded(trainer):
            keeper.watch_over(trainer.model)  # type: ignore[arg-type]
    ids = [p.id for p in read.prompts]
    inputs = describe_training_inputs(settings.model_name_or_path, {"prompts": ids}, card or {}, rewards.watch)
    inputs = {"method": method, **describe_settings(changed), **inputs}
    history = run_training(trainer, *MEMORY_SETTINGS, inputs=inputs)
    figures = {
        "prompts": len(rows),
        "too_long": read.too_long,
        "left_out": read.left_out.as_dict(),
        **rewards.seen.as_dict(),
        "steps": trainer.state.global_step,
        "processes": trainer.accelerator.num_processes,
        "stopped": rewards.stopped,
        "keeps_last": is_sharded(trainer),  # the weights of the best step are not at hand
        "warnings": [*warnings, *rewards.watch.warnings],
    }
    save_trained_policy(
        trainer,
        tokenizer,
        out,
        base=settings.model_name_or_path,
        merge=settings.merge,
        card={"method": method, "settings": changed, **figures, **(card or {}), "history": history},
        prompts=read.prompts,
        max_new_tokens=settings.max_completion_length,
    )
    return {**figures, "history": history}


def _require_whole_batch(settings: RLOOSettings | GRPOSettings, prompts: int) -> None:
    """Raise BadInput for too few prompts for a batch: TRL leaves out what does not fill one, and trains on nothing."""
    at_once = (settings.generation_batch_size or 1) // (settings.num_generations or 1)
    if prompts < at_once:
        raise BadInput(
            f"{say_count(prompts, 'prompt')} for a batch of {at_once}",
            expected="as many prompts as are answered at once (per_device_train_batch_size x processes x "
            "gradient_accumulation_steps / num_generations)",
            fix="import more prompts, or lower per_device_train_batch_size or gradient_accumulation_steps",
        )


def _require_whole_generations(settings: RLOOSettings | GRPOSettings) -> None:
    """Raise BadInput where a checkpoint would be written while answers are still to be learnt from: TRL does not keep
    them, and a training that goes on from there samples others."""
    steps = (settings.steps_per_generation or 1) * settings.num_iterations / settings.gradient_accumulation_steps
    if settings.save_strategy == "steps" and settings.save_steps % steps:
        raise BadInput(
            f"save_steps {settings.save_steps:g}",
            expected=f"a multiple of the {steps:g} steps for which answers are used "
            "(steps_per_generation x num_iterations / gradient_accumulation_steps)",
            fix="change save_steps",
        )
