"""The pairs DPO trains on: those that people judged, and those that the reward model makes of fresh completions."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import Protocol

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.labels.label_models import fold_outcomes
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.policy.training import refuse_heldout
from rlhf_hitl.reward.readability import LeftOut, Unreadable
from rlhf_hitl.reward.rendering import Conversation, has_text
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons, list_prompts
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, LABEL_MODELS, Completion, Prompt, Route, Split

log = logging.getLogger(__name__)


class ConversationScorer(Protocol):
    """What making pairs needs of a reward model."""

    def rewards(self, chats: Sequence[Conversation], /) -> np.ndarray: ...

    def find_problem(self, chats: Sequence[Conversation], /) -> Unreadable | None: ...


@dataclass(frozen=True)
class DPOPair:
    """One pair for DPO.

    Attributes:
        label_source: "human" or "model".
        margin: the reward model's, 0 for people's pairs.
        share: of the votes that prefer a side, what those for `chosen` are worth; 1 for the reward model's pairs.
        weight: what the votes that prefer a side are worth together, in votes of a reference rater.
    """

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    label_source: str
    margin: float = 0.0
    share: float = 1.0
    weight: float = 1.0

    @property
    def completion_ids(self) -> frozenset[str]:
        return frozenset((self.chosen.id, self.rejected.id))

    @property
    def chosen_chat(self) -> Conversation:
        return Conversation(self.prompt.messages, self.chosen.messages, self.prompt.tools)

    @property
    def rejected_chat(self) -> Conversation:
        return Conversation(self.prompt.messages, self.rejected.messages, self.prompt.tools)


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
    limit: int | None = field(default=None, metadata={"help": "Most pairs to train on."})
    label_model: str = field(
        default=DEFAULT_LABEL_MODEL, metadata={"help": f"How votes become labels: {', '.join(LABEL_MODELS)}."}
    )


def collect_dpo_pairs(
    store: Store,
    reward_model: ConversationScorer | None = None,
    fresh: Sequence[Completion] | None = None,
    *,
    least_margin: float = 0.5,
    limit: int | None = None,
    seed: int = 0,
    label_model: str = DEFAULT_LABEL_MODEL,
) -> list[DPOPair]:
    """Return people's pairs and, given a reward model, pairs it makes of fresh completions, in an order set by `seed`.

    Args:
        fresh: completions of prompts of the train split. None takes those of comparisons that the router accepted:
            what it sent to raters is not for the model to label.
        limit: at most this many pairs, from people and model in turn while both last.
        label_model: how votes become labels.

    Raises:
        BadInput: a fresh completion belongs to a prompt that may not be trained on, or there is no pair at all.
    """
    rng = random.Random(seed)
    human_pairs = collect_human_pairs(store, label_model)
    rng.shuffle(human_pairs)
    model_pairs: list[DPOPair] = []
    if reward_model is not None:
        prompts, completions = (
            _find_accepted_completions(store) if fresh is None else (_find_prompts(store, fresh), fresh)
        )
        rng.shuffle(prompts)
        # Scoring is the expensive part: twice as many prompts as pairs leave room for margins that are too small.
        prompts = prompts[: None if limit is None else 2 * limit]
        refuse_heldout(prompts, store)
        model_pairs = make_model_pairs(reward_model, prompts, completions, least_margin=least_margin)
        rng.shuffle(model_pairs)
    judged = {p.completion_ids for p in human_pairs}
    model_pairs = [p for p in model_pairs if p.completion_ids not in judged]
    pairs = [p for both in zip_longest(human_pairs, model_pairs) for p in both if p is not None][:limit]
    if not pairs:
        raise make_no_pairs_error(store)
    refuse_heldout((p.prompt for p in pairs), store)
    return pairs


def require_some_pairs(store: Store, arguments: DPOPairArguments) -> None:
    """Raise BadInput where it is known without a model that there are no pairs: nothing judged, accepted or sampled."""
    if arguments.sample_prompts and not arguments.human_only:
        return
    if not collect_human_pairs(store, arguments.label_model) and (
        arguments.human_only or not _find_accepted_completions(store)[0]
    ):
        raise make_no_pairs_error(store)


def make_no_pairs_error(store: Store) -> BadInput:
    """Return the error for a store that has nothing to train on."""
    return BadInput(
        f"pairs for DPO in {store.safe_url}",
        expected="one or more of the train split with a preferred side",
        fix="have comparisons rated, or give a reward model and fresh completions",
    )


def collect_human_pairs(store: Store, label_model: str = DEFAULT_LABEL_MODEL) -> list[DPOPair]:
    """Return pairs of the train split on which people prefer one side, without ties and evenly split votes, and without
    those whose raters are trusted with nothing."""
    labels = read_labels(store, split=Split.TRAIN, label_model=label_model)
    decided = [label for label in labels if label.preferred is not None]
    ids = list(dict.fromkeys(label.comparison_id for label in decided))
    comparisons = {c.id: c for c in find_comparisons(store, ids=ids)}
    pairs = []
    for label in decided:
        comparison = comparisons[label.comparison_id]
        loser = label.second if label.preferred == label.first else label.first
        chosen, rejected = comparison.find_completion(label.preferred or ""), comparison.find_completion(loser)
        first, _, second = fold_outcomes(label.weighted_votes)
        if first + second > 0 and has_text(chosen.messages) and has_text(rejected.messages):
            share = (first if label.preferred == label.first else second) / (first + second)
            weight = weigh_votes(first + second, len(comparison.completions))
            pairs.append(DPOPair(comparison.prompt, chosen, rejected, "human", share=share, weight=weight))
    return pairs


def make_model_pairs(
    reward_model: ConversationScorer,
    prompts: Iterable[Prompt],
    completions: Sequence[Completion],
    *,
    least_margin: float = 0.5,
) -> list[DPOPair]:
    """Pair each prompt's best completion with its worst by reward, if they are at least `least_margin` logits apart.

    Completions that the reward model cannot read make no pair; a warning counts them.
    """
    by_id = {p.id: p for p in prompts}
    usable = sorted(
        (c for c in completions if c.prompt_id in by_id and has_text(c.messages)), key=lambda c: (c.prompt_id, c.id)
    )
    chats = [Conversation(by_id[c.prompt_id].messages, c.messages, by_id[c.prompt_id].tools) for c in usable]
    problems = [reward_model.find_problem([chat]) for chat in chats]
    for line in LeftOut("completion", [problem for problem in problems if problem]).lines():
        log.warning("%s", line)
    readable = [(c, chat) for c, chat, problem in zip(usable, chats, problems) if problem is None]
    usable = [c for c, _ in readable]
    rewards = reward_model.rewards([chat for _, chat in readable]) if readable else []
    pairs = []
    for prompt_id, group in groupby(zip(usable, rewards), key=lambda scored: scored[0].prompt_id):
        ranked = sorted(group, key=lambda scored: float(scored[1]))
        (worst, low), (best, high) = ranked[0], ranked[-1]
        if high - low >= least_margin and best.messages != worst.messages:
            pairs.append(DPOPair(by_id[prompt_id], best, worst, "model", float(high - low)))
    return pairs


def _find_prompts(store: Store, completions: Sequence[Completion]) -> list[Prompt]:
    ids = {c.prompt_id for c in completions}
    return [p for p in list_prompts(store) if p.id in ids]


def _find_accepted_completions(store: Store) -> tuple[list[Prompt], list[Completion]]:
    """Return prompts and completions of the comparisons that the router accepted on the model's score."""
    accepted = list(find_comparisons(store, split=Split.TRAIN, judged=False, routes=[Route.AUTO]))
    prompts = {c.prompt.id: c.prompt for c in accepted}
    completions = {a.id: a for c in accepted for a in c.completions}
    return list(prompts.values()), list(completions.values())
