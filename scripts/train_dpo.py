"""Tune a policy with DPO: parse, load, build, train, save.

    accelerate launch -m rlhf_hitl.scripts.train_dpo --config configs/dpo.yaml --out workspace/policies/dpo

Flags override the file; every field of TRL's DPOConfig is one. Any launcher of accelerate works that TRL works with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from rlhf_hitl.arguments import parse, run
from rlhf_hitl.policy.dpo import DPOSettings, Pair, pairs_for_dpo, train_dpo
from rlhf_hitl.policy.generation import Sampling, sample_completions
from rlhf_hitl.policy.training import DataArguments, free_folder
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.types import Completion, Split


@dataclass(frozen=True)
class PairArguments:
    """Which pairs to train on."""

    human_only: bool = field(default=False, metadata={"help": "Only pairs people judged: no reward model is needed."})
    sample_prompts: int = field(
        default=0, metadata={"help": "Sample fresh completions for so many prompts; 0: what the router accepted."}
    )
    completions: int = field(default=4, metadata={"help": "Fresh completions a prompt."})
    temperature: float = field(default=1.0, metadata={"help": "Of fresh completions."})
    max_new_tokens: int = field(default=160, metadata={"help": "A fresh completion is cut off here."})
    least_margin: float = field(default=0.5, metadata={"help": "Model-made pairs are at least so far apart (logits)."})
    limit: int | None = field(default=None, metadata={"help": "At most so many pairs."})


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns where the policy is and the training's figures."""
    data, arguments, settings = parse((DataArguments, PairArguments, DPOSettings), argv)
    free_folder(settings.out)
    store = data.open_store()
    fresh = _sample(store, arguments, settings) if arguments.sample_prompts and not arguments.human_only else None
    # One process makes the pairs for all: a margin that rounds differently elsewhere must not give other rows there.
    found: list[list[Pair] | None] = [None]
    if PartialState().is_main_process:
        model = None if arguments.human_only else data.open_reward_model(store)
        found[0] = pairs_for_dpo(
            store, model, fresh, least_margin=arguments.least_margin, limit=arguments.limit, seed=settings.seed
        )
    broadcast_object_list(found)
    store.close()
    return {"policy": settings.out, **train_dpo(settings, found[0] or [])}


def _sample(store: Store, arguments: PairArguments, settings: DPOSettings) -> list[Completion]:
    """Fresh completions of train prompts; every process samples its share."""
    state = PartialState()
    prompts = list_prompts(store, split=Split.TRAIN)[: arguments.sample_prompts]
    sampling = Sampling(
        arguments.temperature, 1.0, arguments.max_new_tokens, settings.seed, count=arguments.completions
    )
    mine = sample_completions(settings.policy, prompts[state.process_index :: state.num_processes], [sampling])
    return gather_object(mine)


if __name__ == "__main__":
    run(lambda: print(f"saved {main()['policy']}"))
