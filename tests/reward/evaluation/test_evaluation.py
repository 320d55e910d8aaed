"""Evaluations: stored on disk, with figures worked by hand, checked by gates, and shown."""

import html
import json
import os
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from handmade_votes import vote
from plain_words import assert_plain
from rlhf_hitl.cli import app, register_commands, train_reward
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.evaluation import plots, rewardbench
from rlhf_hitl.reward.evaluation.compare import compare_evaluated_pairs, estimate_accuracy_difference
from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model
from rlhf_hitl.reward.evaluation.gates import SliceThreshold, check_gates
from rlhf_hitl.reward.evaluation.html_report import render_evaluation_html
from rlhf_hitl.reward.evaluation.rankings import ScoredRanking
from rlhf_hitl.reward.evaluation.slices import compute_slice_accuracies
from rlhf_hitl.reward.evaluation.storage import (
    list_evaluation_folders,
    load_evaluation,
    read_evaluated_pairs,
    save_evaluation,
)
from rlhf_hitl.reward.evaluation_record import (
    Estimate,
    EvaluatedPair,
    Evaluation,
    LabelOrigin,
    OrderEffect,
    ReliabilityBin,
)
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.labelled_pairs import compute_first_shares, hash_labelled_pairs, load_labelled_pairs
from rlhf_hitl.reward.model import RewardModel, load_reward_model
from rlhf_hitl.reward.rendering import Renderer
from rlhf_hitl.reward.seen_prompts import SEEN_PROMPTS_FILE
from rlhf_hitl.reward.standardiser import Standardiser
from rlhf_hitl.store import Store, people, queue
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.tables import raters
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Split, Verdict


def example(i: int = 0, **fields) -> EvaluatedPair:
    """A label on which the model agrees, of a prompt of its own."""
    given: dict = {
        "comparison_id": f"x_{i}", "prompt_id": f"p_{i}", "family": f"f{i}",
        "prompt": (Message("user", f"question {i}"),), "chosen": (Message("assistant", "good"),),
        "rejected": (Message("assistant", "bad"),), "chosen_id": f"c_{i}a", "rejected_id": f"c_{i}b",
        "chosen_policy": "one", "rejected_policy": "two", "votes": 1, "agreement": 1.0, "margin": 1.0,
        "uncertainty": 0.5, "probability": 0.7, "correct": 1.0, "tags": {"category": "math"},
    }  # fmt: skip
    return EvaluatedPair(**given | fields)


def an_evaluation(**fields) -> Evaluation:
    given: dict = {
        "name": "heldout", "reward_model_id": "m_1", "created_at": "2026-11-26T03:00:00+00:00",
        "data_hash": "sha256:0", "n": 40, "ties": 2, "dropped": 1, "trained_on": 0,
        "accuracy": Estimate(0.7, 0.6, 0.8, 40), "longer": Estimate(0.55, 0.4, 0.7, 40), "bag_of_words": None,
        "ece": 0.05, "ece_low": 0.01, "ece_high": 0.1,
        "reliability": (ReliabilityBin(0.6, Estimate(0.5, 0.2, 0.8, 4)),),
        "slices": {"category": {"math": Estimate(0.5, 0.3, 0.7, 12)}}, "noise_ceiling": Estimate(0.9, 0.8, 0.95, 40),
        "simulated": False,
    }  # fmt: skip
    return Evaluation(**given | fields)


@pytest.fixture
def longer_is_better(tiny_model, tmp_path):
    """A reward model whose reward is the logarithm of an answer's characters and one."""
    backbone = Backbone(str(tiny_model), layer=1, pooling="last", dtype="float32")
    standardiser = Standardiser(np.zeros(backbone.width), np.zeros((backbone.width, 1)), 0.0, 1.0)
    head = Head(np.array([0.0, 1.0]), 1e-9 * np.eye(2), (1.0, 1.0))
    return RewardModel(FeatureCache(tmp_path / "features", backbone), standardiser, head, backend="head", card={})


class Remembers(Renderer):
    """Tells of every second answer to a prompt that it is the second: it has its tokens twice."""

    second: frozenset = frozenset()

    def render(self, conversation):
        prompt, r = conversation.prompt, super().render(conversation)
        is_second = prompt in self.second
        self.second ^= {prompt}
        return replace(r, ids=r.ids + r.ids[r.start :]) if is_second else r


@pytest.fixture
def reads_its_place(longer_is_better):
    """A reward model to which it matters which of the answers is computed first."""
    model, width = longer_is_better, longer_is_better.cache.backbone.width
    model.cache.backbone.renderer = Remembers(model.cache.backbone.renderer.tokenizer)
    model.standardiser = Standardiser(np.zeros(width), np.eye(width), 0.0, 1.0)
    model.head = Head(np.ones(width + 1), 1e-9 * np.eye(width + 1), (1.0, 1.0))
    return model


@pytest.fixture
def judge(sqlite_store):
    """A function that adds a comparison of answers so long and has raters judge it: `judge([3, 5], [[1], [0]])`.

    A rating is a ranking of groups of positions among the answers; each is another rater's. Prompts are held out unless
    `split` says otherwise. Returns the comparison.
    """
    raters: list[str] = []
    made = iter(range(10**6))

    def add(lengths, *ratings, split=Split.HELDOUT, tags=None, strength=None, batch=""):
        while len(raters) < len(ratings):
            raters.append(people.add_rater(sqlite_store, f"rater {len(raters)}", Role.RATER).id)
        prompt = Prompt.create((Message("user", f"question {next(made)}"),), tags, split)
        answers = [
            Completion.create(prompt.id, (Message("assistant", "abcdefgh"[i] * n),), f"policy {i}")
            for i, n in enumerate(lengths)
        ]
        comparison = Comparison.create(prompt, answers, len(ratings), batch=batch)
        with sqlite_store.write() as conn:
            insert_comparisons(sqlite_store, conn, [comparison])
        for rater, groups in zip(raters, ratings):
            ranking = tuple(tuple(answers[i].id for i in group) for group in groups)
            lease = queue.lease(sqlite_store, rater, seconds=1800)
            assert lease.comparison.id == comparison.id
            queue.submit(sqlite_store, lease.id, rater, Answer(Verdict.RANKED, ranking, strength))
        return comparison

    return add


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
chats = st.lists(st.builds(Message, texts, texts), min_size=1, max_size=3).map(tuple)


