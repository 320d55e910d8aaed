"""The fused decoder gives the states of the model whose weights it runs, or is not used."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.reward import fused_decoder
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.extractor import map_on_cores
from rlhf_hitl.reward.fused_decoder import BLOCK, KEY_MULTIPLE, FusedDecoder, fuse_decoder, plant_forest
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.types import Message

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def make_decoder(kind: str, **settings: Any) -> Any:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 300}
    sizes |= {} if kind == "GPT2" else {"intermediate_size": 96, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes | settings, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = getattr(transformers, f"{kind}Model")._from_config(config).eval()
    for name, parameter in model.named_parameters():  # as new ones they are all ones and zeros, which hides mistakes
        if "norm" in name or "bias" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def write_trees(root: int) -> list[list[list[int]]]:
    rng = np.random.default_rng(0)

    def some(n: int) -> list[int]:
        return rng.integers(3, 300, n).tolist()

    system, prompt, other = some(root), some(40), some(2 * BLOCK)
    return [
        [system + prompt + some(n) for n in (5, 30, 1)],
        [system + some(9)],
        [system + other + some(3), system + other + some(BLOCK)],
        [system + some(4), system + some(6)],
    ]


@given(st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_every_conversation_is_whole_in_the_forest_and_sees_itself_alone(trees):
    forest = plant_forest(trees, torch.float32)
    conversations = [ids for tree in trees for ids in tree]
    assert len(forest.ids) == len(forest.positions) <= sum(map(len, conversations))
    assert [(b.start, b.end) for b in forest.blocks] == list(
        zip([0, *(b.end for b in forest.blocks)], [b.end for b in forest.blocks])
    )
    seen: dict[int, list[int]] = {}
    for block in forest.blocks:
        assert (block.key_end - block.key_start) % KEY_MULTIPLE == 0
        keys = forest.keys[block.key_start : block.key_end]
        for query, mask in enumerate(block.mask[0, 0], block.start):
            seen[query] = keys[mask == 0].tolist()
    for ids, path in zip(conversations, forest.paths, strict=True):
        assert forest.ids[path].tolist() == ids
        assert forest.positions[path].tolist() == list(range(len(ids)))
        for n, token in enumerate(path.tolist(), 1):
            assert seen[token] == path[:n].tolist()
    assert len({int(path[-1]) for path in forest.paths}) == len(conversations)  # each ends in a token of its own


@pytest.mark.parametrize("root", [0, 24])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Llama", {}),
        ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4, "head_dim": 24}),
        ("Qwen2", {}),
        ("Mistral", {"sliding_window": None}),
    ],
)
def test_states_of_every_layer_are_those_of_the_conversations(kind, settings, root):
    model = make_decoder(kind, **settings)
    decoder = fuse_decoder(model)
    assert decoder is not None
    trees = write_trees(root)
    forest = plant_forest(trees, torch.float32)
    states = decoder.run(forest, {0, 1, 2, 3})
    with torch.no_grad():
        for ids, path in zip([ids for tree in trees for ids in tree], forest.paths):
            outputs = model(torch.tensor([ids]), output_hidden_states=True)
            for layer, expected in enumerate((*outputs.hidden_states[:3], outputs.last_hidden_state)):
                assert (states[layer][path] - expected[0]).abs().max() < 1e-4


def test_in_bfloat16_it_is_as_near_to_the_states_of_float32_as_the_model_is():
    model = make_decoder("Llama")
    trees = write_trees(24)
    forest = plant_forest(trees, torch.bfloat16)
    with torch.no_grad():
        exact = [model(torch.tensor([ids])).last_hidden_state[0] for tree in trees for ids in tree]
        model = model.bfloat16()
        theirs = [model(torch.tensor([ids])).last_hidden_state[0] for tree in trees for ids in tree]
    states = FusedDecoder(model).run(forest, {3})[3]

    def measure_error(found: list[torch.Tensor]) -> float:
        return float(np.mean([(a.float() - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)]))

    assert measure_error([states[path] for path in forest.paths]) < 1.25 * measure_error(theirs)


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("GPT2", {}, "GPT2Model is none of LlamaModel, MistralModel, Qwen2Model"),
        ("Llama", {"hidden_act": "gelu"}, "its activation is gelu"),
        ("Llama", {"rope_parameters": DYNAMIC}, "its positions are of type dynamic"),
    ],
)
def test_a_model_of_another_kind_runs_as_its_library_defines_it(kind, settings, why, caplog):
    caplog.set_level("INFO", "rlhf_hitl")
    assert fuse_decoder(make_decoder(kind, **settings)) is None
    assert caplog.messages == [f"the model runs as its library defines it: {why}"]


def test_a_model_that_computes_something_else_than_its_name_says_is_detected(caplog):
    caplog.set_level("INFO", "rlhf_hitl")
    model = make_decoder("Llama")
    model.layers[1].register_forward_hook(lambda _, __, output: output * 1.5)
    assert fuse_decoder(model) is None
    assert "fused it gives other states" in caplog.text


def test_features_are_those_of_the_model_and_the_bar_counts_all(tiny_model):
    backbone = Backbone(str(tiny_model), dtype="float32")
    prompts = [(Message("user", f"What about {topic}?"),) for topic in ("the sea", "the sun", "a poem")]
    answers = [(Message("assistant", text),) for text in ("It is lazy.", "It is quick and brown.", "Thanks, friend!")]
    rendered = [backbone.renderer.render(Conversation(prompt, answer)) for prompt in prompts for answer in answers]
    fused = backbone.compute(rendered)
    assert backbone.extractor.fused is not None
    backbone.extractor.fused = None
    np.testing.assert_allclose(fused, backbone.compute(rendered), atol=1e-5)


def test_results_come_in_order_and_torch_keeps_its_threads():
    threads = torch.get_num_threads()
    inside = list(map_on_cores(lambda i: (i, torch.get_num_threads()), range(20)))
    assert inside == [(i, 1) for i in range(20)]
    assert torch.get_num_threads() == threads


def test_few_batches_share_the_cores_and_one_has_them_all():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert list(map_on_cores(lambda _: torch.get_num_threads(), [0])) == [4]
        assert list(map_on_cores(lambda _: torch.get_num_threads(), [0, 1])) == [2, 2]
        assert list(map_on_cores(lambda _: torch.get_num_threads(), [])) == []
    finally:
        torch.set_num_threads(threads)


def test_two_that_compute_at_once_leave_torch_its_threads():
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(
            lambda _: list(
                map_on_cores(lambda i: torch.ones(300, 300).mm(torch.ones(300, 300))[i, i].item(), range(8))
            ),
            range(4),
        )
        assert list(found) == [[300.0] * 8] * 4
        assert pool.submit(torch.get_num_threads).result() == threads
    assert torch.get_num_threads() == threads


def test_a_pair_is_read_as_one_tree(tiny_model, monkeypatch):
    backbone = Backbone(str(tiny_model), dtype="float32")
    prompt = (Message("user", "What about the sea, the sun and a poem?"),)
    pair = [
        backbone.renderer.render(Conversation(prompt, (Message("assistant", text),)))
        for text in ("It is lazy.", "Thanks!")
    ]
    planted = []
    monkeypatch.setattr(
        "rlhf_hitl.reward.extractor.plant_forest", lambda *args: planted.append(plant_forest(*args)) or planted[-1]
    )
    backbone.compute(pair)
    assert len(planted) == 1
    assert len(planted[0].ids) < len(pair[0].ids) + len(pair[1].ids) - pair[0].start + 1


def test_no_weight_is_in_memory_twice():
    model = make_decoder("Llama")
    decoder = fuse_decoder(model)
    assert decoder is not None
    attention = model.layers[0].self_attn
    storages = {p.weight.untyped_storage().data_ptr() for p in (attention.q_proj, attention.k_proj, attention.v_proj)}
    assert storages == {decoder._layers[0]._in_weight.untyped_storage().data_ptr()}


def test_an_error_in_a_batch_is_raised_and_later_ones_do_not_run():
    threads, begun = torch.get_num_threads(), []

    def fail(i: int) -> None:
        begun.append(i)
        if i == 1:
            raise ValueError("one")

    with pytest.raises(ValueError, match="one"):
        list(map_on_cores(fail, range(100)))
    assert len(begun) < 100
    assert torch.get_num_threads() == threads


def test_what_cannot_be_looked_up_in_a_model_leaves_it_as_it_is(monkeypatch, caplog):
    caplog.set_level("INFO", "rlhf_hitl")
    monkeypatch.setattr(fused_decoder, "ARCHITECTURES", ("GPT2Model",))
    model = make_decoder("GPT2")
    model.config.hidden_act = "silu"
    assert fuse_decoder(model) is None
    assert "AttributeError" in caplog.text
