"""The reward model on a real tiny backbone: rendering, features, head, training, evaluation."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from checkout import ROOT
from forked_processes import run_module, run_on_two_processes
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.models import find_best_device, find_best_dtype, load_tokenizer
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.feature_store import FeatureStore, remove_least_recently_used
from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.head_fitting import _find_mode, fit_head
from rlhf_hitl.reward.labelled_pairs import load_labelled_pairs
from rlhf_hitl.reward.losses import ordinal_loss
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.rendering import Renderer, list_conversations
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.reward.training.head_update import update_with_label
from rlhf_hitl.reward.training.vote_weight_choice import choose_vote_weight
from rlhf_hitl.reward.vote_scale import FIRST_UNGRADED, SECOND_UNGRADED, TIE, make_votes_from_preferences, place_cuts
from rlhf_hitl.stats.calibration import expected_calibration_error
from rlhf_hitl.store import people, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.reward_models import get_reward_model
from rlhf_hitl.types import UNRANKED, Answer, Comparison, Completion, Message, Prompt, Role, Split, Verdict

WORDS = ["sea", "sun", "poem", "paris", "thanks", "friend", "lazy", "quick", "brown", "fox", "capital", "today"]


def chat(prompt: str, completion: str):
    return (Message("user", prompt),), (Message("assistant", completion),)


@pytest.fixture(scope="module")
def views(tiny_model):
    """A backbone that is read at two layers, each in both poolings."""
    return Backbone(str(tiny_model), dtype="float32")


# Rendering


def test_a_rendered_conversation_ends_with_one_eos(tiny_model):
    renderer = Renderer(load_tokenizer(tiny_model))
    ids = renderer.render(chat("hello", "fine thanks")).ids
    assert ids[-1] == renderer.eos_id
    assert ids[-2] != renderer.eos_id
    assert renderer.tokenizer.decode(ids) == "<|user|>hello<|end|><|assistant|>fine thanks<|end|>"


def test_the_prompt_is_cut_from_the_left_and_the_completion_is_kept(tiny_model):
    renderer = Renderer(load_tokenizer(tiny_model), max_length=20)
    short = renderer.render(chat("hello " * 200, "fine thanks"))
    assert len(short.ids) == 20
    assert short.dropped > 0
    assert short.cut == 0
    assert renderer.tokenizer.decode(short.ids).endswith("<|assistant|>fine thanks<|end|>")
    long = renderer.render(chat("hello", "thanks " * 200))
    assert len(long.ids) == 20
    assert long.cut > 0
    assert long.ids[-1] == renderer.eos_id


def test_padding_is_never_eos_even_where_the_tokenizer_says_so(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.pad_token = tokenizer.eos_token
    assert Renderer(tokenizer).pad_id != tokenizer.eos_token_id


def test_a_tokenizer_without_template_gets_a_plain_one_and_without_eos_is_refused(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = None
    assert "user: hello" in tokenizer.decode(Renderer(tokenizer).render(chat("hello", "fine")).ids)
    tokenizer.eos_token = None
    with pytest.raises(BadInput, match="EOS"):
        Renderer(tokenizer)


def test_an_empty_completion_is_refused(tiny_model):
    with pytest.raises(BadInput, match="completion ''"):
        Renderer(load_tokenizer(tiny_model)).render(chat("hello", " \n"))


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=80).filter(str.strip), st.text(min_size=1, max_size=80).filter(str.strip))
def test_any_text_renders_to_at_most_max_length_with_eos_last(tiny_model, prompt, completion):
    renderer = Renderer(load_tokenizer(tiny_model), max_length=48)
    ids = renderer.render(chat(prompt, completion)).ids
    assert 0 < len(ids) <= 48
    assert ids[-1] == renderer.eos_id


# Features


def test_features_do_not_depend_on_what_else_is_in_the_batch(backbone):
    chats = [chat("hello", " ".join(WORDS[: i + 1])) for i in range(9)]
    rendered = [backbone.renderer.render(c) for c in chats]
    together = backbone.compute(rendered)
    alone = np.concatenate([backbone.compute([r]) for r in rendered])
    assert np.abs(together - alone).max() < 1e-5


def test_views_of_one_pass_are_what_each_is_alone_and_the_mean_is_over_the_completion(views):
    assert {(v.layer, v.pooling) for v in views.views} == {(at, how) for at in (1, 2) for how in ("last", "mean")}
    rendered = [views.renderer.render(chat("hello " * i, " ".join(WORDS[: i + 1]))) for i in range(4)]
    together = views.compute(rendered)
    for j, view in enumerate(views.views):
        alone = Backbone(views.name, layer=view.layer, pooling=view.pooling, dtype="float32")
        assert np.abs(together[:, j] - alone.compute(rendered)[:, 0]).max() < 1e-5
    by_layer = {v.layer: views.views.index(v) for v in views.views if v.pooling == "mean"}
    ids = torch.tensor([rendered[2].ids])
    states = views._model(ids, output_hidden_states=True).hidden_states
    assert views.renderer.tokenizer.decode(rendered[2].ids[rendered[2].start :]).strip() == "sea sun poem<|end|>"
    for layer, j in by_layer.items():
        by_hand = states[layer][0, rendered[2].start :].mean(0).detach().numpy()
        assert np.abs(together[2, j] - by_hand).max() < 1e-5


def test_features_computed_for_all_views_are_reused_for_one(views, tmp_path):
    chats = [chat("hello", w) for w in WORDS]
    every = FeatureCache(tmp_path, views).features(chats)
    assert every.shape == (len(chats), views.width)
    written = {p: p.stat().st_ino for p in tmp_path.rglob("*.safetensors")}
    one = views.width // len(views.views)
    for j, view in enumerate(views.views):
        alone = Backbone(views.name, layer=view.layer, pooling=view.pooling, dtype="float32")
        assert np.array_equal(FeatureCache(tmp_path, alone).features(chats), every[:, j * one : (j + 1) * one])
    assert {p: p.stat().st_ino for p in tmp_path.rglob("*.safetensors")} == written


def test_features_are_computed_once_and_found_by_another_process(backbone, tmp_path):
    chats = [chat("hello", w) for w in WORDS]
    first = FeatureCache(tmp_path, backbone).features(chats)
    [shard] = (tmp_path / backbone.fingerprint_view(backbone.views[0])).glob("*.safetensors")
    written = shard.stat().st_ino
    again = FeatureCache(tmp_path, backbone).features([*chats, chats[0]])
    assert np.array_equal(again[:-1], first)
    assert np.array_equal(again[-1], first[0])
    assert [
        p.stat().st_ino for p in (tmp_path / backbone.fingerprint_view(backbone.views[0])).glob("*.safetensors")
    ] == [written]


def test_fresh_rollouts_leave_nothing_on_disk(backbone, tmp_path):
    FeatureCache(tmp_path, backbone).features([chat("hello", "fine")], keep=False)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_many_shards_are_merged_and_nothing_is_lost(backbone, tmp_path):
    cache = FeatureCache(tmp_path, backbone)
    cache.stores[0].MERGE_AT = 4
    chats = [chat("hello", f"{w} {v}") for w in WORDS for v in "ab"]
    rows = np.concatenate([cache.features([c]) for c in chats])
    assert len(list(tmp_path.rglob("*.safetensors"))) <= 5
    assert np.array_equal(FeatureCache(tmp_path, backbone).features(chats), rows)


def test_a_cache_keeps_to_its_size_and_drops_what_was_not_used_for_longest(backbone, tmp_path):
    chats = [chat("hello", f"{w} {v}") for w in WORDS for v in "ab"]
    row = backbone.width * 4
    cache = FeatureCache(tmp_path, backbone, max_gb=8 * (row + 300) / 1e9)
    for one in chats:
        first = cache.features([chats[0], one])[0]
        for shard in tmp_path.rglob("*.safetensors"):  # as if an hour had gone by
            os.utime(shard, (shard.stat().st_atime - 3600, shard.stat().st_mtime - 3600))
    kept = list(tmp_path.rglob("*.safetensors"))
    assert 0 < sum(f.stat().st_size for f in kept) <= cache.max_gb * 1e9
    again = FeatureCache(tmp_path, backbone)
    [mine], [feature_store] = cache.stores, again.stores
    feature_store.refresh()
    assert len(feature_store._rows) < len(chats)
    mine.refresh()
    assert set(mine._mapped) == set(kept)  # what is still mapped takes up its room, whether it has a name or not
    assert np.array_equal(again.features([chats[0]])[0], first)  # used each time, so it is still there, or made anew


def test_reading_a_row_protects_it_from_being_removed_first(backbone, tmp_path):
    first, second = chat("hello", "sea"), chat("hello", "sun")
    FeatureCache(tmp_path, backbone).features([first])
    [used] = tmp_path.rglob("*.safetensors")
    FeatureCache(tmp_path, backbone).features([second])
    os.utime(used, (0, 0))
    FeatureCache(tmp_path, backbone).features([first])  # found on disk: nothing is written
    remove_least_recently_used(tmp_path, used.stat().st_size)
    assert list(tmp_path.rglob("*.safetensors")) == [used]


def test_mapped_rows_stay_readable_after_another_process_removed_their_shard(tmp_path):
    feature_store = FeatureStore(tmp_path)
    feature_store.write(["a"], np.full((1, 3), 7, np.float32))
    for file in tmp_path.iterdir():
        file.unlink()
    assert (feature_store["a"] == 7).all()


def test_a_shard_is_removed_only_after_all_its_rows_are_in_another(tmp_path):
    feature_store = FeatureStore(tmp_path)
    feature_store.MERGE_AT = 1
    for _ in range(2):  # as two processes that computed the same do
        feature_store._write_shard(["a"], np.full((1, 3), 7, np.float32))
    known_shard, _ = feature_store._rows["a"]
    known_shard.unlink()  # by another process, which has the row in the other shard
    feature_store.write(["b"], np.zeros((1, 3), np.float32))
    found = FeatureStore(tmp_path)
    found.refresh()
    assert (found["a"] == 7).all()


def test_cached_rows_are_read_even_if_another_process_removes_shards_meanwhile(backbone, tmp_path, monkeypatch):
    known, new = chat("hello", "sea"), chat("hello", "sun")
    first = FeatureCache(tmp_path, backbone).features([known])
    cache, compute = FeatureCache(tmp_path, backbone), backbone.compute
    cache.stores[0].MERGE_AT = 0  # so that writing looks at the folder again

    def and_room_is_made(*args):
        remove_least_recently_used(tmp_path, 0)
        return compute(*args)

    monkeypatch.setattr(backbone, "compute", and_room_is_made)
    assert np.array_equal(cache.features([known, new])[0], first[0])


def test_files_left_by_a_crash_are_removed_and_computed_again(backbone, tmp_path):
    first = FeatureCache(tmp_path, backbone).features([chat("hello", "sea")])
    [shard] = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-5])
    orphan, draft = shard.with_name("a.writing"), shard.with_name("b.writing")
    orphan.write_bytes(b"half")
    os.utime(orphan, (0, 0))
    draft.write_bytes(b"being written")
    assert np.array_equal(FeatureCache(tmp_path, backbone).features([chat("hello", "sea")]), first)
    assert not shard.exists()
    assert not orphan.exists()
    assert draft.exists()


def test_writers_that_merge_shards_under_each_other_lose_nothing(tmp_path):
    def fill(name: str) -> None:
        feature_store = FeatureStore(tmp_path)
        feature_store.MERGE_AT = 2
        for i in range(40):
            feature_store.refresh()
            feature_store.write([f"{name}{i}"], np.full((1, 3), i, np.float32))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(fill, "abc"))  # threads with a feature_store each share the folder alone, as processes do
    found = FeatureStore(tmp_path)
    found.refresh()
    assert all((found[f"{name}{i}"] == i).all() for name in "abc" for i in range(40))


def test_a_layer_that_the_model_does_not_have_is_refused(tiny_model):
    with pytest.raises(BadInput, match="1 to 2"):
        Backbone(str(tiny_model), layer=3)
    with pytest.raises(BadInput, match="last or mean"):
        Backbone(str(tiny_model), pooling="max")


def test_an_adapter_without_its_base_is_refused_as_backbone(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="LoRA adapter"):
        Backbone(str(tmp_path))


def test_a_model_tuned_in_one_layer_is_another_backbone(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    load_tokenizer(tiny_model).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    same = Backbone(str(tmp_path), layer=1, pooling="last", dtype="float32").fingerprint
    model.model.layers[0].mlp.up_proj.weight.data[3, 5] += 0.5
    model.save_pretrained(tmp_path)
    assert Backbone(str(tmp_path), layer=1, pooling="last", dtype="float32").fingerprint != same


def test_an_encoder_without_chat_template_or_eos_serves_as_backbone(tiny_model, tmp_path):
    from transformers import BertConfig, BertModel

    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template, tokenizer.sep_token, tokenizer.eos_token = None, "<|end|>", None
    tokenizer.save_pretrained(tmp_path / "bert")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    encoder = Backbone(str(tmp_path / "bert"), dtype="float32")
    rendered = [encoder.renderer.render(chat("hello", w)) for w in WORDS]
    assert {v.layer for v in encoder.views} == {2}
    assert len(np.unique(encoder.compute(rendered).round(4), axis=0)) == len(WORDS)


# Head


def test_head_agrees_with_logistic_regression_under_the_same_prior():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    y = (rng.random(400) < expit(x @ rng.normal(size=6))).astype(int)
    mode, _ = _find_mode(x, make_votes_from_preferences(y), np.zeros(6), np.full(6, 2.0), np.zeros(6))
    reference = LogisticRegression(C=1 / 2.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
    assert np.abs(mode - reference.coef_[0]).max() < 1e-4


def test_evidence_shrinks_noise_and_keeps_signal():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 21))
    noise = fit_head(x, make_votes_from_preferences(rng.random(300) < 0.5))
    signal = fit_head(x, make_votes_from_preferences(rng.random(300) < expit(x[:, :20] @ np.full(20, 1.0))))
    assert noise.precisions[0] > 10 * signal.precisions[0]
    assert np.abs(noise.weights).max() < 0.2


def test_uncertainty_falls_with_labels_and_grows_away_from_them():
    rng = np.random.default_rng(0)
    w = np.r_[np.ones(4), 0.5]

    def fitted(n):
        x = rng.normal(size=(n, 5))
        return fit_head(x, make_votes_from_preferences(rng.random(n) < expit(x @ w)))

    probe = np.ones((1, 5))
    few, many = fitted(40), fitted(2000)
    assert many.margins(probe)[1] < 0.5 * few.margins(probe)[1]
    assert few.margins(10 * probe)[1] == pytest.approx(10 * few.margins(probe)[1])
    assert few.probabilities(*few.margins(probe)) < expit(few.margins(probe)[0])  # doubt moves it to one half


def test_ties_pull_a_margin_to_zero():
    x = np.c_[np.ones((50, 1)), np.zeros((50, 1))]
    wins, even = (fit_head(x, make_votes_from_preferences(np.full(50, share))) for share in (1, 0.5))
    ties = fit_head(x, np.eye(9)[np.full(50, TIE)])
    assert wins.margins(x[:1])[0] > 1
    for neither in (even, ties):
        assert neither.margins(x[:1])[0] == pytest.approx(0, abs=1e-6)


def graded(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences (n, 7), votes (n, 9) of raters who use all of the scale (cuts at 0.5, 1.2, 2), and true margins."""
    rng = np.random.default_rng(seed)
    x = np.c_[rng.normal(size=(n, 6)), rng.normal(size=n)]
    margins = x @ np.r_[rng.normal(size=6), 0.3]
    seen = margins + rng.logistic(size=n)
    outcomes = np.select([seen > c for c in (2, 1.2, 0.5, -0.5, -1.2, -2)], [0, 1, 2, TIE, 6, 7], 8)
    votes = np.eye(9)[outcomes]
    ungraded = rng.random(n) < 0.3
    votes[ungraded, FIRST_UNGRADED], votes[ungraded, SECOND_UNGRADED] = (
        votes[ungraded, :3].sum(1),
        votes[ungraded, 6:].sum(1),
    )
    votes[np.ix_(ungraded, [0, 1, 2, 6, 7, 8])] = 0
    return x, votes, margins