@given(st.lists(st.tuples(chats, texts, st.floats(-1e6, 1e6), st.sampled_from([None, 0.0, 0.5, 1.0])), max_size=4))
def test_an_evaluation_and_its_examples_are_read_as_they_were_written(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("evaluation")
    examples = [
        example(i, prompt=chat, rejected=chat, tags={text: text}, margin=margin, correct=correct)
        for i, (chat, text, margin, correct) in enumerate(rows)
    ]
    evaluation = an_evaluation()
    save_evaluation(folder, evaluation, examples)
    assert load_evaluation(folder) == evaluation
    assert list(read_evaluated_pairs(folder)) == examples
    assert json.loads((folder / "evaluation.json").read_text())["above_floors"] is True


def test_a_file_that_is_not_an_evaluation_is_named_with_its_place(tmp_path):
    with pytest.raises(NotFound, match="rlhf-hitl evaluate"):
        load_evaluation(tmp_path)
    save_evaluation(tmp_path, an_evaluation(), [example()])
    summary = json.loads((tmp_path / "evaluation.json").read_text())
    del summary["accuracy"]
    (tmp_path / "evaluation.json").write_text(json.dumps(summary))
    with pytest.raises(BadInput, match=r"evaluation\.json: accuracy: expected a value.*evaluate again") as caught:
        load_evaluation(tmp_path)
    assert_plain(str(caught.value))
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(BadInput, match=r"evaluation\.json: expected names and values, as `evaluate` of this version"):
        load_evaluation(tmp_path)
    with (tmp_path / "examples.jsonl").open("a") as f:
        f.write('{"comparison_id": 1}\n')
    with pytest.raises(BadInput, match=r"examples\.jsonl:2: comparison_id: expected a text") as caught:
        list(read_evaluated_pairs(tmp_path))
    assert_plain(str(caught.value))


def test_the_evaluations_of_a_workspace_come_newest_first(tmp_path):
    for age, name in enumerate(("new", "old")):
        folder = tmp_path / "evaluations" / name
        save_evaluation(folder, an_evaluation(name=name), [])
        os.utime(folder / "evaluation.json", (1000 - age, 1000 - age))
    (tmp_path / "evaluations" / "empty").mkdir()
    assert [folder.name for folder in list_evaluation_folders(tmp_path)] == ["new", "old"]


# Figures


def test_an_evaluation_worked_by_hand(sqlite_store, judge, longer_is_better):
    """Five pairs: the longer answer is chosen in three, the shorter in one, one is a tie."""
    for chosen, rejected in ((9, 4), (8, 4), (6, 4), (4, 12)):
        judge([chosen, rejected], [[0], [1]], strength=2)
    judge([6, 7], [[0, 1]])
    evaluation, examples = evaluate_reward_model(longer_is_better, sqlite_store, check_order=True)
    assert (evaluation.n, evaluation.ties, evaluation.dropped) == (4, 1, 0)
    assert evaluation.accuracy.value == evaluation.longer.value == 0.75
    assert evaluation.length.model.value == 1
    assert evaluation.length.correlation == pytest.approx(1)
    assert sorted(e.margin for e in examples if not e.is_tie) == pytest.approx(
        [np.log(5 / 13), np.log(7 / 5), np.log(9 / 5), np.log(10 / 5)]
    )
    assert {e.strength for e in examples if not e.is_tie} == {2}
    assert evaluation.position.asymmetry == 0
    assert evaluation.noise_ceiling is None
    assert evaluation.k_wise is None
    assert sum(b.right.n for b in evaluation.reliability) == 4


def test_the_order_shown_is_counted_by_votes(sqlite_store, judge, longer_is_better):
    made = [judge([9, 4], [[0], [1]], [[0], [1]]) for _ in range(3)] + [judge([4, 9], [[0], [1]], [[1], [0]])]
    evaluation, _ = evaluate_reward_model(longer_is_better, sqlite_store)
    # Each pair is shown in both orders. Three times the long one is chosen, by both raters; the last pair is chosen
    # in the same position twice.
    first, second = evaluation.position.first, evaluation.position.second
    assert first.n + second.n == evaluation.position.raters.n == 2 * len(made)
    assert (first.value * first.n + second.value * second.n) == 7
    assert evaluation.position.raters.value == first.n / 8


def test_equal_rewards_are_half_right_where_no_tie_is_predicted(sqlite_store, judge, longer_is_better):
    for i in range(24):  # one of four is a tie: nu is below 1
        judge([7, 7], [[0, 1]] if i % 4 == 0 else [[0], [1]], split=Split.CALIBRATION)
    for _ in range(3):
        judge([7, 7], [[0, 1]])  # a tie, of which the model says nothing
    judge([7, 7], [[0], [1]])
    evaluation, _ = evaluate_reward_model(longer_is_better, sqlite_store)
    assert 0 < evaluation.three_way.nu < 1
    assert evaluation.three_way.called_ties == 0
    assert evaluation.three_way.accuracy.value == 0.5 / 4


def test_a_model_that_depends_on_the_order_has_an_asymmetry(sqlite_store, judge, reads_its_place):
    judge([9, 4], [[0], [1]])
    judge([5, 8], [[0], [1]])
    evaluation, _ = evaluate_reward_model(reads_its_place, sqlite_store, check_order=True)
    assert evaluation.position.pairs == 2
    assert evaluation.position.asymmetry > 0.01


def test_the_length_rule_goes_the_way_the_training_labels_say(sqlite_store, judge, longer_is_better):
    for _ in range(3):
        judge([9, 4], [[1], [0]], split=Split.TRAIN)  # the shorter
    for i in range(4):
        judge([9, 4], [[0], [1]] if i == 0 else [[1], [0]])
    evaluation, _ = evaluate_reward_model(longer_is_better, sqlite_store)
    assert evaluation.longer.value == evaluation.accuracy.value == 0.25
    assert evaluation.floors["the shorter answer"].value == 0.75
    assert evaluation.floors["the shorter answer"].low == 1 - evaluation.longer.high
    assert evaluation.floor[1] >= 0.75
    assert not evaluation.above_floors


def test_three_way_accuracy_calls_a_tie_where_davidsons_rule_does(sqlite_store, judge, longer_is_better):
    for i in range(24):  # among equal answers three of four are ties: nu is 6
        judge([7, 7], [[0, 1]] if i % 4 else [[0], [1]], split=Split.CALIBRATION)
    judge([8, 7], [[0, 1]])  # margin 0.12: called a tie, and one
    judge([8, 7], [[0], [1]])  # called a tie, and none
    judge([999, 1], [[0], [1]])  # margin 6.2, beyond 2 ln 6 = 3.6: right
    judge([1, 999], [[0], [1]])  # wrong
    evaluation, _ = evaluate_reward_model(longer_is_better, sqlite_store)
    assert evaluation.three_way.nu == pytest.approx(6, rel=1e-3)
    assert evaluation.three_way.accuracy.value == 0.5
    assert evaluation.three_way.accuracy.n == 4
    assert evaluation.three_way.called_ties == 2


def test_best_of_k_and_kendall_by_hand(sqlite_store, judge, longer_is_better):
    judge([9, 5, 3], [[0], [1], [2]])  # the model's ranking: tau 1, best
    judge([9, 5, 3], [[1, 0], [2]])  # its best is one of two: tau-b = 2 / sqrt(2 * 3)
    judge([9, 5, 3], [[2], [1], [0]])  # the other way round: tau -1
    evaluation, _ = evaluate_reward_model(longer_is_better, sqlite_store)
    assert evaluation.n == 3 + 2 + 3
    assert evaluation.k_wise.best.value == pytest.approx(2 / 3)
    assert evaluation.k_wise.best.n == 3
    assert evaluation.k_wise.chance == pytest.approx((1 / 3 + 2 / 3 + 1 / 3) / 3)
    assert evaluation.k_wise.kendall.value == pytest.approx((1 + 2 / 6**0.5 - 1) / 3)


def test_the_noise_ceiling_counts_split_votes_too(sqlite_store, judge, longer_is_better):
    """Two raters agree on two pairs of three: shares are uniform, Beta(1, 1), and of two votes for a side 1 - 1/8 are
    with the majority of all raters."""
    for i in range(24):
        judge([9, 4], [[0], [1]], [[0], [1]] if i % 3 else [[1], [0]])
    evaluation, _ = evaluate_reward_model(longer_is_better, sqlite_store)
    assert (evaluation.n, evaluation.ties) == (16, 8)
    assert evaluation.noise_ceiling.value == pytest.approx(7 / 8, abs=1e-4)
    assert evaluation.noise_ceiling.low < 7 / 8 < evaluation.noise_ceiling.high
    assert evaluation.noise_ceiling.n == 16


def test_a_decision_has_no_noise_and_is_no_vote_for_what_was_shown_first(sqlite_store, judge, longer_is_better):
    made = [judge([9, 4], [[0], [1]], [[0], [1]] if i % 3 else [[1], [0]]) for i in range(24)]
    lead = people.add_rater(sqlite_store, "lea", Role.LEAD).id
    for comparison in made[::3]:  # those on which the two raters are split
        vote(sqlite_store, comparison, lead, ">", role="lead")
    evaluation, _ = evaluate_reward_model(longer_is_better, sqlite_store)
    assert evaluation.n == 24
    assert evaluation.noise_ceiling.value == pytest.approx((16 * 7 / 8 + 8) / 24, abs=1e-4)
    assert evaluation.position.raters.n == 2 * 24


def test_a_spammer_who_is_paused_and_votes_that_a_lead_decided_over_move_no_calibration(sqlite_store, judge):
    made = [judge([9, 4], [[1], [0]], [[0], [1]], [[0], [1]], split=Split.CALIBRATION) for _ in range(2)]
    before = load_labelled_pairs(sqlite_store, Split.CALIBRATION)
    assert _find_shares_of_longer(before) == pytest.approx([2 / 3, 2 / 3])
    with sqlite_store.write() as conn:
        conn.execute(raters.update().where(raters.c.name != "rater 0").values(vote_weight=0.1))
    paused = load_labelled_pairs(sqlite_store, Split.CALIBRATION)
    assert _find_shares_of_longer(paused) == pytest.approx([0.2 / 1.2, 0.2 / 1.2])
    assert hash_labelled_pairs(paused) != hash_labelled_pairs(before)
    lead = people.add_rater(sqlite_store, "lea", Role.LEAD).id
    for comparison in made:
        shorter_first = len(comparison.completions[0].messages[0].text) == 4
        vote(sqlite_store, comparison, lead, ">" if shorter_first else "<", role="lead")
    assert _find_shares_of_longer(load_labelled_pairs(sqlite_store, Split.CALIBRATION)) == [0, 0]


def test_votes_that_teach_more_are_other_labels_though_they_are_as_likely(sqlite_store, judge):
    judge([9, 4], [[1], [0]], [[1], [0]])
    [pair] = load_labelled_pairs(sqlite_store, Split.HELDOUT)
    with sqlite_store.write() as conn:
        conn.execute(raters.update().values(vote_weight=0.1))
    [weaker] = load_labelled_pairs(sqlite_store, Split.HELDOUT)
    assert weaker.label.probabilities == pair.label.probabilities
    assert hash_labelled_pairs([weaker]) != hash_labelled_pairs([pair])


def _find_shares_of_longer(pairs):
    is_first = [len(p.first.completion[0].text) == 9 for p in pairs]
    return [share if first else 1 - share for share, first in zip(compute_first_shares(pairs).tolist(), is_first)]


def test_slices_are_tags_and_traits_with_enough_labels():
    def some(n, first=0, **fields):
        return [example(first + i, **fields) for i in range(n)]

    examples = [
        *some(12, tags={"category": "math", "question_id": "7"}, correct=1.0),
        *some(10, 12, tags={"category": "code", "question_id": "8"}, correct=0.0, rejected_policy="three"),
        *some(9, 22, tags={"category": "few", "question_id": "9"}),
        *some(5, 31, correct=None),
    ]
    evaluation = compute_slice_accuracies(examples)
    assert {value: (s.value, s.n) for value, s in evaluation["category"].items()} == {"math": (1, 12), "code": (0, 10)}
    assert {value: s.n for value, s in evaluation["policies"].items()} == {"one / two": 21, "one / three": 10}
    assert "question_id" not in evaluation
    assert "turns" not in evaluation  # all have one


def test_a_batch_is_the_subset_of_its_labels(sqlite_store, judge, longer_is_better):
    for batch, won in (("easy", 0), ("hard", 1)):
        for _ in range(10):
            judge([9, 4], [[won], [1 - won]], batch=batch)
    evaluation, _ = evaluate_reward_model(longer_is_better, sqlite_store)
    assert {value: s.value for value, s in evaluation.slices["subset"].items()} == {"easy": 1, "hard": 0}


@pytest.mark.parametrize(
    ("labels", "card", "said"),
    [
        ("people", {}, ("", "")),
        ("people", {"simulated": True, "simulated_labels": 12}, ("", "12")),  # people's labels, a model of others
        ("people", {"simulated": True}, ("", "some")),  # a card of an earlier version
        ("simulated", {"simulated": False, "simulated_labels": 0}, ("3 of the 4", "")),
    ],
)
def test_simulated_is_said_of_what_was_simulated(sqlite_store, judge, longer_is_better, labels, card, said):
    for i in range(5):
        judge([9, 4], [[0], [1]] if i else [[0, 1]])
    if labels == "simulated":  # the tie, and all but one of the others
        with sqlite_store.write() as conn:
            conn.exec_driver_sql("DROP TRIGGER judgments_no_update")
            conn.exec_driver_sql("UPDATE judgments SET simulated = 1 WHERE seq < 5")
    longer_is_better.card = {"train_labels": 20, "calibration_labels": 4} | card
    evaluation, _ = evaluate_reward_model(longer_is_better, sqlite_store)
    assert evaluation.simulated is (labels == "simulated")
    assert evaluation.measured_on == LabelOrigin(4, 3 if labels == "simulated" else 0)
    assert evaluation.learnt_from.labels == 24
    measured, learnt = said
    assert evaluation.measured_note == (
        f"Simulated raters judged {measured} labels it is measured on." * bool(measured)
    )
    learnt_note = f"The model learnt from 24 labels, and simulated raters judged {learnt} of these."
    assert evaluation.learnt_note == learnt_note * bool(learnt)
    assert json.loads(json.dumps(evaluation.as_dict()))["measured_on"]["labels"] == 4


# What the model has seen


def replayed_elsewhere(folder, pairs) -> Store:
    """Another store in which these pairs are held out, each judged as it was."""
    store = Store.open(f"sqlite:///{folder}/elsewhere.db", create=True)
    rater = people.add_rater(store, "someone else", Role.RATER).id
    for p in pairs:
        prompt = replace(p.comparison.prompt, split=Split.HELDOUT)
        with store.write() as conn:
            insert_comparisons(store, conn, [replace(p.comparison, prompt=prompt)])
        lease = queue.lease(store, rater, seconds=1800)
        other = p.label.second if p.label.preferred == p.label.first else p.label.first
        queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, ((p.label.preferred,), (other,))))
    return store


