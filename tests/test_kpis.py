"""The five key figures, worked by hand, and their report as one HTML file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from command_line import run_command
from rlhf_hitl import simulate
from rlhf_hitl.config import Settings
from rlhf_hitl.kpi_report import RoundFigures
from rlhf_hitl.kpi_report_html import render_kpi_report
from rlhf_hitl.kpis import compute_kpi_report
from rlhf_hitl.plots import read_report_script
from rlhf_hitl.reward.evaluation_record import Estimate
from rlhf_hitl.store import Store, audit, people, projects, queue
from rlhf_hitl.store.adjudication import send_to_adjudication
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.judges import add_judge, record_calls
from rlhf_hitl.store.judgments import insert_imported_judgments
from rlhf_hitl.store.loop_steps import finish_step
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, ask_for_votes
from rlhf_hitl.store.scores import insert_scores
from rlhf_hitl.store.tables import runs
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Route, Score, Split, Verdict, utc_now
from rlhf_hitl.types.judges import CallOutcome, Judge, JudgeCall

PRICES = Settings(rater_price_per_hour=36.0, machine_price_per_hour=72.0, currency="EUR")  # 1 and 2 cents a second


class Office:
    """A store with comparisons of two answers, by name. The model says of each that the first is better."""

    def __init__(self, store: Store):
        self.store, self.made = store, {}
        self.rater = people.add_rater(store, "ann", Role.RATER).id
        self.lead = people.add_rater(store, "lea", Role.LEAD).id
        add_reward_model(store, RewardModelRecord("m", "head", "nowhere", "tiny", "sha256:0", simulated=True))

    def add(self, names: str, split: Split = Split.TRAIN) -> None:
        for name in names.split():
            prompt = Prompt.create((Message("user", name),), split=split)
            pair = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in ("one", "two")]
            made = self.made[name] = Comparison.create(prompt, pair)
            with self.store.write() as conn:
                insert_comparisons(self.store, conn, [made])
            first, second = (c.id for c in made.completions)
            insert_scores(self.store, [Score(made.id, "m", first, second, 1.0, 0.1, 0.7)])

    def route(self, names: str, route: Route, proposed: Route, decided_by: str | None = None) -> None:
        decisions = [Routing(self.made[n].id, route, proposed, "", "m", decided_by=decided_by) for n in names.split()]
        apply_routings(self.store, decisions)

    def judge(self, seconds: float, **said: str) -> None:
        """Judge what is named: for the `first` or the `second`, as a `tie`, or `skip` it. Nothing else may be open."""
        by_id = {self.made[name].id: word for name, word in said.items()}
        while by_id:
            lease = queue.lease(self.store, self.rater, seconds=1800)
            assert lease is not None
            first, second = (c.id for c in lease.comparison.completions)
            match by_id.pop(lease.comparison.id):
                case "skip":
                    answer = Answer(Verdict.SKIPPED, active_seconds=seconds)
                case "tie":
                    answer = Answer(Verdict.RANKED, ((first, second),), active_seconds=seconds)
                case word:
                    order = (first, second) if word == "first" else (second, first)
                    answer = Answer(Verdict.RANKED, tuple((i,) for i in order), active_seconds=seconds)
            # As a simulated rater's, the time is kept as it is: it is in the store sooner than people could judge.
            queue.submit(self.store, lease.id, self.rater, answer, simulated=True)

    def run(self, seconds: float, outcome: str | None = "finished") -> None:
        row = {"command": "score", "device": "cpu", "began_at": utc_now(), "seconds": seconds, "outcome": outcome}
        with self.store.write() as conn:
            conn.execute(runs.insert().values(row))


@pytest.fixture
def office(sqlite_store) -> Office:
    """Ten processed comparisons of training prompts: seven were judged, three accepted. Two more wait."""
    made = Office(sqlite_store)
    made.add("early")
    made.judge(10, early="first")
    made.add("heldout", Split.HELDOUT)
    made.judge(100, heldout="second")
    made.add("right wrong unsure_wrong tied hard waiting skipped taken also_taken taken_too sent_back")
    made.route("taken also_taken taken_too sent_back", Route.AUTO, Route.AUTO)
    made.route("right wrong tied", Route.CONTROL, Route.AUTO)
    made.route("unsure_wrong", Route.CONTROL, Route.HUMAN)
    made.route("hard skipped", Route.HUMAN, Route.HUMAN)
    with sqlite_store.write() as conn:  # so that it does not come up
        conn.exec_driver_sql(f"DELETE FROM places WHERE comparison_id = '{made.made['waiting'].id}'")
    made.route("sent_back", Route.ESCALATED, Route.AUTO, decided_by=made.lead)
    made.judge(
        20, right="first", wrong="second", unsure_wrong="second", tied="tie", hard="second", skipped="skip",
        sent_back="second",
    )  # fmt: skip
    made.route("waiting", Route.HUMAN, Route.HUMAN)
    made.add("calibration", Split.CALIBRATION)
    made.route("calibration", Route.HUMAN, Route.HUMAN)
    made.run(100)
    made.run(50, "failed")
    return made


def test_the_five_figures_are_over_the_processed_comparisons_of_training_prompts(office):
    report = compute_kpi_report(office.store, PRICES)
    assert (report.judged, report.accepted, report.unrouted, report.waiting) == (7, 3, 1, 2)
    accuracy = report["accuracy_before_review"]
    assert (accuracy.value, accuracy.n) == (pytest.approx(1 / 3), 3)
    assert accuracy.note.startswith("over 3 of the 10 processed comparisons of training prompts: the control share")
    assert "1 tie left out" in accuracy.note
    intervention = report["intervention_rate"]
    assert (intervention.value, intervention.n) == (0.7, 10)
    assert intervention.note == (
        "raters judged 7 of the 10 processed comparisons of training prompts, 1 of them before a model had routed them"
    )
    reduction = report["error_reduction"]
    assert (reduction.value, reduction.n) == (0.5, 2)
    assert reduction.low < 0.1
    assert reduction.high > 0.9
    time = report["review_seconds"]
    assert (time.value, time.n) == (pytest.approx((10 + 6 * 20) / 7), 7)
    assert "7 that raters judged of the processed comparisons" in time.note
    cost = report["cost_per_comparison"]
    raters, machine = (10 + 6 * 20 + 100 + 20) / 100, (100 + 50) / 50
    assert (cost.value, cost.n) == (pytest.approx((raters + machine) / 10), 10)
    assert "raters 2.50 EUR (1.20 of it on calibration and held-out prompts, repeats and skips)" in cost.note
    assert "machine 3.00 EUR (0.04 h in 2 runs, 1 of them not finished), over the 10 processed" in cost.note
    assert all(
        "processed comparisons of training prompts" in f.note or "control share" in f.note for f in report.figures
    )


def test_what_judges_asked_for_is_a_cost_of_its_own(office):
    """Two calls, one of which failed and was paid all the same, of a comparison that nobody has judged or routed."""
    before = compute_kpi_report(office.store, PRICES)
    office.add("asked")
    judge = add_judge(office.store, Judge("", "gpt", "m", "http://127.0.0.1:1/v1"))
    order = tuple(c.id for c in office.made["asked"].completions)
    calls = [JudgeCall(order, CallOutcome.ANSWERED, (0.9, 0, 0.1), cost=0.25), JudgeCall(order, CallOutcome.FAILED)]
    record_calls(office.store, judge, office.made["asked"].id, [*calls, replace(calls[1], cost=0.5)])
    report = compute_kpi_report(office.store, PRICES)
    cost, newest = report["cost_per_comparison"], {f.key: f for f in report.others}["cost_last_days"]
    assert cost.value == pytest.approx((2.5 + 0.75 + 3) / 10)
    assert "repeats and skips) + judges 0.75 EUR (2 paid calls) + machine 3.00 EUR" in cost.note
    assert newest.note.startswith("raters 2.50 + judges 0.75 + machine 3.00 EUR")
    assert [r.cost for r in report.rounds] == [pytest.approx(6.25)]
    saved, unasked = (of.savings and of.savings.newest for of in (report, before))
    assert saved is not None
    assert unasked is not None
    assert (saved.judges, saved.net) == (0.75, pytest.approx(unasked.net - 0.75))
    text = render_kpi_report(report)
    assert ">judges<" in text
    assert "In all 6.25 EUR" in text


def test_a_control_on_which_raters_are_split_stays_a_control_wherever_it_is_sent(office):
    """The contested cases are those that the model gets wrong: without them it would look better than it is."""
    before = compute_kpi_report(office.store, PRICES)
    lead = audit.Actor(office.lead)
    send_to_adjudication(office.store, [office.made["wrong"].id], by=lead)
    ask_for_votes(office.store, [office.made["unsure_wrong"].id], by=lead)
    after = compute_kpi_report(office.store, PRICES)
    for key in ("accuracy_before_review", "error_reduction"):
        assert after[key] == before[key]
    office.route("right", Route.HUMAN, Route.HUMAN)  # drawn again, under a smaller share: it is no control any more
    assert compute_kpi_report(office.store, PRICES)["accuracy_before_review"].n == 2


def test_what_raters_always_judge_and_what_others_judged_changes_no_share(office):
    before = compute_kpi_report(office.store, PRICES)
    office.judge(20, waiting="first", calibration="first")
    office.add("elsewhere")
    rater = people.add_rater(office.store, "imported", Role.RATER).id
    comparison = office.made["elsewhere"]
    ids = [c.id for c in comparison.completions]
    vote = {"comparison_id": comparison.id, "rater_id": rater, "answer": Answer(Verdict.RANKED, ((ids[0],), (ids[1],)))}
    with office.store.write() as conn:
        insert_imported_judgments(
            office.store, conn, [vote | {"order_shown": ids, "source": "file", "idempotency_key": "k"}]
        )
    after = compute_kpi_report(office.store, PRICES)
    assert after["intervention_rate"].n == before["intervention_rate"].n + 1  # the one that waited
    assert after["accuracy_before_review"] == replace(
        before["accuracy_before_review"], note=before["accuracy_before_review"].note.replace("the 10", "the 11")
    )
    assert after.judgments == before.judgments + 2
    assert after["cost_per_comparison"].value == pytest.approx((5.5 + 0.4) / 11)


def test_rounds_add_up_to_the_report(sqlite_store):
    office = Office(sqlite_store)
    office.add("a b")
    office.judge(10, a="first", b="first")
    office.run(50)
    finish_step(sqlite_store, 1, "promote", {}, 0.0)
    office.add("c d e")
    office.route("c d", Route.CONTROL, Route.AUTO)
    office.route("e", Route.AUTO, Route.AUTO)
    office.judge(30, c="first", d="second")
    office.run(100)
    finish_step(sqlite_store, 2, "promote", {}, 0.0)
    office.run(25, None)  # after the last round, it counts with it
    report = compute_kpi_report(sqlite_store, PRICES)
    first, second = report.rounds
    assert (first.round, first.accuracy, first.processed) == (1, None, 2)
    assert (first.intervention.value, first.intervention.n) == (1, 2)
    assert (first.rater_cost, first.machine_cost) == (pytest.approx(0.2), pytest.approx(1.0))
    assert (second.round, second.accuracy.value, second.accuracy.n, second.processed) == (2, 0.5, 2, 3)
    assert (second.intervention.value, second.intervention.n) == (pytest.approx(2 / 3), 3)
    assert (second.rater_cost, second.machine_cost) == (pytest.approx(0.6), pytest.approx(2.5))
    cost = report["cost_per_comparison"]
    assert sum(r.rater_cost + r.machine_cost for r in report.rounds) / cost.n == pytest.approx(cost.value)
    assert sum(r.processed for r in report.rounds) == cost.n == 5


def test_simulated_is_said_of_the_judgments_and_of_the_models(office):
    report = compute_kpi_report(office.store, PRICES)
    assert report.simulated
    assert report.simulation_notes == [
        "Simulated raters made 9 of the 9 judgments.",
        "The reward model that routed learnt, at least in part, from labels of simulated raters.",
    ]
    assert replace(report, simulated_judgments=0).simulation_notes == report.simulation_notes[1:]
    assert not replace(report, simulated_judgments=0).simulated
    plain = json.loads(json.dumps(report.as_dict()))
    assert (plain["simulated"], plain["simulated_judgments"], plain["judgments"]) == (True, 9, 9)
    assert (plain["simulated_models"], plain["models"], plain["projects"]) == (1, 1, ["default"])


def test_a_model_that_ranks_four_completions_like_the_raters_has_full_accuracy(sqlite_store):
    prompt = Prompt.create((Message("user", "rank four"),), split=Split.TRAIN)
    four = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in ("a", "b", "c", "d")]
    of = Comparison.create(prompt, four)
    with sqlite_store.write() as conn:
        insert_comparisons(sqlite_store, conn, [of])
    add_reward_model(sqlite_store, RewardModelRecord("m", "head", "nowhere", "tiny", "sha256:0", False))
    best_first = [c.id for c in four]
    insert_scores(sqlite_store, [Score(of.id, "m", best_first[0], best_first[1], 1.0, 0.1, 0.7)])
    apply_routings(sqlite_store, [Routing(of.id, Route.CONTROL, Route.AUTO, "drawn", "m", 1)])
    rater = people.add_rater(sqlite_store, "ann", Role.RATER).id
    lease = queue.lease(sqlite_store, rater, seconds=1800)
    assert lease is not None
    queue.submit(sqlite_store, lease.id, rater, Answer(Verdict.RANKED, tuple((i,) for i in best_first)))
    report = compute_kpi_report(sqlite_store, Settings())
    assert report["accuracy_before_review"].value == 1.0
    assert report.rounds[0].accuracy.value == 1.0
    assert report.simulation_notes == []


def test_the_report_of_an_empty_store_says_what_is_missing(sqlite_store):
    report = compute_kpi_report(sqlite_store, Settings())
    assert all(f.value is None and f.note for f in report.figures)
    assert not report.simulated
    assert "<svg" not in render_kpi_report(report)


def test_before_there_is_a_model_the_report_knows_what_judging_costs(sqlite_store, add_comparisons):
    add_comparisons(sqlite_store, 8)
    simulate.judge_queue(sqlite_store, 8)
    report = compute_kpi_report(sqlite_store, Settings())
    n = report["intervention_rate"].n
    assert report["intervention_rate"].value == 1
    assert f"{n} of them before a model had routed them" in report["intervention_rate"].note
    assert report["review_seconds"].value > 0
    assert report["cost_per_comparison"].value > 0


# The report as a page


def test_the_command_prints_what_each_figure_is_over(office):
    printed = run_command("report", "--store", office.store.url).stdout
    assert "Report of default, " in printed
    assert "(simulated: 9 of 9 judgments)" in printed
    assert re.search(r"Model accuracy before human review +33\.3% +6\.1% to 79\.2%", printed)
    assert "All figures are over 10 processed comparisons of training prompts: 7 judged by raters" in printed
    assert "Human intervention rate: raters judged 7 of the 10" in printed
    assert "learnt, at least in part, from labels of simulated raters" in printed


@pytest.fixture
def hostile_report(office):
    """A report of five rounds, of a shop that names its currency badly."""
    projects.add_project(office.store, "coding")
    shares = [Estimate(0.5 + i / 10, 0.3 + i / 10, 0.55 + i / 10, 12 + i) for i in range(5)]
    rounds = tuple(RoundFigures(i + 1, s if i else None, s, 40 * (i != 3), 3.0, 1.0) for i, s in enumerate(shares))
    prices = Settings(rater_price_per_hour=36.0, machine_price_per_hour=72.0, currency='<b onclick="x">$1$</b>\u202e')
    made_at = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)
    return replace(compute_kpi_report(office.store, prices), rounds=rounds, created_at=made_at)


def test_the_page_has_date_projects_and_three_plots_and_runs_nothing_it_is_given(hostile_report, page, tmp_path):
    (tmp_path / "report.html").write_text(render_kpi_report(hostile_report))
    page.goto(f"file://{tmp_path}/report.html")
    shown = page.locator("main").inner_text()
    assert "Projects coding, default, 2026-11-26 09:30 UTC" in shown
    assert '<b onclick="x">$1$</b>⟦RLO⟧' in shown
    assert page.locator("b[onclick]").count() == 0
    titles = ["Model accuracy", "Human intervention rate", "Cost per processed comparison"]
    plots = page.locator("svg[role=img]")
    assert plots.evaluate_all("all => all.map(e => e.getAttribute('aria-label'))") == [f"{t} by round" for t in titles]
    assert "Not drawn: 4.00" in shown  # the round that processed nothing
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).background]"
        )
        letters = plots.locator("text").evaluate_all("all => all.map(e => getComputedStyle(e).fill)")
        assert set(letters) == {ink}
        assert ink not in paper
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.emulate_media(media="screen", color_scheme="light")
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_above_a_bar_of_costs_stands_its_height_and_the_sums_are_told_below(office):
    one = RoundFigures(1, None, None, 238, 6.0, 0.43)
    report = replace(compute_kpi_report(office.store, PRICES), rounds=(one,))
    text = render_kpi_report(report)
    plot = text[text.index('aria-label="Cost per processed') :]
    letters = re.findall(r"<text[^>]*>([^<]*)</text>", plot[: plot.index("</svg>")])
    assert "0.027" in letters
    assert "EUR per comparison" in letters
    assert "6.43" not in letters
    assert "what one comparison processed in each round cost, in EUR. In all 6.43 EUR for 238 comparisons." in text
    text = render_kpi_report(replace(report, rounds=(one, replace(one, round=2, processed=1, rater_cost=1200.0))))
    assert "In all 1,206.86 EUR for 239 comparisons: 6.43 in round 1, 1,200.43 in round 2." in text
    assert ">1,200<" in text
    many = tuple(replace(one, round=i) for i in range(1, 14))
    assert "In all 83.59 EUR for 3,094 comparisons." in render_kpi_report(replace(report, rounds=many))


def test_the_file_is_self_contained_and_the_same_for_the_same_report(hostile_report):
    text = render_kpi_report(hostile_report)
    assert text == render_kpi_report(hostile_report)
    assert not re.search(r"(src|href)=.https?:", text)
    assert text.count("<script") == 1
    assert f"<script>{read_report_script()}</script>" in text


def test_the_model_speaks_of_all_that_it_routed_and_people_of_the_random_few(office):
    powered = {f.key: f for f in compute_kpi_report(office.store, PRICES).powered}
    accuracy = powered["accuracy"]
    assert (accuracy.plain, accuracy.labels) == (pytest.approx(1 / 3), 3)  # right, wrong, unsure_wrong; a tie is none
    assert accuracy.examples == 11
    # The model is as sure of each, so its word adds nothing.
    assert (accuracy.value, accuracy.low, accuracy.high) == (accuracy.plain, accuracy.plain_low, accuracy.plain_high)
    assert "people's word on 3 comparisons drawn at random, the model's on 11" in accuracy.note
    assert list(powered) == ["accuracy"]  # all answers are of one policy
