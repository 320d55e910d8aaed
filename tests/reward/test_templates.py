"""What the model reads is what people see: chat templates that refuse, delete or rearrange, in training and scoring."""

from __future__ import annotations

import json
from itertools import takewhile

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from nasty_templates import TEMPLATES, add_judged, make_model, think
from trl import ModelConfig

from reward_examples import chat
from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_tokenizer
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.chat_template import ChatTemplate
from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model
from rlhf_hitl.reward.readability import LeftOut, Obstacle
from rlhf_hitl.reward.rendering import Conversation, Renderer
from rlhf_hitl.reward.training.dataset_rows import hash_rows, read_ranking
from rlhf_hitl.reward.training.full_config import FullTrainingConfig
from rlhf_hitl.reward.training.full_training import build_reward_trainer
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.router import route_pool
from rlhf_hitl.routing.scoring import score_pool
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.types import (
    Comparison,
    Completion,
    ImagePart,
    Message,
    Prompt,
    Split,
    TextPart,
    ToolCall,
    messages_to_dicts,
    parse_messages,
    parse_tools,
)

SEARCH = ToolCall('{"type": "function", "function": {"name": "search", "arguments": {"q": "sea \\"level\\"", "n": 3}}}')


def renderer_with(tiny_model, template: str, max_length: int = 1024) -> Renderer:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = TEMPLATES[template]
    return Renderer(tokenizer, max_length)


def decode(renderer: Renderer, conversation: Conversation) -> str:
    return renderer.tokenizer.decode(renderer.render(conversation).ids)


# One rendering.

text = st.text(min_size=1, max_size=60).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.lists(text, min_size=1, max_size=3), text)
def test_plain_text_is_the_tokens_that_stock_transformers_makes(tiny_model, asked, answer):
    roles = ["user", "assistant", "user"]
    prompt = tuple(Message(role, words) for role, words in zip(roles, asked))
    completion = (Message("assistant", answer),)
    tokenizer = load_tokenizer(tiny_model)
    options = {"tokenize": False}
    before = tokenizer.apply_chat_template(messages_to_dicts(prompt), add_generation_prompt=True, **options)
    whole = tokenizer.apply_chat_template(messages_to_dicts(prompt + completion), **options)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, whole)))
    start = tokenizer(whole[:shared], add_special_tokens=False)["input_ids"]
    end = tokenizer(whole[shared:].rstrip(), add_special_tokens=False)["input_ids"]
    end += [] if end[-1] == tokenizer.eos_token_id else [tokenizer.eos_token_id]
    rendered = Renderer(tokenizer, 10_000).render(Conversation(prompt, completion))
    assert (list(rendered.ids), rendered.start, rendered.unshown) == ([*start, *end], len(start), ())


def test_a_template_over_parts_gets_parts_and_reads_what_one_over_text_reads(tiny_model):
    parts, plain = (renderer_with(tiny_model, name) for name in ("parts", "plain"))
    assert parts.render(chat("hello", "fine")).ids == plain.render(chat("hello", "fine")).ids
    both = Conversation((Message("user", (TextPart("hel"), TextPart("lo"))),), (Message("assistant", "fine"),))
    assert parts.render(both).ids == plain.render(both).ids == plain.render(chat("hello", "fine")).ids


def test_a_template_that_takes_text_gets_the_text_of_parts_whatever_it_quotes(tiny_model):
    renderer = renderer_with(tiny_model, "quotes")
    both = Conversation((Message("user", (TextPart("hel"), TextPart("lo"))),), (Message("assistant", "fine"),))
    assert "<|user|>hello<|end|>" in decode(renderer, both)


def test_a_template_that_shows_no_content_is_refused(tiny_model):
    with pytest.raises(BadInput, match="shows a message's content"):
        renderer_with(tiny_model, "blind")


@pytest.mark.parametrize(
    ("template", "first", "said"),
    [
        ("no_system", Message("system", "Be nice."), "no system role here"),
        ("alternate", Message("assistant", "I begin."), "roles must alternate"),
        ("answers_once", Message("user", "hello"), "one answer only"),
        ("fails", Message("user", "hello"), "can only concatenate|has no attribute|is undefined"),
    ],
)
def test_a_template_that_raises_names_the_prompt_and_says_what_it_said(tiny_model, template, first, said):
    renderer = renderer_with(tiny_model, template)
    prompt = (first, Message("user", "hello"))
    problem = renderer.find_problem([Conversation(prompt, (Message("assistant", "fine"), Message("assistant", "ok")))])
    assert problem is not None
    assert problem.obstacle is Obstacle.TEMPLATE
    assert Prompt.create(prompt).id in str(problem)
    assert "\n" not in str(problem)
    with pytest.raises(BadInput, match=said):
        raise problem