@pytest.fixture
def every_label(judged_store):
    return {split: load_labelled_pairs(judged_store, split) for split in Split}


def test_labels_a_model_has_learnt_from_are_left_out_in_whatever_store_they_are(
    judged_store, trained_model, every_label, tmp_path
):
    [folder] = (tmp_path / "reward").iterdir()
    elsewhere = replayed_elsewhere(tmp_path, [p for pairs in every_label.values() for p in pairs])
    model = load_reward_model(folder)
    evaluation, examples = evaluate_reward_model(model, elsewhere)
    n = {split: len(pairs) for split, pairs in every_label.items()}
    assert (evaluation.trained_on, evaluation.calibrated_on) == (n[Split.TRAIN], n[Split.CALIBRATION])
    assert evaluation.n == len(examples) == n[Split.HELDOUT] > 0
    assert evaluation.caveat == ""
    assert evaluation.bag_of_words is None  # nothing in that store teaches one
    assert evaluate_reward_model(model, elsewhere, home=judged_store)[0].bag_of_words is not None
    (folder / SEEN_PROMPTS_FILE).unlink()
    unknown, _ = evaluate_reward_model(load_reward_model(folder), elsewhere)
    assert unknown.n == sum(n.values())
    assert unknown.caveat.startswith("The model may have learnt from more")
    (folder / SEEN_PROMPTS_FILE).write_text("{")
    with pytest.raises(BadInput, match=SEEN_PROMPTS_FILE):
        load_reward_model(folder)