def sum_ordinal_losses(margins: torch.Tensor, votes: np.ndarray, thresholds) -> torch.Tensor:
    """The votes' negative log likelihood as `losses.ordinal_loss` has it."""
    strengths = torch.tensor(votes[:, [0, 1, 2, 4, 6, 7, 8]])
    ungraded = torch.tensor(votes[:, [FIRST_UNGRADED, TIE, SECOND_UNGRADED]]) * torch.tensor([1.0, 0, 1])
    t = torch.as_tensor(thresholds, dtype=torch.float64)
    return (ordinal_loss(margins, strengths, t) + ordinal_loss(margins, ungraded, t[:1])).sum()


def test_a_head_of_strengths_and_ties_is_at_the_mode_of_the_ordinal_loss():
    x, votes, margins = graded(3000)
    head = fit_head(x, votes)
    w = torch.tensor(head.weights, requires_grad=True)
    t = torch.tensor(head.thresholds, requires_grad=True, dtype=torch.float64)
    likelihood = sum_ordinal_losses(torch.tensor(x) @ w, votes, t)
    of_weights, of_thresholds = torch.autograd.grad(likelihood, [w, t])
    prior = np.r_[np.full(6, head.precisions[0]), head.precisions[1]] * head.weights
    assert np.abs(of_weights.numpy() + prior).max() < 1e-2  # of slopes that sum up 3,000 labels
    assert np.abs(of_thresholds.numpy()).max() < 5
    assert head.thresholds == pytest.approx((0.5, 1.2, 2), abs=0.15)
    assert np.corrcoef(head.rewards(x), margins)[0, 1] > 0.99


