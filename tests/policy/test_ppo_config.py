"""The settings of PPO: nonsense is refused by name before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.ppo.config import PPOConfig

NUMBERS = [f.name for f in fields(PPOConfig) if f.type in ("int", "float", "float | None")]
WORDS = ["save", "schedule", "value_head", "precision", "sampling_precision"]
#: Of no setting a value.
NONSENSE = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, True, "3"]),
    st.floats(max_value=0, exclude_max=True),
    st.integers(max_value=-1),
)


@given(st.sampled_from(NUMBERS), NONSENSE)
def test_a_number_that_is_none_for_its_setting_is_refused_with_what_is_expected(name, value):
    with pytest.raises(BadInput) as refused:
        PPOConfig(**{name: value})
    default = getattr(PPOConfig(), name)
    assert refused.value.value == f"{name} {value}"
    assert refused.value.expected
    assert refused.value.fix == f"change {name}, or leave it out: its default is {default}"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("kl_target", 0, "more than 0, and finite"), ("kl_horizon", 0, "more than 0, and finite"),
        ("learning_rate", 0.0, "more than 0, and finite"), ("kl_beta", math.nan, "0 or more, and finite"),
        ("lam", 7, "a number from 0 to 1"), ("gamma", 1.01, "a number from 0 to 1"),
        ("save_steps", 0.5, "0 or more, a whole number"), ("steps", 0, "1 or more, a whole number"),
        ("seed", 2**32, "a whole number from 0 to 4294967295"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(name, value, expected):
    with pytest.raises(BadInput, match=f"^{name} .*expected {expected}"):
        PPOConfig(**{name: value})


@pytest.mark.parametrize("name", WORDS)
@given(word=st.one_of(st.text(), st.sampled_from(["float16", "fp16", "none"])))
def test_a_word_that_is_none_of_the_choices_is_refused(name, word):
    with pytest.raises(BadInput, match=f"^{name} .* or "):
        PPOConfig(**{name: word})


def test_bounds_belong_to_their_ranges():
    config = PPOConfig(gamma=0, lam=1, kl_beta=0, warmup_steps=0, save_steps=0, seed=2**32 - 1, kl_target=None)
    assert replace(config, kl_target=1, rollouts=1, minibatch=1).kl_target == 1