def test_an_evaluation_on_training_labels_says_so(judged_store, trained_model, every_label, tmp_path):
    model = trained_model
    evaluation, examples = evaluate_reward_model(model, judged_store, split=Split.TRAIN)
    n = len(every_label[Split.TRAIN])
    assert (evaluation.n, evaluation.trained_on, evaluation.calibrated_on) == (n, n, 0)
    assert evaluation.caveat == (
        f"This evaluation replays the train split and leaves nothing out. Its labels include {n} labels of prompts the "
        "model was trained on and 0 of prompts that set its temperature."
    )
    assert evaluation.bag_of_words is None  # it would be asked what it was told, too
    assert evaluation.caveat in html.unescape(render_evaluation_html(evaluation, examples))
    calibration, _ = evaluate_reward_model(model, judged_store, split=Split.CALIBRATION)
    assert (calibration.trained_on, calibration.calibrated_on) == (0, len(every_label[Split.CALIBRATION]))
    assert calibration.bag_of_words is not None
    assert evaluate_reward_model(model, judged_store)[0].caveat == ""


@pytest.fixture
def evaluated(judged_store, trained_model, tmp_path, monkeypatch):
    """A function that calls `evaluate` in this process, on a store with a trained head: `evaluated("--json")`."""
    register_commands()
    monkeypatch.setenv("RLHF_HITL_WORKSPACE", str(tmp_path))
    return lambda *args: CliRunner().invoke(app, ["evaluate", "--store", judged_store.url, *args])


