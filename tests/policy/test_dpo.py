"""DPO: which pairs it is given, and that it raises a real reward."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sampled_completions import sample_completions
from typer.testing import CliRunner

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.dpo import DPOSettings, LabelDPOTrainer, compute_label_loss, count_pairs, fit_tie_odds, train_dpo
from rlhf_hitl.policy.dpo_pairs import DPOPair, collect_dpo_pairs, collect_human_pairs, make_model_pairs
from rlhf_hitl.policy.dpo_rounds import MadePairs, train_dpo_in_rounds
from rlhf_hitl.policy.dpo_rows import read_pairs
from rlhf_hitl.policy.model_drawer import ModelDrawer
from rlhf_hitl.policy.policy_folder import TRAINING_CARD, read_training_card
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.training import CHOICES, refuse_heldout
from rlhf_hitl.policy.training_plot import plot_training
from rlhf_hitl.policy.tuning_record import describe_preferences
from rlhf_hitl.reward.readability import Obstacle, Unreadable
from rlhf_hitl.stats.davidson import davidson_probabilities
from rlhf_hitl.store import people, queue
from rlhf_hitl.store.comparisons import insert_comparisons, insert_prompts
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Completion,
    Message,
    Prompt,
    Role,
    Route,
    Split,
    Verdict,
    messages_to_dicts,
)


class Longer:
    """A reward: a tenth of the answer's characters."""

    def find_problem(self, chats):
        return None

    def rewards(self, chats):
        return np.array([len(chat.completion[-1].content) / 10 for chat in chats], dtype=np.float32)

    def margins(self, first, second):
        """The uncertainty is a tenth of the words in which two answers differ."""
        words = [[set(c.completion[-1].content.split()) for c in side] for side in (first, second)]
        stds = np.array([len(a ^ b) / 10 for a, b in zip(*words)])
        margins = self.rewards(first) - self.rewards(second)
        return margins, stds, 1 / (1 + np.exp(-margins / np.sqrt(1 + np.pi / 8 * stds**2)))


def prompt(text, split=Split.TRAIN):
    return Prompt.create((Message("user", text),), split=split)


def answers(of, *texts):
    return [Completion.create(of.id, (Message("assistant", text),), "p") for text in texts]


def comparison(of, *texts):
    return Comparison.create(of, answers(of, *texts))


def add(store, *comparisons):
    with store.write() as conn:
        insert_comparisons(store, conn, comparisons, source="test")


def judge(store, answer, simulated=False):
    """Let one rater answer everything in the queue; `answer` makes an answer to a comparison."""
    rater = people.add_rater(store, f"r-{uuid.uuid4().hex[:6]}", Role.RATER, simulated=simulated)
    while (lease := queue.lease(store, rater.id, seconds=1800)) is not None:
        queue.submit(store, lease.id, rater.id, answer(lease.comparison), idempotency_key=lease.id, simulated=simulated)


def prefers(word):
    def answer(comparison):
        order = sorted(comparison.completions, key=lambda c: word not in c.text)
        return Answer(Verdict.RANKED, tuple((c.id,) for c in order))

    return answer


def tie(comparison):
    return Answer(Verdict.RANKED, (tuple(c.id for c in comparison.completions),))


TRAIN, HELD = prompt("train me"), prompt("hold me out", Split.HELDOUT)


def test_a_preference_of_raters_becomes_a_pair_and_heldout_prompts_never_do(sqlite_store):
    add(sqlite_store, comparison(TRAIN, "good one", "bad one"), comparison(HELD, "good two", "bad two"))
    judge(sqlite_store, prefers("good"))
    pairs = collect_human_pairs(sqlite_store)
    assert [(p.chosen.text, p.rejected.text, p.label_source) for p in pairs] == [("good one", "bad one", "human")]
    assert not pairs[0].simulated
    add(sqlite_store, comparison(prompt("simulate me"), "good", "bad"))
    judge(sqlite_store, prefers("good"), simulated=True)
    assert (
        count_pairs(collect_human_pairs(sqlite_store)).items() >= {"rater_pairs": 2, "simulated_rater_pairs": 1}.items()
    )


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"rater_pairs": 2, "simulated_rater_pairs": 0}, "raters' preferences"),
        ({"rater_pairs": 2, "simulated_rater_pairs": 1}, "partly *simulated* preferences"),
        ({"reward_model_id": "m", "reward_model_labels": 9, "reward_model_simulated_labels": 9},
         "*simulated* preferences"),
        ({"reward_model_id": "m", "reward_model_simulated_labels": None}, "partly *simulated* preferences"),
        ({"rater_pairs": 2, "model_pairs": 0, "reward_model_id": "m", "reward_model_simulated_labels": 9},
         "raters' preferences"),
    ],
)  # fmt: skip
def test_a_card_says_what_was_simulated_of_what_its_policy_learnt(card, said):
    assert describe_preferences(card) == said


