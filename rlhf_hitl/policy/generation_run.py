"""Let several policies answer prompts, by several processes, and go on after a kill."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rlhf_hitl.policy.completing import Drawer, check_prompts, complete_prompts, count_known, split_into_windows
from rlhf_hitl.policy.completion_files import CompletionFile
from rlhf_hitl.policy.draws import DrawJournal, find_journals, sum_calls
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.sampling_counts import SamplingCounts
from rlhf_hitl.policy.sources import DrawnPolicy, PolicySource, check_names
from rlhf_hitl.reward.readability import LeftOut
from rlhf_hitl.terminal import print_note
from rlhf_hitl.types import Completion, Prompt

log = logging.getLogger(__name__)


@dataclass
class _Opened:
    drawer: Drawer
    journal: DrawJournal


class GenerationRun:
    """Completions of several policies for the same prompts. What was drawn is kept in journals until `finish`, so the
    same run after a kill draws only the rest.

    Args:
        folder: for the journals.
        keep_all: as of `complete_prompts`.
        skip_bad: leave out prompts that a policy cannot read.

    Attributes:
        counts: policy, or the policies of a file → its counts, once `complete` is through.
        left_out: the same → prompts that it cannot read.
        calls: the same → what the requests to an endpoint took, in all runs of the command.

    Raises:
        BadInput: a policy's name is given twice.
    """

    def __init__(
        self,
        sources: Sequence[PolicySource],
        prompts: Sequence[Prompt],
        samplings: Sequence[Sampling],
        folder: Path,
        *,
        keep_all: bool = False,
        skip_bad: bool = False,
    ):
        check_names(sources)
        self._sources, self._prompts, self._samplings, self._folder = sources, prompts, samplings, folder
        self._keep_all, self._skip_bad = keep_all, skip_bad
        self.policies = [name for source in sources for name in source.policies]
        self.counts = {source.name: SamplingCounts() for source in sources}
        self.left_out = {source.name: LeftOut("prompt") for source in sources}
        self.calls: dict[str, dict[str, Any]] = {}

    @property
    def goes_on(self) -> bool:
        """Whether answers of an earlier, unfinished run of the same are there."""
        return any(
            find_journals(self._folder, source.name_journal(self._samplings))
            for source in self._sources
            if isinstance(source, DrawnPolicy)
        )

    def check(self, *, require_some: bool = False) -> None:
        """Check that the policies can read the prompts, and count those that are too long. Loads no model.

        Raises:
            BadInput: a policy cannot read some, and `skip_bad` is not set; or `require_some`, and all are too long.
        """
        with ExitStack() as stack:
            for name, one in self._open_all(stack, "0"):
                counts, left_out = self.counts[name], self.left_out[name]
                check_prompts(
                    one.drawer, self._prompts, counts, skip_bad=self._skip_bad, left_out=left_out,
                    require_some=require_some,
                )  # fmt: skip

    def draw_part(self, part: int, parts: int) -> None:
        """Draw the answers to every `parts`-th window of prompts, and keep them for the process that goes on."""
        with ExitStack() as stack:
            for _, one in self._open_all(stack, str(part)):
                if part == 0:
                    self._say_what_is_there(one)
                windows = split_into_windows(one.drawer, self._prompts, self._samplings)[part::parts]
                self._draw(one, [p for window in windows for p in window], is_shown=part == 0)

    def complete(self) -> Iterator[tuple[Prompt, list[Completion]]]:
        """Yield each prompt with the completions of all policies. Policies draw one after the other, the last one while
        completions are yielded.
        """
        with ExitStack() as stack:
            opened = dict(self._open_all(stack, "0"))
            last = self._sources[-1].name
            for name, one in opened.items():
                self._say_what_is_there(one)
                if name != last:
                    self._draw(one, self._prompts, is_shown=True)
            try:
                for answers in zip(*(self._replay(source, opened, source.name == last) for source in self._sources)):
                    yield answers[0][0], [c for _, completions in answers for c in completions]
            finally:
                self.calls = {name: sum_calls(one.journal.calls) for name, one in opened.items() if one.journal.calls}

    def finish(self) -> None:
        """Delete the journals, for all of them was used. That of an endpoint which left requests unanswered stays."""
        for source in self._sources:
            if isinstance(source, DrawnPolicy) and not self.counts[source.name].unanswered:
                DrawJournal(self._folder, source.name_journal(self._samplings)).remove()

    def _open_all(self, stack: ExitStack, writer: str) -> list[tuple[str, _Opened]]:
        opened = []
        for source in self._sources:
            if isinstance(source, CompletionFile):
                continue
            journal = stack.enter_context(DrawJournal(self._folder, source.name_journal(self._samplings), writer))
            drawer = source.open(self._samplings, journal, self._keep_all)
            stack.callback(drawer.close)
            opened.append((source.name, _Opened(drawer, journal)))
        return opened

    def _say_what_is_there(self, one: _Opened) -> None:
        if one.journal.is_empty:
            return
        known, total = count_known(one.drawer, self._prompts, self._samplings, one.journal)
        if 0 < known < total:
            print_note(f"{one.drawer.name}: going on: {known:,} of {total:,} answers are there")

    def _draw(self, one: _Opened, prompts: Sequence[Prompt], *, is_shown: bool) -> None:
        for _ in self._iterate(one, prompts, SamplingCounts(), is_shown):
            pass
        one.drawer.release()

    def _replay(
        self, source: PolicySource, opened: dict[str, _Opened], is_last: bool
    ) -> Iterator[tuple[Prompt, list[Completion]]]:
        counts = self.counts[source.name]
        if isinstance(source, CompletionFile):
            return source.complete(self._prompts, counts, keep_all=self._keep_all)
        return self._iterate(opened[source.name], self._prompts, counts, is_last)

    def _iterate(
        self, one: _Opened, prompts: Sequence[Prompt], counts: SamplingCounts, is_shown: bool
    ) -> Iterator[tuple[Prompt, list[Completion]]]:
        total, known = len(prompts) * sum(s.count for s in self._samplings), 0
        if is_shown and not one.journal.is_empty:
            known, _ = count_known(one.drawer, prompts, self._samplings, one.journal)
        with tqdm(total=total, initial=known, desc=one.drawer.name, unit="completion", disable=not is_shown) as bar:

            def show(finished: int) -> None:
                nonlocal known  # those come first, and the bar has them
                fresh = max(0, finished - known)
                known -= finished - fresh
                bar.update(fresh)

            yield from complete_prompts(
                one.drawer, prompts, self._samplings, counts, keep_all=self._keep_all, journal=one.journal,
                on_progress=show,
            )  # fmt: skip


def draw_completions(
    source: PolicySource,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    folder: Path,
    *,
    skip_bad: bool = False,
) -> tuple[list[Completion], SamplingCounts]:
    """Return what one policy answers, in the order of the prompts, with counts, of which a log tells. What is kept in
    `folder` is not drawn again; its files stay.

    Raises:
        BadInput: the policy cannot read some prompts, and `skip_bad` is not set.
    """
    run = GenerationRun([source], prompts, samplings, folder, skip_bad=skip_bad)
    run.check()
    completions = [completion for _, made in run.complete() for completion in made]
    counts = run.counts[source.name]
    for line in counts.lines(source.name):
        log.warning("%s", line)
    return completions, counts
