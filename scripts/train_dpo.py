"""Tune a policy with DPO: parse, load, build, train, save.

    accelerate launch -m rlhf_hitl.scripts.train_dpo --config configs/dpo.yaml --output_dir workspace/policies/dpo

Flags override the file; every field of TRL's DPOConfig is one. Every launcher of accelerate that TRL supports works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from rlhf_hitl.arguments import parse_arguments, run_script
from rlhf_hitl.policy.dpo import DPOSettings, train_dpo
from rlhf_hitl.policy.dpo_pairs import DPOPair, DPOPairArguments, collect_dpo_pairs
from rlhf_hitl.policy.generation import sample_completions
from rlhf_hitl.policy.policy_folder import require_free_folder
from rlhf_hitl.policy.prompt_choice import choose_prompts
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.training import FORMER_NAMES, DataArguments
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
        pairs = _collect_pairs(store, data, arguments, settings)
        return {"policy": settings.output_dir, **train_dpo(settings, pairs, store.images.load)}


def _collect_pairs(
    store: Store, data: DataArguments, arguments: DPOPairArguments, settings: DPOSettings
) -> list[DPOPair]:
    """Return the pairs to train on, the same in every process."""
    fresh = _sample(store, arguments, settings) if arguments.sample_prompts and not arguments.human_only else None
    # One process makes the pairs for all: a margin that rounds differently elsewhere must not give other rows there.
    shared: list[list[DPOPair] | None] = [None]
    if PartialState().is_main_process:
        model = None if arguments.human_only else data.open_reward_model(store)
        shared[0] = collect_dpo_pairs(
            store,
            model,
            fresh,
            least_margin=arguments.least_margin,
            limit=arguments.limit,
            seed=settings.seed,
            label_model=arguments.label_model,
        )
    broadcast_object_list(shared)
    return shared[0] or []


def _sample(store: Store, arguments: DPOPairArguments, settings: DPOSettings) -> list[Completion]:
    """Return fresh completions of train prompts, of which every process samples its share."""
    state = PartialState()
    prompts = choose_prompts(list_prompts(store, split=Split.TRAIN), arguments.sample_prompts, settings.seed)
    sampling = Sampling(
        arguments.temperature, 1.0, arguments.max_new_tokens, settings.seed, count=arguments.completions
    )
    share = sample_completions(
        settings.model_name_or_path,
        prompts[state.process_index :: state.num_processes],
        [sampling],
        skip_bad=settings.skip_bad,
    )
    return gather_object(share)


if __name__ == "__main__":
    run_script(lambda: print(f"saved {main()['policy']}"))
