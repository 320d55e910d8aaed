"""Routing: who decides, for which reason, what a rater then sees, and the key figures of it."""

import contextlib
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from handmade_votes import vote
from rlhf_hitl import simulate
from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.labelled_pairs import load_labelled_pairs
from rlhf_hitl.reward.registry import open_reward_model
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.routing.acceptance import Acceptance
from rlhf_hitl.routing.calibration import read_threshold_labels
from rlhf_hitl.routing.router import RoutingConfig, decide_routes, route_pool
from rlhf_hitl.routing.scoring import score_pool
from rlhf_hitl.routing.threshold import Threshold
from rlhf_hitl.store import Store, people, projects, queue
from rlhf_hitl.store.accepted import load_routes
from rlhf_hitl.store.audit import Actor
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.routings import Routing, apply_routings, send_to_raters
from rlhf_hitl.store.runs import read_runs
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.store.witness import read_words_drawn_at_random
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Completion,
    ErrorBound,
    Message,
    OverlapRule,
    Prompt,
    Role,
    Route,
    Score,
    Split,
    Verdict,
)

SURE = Threshold(0.8, 0.1, 50, 0, 60, 60, 0.1, 0.05)


def comparison(i, split=Split.TRAIN):
    prompt = Prompt.create((Message("user", f"prompt {i}"),), split=split)
    pair = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in ("one", "two")]
    return Comparison.create(prompt, pair)


def score(of: Comparison, probability: float, margin=1.0, uncertainty=0.5):
    a, b = (c.id for c in of.completions)
    return Score(of.id, "m", a, b, margin, uncertainty, probability)


def draw(purpose: str, id: str, choices: int) -> int:
    """As `Store.draw` of a store whose key is known."""
    digest = hmac.digest(b"key", f"{purpose}:{id}".encode(), hashlib.sha256)
    return int.from_bytes(digest[:8]) % choices


def routes(decisions):
    return {d.comparison_id: d.route for d in decisions}


def test_confident_scores_are_accepted_and_others_go_to_raters():
    sure, unsure = comparison(1), comparison(2)
    pool = {c.id: c for c in (sure, unsure)}
    decisions = decide_routes(
        [score(sure, 0.9), score(unsure, 0.7)], pool, Acceptance(SURE), RoutingConfig(control_share=0), 1, draw
    )
    assert routes(decisions) == {sure.id: Route.AUTO, unsure.id: Route.HUMAN}
    assert "0.700 is below 0.800" in decisions[1].reason


def test_prompts_that_measure_the_model_are_never_accepted_by_it():
    comparisons = [comparison(i, split) for i, split in enumerate(Split)]
    decisions = decide_routes(
        [score(c, 0.99) for c in comparisons],
        {c.id: c for c in comparisons},
        Acceptance(SURE),
        RoutingConfig(control_share=0),
        1,
        draw,
    )
    assert [d.route for d in decisions] == [
        Route.AUTO if c.prompt.split is Split.TRAIN else Route.HUMAN for c in comparisons
    ]


def test_the_control_share_is_random_and_records_the_route_it_would_have_had():
    comparisons = [comparison(i) for i in range(2000)]
    pool = {c.id: c for c in comparisons}
    scores = [score(c, 0.9 if i % 2 else 0.6) for i, c in enumerate(comparisons)]
    decisions = decide_routes(scores, pool, Acceptance(SURE), RoutingConfig(control_share=0.2), 1, draw)
    control = [d for d in decisions if d.route is Route.CONTROL]
    assert len(control) == pytest.approx(400, abs=60)
    assert sum(d.proposed is Route.AUTO for d in control) == pytest.approx(len(control) / 2, abs=40)
    later = decide_routes(scores, pool, Acceptance(SURE), RoutingConfig(control_share=0.2), 2, draw)
    assert routes(decisions) == routes(later)  # what waits in the control arm is not drawn anew


