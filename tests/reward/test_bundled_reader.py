"""What comes with the package of the default backbone: it is read without a download, and never in place of another."""

import shutil

import numpy as np
import pytest

from checkout import ROOT
from reward_examples import chat
from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.formats.importing import import_bundled
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.bundled_reader import BundledFeatures, open_bundled_features, write_bundled_features
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.rendering import list_conversations
from rlhf_hitl.reward.views import FeatureView
from rlhf_hitl.store.comparisons import find_comparisons

BUNDLED = ROOT / "rlhf_hitl" / "bundled"


@pytest.fixture
def unfetched(tmp_path, monkeypatch) -> Backbone:
    """The default backbone on a machine that has not fetched it."""
    monkeypatch.setenv("RLHF_HITL_MODELS", str(tmp_path / "no models"))
    return Backbone(DEFAULT_MODEL)


def test_every_bundled_answer_has_its_features_and_no_other_text_has(unfetched, sqlite_store, tmp_path):
    import_bundled(sqlite_store)
    chats = list(dict.fromkeys(chat for c in find_comparisons(sqlite_store) for chat in list_conversations(c)))
    cache = FeatureCache(tmp_path / "features", unfetched)
    features = cache.features(chats)
    assert features.shape == (len(chats), unfetched.width)
    assert np.isfinite(features).all()
    assert not list((tmp_path / "features").rglob("*.safetensors")), "they are not written once more"
    other = chat("Something else?", "Yes.")
    with pytest.raises(NotFound, match=f"rlhf-hitl models get {DEFAULT_MODEL}"):
        cache.features([chats[0], other])


def test_the_bundled_files_are_small():
    assert sum(file.stat().st_size for file in (BUNDLED / "reader").iterdir()) <= 8e6


def test_one_view_of_the_bundled_features_is_a_part_of_all(unfetched, sqlite_store, tmp_path):
    import_bundled(sqlite_store)
    chats = list_conversations(next(iter(find_comparisons(sqlite_store))))
    every = FeatureCache(tmp_path, unfetched).features(chats).reshape(len(chats), len(unfetched.views), -1)
    alone = Backbone(DEFAULT_MODEL, layer=20, pooling="mean")
    at = unfetched.views.index(FeatureView(20, "mean"))
    assert np.array_equal(FeatureCache(tmp_path, alone).features(chats), every[:, at])


def test_a_model_with_other_weights_is_read_itself(tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / DEFAULT_MODEL)
    monkeypatch.setenv("RLHF_HITL_MODELS", str(tmp_path))
    backbone = Backbone(DEFAULT_MODEL)
    assert backbone.weights_hash != BundledFeatures.open().weights_hash
    assert open_bundled_features(backbone.weights_hash, backbone.views) is None
    conversation = chat("hello", "sea")
    assert FeatureCache(tmp_path / "features", backbone).features([conversation]).shape == (1, backbone.width)


def test_views_that_did_not_come_with_the_package_need_the_model(unfetched, tmp_path):
    backbone = Backbone(DEFAULT_MODEL, layer=3)
    conversation = chat("hello", "sea")
    with pytest.raises(NotFound, match="models get"):
        FeatureCache(tmp_path, backbone).features([conversation])


def test_features_in_8_bits_are_off_by_half_a_step_at_most(tmp_path):
    features = np.random.default_rng(0).normal(size=(50, 2, 8)).astype(np.float32)
    features[:, 1, 3] = 4.0  # a dimension that does not vary
    views = [FeatureView(1, "last"), FeatureView(1, "mean")]
    keys = [f"k{i}" for i in range(50)]
    write_bundled_features(tmp_path / "f.safetensors", keys, features, views, "hash")
    read = BundledFeatures(tmp_path / "f.safetensors")
    steps = (features.max(0) - features.min(0)) / 255
    for key, row in zip(keys, features):
        assert key in read
        assert (np.abs(read.read(key, views) - row) <= steps / 2 + 1e-5).all()


def test_a_backbone_that_is_neither_here_nor_bundled_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HITL_MODELS", str(tmp_path))
    with pytest.raises(BadInput):
        Backbone("no-such/model-anywhere")