def test_strengths_teach_more_than_preferences_alone():
    agreed = []
    for seed in range(20):
        x, votes, margins = graded(100, seed)
        plain = make_votes_from_preferences(votes[:, :4].sum(1) + votes[:, TIE] / 2)
        agreed.append([np.corrcoef(fit_head(x, v).rewards(x), margins)[0, 1] for v in (votes, plain)])
    graded_votes, preferences = np.mean(agreed, axis=0)
    assert graded_votes > preferences


def test_probabilities_are_of_raters_who_see_a_difference():
    x, votes, _ = graded(4000)
    head = fit_head(x, votes)
    seen = votes[:, TIE] == 0
    p = head.probabilities(*head.margins(x[seen]))
    first = votes[seen, :4].sum(1)
    assert expected_calibration_error(np.maximum(p, 1 - p), np.where(p > 0.5, first, 1 - first)) < 0.03


@pytest.mark.parametrize("n", [50, 500])
def test_an_update_after_one_label_agrees_with_a_refit(n):
    """To a tenth of a standard deviation with 50 labels, to a hundredth with 500; prior and thresholds stay."""
    x, votes, _ = graded(n + 20, seed=1)
    head = fit_head(x[:n], votes[:n])
    alpha = np.r_[np.full(6, head.precisions[0]), head.precisions[1]]
    probes = np.random.default_rng(2).normal(size=(100, 7))
    for i in range(n, n + 20):
        updated = head.updated(x[i], votes[i])
        seen = np.r_[0:n, i]
        mode, hessian = _find_mode(x[seen], votes[seen], place_cuts(head.thresholds), alpha, head.weights)
        refitted = Head(mode, np.linalg.inv(hessian), head.precisions, thresholds=head.thresholds)
        (m, s), (again, spread) = updated.margins(probes), refitted.margins(probes)
        assert (np.abs(m - again) / spread).max() < 5 / n
        assert np.abs(s / spread - 1).max() < 5 / n
        assert (s < head.margins(probes)[1]).all()