def test_a_share_of_what_is_accepted_is_audited_and_stands_anywhere_in_line():
    comparisons = [comparison(i, Split.HELDOUT if i % 10 == 0 else Split.TRAIN) for i in range(4000)]
    scores = [score(c, 0.9 if i % 2 else 0.6, 0.1, (i * 7 % 100) / 50) for i, c in enumerate(comparisons)]
    pool = {c.id: c for c in comparisons}
    config = RoutingConfig(control_share=0.1, audit_share=0.2)
    decisions = decide_routes(scores, pool, Acceptance(SURE), config, 1, draw)
    audits = [d for d in decisions if d.route is Route.AUDIT]
    accepted = [d for d in decisions if d.accepts]
    assert len(audits) / len(accepted) == pytest.approx(0.2, abs=0.03)
    assert all(d.proposed is Route.AUTO and d.bound == ErrorBound(0.1, 0.05) for d in audits)
    assert all(d.bound is None for d in decisions if d.route is not Route.AUDIT)
    assert all(pool[d.comparison_id].prompt.split is Split.TRAIN for d in audits)
    queued = sorted((d for d in decisions if d.route is not Route.AUTO), key=lambda d: d.place_in_line)
    at = [n / len(queued) for n, d in enumerate(queued) if d.route is Route.AUDIT]
    assert np.mean(at) == pytest.approx(0.5, abs=0.08)
    later = decide_routes(scores, pool, Acceptance(SURE), config, 2, draw)
    assert routes(decisions) == routes(later)
    assert not [
        d for d in decide_routes(scores, pool, Acceptance(SURE), RoutingConfig(audit_share=0), 1, draw) if d.bound
    ]


def test_where_automation_is_halted_nothing_is_accepted_and_the_reason_says_so():
    comparisons = [comparison(i) for i in range(200)]
    pool = {c.id: c for c in comparisons}
    scores = [score(c, 0.9) for c in comparisons]
    halted = {"default": "automation of project default is paused (by lea)"}
    decisions = decide_routes(scores, pool, Acceptance(SURE, halted=halted), RoutingConfig(control_share=0.1), 1, draw)
    assert {d.route for d in decisions} == {Route.HUMAN, Route.CONTROL}
    assert {d.proposed for d in decisions} == {Route.HUMAN}
    assert {d.reason for d in decisions if d.route is Route.HUMAN} == set(halted.values())


def test_raters_get_the_most_informative_comparisons_first():
    comparisons = [comparison(i) for i in range(3)]
    scores = [
        score(comparisons[0], 0.6, 0.1, 0.01),
        score(comparisons[1], 0.6, 0.1, 3.0),
        score(comparisons[2], 0.6, 3.0, 0.5),
    ]
    decisions = {
        d.comparison_id: d
        for d in decide_routes(
            scores, {c.id: c for c in comparisons}, Acceptance(SURE), RoutingConfig(control_share=0), 1, draw
        )
    }
    assert decisions[comparisons[1].id].place_in_line == 0


def test_comparisons_that_measure_the_model_are_not_ranked_by_information():
    comparisons = [comparison(i, Split.HELDOUT) for i in range(400)]
    scores = [
        score(c, 0.6, 0.1, 3.0 * i / 400) for i, c in enumerate(comparisons)
    ]  # the later, the more it would teach
    decisions = decide_routes(scores, {c.id: c for c in comparisons}, Acceptance(SURE), RoutingConfig(), 1, draw)
    first = sorted(range(400), key=lambda i: decisions[i].place_in_line)[:100]
    assert np.mean(first) == pytest.approx(200, abs=40)


