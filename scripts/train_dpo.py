"""Tune a policy with DPO, in one round or several: parse, load, build, train, save.

    accelerate launch -m rlhf_hitl.scripts.train_dpo --config configs/dpo.yaml --output_dir workspace/policies/dpo

Flags override the file; every field of TRL's DPOConfig is one. Every launcher of accelerate that TRL supports works.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from rlhf_hitl.arguments import parse_arguments, run_script
from rlhf_hitl.policy.dpo import DPOSettings
from rlhf_hitl.policy.dpo_pair import DPOPair
from rlhf_hitl.policy.dpo_pairs import DPOPairArguments, collect_dpo_pairs
from rlhf_hitl.policy.dpo_rounds import train_dpo_in_rounds
from rlhf_hitl.policy.generation import sample_completions
from rlhf_hitl.policy.lineage import record_tuned_policy
from rlhf_hitl.policy.policy_folder import require_free_folder
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.training import FORMER_NAMES, DataArguments, choose_prompts
from rlhf_hitl.policy.tuning_record import describe_reward_model, list_changed_arguments
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.store.runs import record_run
from rlhf_hitl.types import Completion, Split


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, and return the folder of the policy and the figures of the training."""
    data, arguments, settings = parse_arguments(
        (DataArguments, DPOPairArguments, DPOSettings), argv, formerly=FORMER_NAMES
    )
    require_free_folder(settings.output_dir)
    with data.open_store() as store, record_run(store, "train-dpo"):
        is_main = PartialState().is_main_process
        model = data.open_reward_model(store) if is_main and not arguments.human_only else None
        model_id: list[Any] = [None if model is None else model.id]
        broadcast_object_list(model_id)
        changed = list_changed_arguments(
            data, arguments, reward_model=model_id[0], model_name_or_path=settings.model_name_or_path
        )

        def make_pairs(number: int, policy: str) -> tuple[list[DPOPair], Counter[str]]:
            """Return the pairs of a round, the same in every process, and counts of what made none."""
            fresh = None
            if arguments.sample_prompts and not arguments.human_only:
                fresh = _sample(store, arguments, settings, policy, number)
            # One process makes the pairs for all: a margin that rounds differently elsewhere must not give other rows.
            shared: list[Any] = [None]
            if is_main:
                not_paired = Counter[str]()
                pairs = collect_dpo_pairs(
                    store,
                    model,
                    fresh,
                    least_margin=arguments.least_margin,
                    limit=arguments.limit,
                    seed=f"{settings.seed}:{number}",
                    label_model=arguments.label_model,
                    conservative=data.conservative,
                    strengths=arguments.strengths,
                    ties=settings.ties != "leave_out",
                    not_paired=not_paired,
                )
                shared[0] = (pairs, not_paired)
            broadcast_object_list(shared)
            return shared[0]

        figures = train_dpo_in_rounds(
            settings,
            make_pairs,
            store.images.load,
            rounds=arguments.rounds,
            reference=arguments.reference,
            data=[dataclasses.asdict(arguments), data.conservative, *model_id],
            card={"arguments": changed, **describe_reward_model(model), "conservative": data.conservative},
        )
        if is_main:
            base, model_of = settings.model_name_or_path, model_id[0]
            record_tuned_policy(store, settings.output_dir, base=base, reward_model_id=model_of)
        return {"policy": settings.output_dir, **figures}


def _sample(
    store: Store, arguments: DPOPairArguments, settings: DPOSettings, policy: str, number: int
) -> list[Completion]:
    """Return a round's fresh completions of prompts drawn from the train split; each process samples its share."""
    state = PartialState()
    prompts = choose_prompts(
        list_prompts(store, split=Split.TRAIN), arguments.sample_prompts, f"{settings.seed}:{number}"
    )
    sampling = Sampling(
        arguments.temperature, 1.0, arguments.max_new_tokens, settings.seed + number, count=arguments.completions
    )
    share = sample_completions(
        policy, prompts[state.process_index :: state.num_processes], [sampling], skip_bad=settings.skip_bad
    )
    return gather_object(share)


if __name__ == "__main__":
    run_script(lambda: print(f"saved {main()['policy']}"))
