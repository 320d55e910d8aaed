"""Whatever raters and routers do, in whatever order, the queue's promises hold after every step."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rlhf_hitl.errors import Conflict
from rlhf_hitl.store import Store, queue
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.tables import leases, places
from rlhf_hitl.types import Answer, Comparison, Lease, Route, Verdict

RATERS = 3
COMPARISONS = 4
MOST_HELD = 2

a_rater = st.integers(0, RATERS - 1)
a_comparison = st.integers(0, COMPARISONS - 1)
any_of_them = st.integers(0, 10**6)


class Queue(RuleBasedStateMachine):
    """A store under arbitrary use, on a clock of its own, beside what its clients were told."""

    def __init__(self, new_store: Callable[[], Store], add_comparisons, add_raters):
        super().__init__()
        self.store = new_store()
        self.raters: list[str] = add_raters(self.store, RATERS)
        self.comparisons: list[Comparison] = []
        for i in range(COMPARISONS):
            self.comparisons += add_comparisons(self.store, 1, overlap=1 + i % 3, first=i)
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.leases: list[Lease] = []
        self.kept: dict[str, tuple[str, str, str]] = {}  # judgment → comparison, rater, outcome
        self.newest: list[str] = []
        self.routes = {c.id: Route.HUMAN for c in self.comparisons}

    def teardown(self):
        self.store.close()

    def judged(self) -> set[tuple[str, str]]:
        return {(comparison, rater) for comparison, rater, _ in self.kept.values()}

    def places(self):
        with self.store.read() as conn:
            return conn.execute(sa.select(places)).all()

    def is_free(self, place) -> bool:
        return place.judgment_id is None and (place.leased_until is None or place.leased_until <= self.now)

    @rule(minutes=st.integers(1, 40))
    def time_passes(self, minutes):
        self.now += timedelta(minutes=minutes)

    @rule(who=a_rater, count=st.integers(1, MOST_HELD))
    def lease(self, who, count):
        rater = self.raters[who]
        before = self.places()
        held = {p.lease_id for p in before if p.rater_id == rater and p.judgment_id is None and not self.is_free(p)}
        got = queue.lease_many(self.store, rater, count, seconds=30 * 60, now=self.now)
        assert len({lease.comparison.id for lease in got}) == len(got) <= count
        for lease in got:
            assert lease.expires_at > self.now
            assert (lease.comparison.id, rater) not in self.judged()
            assert lease.id in held or self.routes[lease.comparison.id] is not Route.AUTO
        ids = {lease.id for lease in got}
        assert held <= ids or ids <= held, "what is held comes first"
        if len(got) < count:
            left = [p for p in before if self.is_free(p) and self.routes[p.comparison_id] is not Route.AUTO]
            had = {(lease.comparison.id, rater) for lease in got}
            assert {(p.comparison_id, rater) for p in left} <= self.judged() | had
        self.leases += [lease for lease in got if lease.id not in held]

    @precondition(lambda self: self.leases)
    @rule(which=any_of_them, verdict=st.sampled_from([Verdict.RANKED, Verdict.SKIPPED]))
    def submit(self, which, verdict):
        lease = self.leases[which % len(self.leases)]
        ranking = tuple((i,) for i in lease.order_shown) if verdict is Verdict.RANKED else ()
        key = (lease.comparison.id, lease.rater_id)
        places = [p for p in self.places() if p.comparison_id == lease.comparison.id]
        is_for_raters = self.routes[lease.comparison.id] is not Route.AUTO
        has_room = any(
            p.judgment_id is None and (is_for_raters if self.is_free(p) else p.rater_id == lease.rater_id)
            for p in places
        )
        known = self.judged()
        try:
            receipt = queue.submit(self.store, lease.id, lease.rater_id, Answer(verdict, ranking), now=self.now)
        except Conflict:
            assert key in known
            return
        if receipt.outcome == "repeated":
            assert receipt.judgment_id in self.kept
            return
        assert key not in known
        assert receipt.outcome == ("counted" if has_room else "surplus")
        self.kept[receipt.judgment_id] = (*key, receipt.outcome)
        self.newest.append(receipt.judgment_id)

    @precondition(lambda self: self.leases)
    @rule(which=any_of_them, who=a_rater)
    def submit_as_another(self, which, who):
        lease = self.leases[which % len(self.leases)]
        if self.raters[who] != lease.rater_id:
            with pytest.raises(Conflict):
                queue.submit(self.store, lease.id, self.raters[who], Answer(Verdict.SKIPPED), now=self.now)

    @precondition(lambda self: self.leases)
    @rule(which=any_of_them)
    def renew(self, which):
        lease = self.leases[which % len(self.leases)]
        [place] = [p for p in self.places() if (p.comparison_id, p.n) == self.place_of(lease)] or [None]
        still = place is not None and place.lease_id == lease.id and place.judgment_id is None
        try:
            until = queue.renew(self.store, lease.id, lease.rater_id, seconds=20 * 60, now=self.now)
        except Conflict:
            assert not still
            return
        assert still
        assert until == self.now + timedelta(minutes=20)

    @rule(who=a_rater)
    def renew_all(self, who):
        rater = self.raters[who]
        held = {
            p.lease_id for p in self.places() if p.rater_id == rater and p.judgment_id is None and not self.is_free(p)
        }
        assert set(queue.renew_all(self.store, rater, seconds=20 * 60, now=self.now)) == held
        until = {p.leased_until for p in self.places() if p.lease_id in held}
        assert until <= {self.now + timedelta(minutes=20)}

    def place_of(self, lease):
        with self.store.read() as conn:
            return conn.execute(sa.select(leases.c.comparison_id, leases.c.place).where(leases.c.id == lease.id)).one()

    @precondition(lambda self: self.leases)
    @rule(which=any_of_them)
    def a_lead_takes_back(self, which):
        queue.expire(self.store, self.leases[which % len(self.leases)].id)

    @precondition(lambda self: self.leases)
    @rule(which=any_of_them)
    def release(self, which):
        lease = self.leases[which % len(self.leases)]
        queue.release(self.store, lease.id, lease.rater_id)

    @precondition(lambda self: self.newest)
    @rule(which=any_of_them)
    def correct(self, which):
        old = self.newest.pop(which % len(self.newest))
        comparison, rater, outcome = self.kept[old]
        answer = Answer(Verdict.ALL_BAD)
        receipt = queue.correct(self.store, old, rater, answer, idempotency_key=f"corrects {old}")
        assert receipt.outcome == outcome
        self.kept[receipt.judgment_id] = (comparison, rater, outcome)
        self.newest.append(receipt.judgment_id)

    @rule(which=a_comparison, to=st.sampled_from(list(Route)))
    def route(self, which, to):
        comparison = self.comparisons[which]
        apply_routings(self.store, [Routing(comparison.id, to, to, "test")], now=self.now)
        self.routes[comparison.id] = to

    @invariant()
    def nothing_is_lost(self):
        assert {j.id for j in read_judgments(self.store, current=False)} == set(self.kept)
        assert {j.id for j in read_judgments(self.store)} == set(self.newest)

    @invariant()
    def one_judgment_a_rater_and_comparison_and_no_more_than_are_wanted(self):
        current = list(read_judgments(self.store))
        assert max(Counter((j.comparison_id, j.rater_id) for j in current).values(), default=1) == 1
        wanted = {c.id: c.overlap for c in find_comparisons(self.store)}
        counted = Counter(j.comparison_id for j in current if not j.surplus)
        assert all(n <= wanted[i] for i, n in counted.items())
        assert queue.count_places(self.store, self.now)["filled"] == counted.total()

    @invariant()
    def a_rater_holds_no_more_than_they_asked_for_and_no_comparison_twice(self):
        held = Counter(p.rater_id for p in self.places() if p.judgment_id is None and not self.is_free(p))
        assert queue.count_places(self.store, self.now)["leased"] == held.total()
        assert max(held.values(), default=0) <= MOST_HELD
        pairs = [(p.rater_id, p.comparison_id) for p in self.places() if p.judgment_id is None and not self.is_free(p)]
        assert len(pairs) == len(set(pairs))


def explore(new_store, add_comparisons, add_raters, examples: int) -> None:
    run_state_machine_as_test(
        lambda: Queue(new_store, add_comparisons, add_raters),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_queue_keeps_its_promises_on_sqlite(tmp_path, sqlite_template, add_comparisons, add_raters):
    def new_store() -> Store:
        path = tmp_path / f"{uuid.uuid4().hex}.db"
        shutil.copy(sqlite_template, path)
        return Store.open(f"sqlite:///{path}")

    explore(new_store, add_comparisons, add_raters, examples=10)


def test_the_queue_keeps_its_promises_on_postgresql(postgres, add_comparisons, add_raters):
    with ExitStack() as databases:  # one for each example

        def new_store() -> Store:
            return Store.open(databases.enter_context(postgres.database(postgres.template)))

        explore(new_store, add_comparisons, add_raters, examples=4)
