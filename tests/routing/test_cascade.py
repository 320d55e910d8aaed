"""A cascade: the reward model alone where it is sure, with judges where they make it sure, and people last."""

from dataclasses import replace

import numpy as np
import pytest

from handmade_votes import vote
from rlhf_hitl.errors import NotFound
from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.routing import acceptance
from rlhf_hitl.routing.cascade import Cascade, choose_cascade
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.router import route_pool
from rlhf_hitl.routing.rules import RoutingRules
from rlhf_hitl.routing.scoring import score_pool
from rlhf_hitl.routing.threshold import choose_threshold
from rlhf_hitl.routing.threshold_labels import make_threshold_labels
from rlhf_hitl.store import people
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.routings import read_routings
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Role, Route, Score, Split


def make_cascade(odds: float, *more: float) -> Cascade:
    words = tuple({"x": ("a", "b", o)} for o in (odds, *more))
    worth = tuple(np.array([1.0, *np.full(k, 0.5)]) for k in range(1, 2 + len(more)))
    tested = make_threshold_labels([], out_of_fold=0, max_error=0.1, delta=0.1, checked_share=0)
    return Cascade(tuple("jk"[: len(words)]), words, worth, 50, tested, tested.choose_threshold(), 20)


@pytest.mark.parametrize(
    ("judges", "chosen", "confidence"),
    [
        ((2.0,), "a", 1 / (1 + np.exp(-(np.log(3) + 1)))),  # it agrees: odds of 3 and half of its two logits
        ((2.0,), "b", 0.75),  # it contradicts: the model is as sure as before, and no surer
        ((2.0, 2.0), "a", 1 / (1 + np.exp(-(np.log(3) + 2)))),
        ((2.0, -2.0), "a", 1 / (1 + np.exp(-(np.log(3) + 1)))),  # the first made it sure: the second is not asked
    ],
)
def test_judges_make_a_choice_surer_and_never_another(judges, chosen, confidence):
    other = "b" if chosen == "a" else "a"
    score = Score("x", "m", chosen, other, 1.0, 0.5, 0.75, {})
    assert make_cascade(*judges).compute_confidence(score) == pytest.approx(confidence)
    assert make_cascade(*judges).compute_confidence(Score("y", "m", "a", "b", 1.0, 0.5, 0.75, {})) is None


def judge_all(store, name: str, splits, *, right: bool = True, probabilities=(0.9, 0.05, 0.05)) -> str:
    """Let a judge vote as people do on comparisons of some splits, or the other way round."""
    judge = people.add_rater(store, name, Role.JUDGE).id
    said = {(x.comparison_id, x.first): x for s in splits for x in read_labels(store, split=s, judges=False)}
    for c in [c for s in splits for c in find_comparisons(store, split=s)]:
        ids = [x.id for x in c.completions]
        label = said.get((c.id, ids[0]))
        first = (label is None or label.preferred == ids[0]) == right
        p = probabilities if first else probabilities[::-1]
        vote(store, c, judge, ">" if first else "<", role=Role.JUDGE.value, probabilities=list(p))
    return judge


