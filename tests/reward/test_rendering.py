"""Rendering conversations for a reward model: the template, the cut, the end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_examples import chat
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_tokenizer
from rlhf_hitl.reward.rendering import Renderer


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
