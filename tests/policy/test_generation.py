"""Sampling: reproducible, whatever else is in the batch; and comparisons of what was sampled."""

from __future__ import annotations

import json

import pytest
import torch
from sampled_completions import sample_completions
from typer.testing import CliRunner

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.sampled_comparisons import group_completions, make_comparisons
from rlhf_hitl.policy.sampling import RowSampling, Sampling, share_among_temperatures
from rlhf_hitl.policy.stop_strings import StopFinder
from rlhf_hitl.policy.token_sampling import (
    PromptReader,
    _sample_with_generate,
    find_eos_ids,
    make_token_chooser,
    plan_batches,
    sample_tokens,
    select_nucleus,
)
from rlhf_hitl.types import Completion, Message, Prompt, Split, parse_messages


@pytest.fixture(scope="module")
def model(tiny_model):
    from rlhf_hitl.models import load_policy

    return load_policy(tiny_model, torch.float32)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    from rlhf_hitl.models import load_tokenizer

    return load_tokenizer(tiny_model)


def prompt(text="hello", split=Split.TRAIN):
    return Prompt.create((Message("user", text),), split=split)


PROMPTS = [prompt("hi"), prompt("what is the capital of france"), prompt("please write a short poem " * 4)]


def sample(policy, prompts, sampling, **more):
    return sample_completions(policy, prompts, [sampling], dtype=torch.float32, **more)


def texts(policy, prompts, sampling, batch_size):
    made = sample(policy, prompts, sampling, batch_size=batch_size)
    return {(c.prompt_id, c.sampling["seed"]): c.text for c in made}


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_completion_does_not_depend_on_its_batch(tiny_model, top_p):
    sampling = Sampling(1.0, top_p, 12, seed=3)
    together = texts(tiny_model, PROMPTS, sampling, 8)
    alone = {}
    for one in PROMPTS:
        alone |= texts(tiny_model, [one], sampling, 1)
    assert together == alone
    assert len(together) == 3


def test_greedy_tokens_are_the_likeliest_ones_whatever_is_in_the_batch(model, tokenizer):
    ids = [PromptReader(tokenizer).tokenize(p) for p in PROMPTS]
    together = sample_tokens(model, ids, [RowSampling(0, 1, 6, 0)] * 3, eos=set(), pad=0)
    for one, row in zip(ids, together):
        assert sample_tokens(model, [one], [RowSampling(0, 1, 6, 9)], eos=set(), pad=0) == [row]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*one, *row]])).logits[0]
        assert logits.argmax(-1)[len(one) - 1 : -1].tolist() == row


@pytest.mark.parametrize("stop", [(), ("e", "the sea")])
def test_rows_that_share_a_prefill_and_leave_have_the_tokens_of_plain_generate(model, tokenizer, stop):
    ids = [PromptReader(tokenizer).tokenize(p) for p in PROMPTS]
    rows = [ids[0], ids[2], ids[0], ids[1], ids[0], ids[2]]
    draws = [RowSampling(1.0, 0.9 + 0.1 * (i % 2), 5 + 9 * i, seed=i) for i in range(len(rows))]
    finder, eos = StopFinder(tokenizer, stop), find_eos_ids(model, tokenizer)
    ours = sample_tokens(model, rows, draws, eos=eos, pad=0, stop=finder)
    # `model.generate` goes on until all rows have ended, and each is cut afterwards.
    assert ours == _sample_with_generate(model, rows, draws, eos, 0, finder)
    assert len({len(row) for row in ours}) > 2
    for row in ours if stop else ():
        text = PromptReader(tokenizer).decode(row, eos, stop)
        assert not any(s in text for s in stop)


def test_batches_hold_no_more_tokens_than_their_budget_and_every_row_once():
    prompts, answers = [3, 50, 7, 50, 7, 400], [10, 10, 12, 10, 5, 10]
    batches = plan_batches(prompts, answers, 130)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches[0] == [5], "longer than the budget, and alone"
    assert batches[1] == [1, 3], "as they were given"
    for batch in batches[1:]:
        assert len(batch) * (max(prompts[i] for i in batch) + max(answers[i] for i in batch)) <= 130
    assert len(batches) == 3
    assert [len(b) for b in plan_batches(prompts, answers, None, 4)] == [4, 2]


