"""Cascades of answerers: the cheapest who is sure enough answers, and the bound holds for all answers together."""

import numpy as np
import pytest

from rlhf_hitl.errors import BadInput
from rlhf_hitl.routing.cascade import Answerer, choose_cascade
from rlhf_hitl.routing.threshold import choose_threshold


def test_the_cheapest_who_is_sure_enough_answers():
    n = 60
    model = Answerer("model", np.where(np.arange(n) < 30, 0.95, 0.6), np.zeros(n))
    judge = Answerer("judge", np.where(np.arange(n) < 45, 0.9, np.nan), np.zeros(n))
    cascade = choose_cascade([model, judge], np.arange(n), max_error=0.1, delta=0.05)
    # All 60 are right, so the most lenient is shown: the model reaches 0.6 everywhere and answers all.
    assert (cascade.value, cascade.answered, cascade.errors) == (0.6, (60, 0), (0, 0))
    wrong = (np.arange(n) >= 30).astype(float)
    model = Answerer("model", model.confidence, wrong)
    cascade = choose_cascade([model, judge], np.arange(n), max_error=0.1, delta=0.05)
    assert (cascade.value, cascade.answered, cascade.errors) == (0.9, (30, 15), (0, 0))
    assert cascade.answer([np.array([0.95, 0.6, 0.6]), np.array([0.99, 0.9, np.nan])]).tolist() == [0, 1, -1]


def test_one_answerer_is_a_threshold():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200)
    wrong = (rng.random(200) > confidence).astype(float)
    threshold = choose_threshold(confidence, wrong, np.arange(200), max_error=0.2, delta=0.1)
    cascade = choose_cascade([Answerer("m", confidence, wrong)], np.arange(200), max_error=0.2, delta=0.1)
    assert (cascade.value, cascade.bound) == (threshold.value, threshold.bound)
    assert (cascade.answered, cascade.errors) == ((threshold.accepted,), (threshold.errors,))


def test_who_is_always_wrong_answers_nothing():
    nobody = choose_cascade([Answerer("m", np.full(90, 0.99), np.ones(90))], np.arange(90), max_error=0.1, delta=0.1)
    assert nobody.value > 1
    assert nobody.answered == (0,)
    assert (nobody.answer([np.array([1.0, np.nan])]) == -1).all()
    silent = choose_cascade([Answerer("m", np.full(9, np.nan), np.ones(9))], np.arange(9), max_error=0.1, delta=0.1)
    assert silent.value > 1


def test_answerers_of_other_labels_are_refused():
    with pytest.raises(BadInput, match="answerers with"):
        choose_cascade([Answerer("m", np.ones(3), np.ones(2))], np.arange(3), max_error=0.1, delta=0.1)
    with pytest.raises(BadInput, match="answerers with"):
        choose_cascade([], np.arange(3), max_error=0.1, delta=0.1)


@pytest.mark.parametrize("over", [1.0, 2.0])
def test_the_whole_breaks_its_bound_as_often_as_it_says(over):
    """400 worlds of two answerers, the dearer better; with `over` 2 both are far surer than they should be."""
    rng = np.random.default_rng(3)

    def draw(n):
        logits = np.abs(rng.normal(size=(2, n))) * np.array([[1.0], [2.0]])
        wrong = rng.random((2, n)) > 1 / (1 + np.exp(-logits))
        return 1 / (1 + np.exp(-over * logits)), wrong.astype(float)

    world, world_wrong = draw(100_000)
    broken = accepting = 0
    for _ in range(400):
        confidence, wrong = draw(250)
        answerers = [Answerer(str(i), confidence[i], wrong[i]) for i in (0, 1)]
        cascade = choose_cascade(answerers, np.arange(250), max_error=0.2, delta=0.1)
        who = cascade.answer(list(world))
        answered = np.flatnonzero(who >= 0)
        accepting += len(answered) > 0
        broken += bool(len(answered)) and world_wrong[who[answered], answered].mean() > 0.2
    assert accepting > 100
    assert broken / 400 <= 0.1
