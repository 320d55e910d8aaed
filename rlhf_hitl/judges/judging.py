"""Let a judge vote: lease a comparison as raters do, ask about it in both orders, submit what that comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations

from tqdm import tqdm

from rlhf_hitl.endpoints.budget import Budget, BudgetReached
from rlhf_hitl.endpoints.errors import CannotAsk
from rlhf_hitl.endpoints.keys import read_key
from rlhf_hitl.errors import BadInput, Conflict
from rlhf_hitl.judges.asking import Asker, combine_orders, rank_completions
from rlhf_hitl.judges.templates import Template, ask_about, load_template
from rlhf_hitl.store import Store, guidelines, queue
from rlhf_hitl.store.judges import (
    count_open_judge_places,
    find_unanswered,
    has_judge_overlap,
    link_calls,
    open_judge_places,
    record_calls,
    sum_calls,
    sum_costs,
)
from rlhf_hitl.types import Answer, Lease, Role, Split, Verdict
from rlhf_hitl.types.judges import CallOutcome, Judge, JudgeCall, Probabilities

#: Comparisons in a row without an answer, after which a judge is taken for broken.
MOST_FAILURES_IN_A_ROW = 5
#: A comparison that was refused, or answered unreadably, so often is not asked about again.
MOST_TRIES = 2
LEASE_SECONDS = 1800.0
MOST_CONCURRENT = 64
RAISE_BUDGET = "raise it with `rlhf-hitl judges set NAME --budget`"
IMAGES_UNREAD = "it has images, and this judge takes none"


@dataclass
class JudgingReport:
    """What a run came to. `unanswered` counts comparisons by the outcome of their last call; `left` were unanswered in
    earlier runs and are not asked about again; `stopped` says why the run ended before its work did, or is empty."""

    judged: int = 0
    surplus: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    left: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    stopped: str = ""
    failed: bool = False

    def add_calls(self, calls: Sequence[JudgeCall]) -> None:
        self.calls += len(calls)
        self.prompt_tokens += sum(call.prompt_tokens for call in calls)
        self.completion_tokens += sum(call.completion_tokens for call in calls)
        self.cost += sum(call.cost for call in calls)


def open_asker(store: Store, judge: Judge) -> tuple[Asker, Template]:
    """Return what a judge is asked by, and its template.

    Raises:
        BadInput: the key is missing, the template has changed since the judge was added, or the model is not there.
    """
    template, settings = load_template(judge.template), judge.settings
    if template.version != settings.template_version:
        raise BadInput(
            f"template {judge.template!r} of judge {judge.name!r}",
            expected=f"version {settings.template_version}, which it was added with, not {template.version}",
            fix="add a judge of another name for the new version: `rlhf-hitl judges add`",
        )
    budget = Budget(judge.budget, settings.price_in, settings.price_out, sum_costs(store, judge), RAISE_BUDGET)
    if judge.kind == "local":
        from rlhf_hitl.judges.local import LocalModel

        return LocalModel(judge, template, budget), template
    from rlhf_hitl.judges.endpoint import Endpoint

    key = read_key(settings.api_key_env, settings.api_key_file)
    return Endpoint(judge, key, budget, store.images.load), template


def run_judge(
    store: Store,
    judge: Judge,
    *,
    limit: int | None = None,
    concurrency: int = 4,
    project: str | None = None,
    split: Split | None = None,
    progress: bool = False,
) -> JudgingReport:
    """Let a judge vote until nothing is left for it, or a limit, its budget or its failures stop it.

    Places are opened first, as many as projects want of judges (`judge_overlap`). A comparison without an answer is
    given back at the end. A pair is asked about in both orders; three completions and more are compared two by two,
    and ranked by how often each comes out better. Run one process for a judge at a time.

    Args:
        limit: the most comparisons to ask about.
        concurrency: the comparisons that are asked about at a time.
        project: only of this project.
        split: open places of this split only.

    Raises:
        BadInput: no project wants judgments of judges, or the judge cannot be opened (`open_asker`).
    """
    if not 1 <= concurrency <= MOST_CONCURRENT:
        raise BadInput(f"concurrency {concurrency}", expected=f"1 to {MOST_CONCURRENT}", fix="give such a number")
    if not has_judge_overlap(store):
        raise BadInput(
            f"judge {judge.name!r}",
            expected="a project that wants judgments of judges",
            fix="`rlhf-hitl projects set default --judge-overlap 1`",
        )
    asker, template = open_asker(store, judge)
    try:
        open_judge_places(store, project=project, split=split, limit=limit)
        return _Run(store, judge, asker, template, limit, concurrency, project).work(progress)
    finally:
        asker.close()


@dataclass(frozen=True)
class _Outcome:
    calls: list[JudgeCall]
    receipt: str = ""  # counted or surplus; empty: there is no judgment
    stop: str = ""  # why no other comparison can be asked about


class _Run:
    """One run of a judge.

    A comparison without an answer stays leased until the end, so that it is not the next one again.
    """

    def __init__(
        self, store: Store, judge: Judge, asker: Asker, template: Template, limit: int | None, concurrency: int,
        project: str | None,
    ):  # fmt: skip
        self._store, self._judge, self._asker, self._template = store, judge, asker, template
        self._limit, self._concurrency = limit, concurrency
        self._filter = queue.TaskFilter(project)
        self._tried = find_unanswered(store, judge, MOST_TRIES)  # comparisons not to be asked about
        self._left = frozenset(self._tried)
        self._held: set[str] = set()  # leases of such comparisons, and of those being asked about
        self._ready: list[Lease] = []
        self._get_guideline = lru_cache(64)(lambda project, version: guidelines.get_guideline(store, project, version))
        self._has_answered = sum_calls(store, judge).calls[CallOutcome.ANSWERED] > 0
        self.report = JudgingReport()

    def work(self, progress: bool) -> JudgingReport:
        total = count_open_judge_places(self._store)
        total = total if self._limit is None else min(total, self._limit)
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="judge")
        running: dict[Future[_Outcome], Lease] = {}
        asked = failures = 0
        try:
            with tqdm(total=total, desc=self._judge.name, unit="comparison", disable=None if progress else True) as bar:
                while True:
                    while len(running) < self._concurrency and not self.report.stopped and asked != self._limit:
                        if (lease := self._take_next()) is None:
                            break
                        running[pool.submit(self._judge_one, lease)] = lease
                        asked += 1
                    if not running:
                        return self.report
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        lease, outcome = running.pop(future), future.result()
                        if outcome.receipt:
                            self._held.discard(lease.id)
                        failures = self._count(outcome, failures)
                        bar.update()
        finally:
            self._asker.close()  # what is asked at this moment is broken off, where an error or a key has ended this
            pool.shutdown(cancel_futures=True)
            for lease_id in self._held | {lease.id for lease in self._ready}:
                queue.release(self._store, lease_id, self._judge.rater_id)

    def _take_next(self) -> Lease | None:
        """Return a comparison that was not asked about yet."""
        if not self._ready:
            wanted = len(self._held) + self._concurrency
            while True:
                leases = queue.lease_many(
                    self._store, self._judge.rater_id, wanted, seconds=LEASE_SECONDS, task_filter=self._filter,
                    role=Role.JUDGE.value,
                )  # fmt: skip
                new = [lease for lease in leases if lease.id not in self._held]
                again = {lease.id for lease in new if lease.comparison.id in self._tried}
                self._held |= again
                self.report.left += sum(lease.comparison.id in self._left for lease in new)
                self._ready = [lease for lease in new if lease.id not in again]
                if self._ready or not again:
                    break
                wanted += len(again)
        if not self._ready:
            return None
        lease = self._ready.pop(0)
        self._tried.add(lease.comparison.id)
        self._held.add(lease.id)
        return lease

    def _count(self, outcome: _Outcome, failures: int) -> int:
        """Count what came of a comparison, and return how many in a row had no answer."""
        report = self.report
        report.add_calls(outcome.calls)
        if outcome.receipt:
            self._has_answered = True
            report.judged += 1
            report.surplus += outcome.receipt == "surplus"
            return 0
        if outcome.stop:
            report.stopped = report.stopped or outcome.stop
            report.failed = report.failed or not outcome.stop.startswith("budget ")
            return failures
        if not outcome.calls:  # another process has judged it
            return failures
        last = outcome.calls[-1]
        report.unanswered[last.outcome.value] += 1
        # One that answers others is not broken for refusing these, which may be too long for it.
        if last.error == IMAGES_UNREAD or (last.outcome is CallOutcome.REFUSED and self._has_answered):
            return failures
        if failures + 1 >= MOST_FAILURES_IN_A_ROW and not report.stopped:
            said = f": {last.error}" if last.error else ""
            report.stopped = f"no answer to {failures + 1} comparisons in a row; the last {last.outcome.value}{said}"
            report.failed = True
        return failures + 1

    def _judge_one(self, lease: Lease) -> _Outcome:
        calls: list[JudgeCall] = []
        numbers: list[int] = []
        try:
            found = self._ask_about_all(lease, calls, numbers)
        except (BudgetReached, CannotAsk) as e:
            return _Outcome(calls, stop=str(e))
        except CancelledError:  # the run has ended
            return _Outcome(calls)
        if found is None:
            return _Outcome(calls)
        opinions, rationale = found
        order = lease.order_shown
        answer = Answer(Verdict.RANKED, rank_completions(order, opinions), rationale=rationale)
        try:
            receipt = queue.submit(
                self._store,
                lease.id,
                self._judge.rater_id,
                answer,
                interface_version=f"judge {self._template.version} {self._template.name}"[:80],
                probabilities=opinions[order[0], order[1]] if len(order) == 2 else None,
            )
        except Conflict:
            return _Outcome([])
        link_calls(self._store, numbers, receipt.judgment_id)
        return _Outcome(calls, receipt.outcome)

    def _ask_about_all(
        self, lease: Lease, calls: list[JudgeCall], numbers: list[int]
    ) -> tuple[dict[tuple[str, str], Probabilities], str] | None:
        """Return what the judge says of each pair, and why; None where it does not answer about one."""
        comparison = guidelines.keep_seen_of_comparison(self._store, lease.comparison, lease.guideline_version)
        guideline = ""
        if self._template.shows_guideline:
            guideline = self._get_guideline(comparison.project, lease.guideline_version).text
        opinions: dict[tuple[str, str], Probabilities] = {}
        rationale = ""
        for a, b in combinations(lease.order_shown, 2):
            both = []
            for order in ((a, b), (b, a)):
                question = ask_about(self._template, comparison, order[0], order[1], guideline)
                made: list[JudgeCall] = []
                try:
                    if question.images and not self._asker.takes_images:
                        made.append(JudgeCall(order, CallOutcome.REFUSED, error=IMAGES_UNREAD))
                        opinion = None
                    else:
                        opinion = self._asker.ask(question, order, made)
                finally:
                    numbers += record_calls(self._store, self._judge, comparison.id, made)
                    calls += made
                if opinion is None:
                    return None
                both.append(opinion)
            opinions[a, b] = combine_orders(both[0].probabilities, both[1].probabilities)
            if len(lease.order_shown) == 2:
                rationale = both[0].rationale  # it speaks of A and B as they were shown first
        return opinions, rationale