def test_the_router_accepts_what_a_judge_makes_sure(judged_store, backbone, tmp_path, monkeypatch):
    store, model = judged_store, train_head(judged_store, backbone, tmp_path)
    prompts = [Prompt.create((Message("user", f"new {i}"),), split=Split.TRAIN) for i in range(20)]
    answers = [("thanks for asking", "no"), ("well", "hm")]
    new = [
        Comparison.create(p, [Completion.create(p.id, (Message("assistant", t),), "p") for t in answers[i % 2]])
        for i, p in enumerate(prompts)
    ]
    # Without a judge's votes where people decided, there is no telling what a judge adds.
    with pytest.raises(NotFound, match="judge 'jim'"):
        choose_cascade(store, model, RoutingConfig(judges=("jim",)))
    people.add_rater(store, "mute", Role.JUDGE)
    said = choose_cascade(store, model, RoutingConfig(judges=("mute",)))
    assert isinstance(said, str)
    assert "0 training labels" in said
    judge_all(store, "trained", [Split.TRAIN])
    said = choose_cascade(store, model, RoutingConfig(judges=("trained",)))
    assert isinstance(said, str)
    assert "--split calibration" in said
    judge = judge_all(store, "jim", [Split.TRAIN, Split.CALIBRATION])
    judge_all(store, "liar", [Split.TRAIN, Split.CALIBRATION], right=False)
    rules = RoutingRules(accept_unlike_training=True)
    config = RoutingConfig(0.12, 0.2, control_share=0, audit_share=0, judges=("jim",), rules=rules)
    cascade = choose_cascade(store, model, config)
    assert isinstance(cascade, Cascade)
    assert cascade.worth[0][1] > 0.5, "a judge who is right is worth something"
    liar = choose_cascade(store, model, RoutingConfig(0.3, 0.2, judges=("liar",)))
    assert isinstance(liar, Cascade)
    assert liar.worth[0][1] == 0, "one who is wrong is heard no more"
    # Now the pool: the judge has voted on half of what it is unsure of, and on one of these against the model.
    with store.write() as conn:
        insert_comparisons(store, conn, new)
    score_pool(store, model)
    alone = acceptance.read_threshold_labels

    def read_as_wrong(*given):
        labels = alone(*given)
        return replace(labels, wrong=np.ones_like(labels.wrong))

    monkeypatch.setattr(acceptance, "read_threshold_labels", read_as_wrong)
    scores = {s.comparison_id: s for s in read_scores(store, model.id)}
    for i, c in enumerate(new[:10]):
        agrees = (scores[c.id].chosen == c.completions[0].id) == (i > 0)
        p = [0.95, 0.03, 0.02] if agrees else [0.02, 0.03, 0.95]
        vote(store, c, judge, ">" if agrees else "<", role=Role.JUDGE.value, probabilities=p)
    report = route_pool(store, model, config)
    heard = report.acceptance.cascade
    assert heard is not None
    assert report.threshold.accepts_nothing
    assert not heard.threshold.accepts_nothing
    decided = {r.comparison_id: r for r in read_routings(store)}
    # One threshold for all, tested with both: the judge confirms some that the model alone is not sure enough of.
    value = heard.threshold.value
    confirmed = {c.id for c in new if decided[c.id].reason.startswith("accepted: with jim: ")}
    assert confirmed
    assert confirmed <= {c.id for c in new[1:10] if scores[c.id].probability < value}
    assert report.confirmed == sum(d.reason.startswith("accepted: with jim: ") for d in decided.values())
    for c in (new[0], *new[10:]):  # it contradicts the first, and was not asked about the last
        sure = scores[c.id].probability >= value
        assert decided[c.id].route is (Route.AUTO if sure else Route.HUMAN)


@pytest.mark.parametrize("over", [1.0, 2.0])
def test_the_whole_breaks_its_bound_as_often_as_it_says(over):
    """300 worlds of a model and a judge; with `over` 2 both are far surer than they should be."""
    rng = np.random.default_rng(3)

    def draw(n):
        truth = rng.normal(size=n) * 1.5
        model, judge = truth + rng.normal(size=n), np.sign(truth + rng.normal(size=n))
        right = rng.random(n) < 1 / (1 + np.exp(-truth))  # whether raters prefer the first
        own = 1 / (1 + np.exp(-over * np.abs(model)))
        together = 1 / (1 + np.exp(-over * (np.abs(model) + np.sign(model) * judge)))
        return np.maximum(own, together), ((model > 0) != right).astype(float)

    world, world_wrong = draw(100_000)
    broken = accepting = 0
    for _ in range(300):
        confidence, wrong = draw(250)
        found = choose_threshold(confidence, wrong, np.arange(250), max_error=0.2, delta=0.1)
        accepted = world >= found.value
        accepting += bool(accepted.any())
        broken += bool(accepted.any()) and world_wrong[accepted].mean() > 0.2
    assert accepting > 100
    assert broken / 300 <= 0.1
