"""Which completions of a prompt are compared."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.sampled_comparisons import make_comparisons
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.routing.pairing import _take_spread, choose_pairs
from rlhf_hitl.types import Completion, Message, Prompt, Split


def make_prompt(question: str, split: Split = Split.TRAIN) -> Prompt:
    return Prompt.create((Message("user", question),), {}, split)


def answer(prompt: Prompt, *texts: str) -> list[Completion]:
    return [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in texts]


def test_the_pairs_with_the_smallest_margins_are_compared_and_what_measures_is_drawn(trained_model):
    model = trained_model
    home, control, held_out, few = (
        make_prompt("Why?"), make_prompt("How?"), make_prompt("Who?", Split.HELDOUT), make_prompt("Two?"),
    )  # fmt: skip
    texts = ["Because.", "I do not know that, sorry.", "It is so.", "Ask somebody else about it, please."]
    completions = [c for p in (home, control, held_out) for c in answer(p, *texts)] + answer(few, *texts[:2])
    prompts = [home, control, held_out, few]
    chosen = choose_pairs(
        model, prompts, completions, "least-margin", per_prompt=1, is_control=lambda p: p.id == control.id
    )
    assert list(chosen) == [home.id]
    rewards = {c.id: model.rewards([Conversation(home.messages, c.messages)])[0] for c in answer(home, *texts)}
    closest = min(combinations(rewards, 2), key=lambda pair: abs(rewards[pair[0]] - rewards[pair[1]]))
    assert {c.id for c in chosen[home.id][0]} == set(closest)
    comparisons = make_comparisons(prompts, completions, chosen=chosen)
    of_prompt = {p.id: [c for c in comparisons if c.prompt.id == p.id] for p in prompts}
    assert [len(of_prompt[p.id]) for p in prompts] == [1, 2, 2, 1]
    assert {c.id for c in of_prompt[home.id][0].completions} == set(closest)
    with pytest.raises(BadInput, match="0 pairs a prompt"):
        choose_pairs(model, prompts, completions, "least-margin", per_prompt=0)


@given(st.integers(3, 7), st.integers(1, 25), st.randoms())
def test_no_completion_is_compared_much_more_often_than_another(n, number, random):
    pairs = list(combinations(range(n), 2))
    random.shuffle(pairs)
    taken = _take_spread(pairs, number)
    assert len(taken) == len(set(taken)) == min(number, len(pairs))
    assert taken[0] == pairs[0], "the best is taken whatever comes after it"
    uses = np.bincount(np.array(taken).ravel(), minlength=n)
    if number >= -(-n // 2):
        assert uses.min() > 0, "each completion is compared"
    if number <= n // 2:
        assert uses.max() == 1