def test_the_plot_of_one_step_has_whole_numbers_and_no_line_twice():
    plot = plot_training([{"tokens": 8.0, "completions/mean_length": 8.0, "loss": 0.5}], "one")
    assert ">tokens<" not in plot, "one line needs no legend"
    assert re.findall(r"text-anchor: middle[^>]*>([^<]*)<", plot) == ["1", "step"] * 2


def test_a_tie_is_a_pair_without_a_side_or_is_left_out_and_counted(sqlite_store):
    add(sqlite_store, comparison(TRAIN, "a", "b"))
    judge(sqlite_store, tie)
    [pair] = collect_dpo_pairs(sqlite_store)
    assert (pair.share, pair.tie, pair.weight) == (0.5, 1.0, 1.0)
    not_paired = Counter()
    with pytest.raises(BadInput, match="people or the reward model labelled"):
        collect_dpo_pairs(sqlite_store, ties=False, not_paired=not_paired)
    assert not_paired == {"a tie, or evenly split votes": 1}


def test_a_vote_counts_as_its_strength_says(sqlite_store):
    """Much better (3), slightly better (1) and a tie: of a mean strength of 2, that is 1.5, 0.5 and 1."""
    add(sqlite_store, Comparison.create(TRAIN, answers(TRAIN, "good one", "bad one"), 3))
    judge(sqlite_store, lambda c: replace(prefers("good")(c), strength=3))
    judge(sqlite_store, lambda c: replace(prefers("bad")(c), strength=1))
    judge(sqlite_store, tie)
    [pair] = collect_human_pairs(sqlite_store)
    assert (pair.chosen.text, pair.share, pair.tie, pair.weight) == ("good one", 0.75, pytest.approx(1 / 3), 3.0)
    [plain] = collect_human_pairs(sqlite_store, strengths=False)
    assert (plain.share, plain.tie, plain.weight) == (0.5, pytest.approx(1 / 3), 3.0)


def test_the_model_pairs_best_with_worst_if_the_margin_is_large_enough():
    near = prompt("near")
    fresh = [*answers(TRAIN, "x" * 5, "x" * 30, "x" * 20), *answers(near, "y" * 5, "y" * 6)]
    pairs = make_model_pairs(Longer(), [TRAIN, near], fresh, least_margin=0.5)
    assert [(len(p.chosen.text), len(p.rejected.text), p.label_source) for p in pairs] == [(30, 5, "model")]
    assert pairs[0].margin == pytest.approx(2.5)
    assert pairs[0].share == pytest.approx(1 / (1 + np.exp(-2.5 / np.sqrt(1 + np.pi / 8 * 0.2**2))))


def test_a_conservative_model_pairs_what_it_is_sure_of_and_counts_what_it_leaves_out():
    """The longest answer is 6.8 above the worst with a doubt of 2.2 (22 words), the second 2.0 with 0.2."""
    unsure = prompt("unsure")
    many, few = " ".join(f"w{i}" for i in range(21)), "x" * 25
    fresh = [*answers(TRAIN, "y" * 5, few, many), *answers(unsure, "z", many), *answers(prompt("alone"), "only")]
    prompts = [TRAIN, unsure, prompt("alone")]

    def pair(k):
        not_paired = Counter()
        pairs = make_model_pairs(Longer(), prompts, fresh, least_margin=0.5, conservative=k, not_paired=not_paired)
        return {p.prompt.id: p for p in pairs}, not_paired

    plain, _ = pair(0)
    assert (plain[TRAIN.id].chosen.text, len(plain)) == (many, 2)
    sure, not_paired = pair(4)
    assert (sure[TRAIN.id].chosen.text, sure[TRAIN.id].rejected.text) == (few, "y" * 5)
    assert sure[TRAIN.id].uncertainty == pytest.approx(0.2)
    assert set(sure) == {TRAIN.id}
    assert not_paired == {"a margin below 4 times its uncertainty": 1, "a prompt without two answers": 1}