def test_answers_that_differ_for_people_and_not_in_tokens_are_noticed(tiny_model):
    asked = (Message("user", "where"),)
    good, bad = (Conversation(asked, think(words, "paris")) for words in ("a good plan", "a bad plan"))
    dropping, opening = (renderer_with(tiny_model, name) for name in ("drops_thought", "opens_thought"))
    problem = dropping.find_problem([good, bad])
    assert problem is not None
    assert problem.obstacle is Obstacle.SAME_TOKENS
    assert Prompt.create(asked).id in str(problem)
    assert opening.find_problem([good, bad]) is None
    # Nobody sees white space at the end.
    assert opening.find_problem([chat("where", "paris"), chat("where", "paris\n ")]) is None
    # A limit may make them the same, too.
    short = renderer_with(tiny_model, "plain", max_length=12)
    cut = short.find_problem([chat("where", "the " * 40 + "end"), chat("where", "the " * 40 + "start")])
    assert cut is not None
    assert "raise max_length" in str(cut)


def test_an_answer_of_which_nothing_is_left_is_noticed(tiny_model):
    calls = Conversation((Message("user", "look"),), (Message("assistant", None, tool_calls=(SEARCH,)),))
    problem = renderer_with(tiny_model, "plain").find_problem([calls])
    assert problem is not None
    assert problem.obstacle is Obstacle.NOTHING_LEFT
    assert renderer_with(tiny_model, "whole").find_problem([calls]) is None


def test_what_a_template_leaves_out_is_named(tiny_model):
    tools = parse_tools('[{"type": "function", "function": {"name": "search", "parameters": {}}}]')
    prompt = (
        Message("user", "look it up"),
        Message("assistant", None, tool_calls=(SEARCH,)),
        Message("tool", "it rises", tool_call_id="1"),
    )
    conversation = Conversation(
        prompt, (Message("assistant", "it rises", reasoning_content="a graph"), Message("tool", "42")), tools
    )
    rendered = renderer_with(tiny_model, "no_tool").render(conversation)
    assert rendered.unshown == (
        "prompt: tool calls",
        "prompt: tools",
        "completion: reasoning",
        "completion: text (tool)",
    )
    whole = renderer_with(tiny_model, "whole")
    assert whole.render(conversation).unshown == ()
    assert '"sea \\"level\\""' in decode(whole, conversation), "the call as it came"


words = st.text(st.characters(categories=["L", "N", "P", "Zs", "S"]), min_size=1, max_size=20).filter(str.strip)
call = st.builds(
    lambda name, arguments: ToolCall(json.dumps({"function": {"name": name, "arguments": arguments}})),
    st.text("abc_", min_size=1, max_size=6), st.dictionaries(st.text("xyz", min_size=1), words, max_size=2),
)  # fmt: skip
message = st.builds(
    Message,
    st.sampled_from(["user", "assistant", "tool"]),
    words,
    name=st.just("") | words,
    reasoning_content=st.just("") | words,
    tool_calls=st.just(()) | st.tuples(call),
)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["plain", "whole", "no_tool", "parts", "drops_thought"]), st.lists(message, min_size=1), message)
def test_all_that_people_see_is_in_the_tokens_or_counted(tiny_model, template, prompt, answer):
    renderer = renderer_with(tiny_model, template, max_length=100_000)
    conversation = Conversation((Message("user", "ask"), *prompt), (answer,))
    if (problem := renderer.find_problem([conversation])) is not None:
        assert (template, problem.obstacle) != ("whole", Obstacle.NOTHING_LEFT)
        return
    rendered = renderer.render(conversation)
    read = "".join(renderer.tokenizer.decode(rendered.ids).split())

    def is_read(piece: str) -> bool:
        return "".join(piece.split()) in read or json.dumps(piece, ensure_ascii=False)[1:-1].replace(" ", "") in read

    for side, chat_ in (("prompt", conversation.prompt), ("completion", conversation.completion)):
        for m in chat_:
            assert is_read(m.text) or f"{side}: text ({m.role})" in rendered.unshown
            assert is_read(m.reasoning_content) or f"{side}: reasoning" in rendered.unshown
            assert is_read(m.name) or f"{side}: names" in rendered.unshown
            for c in m.tool_calls:
                assert is_read(c.name) or f"{side}: tool calls" in rendered.unshown
                assert all(map(is_read, c.arguments.values())) or f"{side}: tool calls" in rendered.unshown
    if template == "whole":
        assert rendered.unshown == ()


@pytest.mark.parametrize(
    ("template", "opening"), [("plain", ""), ("opens_thought", "<think>\n"), ("drops_thought", "<think>\n")]
)
def test_a_thought_that_the_template_opens_is_a_part_of_the_answer(tiny_model, template, opening):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = TEMPLATES[template]
    assert ChatTemplate(tokenizer).opening == opening


