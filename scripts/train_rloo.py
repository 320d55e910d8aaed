"""Tune a policy with RLOO: parse, load, build, train, save.

    accelerate launch -m rlhf_hitl.scripts.train_rloo --config configs/rloo.yaml --output_dir workspace/policies/rloo

Flags override the file; every field of TRL's RLOOConfig is one. Every launcher of accelerate that TRL supports works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from rlhf_hitl.arguments import parse_arguments, run_script
from rlhf_hitl.policy.lineage import record_tuned_policy
from rlhf_hitl.policy.online import train_online
from rlhf_hitl.policy.online_settings import GRPOSettings, RLOOSettings
from rlhf_hitl.policy.policy_folder import require_free_folder
from rlhf_hitl.policy.rewards import PolicyReward
from rlhf_hitl.policy.training import FORMER_NAMES, DataArguments, refuse_heldout
from rlhf_hitl.policy.tuning_record import describe_reward_model, list_arguments
from rlhf_hitl.policy.tuning_watch import WatchArguments
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.store.runs import record_run
from rlhf_hitl.types import Split


def main(
    argv: Sequence[str] | None = None, kind: type[RLOOSettings] | type[GRPOSettings] = RLOOSettings
) -> dict[str, Any]:
    """Train, and return the folder of the policy and the figures of the training."""
    data, watching, settings = parse_arguments((DataArguments, WatchArguments, kind), argv, formerly=FORMER_NAMES)
    require_free_folder(settings.output_dir)
    with data.open_store() as store, record_run(store, "train-rloo" if kind is RLOOSettings else "train-grpo"):
        prompts = list_prompts(store, split=Split.TRAIN)
        refuse_heldout(prompts, store)
        model = data.open_reward_model(store)
        reward = PolicyReward(model, store, data.conservative)
        watch = watching.open_watch(store, model, gather_object)
        card = {
            "arguments": list_arguments(data, watching, reward_model=model.id, gold_reward_model=watch.gold_model_id),
            **describe_reward_model(model),
            "conservative": data.conservative,
        }
        figures = train_online(settings, prompts, reward, model.find_problem, watch=watch, card=card)
        if PartialState().is_main_process:
            record_tuned_policy(store, settings.output_dir, base=settings.model_name_or_path, reward_model_id=model.id)
    return {"policy": settings.output_dir, **card, **figures}


if __name__ == "__main__":
    run_script(lambda: print(f"saved {main()['policy']}"))