def test_all_that_makes_no_pair_is_counted_against_the_prompts_that_were_asked(sqlite_store):
    """A prompt with a pair, one with empty answers alone, one with answers that cannot be read, one with none."""

    class Reader(Longer):
        def find_problem(self, chats):
            if "bad" in chats[0].completion[-1].content:
                return Unreadable(Obstacle.TEMPLATE, "p", "an answer", expected="one that can be read", fix="")
            return None

    asked = [prompt(f"asked {i}") for i in range(4)]
    fresh = [*answers(asked[0], "a", "b" * 30), *answers(asked[1], "", " "), *answers(asked[2], "bad 1", "bad 2", "ok")]
    not_paired = Counter()
    assert len(make_model_pairs(Reader(), asked, fresh, not_paired=not_paired)) == 1
    of_model = {
        "an answer without text": 2,
        "an answer that the reward model cannot read": 2,
        "a prompt without two answers": 3,
    }
    assert not_paired == of_model
    with sqlite_store.write() as conn:
        insert_prompts(sqlite_store, conn, asked)
    not_paired = Counter()
    assert len(collect_dpo_pairs(sqlite_store, Reader(), fresh, asked=asked, not_paired=not_paired)) == 1
    assert not_paired == of_model
    fresh = [c for p in asked for c in answers(p, "a", "b" * 30)]
    not_paired = Counter()
    assert len(collect_dpo_pairs(sqlite_store, Longer(), fresh, asked=asked, limit=1, not_paired=not_paired)) == 1
    assert not_paired == {"a prompt beyond twice the limit": 2, "not used, as limit is 1": 1}


def test_without_fresh_completions_accepted_comparisons_are_paired_and_the_sources_alternate(sqlite_store):
    add(sqlite_store, *(comparison(prompt(f"judged {i}"), "good", "bad") for i in range(3)))
    judge(sqlite_store, prefers("good"))
    waiting = [comparison(prompt(f"waiting {i}"), "long " * 10, "short") for i in range(3)]
    refused = prompt("sent to raters")
    add(sqlite_store, *waiting, comparison(refused, "long " * 10, "short"))
    apply_routings(sqlite_store, [Routing(c.id, Route.AUTO, Route.AUTO, "sure") for c in waiting])
    pairs = collect_dpo_pairs(sqlite_store, Longer(), limit=4)
    assert [p.label_source for p in pairs] == ["human", "model", "human", "model"]
    assert pairs == collect_dpo_pairs(sqlite_store, Longer(), limit=4)
    assert len(collect_dpo_pairs(sqlite_store, Longer())) == 6
    assert refused.id not in {p.prompt.id for p in collect_dpo_pairs(sqlite_store, Longer())}


def test_the_model_makes_no_pair_of_completions_that_people_judged(sqlite_store):
    add(sqlite_store, comparison(TRAIN, "good", "much longer but bad"))
    judge(sqlite_store, prefers("good"))
    pairs = collect_dpo_pairs(sqlite_store, Longer(), answers(TRAIN, "good", "much longer but bad"))
    assert [p.label_source for p in pairs] == ["human"]


def test_fresh_completions_of_heldout_prompts_are_refused(sqlite_store):
    add(sqlite_store, comparison(HELD, "a", "b"))
    with pytest.raises(BadInput, match=HELD.id):
        collect_dpo_pairs(sqlite_store, Longer(), answers(HELD, "x", "x" * 50))


def test_a_heldout_prompt_labelled_as_train_is_refused_by_its_family(sqlite_store):
    add(sqlite_store, comparison(HELD, "a", "b"))
    disguised = prompt("  HOLD me   out", Split.TRAIN)
    refuse_heldout([disguised])
    with pytest.raises(BadInput, match=disguised.id):
        refuse_heldout([disguised], sqlite_store)


def pairs_of(chats):
    return [DPOPair(p, *answers(p, good, bad), label_source="human") for p, good, bad in chats]


