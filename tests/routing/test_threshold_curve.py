"""The threshold curve, worked by hand, and what a lead demands of the next routing."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from handmade_work import make_history
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.routing.acceptance import Acceptance
from rlhf_hitl.routing.elsewhere import Bar
from rlhf_hitl.routing.router import RoutingConfig, decide_routes
from rlhf_hitl.routing.threshold_curve import (
    CurveBasis,
    apply_target,
    check_target,
    compute_curve,
    list_bounds,
    read_curve_basis,
)
from rlhf_hitl.routing.threshold_labels import (
    LABELS_FILE,
    load_threshold_labels,
    make_threshold_labels,
    save_threshold_labels,
)
from rlhf_hitl.store import audit
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.judgments import judgment_to_row
from rlhf_hitl.store.routing_targets import RoutingTarget, clear_target, read_targets, set_target
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.store.tables import judgments, scores
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Route, Score, Split, Verdict, utc_now

#: 100 labels: sure and right; 50 half sure, 20 of them wrong.
LABELS = make_threshold_labels(
    [(0.9, False, f"a{n}") for n in range(100)] + [(0.6, n < 20, f"b{n}") for n in range(50)],
    out_of_fold=0,
    max_error=0.1,
    delta=0.05,
    checked_share=0.2,
)


def demand(min_confidence: float, max_error: float | None = None) -> RoutingTarget:
    return RoutingTarget("default", max_error, min_confidence, "lea", utc_now())


def test_the_curve_worked_by_hand():
    pools = {"default": np.array([0.55, 0.6, 0.7, 0.9]), "other": np.array([0.95])}
    basis = CurveBasis("m", LABELS, list_bounds(LABELS), pools, "")
    curve = compute_curve(basis, "default", manual_cost=2.0)
    points = {p.confidence: p for p in curve.points}
    sure = points[0.9]
    assert (sure.accepted, sure.load, sure.cost) == (pytest.approx(0.2), pytest.approx(0.8), pytest.approx(1.6))
    assert (sure.error, sure.labels, sure.bound) == (0, 100, 0.03)  # 1 - 0.05 ** (1 / 100) is 2.95 %
    unsure = points[0.6]
    assert (unsure.accepted, unsure.error) == (pytest.approx(0.6), pytest.approx(20 / 150))
    assert unsure.bound == 0.19  # 20 of 150: below 18.7 % with 95 % confidence
    assert points[1.0].accepted == 0
    assert (curve.now, curve.max_error, curve.pool, curve.tested) == (0.9, 0.1, 4, 150)
    assert compute_curve(basis).pool == 5
    assert compute_curve(basis, "default").points[0].cost is None


def test_what_the_curve_says_of_a_confidence_is_what_the_router_does():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 400)
    labels = make_threshold_labels(
        [(float(c), bool(rng.random() > c), str(n)) for n, c in enumerate(confidence)],
        out_of_fold=0, max_error=0.1, delta=0.1, checked_share=0.0,
    )  # fmt: skip
    basis = CurveBasis("m", labels, list_bounds(labels), {"p": confidence}, "")
    for point in compute_curve(basis, "p").points[::4]:
        if point.bound is not None:
            demanded = demand(point.confidence, point.bound)
            threshold = apply_target(labels, labels.choose_threshold(), demanded)
            assert threshold.value == pytest.approx(point.confidence, abs=1e-4)
            assert threshold.max_error == point.bound
            check_target(labels, min_confidence=point.confidence, max_error=point.bound)


def test_a_lead_may_be_stricter_than_the_bound_and_laxer_only_by_allowing_more_errors():
    check_target(LABELS, min_confidence=0.95, max_error=0.1)
    with pytest.raises(BadInput, match=r"expected 0\.900 or more.*allow errors up to 19%"):
        check_target(LABELS, min_confidence=0.6, max_error=0.1)
    check_target(LABELS, min_confidence=0.6, max_error=0.19)
    check_target(LABELS, min_confidence=0.6, max_error=0.001)  # which lets nothing be accepted so far
    tested = LABELS.choose_threshold()
    assert apply_target(LABELS, tested, None) is tested
    stricter = apply_target(LABELS, tested, demand(0.95))
    assert (stricter.value, stricter.bound) == (0.95, tested.bound)
    assert stricter.reason.startswith("confidence of 0.950 or more, as a lead demands; from 0.900 on: error below")
    assert apply_target(LABELS, tested, demand(0.3)) == tested  # a demand never accepts what the bound does not
    assert apply_target(LABELS, tested, demand(0.0, 0.19)).value == 0.6
    assert apply_target(LABELS, tested, demand(0.5, 0.001)).accepts_nothing


def test_the_load_that_the_curve_promises_is_what_the_router_gives(store, tmp_path):
    """Some look unlike the training prompts, some have the vote of a judge alone, and some are judged by people."""
    made = make_history(store, tmp_path, days=2, a_day=20, models=1)
    with store.write() as conn:
        judged = conn.execute(sa.select(judgments.c.comparison_id).distinct()).scalars().all()
        rater = conn.execute(sa.select(judgments.c.rater_id).limit(1)).scalar_one()
        unlike, of_judges = [c.id for c in made][::3], [c for c in made if c.id not in judged][::2]
        for one in of_judges:
            order = tuple(c.id for c in one.completions)
            row = judgment_to_row(
                Answer(Verdict.RANKED, (order[:1], order[1:])), comparison_id=one.id, rater_id=rater, order_shown=order,
                source="", idempotency_key=one.id, route="auto", simulated=False, role=Role.JUDGE,
                guideline_version="1", created_at=utc_now(),
            )  # fmt: skip
            conn.execute(judgments.insert().values(row))
        conn.execute(scores.update().where(scores.c.comparison_id.in_(unlike)).values(uncertainty=2.0))
    kept = load_threshold_labels(tmp_path / "m_0_0")
    assert kept is not None
    save_threshold_labels(tmp_path / "m_0_0", replace(kept, bar=1.0, checked_share=0.0))
    basis = read_curve_basis(store)
    assert basis is not None
    pool = {c.id: c for c in find_comparisons(store, judged_by_people=False, split=Split.TRAIN)}
    assert len(pool) == 40 - len(judged)
    assert of_judges
    mine = [s for s in read_scores(store, basis.model_id) if s.comparison_id in pool]
    acceptance = Acceptance(basis.tested.choose_threshold(), bar=Bar(1.0))
    config = RoutingConfig(control_share=0, audit_share=0)
    decisions = decide_routes(mine, pool, acceptance, config, 0, store.draw)
    curve = compute_curve(basis)
    now = min(curve.points, key=lambda point: abs(point.confidence - curve.now))
    assert (curve.pool, curve.unlike) == (len(pool), len(pool.keys() & set(unlike)))
    assert 0 < now.accepted < 1 - curve.unlike / curve.pool
    assert round(now.load * curve.pool) == sum(d.route is Route.HUMAN for d in decisions)


def test_the_router_follows_the_demand_of_each_project():
    pool = {}
    for n in range(40):
        prompt = Prompt.create((Message("user", f"{n}?"),), split=Split.TRAIN)
        pair = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in ("one", "two")]
        made = Comparison.create(prompt, pair, project="strict" if n % 2 else "default")
        pool[made.id] = made
    scores = [Score(c.id, "m", c.completions[0].id, c.completions[1].id, 1.0, 0.1, 0.92) for c in pool.values()]
    tested = LABELS.choose_threshold()
    demanded = {
        "strict": apply_target(LABELS, tested, demand(0.95)),
        "default": apply_target(LABELS, tested, demand(0.6, 0.19)),
    }
    config = RoutingConfig(control_share=0, audit_share=0.5)
    decisions = decide_routes(
        scores, pool, Acceptance(tested, demanded), config, 0, lambda purpose, id, n: int(id[-6:], 16) * n // 16**6
    )
    by_project = {p: [d for d in decisions if pool[d.comparison_id].project == p] for p in demanded}
    assert {d.route for d in by_project["strict"]} == {Route.HUMAN}
    assert {d.route for d in by_project["default"]} == {Route.AUTO, Route.AUDIT}
    assert {d.bound.max_error for d in by_project["default"] if d.bound} == {0.19}


def test_demands_are_kept_in_the_audit_log_and_the_newest_holds(store):
    lead = audit.Actor("lea")
    assert read_targets(store) == {}
    set_target(store, "default", max_error=0.2, min_confidence=0.9, by=lead)
    set_target(store, "default", min_confidence=0.8, by=lead)
    held = read_targets(store)["default"]
    assert (held.max_error, held.min_confidence, held.by) == (None, 0.8, "lea")
    clear_target(store, "default", by=lead)
    assert read_targets(store) == {}
    assert [e.action for e in audit.list_entries(store) if e.action.startswith("automation.")] == [
        "automation.target_set", "automation.target_set", "automation.target_cleared",
    ]  # fmt: skip
    with pytest.raises(NotFound):
        set_target(store, "nowhere", min_confidence=0.9)
    for max_error, min_confidence in ((0.0, 0.5), (1.0, 0.5), (0.1, 1.1)):
        with pytest.raises(BadInput):
            set_target(store, "default", max_error=max_error, min_confidence=min_confidence)


def test_labels_are_the_same_after_they_were_kept(tmp_path):
    save_threshold_labels(tmp_path, LABELS)
    assert json.loads((tmp_path / LABELS_FILE).read_text())["bar"] is None  # there is no infinity in JSON
    kept = load_threshold_labels(tmp_path)
    assert kept is not None
    assert kept.choose_threshold() == LABELS.choose_threshold()
    assert (kept.checked_share, kept.at) == (LABELS.checked_share, LABELS.at)
    assert kept.bar == math.inf
    save_threshold_labels(tmp_path, replace(LABELS, bar=0.7))
    assert (narrow := load_threshold_labels(tmp_path)) is not None
    assert narrow.bar == 0.7
    assert load_threshold_labels(tmp_path / "none") is None