def test_an_update_without_a_vote_or_a_difference_changes_nothing():
    x, votes, _ = graded(50)
    head = fit_head(x, votes)
    assert head.updated(x[0], np.zeros(9)) is head
    assert head.updated(np.zeros(7), votes[0]) is head


def quirky(prompts: int, each: int, quirk: float, rng: np.random.Generator, weights: np.ndarray):
    """Pairs whose raters go by `weights` and, on each prompt, by something of its own: differences, first preferred,
    prompts."""
    scale = 1 / np.sqrt(1 + np.arange(len(weights)))
    answers = rng.normal(size=(prompts, 6, len(weights))) * scale
    sides = np.array([rng.choice(6, 2, replace=False) for _ in range(prompts * each)])
    of = np.repeat(np.arange(prompts), each)
    x = answers[of, sides[:, 0]] - answers[of, sides[:, 1]]
    own = weights + quirk * rng.normal(size=(prompts, len(weights)))
    first = rng.random(len(of)) < 1 / (1 + np.exp(-(own[of] * x).sum(1)))
    return np.c_[x, np.zeros(len(x))], first.astype(float), of


@pytest.mark.parametrize(("prompts", "each", "quirk"), [(10, 80, 1.5), (400, 1, 0.5)])
def test_the_vote_weight_is_lower_where_votes_about_one_prompt_say_little_about_others(prompts, each, quirk):
    rng = np.random.default_rng(2)
    weights = rng.normal(size=40)
    x, first, of = quirky(prompts, each, quirk, rng, weights)
    others, targets, _ = quirky(400, 1, quirk, rng, weights)

    def loss(vote_weight: float) -> float:
        head = fit_head(x, make_votes_from_preferences(first), vote_weight=vote_weight)
        p = head.probabilities(*head.margins(others))
        return float(-np.mean(targets * np.log(p) + (1 - targets) * np.log1p(-p)))

    vote_weight, losses = choose_vote_weight(x, make_votes_from_preferences(first), of)
    assert losses[vote_weight] == min(losses.values())
    assert (vote_weight < 1) == (each > 1)
    assert loss(vote_weight) <= loss(1.0)


