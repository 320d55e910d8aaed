"""Open a promotion: a new and an old policy answer held-out prompts, and raters compare the answers, blind.

A prompt that any of the models has learnt from is refused. The prompts are shuffled, and the first of them are judged
in that order; those after them are answered, too, and only help, through what the reward model says of them
(`stats/sequential.py`). Where both policies wrote the same text nobody is asked: it is a tie. `promotion_votes.py`
looks at what raters say.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.win_predictions import predict_win_rates
from rlhf_hitl.stats.sequential import WinRateTest, count_fixed_size
from rlhf_hitl.store import Store, audit
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.store.projects import require_project
from rlhf_hitl.store.promotions import (
    AnsweredPrompt,
    Promotion,
    find_asked_prompts,
    find_promotion,
    open_promotion,
)
from rlhf_hitl.types import DEFAULT_PROJECT, Comparison, Completion, Prompt, Split
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

#: How many times as many judgments as a test of a fixed size would ask for are asked at most, where nothing is said.
MOST_TIMES = 2


class NoPrompts(BadInput):
    """There is no held-out prompt to compare the policies on."""


@dataclass(frozen=True)
class PromotionSettings:
    """How a promotion is decided.

    Attributes:
        judged: raters are asked about so many prompts at most; None: as many as there are, up to twice what a test of a
            fixed size would take.
        prompts: both policies answer so many prompts at most, the judged ones among them; None: all. Those that are not
            judged make the reward model's predictions help.
        least_gain, alpha, beta: see `stats.sequential.WinRateTest`.
        overlap: how many raters judge each comparison.
        ahead: before all other work; else beside it.
        temperature, top_p, max_new_tokens, seed: how both policies are sampled.
    """

    judged: int | None = None
    prompts: int | None = None
    least_gain: float = 0.1
    alpha: float = 0.05
    beta: float = 0.1
    overlap: int = 1
    ahead: bool = True
    project: str = DEFAULT_PROJECT
    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("judged", "prompts", "overlap"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{name} {value}", expected="1 or more", fix=f"change --{name}")
        _ = self.test, self.make_sampling(is_new=True)  # which check what is theirs

    @property
    def test(self) -> WinRateTest:
        return WinRateTest(self.least_gain, self.alpha, self.beta)

    def make_sampling(self, *, is_new: bool) -> Sampling:
        """Return how a policy is sampled. Both are sampled alike, each from random numbers of its own."""
        return Sampling(self.temperature, self.top_p, self.max_new_tokens, 2 * self.seed + is_new)


def start_promotion(
    store: Store,
    new_policy: str,
    old_policy: str,
    settings: PromotionSettings,
    *,
    reward_model: RewardModel | None = None,
    simulated: bool = False,
    round: int | None = None,
    skip_bad: bool = False,
    prompts: Sequence[Prompt] | None = None,
    by: audit.Actor = audit.CLI,
) -> Promotion:
    """Let both policies answer held-out prompts and ask raters which answers are better.

    A promotion of these two policies that is open goes on, and one of the same round of the loop is returned, so that a
    promotion that was stopped is started again by the same call.

    Args:
        reward_model: its predictions help; it may have learnt from anything but the votes of this promotion.
        simulated: simulated raters decide.
        prompts: instead of the store's held-out prompts that were not judged for these policies before.

    Raises:
        BadInput: the policies have one name, theirs is open with other settings, or a prompt is not held out.
        NoPrompts: no prompt is left, or both policies answer none.
    """
    from rlhf_hitl.models import get_display_name

    new, old = get_display_name(new_policy), get_display_name(old_policy)
    if new == old:
        raise BadInput(
            f"policy {new} against itself",
            expected="two policies with different names",
            fix="name another policy, or rename a folder",
        )
    model_id = None if reward_model is None else reward_model.id
    given = asdict(settings) | {"new": str(new_policy), "old": str(old_policy), "reward_model": model_id}
    given |= {"new_weights": _identify(new_policy), "old_weights": _identify(old_policy)}
    if (found := find_promotion(store, new, old, round=round, open_only=round is None)) is not None:
        _refuse_other_settings(found, given | {"simulated": simulated})
        return found
    with store.read() as conn:
        require_project(conn, settings.project)
    asked_before = find_asked_prompts(store, new, old, given)
    pool = list_prompts(store, split=Split.HELDOUT) if prompts is None else list(prompts)
    refuse_learnt_prompts(pool, new_policy, old_policy, reward_model)
    fresh = [p for p in sorted(pool, key=lambda p: p.id) if p.id not in asked_before]
    if not fresh:
        why = f"; {say_count(len(asked_before), 'prompt')} judged before" if asked_before else ""
        raise NoPrompts(
            f"store {store.safe_url} with 0 held-out prompts for these policies{why}",
            expected="held-out prompts that raters have not judged for these two policies",
            fix="import more prompts: about one in five is held out",
        )
    random.Random(settings.seed).shuffle(fresh)
    answered, left_out = _answer(new_policy, old_policy, fresh[: settings.prompts], settings, skip_bad)
    if not answered:
        raise NoPrompts(
            "0 prompts that both policies answer", expected="at least one", fix="shorten the answers or prompts"
        )
    judged = min(settings.judged or MOST_TIMES * count_fixed_size(settings.test), len(answered))
    predictions: Sequence[float | None] = [None] * len(answered)
    if reward_model is not None:
        predictions = predict_win_rates(reward_model, answered)
    drawn = [
        AnsweredPrompt(prompt, a, b, _compare(prompt, a, b, settings) if n < judged else None, predictions[n])
        for n, (prompt, a, b) in enumerate(answered)
    ]
    counts = {
        "empty_new": sum(d.new.is_empty for d in drawn),
        "empty_old": sum(d.old.is_empty for d in drawn),
        "left_out": left_out,
        "judged_before": len(asked_before),
        "fresh": len(drawn) - judged,
    }
    return open_promotion(
        store,
        new_policy=new,
        old_policy=old,
        drawn=drawn,
        settings=given | {"judged": judged},
        counts=counts,
        reward_model_id=model_id,
        round=round,
        simulated=simulated,
        overlap=settings.overlap,
        ahead=settings.ahead,
        by=by,
    )


def _identify(policy: str) -> str:
    """Return what tells a policy's weights from others of the same name."""
    from rlhf_hitl.policy.sources import find_model

    found = find_model(policy, backend="transformers", batch_tokens=1)
    return hashlib.sha256(found.identity.encode()).hexdigest()[:16]


