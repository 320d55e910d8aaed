"""Features of conversations: views, batches, the cache on disk."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from reward_examples import WORDS, chat
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_tokenizer
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.feature_store import FeatureStore, remove_least_recently_used


@pytest.fixture(scope="module")
def views(tiny_model):
    """A backbone that is read at two layers, each in both poolings."""
    return Backbone(str(tiny_model), dtype="float32")


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
    states = views.extractor.model(ids, output_hidden_states=True).hidden_states
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