# Training, scoring and evaluation.


def add_thoughts(store, n: int, split: Split = Split.TRAIN, judged: bool = True) -> list[Prompt]:
    """Add comparisons whose answers differ in their thoughts only."""
    prompts = []
    for i in range(n):
        prompt = Prompt.create((Message("user", f"{split} {judged} capital {i}"),), split=split)
        if judged:
            add_judged(store, prompt, think(f"good plan {i}", "paris"), think(f"bad plan {i}", "paris"))
        else:
            sides = [Completion.create(prompt.id, think(f"{kind} {i}", "paris"), "p") for kind in ("good", "bad")]
            with store.write() as conn:
                insert_comparisons(store, conn, [Comparison.create(prompt, sides)])
        prompts.append(prompt)
    return prompts


def test_a_head_refuses_pairs_that_its_template_makes_the_same_or_leaves_them_out(judged_store, tiny_model, tmp_path):
    backbone = Backbone(str(make_model(tiny_model, tmp_path / "model", "drops_thought")), layer=1, pooling="last")
    plain = train_head(judged_store, backbone, tmp_path)
    assert plain.card["left_out"] == {}
    prompts = add_thoughts(judged_store, 5)
    with pytest.raises(BadInput, match=r"5 of \d+ labelled pairs .*as the same tokens.*--skip-bad") as refused:
        train_head(judged_store, backbone, tmp_path)
    assert sum(p.id in str(refused.value) for p in prompts) == 3
    skipping = train_head(judged_store, backbone, tmp_path, skip_bad=True)
    assert skipping.card["left_out"]["same_tokens"]["count"] == 5
    assert skipping.card["train_labels"] == plain.card["train_labels"]


def test_what_a_model_cannot_tell_apart_goes_to_people_and_out_of_evaluations(
    judged_store, tiny_model, tmp_path, caplog
):
    backbone = Backbone(str(make_model(tiny_model, tmp_path / "model", "drops_thought")), layer=1, pooling="last")
    model = train_head(judged_store, backbone, tmp_path)
    before, _ = evaluate_reward_model(model, judged_store)
    [held] = add_thoughts(judged_store, 1, Split.HELDOUT)
    add_thoughts(judged_store, 1, Split.CALIBRATION)
    add_thoughts(judged_store, 2, judged=False)
    after, _ = evaluate_reward_model(model, judged_store)
    assert after.n == before.n
    assert after.unreadable["same_tokens"]["count"] == 1
    assert "1 label that the model cannot read" in " ".join(text for _, text in after.left_out)
    assert held.id in caplog.text
    summary = score_pool(judged_store, model)
    assert summary.left_out.count(Obstacle.SAME_TOKENS) == 2
    routed = route_pool(judged_store, model, RoutingConfig(max_error=0.4, delta=0.4, control_share=0))
    assert len(routed.decisions) == summary.scored


def test_prompts_that_a_template_refuses_are_one_line_in_training_and_left_to_people_in_scoring(
    judged_store, tiny_model, tmp_path
):
    backbone = Backbone(str(make_model(tiny_model, tmp_path / "model", "no_system")), layer=1, pooling="last")
    system = (Message("system", "Be nice."), Message("user", "hello"))
    prompt = Prompt.create(system, split=Split.TRAIN)
    add_judged(judged_store, prompt, (Message("assistant", "good"),), (Message("assistant", "bad"),))
    with pytest.raises(BadInput, match=f"{prompt.id}.*no system role here"):
        train_head(judged_store, backbone, tmp_path)
    model = train_head(judged_store, backbone, tmp_path, skip_bad=True)
    assert model.card["left_out"]["template"]["prompts"] == [prompt.id]
    other = Prompt.create((Message("system", "Be brief."), Message("user", "hi")), split=Split.TRAIN)
    sides = [Completion.create(other.id, (Message("assistant", t),), "p") for t in ("one", "two")]
    with judged_store.write() as conn:
        insert_comparisons(judged_store, conn, [Comparison.create(other, sides)])
    assert score_pool(judged_store, model).left_out.as_dict()["template"]["prompts"] == [other.id]


def test_images_are_refused_by_a_head_and_left_to_people(judged_store, backbone, trained_model, tmp_path):
    picture = Message("user", (ImagePart("img_" + "0" * 64), TextPart("what is it")))
    prompt = Prompt.create((picture,), split=Split.TRAIN)
    sides = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in ("a cat", "a dog")]
    conversation = Conversation(prompt.messages, sides[0].messages)
    problem = trained_model.find_problem([conversation])
    assert problem is not None
    assert "reads no images" in str(problem)
    assert "--backend full" in str(problem)
    assert prompt.id in str(problem)


# Datasets.