def test_a_vote_weight_of_half_equals_half_a_vote_in_fits_and_updates():
    rng = np.random.default_rng(0)
    x, votes = rng.normal(size=(60, 5)), make_votes_from_preferences((rng.random(60) < 0.5).astype(float))
    half, of_halves = fit_head(x, votes, vote_weight=0.5), fit_head(x, votes / 2)
    assert np.allclose(half.weights, of_halves.weights)
    assert np.allclose(half.updated(x[0], votes[0]).weights, of_halves.updated(x[0], votes[0] / 2).weights)


# Training, scoring, replay


def test_a_trained_head_ranks_held_out_prompts_and_survives_saving(judged_store, trained_model, tmp_path):
    model = trained_model
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


def test_too_few_labels_and_missing_models_say_what_to_do(sqlite_store, backbone, tmp_path):
    with pytest.raises(BadInput, match=r"0 labels with a preference .*rlhf-hitl serve"):
        train_head(sqlite_store, backbone, tmp_path)
    with pytest.raises(NotFound, match="train one with"):
        load_reward_model(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="train-reward"):
        get_reward_model(sqlite_store)


# The full backend


@pytest.mark.timeout(240)
def test_full_training_under_accelerate_on_two_processes_loads_in_plain_transformers(
    judged_store, tiny_model, tmp_path
):
    from transformers import AutoModelForSequenceClassification

    export_snapshot(judged_store, tmp_path / "export")
    given = {
        "config": ROOT / "configs" / "reward.yaml", "model_name_or_path": tiny_model,
        "dataset": tmp_path / "export", "output_dir": tmp_path / "full", "num_train_epochs": 3, "learning_rate": 3e-3,
        "gradient_accumulation_steps": 1, "save_strategy": "no", "report_to": "none",
    }  # fmt: skip
    flags = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    run_on_two_processes("rlhf_hitl.scripts.train_reward", *flags)
    model = load_reward_model(tmp_path / "full")
    assert evaluate_reward_model(model, judged_store)[0].accuracy.value > 0.7
    chats = [chat("question 3 about sea", w) for w in WORDS]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "full").eval()
    renderer = model.cache.backbone.renderer
    # The loaded model reads in bf16 where the processor computes in it, plain transformers in fp32.
    near = 1e-4 if find_best_dtype(find_best_device()) is torch.float32 else 2e-2
    for one, reward in zip(chats, model.rewards(chats)):
        ids, pads = list(renderer.render(one).ids), [renderer.pad_id] * 3  # rows as in a batch, padded on either side
        for row, mask in ((ids + pads, [1] * len(ids) + [0] * 3), (pads + ids, [0] * 3 + [1] * len(ids))):
            found = plain(torch.tensor([row]), attention_mask=torch.tensor([mask])).logits.item()
            assert found == pytest.approx(reward, abs=near)
    _, stds, _ = model.margins(chats[:5], chats[5:10])
    assert (stds > 0).all()