def refuse_learnt_prompts(
    prompts: Sequence[Prompt], new_policy: str, old_policy: str, reward_model: RewardModel | None
) -> None:
    """Raise BadInput where a prompt is not held out, or one of the models is known to have learnt from it."""
    from rlhf_hitl.models import locate_model_folder
    from rlhf_hitl.reward.seen_prompts import SeenPrompts

    learnt = {
        f"policy {policy}": seen.train
        for policy in (new_policy, old_policy)
        if (seen := SeenPrompts.load(Path(locate_model_folder(policy)))) is not None
    }
    if reward_model is not None and reward_model.seen is not None:
        learnt["the reward model"] = reward_model.seen.train
    for prompt in prompts:
        if prompt.split is not Split.HELDOUT:
            raise BadInput(
                f"prompt {prompt.id} of the {prompt.split} split", expected="held-out prompts", fix="leave it out"
            )
        for model, families in learnt.items():
            if prompt.family in families:
                raise BadInput(
                    f"prompt {prompt.id}, which {model} has learnt from",
                    expected="held-out prompts that are in no training set",
                    fix="leave it out, or train without it",
                )


def _answer(
    new_policy: str, old_policy: str, prompts: Sequence[Prompt], settings: PromotionSettings, skip_bad: bool
) -> tuple[list[tuple[Prompt, Completion, Completion]], int]:
    """Return the prompts that both policies answered, with both answers, and how many others there were."""
    from rlhf_hitl.policy.generation import sample_completions

    new, old = (
        {
            c.prompt_id: c
            for c in sample_completions(
                policy, prompts, [settings.make_sampling(is_new=is_new)], skip_bad=skip_bad, keep_all=True
            )
        }
        for policy, is_new in ((new_policy, True), (old_policy, False))
    )
    answered = [(p, new[p.id], old[p.id]) for p in prompts if p.id in new and p.id in old]
    return answered, len(prompts) - len(answered)


def _compare(prompt: Prompt, new: Completion, old: Completion, settings: PromotionSettings) -> Comparison | None:
    """Return what raters are asked; None where both are the same text."""
    if new.messages == old.messages:
        return None
    # Its places are opened by the promotion.
    return replace(Comparison.create(prompt, (new, old), project=settings.project), overlap=0)


def _refuse_other_settings(found: Promotion, given: dict[str, Any]) -> None:
    """Raise BadInput where an open promotion was opened with other settings than these."""
    kept = dict(found.settings) | {"simulated": found.simulated}
    for name, value in given.items():
        # How many are judged follows from what there was, where nothing was said.
        if name in kept and kept[name] != value and not (name == "judged" and (value is None or kept[name] < value)):
            raise BadInput(
                f"{name} {value!r} for promotion {found.id}, which is open",
                expected=f"{kept[name]!r}, as when it was opened",
                fix="give the same settings, or wait until it is decided",
            )
