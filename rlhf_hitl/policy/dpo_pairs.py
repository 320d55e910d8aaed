"""The pairs DPO trains on: those that people judged, and those that the reward model makes of fresh completions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.dpo_pair import DPOPair
from rlhf_hitl.policy.human_pairs import collect_human_pairs
from rlhf_hitl.policy.model_pairs import ConversationScorer, make_model_pairs
from rlhf_hitl.policy.training import refuse_heldout
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons, list_prompts
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, LABEL_MODELS, Completion, Prompt, Route, Split

#: Begins the reason of pairs that were made and not used.
LIMIT_REACHED = "not used, as "


@dataclass(frozen=True)
class DPOPairArguments:
    """Arguments of a training script: which pairs to train on."""

    human_only: bool = field(
        default=False, metadata={"help": "Train only on pairs that people judged: needs no reward model."}
    )
    sample_prompts: int = field(
        default=0,
        metadata={"help": "Number of prompts to sample fresh completions for; 0 takes what the router accepted."},
    )
    completions: int = field(default=4, metadata={"help": "Fresh completions for each prompt."})
    temperature: float = field(default=1.0, metadata={"help": "Temperature of fresh completions."})
    max_new_tokens: int = field(
        default=160, metadata={"help": "Most tokens of a fresh completion; longer ones are cut off."}
    )
    least_margin: float = field(
        default=0.5, metadata={"help": "Least margin (logits) between the sides of a pair the reward model makes."}
    )
    strengths: bool = field(
        default=True, metadata={"help": "Weigh a vote by its strength: slightly, clearly or much better."}
    )
    limit: int | None = field(default=None, metadata={"help": "Most pairs to train on."})
    label_model: str = field(
        default=DEFAULT_LABEL_MODEL, metadata={"help": f"How votes become labels: {', '.join(LABEL_MODELS)}."}
    )
    rounds: int = field(
        default=1,
        metadata={"help": "Rounds of sampling fresh completions with the policy so far, pairing them, and training."},
    )
    reference: Literal["first", "previous"] = field(
        default="first", metadata={"help": "Reference of a round: the first policy, or that of the round before."}
    )

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise BadInput(
                f"limit {self.limit}", expected="1 or more", fix="change limit, or leave it out for all pairs"
            )
        if self.rounds < 1:
            raise BadInput(f"rounds {self.rounds}", expected="1 or more", fix="change rounds")
        if self.rounds > 1 and (self.human_only or not self.sample_prompts):
            raise BadInput(
                f"rounds {self.rounds}",
                expected="fresh completions for each round",
                fix="set sample_prompts, and leave out human_only",
            )


def collect_dpo_pairs(
    store: Store,
    reward_model: ConversationScorer | None = None,
    fresh: Sequence[Completion] | None = None,
    *,
    asked: Sequence[Prompt] = (),
    least_margin: float = 0.5,
    limit: int | None = None,
    seed: int | str = 0,
    label_model: str = DEFAULT_LABEL_MODEL,
    conservative: float = 0.0,
    strengths: bool = True,
    ties: bool = True,
    not_paired: Counter[str] | None = None,
) -> list[DPOPair]:
    """Return people's pairs and, given a reward model, pairs it makes of fresh completions, in an order set by `seed`.

    Args:
        fresh: completions of prompts of the train split. None takes those of comparisons that the router accepted:
            what it sent to raters is not for the model to label.
        asked: the prompts that were sampled for, so that those without a fresh completion are counted, too.
        limit: at most this many pairs, from people and model in turn while both last.
        label_model, strengths, ties: as of `collect_human_pairs`.
        least_margin, conservative: as of `make_model_pairs`.
        not_paired: counts, by reason, what makes no pair.

    Raises:
        BadInput: a fresh completion belongs to a prompt that may not be trained on, or there is no pair at all.
    """
    rng = random.Random(seed)
    not_paired = Counter() if not_paired is None else not_paired
    human_pairs = collect_human_pairs(store, label_model, strengths=strengths, ties=ties, not_paired=not_paired)
    rng.shuffle(human_pairs)
    model_pairs: list[DPOPair] = []
    if reward_model is not None:
        prompts, completions = (
            _find_accepted_completions(store) if fresh is None else (_find_prompts(store, fresh, asked), fresh)
        )
        rng.shuffle(prompts)
        # Scoring is the expensive part: twice as many prompts as pairs leave room for margins that are too small.
        most = len(prompts) if limit is None else 2 * limit
        not_paired.update({"a prompt beyond twice the limit": n} if (n := len(prompts) - most) > 0 else {})
        prompts = prompts[:most]
        refuse_heldout(prompts, store)
        model_pairs = make_model_pairs(
            reward_model,
            prompts,
            completions,
            least_margin=least_margin,
            conservative=conservative,
            not_paired=not_paired,
        )
        rng.shuffle(model_pairs)
    judged = {p.completion_ids for p in human_pairs}
    unjudged = [p for p in model_pairs if p.completion_ids not in judged]
    pairs = [p for both in zip_longest(human_pairs, unjudged) for p in both if p is not None]
    not_paired.update({"a pair that people judged": n} if (n := len(model_pairs) - len(unjudged)) else {})
    not_paired.update(
        {f"{LIMIT_REACHED}limit is {limit}": n} if limit is not None and (n := len(pairs) - limit) > 0 else {}
    )
    pairs = pairs[:limit]
    if not pairs:
        raise make_no_pairs_error(store)
    refuse_heldout((p.prompt for p in pairs), store)
    return pairs


def require_some_pairs(store: Store, arguments: DPOPairArguments, *, ties: bool = True) -> None:
    """Raise BadInput where it is known without a model that there are no pairs: nothing judged, accepted or sampled."""
    if arguments.sample_prompts and not arguments.human_only:
        return
    if not collect_human_pairs(store, arguments.label_model, ties=ties) and (
        arguments.human_only or not _find_accepted_completions(store)[0]
    ):
        raise make_no_pairs_error(store)


def make_no_pairs_error(store: Store) -> BadInput:
    """Return the error for a store that has nothing to train on."""
    return BadInput(
        f"pairs for DPO in {store.safe_url}",
        expected="one or more of the train split that people or the reward model labelled",
        fix="have comparisons rated, or give a reward model and fresh completions",
    )


def _find_prompts(store: Store, completions: Sequence[Completion], asked: Sequence[Prompt]) -> list[Prompt]:
    ids = {c.prompt_id for c in completions} | {p.id for p in asked}
    return [p for p in list_prompts(store) if p.id in ids]


def _find_accepted_completions(store: Store) -> tuple[list[Prompt], list[Completion]]:
    """Return prompts and completions of the comparisons that the router accepted on the model's score."""
    accepted = list(find_comparisons(store, split=Split.TRAIN, judged=False, routes=[Route.AUTO]))
    prompts = {c.prompt.id: c.prompt for c in accepted}
    completions = {a.id: a for c in accepted for a in c.completions}
    return list(prompts.values()), list(completions.values())
