"""In which order raters get what is routed to them, and what routed and random labels are measured to gain."""

import json
from pathlib import Path

import numpy as np
import pytest

from handmade_votes import vote
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.kpis import compute_kpi_report
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.routing.acquisition import compute_mutual_information
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.gain_record import GAINS_FILE, load_gains
from rlhf_hitl.routing.ranking import Ranker, find_split_pairs, measure_routing
from rlhf_hitl.routing.router import route_pool
from rlhf_hitl.routing.scoring import score_pool
from rlhf_hitl.store import people
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.reward_models import get_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, read_routings
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Role, Route, Split


def add_pool(store, n: int) -> list[Comparison]:
    made = []
    for i in range(n):
        prompt = Prompt.create((Message("user", f"please say {i}"),), split=Split.TRAIN)
        texts = f"thanks {'a ' * (i % 7)}", f"no {'b ' * (i % 5)} {i}"
        pair = [Completion.create(prompt.id, (Message("assistant", t),), f"p{j}") for j, t in enumerate(texts)]
        made.append(Comparison.create(prompt, pair))
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    return made


def test_raters_get_first_what_the_rule_names_and_last_what_they_are_split_on(judged_store, backbone, tmp_path):
    store, model = judged_store, train_head(judged_store, backbone, tmp_path)
    new = {c.id: c for c in add_pool(store, 30)}
    score_pool(store, model)
    config = RoutingConfig(0.001, 0.001, control_share=0, audit_share=0, acquisition="mutual-information", batch=10)
    report = route_pool(store, model, config)
    assert (report.gains.rule, report.gains.reason) == ("mutual-information", "it was asked for")
    decided = {r.comparison_id: r for r in read_routings(store) if r.comparison_id in new}
    assert {r.route for r in decided.values()} == {Route.HUMAN}
    assert all("; its place in line is by mutual-information" in r.reason for r in decided.values())
    scores = [s for s in read_scores(store, model.id) if s.comparison_id in new]
    information = compute_mutual_information(*np.array([(s.margin, s.uncertainty) for s in scores]).T)
    by_place = sorted(scores, key=lambda s: decided[s.comparison_id].place_in_line)
    assert by_place[0].comparison_id == scores[int(np.argmax(information))].comparison_id
    # All are of different prompts and of one pair of policies, so the order is that of the rule alone.
    in_order = [scores[i].comparison_id for i in np.argsort(-information, kind="stable")]
    assert [s.comparison_id for s in by_place] == in_order
    first = by_place[0]
    split = frozenset([frozenset((first.chosen, first.rejected))])
    ranks = Ranker("mutual-information", 10, 0, model, split).rank(scores, new)
    assert ranks[first.comparison_id] == len(scores) - 1
    assert find_split_pairs(store) == frozenset()
    with pytest.raises(BadInput, match="--acquisition best"):
        RoutingConfig(acquisition="best")


def test_what_labels_gain_is_kept_beside_the_model_and_stands_in_the_report(judged_store, backbone, tmp_path):
    store = judged_store
    judged = list(find_comparisons(store, split=Split.TRAIN, judged=True))
    model = train_head(store, backbone, tmp_path)
    before = measure_routing(store, model, "auto")
    assert before.gap is None
    assert before.verdict == "whether routing pays is not known yet"
    routes = [Routing(c.id, (r := (Route.CONTROL, Route.HUMAN)[i % 2]), r, "") for i, c in enumerate(judged)]
    apply_routings(store, routes)
    gains = measure_routing(store, model, "auto")
    assert gains.routed is not None
    assert gains.random is not None
    assert gains.gap is not None
    assert gains.routed.labels + gains.random.labels == len(judged)
    assert gains.gap.value == pytest.approx(gains.routed.value - gains.random.value)
    assert gains.gap.low < gains.gap.value < gains.gap.high
    new = add_pool(store, 3)
    score_pool(store, model)
    route_pool(store, model, RoutingConfig())
    folder = Path(get_reward_model(store, model.id).path)
    kept = load_gains(folder)
    assert kept is not None
    assert kept.as_dict() == json.loads((folder / GAINS_FILE).read_text())
    report = compute_kpi_report(store, Settings(workspace=tmp_path))
    assert report.gains == kept
    assert "routed" in report.as_dict()["gains"]
    # A rater's vote on one of the new ones changes nothing until the next routing.
    vote(store, new[0], people.add_rater(store, "eve", Role.RATER).id, ">")
    assert compute_kpi_report(store, Settings(workspace=tmp_path)).gains == kept
