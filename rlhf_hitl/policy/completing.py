"""Complete prompts, whatever answers them: draw, filter, draw again, and count.

A prompt's completions depend on the prompt, the samplings and their seeds, and on no other prompt. So prompts can be
shared out among processes, and a journal of draws can be gone through again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.completion_jobs import CompletionJob, make_completion, plan_jobs
from rlhf_hitl.policy.draws import Draw, DrawJournal
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.sampling_counts import FilterReason, SamplingCounts, find_filter_reason
from rlhf_hitl.reward.readability import SHOWN_PROMPTS, LeftOut, Unreadable
from rlhf_hitl.types import Completion, Message, Prompt
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

#: How often a completion that is filtered is drawn again before it is left out.
RETRIES = 8


class Drawer(Protocol):
    """What answers prompts."""

    name: str
    #: Completions that are drawn together. Batches hold those of one window, so that what is in a batch, on which
    #: rounding depends, does not depend on who draws which windows.
    window: int

    def read(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids, or an empty list where the policy is given text.

        Raises:
            Unreadable: the policy cannot read it.
            TooLong: it leaves no room for an answer.
        """
        ...

    def draw(self, jobs: Sequence[CompletionJob], known: Set[str]) -> Iterator[tuple[CompletionJob, Draw | None]]:
        """Yield the answers of jobs whose keys are not known, as they come. None: there was none, and a later call may
        ask again."""
        ...

    def release(self) -> None:
        """Give memory back until the next draw."""
        ...

    def close(self) -> None:
        """Give everything back: nothing more is drawn."""
        ...


class TooLong(BadInput):
    """A prompt leaves no room for an answer."""


def check_prompts(
    drawer: Drawer,
    prompts: Sequence[Prompt],
    counts: SamplingCounts,
    *,
    skip_bad: bool = False,
    left_out: LeftOut | None = None,
    require_some: bool = False,
) -> None:
    """Count the prompts that a policy cannot answer, before anything is sampled, and warn of them.

    Raises:
        BadInput: the policy cannot read some, and `skip_bad` is not set; or `require_some`, and none leaves room for an
            answer.
    """
    left_out, too_long = LeftOut("prompt") if left_out is None else left_out, []
    for prompt in prompts:
        try:
            drawer.read(prompt)
        except Unreadable as e:
            left_out.add(e)
        except TooLong as e:
            counts.too_long += 1
            too_long += [e] if len(too_long) < SHOWN_PROMPTS else []
    left_out.refuse_or_warn(len(prompts), skip_bad=skip_bad)
    if require_some and too_long and counts.too_long + len(left_out) == len(prompts):
        of_all = f", and no other of {say_count(len(prompts), 'prompt')} is short enough" if len(prompts) > 1 else ""
        raise BadInput(
            f"policy {drawer.name}: {too_long[0].value}", expected=too_long[0].expected + of_all, fix=too_long[0].fix
        )
    for e in too_long:
        log.warning("left out: %s", e)
    if counts.too_long > len(too_long):
        log.warning("and %s more left out: no room for an answer", say_count(counts.too_long - len(too_long), "prompt"))


@dataclass
class _Progress:
    """What is known of the completions of a window's prompts."""

    kept: dict[str, set[Message]] = field(default_factory=dict)
    made: dict[str, dict[int, Completion]] = field(default_factory=dict)


def complete_prompts(
    drawer: Drawer,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    counts: SamplingCounts,
    *,
    keep_all: bool = False,
    journal: DrawJournal | None = None,
    on_progress: Callable[[int], object] = lambda n: None,
) -> Iterator[tuple[Prompt, list[Completion]]]:
    """Yield each prompt with its completions, in the order of prompts and samplings. Prompts left out have none.

    The completions of a prompt differ: one that is empty, degenerate or a repeat is drawn again with another seed, up
    to `RETRIES` times, and then left out and counted.

    Args:
        counts: what is drawn, filtered and kept is added to it.
        keep_all: filter nothing and draw nothing again, as a policy is measured; what is empty stays so.
        journal: draws that it has are not drawn; others are added to it as they come.
    """
    for window in split_into_windows(drawer, prompts, samplings):
        progress = _Progress()
        pending = list(enumerate(plan_jobs(window, samplings, _make_reader(drawer))))
        while pending:
            draws = _draw_all(drawer, [job for _, job in pending], journal)
            again = []
            for number, job in pending:
                draw = draws[job.key]
                if draw is None:
                    counts.unanswered += 1
                elif _filter(number, job, draw, progress, counts, drawer.name, keep_all=keep_all):
                    again.append((number, job.draw_again()))
            counts.redrawn += len(again)
            on_progress(len(pending) - len(again))
            pending = again
        for prompt in window:
            yield prompt, [c for _, c in sorted(progress.made.get(prompt.id, {}).items())]


def split_into_windows(
    drawer: Drawer, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
) -> list[Sequence[Prompt]]:
    """Return the prompts in their order, those whose completions are drawn together side by side."""
    size = max(1, drawer.window // max(1, sum(s.count for s in samplings)))
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def count_known(
    drawer: Drawer, prompts: Sequence[Prompt], samplings: Sequence[Sampling], journal: DrawJournal
) -> tuple[int, int]:
    """Return how many of the completions were drawn already, and how many there are to be."""
    jobs = [job.key in journal for job in plan_jobs(prompts, samplings, _make_reader(drawer))]
    return sum(jobs), len(jobs)


def _make_reader(drawer: Drawer) -> Callable[[Prompt], list[int] | None]:
    """Return a function that reads a prompt, and returns None of those that `check_prompts` has counted."""

    def read(prompt: Prompt) -> list[int] | None:
        try:
            return drawer.read(prompt)
        except (Unreadable, TooLong):
            return None

    return read


def _draw_all(drawer: Drawer, jobs: Sequence[CompletionJob], journal: DrawJournal | None) -> dict[str, Draw | None]:
    """Return the draw of each job by its key."""
    draws: dict[str, Draw | None] = {}
    if journal is not None:
        draws = {job.key: journal.get(job.key) for job in jobs if job.key in journal}
    for job, draw in drawer.draw(jobs, frozenset(draws)):
        draws[job.key] = draw
        if draw is not None and journal is not None and job.key not in journal:
            journal.add(job.key, draw)
    return draws


def _filter(
    number: int,
    job: CompletionJob,
    draw: Draw,
    progress: _Progress,
    counts: SamplingCounts,
    policy: str,
    *,
    keep_all: bool,
) -> bool:
    """Keep a draw as the completion of this number, or leave it out, and count it. Returns whether to draw again."""
    prompt_id = job.prompt.id
    message, others = draw.read_message(), progress.kept.setdefault(prompt_id, set())
    reason = find_filter_reason(draw, message, others)
    counts.drawn += 1
    if reason is not None:
        counts.reasons[reason.value] += 1
        if reason is FilterReason.REFUSED:
            counts.missing[reason.value] += 1
            counts.refusals[f"prompt {prompt_id}: {draw.more.get('error') or 'no reason was given'}"] += 1
            return False
        if not keep_all:
            # The likeliest tokens are the same each time.
            if job.attempt < RETRIES and job.sampling.temperature > 0:
                return True
            counts.missing[reason.value] += 1
            return False
    others.add(message)
    counts.kept += 1
    counts.cut_off += draw.finish == "length"
    progress.made.setdefault(prompt_id, {})[number] = make_completion(job, draw, message, policy)
    return False
