"""How a round of the loop tunes its policy, with DPO and then PPO, and what it records of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_hitl.loop.config import LoopConfig
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.types import Completion, Prompt, Split

if TYPE_CHECKING:
    from rlhf_hitl.policy.sampling_counts import SamplingCounts
    from rlhf_hitl.reward.model import RewardModel

#: Steps of an optimiser between two checkpoints of DPO. PPO writes one after each of its steps, which take far longer.
DPO_SAVE_STEPS = 50

#: Returns the folder for a policy that is made of these inputs (`describe_training_inputs`).
FolderNamer = Callable[[Mapping[str, Any]], Path]


@dataclass(frozen=True)
class FreshAnswers:
    """What a policy answered to the prompts that it was asked, and counts of what was drawn and filtered."""

    asked: Sequence[Prompt]
    completions: list[Completion]
    counts: SamplingCounts


def tune_with_dpo(
    store: Store,
    config: LoopConfig,
    policy: str,
    name_folder: FolderNamer,
    model: RewardModel | None,
    fresh: FreshAnswers | None,
    *,
    round: int,
    seed: int,
) -> dict[str, Any]:
    """Tune a policy on people's pairs and on pairs that the reward model makes of fresh completions, None where no
    prompts were asked. Returns figures.

    The record gives the run again as nearly as `train-dpo` can: it samples at one temperature.

    A training that was stopped goes on from its checkpoint where its inputs are the same.
    """
    from rlhf_hitl.policy.dpo import FIGURES, DPOSettings, train_dpo
    from rlhf_hitl.policy.dpo_pairs import DPOPairArguments, collect_dpo_pairs
    from rlhf_hitl.policy.lineage import record_tuned_policy
    from rlhf_hitl.policy.policy_folder import TRAINING_CARD, read_training_card
    from rlhf_hitl.policy.training import describe_training_inputs

    not_paired = Counter[str]()
    pairs = collect_dpo_pairs(
        store,
        model,
        () if fresh is None else fresh.completions,
        asked=() if fresh is None else fresh.asked,
        limit=config.dpo_pairs,
        seed=seed,
        label_model=config.label_model,
        conservative=config.conservative,
        not_paired=not_paired,
    )
    arguments = DPOPairArguments(
        human_only=not config.dpo_prompts,
        sample_prompts=config.dpo_prompts,
        completions=config.completions_per_prompt,
        temperature=config.temperatures[-1],
        max_new_tokens=config.max_new_tokens,
        limit=config.dpo_pairs,
        label_model=config.label_model,
    )
    card = _describe_run(config, model, arguments)
    out = name_folder(describe_training_inputs(policy, {"pairs": [pair.label for pair in pairs]}, card))
    settings = DPOSettings(
        model_name_or_path=policy,
        output_dir=str(out),
        max_length=512,
        save_strategy="steps",
        save_steps=DPO_SAVE_STEPS,
        save_total_limit=1,
        resume_from_checkpoint="latest",
        skip_bad=config.skip_bad,
    )
    if not (out / TRAINING_CARD).is_file():  # by an attempt that was stopped when it had written it
        sampled = None if fresh is None else fresh.counts.as_dict()
        train_dpo(settings, pairs, store.images.load, not_paired=not_paired, sampled=sampled, card=card)
    record_tuned_policy(store, out, base=policy, reward_model_id=model and model.id, round=round)
    finished = read_training_card(out)
    figures = {name: finished[name] for name in FIGURES if name in finished}
    return {"policy": str(out), "pairs": len(pairs), **figures}


def tune_with_ppo(
    store: Store,
    config: LoopConfig,
    policy: str,
    name_folder: FolderNamer,
    model: RewardModel,
    *,
    round: int,
    seed: int,
) -> dict[str, Any]:
    """Tune a policy on the rewards of the reward model. Returns figures.

    A training that was stopped goes on from its checkpoint where its inputs are the same.
    """
    from rlhf_hitl.policy.lineage import record_tuned_policy
    from rlhf_hitl.policy.policy_folder import TRAINING_CARD, read_training_card
    from rlhf_hitl.policy.ppo.config import PPOConfig
    from rlhf_hitl.policy.ppo.trainer import PPOResult, train_ppo
    from rlhf_hitl.policy.rewards import PolicyReward
    from rlhf_hitl.policy.training import describe_training_inputs

    prompts = list_prompts(store, split=Split.TRAIN)
    card = _describe_run(config, model)
    out = name_folder(describe_training_inputs(policy, {"prompts": [p.id for p in prompts]}, card))
    settings = PPOConfig(
        model_name_or_path=policy,
        output_dir=str(out),
        steps=config.ppo_steps,
        rollouts=config.ppo_rollouts,
        minibatch=config.ppo_rollouts,
        max_new_tokens=config.max_new_tokens,
        seed=seed,
        skip_bad=config.skip_bad,
        save_steps=1,
    )
    if not (out / TRAINING_CARD).is_file():  # by an attempt that was stopped when it had written it
        train_ppo(settings, prompts, PolicyReward(model, store, config.conservative), model.find_problem, card=card)
    record_tuned_policy(store, out, base=policy, reward_model_id=model.id, round=round)
    finished = read_training_card(out)
    result = PPOResult(out, finished["history"], finished["stopped"])
    stopped = {"stopped": result.stopped} if result.stopped else {}
    return {"policy": str(out), "steps": result.steps, **stopped, "last": result.history[-1]}


def _describe_run(config: LoopConfig, model: RewardModel | None, *arguments: Any) -> dict[str, Any]:
    """Return for a policy's card what `train-dpo` and `train-ppo` write of their arguments."""
    from rlhf_hitl.policy.training import DataArguments
    from rlhf_hitl.policy.tuning_record import describe_reward_model, list_arguments

    data = DataArguments(conservative=config.conservative)
    changed = list_arguments(data, *arguments, reward_model=model and model.id)
    return {"arguments": changed, **describe_reward_model(model), "conservative": config.conservative}
