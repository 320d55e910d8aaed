"""Which completions of a prompt are compared."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import run_command
from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.sampled_comparisons import make_comparisons
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.routing.pairing import _take_spread, choose_pairs
from rlhf_hitl.store.comparisons import list_prompts
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


def test_generate_compares_what_the_rule_chooses_and_says_of_how_many_prompts(judged_store, trained_model, tiny_model):
    words = ["generate", "--policy", tiny_model, "--split", "train", "--limit", 4, "--completions", 4]
    words += ["--max-new-tokens", 6, "--temperature", 1.5, "--store", judged_store.url, "--json"]
    chosen = ["--pairing", "least-margin", "--pairs", 1, "--reward-model", trained_model.id]
    done = run_command(*words, *chosen)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    drawn = sum(judged_store.draw("pairing", p.id, 10) == 0 for p in list_prompts(judged_store, split=Split.TRAIN)[:4])
    assert said["paired_by_rule"] == 4 - drawn
    assert said["comparisons"] == said["paired_by_rule"] + 2 * drawn
    for wrong, expected in (
        (["--pairs", 2], "--pairs 2 without a rule"),
        (["--pairing", "best"], "--pairing best"),
        (["--pairing", "entropy", "--k", 3], "--pairing entropy with --k 3"),
    ):
        refused = run_command(*words, *wrong)
        assert refused.returncode == 2
        assert expected in refused.stderr