def test_full_training_from_the_store_registers_a_lora_model(judged_store, tiny_model, tmp_path):
    from rlhf_hitl.reward.training.full_from_store import train_full_from_store

    config = tmp_path / "config.yaml"
    config.write_text(
        "use_peft: true\nlearning_rate: 5.0e-3\nnum_train_epochs: 2\nper_device_train_batch_size: 16\n"
        "save_strategy: epoch\nreport_to: tensorboard\n"
    )
    model = train_full_from_store(judged_store, str(tiny_model), tmp_path, config=config, max_length=128)
    assert np.abs(model.head.weights).max() > 0  # the score head was trained, not frozen
    assert get_reward_model(judged_store).id == model.id
    folder = tmp_path / "reward" / model.id
    card = json.loads((folder / "reward_model.json").read_text())
    assert card["backend"] == "full"
    assert card["data_hash"].startswith("sha256:")
    assert len(list(folder.glob("checkpoint-*"))) == 2  # no output_dir was named: what the run wrote is here
    assert list(folder.rglob("events.out.tfevents*"))
    assert (folder / "training.svg").is_file()


def test_the_command_follows_the_file_of_full_training_and_prints_one_json_object(judged_store, tiny_model, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model_name_or_path: {tiny_model}\nmax_length: 96\nlogging_steps: 1\neval_strategy: epoch\n"
        "num_train_epochs: 1\ncenter_rewards_coefficient: 0.01\npad_to_multiple_of: 8\n"
    )
    workspace = tmp_path / "not" / "there" / "yet"
    run = run_module(
        "rlhf_hitl", "train-reward", "--backend", "full", "--config", config, "--json", "--store", judged_store.url,
        env=os.environ | {"RLHF_HITL_WORKSPACE": str(workspace)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    card = json.loads((Path(json.loads(run.stdout)["path"]) / "reward_model.json").read_text())
    assert card["backbone"]["max_length"] == 96


@pytest.fixture
def pairs_folder(tmp_path):
    """Saves a dataset of one pair a prompt in each split and returns its folder."""
    from datasets import Dataset, DatasetDict

    def save(**splits: list[str]) -> str:
        def row(prompt: str) -> dict:
            (question,), _ = chat(prompt, "")
            answers = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
            return {"prompt": [{"role": "user", "content": question.content}], **answers}

        DatasetDict({k: Dataset.from_list([row(p) for p in v]) for k, v in splits.items()}).save_to_disk(tmp_path / "d")
        return str(tmp_path / "d")

    return save


@pytest.mark.parametrize("held", ["heldout", "test"])
def test_full_training_refuses_a_row_whose_prompt_is_held_out(pairs_folder, held):
    from rlhf_hitl.reward.training.dataset_loading import load_training_rows

    with pytest.raises(BadInput, match="train row 1: "):
        load_training_rows(pairs_folder(**{"train": ["sea", "The  Sun", "fox"], held: ["the sun"]}))


def test_full_training_without_calibration_rows_evaluates_nothing(pairs_folder, tiny_model, tmp_path):
    from trl import ModelConfig

    from rlhf_hitl.arguments import parse_arguments
    from rlhf_hitl.reward.training.full_config import FullTrainingConfig
    from rlhf_hitl.reward.training.full_training import build_reward_trainer

    flags = {"--dataset": pairs_folder(train=["sea", "sun"]), "--output_dir": str(tmp_path / "out")}
    flags |= {"--model_name_or_path": str(tiny_model), "--eval_strategy": "epoch", "--pad_to_multiple_of": "64"}
    trainer: Any = build_reward_trainer(
        *parse_arguments((FullTrainingConfig, ModelConfig), [x for pair in flags.items() for x in pair])
    )
    assert trainer.args.eval_strategy == "no"
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[1] == 64
    trainer.model.score.weight.data.fill_(0.1)
    trainer.model.eval()
    plain = trainer.compute_loss(trainer.model, dict(batch)).item()
    trainer.args.center_rewards_coefficient = 0.5
    centred = trainer.compute_loss(trainer.model, dict(batch)).item()
    chosen, rejected = trainer.model(batch["input_ids"], batch["attention_mask"]).logits.view(-1, 2).T
    assert centred - plain == pytest.approx(0.5 * ((chosen + rejected) ** 2).mean().item(), rel=1e-4)


def test_full_training_learns_from_soft_labels_ties_and_weights(tiny_model, tmp_path):
    """The loss by hand: Davidson's with the labels' own share of ties, each label as heavy as it says."""
    from datasets import Dataset, DatasetDict
    from trl import ModelConfig

    from rlhf_hitl.arguments import parse_arguments
    from rlhf_hitl.reward.training.full_config import FullTrainingConfig
    from rlhf_hitl.reward.training.full_training import build_reward_trainer

    def row(prompt: str, p: tuple[float, float, float], weight: float) -> dict:
        (question,), _ = chat(prompt, "")
        answers = {side: [{"role": "assistant", "content": f"{side} one"}] for side in ("chosen", "rejected")}
        label = dict(zip(("p_chosen", "p_tie", "p_rejected"), p)) | {"weight": weight}
        return {"prompt": [{"role": "user", "content": question.content}], **answers, **label}

    rows = [row("sea", (0.75, 0.25, 0.0), 4), row("sun", (0.0, 1.0, 0.0), 1), row("fox", (0.5, 0.0, 0.5), 1)]
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(tmp_path / "d")
    flags = {"--dataset": str(tmp_path / "d"), "--output_dir": str(tmp_path / "out"), "--length_coefficient": "2"}
    flags |= {"--model_name_or_path": str(tiny_model), "--per_device_train_batch_size": "3", "--share_prompts": "false"}
    trainer: Any = build_reward_trainer(
        *parse_arguments((FullTrainingConfig, ModelConfig), [x for pair in flags.items() for x in pair])
    )
    [nu] = trainer.prevalences
    assert nu == pytest.approx(2 * (1 / 3) / (1 - 1 / 3))  # 2 of the 6 votes are ties
    trainer.model.score.weight.data.normal_(std=0.3)
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    weights, outcomes = batch["weight"].numpy(), [[0, 1], [0, 0], [1, 0], [UNRANKED, UNRANKED]]
    shares = np.zeros((3, 4))
    for row, ranks, vote_shares in zip(shares, batch["ranks"].tolist(), batch["shares"].tolist()):
        row[[outcomes.index(ranking) for ranking in ranks]] = vote_shares
    assert sorted(map(tuple, shares)) == [(0, 1, 0, 0), (0.5, 0, 0.5, 0), (0.75, 0.25, 0, 0)]
    shares = shares[:, :3]
    rewards = trainer.model(batch["input_ids"], batch["attention_mask"]).logits.squeeze(-1).detach().numpy()
    m = rewards[::2] - rewards[1::2]
    odds = np.stack([np.exp(m / 2), np.full(3, nu), np.exp(-m / 2)], axis=1)
    by_hand = -(shares * np.log(odds / odds.sum(1, keepdims=True))).sum(1) @ weights / 6
    d = np.full(3, np.log(11 / 13))  # "chosen one" and "rejected one", and one each for the logarithm
    by_hand += 2 * (m @ d) ** 2 / (m @ m * (d @ d))
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("column", [{"weight": -1.0}, {"weight": float("nan")}, {"p_chosen": 0.7, "p_tie": 0.6}])
def test_full_training_refuses_an_invalid_weight_or_invalid_shares(column):
    from rlhf_hitl.reward.training.dataset_rows import read_shares, read_weight

    with pytest.raises(BadInput, match="weight" if "weight" in column else "p_tie"):
        (read_weight if "weight" in column else read_shares)(column)


@pytest.mark.parametrize(
    "flag", ["load_in_4bit true", "load_in_8bit true", "use_dora true", "trust_remote_code true", "eos_token x"]
)
def test_full_training_refuses_unsupported_settings(flag, tmp_path):
    from trl import ModelConfig

    from rlhf_hitl.arguments import parse_arguments
    from rlhf_hitl.reward.training.full_config import FullTrainingConfig
    from rlhf_hitl.reward.training.full_training import build_reward_trainer

    name, value = flag.split()
    with pytest.raises(BadInput, match=name):
        build_reward_trainer(
            *parse_arguments((FullTrainingConfig, ModelConfig), ["--output_dir", str(tmp_path), f"--{name}", value])
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_stepz: 3", r"config\.yaml: setting max_stepz: expected a known setting\. Fix: did you mean max_steps\?"),
        ("max_steps: three", r"config\.yaml: max_steps: expected what can be read \(invalid int value: 'three'\)"),
        ("- three", r"config\.yaml: settings: .*must contain a YAML mapping"),
        ("a: [", r"config\.yaml: settings: "),
    ],
)
def test_a_setting_that_cannot_be_read_is_named_with_its_file(tmp_path, text, message):
    from trl import ModelConfig

    from rlhf_hitl.arguments import parse_arguments
    from rlhf_hitl.reward.training.full_config import FullTrainingConfig

    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(BadInput, match=message):
        parse_arguments((FullTrainingConfig, ModelConfig), ["--config", str(tmp_path / "config.yaml")])
    for flags in (["--config"], ["--config", str(tmp_path)]):
        with pytest.raises(BadInput, match=r"YAML file|FILE\.yaml"):
            parse_arguments((FullTrainingConfig, ModelConfig), flags)


def test_full_training_script_answers_a_bad_flag_with_one_line():
    run = run_module("rlhf_hitl.scripts.train_reward", "--no_such_flag", 1)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: setting no_such_flag")
    assert "Traceback" not in run.stderr