def dataset(folder, template: str, tiny_model, rows, **flags):
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(folder / "data")
    given_ = {
        "dataset": folder / "data", "output_dir": folder / "out", "report_to": "none",
        "model_name_or_path": make_model(tiny_model, folder / "model", template),
    } | flags  # fmt: skip
    config, model_config = parse_arguments(
        (FullTrainingConfig, ModelConfig), [x for k, v in given_.items() for x in (f"--{k}", str(v))]
    )
    return build_reward_trainer(config, model_config)


def row(i: int, chosen, rejected, *system: Message):
    asked = (*system, Message("user", f"question {i}"))
    return {
        name: messages_to_dicts(m) for name, m in (("prompt", asked), ("chosen", chosen), ("rejected", rejected))
    }  # fmt: skip


def test_full_training_refuses_rows_that_are_the_same_tokens_or_leaves_them_out(tiny_model, tmp_path, caplog):
    rows = [row(i, think(f"good {i}", "paris"), think(f"bad {i}", "paris")) for i in range(3)]
    rows += [row(9, (Message("assistant", "fine"),), (Message("assistant", "bad"),))]
    with pytest.raises(BadInput, match=r"3 of 4 rows .*as the same tokens"):
        dataset(tmp_path / "a", "drops_thought", tiny_model, rows)
    trainer = dataset(tmp_path / "b", "drops_thought", tiny_model, rows, skip_bad=True)
    assert len(trainer.train_dataset) == 1
    assert "3 rows left out" in caplog.text
    assert len(dataset(tmp_path / "c", "opens_thought", tiny_model, rows).train_dataset) == 4


def test_full_training_names_the_prompt_that_a_template_refuses(tiny_model, tmp_path):
    good, bad = (Message("assistant", "fine"),), (Message("assistant", "bad"),)
    rows = [row(0, good, bad), row(1, good, bad, Message("system", "Be nice."))]
    prompt = Prompt.create((Message("system", "Be nice."), Message("user", "question 1")))
    with pytest.raises(BadInput, match=f"1 of 2 rows .prompt {prompt.id}.*no system role here"):
        dataset(tmp_path / "a", "no_system", tiny_model, rows)
    assert len(dataset(tmp_path / "b", "no_system", tiny_model, rows, skip_bad=True).train_dataset) == 1


def test_full_training_reads_parts_and_learns_from_them(tiny_model, tmp_path):
    rows = [row(i, (Message("assistant", f"fine {i}"),), (Message("assistant", f"bad {i}"),)) for i in range(4)]
    trainer = dataset(tmp_path, "parts", tiny_model, rows)
    plain = renderer_with(tiny_model, "plain")
    assert trainer.train_dataset[0]["ids"][0] == list(plain.render(chat("question 0", "fine 0")).ids)


def test_rows_hold_tools_calls_and_reasoning_and_arrow_gives_them_back(tmp_path):
    tools = '[{"type": "function", "function": {"name": "search"}}]'
    asked = [{"role": "user", "content": "look"}]
    chosen = [{"role": "assistant", "content": None, "tool_calls": [SEARCH.to_plain()]}]
    rejected = [{"role": "assistant", "content": "no", "reasoning_content": "tired"}]
    data = Dataset.from_list([{"prompt": asked, "chosen": chosen, "rejected": rejected, "tools": tools}])
    read = read_ranking(data[0])
    assert [chat_.completion for chat_ in read.chats] == [parse_messages(chosen), parse_messages(rejected)]
    assert {chat_.tools for chat_ in read.chats} == {parse_tools(tools)}


def test_the_hash_of_plain_rows_is_what_earlier_versions_wrote():
    rows = [read_ranking(row(1, (Message("assistant", "yes"),), (Message("assistant", "no"),)))]
    assert hash_rows(rows) == "sha256:f781811060f149344d6be094939e818f075cc7f7af5c67b47dd288a6d671acfe"


def test_answers_that_differ_only_beyond_what_is_read_are_left_out_and_stop_nothing(tiny_model):
    short = renderer_with(tiny_model, "plain", max_length=12)
    cut = short.find_problem([chat("where", "the " * 40 + "end"), chat("where", "the " * 40 + "start")])
    assert cut is not None
    assert cut.obstacle is Obstacle.SAME_WHEN_CUT
    left_out = LeftOut("pair", [cut])
    left_out.refuse(10)
    assert "differ only beyond the tokens" in left_out.lines()[0]
    dropping = renderer_with(tiny_model, "drops_thought")
    asked = (Message("user", "where"),)
    same = dropping.find_problem([Conversation(asked, think(w, "paris")) for w in ("a good plan", "a bad plan")])
    assert same is not None
    left_out.add(same)
    with pytest.raises(BadInput, match="1 of 10 pairs"):
        left_out.refuse(10)
