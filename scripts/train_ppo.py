"""Tune a policy with PPO: parse, load, build, train, save.

    accelerate launch -m rlhf_hitl.scripts.train_ppo --config configs/ppo.yaml --output_dir workspace/policies/ppo

Flags override the file. Several processes run under DDP (`accelerate launch --num_processes 2 ...`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from rlhf_hitl.arguments import parse_arguments, run_script
from rlhf_hitl.policy.lineage import record_tuned_policy
from rlhf_hitl.policy.policy_folder import require_free_folder
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.trainer import train_ppo
from rlhf_hitl.policy.rewards import PolicyReward
from rlhf_hitl.policy.training import NAMES_FOR_PPO, DataArguments, refuse_heldout
from rlhf_hitl.policy.tuning_record import describe_reward_model, list_arguments
from rlhf_hitl.policy.tuning_watch import WatchArguments
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.store.runs import record_run
from rlhf_hitl.types import Split


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, and return the folder of the policy and the figures of the first step and of the tuned policy."""
    data, watching, config = parse_arguments((DataArguments, WatchArguments, PPOConfig), argv, formerly=NAMES_FOR_PPO)
    require_free_folder(config.output_dir)
    with data.open_store() as store, record_run(store, "train-ppo"):
        prompts = list_prompts(store, split=Split.TRAIN)
        refuse_heldout(prompts, store)
        model = data.open_reward_model(store)
        reward, watch = PolicyReward(model, store, data.conservative), watching.open_watch(store, model, gather_object)
        card = {
            "arguments": list_arguments(data, watching, reward_model=model.id, gold_reward_model=watch.gold_model_id),
            **describe_reward_model(model),
            "conservative": data.conservative,
        }
        result = train_ppo(config, prompts, reward, model.find_problem, watch, card)
        if PartialState().is_main_process:
            record_tuned_policy(store, result.folder, base=config.model_name_or_path, reward_model_id=model.id)
    return {
        "policy": str(result.folder),
        "reward_model_id": model.id,
        "steps": result.steps,
        "stopped": result.stopped,
        "first": result.history[0],
        "last": result.history[-1],
    }


if __name__ == "__main__":
    run_script(lambda: print(f"saved {main()['policy']}"))