def test_controls_stand_anywhere_among_what_raters_judge_whatever_is_accepted():
    comparisons = [comparison(i) for i in range(2000)]
    scores = [score(c, 0.9 if i % 3 else 0.6, 0.1, (i * 7 % 100) / 50) for i, c in enumerate(comparisons)]
    decisions = decide_routes(
        scores, {c.id: c for c in comparisons}, Acceptance(SURE), RoutingConfig(control_share=0.1), 1, draw
    )
    queued = sorted((d for d in decisions if d.route is not Route.AUTO), key=lambda d: d.place_in_line)
    at = [n / len(queued) for n, d in enumerate(queued) if d.route is Route.CONTROL]
    assert len(at) > 100
    assert np.mean(at) == pytest.approx(0.5, abs=0.1)
    assert 0.05 < np.mean([n > 0.9 for n in at]) < 0.2, "as many at the end as anywhere"


@pytest.mark.parametrize("field", ["control_share", "audit_share"])
def test_a_share_that_is_none_is_refused(field):
    with pytest.raises(BadInput, match="--" + field.replace("_", "-")):
        RoutingConfig(**{field: 1.5})


@pytest.mark.parametrize("field", ["max_error", "delta"])
@pytest.mark.parametrize("value", [0, 1, -0.1])
def test_a_bound_outside_zero_and_one_is_refused(field, value):
    with pytest.raises(BadInput, match="--" + field.replace("_", "-")):
        RoutingConfig(**{field: value})


@pytest.fixture(scope="module")
def trained_folder(sqlite_template, tiny_model, tmp_path_factory) -> Path:
    """What `trained` copies."""
    folder, rng = tmp_path_factory.mktemp("trained"), np.random.default_rng(0)
    shutil.copy(sqlite_template, folder / "preferences.db")
    store = Store.open(f"sqlite:///{folder}/preferences.db")

    def add(n, start):
        made = []
        for i in range(start, start + n):
            prompt = Prompt.create((Message("user", f"prompt {i}"),))
            long = " ".join(f"word{k}" for k in rng.integers(0, 500, 60)) + "."
            short = " ".join(["no"] * int(rng.integers(2, 12)))
            pair = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in (long, short)]
            made.append(Comparison.create(prompt, pair))
        with store.write() as conn:
            insert_comparisons(store, conn, made)

    add(300, 0)
    simulate.judge_queue(store, 300)
    train_head(store, Backbone(str(tiny_model), dtype="float32"), folder)
    add(60, 300)
    store.close()
    return folder


@pytest.fixture
def trained(trained_folder, tmp_path):
    """A store in which simulated raters judged 300 pairs, 60 more wait, and a head is trained."""
    shutil.copy(trained_folder / "preferences.db", tmp_path / "preferences.db")
    shutil.copytree(trained_folder / "features", tmp_path / "features")
    with Store.open(f"sqlite:///{tmp_path}/preferences.db") as store:
        yield store, open_reward_model(store, None, tmp_path)


def test_scored_and_routed_comparisons_reach_raters_or_are_accepted(trained):
    store, model = trained
    assert score_pool(store, model).scored == 60
    assert score_pool(store, model).scored == 0  # once is enough
    routed = route_pool(store, model, RoutingConfig(max_error=0.2, delta=0.1, control_share=0.2), round=1)
    assert sum(routed.counts.values()) == 60
    assert routed.counts["auto"] > 10
    assert routed.counts["control"] > 2
    rater = people.add_rater(store, "ann", Role.RATER).id
    seen = []
    while (lease := queue.lease(store, rater, seconds=1800)) is not None:
        seen.append(lease.comparison)
        answer = simulate.simulate_answer(simulate.SIMULATED_RATERS[0], lease.comparison)
        queue.submit(store, lease.id, rater, answer)
    assert len(seen) == routed.counts["human"] + routed.counts["control"] + routed.counts["audit"]
    assert all(c.route is not Route.AUTO for c in seen)
    judgment = next(read_judgments(store, rater_id=rater))
    assert judgment.reward_model_id == model.id
    assert sum(j.route is Route.CONTROL for j in read_judgments(store, rater_id=rater)) == routed.counts["control"]