def test_a_batch_that_does_not_fit_names_the_setting_to_halve(model, tiny_model, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(type(model), "forward", fail)
    with pytest.raises(BadInput, match="halve --batch-tokens"):
        texts(tiny_model, PROMPTS, Sampling(1.0, 1.0, 12, 0), 4)


def test_a_seed_samples_the_same_again_and_another_seed_something_else(tiny_model):
    def draw(seed):
        return sorted(texts(tiny_model, PROMPTS, Sampling(1.0, 1.0, 12, seed, count=2), 4).values())

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_sampled_tokens_follow_the_models_distribution(model, tokenizer):
    ids = PromptReader(tokenizer).tokenize(PROMPTS[0])
    with torch.no_grad():
        expected = (model(input_ids=torch.tensor([ids])).logits[0, -1] / 0.3).softmax(-1)
    n = 4000
    draws = [RowSampling(0.3, 1.0, 1, seed) for seed in range(n)]
    rows = sample_tokens(model, [ids] * n, draws, eos={1}, pad=0)
    seen = torch.bincount(torch.tensor([r[0] for r in rows]), minlength=len(expected)) / n
    # For each token: five standard errors of a share, and one count.
    assert bool(((seen - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt() + 1 / n).all())


def test_the_nucleus_is_the_likeliest_tokens_that_reach_top_p():
    probabilities = torch.tensor([[0.1, 0.5, 0.05, 0.35], [0.97, 0.01, 0.01, 0.01]])
    values, order = select_nucleus(probabilities, torch.tensor([[0.8], [0.8]]))
    kept = [sorted(order[i][values[i] > 0].tolist()) for i in (0, 1)]
    assert kept == [[1, 3], [0]]


def test_a_nucleus_wider_than_the_first_look_is_complete():
    flat = torch.full((1, 5000), 1 / 5000)
    values, _ = select_nucleus(flat, torch.tensor([[0.9]]))
    assert int((values > 0).sum()) == pytest.approx(4500, abs=2)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_uniform_that_rounds_to_one_draws_no_token_without_probability(top_p, monkeypatch):
    nearly_one = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert nearly_one.float() == 1
    monkeypatch.setattr(torch, "rand", lambda *_, **__: nearly_one)  # no seed is known that draws it
    choose = make_token_chooser([RowSampling(1.0, top_p, 1, seed=0)], torch.device("cpu"))
    logits = torch.tensor([[0.0, 1.0, 2.0, *[-torch.inf] * 1000]])
    assert int(choose(logits, torch.tensor([0]), 0)) == {1.0: 2, 0.9: 1}[top_p], "the last that has a share"


def test_answers_end_at_their_eos_even_where_pad_is_eos(model, tokenizer):
    ids = [PromptReader(tokenizer).tokenize(p) for p in PROMPTS] * 8
    draws = [RowSampling(1.0, 1.0, 40, seed) for seed in range(len(ids))]
    eos = find_eos_ids(model, tokenizer)
    end = next(iter(eos))
    rows = sample_tokens(model, ids, draws, eos=eos, pad=end)
    assert rows == sample_tokens(model, ids, draws, eos=eos, pad=0)
    assert any(len(r) < 40 for r in rows)
    for row in rows:
        assert end not in row[:-1]
        assert len(row) == 40 or row[-1] == end


def test_a_row_stops_at_its_own_limit(model, tokenizer):
    ids = PromptReader(tokenizer).tokenize(PROMPTS[0])
    rows = sample_tokens(model, [ids, ids], [RowSampling(0, 1, 2, 0), RowSampling(0, 1, 5, 0)], eos=set(), pad=0)
    assert [len(r) for r in rows] == [2, 5]
    assert rows[1][:2] == rows[0]


def test_completions_record_their_sampling_and_have_no_special_tokens(tiny_model, tokenizer):
    made = sample(tiny_model, PROMPTS, Sampling(1.0, 1.0, 60, 5, count=16), batch_size=48)
    assert {c.policy for c in made} == {tiny_model.name}
    assert {c.sampling["finish"] for c in made} == {"eos", "length"}
    for c in made:
        assert set(c.sampling) == {
            "temperature", "top_p", "max_new_tokens", "seed", "finish", "tokens", "model",
        }  # fmt: skip
        assert c.sampling["finish"] == "eos" or c.sampling["tokens"] == 60
        assert "<|end|>" not in c.text
        assert "<|pad|>" not in c.text
    assert PromptReader(tokenizer).decode([*tokenizer("hello")["input_ids"], 1], {1}) == "hello"


def test_completions_of_a_prompt_all_differ_and_the_rest_is_counted(tiny_model, caplog):
    many = Sampling(1.0, 1.0, 1, count=400)  # of one token each: more than there are tokens
    made = sample(tiny_model, [PROMPTS[0]], many)
    counts = made.counts
    assert len({c.text for c in made}) == len(made) == counts.kept
    assert all(c.text for c in made)
    assert counts.missing.total() == 400 - len(made)
    assert counts.drawn == 400 + counts.redrawn == counts.kept + sum(counts.reasons.values())
    assert set(counts.reasons) == {"empty", "repeat"}
    assert f"{400 - len(made)} completions left out" in caplog.text
    all_kept = sample(tiny_model, [PROMPTS[0]], many, keep_all=True)
    every = all_kept.counts
    assert len(all_kept) == every.kept == every.drawn == 400
    assert sum(c.is_empty for c in all_kept) == every.reasons["empty"] > 0
    assert every.redrawn == 0


def test_a_prompt_without_room_for_an_answer_is_left_out_and_named_in_a_warning(tiny_model, caplog):
    long = prompt("hello " * 1100)
    made = sample(tiny_model, [long, PROMPTS[0]], Sampling(1.0, 1.0, 4))
    assert [c.prompt_id for c in made] == [PROMPTS[0].id]
    assert made.counts.too_long == 1
    assert long.id in caplog.text


def completions(of, *texts):
    return [Completion.create(of.id, (Message("assistant", text),), "p") for text in texts]


def test_comparisons_use_every_distinct_completion():
    one = PROMPTS[0]
    pairs = group_completions(one, completions(one, "a", "b", "c", "d"))
    assert sorted(c.text for x in pairs for c in x.completions) == ["a", "b", "c", "d"]
    three = group_completions(one, completions(one, "a", "b", "c"))
    assert len(three) == 2
    assert {c.text for x in three for c in x.completions} == {"a", "b", "c"}
    assert group_completions(one, completions(one, "a", "a")) == []
    assert [len(x.completions) for x in group_completions(one, completions(one, *"abcdef"), k=3)] == [3, 3]


def test_comparisons_never_mix_completions_of_two_prompts():
    mixed = completions(PROMPTS[0], "a", "b") + completions(PROMPTS[1], "c", "d")
    comparisons = make_comparisons(PROMPTS, mixed[::2] + mixed[1::2], overlap=2)
    assert len(comparisons) == 2
    assert all(c.prompt_id == x.prompt.id for x in comparisons for c in x.completions)
    assert {x.overlap for x in comparisons} == {2}


@pytest.mark.parametrize(
    "bad", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"max_new_tokens": 0}, {"count": 0}]
)
def test_an_impossible_sampling_is_refused(bad):
    with pytest.raises(BadInput):
        Sampling(**bad)


