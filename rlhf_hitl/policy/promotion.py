"""Open a promotion: a new and an old policy answer held-out prompts, and raters compare the answers, blind.

A prompt that one of the models is known to have learnt from is refused. Answers are drawn as by `generate`, with a
journal that goes on after a kill, and nothing is filtered. The prompts are shuffled, and the first of them are judged
in that order; those after them are answered, too, and only help, through what the reward model says of them
(`stats/sequential.py`). Where both policies wrote the same text nobody is asked: it is a tie. `promotion_votes.py`
looks at what raters say.
"""

from __future__ import annotations

import hashlib
import logging
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_hitl.errors import BadInput, RlhfHitlError
from rlhf_hitl.policy.draws import name_journal_folder
from rlhf_hitl.policy.generation_run import GenerationRun
from rlhf_hitl.policy.lineage import record_sources
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.sources import PolicySource, check_names
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

log = logging.getLogger(__name__)

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
    new: PolicySource,
    old: PolicySource,
    settings: PromotionSettings,
    *,
    workspace: Path,
    reward_model: RewardModel | None = None,
    simulated: bool = False,
    round: int | None = None,
    skip_bad: bool = False,
    prompts: Sequence[Prompt] | None = None,
    by: audit.Actor = audit.CLI,
    on_calls: Callable[[str, dict[str, Any]], object] = lambda policy, totals: None,
) -> Promotion:
    """Let both policies answer held-out prompts and ask raters which answers are better.

    A promotion of these two policies that is open goes on, and one of the same round of the loop is returned, so that a
    promotion that was stopped is started again by the same call; one that was stopped while policies answered draws
    only the rest.

    Args:
        workspace: for the journals of answers, until all are there.
        reward_model: its predictions help; it may have learnt from anything but the votes of this promotion.
        simulated: simulated raters decide.
        prompts: instead of the store's held-out prompts that were not judged for these policies before.
        on_calls: called with a policy behind an endpoint and what the requests to it took.

    Raises:
        BadInput: the policies have one name, theirs is open with other settings, a prompt is not held out, or a file
            is of several policies or has several answers to a prompt.
        NoPrompts: no prompt is left, or both policies answer none.
        RlhfHitlError: an endpoint left requests unanswered; the same call asks for these alone.
    """
    check_names([new, old])
    for source in (new, old):
        if len(source.policies) > 1:
            raise BadInput(
                f"{source.place} with completions of {source.name}",
                expected="a file of one policy",
                fix="write a file of each with `generate --out`",
            )
    model_id = None if reward_model is None else reward_model.id
    given = asdict(settings) | {"new": new.place, "old": old.place, "reward_model": model_id}
    given |= {"new_weights": _digest_identity(new), "old_weights": _digest_identity(old)}
    # A folder of this promotion's own: no other command deletes what this one goes on with.
    journals = name_journal_folder(workspace, store.safe_url, "promotion", new.name, old.name)
    if (found := find_promotion(store, new.name, old.name, round=round, open_only=round is None)) is not None:
        _refuse_other_settings(found, given | {"simulated": simulated})
        shutil.rmtree(journals, ignore_errors=True)  # of a command that was killed after it had opened it
        return found
    with store.read() as conn:
        require_project(conn, settings.project)
    asked_before = find_asked_prompts(store, new.name, old.name, given)
    pool = list_prompts(store, split=Split.HELDOUT) if prompts is None else list(prompts)
    refuse_learnt_prompts(pool, new, old, reward_model)
    fresh = [p for p in sorted(pool, key=lambda p: p.id) if p.id not in asked_before]
    in_files = [p for p in fresh if all(source.may_answer(p) for source in (new, old))]
    if not in_files:
        why = f"; {say_count(len(asked_before), 'prompt')} judged before" if asked_before else ""
        why += f"; {say_count(len(fresh), 'prompt')} that a file has no answer to" if fresh else ""
        raise NoPrompts(
            f"store {store.safe_url} with 0 held-out prompts for these policies{why}",
            expected="held-out prompts that raters have not judged for these two policies",
            fix="import more prompts: about one in five is held out",
        )
    random.Random(settings.seed).shuffle(in_files)
    asked = in_files[: settings.prompts]
    runs = [
        GenerationRun(
            [source], asked, [settings.make_sampling(is_new=source is new)], journals, keep_all=True, skip_bad=skip_bad
        )
        for source in (new, old)
    ]
    for run in runs:
        run.check()
    of_new, of_old = (_read_answers(run, on_calls) for run in runs)
    answered = [(p, of_new[p.id], of_old[p.id]) for p in asked if p.id in of_new and p.id in of_old]
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
        "left_out": len(fresh) - len(in_files) + len(asked) - len(answered),
        "judged_before": len(asked_before),
        "fresh": len(drawn) - judged,
    }
    record_sources(store, [new, old])
    opened = open_promotion(
        store,
        new_policy=new.name,
        old_policy=old.name,
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
    shutil.rmtree(journals, ignore_errors=True)
    return opened


def _digest_identity(source: PolicySource) -> str:
    """Return what tells a policy's weights, or its file, from others of the same name."""
    return hashlib.sha256(source.identity.encode()).hexdigest()[:16]


def refuse_learnt_prompts(
    prompts: Sequence[Prompt], new: PolicySource, old: PolicySource, reward_model: RewardModel | None
) -> None:
    """Raise BadInput where a prompt is not held out, or one of the models is known to have learnt from it."""
    from rlhf_hitl.reward.seen_prompts import SeenPrompts

    learnt = {
        f"policy {source.name}": seen.train
        for source in (new, old)
        if source.folder is not None and (seen := SeenPrompts.load(source.folder)) is not None
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


def _read_answers(run: GenerationRun, on_calls: Callable[[str, dict[str, Any]], object]) -> dict[str, Completion]:
    """Return prompt id → the one answer of a policy."""
    answers: dict[str, Completion] = {}
    [(policy, counts)] = run.counts.items()
    for prompt, completions in run.complete():
        if len(completions) > 1:
            raise BadInput(
                f"prompt {prompt.id} with {say_count(len(completions), 'answer')} of {policy}",
                expected="one answer to each prompt, as raters are asked about one",
                fix="write the file with `generate --split heldout --completions 1 --temperature T --keep-all --out`",
            )
        if completions:
            answers[prompt.id] = completions[0]
    for name, totals in run.calls.items():
        on_calls(name, totals)
    if counts.unanswered:
        raise RlhfHitlError(
            f"{policy}: expected an answer to each request, and {counts.unanswered:,} had none. Fix: give the same "
            "command again: it asks only for these, and then raters are asked"
        )
    for line in counts.lines(policy):
        log.warning("%s", line)
    return answers


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