def test_what_a_lead_sent_to_raters_is_not_accepted_again(trained):
    store, model = trained
    score_pool(store, model)
    config = RoutingConfig(max_error=0.2, delta=0.1, control_share=0, audit_share=0)
    first = next(d for d in route_pool(store, model, config).decisions if d.accepts)
    lead = people.add_rater(store, "lea", Role.LEAD)
    assert send_to_raters(store, first.comparison_id, by=Actor(lead.id))
    again = route_pool(store, model, config, round=2)
    assert again.sent_by_leads == 1
    assert first.comparison_id not in {d.comparison_id for d in again.decisions}
    assert load_routes(store, [first.comparison_id]) == {first.comparison_id: Route.ESCALATED}


def command_lines_below(pid: int) -> set[str]:
    """The command lines of the processes that a process started, and of those that they started."""
    lines: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                lines.add((process / "cmdline").read_text().replace("\0", " "))
                lines |= command_lines_below(int(process.name))
    return lines


def test_two_processes_give_the_scores_of_one_and_hide_the_stores_url(trained, tmp_path):
    store, model = trained
    score_pool(store, model)
    alone = {s.comparison_id: s for s in read_scores(store, model.id)}
    with store.write() as conn:
        conn.exec_driver_sql("DELETE FROM scores")
    command = [sys.executable, "-m", "rlhf_hitl", "score", "--processes", "2", "--json"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "RLHF_HITL_WORKSPACE": str(tmp_path / "elsewhere")}  # an empty cache
    with (tmp_path / "out").open("w+") as out, (tmp_path / "err").open("w+") as err:
        child = subprocess.Popen(command, env=env | {"RLHF_HITL_STORE": store.url}, stdout=out, stderr=err)
        command_lines = set()
        while child.poll() is None:
            command_lines |= command_lines_below(child.pid)
            time.sleep(0.1)
        printed, errors = ((tmp_path / name).read_text() for name in ("out", "err"))
    assert child.returncode == 0, errors[-3000:]
    # Every user of a machine can read command lines, and the URL of a store may hold a password.
    assert any("rlhf_hitl.scripts.score" in line for line in command_lines)
    assert not [line for line in command_lines if store.url in line]
    nothing = {"scored": 0, "mostly_style": 0, "unlike_training": 0}  # these processes have told of theirs
    expected = {"reward_model_id": model.id, "scored": 60, "without_text": 0, "left_out": {}, "doubts": nothing}
    assert json.loads(printed) == expected
    assert errors.count("scored ") == 2  # a line each process
    [run] = read_runs(store)  # the processes' time is the command's
    assert (run.command, run.outcome, run.device) == ("score", "finished", "cpu")
    together = {s.comparison_id: s for s in read_scores(store, model.id)}
    assert together.keys() == alone.keys()
    for i, score in together.items():
        assert (score.chosen, score.reward_model_id) == (alone[i].chosen, model.id)
        assert score.margin == pytest.approx(alone[i].margin, abs=1e-5)
        # Doubt about what looks unusual grows with the log of a small rest, so the last digits of features show.
        assert score.uncertainty == pytest.approx(alone[i].uncertainty, rel=5e-3)


def test_the_parts_of_a_pool_add_up_to_the_pool(trained):
    store, model = trained
    assert sum(score_pool(store, model, part=i, parts=3).scored for i in range(3)) == 60