def test_rows_are_the_tokens_that_trl_makes_and_pairs_that_are_too_long_are_counted(tiny_model, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from rlhf_hitl.models import load_policy, load_tokenizer

    pairs, tokenizer = pairs_of([(TRAIN, "yes", "no"), (prompt("b"), "yes " * 200, "no")]), load_tokenizer(tiny_model)
    read = read_pairs(pairs, tokenizer, 64)
    assert (read.too_long, len(read.rows)) == (1, 1)
    stock = Dataset.from_list(
        [{"prompt": messages_to_dicts(TRAIN.messages), "chosen": messages_to_dicts(pairs[0].chosen.messages),
          "rejected": messages_to_dicts(pairs[0].rejected.messages)}]
    )  # fmt: skip
    config = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    trainer = DPOTrainer(load_policy(tiny_model), args=config, train_dataset=stock, processing_class=tokenizer)
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    assert {name: read.rows[0][name] for name in columns} == {name: trainer.train_dataset[0][name] for name in columns}


def settings(policy, out, **more):
    base = {"model_name_or_path": str(policy), "output_dir": str(out), "use_cpu": True, "bf16": False, "seed": 1}
    return DPOSettings(**(base | more))


def ascii_share(completions):
    return float(np.mean([10 * sum(x.isascii() for x in c.text) / max(len(c.text), 1) for c in completions]))


def test_a_resumed_run_ends_like_one_that_was_not_stopped_and_on_the_same_pairs_alone(policy, tmp_path, monkeypatch):
    pairs = pairs_of([(prompt(f"question {i}"), f"yes {i}", f"no {i}") for i in range(6)])
    of_run = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    whole = train_dpo(settings(policy, tmp_path / "whole", **of_run), pairs)
    calls, compute = [], LabelDPOTrainer.compute_loss

    def stops(trainer, *args, **more):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(trainer, *args, **more)

    def train(pairs=pairs, resume="latest", **more):
        given = of_run | {"resume_from_checkpoint": resume} | more
        return train_dpo(settings(policy, tmp_path / "stopped", **given), pairs)

    monkeypatch.setattr(LabelDPOTrainer, "compute_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        train()
    one_more = [*pairs[:5], replace(pairs[5], share=0.75)]
    with pytest.raises(BadInput, match=r"^pairs 6 .ids \w+.: expected pairs 6 .*Fix: leave resume_from_ch"):
        train(one_more)
    with pytest.raises(BadInput, match=r"^learning_rate 0.02: expected learning_rate 0.01, as in .*Fix: give the same"):
        train(learning_rate=2e-2)
    assert train()["loss"] == pytest.approx(whole["loss"], abs=1e-5)
    assert len(calls) == 4
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-5)
    # Begun anew, it leaves nothing of an earlier one to go on from.
    shutil.rmtree(tmp_path / "stopped")
    calls[:] = calls[:1]
    with pytest.raises(KeyboardInterrupt):
        train()
    calls[:] = calls[:2]
    with pytest.raises(KeyboardInterrupt):
        train(resume=None)
    assert not list(tmp_path.glob(".stopped.checkpoints/checkpoint-*"))


def test_weights_that_are_not_finite_are_not_saved(policy, tmp_path):
    pairs = pairs_of([(prompt(f"question {i}"), "yes", "no") for i in range(4)])
    with pytest.raises(BadInput, match=r"weights after the training: expected finite numbers.*learning_rate"):
        train_dpo(settings(policy, tmp_path / "out", learning_rate=1e30, max_grad_norm=1e30, num_train_epochs=3), pairs)
    assert not (tmp_path / "out").exists()


def test_dpo_raises_the_mean_reward_on_heldout_prompts(policy, tmp_path, capsys):
    """The policy's own answers, paired by how much of them is ASCII."""
    train = [prompt(f"seen number {i}") for i in range(400)]
    heldout = [prompt(f"unseen number {i}", Split.HELDOUT) for i in range(60)]

    class Ascii(Longer):
        def rewards(self, chats):
            return np.array([ascii_share([Completion("", "", c.completion, "")]) for c in chats], dtype=np.float32)

    fresh = sample_completions(policy, train, [Sampling(1.0, 1.0, 8, seed=0, count=8)], batch_size=200)
    pairs = make_model_pairs(Ascii(), train, fresh, least_margin=0.5)
    assert len(pairs) > 300

    def mean_reward(path):
        return ascii_share(sample_completions(path, heldout, [Sampling(1.0, 1.0, 8, seed=1, count=4)], batch_size=240))

    before = mean_reward(policy)
    out = tmp_path / "tuned"
    figures = train_dpo(
        settings(policy, out, learning_rate=1e-2, num_train_epochs=2, per_device_train_batch_size=8, beta=1.0), pairs
    )
    assert mean_reward(out) > before + 0.5  # the standard error of either mean is about 0.12
    assert figures["model_pairs"] == len(pairs)
    card = json.loads((out / TRAINING_CARD).read_text())
    assert card["history"][-1]["rewards/accuracies"] > 0.7
    assert str(tmp_path) not in json.dumps({k: v for k, v in card["settings"].items() if k != "model_name_or_path"})
    assert capsys.readouterr().out == ""  # stdout belongs to --json


def test_training_refuses_heldout_pairs_used_folders_and_pairs_that_are_all_too_long(tiny_model, tmp_path):
    good = pairs_of([(TRAIN, "yes", "no")])
    with pytest.raises(BadInput, match="train split"):
        train_dpo(settings(tiny_model, tmp_path / "a"), pairs_of([(HELD, "yes", "no")]))
    with pytest.raises(BadInput, match="not there yet"):
        train_dpo(settings(tiny_model, tiny_model), good)
    with pytest.raises(BadInput, match="max_length"):
        train_dpo(settings(tiny_model, tmp_path / "a", max_length=2), good)
    assert list(tmp_path.iterdir()) == []


def test_the_loss_of_a_label_is_least_where_dpo_gives_the_share_of_the_votes():
    margins = torch.tensor([0.0, 1.0, -2.0, np.log(3.0)], requires_grad=True)
    shares = torch.tensor([1.0, 1.0, 0.25, 0.75])
    losses = compute_label_loss(margins, shares)
    by_hand = [np.log(2), np.log1p(np.exp(-1)), 0.25 * np.log1p(np.exp(2)) + 0.75 * np.log1p(np.exp(-2)), None]
    assert losses[:3].tolist() == pytest.approx(by_hand[:3], rel=1e-6)
    losses.sum().backward()
    assert margins.grad is not None
    assert margins.grad[3] == pytest.approx(0, abs=1e-6)  # 3 to 1 is a share of 0.75


@given(
    margin=st.floats(-20, 20), share=st.floats(0.5, 1), tied=st.floats(0, 1), odds=st.floats(0, 8),
)  # fmt: skip
def test_the_loss_of_ties_is_davidsons(margin, share, tied, odds):
    """By hand at a margin of log 4 and nu 1.5: 2, 1.5 and 1/2 of 4 are the odds. And the slow reference of `stats`."""

    def loss(m, s, t, nu):
        margins, shares, ties = (torch.tensor([x], dtype=torch.float64) for x in (m, s, t))
        return float(compute_label_loss(margins, shares, ties, nu))

    assert loss(np.log(4), 1.0, 0.0, 1.5) == pytest.approx(np.log(2), abs=1e-6)
    assert loss(np.log(4), 0.5, 1.0, 1.5) == pytest.approx(np.log(4 / 1.5), abs=1e-6)
    if odds < 1e-3:  # a tie is half a vote for each side
        both = 0.5 * np.log1p(np.exp(-margin)) + 0.5 * np.log1p(np.exp(margin))
        assert loss(margin, 0.5, 1.0, 0.0) == pytest.approx(both, abs=1e-6)
        return
    better, tie_, worse = np.log(davidson_probabilities(np.array([margin]), odds)[0])
    expected = -(1 - tied) * (share * better + (1 - share) * worse) - tied * tie_
    assert loss(margin, share, tied, odds) == pytest.approx(expected, abs=1e-6)


def test_the_odds_of_ties_follow_their_share():
    assert davidson_probabilities(np.zeros(1), fit_tie_odds(0.3))[0, 1] == pytest.approx(0.3)
    assert fit_tie_odds(0) == 0
    assert np.isfinite(fit_tie_odds(1))


def test_the_odds_of_ties_are_those_of_raters_votes_however_many_pairs_the_model_makes(tiny_model, tmp_path):
    """At the start a pair has the loss of its label at a margin of 0: of a rater log(2 + nu), of the model log 2."""
    pairs = pairs_of([(prompt(f"question {i}"), "yes it is", "no it is not") for i in range(6)])
    judged = [replace(pairs[0], tie=1.0), pairs[1], pairs[2]]
    of_model = [replace(pair, label_source="model", share=0.8) for pair in pairs[3:]]
    out = tmp_path / "a"
    train_dpo(settings(tiny_model, out, learning_rate=1e-12, per_device_train_batch_size=1), judged + of_model)
    nu = fit_tie_odds(1 / 3)  # 1: a tie is as likely as either side
    expected = [np.log(2)] * 3 + [np.log(2 + nu)] * 2 + [np.log((2 + nu) / nu)]
    assert sorted(row["loss"] for row in read_history(out)) == pytest.approx(sorted(expected), abs=1e-3)


def test_a_pair_pulls_as_its_votes_do_and_as_hard_as_they_are_worth(tiny_model, tmp_path):
    """At the start every pair has the loss log 2 times its weight; votes that are evenly split pull to neither side."""
    pairs = pairs_of([(prompt(f"question {i}"), "yes it is", "no it is not") for i in range(2)])
    weighted = [replace(pairs[0], weight=1.0), replace(pairs[1], weight=3.0)]
    slow = settings(tiny_model, tmp_path / "a", learning_rate=1e-12, per_device_train_batch_size=1)
    train_dpo(slow, weighted)
    losses = [row["loss"] for row in json.loads((tmp_path / "a" / TRAINING_CARD).read_text())["history"]]
    assert sorted(losses) == pytest.approx([np.log(2) / 2, np.log(2) * 1.5], abs=1e-3)

    def train_on(share):
        out = tmp_path / f"{share}"
        train_dpo(settings(tiny_model, out, learning_rate=1e-2), [replace(pair, share=share) for pair in pairs])
        return load_file(out / "model.safetensors")

    before = load_file(tiny_model / "model.safetensors")
    assert all(torch.equal(before[name], value) for name, value in train_on(0.5).items() if name in before)
    assert any(not torch.equal(before[name], value) for name, value in train_on(1.0).items() if name in before)


def test_the_label_of_a_pair_is_what_the_votes_that_prefer_a_side_are_worth(sqlite_store):
    add(sqlite_store, Comparison.create(TRAIN, answers(TRAIN, "good one", "bad one"), 3))
    for answer in (prefers("good"), prefers("good"), prefers("bad")):
        judge(sqlite_store, answer)
    [pair] = collect_human_pairs(sqlite_store, "shares")
    assert (pair.share, pair.weight) == (pytest.approx(2 / 3), 3)
    [pair] = collect_human_pairs(sqlite_store, "majority")
    assert (pair.share, pair.weight) == (1, 3)


def read_history(out):
    return json.loads((out / TRAINING_CARD).read_text())["history"]


def test_a_two_to_one_label_pulls_less_than_a_unanimous_one_and_towards_its_share(sqlite_store, policy, tmp_path):
    """From the votes in the store to the policy: the loss of a step is that of the label at the policy's margin."""
    margins = {}
    for name, voters in (("two to one", ("good", "good", "bad")), ("unanimous", ("good", "good", "good"))):
        at = prompt(name)
        add(sqlite_store, Comparison.create(at, answers(at, "good one", "bad one"), 3))
        for word in voters:
            judge(sqlite_store, prefers(word))
        [pair] = [p for p in collect_human_pairs(sqlite_store) if p.prompt.id == at.id]
        out = tmp_path / name
        train_dpo(settings(policy, out, learning_rate=1e-2, num_train_epochs=40, beta=1.0), [pair])
        last = read_history(out)[-1]
        margins[name] = last["rewards/margins"]
        share = pair.share
        loss = -share * np.log(1 / (1 + np.exp(-margins[name]))) - (1 - share) * np.log(1 / (1 + np.exp(margins[name])))
        assert last["loss"] == pytest.approx(loss, abs=2e-3)  # TRL rounds what it logs
    assert margins["two to one"] == pytest.approx(np.log(2), abs=0.3)
    assert margins["unanimous"] > 2


def test_a_reference_that_is_computed_once_gives_the_same_loss(policy, tmp_path):
    asked = [(prompt(f"question {i}"), "yes it is " * (i + 1), "no it is not") for i in range(5)]
    pairs = [replace(pair, share=0.8, tie=0.1 * i) for i, pair in enumerate(pairs_of(asked))]
    weights = []
    for once in (False, True):
        out = tmp_path / f"{once}"
        figures = train_dpo(
            settings(policy, out, learning_rate=1e-2, per_device_train_batch_size=2, num_train_epochs=2,
                     precompute_ref_log_probs=once), pairs,
        )  # fmt: skip
        assert figures["reference_precomputed"] is once
        weights.append((load_file(out / "model.safetensors"), read_history(out)))
    (one, history), (other, history_once) = weights
    assert [row["loss"] for row in history_once] == pytest.approx([row["loss"] for row in history], abs=1e-6)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-5)
    assert train_dpo(settings(policy, tmp_path / "c", num_train_epochs=2), pairs)["reference_precomputed"]
    assert not train_dpo(settings(policy, tmp_path / "d"), pairs)["reference_precomputed"]


