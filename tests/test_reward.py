"""The reward model on a real tiny backbone: rendering, features, head, training, replay."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.formats.export import export
from rlhf_hitl.models import best_device, best_dtype, load_tokenizer
from rlhf_hitl.reward import head as heads
from rlhf_hitl.reward.evaluate import evaluate
from rlhf_hitl.reward.features import Backbone, FeatureCache
from rlhf_hitl.reward.model import load
from rlhf_hitl.reward.rendering import Renderer, conversations
from rlhf_hitl.reward.train import train_head
from rlhf_hitl.store import catalog, ledger, people, queue
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Split, Verdict

WORDS = ["sea", "sun", "poem", "paris", "thanks", "friend", "lazy", "quick", "brown", "fox", "capital", "today"]


def chat(prompt: str, completion: str):
    return (Message("user", prompt),), (Message("assistant", completion),)


@pytest.fixture(scope="module")
def backbone(tiny_model):
    return Backbone(str(tiny_model), dtype="float32")


@pytest.fixture
def judged_store(sqlite_store):
    """120 judged comparisons: raters like 'thanks', seven times in eight."""
    store = sqlite_store
    rng = np.random.default_rng(0)
    rater = people.add(store, "ann", Role.RATER).id
    for i in range(120):
        prompt = Prompt.create((Message("user", f"question {i} about {WORDS[i % len(WORDS)]}"),))
        plain = " ".join(rng.choice(WORDS, 6))
        good = Completion.create(prompt.id, (Message("assistant", f"{plain} thanks thanks thanks"),), "p")
        bad = Completion.create(prompt.id, (Message("assistant", f"{plain} nothing nothing"),), "p")
        with store.write() as conn:
            catalog.add_comparisons(store, conn, [Comparison.create(prompt, [good, bad])])
        lease = queue.lease(store, rater)
        best, worst = (good, bad) if i % 8 else (bad, good)
        queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, ((best.id,), (worst.id,)), 2))
    return store


# Rendering


def test_a_rendered_conversation_ends_with_one_eos(tiny_model):
    renderer = Renderer(load_tokenizer(tiny_model))
    ids = renderer.render(chat("hello", "fine thanks")).ids
    assert ids[-1] == renderer.eos_id
    assert ids[-2] != renderer.eos_id
    assert renderer.tokenizer.decode(ids) == "<|user|>hello<|end|><|assistant|>fine thanks<|end|>"


def test_the_prompts_left_is_cut_and_never_the_completion(tiny_model):
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


def test_features_are_computed_once_and_found_by_another_process(backbone, tmp_path):
    chats = [chat("hello", w) for w in WORDS]
    first = FeatureCache(tmp_path, backbone).features(chats)
    [shard] = (tmp_path / backbone.fingerprint).glob("*.safetensors")
    written = shard.stat().st_mtime_ns
    again = FeatureCache(tmp_path, backbone).features([*chats, chats[0]])
    assert np.array_equal(again[:-1], first)
    assert np.array_equal(again[-1], first[0])
    assert [p.stat().st_mtime_ns for p in (tmp_path / backbone.fingerprint).glob("*.safetensors")] == [written]


def test_fresh_rollouts_leave_nothing_on_disk(backbone, tmp_path):
    FeatureCache(tmp_path, backbone).features([chat("hello", "fine")], keep=False)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_many_shards_are_merged_and_nothing_is_lost(backbone, tmp_path):
    cache = FeatureCache(tmp_path, backbone)
    cache.MERGE_AT = 4
    chats = [chat("hello", f"{w} {v}") for w in WORDS for v in "ab"]
    rows = np.concatenate([cache.features([c]) for c in chats])
    assert len(list(tmp_path.rglob("*.safetensors"))) <= 5
    assert np.array_equal(FeatureCache(tmp_path, backbone).features(chats), rows)


def test_a_layer_the_model_has_not_is_refused(tiny_model):
    with pytest.raises(BadInput, match="1 to 2"):
        Backbone(str(tiny_model), layer=3)


def test_an_adapter_without_its_base_is_refused_as_backbone(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="LoRA adapter"):
        Backbone(str(tmp_path))


def test_a_model_tuned_in_one_layer_is_another_backbone(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    load_tokenizer(tiny_model).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    same = Backbone(str(tmp_path), dtype="float32").fingerprint
    model.model.layers[0].mlp.up_proj.weight.data[3, 5] += 0.5
    model.save_pretrained(tmp_path)
    assert Backbone(str(tmp_path), dtype="float32").fingerprint != same


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
    assert encoder.layer == 2
    assert len(np.unique(encoder.compute(rendered).round(4), axis=0)) == len(WORDS)


# Head


def test_head_agrees_with_logistic_regression_under_the_same_prior():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    y = (rng.random(400) < expit(x @ rng.normal(size=6))).astype(int)
    mode, _ = heads._mode(x, y.astype(float), np.ones(400), np.full(6, 2.0), np.zeros(6))
    reference = LogisticRegression(C=1 / 2.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
    assert np.abs(mode - reference.coef_[0]).max() < 1e-4


def test_evidence_shrinks_noise_and_keeps_signal():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 21))
    noise = heads.fit(x, (rng.random(300) < 0.5).astype(float))
    signal = heads.fit(x, (rng.random(300) < expit(x[:, :20] @ np.full(20, 1.0))).astype(float))
    assert noise.precisions[0] > 10 * signal.precisions[0]
    assert np.abs(noise.weights).max() < 0.2


def test_uncertainty_falls_with_labels_and_grows_away_from_them():
    rng = np.random.default_rng(0)
    w = np.r_[np.ones(4), 0.5]

    def fitted(n):
        x = rng.normal(size=(n, 5))
        return heads.fit(x, (rng.random(n) < expit(x @ w)).astype(float))

    probe = np.ones((1, 5))
    few, many = fitted(40), fitted(2000)
    assert many.margins(probe)[1] < 0.5 * few.margins(probe)[1]
    assert few.margins(10 * probe)[1] == pytest.approx(10 * few.margins(probe)[1])
    assert few.probabilities(*few.margins(probe)) < expit(few.margins(probe)[0])  # doubt moves it to one half


def test_ties_pull_a_margin_to_zero():
    x = np.c_[np.ones((50, 1)), np.zeros((50, 1))]
    wins, ties = heads.fit(x, np.ones(50)), heads.fit(x, np.full(50, 0.5))
    assert wins.margins(x[:1])[0] > 1
    assert ties.margins(x[:1])[0] == pytest.approx(0, abs=1e-6)


# Training, scoring, replay


def test_a_trained_head_ranks_held_out_prompts_and_survives_saving(judged_store, backbone, tmp_path):
    model = train_head(judged_store, backbone, tmp_path)
    found = evaluate(model, judged_store)
    assert found.accuracy.value > 0.7
    assert found.n > 10
    assert found.longer.low <= found.longer.value <= found.longer.high
    again = load(tmp_path / "reward" / model.id)
    chats = [chat("question 3 about sea", w) for w in WORDS]
    assert np.array_equal(again.rewards(chats), model.rewards(chats))
    assert again.id == model.id
    assert ledger.reward_model(judged_store).id == model.id


def test_the_same_labels_give_the_same_model(judged_store, backbone, tmp_path):
    assert train_head(judged_store, backbone, tmp_path).id == train_head(judged_store, backbone, tmp_path).id


def test_a_score_is_the_difference_of_the_rewards_and_never_negative(judged_store, backbone, tmp_path):
    model = train_head(judged_store, backbone, tmp_path)
    comparisons = list(catalog.find(judged_store))
    for comparison, score in zip(comparisons, model.score(comparisons)):
        rewards = dict(zip([c.id for c in comparison.completions], model.rewards(conversations(comparison))))
        assert score.margin == pytest.approx(rewards[score.chosen] - rewards[score.rejected], abs=1e-5)
        assert score.margin >= 0
        assert score.uncertainty > 0
        assert 0.5 <= score.probability < 1


def test_replay_by_hand_counts_ties_apart_and_equal_rewards_as_half(judged_store, backbone, tmp_path):
    model = train_head(judged_store, backbone, tmp_path)
    found = evaluate(model, judged_store)
    right = sum(1.0 if e["margin"] > 0 else 0.5 if e["margin"] == 0 else 0.0 for e in found.examples)
    assert found.accuracy.value == pytest.approx(right / len(found.examples))
    assert found.ties == 0
    rater = people.add(judged_store, "tie caller", Role.RATER).id
    prompt = next(p for i in range(999) if (p := Prompt.create((Message("user", f"t{i}"),))).split is Split.HELDOUT)
    pair = [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in ("one", "two")]
    comparison = Comparison.create(prompt, pair)
    with judged_store.write() as conn:
        catalog.add_comparisons(judged_store, conn, [comparison])
    lease = queue.lease(judged_store, rater)
    queue.submit(judged_store, lease.id, rater, Answer(Verdict.RANKED, ((pair[0].id, pair[1].id),)))
    after = evaluate(model, judged_store)
    assert (after.n, after.ties) == (found.n, 1)


def test_held_out_labels_do_not_reach_training(judged_store, backbone, tmp_path):
    model = train_head(judged_store, backbone, tmp_path)
    kept = {s: sum(c.prompt.split is s for c in catalog.find(judged_store, judged=True)) for s in Split}
    assert model.card["train_labels"] == kept[Split.TRAIN]
    assert model.card["calibration_labels"] == kept[Split.CALIBRATION]


def test_too_few_labels_and_missing_models_say_what_to_do(sqlite_store, backbone, tmp_path):
    with pytest.raises(BadInput, match=r"0 labels with a preference .*rlhf-hitl serve"):
        train_head(sqlite_store, backbone, tmp_path)
    with pytest.raises(NotFound, match="train one with"):
        load(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="train-reward"):
        ledger.reward_model(sqlite_store)


# The full backend


@pytest.mark.timeout(240)
def test_full_training_under_accelerate_on_two_processes_loads_in_plain_transformers(
    judged_store, tiny_model, tmp_path
):
    from transformers import AutoModelForSequenceClassification

    export(judged_store, tmp_path / "export")
    script = Path(__file__).parent.parent / "scripts" / "train_reward.py"
    run = subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1",
            "--cpu", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
            str(script), "--config", str(script.parent.parent / "configs" / "reward.yaml"),
            "--model_name_or_path", str(tiny_model), "--dataset", str(tmp_path / "export"),
            "--output_dir", str(tmp_path / "full"), "--num_train_epochs", "3", "--learning_rate", "3e-3",
            "--gradient_accumulation_steps", "1", "--save_strategy", "no", "--report_to", "none",
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    model = load(tmp_path / "full")
    assert evaluate(model, judged_store).accuracy.value > 0.7
    chats = [chat("question 3 about sea", w) for w in WORDS]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "full").eval()
    renderer = model.cache.backbone.renderer
    # The loaded model reads in bf16 where the processor computes in it, plain transformers in fp32.
    near = 1e-4 if best_dtype(best_device()) is torch.float32 else 2e-2
    for one, reward in zip(chats, model.rewards(chats)):
        ids = torch.tensor([[*renderer.render(one).ids, renderer.pad_id]])  # a padded row, as in a batch
        assert plain(ids).logits.item() == pytest.approx(reward, abs=near)
    _, stds, _ = model.margins(chats[:5], chats[5:10])
    assert (stds > 0).all()


def test_full_training_from_the_store_enters_a_lora_model(judged_store, tiny_model, tmp_path):
    from rlhf_hitl.reward.full import train_full

    config = tmp_path / "config.yaml"
    config.write_text("use_peft: true\nlearning_rate: 5.0e-3\nnum_train_epochs: 2\nper_device_train_batch_size: 16\n")
    model = train_full(judged_store, str(tiny_model), tmp_path, config=config, max_length=128)
    assert np.abs(model.head.weights).max() > 0  # the score head was trained, not frozen
    assert ledger.reward_model(judged_store).id == model.id
    assert json.loads((tmp_path / "reward" / model.id / "reward_model.json").read_text())["backend"] == "full"


def test_the_command_follows_the_file_of_full_training_and_prints_one_json_object(judged_store, tiny_model, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model_name_or_path: {tiny_model}\nmax_length: 96\nlogging_steps: 1\neval_strategy: epoch\n"
        "num_train_epochs: 1\ncenter_rewards_coefficient: 0.01\npad_to_multiple_of: 8\n"
    )
    workspace = tmp_path / "not" / "there" / "yet"
    run = subprocess.run(
        [sys.executable, "-m", "rlhf_hitl", "train-reward", "--backend", "full", "--config", str(config), "--json",
         "--store", judged_store.url],
        env=os.environ | {"OMP_NUM_THREADS": "1", "RLHF_HITL_WORKSPACE": str(workspace)},
        capture_output=True, text=True, timeout=200, check=False,
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
    from rlhf_hitl.reward.full import load_pairs

    with pytest.raises(BadInput, match="train row 1: "):
        load_pairs(pairs_folder(**{"train": ["sea", "The  Sun", "fox"], held: ["the sun"]}))


def test_full_training_without_calibration_rows_evaluates_nothing(pairs_folder, tiny_model, tmp_path):
    from rlhf_hitl.arguments import parse
    from rlhf_hitl.reward.full import FullConfig, ModelConfig, build_trainer

    flags = {"--dataset": pairs_folder(train=["sea", "sun"]), "--output_dir": str(tmp_path / "out")}
    flags |= {"--model_name_or_path": str(tiny_model), "--eval_strategy": "epoch", "--pad_to_multiple_of": "64"}
    trainer: Any = build_trainer(*parse((FullConfig, ModelConfig), [x for pair in flags.items() for x in pair]))
    assert trainer.args.eval_strategy == "no"
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[1] == 64
    trainer.model.score.weight.data.fill_(0.1)
    trainer.model.eval()
    plain = trainer.compute_loss(trainer.model, dict(batch)).item()
    trainer.args.center_rewards_coefficient = 0.5
    centred = trainer.compute_loss(trainer.model, dict(batch)).item()
    chosen, rejected = trainer.model(batch["input_ids"], batch["attention_mask"]).logits.squeeze(-1).chunk(2)
    assert centred - plain == pytest.approx(0.5 * ((chosen + rejected) ** 2).mean().item(), rel=1e-4)


def test_full_training_learns_from_soft_labels_ties_and_weights(tiny_model, tmp_path):
    """The loss by hand: Davidson's with the labels' own share of ties, each label as heavy as it says."""
    from datasets import Dataset, DatasetDict

    from rlhf_hitl.arguments import parse
    from rlhf_hitl.reward.full import FullConfig, ModelConfig, build_trainer

    def row(prompt: str, p: tuple[float, float, float], weight: float) -> dict:
        (question,), _ = chat(prompt, "")
        answers = {side: [{"role": "assistant", "content": f"{side} one"}] for side in ("chosen", "rejected")}
        label = dict(zip(("p_chosen", "p_tie", "p_rejected"), p)) | {"weight": weight}
        return {"prompt": [{"role": "user", "content": question.content}], **answers, **label}

    rows = [row("sea", (0.75, 0.25, 0.0), 4), row("sun", (0.0, 1.0, 0.0), 1), row("fox", (0.5, 0.0, 0.5), 1)]
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(tmp_path / "d")
    flags = {"--dataset": str(tmp_path / "d"), "--output_dir": str(tmp_path / "out"), "--length_coefficient": "2"}
    flags |= {"--model_name_or_path": str(tiny_model), "--per_device_train_batch_size": "3"}
    trainer: Any = build_trainer(*parse((FullConfig, ModelConfig), [x for pair in flags.items() for x in pair]))
    assert trainer.nu == pytest.approx(2 * (1 / 3) / (1 - 1 / 3))  # 2 of the 6 votes are ties
    trainer.model.score.weight.data.normal_(std=0.3)
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    shares, weights = batch["shares"].numpy(), batch["weight"].numpy()
    rewards = trainer.model(batch["input_ids"], batch["attention_mask"]).logits.squeeze(-1).detach().numpy()
    m = rewards[:3] - rewards[3:]
    odds = np.stack([np.exp(m / 2), np.full(3, trainer.nu), np.exp(-m / 2)], axis=1)
    by_hand = -(shares * np.log(odds / odds.sum(1, keepdims=True))).sum(1) @ weights / 6
    d = np.full(3, np.log(11 / 13))  # "chosen one" and "rejected one", and one each for the logarithm
    by_hand += 2 * (m @ d) ** 2 / (m @ m * (d @ d))
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("column", [{"weight": -1.0}, {"weight": float("nan")}, {"p_chosen": 0.7, "p_tie": 0.6}])
def test_full_training_refuses_a_weight_or_shares_that_are_none(column):
    from rlhf_hitl.reward.full import shares, weight

    with pytest.raises(BadInput, match="weight" if "weight" in column else "p_tie"):
        (weight if "weight" in column else shares)(column)


@pytest.mark.parametrize(
    "flag", ["load_in_4bit true", "load_in_8bit true", "use_dora true", "trust_remote_code true", "eos_token x"]
)
def test_full_training_refuses_settings_it_does_not_follow(flag, tmp_path):
    from rlhf_hitl.arguments import parse
    from rlhf_hitl.reward.full import FullConfig, ModelConfig, build_trainer

    name, value = flag.split()
    with pytest.raises(BadInput, match=name):
        build_trainer(*parse((FullConfig, ModelConfig), ["--output_dir", str(tmp_path), f"--{name}", value]))


def test_full_training_script_answers_a_bad_flag_with_one_line():
    script = Path(__file__).parent.parent / "scripts" / "train_reward.py"
    run = subprocess.run(
        [sys.executable, str(script), "--no_such_flag", "1"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: settings")
    assert "Traceback" not in run.stderr