def test_the_command_prints_the_figures_and_the_floors(evaluated):
    printed = evaluated("--split", "train").stdout
    assert "This evaluation replays the train split and leaves nothing out" in printed
    assert "floor: a coin" in printed
    assert "trained on" not in next(line for line in printed.splitlines() if line.startswith("Left out"))
    held = evaluated("--json")
    assert held.exit_code == 0
    evaluation = json.loads(held.stdout)
    assert evaluation["knows_its_prompts"]
    assert evaluation["floor"]["value"] >= 0.5
    assert "0 labels of prompts the model was trained on, 0 of prompts that set its temperature" in evaluated().stdout


def test_a_file_of_models_votes_measures_only_where_that_is_asked_and_says_so(evaluated, tmp_path):
    file = tmp_path / "judged.jsonl"
    rows = [
        {
            "messages": [{"role": "user", "content": f"What is {i} and {i}?"}],
            "completions": [
                {"messages": [{"role": "assistant", "content": t}], "policy": "p"} for t in (f"{2 * i}.", "No idea.")
            ],
            "votes": [{"rater": "gpt", "ranking": [[0], [1]], "judge": True}],
        }
        for i in range(4)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = evaluated("--data", str(file))
    assert refused.exit_code == 2
    [line] = refused.stderr.strip().splitlines()
    assert "judged.jsonl: all votes are of AI judges: expected votes of people" in line
    assert "--include-judges" in line
    done = evaluated("--data", str(file), "--include-judges")
    assert done.exit_code == 0
    assert "AI judges voted on 4 of the 4 labels" in done.stdout


def test_a_slice_that_there_is_not_is_told_before_the_model_is_loaded(evaluated, judged_store, tmp_path):
    slices = json.loads(evaluated("--json").stdout)["slices"]
    folders = list_evaluation_folders(tmp_path)
    [head] = tmp_path.glob("reward/*/reward_head.safetensors")
    head.write_bytes(b"")  # whoever loads the model says that it is damaged
    file = tmp_path / "votes.jsonl"
    file.write_text('{"prompt": "Tea or milk?", "chosen": "Tea, please.", "rejected": "Milk."}\n')
    for wanted, *more in (("topic=poetry:0.5",), ("confidence=0.5:0.5",), ("policies=x:0.5", "--data", file)):
        done = evaluated("--min-slice", wanted, *map(str, more))
        assert done.exit_code == 2
        [line] = done.stderr.strip().splitlines()
        assert line.startswith(f"error: --min-slice {wanted.removesuffix(':0.5')}: expected a slice of this evaluation")
    for kind, values in slices.items():
        for value in values:  # every one that there is goes on to the model
            done = evaluated("--min-slice", f"{kind}={value}:0.5")
            assert "reward_head.safetensors" in done.stderr, (kind, value)
    assert list_evaluation_folders(tmp_path) == folders


@pytest.mark.parametrize(
    "harm",
    [
        "reward/*/reward_model.json",
        "reward/*/reward_head.safetensors",
        "reward/*/prompts_seen.json",
        "evaluations/one/examples.jsonl",
    ],
)
def test_damaged_files_are_bad_input_and_not_a_failed_gate(evaluated, tmp_path, harm):
    assert evaluated("--name", "one").exit_code == 0
    assert evaluated("--min-accuracy", "1").exit_code == 1
    [path] = tmp_path.glob(harm)
    path.write_bytes(path.read_bytes()[:40] + b"\xff")
    done = evaluated("--no-worse-than", "one")
    assert done.exit_code == 2
    assert path.name in done.stderr


# Benchmarks


def subset(name: str, margins: list[float]) -> list[EvaluatedPair]:
    return [example(margin=m, correct=float(m > 0), tags={"subset": name}) for m in margins]


def test_rewardbench_sections_weigh_their_subsets():
    examples = [
        *subset("alpacaeval-easy", [1, 1, 1, 0]),  # equal rewards are wrong: 0.75, of 100
        *subset("mt-bench-easy", [-1, 1]),  # 0.5, of 28
        *subset("math-prm", [1]),  # 1, of 984
        *subset("hep-go", [-1, -1]),  # 0, of 164
    ]
    evaluation = rewardbench.score_benchmark("rewardbench", examples, [])
    chat, reasoning = (0.75 * 100 + 0.5 * 28) / 128, 984 / (984 + 164)
    scores, notes = evaluation
    assert scores == pytest.approx({"Chat": chat, "Reasoning": reasoning})
    assert notes == {
        "Chat": "without alpacaeval-length, alpacaeval-hard, mt-bench-med",
        "Reasoning": "without hep-cpp, hep-java, hep-js, hep-python, hep-rust",
        "RewardBench": "no overall score without Chat Hard, Safety, parts of Chat, parts of Reasoning; "
        "9 of 2,985 examples",
    }
    assert rewardbench.score_benchmark("trl", examples, []) == ({}, {})


def test_rewardbench_has_an_overall_score_where_all_its_subsets_occur():
    names = [name for subsets in rewardbench.SECTIONS.values() for name in subsets]
    examples = [e for name in names for e in subset(name, [1, -1] if name in rewardbench.SECTIONS["Safety"] else [1])]
    scores, notes = rewardbench.score_benchmark("rewardbench", examples, [])
    assert scores == {"Chat": 1, "Chat Hard": 1, "Safety": 0.5, "Reasoning": 1, "RewardBench": 0.875}
    assert notes == {"RewardBench": "28 of 2,985 examples"}
    whole = [e for name in names for e in subset(name, [1] * 130)]
    assert rewardbench.score_benchmark("rewardbench", whole, [])[1] == {}
    [row] = [row for row in an_evaluation(scores=scores, score_notes=notes).score_rows if row[0] == "RewardBench"]
    assert row == ("RewardBench", "87.5%", "28 of 2,985 examples")


def ranked(batch: str, worth: list[int], rewards: list[float], id: str = "") -> ScoredRanking:
    prompt = Prompt.create((Message("user", f"{batch} {id}"),), {"id": id})
    answers = [Completion.create(prompt.id, (Message("assistant", f"{i}"),), "p") for i in range(len(worth))]
    comparison = Comparison.create(prompt, answers, batch=batch)
    return ScoredRanking(comparison, np.array(worth), np.array(rewards))


def test_best_of_four_shares_a_win_among_equal_rewards():
    evaluation = rewardbench.score_benchmark(
        "rewardbench2",
        [],
        [
            ranked("Math", [3, 0, 0, 0], [2.0, 1, 0, 0]),
            ranked("Math", [3, 0, 0, 0], [2.0, 2, 0, 0]),
            ranked("Focus", [3, 0, 0, 0], [0.0, 1, 0, 0]),
        ],
    )
    scores, notes = evaluation
    assert scores == {"Focus": 0, "Math": 0.75}
    missing = "Factuality, Precise IF, Safety, Ties"
    assert notes == {"RewardBench 2": f"no overall score without {missing}; 3 of 1,865 examples"}
    rows = an_evaluation(scores=scores, score_notes=notes).score_rows
    assert rows[-1] == ("RewardBench 2", "–", notes["RewardBench 2"])
    whole = [ranked(name, [3, 0], [1.0, 0]) for name in ("Factuality", "Precise IF", "Math", "Safety", "Focus")]
    whole += [ranked("Ties", [2, 0], [1.0, 0], "ref:1"), ranked("Another", [3, 0], [0.0, 1])]
    scores, notes = rewardbench.score_benchmark("rewardbench2", [], whole)
    assert scores["RewardBench 2"] == pytest.approx((5 + 0.3) / 6)  # what is not of the benchmark is not in its mean
    assert notes == {"RewardBench 2": "7 of 1,865 examples"}


def test_the_score_of_rewardbench_2s_ties_by_hand():
    """Of two questions the first is right in both forms with a wide margin, the second wrong in its tied form."""
    rows = [
        ranked("Ties", [2, 2, 0], [5.0, 4.0, 1.0], "tied:1"),  # margin 3, spread 1
        ranked("Ties", [2, 0, 0], [3.0, 1.0, 0.0], "ref:1"),  # margin 2
        ranked("Ties", [2, 2, 0], [5.0, 1.0, 2.0], "tied:2"),  # margin -1, spread 4
        ranked("Ties", [2, 0, 0], [3.0, 1.0, 0.0], "ref:2"),  # margin 2
    ]
    beyond = (np.tanh(2 / 1 - 1) + np.tanh(-1 / 4 - 1)) / 2
    assert rewardbench.score_ties_subset(rows) == pytest.approx(
        0.3 * 0.5 + 0.3 * 1 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * beyond
    )
    assert rewardbench.score_ties_subset(rows[:1]) == pytest.approx(0.3)


def test_rewardbench_2_is_replayed_from_its_file(sqlite_store, longer_is_better, tmp_path):
    def row(id, prompt, chosen, rejected, subset):
        return {"id": id, "prompt": prompt, "chosen": chosen, "rejected": rejected, "subset": subset}

    rows = [
        row("1", "Q1", ["aaaa"], ["b", "cc", "ddd"], "Math"),
        row("2", "Q2", ["a"], ["b", "cc", "ddd"], "Math"),
        row("tied:1", "Q3", ["aaaaa", "bbbbbb"], ["c"], "Ties"),
        row("ref:1", "Q4", ["aaaaa"], ["b", "c"], "Ties"),
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    report = import_path(sqlite_store, tmp_path / "rows.jsonl", split=Split.HELDOUT)
    evaluation, _ = evaluate_reward_model(longer_is_better, sqlite_store, format=report.format)
    spread, margin = np.log(7 / 6), np.log(6 / 2)
    ties = 1 + 0.01 * np.tanh(margin / spread - 1)
    assert evaluation.scores == pytest.approx({"Math": 0.5, "Ties": ties}, abs=1e-6)
    assert evaluation.score_notes["RewardBench 2"].startswith("no overall score without Factuality, Precise IF")
    assert evaluation.k_wise.best.value == 0.75


# Two models, gates


def test_two_models_on_the_same_labels_by_hand():
    # two prompts of five labels each; ours has four more right, theirs one
    ours = [example(i, family=f"f{i // 5}", correct=float(i < 8)) for i in range(10)]
    theirs = [example(i, family=f"f{i // 5}", correct=float(3 < i < 9)) for i in range(10)]
    evaluation = compare_evaluated_pairs(
        [*ours, example(11)], [*theirs, example(12), example(13, correct=None)], "theirs"
    )
    assert (evaluation.n, evaluation.ours, evaluation.theirs) == (10, 4, 1)
    assert evaluation.accuracy.value == pytest.approx(0.3)
    assert evaluation.p_value == pytest.approx(2 * (1 + 5) / 32)
    assert evaluation.accuracy.low < 0.3 < evaluation.accuracy.high
    assert not evaluation.is_worse
    other_way = compare_evaluated_pairs(theirs, ours, "ours")
    assert other_way.accuracy.value == pytest.approx(-0.3)
    assert not other_way.is_worse  # not shown to be
    with pytest.raises(BadInput, match="same split or file"):
        compare_evaluated_pairs(ours, [example(99)], "another")


def test_a_model_is_shown_to_be_worse_by_many_labels():
    ours = [example(i, correct=0.0) for i in range(10)]
    assert compare_evaluated_pairs(ours, [example(i) for i in range(10)], "theirs").is_worse


def test_many_labels_of_one_prompt_do_not_make_a_model_significantly_worse():
    """One prompt of twelve labels speaks against it, and nine say nothing: McNemar's test alone is sure of it."""
    ours = [example(i, family="f0" if i < 12 else f"f{i}", correct=float(i >= 12)) for i in range(21)]
    evaluation = compare_evaluated_pairs(ours, [example(i, family=e.family) for i, e in enumerate(ours)], "theirs")
    assert evaluation.p_value < 0.001
    assert evaluation.accuracy.high > 0
    assert not evaluation.is_worse
    assert check_gates(an_evaluation(), evaluation)[0].passed
    assert (
        f"({evaluation.accuracy.low:+.1%} to {evaluation.accuracy.high:+.1%})"
        in check_gates(an_evaluation(), evaluation)[0].sentence
    )


def test_equal_models_are_rarely_called_worse_on_prompts_of_many_labels():
    """80 prompts of 17 labels, as MT-Bench has them, on which two models are equally good but not at the same ones:
    2.5 % of such pairs may be called worse, and with McNemar's test alone it is more than twice as many."""
    rng = np.random.default_rng(0)
    families = np.repeat(np.arange(80), 17)
    alone, worse = 0, 0
    for _ in range(1000):
        lean = np.repeat(rng.normal(0, 0.8, 80), 17)  # which of the two a prompt favours
        differs = rng.random(len(lean)) < 0.3
        gains = np.where(differs, np.where(rng.random(len(lean)) < 1 / (1 + np.exp(-lean)), 1.0, -1.0), 0.0)
        evaluation = estimate_accuracy_difference(gains, families, "the other")
        alone += evaluation.theirs > evaluation.ours and evaluation.p_value < 0.05
        worse += evaluation.is_worse
    assert alone > 50
    assert worse < 40


@pytest.mark.parametrize(("accuracy", "longer", "words"), [(0.45, 0.3, 0.4), (0.5, 0.2, None), (0.7, 0.3, 0.7)])
def test_a_model_at_or_below_a_coin_or_a_floor_passes_no_gate(accuracy, longer, words):
    def of(value):
        return Estimate(value, value - 0.05, value + 0.05, 40)

    evaluation = an_evaluation(
        accuracy=of(accuracy), longer=of(longer), bag_of_words=None if words is None else of(words)
    )
    [gate] = check_gates(evaluation, above_floors=True)
    assert not gate.passed
    assert (
        f"<= {max(0.5, words or 0):.1%} of the floor (a {'coin' if accuracy < 0.7 else 'bag of words'})"
        in gate.sentence
    )
    assert evaluation.as_dict()["above_floors"] is False
    assert evaluation.as_dict()["floor"]["value"] == max(0.5, words or 0)


def test_gates_say_what_holds_and_what_does_not():
    evaluation = an_evaluation()  # accuracy 0.7, floor 0.55, calibration error 0.05, math 0.5
    worse = compare_evaluated_pairs(
        [example(i, correct=0.0) for i in range(10)], [example(i) for i in range(10)], "old"
    )

    def said(**asked):
        return [(g.name, g.passed) for g in check_gates(evaluation, **asked)]

    assert said() == []
    assert said(min_accuracy=0.7, max_ece=0.05, above_floors=True) == [
        ("min-accuracy", True),
        ("max-ece", True),
        ("above-floors", True),
    ]
    assert said(min_accuracy=0.71, max_ece=0.049) == [("min-accuracy", False), ("max-ece", False)]
    assert said(min_slices=(SliceThreshold.parse("category=math:0.6"),)) == [("min-slice category=math", False)]
    assert said(difference=worse) == [("no-worse-than", False)]
    assert "70.0% >= 70.0% (40 labels)" in check_gates(evaluation, min_accuracy=0.7)[0].sentence
    assert "70.00% < 70.03%" in check_gates(evaluation, min_accuracy=0.7003)[0].sentence  # not 70.0% < 70.0%
    beaten = an_evaluation(bag_of_words=Estimate(0.7, 0.6, 0.8, 40))
    assert not check_gates(beaten, above_floors=True)[0].passed


def test_a_missing_slice_is_an_error_not_a_passed_gate():
    with pytest.raises(
        NotFound, match=r"--min-slice category=poetry: expected a slice of this evaluation \(category=math"
    ):
        check_gates(an_evaluation(), min_slices=(SliceThreshold("category", "poetry", 0.1),))
    assert SliceThreshold.parse("longer=a:b=c:0.5") == SliceThreshold("longer", "a:b=c", 0.5)
    for text in ("category", "category=math", "category=math:x", "=math:0.5", "category=math:2", "category=math:nan"):
        with pytest.raises(BadInput, match=r"category=math:0\.6"):
            SliceThreshold.parse(text)


def test_one_is_said_in_the_singular_and_many_are_not():
    one = {"ties": 1, "dropped": 1, "trained_on": 1, "calibrated_on": 1, "n": 1}
    more = {"learnt_from": LabelOrigin(1, 1), "measured_on": LabelOrigin(1, 1), "simulated": True}
    evaluation = an_evaluation(**one, **more, position=OrderEffect(0.0, 1))
    text = html.unescape(render_evaluation_html(evaluation, [example(0)]))
    assert "Left out: 1 tie, 1 label without text, 1 label of prompts the model was trained on, 1 of prompts" in text
    assert "1 label (simulated: 1 of 1)" in text
    assert "over 1 pair computed" in text
    assert "Simulated raters judged 1 of the 1 label it is measured on." in text
    assert "The model learnt from 1 label, " in text
    many = an_evaluation(ties=0, dropped=2, trained_on=1200)
    text = html.unescape(render_evaluation_html(many, [example(0)]))
    assert "Left out: 0 ties, 2 labels without text, 1,200 labels of prompts the model was trained on" in text
    assert "40 labels" in text


def test_simulated_is_said_of_as_many_labels_as_it_holds_for():
    cards = {
        "703 labels": {"simulated_labels": 0, "simulated": False},
        "703 labels, 600 of them simulated": {"simulated_labels": 600, "simulated": True},
        "703 simulated labels": {"simulated_labels": 703, "simulated": True},
        "703 labels, some of them simulated": {"simulated": True},  # of an earlier version
    }
    for text, fields in cards.items():
        card = {"train_labels": 600, "calibration_labels": 103, **fields}
        origin = LabelOrigin.of_card(card)
        assert origin is not None
        assert origin.text == text
        simulated = f" on {text}" if fields["simulated"] else ""
        assert train_reward._make_title(card, "trained") == f"Reward model trained{simulated}"
    assert train_reward._make_title(card, "unchanged: no new votes").endswith(
        "votes, learnt from 703 labels, some of them simulated"
    )
    assert LabelOrigin.of_card({"simulated": True}) is None
    assert train_reward._make_title({"simulated": True}, "adopted") == "Reward model adopted"


# Plots


def test_every_plot_is_one_svg_that_says_what_it_shows_and_escapes_what_it_is_given():
    hostile = "<script>alert('$1')</script> & $x^2$"
    slices = {"category": {hostile: Estimate(0.5, 0.3, 0.7, 12)}}
    evaluation = an_evaluation(slices=slices, simulated=True, measured_on=LabelOrigin(42, 7))
    examples = [example(i, margin=i - 20.0, correct=float(i > 20)) for i in range(40)]
    texts = [plot(evaluation) for plot in (plots.plot_accuracy, plots.plot_slices, plots.plot_reliability)]
    texts += [plot(evaluation, examples) for plot in (plots.plot_margins, plots.plot_lengths)]
    for text in texts:
        root = ElementTree.fromstring(text)  # noqa: S314 - our own text
        assert root.tag.endswith("svg")
        assert root.get("aria-label")
        assert "(simulated: 7 of 42)" in text
        assert "<script" not in text
        assert "#000000" not in text  # black ink cannot be seen in the dark
        assert "#ffffff" not in text
    assert hostile in html.unescape(texts[1])
    assert "50.0%  (12)" in texts[1]
    assert plots.plot_slices(an_evaluation(slices={})) == ""
    assert plots.plot_accuracy(evaluation) == texts[0]


def test_a_plot_of_few_labels_says_so_instead():
    few, labels = an_evaluation(n=16), [example(i) for i in range(16)]
    told = '<p class="quiet">Too few labels to draw (16; 40 needed).</p>'
    assert plots.plot_reliability(few) == plots.plot_margins(few, labels) == told
    assert told in render_evaluation_html(few, labels)
    assert plots.plot_accuracy(few).startswith("<svg")  # each row has its interval


def test_the_report_is_one_file_that_shows_the_worst_first_and_runs_nothing_it_is_given(page, tmp_path):
    hostile = '<script>window.pwned = 1</script><img src=x onerror="window.pwned = 1">'
    examples = [
        example(0, margin=-1.0, probability=0.3, correct=0.0, chosen=(Message("assistant", "mildly"),)),
        example(1, margin=-4.0, probability=0.02, correct=0.0, prompt=(Message("user", hostile),), tags={hostile: "x"}),
        example(2, chosen=(Message("assistant", "agreed upon"),)),
        example(3, margin=-2.0, probability=0.1, correct=0.0, rejected=(Message("assistant", "long " * 2000),)),
    ]
    evaluation = an_evaluation(
        simulated=True, measured_on=LabelOrigin(42, 3), learnt_from=LabelOrigin(60, None), name=f"votes {hostile}",
        scores={"Chat": 0.625}, score_notes={"RewardBench": hostile},
    )  # fmt: skip
    examples += [example(i) for i in range(4, 44)]
    difference = compare_evaluated_pairs(examples, [example(i) for i in range(4)], f"{hostile}\u202e")
    checked = check_gates(evaluation, difference, min_accuracy=0.8)
    text = render_evaluation_html(evaluation, examples, checked, difference)
    assert not re.search(r"(src|href)=.https?:", text)
    (tmp_path / "report.html").write_text(text)
    page.goto(f"file://{tmp_path}/report.html")
    assert page.evaluate("window.pwned") is None
    assert page.locator("article").count() == 3
    assert hostile in page.locator("article").nth(0).inner_text()
    assert "more characters" in page.locator("article").nth(1).inner_text()
    assert "mildly" in page.locator("article").nth(2).inner_text()
    shown = page.locator("main").inner_text()
    assert "agreed upon" not in shown
    assert page.locator(".simulated").all_inner_texts() == [
        "Simulated raters judged 3 of the 42 labels it is measured on.",
        "The model learnt from 60 labels, and simulated raters judged some of these.",
    ]
    assert "FAILED min-accuracy: accuracy 70.0% < 80.0%" in shown
    assert "62.5%" in page.locator(".scores").inner_text()
    assert hostile in page.locator(".scores").inner_text()
    assert f"Against {hostile}⟦RLO⟧" in shown
    assert page.locator("svg[role=img]").count() == 5
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ink = page.evaluate("getComputedStyle(document.body).color")
        letters = page.locator("svg text").evaluate_all("all => all.map(e => getComputedStyle(e).fill)")
        assert set(letters) == {ink}
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 320