@pytest.mark.parametrize("reference", ["first", "previous"])
def test_rounds_train_on_what_the_policy_so_far_says_and_go_on_where_they_stopped(policy, tmp_path, reference):
    """Killed in the last round, it goes on after the finished ones. Margins against the first policy only grow; against
    the previous one each round begins at nothing."""
    asked, seen = prompt("question"), []

    def make_pairs(number, so_far):
        seen.append((number, so_far))
        if len(seen) == 3:
            raise KeyboardInterrupt
        pairs = pairs_of([(asked, "yes", "no")] * (number + 1))
        return MadePairs(pairs, Counter({"a prompt without two answers": number}), {"drawn": number})

    out, given = tmp_path / "tuned", {"arguments": {"rounds": 3}, "reward_model_id": "m"}

    def train(**more):
        of_rounds = settings(policy, out, learning_rate=1e-2, num_train_epochs=3, beta=1.0, **more)
        return train_dpo_in_rounds(of_rounds, make_pairs, rounds=3, reference=reference, card=given)

    with pytest.raises(KeyboardInterrupt):
        train()
    with pytest.raises(BadInput, match="same settings"):
        train(lora_r=4)
    figures = train()
    assert [number for number, _ in seen] == [0, 1, 2, 2]
    assert len({policy for _, policy in seen}) == 3
    assert [r["round"] for r in figures["rounds"]] == [1, 2, 3]
    assert figures["not_paired"] == {"a prompt without two answers": 2}
    first = read_history(out)[0]["rewards/margins"]
    assert first == pytest.approx(0, abs=1e-3) if reference == "previous" else first > 0.1
    assert figures["sampled"] == {"drawn": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["tuned"]
    # Nothing tells that it was stopped: not the card, and not what is made of it.
    resumed = shutil.move(out, tmp_path / "resumed")
    assert train() == figures
    cards = [json.loads((folder / TRAINING_CARD).read_text()) for folder in (out, resumed)]
    for card in cards:
        assert (card["round"], [r["round"] for r in card["earlier_rounds"]]) == (3, [1, 2])
        assert [r["rater_pairs"] for r in card["earlier_rounds"]] + [card["rater_pairs"]] == [1, 2, 3]
        card["history"] = [{k: v for k, v in row.items() if not k.endswith(TIMES)} for row in card["history"]]
    assert cards[0] == cards[1]
    for name in ("config.yaml", "README.md"):
        assert (out / name).read_text() == (resumed / name).read_text()


#: What of a logged step is told by the clock.
TIMES = ("runtime", "per_second")


# The commands.


@pytest.fixture
def judged(sqlite_store, tiny_model, tmp_path, monkeypatch):
    """A store with people's judgments and a reward model trained on them; gives its URL."""
    from rlhf_hitl.reward.backbone import Backbone
    from rlhf_hitl.reward.training.head_training import train_head

    monkeypatch.chdir(tmp_path)
    add(sqlite_store, *(comparison(prompt(f"hello {i}", Split.TRAIN), f"good {i}", f"bad {i}") for i in range(12)))
    judge(sqlite_store, prefers("good"))
    add(sqlite_store, *(comparison(prompt(f"waiting {i}", Split.TRAIN), "good", "bad") for i in range(4)))
    train_head(sqlite_store, Backbone(str(tiny_model)), tmp_path / "workspace")
    return f"sqlite:///{tmp_path}/preferences.db"


def run(*arguments):
    from rlhf_hitl.cli import app, register_commands

    register_commands()

    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_train_dpo_command_writes_a_policy_that_loads(judged, tiny_model, tmp_path):
    from rlhf_hitl.models import load_policy

    out = tmp_path / "tuned"
    done = run(
        "train-dpo", "--store", judged, "--policy", tiny_model, "--out", out, "--rounds", "2", "--json", *(
            word for setting in ("use_cpu=true", "least_margin=0", "conservative=0", "learning_rate=1e-3",
                                 "sample_prompts=4", "max_new_tokens=8", "limit=10") for word in ("--set", setting)
        ),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["policy"] == str(out)
    assert result["rater_pairs"] + result["model_pairs"] == 10
    assert result["model_pairs"] > 0
    assert (result["simulated_rater_pairs"], result["simulated"]) == (0, False)
    assert 0.5 <= result["mean_share"] < 1
    assert (result["round"], [r["round"] for r in result["earlier_rounds"]]) == (2, [1])
    assert load_policy(out).config.hidden_size == 64
    config = yaml.safe_load((out / "config.yaml").read_text())
    given = {"rounds": 2, "sample_prompts": 4, "limit": 10, "least_margin": 0.0, "learning_rate": 1e-3, "lora_r": 8}
    assert given.items() <= config.items()
    assert config["model_name_or_path"] == str(tiny_model), "the first policy, not that of the round before"
    assert not {"store", "output_dir"} & set(config)
    again = tmp_path / "again"
    done = run("train-dpo", "--store", judged, "--config", out / "config.yaml", "--out", again, "--json")
    assert done.exit_code == 0, done.output
    same = ("rater_pairs", "model_pairs", "steps", "loss", "reward_model_id", "round")
    assert {name: json.loads(done.stdout)[name] for name in same} == {name: result[name] for name in same}
    assert yaml.safe_load((again / "config.yaml").read_text()) == config


def test_sampling_that_is_killed_goes_on_with_the_same_command_and_is_counted(
    judged, tiny_model, tmp_path, monkeypatch
):
    from rlhf_hitl.scripts.train_dpo import main

    given = {"store": judged, "model_name_or_path": tiny_model, "use_cpu": "true", "least_margin": 0}
    given |= {"sample_prompts": 3, "max_new_tokens": 6, "limit": 4}
    flags = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    drawn, most, draw = [], 5, ModelDrawer.draw

    def count(self, jobs, known):
        for job, made in draw(self, jobs, known):
            if len(drawn) == most:
                raise KeyboardInterrupt
            drawn.append(job.key)
            yield job, made

    monkeypatch.setattr(ModelDrawer, "draw", count)
    with pytest.raises(KeyboardInterrupt):
        main([*flags, "--output_dir", str(tmp_path / "tuned")])
    most = None
    figures = main([*flags, "--output_dir", str(tmp_path / "tuned")])
    assert len(drawn) == len(set(drawn)) == figures["sampled"]["drawn"] >= 12
    assert read_training_card(tmp_path / "tuned")["sampled"] == figures["sampled"]
    assert list(tmp_path.glob(".tuned*")) == []
    whole = main([*flags, "--output_dir", str(tmp_path / "whole")])
    assert whole | {"policy": ""} == figures | {"policy": ""}


def test_the_choices_of_losses_are_those_that_trl_has():
    import inspect

    from trl import DPOTrainer, GRPOTrainer

    dpo, grpo = inspect.getsource(DPOTrainer._compute_loss), inspect.getsource(GRPOTrainer._compute_loss)
    has = set(re.findall(r'loss_type == "(\w+)"', dpo))
    assert has == set(CHOICES["dpo"]["loss_type"])
    assert set(re.findall(r'f_divergence_type == "(\w+)"', dpo)) == set(CHOICES["dpo"]["f_divergence_type"])
    several = " ".join(re.findall(r"loss_type in \[(.*)\]", grpo))
    has = set(re.findall(r'loss_type == "(\w+)"', grpo)) | set(re.findall(r'"(\w+)"', several))
    assert has == set(CHOICES["grpo"]["loss_type"])
    for refused in ({"loss_type": ["exo_pair"]}, {"loss_type": ["aot"], "f_divergence_type": "forward_kl"}):
        with pytest.raises(BadInput, match=r"exo_pair|aot"):
            DPOSettings(use_cpu=True, bf16=False, **refused)  # type: ignore[arg-type]


def test_the_train_ppo_command_writes_a_policy_tuned_on_the_newest_reward_model(judged, tiny_model, tmp_path):
    from rlhf_hitl.models import load_policy

    out = tmp_path / "tuned"
    done = run(
        "train-ppo", "--store", judged, "--model-name-or-path", tiny_model, "--output-dir", out, "--set", "steps=2",
        "--set", "max_new_tokens=6", "--set", "rollouts=8", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    history = json.loads((out / TRAINING_CARD).read_text())["history"]
    assert ([result["first"], result["last"]], len(history)) == ([history[0], history[-1]], 3), (
        "two steps and what they made"
    )
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["reward_model"], config["steps"]) == (result["reward_model_id"], 2)
    assert "output_dir" not in config
    assert history[0]["kl"] == pytest.approx(0, abs=1e-4), "the first answers are the untouched policy's"
    assert all(np.isfinite(list(step.values())).all() for step in history)
    assert load_policy(out).config.hidden_size == 64


def test_an_interrupted_command_says_what_is_kept_and_goes_on_from_there(judged, tiny_model, tmp_path, monkeypatch):
    """In PPO after a checkpoint, and in DPO while it samples; then the same command comes to its end and says what is
    next."""
    from rlhf_hitl.policy.ppo import checkpoints

    def interrupt(*_):
        raise KeyboardInterrupt

    place, ppo, dpo = checkpoints.place_folder, tmp_path / "ppo", tmp_path / "dpo"
    of_ppo = ("steps=2", "rollouts=4", "max_new_tokens=6", "save_steps=1")
    of_dpo = ("use_cpu=true", "least_margin=0", "sample_prompts=2", "max_new_tokens=6", "limit=4")
    draw = ModelDrawer.draw
    for method, out, settings_, owner, name, stops in (
        ("ppo", ppo, of_ppo, checkpoints, "place_folder", lambda *args: interrupt(place(*args))),
        (
            "dpo",
            dpo,
            of_dpo,
            ModelDrawer,
            "draw",
            lambda *args: (interrupt() if i else d for i, d in enumerate(draw(*args))),
        ),
    ):
        command = [f"train-{method}", "--store", judged, "--policy", tiny_model, "--out", out]
        command += [word for setting in settings_ for word in ("--set", setting)]
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stops)
            done = run(*command)
        kept = "the newest checkpoint" if method == "ppo" else "what was sampled"
        assert done.exit_code == 130, done.output
        assert f"no policy was written. Kept: {kept}; the same command with --out {out} goes on" in done.stderr
        assert not out.exists()
        done = run(*command)
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[-1].startswith("Next: rlhf-hitl promote --policy")
        assert list(tmp_path.glob(f".{method}*")) == []


def test_an_unknown_setting_and_a_missing_file_are_named_in_the_error(judged, tiny_model, tmp_path):
    (tmp_path / "bad.yaml").write_text("no_such_setting: 1\n")
    for arguments, named in (
        (["--config", tmp_path / "bad.yaml"], "no_such_setting"),
        (["--config", tmp_path / "none.yaml"], "none.yaml"),
        (["--set", "steps"], "--set steps"),
        (["--set", "steps=many"], "many"),
        (["--set", "no_such=1"], "no_such"),
        (["--reward-model", "m_nobody"], "m_nobody"),
        (["--policy", tmp_path / "nowhere"], "nowhere"),
    ):
        done = run("train-ppo", "--store", judged, "--policy", tiny_model, "--out", tmp_path / "out", *arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert named in done.stderr.strip().splitlines()[-1]
        assert not (tmp_path / "out").exists()
