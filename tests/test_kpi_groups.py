"""The figures of groups, savings and forecasts: worked by hand, and adding up to the whole whatever was done."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handmade_work import make_history
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.kpi_changes import find_changes
from rlhf_hitl.kpi_facts import ControlOutcome, KpiFacts, Rounds
from rlhf_hitl.kpi_forecast import compute_forecast
from rlhf_hitl.kpi_groups import compute_groups
from rlhf_hitl.kpi_savings import compute_savings
from rlhf_hitl.kpis import compute_kpi_report
from rlhf_hitl.routing.threshold_curve import compute_curve, read_curve_basis
from rlhf_hitl.routing.threshold_labels import make_threshold_labels, save_threshold_labels
from rlhf_hitl.stats.learning_curve import find_obstacle, forecast_accuracy
from rlhf_hitl.store.reward_models import RewardModelRecord
from rlhf_hitl.store.routings import Routing
from rlhf_hitl.store.runs import Run, RunOutcome
from rlhf_hitl.store.work_facts import ComparisonFact, FeeFact, JudgmentFact
from rlhf_hitl.types import Route

DAY_ONE = datetime(2026, 11, 2, 12, tzinfo=UTC)


def at(day: float) -> datetime:
    return DAY_ONE + timedelta(days=day)


def make_comparison(name: str, day: float = 0, project: str = "p", split: str = "train", **tags) -> ComparisonFact:
    return ComparisonFact(name, project, split, tags, at(day), True)


def judge(name: str, day: float, seconds: float | None = 10, rater: str = "ann", said="ab", **how) -> JudgmentFact:
    seq = next(judge.seq)
    row = {"simulated": False, "surplus": False, "verdict": "ranked"} | how
    return JudgmentFact(
        seq, name, rater, row["verdict"], [[c] for c in said], seconds, at(day), row["simulated"], row["surplus"]
    )


judge.seq = iter(range(1, 10**9))


def make_facts(comparisons, judgments=(), decisions=(), control=(), runs=(), ends=None) -> KpiFacts:
    by_id = {c.id: c for c in comparisons}
    return KpiFacts(
        by_id, sorted(judgments, key=lambda j: j.seq), list(decisions), list(control), 0, list(runs),
        Rounds(ends or {}), rater_price=0.01, machine_price=0.02,
    )  # fmt: skip


@pytest.fixture
def two_days() -> KpiFacts:
    """On the first day a and b are judged, a by two raters, and the model accepts x; on the second c and h are."""
    return make_facts(
        [
            make_comparison("a", topic="code"), make_comparison("b", topic="prose", level="hard"),
            make_comparison("x", topic="code"), make_comparison("c", 1, project="q"),
            make_comparison("h", 1, split="heldout"),
        ],
        [
            judge("a", 0.1, 10), judge("a", 0.2, 30, "ben", "ba"), judge("b", 0.25, 20), judge("c", 1.4, 60, "ben"),
            judge("h", 1.2, 100, "ben"), judge("b", 1.3, 7, "ben", surplus=True),
        ],
        [
            Routing("x", Route.AUTO, Route.AUTO, "", "m", created_at=at(0.05)),
            Routing("b", Route.CONTROL, Route.AUTO, "", "m", created_at=at(0.05)),
        ],
        [ControlOutcome("b", at(0.05), True, Route.AUTO)],
        [Run("route", at(0), 50.0, RunOutcome.FINISHED), Run("train-reward", at(1), 25.0, None)],
        {1: at(0.9), 2: at(1.9)},
    )  # fmt: skip


def test_days_worked_by_hand(two_days):
    first, second = compute_groups(two_days, "day")
    assert (first.group, second.group) == ("2026-11-02", "2026-11-03")
    assert (first.judged, first.accepted, first.processed, first.judgments, first.throughput) == (2, 1, 3, 3, 3)
    assert first.intervention is not None
    assert (first.intervention.value, first.intervention.n) == (pytest.approx(2 / 3), 3)
    assert first.accuracy is not None
    assert first.error_reduction is not None
    assert (first.accuracy.value, first.error_reduction.value) == (0, 0)  # the one error would have been accepted
    assert first.review is not None
    assert (first.review.mean, first.review.median, first.review.p95) == (20, 20, pytest.approx(29))
    assert first.agreement is not None
    assert (first.agreement.value, first.agreement.n) == (0, 1)
    assert first.latency is not None
    assert first.latency.median == pytest.approx(0.1 * 24)  # 0.05, 0.1 and 0.25 days
    assert (first.rater_cost, first.machine_cost) == (pytest.approx(0.6), pytest.approx(1.0))
    assert first.cost_per_comparison == pytest.approx(1.6 / 3)
    assert (second.processed, second.judgments) == (1, 1)
    assert second.rater_cost == pytest.approx(1.67)  # with what measures the model, and the surplus one
    assert [r.group for r in compute_groups(two_days, "round")] == ["1", "2"]


def test_tags_raters_and_projects_worked_by_hand(two_days):
    tags = {g.group: g for g in compute_groups(two_days, "tag")}
    assert set(tags) == {"topic=code", "topic=prose", "level=hard", "without a tag"}
    assert (tags["topic=code"].judged, tags["topic=code"].accepted) == (1, 1)
    assert tags["topic=code"].machine_cost is None
    assert tags["level=hard"].accuracy is not None
    named = {g.group: g for g in compute_groups(two_days, "tag:level")}
    assert {name: g.processed for name, g in named.items()} == {"hard": 1, "without a tag": 3}
    raters = {g.group: g for g in compute_groups(two_days, "rater", rater_names={"ann": "Ann"})}
    assert (raters["Ann"].judged, raters["ben"].judged) == (2, 2)  # both have judged a
    assert raters["ben"].intervention is None
    assert raters["Ann"].agreement == raters["ben"].agreement
    assert {g.group: g.processed for g in compute_groups(two_days, "project")} == {"p": 3, "q": 1}
    with pytest.raises(BadInput, match="tag:NAME"):
        compute_groups(two_days, "week")


def test_a_rater_whose_newest_votes_agree_less_is_slipping():
    names = [f"c{n}" for n in range(200)]
    votes = [judge(name, n / 10, 5, "ann") for n, name in enumerate(names)]
    votes += [judge(name, n / 10 + 0.01, 5, "ben", "ab" if n < 150 else "ba") for n, name in enumerate(names)]
    slipping, steady = (
        make_facts(map(make_comparison, names[:n]), [v for v in votes if v.comparison_id in set(names[:n])])
        for n in (200, 150)
    )
    assert [g.is_slipping for g in compute_groups(slipping, "rater")] == [True, True]
    assert [g.is_slipping for g in compute_groups(steady, "rater")] == [False, False]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_groups_add_up_to_the_whole(data):
    n = data.draw(st.integers(1, 12))
    tag = st.sampled_from([{}, {"topic": "a"}, {"topic": "b"}])
    came, project = st.integers(0, 3), st.sampled_from("pq")
    comparisons = [make_comparison(f"c{i}", data.draw(came), data.draw(project), **data.draw(tag)) for i in range(n)]
    name, day = st.sampled_from([c.id for c in comparisons]), st.floats(0, 6)
    votes = [
        judge(
            data.draw(name),
            data.draw(day),
            data.draw(st.sampled_from([None, 3.0, 8.0])),
            data.draw(st.sampled_from(["ann", "ben"])),
        )
        for _ in range(data.draw(st.integers(0, 15)))
    ]
    accepted = data.draw(st.lists(name, unique=True))
    decisions = [Routing(i, Route.AUTO, Route.AUTO, "", "m", created_at=at(data.draw(day))) for i in accepted]
    runs = [Run("route", at(data.draw(day)), 10.0, RunOutcome.FINISHED) for _ in range(data.draw(st.integers(0, 3)))]
    facts = make_facts(comparisons, votes, decisions, runs=runs, ends={1: at(1), 2: at(3), 3: at(4)})
    for by in ("round", "day", "project", "tag:topic", "tag"):
        groups = compute_groups(facts, by)
        assert sum(g.judged for g in groups) == len(facts.first_judgment)
        assert sum(g.accepted for g in groups) == len(facts.accepted)
        assert sum(g.judgments for g in groups) == len(facts.counted)
        assert sum(g.rater_cost for g in groups) == pytest.approx(sum(map(facts.price, votes)))
        if by in ("round", "day"):
            assert sum(g.machine_cost or 0 for g in groups) == pytest.approx(sum(run.seconds for run in runs) * 0.02)
    raters = compute_groups(facts, "rater")
    assert sum(g.judgments for g in raters) == len(facts.counted)
    assert sum(g.judged for g in raters) == len({(v.comparison_id, v.rater_id) for v in votes})


def test_savings_worked_by_hand(two_days):
    """People cost 0.4 on a, 0.2 on b and 0.6 on c. The model is sure of b and x; b was checked for 0.2."""
    savings = compute_savings(two_days)
    assert (savings.manual_cost, savings.judged) == (pytest.approx(0.4), 3)
    first, last = savings.days
    assert (first.sure, first.gross, first.checks, first.machine) == (2, pytest.approx(0.8), pytest.approx(0.2), 1.0)
    assert first.net == pytest.approx(0.8 - 1.2)
    assert first.roi == pytest.approx(-0.4 / 1.2)
    assert (last.sure, last.machine, last.net) == (2, 1.5, pytest.approx(0.8 - 1.7))
    half = 1.96 * np.std([0.4, 0.2, 0.6], ddof=1) / 3**0.5
    assert (last.low, last.high) == (pytest.approx(0.8 - 2 * half - 1.7), pytest.approx(0.8 + 2 * half - 1.7))
    assert compute_savings(make_facts([make_comparison("a")])).manual_cost is None


def test_fees_of_judges_are_a_cost_of_automation(two_days):
    """A judge was paid 0.3 for x on the first day, and 0.5 for c on the second: no day, tag or saving is without it."""
    paid = replace(two_days, fees=[FeeFact("x", 0.3, at(0.1)), FeeFact("c", 0.5, at(1.1))])
    days, before = compute_groups(paid, "day"), compute_groups(two_days, "day")
    assert [day.judge_cost for day in days] == [0.3, 0.5]
    assert [day.cost for day in days] == [pytest.approx(of.cost + fee) for of, fee in zip(before, (0.3, 0.5))]
    assert {g.group: g.judge_cost for g in compute_groups(paid, "project")} == {"p": 0.3, "q": 0.5}
    assert {g.judge_cost for g in compute_groups(paid, "rater")} == {0.0}
    first, last = compute_savings(paid).days
    assert (first.judges, first.net) == (0.3, pytest.approx(0.8 - 1.2 - 0.3))
    assert (last.judges, last.net) == (0.8, pytest.approx(0.8 - 1.7 - 0.8))
    assert last.roi == pytest.approx((0.8 - 2.5) / 2.5)


def test_routing_again_moves_no_acceptance_to_another_day(two_days):
    """x was accepted and b drawn on day 1; both are decided again on day 6, by another model, and x is audited once."""

    def decide(name: str, day: float, route: Route, proposed: Route = Route.AUTO) -> Routing:
        return Routing(name, route, proposed, "", f"m{day}", created_at=at(day))

    again = [decide("x", 3, Route.AUDIT), decide("x", 6, Route.AUTO), decide("b", 6, Route.CONTROL)]
    later = replace(two_days, decisions=[*two_days.decisions, *again])
    assert compute_groups(later, "day") == compute_groups(two_days, "day")
    assert compute_groups(later, "round") == compute_groups(two_days, "round")
    assert compute_savings(later) == compute_savings(two_days)
    # Where raters had it in between, the acceptance of day 6 is a new one, 6 days after x came.
    withheld = replace(later, decisions=[*two_days.decisions, decide("x", 3, Route.HUMAN, Route.HUMAN), *again[1:]])
    newest = compute_groups(withheld, "day")[-1]
    assert (newest.group, newest.accepted) == ("2026-11-08", 1)
    assert newest.latency is not None
    assert newest.latency.median == pytest.approx(6 * 24)
    assert [day.sure for day in compute_savings(withheld).days] == [1, 1, 1, 1, 1, 1, 2]


def test_the_newest_day_is_compared_with_the_one_before(two_days):
    days = compute_groups(two_days, "day")
    found = find_changes(days, "EUR")
    assert found is not None
    assert found[:2] == ("2026-11-02", "2026-11-03")
    rows = {change.title: change for change in found[2]}
    assert (rows["Judgments"].before, rows["Judgments"].now, rows["Judgments"].is_clear) == (3, 1, None)
    assert (rows["Review time, mean"].before, rows["Review time, mean"].now) == (20, 60)
    assert rows["Review time, mean"].is_clear is True
    assert rows["Human intervention rate"].is_clear is False
    assert rows["Model accuracy before review"].now is None
    assert find_changes(days[:1], "EUR") is None


def test_a_power_law_is_found_again_and_its_interval_covers_it():
    labels, wanted = np.array([100, 200, 400, 800]), np.array([800, 3200])
    truth = 2.0 * labels**-0.4
    rng, covered = np.random.default_rng(0), 0
    for seed in range(60):
        n = np.full(4, 1000)
        found = forecast_accuracy(labels, rng.binomial(n, truth), n, wanted, seed=seed)[-1]
        covered += found.low <= 1 - 2.0 * 3200**-0.4 <= found.high
    assert covered >= 54
    exact = forecast_accuracy(labels, truth * 1e7, np.full(4, int(1e7)), wanted)
    assert exact[-1].value == pytest.approx(1 - 2.0 * 3200**-0.4, abs=1e-4)


def test_too_few_models_show_no_curve_and_it_says_so(tmp_path):
    assert "1 of the models" in find_obstacle(np.array([100, 100, 100]), np.array([50, 50, 50]))
    assert "grew from 100 to 120 only" in find_obstacle(np.array([100, 110, 120]), np.array([50, 50, 50]))
    record = RewardModelRecord("m", "head", str(tmp_path), "tiny", "h", False, figures={"train_labels": 100})
    assert compute_forecast([record], 0.1).next_obstacle == "no model has routed yet"
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, 300)
    tested = [(float(c), bool(rng.random() > c), str(n)) for n, c in enumerate(confidence)]
    kept = make_threshold_labels(tested, out_of_fold=100, max_error=0.1, delta=0.1, checked_share=0.1)
    save_threshold_labels(tmp_path, kept)
    forecast = compute_forecast([record], 0.1)
    assert (forecast.models[0].labels, forecast.models[0].n) == (100, 200)
    assert forecast.models[0].accuracy == pytest.approx(1 - np.mean([w for _, w, _ in tested[:200]]))
    assert forecast.accuracy == ()
    assert "too few points" in forecast.lines("EUR")[0]
    # The hundred next labels let -0.3 % to 2.0 % more be accepted on average: that may be nothing.
    assert forecast.next_labels is None
    assert "are worth is not known: 100 more let -0.3% to 2.0% more be accepted" in forecast.lines("EUR")[1]
    rng = np.random.default_rng(0)
    few = [(float(c), bool(rng.random() > c), str(n)) for n, c in enumerate(rng.uniform(0.5, 1, 150))]
    kept = make_threshold_labels(few, out_of_fold=0, max_error=0.1, delta=0.1, checked_share=0.1)
    save_threshold_labels(tmp_path, kept)
    worth = compute_forecast([record], 0.1).next_labels
    assert worth is not None
    assert worth.cost == pytest.approx(10)
    assert worth.saving == pytest.approx((worth.share_then - worth.share_now) * 0.9 * 0.1 * 1000)
    assert 0 < worth.saving_low < worth.saving < worth.saving_high
    assert 100 / worth.pays_from <= worth.saving / (0.1 * 1000)
    assert worth.pays_from < worth.pays_latest


def test_a_store_says_the_same_of_what_was_done_on_both_databases(store, tmp_path):
    made = make_history(store, tmp_path, days=4, a_day=12, models=2)
    report = compute_kpi_report(store, Settings())
    routed = sum(g.processed for g in report.groups["project"]) + report.waiting
    assert routed == report.judged + report.accepted + report.waiting == len(made) == 48
    assert len(report.groups["day"]) == 4
    assert {g.group for g in report.groups["project"]} == {"default", "support"}
    assert report.savings is not None
    assert report.savings.newest is not None
    assert report.savings.newest.machine == pytest.approx(4 * 900 / 3600 * 0.5)
    assert "too few points" in report.forecast.obstacle
    assert report.as_dict()["groups"]["day"][0]["group"] == report.groups["day"][0].group
    basis = read_curve_basis(store)
    assert basis is not None
    assert basis.model_id == "m_0_1"  # the newest, which has scored the last two days
    assert 0 < compute_curve(basis).pool < 24
