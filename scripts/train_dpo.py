"""Tune a policy with DPO, in one round or several: parse, load, build, train, save.

    accelerate launch -m rlhf_hitl.scripts.train_dpo --config configs/dpo.yaml --output_dir workspace/policies/dpo

Flags override the file; every field of TRL's DPOConfig is one. Every launcher of accelerate that TRL supports works.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from rlhf_hitl.arguments import parse_arguments, run_script
from rlhf_hitl.policy.dpo import DPOSettings
from rlhf_hitl.policy.dpo_pairs import DPOPairArguments, collect_dpo_pairs
from rlhf_hitl.policy.dpo_rounds import MadePairs, train_dpo_in_rounds
from rlhf_hitl.policy.generation_run import GenerationRun, draw_completions
from rlhf_hitl.policy.lineage import record_tuned_policy
from rlhf_hitl.policy.policy_folder import require_free_folder
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.sampling_counts import SamplingCounts
from rlhf_hitl.policy.sources import find_policy
from rlhf_hitl.policy.training import FORMER_NAMES, DataArguments, choose_prompts
from rlhf_hitl.policy.tuning_record import describe_reward_model, list_arguments
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.store.runs import record_run
from rlhf_hitl.types import Completion, Prompt, Split


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, and return the folder of the policy and the figures of the training."""
    data, arguments, settings = parse_arguments(
        (DataArguments, DPOPairArguments, DPOSettings), argv, formerly=FORMER_NAMES
    )
    out = require_free_folder(settings.output_dir)
    journals = out.with_name(f".{out.name}.parts")
    with data.open_store() as store, record_run(store, "train-dpo"):
        is_main = PartialState().is_main_process
        model = data.open_reward_model(store) if is_main and not arguments.human_only else None
        model_id: list[Any] = [None if model is None else model.id]
        broadcast_object_list(model_id)
        changed = list_arguments(
            data, arguments, reward_model=model_id[0], model_name_or_path=settings.model_name_or_path
        )

        def make_pairs(number: int, policy: str) -> MadePairs:
            """Return the pairs of a round, the same in every process."""
            asked, fresh, sampled = [], None, None
            if arguments.sample_prompts and not arguments.human_only:
                asked = choose_prompts(
                    list_prompts(store, split=Split.TRAIN), arguments.sample_prompts, f"{settings.seed}:{number}"
                )
                fresh, sampled = _sample(asked, arguments, settings, policy, number, journals)
            # One process makes the pairs for all: a margin that rounds differently elsewhere must not give other rows.
            shared: list[Any] = [None]
            if is_main:
                not_paired = Counter[str]()
                pairs = collect_dpo_pairs(
                    store,
                    model,
                    fresh,
                    asked=asked,
                    least_margin=arguments.least_margin,
                    limit=arguments.limit,
                    seed=f"{settings.seed}:{number}",
                    label_model=arguments.label_model,
                    conservative=data.conservative,
                    strengths=arguments.strengths,
                    ties=settings.ties != "leave_out",
                    not_paired=not_paired,
                )
                shared[0] = MadePairs(pairs, not_paired, sampled and sampled.as_dict())
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
            shutil.rmtree(journals, ignore_errors=True)
            base, model_of = settings.model_name_or_path, model_id[0]
            record_tuned_policy(store, settings.output_dir, base=base, reward_model_id=model_of)
        return {"policy": settings.output_dir, **figures}


def _sample(
    prompts: Sequence[Prompt],
    arguments: DPOPairArguments,
    settings: DPOSettings,
    policy: str,
    number: int,
    journals: Path,
) -> tuple[list[Completion], SamplingCounts]:
    """Return a round's fresh completions, and counts of what was sampled and filtered; both in the main process only.

    Each process samples its share, and what it has stands in `journals`: after a kill only the rest is sampled.
    """
    state = PartialState()
    sampling = Sampling(
        arguments.temperature, 1.0, arguments.max_new_tokens, settings.seed + number, count=arguments.completions
    )
    source = find_policy(policy)
    if state.num_processes > 1:
        run = GenerationRun([source], prompts, [sampling], journals, skip_bad=settings.skip_bad)
        run.check()
        run.draw_part(state.process_index, state.num_processes)
        state.wait_for_everyone()
    if not state.is_main_process:
        return [], SamplingCounts()
    return draw_completions(source, prompts, [sampling], journals, skip_bad=settings.skip_bad)


if __name__ == "__main__":
    run_script(lambda: print(f"saved {main()['policy']}"))
