"""Updating a head with new votes, and a head with an ensemble's uncertainty."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit

from command_line import run_command
from reward_examples import make_votes_from_preferences
from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward import model_card as cards
from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model
from rlhf_hitl.reward.head_fitting import bootstrap_covariance, fit_head
from rlhf_hitl.reward.labelled_pairs import load_labelled_pairs
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.registry import open_reward_model
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.reward.training.head_update import update_with_new_votes
from rlhf_hitl.store import people, queue
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.reward_models import display_name, get_reward_model, list_reward_models
from rlhf_hitl.store.tables import reward_models
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Split, Verdict


def judge(store, rater: str, n: int, answer: str = "thanks", first: int = 0) -> list[str]:
    """n new train comparisons, judged for the completion that says `answer`; returns the judgments' ids."""
    out = []
    for i in range(first, 10_000):
        prompt = Prompt.create((Message("user", f"another {i}"),))
        if prompt.split is not Split.TRAIN:
            continue
        good, bad = (Completion.create(prompt.id, (Message("assistant", f"{t} {i}"),), "p") for t in (answer, "fox"))
        with store.write() as conn:
            insert_comparisons(store, conn, [Comparison.create(prompt, [good, bad])])
        lease = queue.lease(store, rater, seconds=1800)
        receipt = queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, ((good.id,), (bad.id,)), 2))
        out.append(receipt.judgment_id)
        if len(out) == n:
            return out
    raise AssertionError


def test_votes_that_came_in_since_move_the_model_as_training_again_would(
    judged_store, trained_model, backbone, tmp_path
):
    store, rater = judged_store, people.add_rater(judged_store, "bea", Role.RATER).id
    model = trained_model
    assert update_with_new_votes(store, model, tmp_path) is model
    cards.add_evaluation_to_card(get_reward_model(store, model.id), evaluate_reward_model(model, store)[0])
    model = load_reward_model(tmp_path / "reward" / model.id)
    assert model.card["evaluations"]
    judge(store, rater, 12)
    updated = update_with_new_votes(store, model, tmp_path)
    assert get_reward_model(store).id == updated.id != model.id
    assert updated.card["train_labels"] == model.card["train_labels"] + 12
    assert updated.card["updated"] == 12
    assert not updated.card.keys() & {"evaluations", "masses", "length_alone"}  # those were the other's
    names = [load_reward_model(tmp_path / "reward" / x.id).card["name"] for x in (model, updated)]
    assert names == [display_name(get_reward_model(store, x.id)) for x in (model, updated)]
    assert names[0] != names[1]
    families = {p.comparison.prompt.family for p in load_labelled_pairs(store, Split.TRAIN)}
    assert load_reward_model(tmp_path / "reward" / updated.id).seen.train == families > model.seen.train
    again = train_head(store, backbone, tmp_path)
    pairs = load_labelled_pairs(store, Split.HELDOUT)
    before, m, refitted = (
        x.margins([p.first for p in pairs], [p.second for p in pairs])[0] for x in (model, updated, again)
    )
    assert np.corrcoef(m, refitted)[0, 1] > 0.99  # the refit has principal axes of its own, and another prior
    assert np.abs(m - refitted).mean() < np.abs(before - refitted).mean()
    assert load_reward_model(tmp_path / "reward" / updated.id).margins([pairs[0].first], [pairs[0].second])[
        0
    ] == pytest.approx(m[:1])
    assert update_with_new_votes(store, updated, tmp_path) is updated


def test_a_vote_that_was_corrected_cannot_be_unlearnt(judged_store, backbone, tmp_path):
    store, rater = judged_store, people.add_rater(judged_store, "bea", Role.RATER).id
    [judgment_id] = judge(store, rater, 1)
    model = train_head(store, backbone, tmp_path)
    [judgment] = (j for j in read_judgments(store, rater_id=rater) if j.id == judgment_id)
    (best,), (worst,) = judgment.answer.ranking
    queue.correct(store, judgment_id, rater, Answer(Verdict.RANKED, ((worst,), (best,)), 3), idempotency_key="c")
    with pytest.raises(BadInput, match=r"1 label that reward model .* has learnt.*train again"):
        update_with_new_votes(store, model, tmp_path)


def test_the_command_updates_and_refuses_what_does_not_go_with_it(judged_store, trained_model, tmp_path):
    store = judged_store
    model = trained_model
    judge(store, people.add_rater(store, "bea", Role.RATER).id, 3)

    def run(*more: str):
        env = {"RLHF_HITL_WORKSPACE": str(tmp_path)}
        return run_command("train-reward", "--update", "--store", store.url, "--json", *more, env=env)

    done = run()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["train_labels"] == model.card["train_labels"] + 3
    refused = run("--layer", "1")
    assert refused.returncode == 2
    assert "--update with --layer" in refused.stderr


def test_an_ensemble_agrees_with_the_posterior_where_its_assumptions_hold():
    """Independent labels, a prompt each: the two uncertainties are of one size; labels of one prompt count as fewer."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 9))
    votes = make_votes_from_preferences(rng.random(400) < expit(x @ rng.normal(size=9)))
    head = fit_head(x, votes)
    probes = rng.normal(size=(50, 9))
    alone = bootstrap_covariance(head, x, votes, np.arange(400), heads=200)
    ratio = alone.margins(probes)[1] / head.margins(probes)[1]
    assert 0.8 < np.median(ratio) < 1.3
    assert np.array_equal(alone.margins(probes)[0], head.margins(probes)[0])
    copies = np.tile(x[:40], (10, 1)), np.tile(votes[:40], (10, 1))
    same = fit_head(*copies)
    apart = bootstrap_covariance(same, *copies, np.tile(np.arange(40), 10), heads=200)
    assert np.median(apart.margins(probes)[1] / same.margins(probes)[1]) > 1.5


def test_without_labels_an_ensemble_is_as_uncertain_as_its_prior():
    x = np.zeros((50, 3))
    x[:, 0] = 1
    votes = make_votes_from_preferences(np.arange(50) % 3 > 0)
    head = fit_head(x, votes)
    unseen = np.array([[0.0, 1.0, 0.0]])
    ensemble = bootstrap_covariance(head, x, votes, np.arange(50), heads=400)
    assert ensemble.margins(unseen)[1][0] == pytest.approx(1 / np.sqrt(head.precisions[0]), rel=0.15)


def test_a_model_with_an_ensembles_uncertainty_is_kept_and_scores(judged_store, backbone, tmp_path):
    model = train_head(judged_store, backbone, tmp_path, uncertainty="bootstrap")
    assert model.card["uncertainty"] == "bootstrap"
    pairs = load_labelled_pairs(judged_store, Split.HELDOUT)
    first, second = [p.first for p in pairs], [p.second for p in pairs]
    _, stds, _ = load_reward_model(tmp_path / "reward" / model.id).margins(first, second)
    assert (stds > 0).all()
    assert stds == pytest.approx(model.margins(first, second)[1])


def test_opening_a_model_does_not_make_it_the_newest(judged_store, trained_model, backbone, tmp_path):
    old = trained_model
    with judged_store.write() as conn:
        conn.execute(reward_models.delete())  # another team's, say
    new = train_head(judged_store, backbone, tmp_path / "ours", uncertainty="bootstrap")
    folder = str(tmp_path / "reward" / old.id)
    open_reward_model(judged_store, folder, tmp_path, register=False)
    assert [m.id for m in list_reward_models(judged_store)] == [new.id]
    open_reward_model(judged_store, folder, tmp_path)
    assert [m.id for m in list_reward_models(judged_store)] == [old.id, new.id]
    assert get_reward_model(judged_store).id == new.id