# The command.


def run(*arguments):
    from rlhf_hitl.cli import app, register_commands

    register_commands()

    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_adds_comparisons_to_the_store(sqlite_store, tmp_path, tiny_model):
    from rlhf_hitl.store.comparisons import find_comparisons, insert_prompts

    with sqlite_store.write() as conn:
        insert_prompts(sqlite_store, conn, PROMPTS)
    url = f"sqlite:///{tmp_path}/preferences.db"
    done = run(
        "generate", "--store", url, "--policy", tiny_model, "--completions", 3, "--temperature", 1.0, "--temperature",
        0.9, "--max-new-tokens", 6, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    counts = data.pop("policies")[tiny_model.name]
    assert data == {"prompts": 3, "completions": 9, "comparisons": 6, "new": 6}
    assert counts["kept"] == 9 == counts["drawn"] - counts["redrawn"]
    comparisons = list(find_comparisons(sqlite_store))
    assert len(comparisons) == 6
    of_first = {c.id: c for made in comparisons if made.prompt.id == PROMPTS[0].id for c in made.completions}
    assert sorted(c.sampling["temperature"] for c in of_first.values()) == [0.9, 1.0, 1.0]
    assert comparisons[0].completions[0].policy == tiny_model.name


def test_a_temperature_given_twice_counts_once_and_takes_no_completions_from_the_others():
    assert [(s.temperature, s.count) for s in share_among_temperatures([1.0, 1.0], 4)] == [(1.0, 4)]
    assert [(s.temperature, s.count) for s in share_among_temperatures([0.7, 1.0, 0.7], 5)] == [(0.7, 3), (1.0, 2)]
    assert [(s.temperature, s.count) for s in share_among_temperatures([0.7, 1.0], 1)] == [(0.7, 1)]


def test_the_command_samples_as_many_completions_as_asked_at_a_temperature_given_twice(tmp_path, tiny_model):
    (tmp_path / "p.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}')
    done = run(
        "generate", "--policy", tiny_model, "--prompts", tmp_path / "p.jsonl", "--out", tmp_path / "o.jsonl",
        "--completions", 4, "--temperature", 1.0, "--temperature", 1.0, "--max-new-tokens", 4, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["completions"] == 4


def test_the_command_reads_and_writes_files(tmp_path, tiny_model):
    asked = [{"messages": [{"role": "user", "content": f"hello {i}"}], "tags": {"n": str(i)}} for i in range(3)]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(a) for a in asked))
    done = run(
        "generate", "--policy", tiny_model, "--prompts", tmp_path / "p.jsonl", "--out", tmp_path / "o.jsonl",
        "--completions", 2, "--temperature", 1, "--max-new-tokens", 4, "--limit", 2,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [{k: r[k] for k in ("messages", "tags")} for r in rows] == asked[:2]
    for row in rows:
        assert len({parse_messages(c["messages"]) for c in row["completions"]}) == 2


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, tiny_model):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "x"}]}\n{"messages": [{"role": 1}]}\n')
    good = tmp_path / "good.jsonl"
    good.write_text('{"messages": [{"role": "user", "content": "x"}]}')
    out = tmp_path / "o.jsonl"
    for arguments, named in (
        (["--prompts", bad, "--out", out], "bad.jsonl:2: messages"),
        (["--prompts", tmp_path / "none.jsonl", "--out", out], "none.jsonl"),
        (["--policy", tmp_path / "nowhere", "--prompts", good, "--out", out], "nowhere"),
        (["--prompts", good], "none.db"),
        (["--temperature", 1, "--temperature", 2, "--completions", 1], "--completions 1"),
    ):
        done = run("generate", "--store", f"sqlite:///{tmp_path}/none.db", "--policy", tiny_model, *arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert named in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not out.exists()