def test_a_comparison_with_an_empty_completion_is_left_to_raters_and_stops_nothing(trained):
    store, model = trained
    rater = people.add_rater(store, "ann", Role.RATER).id
    for split in (Split.CALIBRATION, Split.TRAIN):  # one that the threshold would be measured with, and one of the pool
        prompt = Prompt.create((Message("user", f"say nothing, {split}"),), split=split)
        answers = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in ("one", "two", " \n")]
        odd = Comparison.create(prompt, answers)
        with store.write() as conn:
            insert_comparisons(store, conn, [odd])
        while split is Split.CALIBRATION:
            lease = queue.lease(store, rater, seconds=1800)
            best, *others = (c.id for c in lease.comparison.completions)
            queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, ((best,), tuple(others))))
            if lease.comparison.id == odd.id:
                break
    waiting = {c.id for c in find_comparisons(store, judged=False)}
    assert odd.id in waiting
    scored = score_pool(store, model)
    assert (scored.scored, scored.without_text) == (len(waiting) - 1, 1)
    assert score_pool(store, model).without_text == 1  # and said each time
    routed = route_pool(store, model, RoutingConfig(max_error=0.2, delta=0.1, control_share=0))
    assert {d.comparison_id for d in routed.decisions} == waiting - {odd.id}
    seen = set()
    while (lease := queue.lease(store, rater, seconds=1800)) is not None:
        seen.add(lease.comparison.id)
        queue.submit(store, lease.id, rater, Answer(Verdict.ALL_BAD))
    assert odd.id in seen
    with pytest.raises(BadInput, match=f"comparison {odd.id}, completion ''"):
        list(model.score([odd]))


def test_training_labels_that_came_at_random_test_the_threshold_out_of_fold(trained):
    store, model = trained
    config = RoutingConfig(max_error=0.2, delta=0.1)
    threshold = read_threshold_labels(store, model, config).choose_threshold(forecasts=True)
    words = read_words_drawn_at_random(store, model.id)
    labels = [
        label for label in read_labels(store, split=Split.TRAIN) if label.preferred is not None
    ]  # nothing was routed before
    assert {w.comparison_id for w in words} >= {label.comparison_id for label in labels}
    assert threshold.out_of_fold == len(labels)
    alone = len(load_labelled_pairs(store, Split.CALIBRATION))
    assert len(labels) < threshold.calibration <= len(labels) + alone
    assert "of them training labels out of fold" in threshold.reason
    # What a router chose for raters is no random draw, whatever was decided of it later; a control stays one.
    chosen, control = [w.comparison_id for w in words[:2]]
    apply_routings(
        store,
        [
            Routing(chosen, Route.HUMAN, Route.HUMAN, "hard", model.id),
            Routing(control, Route.CONTROL, Route.HUMAN, "drawn", model.id),
            Routing(control, Route.ESCALATED, Route.CONTROL, "split", model.id),
        ],
    )
    left = {w.comparison_id for w in read_words_drawn_at_random(store, model.id)}
    assert left == {w.comparison_id for w in words} - {chosen}
    # With an overlap rule the witness may have ended the votes on what is no control.
    projects.change_project(store, "default", overlap_rule=OverlapRule())
    assert {w.comparison_id for w in read_words_drawn_at_random(store, model.id)} == {control}


def test_judges_votes_do_not_test_the_threshold(trained):
    store, model = trained
    score_pool(store, model)  # says what it thinks of comparisons whose prompts it has not learnt from
    config = RoutingConfig(max_error=0.2, delta=0.1)
    before = read_threshold_labels(store, model, config).choose_threshold(forecasts=True)
    new = [c for c in find_comparisons(store, judged=False) if c.prompt.split is Split.TRAIN]
    judge, person = (people.add_rater(store, name, role).id for name, role in (("j", Role.JUDGE), ("p", Role.RATER)))
    vote(store, new[0], judge, ">", role=Role.JUDGE.value)
    assert read_threshold_labels(store, model, config).choose_threshold(forecasts=True) == before
    vote(store, new[1], person, ">")
    assert (
        read_threshold_labels(store, model, config).choose_threshold(forecasts=True).out_of_fold
        == before.out_of_fold + 1
    )


def test_a_bound_that_cannot_be_shown_accepts_nothing_and_gives_the_reason(trained):
    store, model = trained
    score_pool(store, model)
    routed = route_pool(store, model, RoutingConfig(max_error=0.001, control_share=0), round=1)
    assert routed.counts == {"human": 60, "control": 0, "audit": 0, "auto": 0, "escalated": 0}
    assert "fewest" in routed.threshold.reason
