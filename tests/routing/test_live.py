"""Learning while raters work: the head, the order of the queue, and what must stay as it is."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from forked_processes import CONTEXT
from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.registry import register_reward_model
from rlhf_hitl.reward.training.head_update import update_with_new_votes
from rlhf_hitl.routing import live_head
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.live import LiveLearner
from rlhf_hitl.routing.live_follower import Follower
from rlhf_hitl.routing.live_head import LiveHead, OpenInputs
from rlhf_hitl.routing.router import route_pool
from rlhf_hitl.routing.scoring import score_pool
from rlhf_hitl.store import Store, live_learning, people, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.live_learning import find_routing_model, order_places, read_live_state
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.store.tables import comparisons, places
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Split, Verdict

WORDS = [
    "sea",
    "sun",
    "poem",
    "paris",
    "thanks",
    "friend",
    "lazy",
    "quick",
    "brown",
    "fox",
    "capital",
    "today",
    "nothing",
    "maybe",
    "good",
    "bad",
    "nice",
    "fine",
]


def add_open(store, n: int, seed: int = 1) -> list[Comparison]:
    rng, made = np.random.default_rng(seed), []
    for i in range(n):
        split = Split.HELDOUT if i % 10 == 0 else Split.TRAIN
        prompt = Prompt.create((Message("user", f"open {seed} {i} {rng.choice(WORDS)}"),), split=split)
        texts = {" ".join(rng.choice(WORDS, 7)) for _ in range(2)}
        sides = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in sorted(texts)]
        made.append(Comparison.create(prompt, sides))
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    return made


@pytest.fixture
def routed(judged_store, trained_model, tmp_path):
    """A store with 90 comparisons that its model has scored and sent to raters, a fifth of them as controls."""
    add_open(judged_store, 90)
    score_pool(judged_store, trained_model)
    # No calibration labels: nothing is accepted.
    route_pool(judged_store, trained_model, RoutingConfig(control_share=0.2, acquisition="mutual-information"))
    return judged_store


def read_queue(store) -> list[tuple[str, str]]:
    """The comparison and the route of each open place, in line."""
    query = (
        sa.select(places.c.comparison_id, comparisons.c.route)
        .join(comparisons, comparisons.c.id == places.c.comparison_id)
        .where(places.c.judgment_id.is_(None))
        .order_by(places.c.position)
    )
    with store.read() as conn:
        return [(row[0], row[1]) for row in conn.execute(query)]


def rate(store, times: int, rater="bob", best=lambda text: -text.count("thanks")) -> list[str]:
    """Let a rater judge what comes; by default they dislike what those of the training liked."""
    known = {r.name: r.id for r in people.list_raters(store)}
    who = known.get(rater) or people.add_rater(store, rater, Role.RATER).id
    judged = []
    for _ in range(times):
        lease = queue.lease(store, who, seconds=600)
        ranked = sorted(lease.comparison.completions, key=lambda c: (-best(c.text), c.id))
        answer = Answer(Verdict.RANKED, tuple((c.id,) for c in ranked), 3)
        judged.append(queue.submit(store, lease.id, who, answer).judgment_id)
    return judged


def follow(store, tmp_path) -> Follower:
    """A follower that has loaded everything there is."""
    model = find_routing_model(store)
    assert model is not None
    follower = Follower(store, model, tmp_path)
    while follower.load_more():
        pass
    return follower


def learn_until_idle(learner: LiveLearner) -> None:
    learner._due.clear()
    while learner.step() or (learner._follower and learner._follower.has_news):
        learner._due.pop("order", None)


# --- the head


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_margins_and_variances_that_follow_a_head_are_those_of_its_posterior(seed, labels):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(5, 5))
    head = Head(rng.normal(size=5), root @ root.T, (1.0, 1.0), thresholds=(0.3, 0.8, 1.5), vote_weight=0.7)
    x, novelty = rng.normal(size=(30, 5)), rng.random(30)
    _, stds = head.margins(x)
    live = LiveHead(head)
    names = [str(i) for i in range(30)]
    live.add(OpenInputs(names, x, np.sqrt(stds**2 + novelty), np.zeros(30), names, ["p"] * 30))
    expected = head
    taught = [(rng.normal(size=5), rng.multinomial(2, np.full(9, 1 / 9))) for _ in range(labels)]
    assert live.learn(taught)
    for difference, votes in taught:
        expected = expected.updated(difference, votes)
    margins, uncertainties = expected.margins(x)
    found = live.compute_margins(names)
    np.testing.assert_allclose(found[0], margins, rtol=1e-4, atol=1e-4 * np.abs(margins).max())
    np.testing.assert_allclose(found[1], np.sqrt(uncertainties**2 + novelty), rtol=1e-3, atol=1e-3)
    live.start_again()
    np.testing.assert_allclose(live.compute_margins(names)[0], head.margins(x)[0], rtol=1e-4, atol=1e-4)


def test_each_lane_has_its_own_head_of_the_queue(monkeypatch):
    monkeypatch.setattr(live_head, "HEAD", 20)
    monkeypatch.setattr(live_head, "LEAST_OF_LANE", 5)
    live, n = LiveHead(Head(np.array([1.0]), np.eye(1), (1.0, 1.0))), 200
    names = [str(i) for i in range(n)]
    x = np.arange(1, n + 1)[:, None] / 20
    live.add(OpenInputs(names, x, np.abs(x[:, 0]), np.arange(n) % 2, names, ["p"] * n))
    # The smallest margins come first, then what stands at the head now; what is not followed is left out.
    assert live.order(["150", "170", "elsewhere"], "least-margin") == [*names[:20], "150", "170"]
    live.forget(["0", "2"])
    assert live.order([], "least-margin") == ["1", *names[3:21], "22"]


# --- the queue


def test_a_judgment_moves_the_queue_and_leaves_random_places_routings_and_scores(routed, tmp_path):
    before, scores = read_queue(routed), read_scores(routed, find_routing_model(routed).reward_model_id)
    learner = LiveLearner(routed, tmp_path)
    learn_until_idle(learner)
    assert read_queue(routed) == before, "nothing is known that the router did not know"
    rate(routed, 6)
    begun = {id for id, _ in before} - {id for id, _ in read_queue(routed)}
    learn_until_idle(learner)
    after = read_queue(routed)
    assert [id for id, _ in after] != [id for id, _ in before if id not in begun]
    assert sorted(after) == sorted(one for one in before if one[0] not in begun)
    heldout = {c.id for c in find_comparisons(routed, split=Split.HELDOUT)}
    drawn = {id for id, route in before if route == "control"} | heldout
    stood = [one for one in before if one[0] not in begun]
    assert [(n, one) for n, one in enumerate(stood) if one[0] in drawn] == [
        (n, one) for n, one in enumerate(after) if one[0] in drawn
    ]
    assert read_scores(routed, find_routing_model(routed).reward_model_id) == scores
    state = read_live_state(routed)
    assert state.runs
    assert state.facts.labels == len(begun - heldout)
    assert state.facts.moved > 0
    assert "learnt since the training" in str(state)
    # A head that is trained from the registered one with the same votes orders alike.
    updated = update_with_new_votes(routed, follow(routed, tmp_path).model, tmp_path)
    np.testing.assert_allclose(learner._follower.head.head.weights, updated.head.weights, rtol=1e-6, atol=1e-8)


def test_whoever_takes_over_comes_to_the_same_order(routed, tmp_path):
    learner = LiveLearner(routed, tmp_path)
    for _ in range(3):
        rate(routed, 2)
        learn_until_idle(learner)
    before = read_queue(routed)
    other = LiveLearner(routed, tmp_path)
    assert not other.step()
    assert other._follower is None, "one learns at a time"
    live_learning.release(routed, learner.worker)
    learn_until_idle(other)
    assert read_queue(routed) == before
    rate(routed, 1)
    stood = read_queue(routed)
    learner._due.pop("order", None)
    learner.step()
    assert learner._follower is None, "the first has seen that somebody else learns"
    assert read_queue(routed) == stood


def test_labels_of_measuring_prompts_and_of_surplus_teach_nothing(routed, tmp_path):
    follower = follow(routed, tmp_path)
    heldout = [c.id for c in find_comparisons(routed, split=Split.HELDOUT)]
    who = people.add_rater(routed, "carol", Role.RATER).id
    with routed.write() as conn:
        conn.execute(places.update().where(places.c.comparison_id.not_in(heldout)).values(reserved_for=who))
    rate(routed, 3)
    follower.learn_new()
    assert (follower.labels.learnt, follower.find_order()) == (set(), [])
    assert follower.head.head is follower.head.registered


def test_a_correction_of_what_was_learnt_live_is_unlearnt_and_one_of_the_training_is_left_to_it(routed, tmp_path):
    follower = follow(routed, tmp_path)
    [judgment] = rate(routed, 1)
    follower.learn_new()
    learnt = follower.head.head.weights
    bob = next(r.id for r in people.list_raters(routed) if r.name == "bob")
    queue.correct(routed, judgment, bob, Answer(Verdict.SKIPPED), idempotency_key="k")
    follower.learn_new()
    assert not np.array_equal(follower.head.head.weights, learnt)
    np.testing.assert_array_equal(follower.head.head.weights, follower.head.registered.weights)
    assert follower.labels.learnt == set()
    from rlhf_hitl.store.judgments import read_judgments

    ann = next(r.id for r in people.list_raters(routed) if r.name == "ann")
    trained = next(j for j in read_judgments(routed, rater_id=ann, split=Split.TRAIN))
    queue.correct(routed, trained.id, ann, Answer(Verdict.SKIPPED), idempotency_key="k")
    follower.learn_new()
    np.testing.assert_array_equal(follower.head.head.weights, follower.head.registered.weights)
    facts = follower.describe()
    assert facts.corrected == 1


def test_what_is_not_read_yet_is_counted_and_not_followed(routed, trained_model, tmp_path):
    rate(routed, 2)
    (tmp_path / "features").rename(tmp_path / "elsewhere")
    follower = follow(routed, tmp_path)
    facts = follower.describe()
    assert (facts.open, facts.labels) == (0, 0)
    assert facts.unread > 60
    assert not list((tmp_path / "features").rglob("*.safetensors")), "nothing was computed"


@pytest.mark.parametrize("kind", ["nan", "constant", "random"])
def test_a_head_that_cannot_order_leaves_the_queue_and_says_so(routed, trained_model, tmp_path, kind):
    follower = follow(routed, tmp_path)
    width = len(follower.head.head.weights)
    if kind == "nan":
        assert not follower.head.learn([(np.full(width, np.nan), np.eye(9)[0])])
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(RewardModel, "differences", lambda *_: np.full((1, width), np.nan))
            rate(routed, 1)
            follower.learn_new()
        assert np.isfinite(follower.head.head.weights).all()
        said = "no finite numbers"
    elif kind == "constant":
        zero = Head(np.zeros(width), np.eye(width), (1.0, 1.0))
        model = RewardModel(
            trained_model.cache, trained_model.standardiser, zero, backend="head", card=trained_model.card
        )
        model.save(tmp_path / "reward" / model.id)
        learnt = next((tmp_path / "reward").glob("*/learnt_votes.json"))
        (tmp_path / "reward" / model.id / "learnt_votes.json").write_text(learnt.read_text())
        register_reward_model(routed, model, tmp_path / "reward" / model.id)
        score_pool(routed, model)
        route_pool(routed, model, RoutingConfig(control_share=0.2, acquisition="mutual-information"))
        follower = follow(routed, tmp_path)
        said = "says the same of all"
    else:
        route_pool(routed, trained_model, RoutingConfig(control_share=0.2, acquisition="random"))
        follower = follow(routed, tmp_path)
        said = "asked at random"
    rate(routed, 2)
    follower.learn_new()
    assert follower.find_order() == []
    assert said in follower.describe().problem


# --- both databases, and being killed


def test_places_exchange_positions_and_a_place_that_is_held_stays(store, add_comparisons, add_raters):
    made = [c.id for c in add_comparisons(store, 6, overlap=2)]
    assert live_learning.claim(store, "w")
    stood = list(dict.fromkeys(id for id, _ in read_queue(store)))
    wanted = stood[::-1]
    [rater] = add_raters(store, 1)
    held = queue.lease(store, rater, seconds=600)
    assert held.comparison.id == stood[0]
    known = {"reward_model_id": "m", "revision": 3, "facts": {}}
    ordered = order_places(store, "w", wanted, **known)
    assert (ordered.moved, ordered.of) == (6, 6)
    assert list(dict.fromkeys(id for id, _ in read_queue(store))) == wanted
    queue.submit(store, held.id, rater, Answer(Verdict.SKIPPED))
    assert queue.lease(store, rater, seconds=600).comparison.id == wanted[0]
    assert order_places(store, "somebody else", stood, **known) is None
    assert set(made) == set(stood)
    assert list(dict.fromkeys(id for id, _ in read_queue(store))) == wanted, "nothing was written"
    assert read_live_state(store).revision == 3


def test_who_stopped_saying_so_is_replaced_whichever_way_the_clock_jumped(store, monkeypatch):
    assert live_learning.claim(store, "a")
    assert not live_learning.claim(store, "b")
    monkeypatch.setattr(live_learning, "STALE_SECONDS", -1)
    assert live_learning.claim(store, "b")
    assert not read_live_state(store).runs
    monkeypatch.undo()
    assert not live_learning.claim(store, "a")
    assert read_live_state(store).runs


def _learn_and_be_killed(url: str, workspace: str, moment: str) -> None:
    """Learn in a process that kills itself before or after its order is committed."""
    from rlhf_hitl.routing import live

    def order_and_die(store, worker, wanted, **known):
        if wanted and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        ordered = order_places(store, worker, wanted, **known)
        if wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        return ordered

    learner = LiveLearner(Store.open(url), Path(workspace))
    if moment == "within":
        real = live_learning._exchange_positions

        def exchange_and_die(*args):
            real(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        live_learning._exchange_positions = exchange_and_die
    else:
        live.order_places = order_and_die
    learner.run()


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_learner_that_is_killed_leaves_one_order_or_the_other(routed, tmp_path, moment, monkeypatch):
    rate(routed, 4)
    stood = read_queue(routed)
    process = CONTEXT.Process(target=_learn_and_be_killed, args=(routed.url, str(tmp_path), moment))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    left = read_queue(routed)
    assert (left != stood) == (moment == "after")
    monkeypatch.setattr(live_learning, "STALE_SECONDS", -1)
    learn_until_idle(LiveLearner(routed, tmp_path))
    if moment == "after":
        assert read_queue(routed) == left
    else:
        assert read_queue(routed) != stood


def test_a_learner_beside_raters_follows_each_judgment_within_a_second(routed, tmp_path):
    known, came = threading.Condition(), [0]

    def note(revision: int) -> None:
        with known:
            came[0] = revision
            known.notify_all()

    from rlhf_hitl.store.judgments import read_store_revision

    learner = LiveLearner(routed, tmp_path, on_order=note)
    learner.start()
    try:
        for _ in range(3):
            rate(routed, 1, best=len)
            wanted = read_store_revision(routed)
            with known:
                assert known.wait_for(lambda revision=wanted: came[0] >= revision, 30)
    finally:
        learner.stop()
    assert not read_live_state(routed).runs
