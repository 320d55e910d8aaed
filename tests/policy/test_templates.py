"""Chat templates that refuse, delete or rearrange, in DPO, PPO and sampling."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nasty_templates import make_model, think
from sampled_completions import sample_completions
from typer.testing import CliRunner

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_tokenizer
from rlhf_hitl.policy.dpo import DPOSettings, train_dpo
from rlhf_hitl.policy.dpo_pairs import DPOPair
from rlhf_hitl.policy.policy_folder import TRAINING_CARD
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.trainer import train_ppo
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.token_sampling import PromptReader
from rlhf_hitl.reward.readability import LeftOut, Obstacle
from rlhf_hitl.reward.rendering import Conversation, Renderer
from rlhf_hitl.types import Completion, Message, Prompt, Split

SYSTEM = Prompt.create((Message("system", "Be nice."), Message("user", "hello")), split=Split.TRAIN)
PLAIN = Prompt.create((Message("user", "hello"),), split=Split.TRAIN)


def pair(prompt: Prompt, first, second) -> DPOPair:
    return DPOPair(prompt, *(Completion.create(prompt.id, m, "p") for m in (first, second)), label_source="human")


def say(words: str) -> tuple[Message, ...]:
    return (Message("assistant", words),)


def dpo(policy, out, **more) -> DPOSettings:
    return DPOSettings(model_name_or_path=str(policy), output_dir=str(out), use_cpu=True, bf16=False, seed=1, **more)


def test_dpo_refuses_pairs_that_its_template_makes_the_same_or_leaves_them_out(tiny_model, tmp_path, caplog):
    policy = make_model(tiny_model, tmp_path / "model", "drops_thought")
    same = [pair(PLAIN, think(f"good {i}", "paris"), think(f"bad {i}", "paris")) for i in range(2)]
    pairs = [*same, pair(PLAIN, say("good"), say("bad"))]
    with pytest.raises(BadInput, match=f"2 of 3 pairs .*{PLAIN.id}.*as the same tokens.*skip_bad"):
        train_dpo(dpo(policy, tmp_path / "a"), pairs)
    figures = train_dpo(dpo(policy, tmp_path / "b", skip_bad=True), pairs)
    assert figures["rater_pairs"] == 1
    assert figures["left_out"]["same_tokens"]["count"] == 2
    assert json.loads((tmp_path / "b" / TRAINING_CARD).read_text())["left_out"] == figures["left_out"]
    assert "2 pairs left out" in caplog.text
    with pytest.raises(BadInput, match="at least one that can be read"):
        train_dpo(dpo(policy, tmp_path / "c", skip_bad=True), same)


def test_dpo_names_the_prompt_that_a_template_refuses(tiny_model, tmp_path):
    policy = make_model(tiny_model, tmp_path / "model", "no_system")
    pairs = [pair(SYSTEM, say("good"), say("bad")), pair(PLAIN, say("good"), say("bad"))]
    with pytest.raises(BadInput, match=f"1 of 2 pairs .prompt {SYSTEM.id}.*no system role here"):
        train_dpo(dpo(policy, tmp_path / "a"), pairs)
    assert train_dpo(dpo(policy, tmp_path / "b", skip_bad=True), pairs)["rater_pairs"] == 1


def test_dpo_reads_parts(tiny_model, tmp_path):
    from rlhf_hitl.policy.dpo_rows import read_pairs

    pairs = [pair(PLAIN, say("good"), say("bad"))]
    rows = [
        read_pairs(pairs, load_tokenizer(make_model(tiny_model, tmp_path / name, name)), 512).rows.to_list()
        for name in ("parts", "plain")
    ]
    assert rows[0] == rows[1]


def test_sampling_names_the_prompt_that_a_template_refuses_or_leaves_it_out(tiny_model, tmp_path):
    folder = make_model(tiny_model, tmp_path / "model", "no_system")
    sampling, prompts = [Sampling(1.0, 1.0, 8, seed=1)], [SYSTEM, PLAIN]
    with pytest.raises(BadInput, match=f"1 of 2 prompts .prompt {SYSTEM.id}.*no system role here"):
        sample_completions(folder, prompts, sampling)
    left_out = LeftOut("prompt")
    made = sample_completions(folder, prompts, sampling, skip_bad=True, left_out=left_out)
    assert {c.prompt_id for c in made} == {PLAIN.id}
    assert left_out.count(Obstacle.TEMPLATE) == 1


def test_a_sampled_answer_goes_on_from_the_thought_that_the_template_opened(tiny_model, tmp_path):
    folder = make_model(tiny_model, tmp_path / "model", "opens_thought")
    tokenizer = load_tokenizer(folder)
    made = sample_completions(folder, [PLAIN], [Sampling(1.0, 1.0, 8, 1, count=4)])
    asked, renderer = PromptReader(tokenizer).tokenize(PLAIN), Renderer(tokenizer)
    for completion in made:
        assert completion.text.startswith("<think>\n")
        rendered = renderer.render(Conversation(PLAIN.messages, completion.messages))
        assert list(rendered.ids[: rendered.start]) == asked, "the completion is what follows the generation prompt"
        said = tokenizer.decode(rendered.ids[rendered.start : -1])
        assert said.strip() == completion.text.removeprefix("<think>\n").strip()


def ppo(policy, out, **more) -> PPOConfig:
    return PPOConfig(
        model_name_or_path=str(policy),
        output_dir=str(out),
        steps=1,
        rollouts=2,
        minibatch=2,
        max_new_tokens=6,
        **more,
    )


@pytest.mark.parametrize("refuses", ["policy", "reward model"])
def test_ppo_names_the_prompt_that_a_template_refuses_or_leaves_it_out(tiny_model, tmp_path, refuses):
    strict, plain = (make_model(tiny_model, tmp_path / name, name) for name in ("no_system", "plain"))
    policy, reads = (strict, plain) if refuses == "policy" else (plain, strict)
    seen = []

    def reward(chats):
        seen.extend(chats)
        return np.ones(len(chats), np.float32)

    find_problem = Renderer(load_tokenizer(reads)).find_problem
    with pytest.raises(BadInput, match=f"1 of 2 prompts .prompt {SYSTEM.id}.*no system role here"):
        train_ppo(ppo(policy, tmp_path / "a"), [SYSTEM, PLAIN], reward, find_problem)
    out = train_ppo(ppo(policy, tmp_path / "b", skip_bad=True), [SYSTEM, PLAIN], reward, find_problem).folder
    assert {chat.prompt_id for chat in seen} == {PLAIN.id}
    assert json.loads((out / TRAINING_CARD).read_text())["left_out"]["template"]["prompts"] == [SYSTEM.id]


def test_ppo_rewards_answers_with_the_thought_that_the_template_opened(tiny_model, tmp_path):
    policy, seen = make_model(tiny_model, tmp_path / "model", "opens_thought"), []

    def reward(chats):
        seen.extend(chats)
        return np.ones(len(chats), np.float32)

    train_ppo(ppo(policy, tmp_path / "a"), [PLAIN], reward)
    assert all(chat.completion[0].text.startswith("<think>\n") for chat in seen)


def test_the_command_says_it_in_a_line_and_counts_what_is_left_out(tiny_model, tmp_path):
    from rlhf_hitl.cli import app, register_commands

    register_commands()

    policy, prompts = make_model(tiny_model, tmp_path / "model", "no_system"), tmp_path / "prompts.jsonl"
    asked = [[{"role": "system", "content": "Be nice."}, {"role": "user", "content": "hello"}], "hello"]
    prompts.write_text("".join(json.dumps({"prompt": line}) + "\n" for line in asked))
    command = ["generate", "--policy", str(policy), "--prompts", str(prompts), "--max-new-tokens", "4", "--json"]
    refused = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "a.jsonl")])
    assert refused.exit_code != 0
    assert isinstance(refused.exception, BadInput | SystemExit)
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "b.jsonl"), "--skip-bad"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["left_out"]["template"] == {
        "count": 1, "reason": "the chat template refuses the conversation", "prompts": [SYSTEM.id],
        "first": json.loads(done.stdout)["left_out"]["template"]["first"],
    }  # fmt: skip
