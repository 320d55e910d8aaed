"""A trained reward model: it ranks, survives saving, is updated and evaluated."""

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from command_line import run_command
from reward_examples import WORDS, chat
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.policy.tuning_watch import WatchArguments
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model
from rlhf_hitl.reward.labelled_pairs import load_labelled_pairs
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.rendering import list_conversations
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.reward.training.head_update import update_with_label, update_with_new_votes
from rlhf_hitl.store import people, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.reward_models import SHORT_ID_LENGTH, get_reward_model
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Split, Verdict


@pytest.fixture(scope="module")
def views(tiny_model):
    """A backbone that is read at two layers, each in both poolings."""
    return Backbone(str(tiny_model), dtype="float32")


def test_a_trained_head_ranks_held_out_prompts_and_survives_saving(judged_store, backbone, tmp_path):
    model = train_head(judged_store, backbone, tmp_path)
    found, _ = evaluate_reward_model(model, judged_store)
    assert found.accuracy.value > 0.7
    assert found.n > 10
    assert found.longer.low <= found.longer.value <= found.longer.high
    again = load_reward_model(tmp_path / "reward" / model.id)
    chats = [chat("question 3 about sea", w) for w in WORDS]
    assert np.array_equal(again.rewards(chats), model.rewards(chats))
    assert again.id == model.id
    assert get_reward_model(judged_store).id == model.id


def test_the_same_labels_give_the_same_model(judged_store, trained_model, backbone, tmp_path):
    assert train_head(judged_store, backbone, tmp_path).id == trained_model.id


def test_training_reads_all_views_and_chooses_how_much_a_vote_counts(judged_store, views, tmp_path):
    model = train_head(judged_store, views, tmp_path)
    assert 0 < model.card["length_alone"] < np.log(2)
    assert model.card["masses"][str(model.head.vote_weight)] == min(model.card["masses"].values())
    again = load_reward_model(tmp_path / "reward" / model.id)
    assert again.cache.backbone.views == views.views
    assert again.head.vote_weight == model.head.vote_weight
    chats = [chat("question 3 about sea", w) for w in WORDS]
    assert np.array_equal(again.rewards(chats), model.rewards(chats))


def test_a_backbone_that_has_changed_is_refused(judged_store, tiny_model, tmp_path):
    copy = tmp_path / "backbone"
    shutil.copytree(tiny_model, copy)
    model = train_head(judged_store, Backbone(str(copy), layer=1, pooling="last", dtype="float32"), tmp_path)
    folder = tmp_path / "reward" / model.id
    assert load_reward_model(folder).id == model.id
    weights = load_file(copy / "model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match="other weights, settings or chat template"):
        load_reward_model(folder)


def test_a_model_is_updated_by_one_label(judged_store, trained_model, tmp_path):
    model = trained_model
    pair = next(p for p in load_labelled_pairs(judged_store, Split.HELDOUT) if p.label.preferred == p.label.first)
    updated = update_with_label(model, pair)
    assert updated.card["train_labels"] == model.card["train_labels"] + 1
    assert updated.id != model.id
    (before, doubt, _), (after, less, _) = (m.margins([pair.first], [pair.second]) for m in (model, updated))
    assert after > before
    assert less < doubt
    updated.save(tmp_path / "updated")
    assert load_reward_model(tmp_path / "updated").id == updated.id


def test_a_score_is_the_difference_of_the_rewards_and_never_negative(judged_store, trained_model, tmp_path):
    model = trained_model
    comparisons = list(find_comparisons(judged_store))
    for comparison, score in zip(comparisons, model.score(comparisons)):
        rewards = dict(zip([c.id for c in comparison.completions], model.rewards(list_conversations(comparison))))
        assert score.margin == pytest.approx(rewards[score.chosen] - rewards[score.rejected], abs=1e-5)
        assert score.margin >= 0
        assert score.uncertainty > 0
        assert 0.5 <= score.probability < 1


def test_an_evaluation_worked_by_hand_counts_ties_apart_and_equal_rewards_as_half(
    judged_store, trained_model, tmp_path
):
    model = trained_model
    found, examples = evaluate_reward_model(model, judged_store)
    right = sum(1.0 if e.margin > 0 else 0.5 if e.margin == 0 else 0.0 for e in examples)
    assert found.accuracy.value == pytest.approx(right / len(examples))
    assert found.ties == 0
    rater = people.add_rater(judged_store, "tie caller", Role.RATER).id
    prompt = next(p for i in range(999) if (p := Prompt.create((Message("user", f"t{i}"),))).split is Split.HELDOUT)
    pair = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in ("one", "two")]
    comparison = Comparison.create(prompt, pair)
    with judged_store.write() as conn:
        insert_comparisons(judged_store, conn, [comparison])
    lease = queue.lease(judged_store, rater, seconds=1800)
    queue.submit(judged_store, lease.id, rater, Answer(Verdict.RANKED, ((pair[0].id, pair[1].id),)))
    after, examples = evaluate_reward_model(model, judged_store)
    assert (after.n, after.ties) == (found.n, 1)
    assert [e.comparison_id for e in examples if e.is_tie] == [comparison.id]


def test_held_out_labels_do_not_reach_training(judged_store, trained_model, tmp_path):
    model = trained_model
    kept = {s: sum(c.prompt.split is s for c in find_comparisons(judged_store, judged=True)) for s in Split}
    assert model.card["train_labels"] == kept[Split.TRAIN]
    assert model.card["calibration_labels"] == kept[Split.CALIBRATION]


def test_models_of_the_two_halves_have_no_training_prompt_in_common(judged_store, backbone, trained_model, tmp_path):
    first, second = (train_head(judged_store, backbone, tmp_path, half=half) for half in ("first", "second"))
    assert first.seen is not None
    assert second.seen is not None
    assert trained_model.seen is not None
    assert not first.seen.train & second.seen.train
    assert first.seen.train | second.seen.train == trained_model.seen.train
    assert (first.card["half"], trained_model.card.get("half")) == ("first", None)
    assert update_with_new_votes(judged_store, first, tmp_path) is first, "the other half's votes are not new to it"
    assert "| half of the training prompts | second |" in (tmp_path / "reward" / second.id / "README.md").read_text()
    listed = run_command("models", "list", "--store", judged_store.url).stdout.splitlines()
    for model, half in ((first, "first"), (second, "second"), (trained_model, None)):
        [line] = [line for line in listed if model.id[:SHORT_ID_LENGTH] in line]
        assert f"of the {half} half" in line if half else "half" not in line
    # The watch takes one of them over the other, and no model over itself.
    watch = WatchArguments(gold_reward_model=str(tmp_path / "reward" / second.id)).open_watch(judged_store, first)
    assert watch.gold is not None
    assert watch.gold_model_id == second.id, "the newest may be another when the run is given again"
    with pytest.raises(BadInput, match="another model than reward_model"):
        WatchArguments(gold_reward_model=second.id).open_watch(judged_store, second)


def test_too_few_labels_and_missing_models_say_what_to_do(sqlite_store, backbone, tmp_path):
    with pytest.raises(BadInput, match=r"0 labels with a preference .*rlhf-hitl serve"):
        train_head(sqlite_store, backbone, tmp_path)
    with pytest.raises(NotFound, match="train one with"):
        load_reward_model(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="train-reward"):
        get_reward_model(sqlite_store)
