"""Generation that is killed, shared out, or asks endpoints and files: nothing is lost, and nothing is asked twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_line import run_command
from forked_processes import ForkedProcess, run_on_two_processes
from judge_server import fail, say, serve_judge
from rlhf_hitl.endpoints import client
from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.completing import complete_prompts
from rlhf_hitl.policy.completion_files import CompletionFile, open_completion_file, read_prompts
from rlhf_hitl.policy.generation_run import GenerationRun
from rlhf_hitl.policy.model_drawer import ModelDrawer
from rlhf_hitl.policy.sampled_comparisons import group_across_policies, make_comparisons, require_enough_completions
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.sampling_counts import SamplingCounts
from rlhf_hitl.store import people, queue
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.policies import PolicyMethod, list_policies
from rlhf_hitl.types import Completion, Message, Prompt, Role

SAMPLING = ["--completions", 2, "--temperature", 1, "--max-new-tokens", 8]


@pytest.fixture
def asked(tmp_path):
    """A file of 12 prompts, one of them with a line separator that is no end of a line."""
    path = tmp_path / "p.jsonl"
    texts = [f"hello {i}" for i in range(11)] + ["one\u2028two\x85three"]
    path.write_text("".join(json.dumps({"prompt": t}, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8")
    return path


def generate(*arguments, **more):
    done = run_command("generate", *arguments, "--json", **more)
    return done, json.loads(done.stdout)


def read_rows(path):
    return [json.loads(line) for line in path.read_bytes().decode().split("\n") if line]


def test_a_killed_command_goes_on_where_it_was_and_draws_nothing_twice(tmp_path, tiny_model, asked):
    flags = ["--policy", tiny_model, "--prompts", asked, *SAMPLING, "--batch-size", 1, "--limit", 6]
    flags[flags.index("--max-new-tokens") + 1] = 60
    killed, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    with (tmp_path / "log").open("w") as log:
        process = ForkedProcess("rlhf_hitl", ["generate", *flags, "--out", killed], os.environ, [log.fileno()] * 2)
        give_up = time.monotonic() + 120
        while sum(p.read_bytes().count(b"\n") for p in tmp_path.glob(".killed.jsonl.parts/*")) < 2:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.01)
        process.kill()
    process.wait()
    assert not killed.exists()
    assert list(tmp_path.glob(".killed.jsonl.*.writing"))
    [journal] = tmp_path.glob(".killed.jsonl.parts/*")
    kept = [json.loads(line) for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 2 <= len(kept) < 12
    journal.write_bytes(journal.read_bytes() + b'{"key": "cut o')
    drawn = []
    draw = ModelDrawer.draw

    def count(self, jobs, known):
        for job, made in draw(self, jobs, known):
            drawn.append(job.key)
            yield job, made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelDrawer, "draw", count)
        done, data = generate(*flags, "--out", killed)
    assert done.returncode == 0, done.stderr
    assert len(kept) + len(drawn) == data["policies"][tiny_model.name]["drawn"]
    assert not {row["key"] for row in kept} & set(drawn)
    assert re.search(r"going on: \d+ of 12 answers are there", done.stderr)
    assert not list(tmp_path.glob(".killed.jsonl.*"))
    generate(*flags, "--out", whole)
    assert read_rows(killed) == read_rows(whole)
    # What is finished is not replaced without being asked for, and what is no such file not at all.
    refused, _ = generate(*flags, "--out", whole)
    assert (refused.returncode, "add --overwrite" in refused.stderr) == (2, True)
    refused, _ = generate(*flags, "--out", asked, "--overwrite")
    assert (refused.returncode, "earlier completions" in refused.stderr) == (2, True)
    again, _ = generate(*flags, "--out", whole, "--overwrite")
    assert again.returncode == 0, again.stderr


def test_two_processes_sample_the_completions_of_one(tmp_path, tiny_model, asked):
    # 12 completions of each prompt: windows of 5 prompts, and draws that are drawn again.
    flags = ["--policy", tiny_model, "--prompts", asked, *SAMPLING, "--completions", 12]
    done, _ = generate(*flags, "--out", tmp_path / "one.jsonl")
    assert done.returncode == 0, done.stderr
    run_on_two_processes("rlhf_hitl", "generate", *flags, "--out", tmp_path / "two.jsonl")
    assert read_rows(tmp_path / "two.jsonl") == read_rows(tmp_path / "one.jsonl")
    # What is written is read again, with the line separator in it.
    assert {p.id for p in read_prompts(tmp_path / "two.jsonl")} == {p.id for p in read_prompts(asked)}
    assert not list(tmp_path.glob(".two.jsonl.parts"))


def test_processes_are_launched_and_their_answers_put_together(tmp_path, tiny_model, asked, monkeypatch):
    from rlhf_hitl.cli import generate as module

    launched = []
    monkeypatch.setattr(module, "launch_processes", lambda *a, **k: launched.append((a, k)))
    flags = ["--policy", tiny_model, "--prompts", asked, *SAMPLING, "--stop", "a b", "--out", tmp_path / "o.jsonl"]
    done, _ = generate(*flags, "--processes", 2)
    assert done.returncode == 0, done.stderr
    [((name, (command, *passed), processes), _)] = launched
    assert (name, command, processes) == ("rlhf_hitl", "generate", 2)
    assert "--stop=a b" in passed
    assert not any("sqlite" in flag for flag in passed)  # the store's URL may hold a password
    # What was passed on means the same.
    again, _ = generate(*(f for f in passed if not f.startswith("--out")), "--out", tmp_path / "again.jsonl")
    assert again.returncode == 0, again.stderr
    assert read_rows(tmp_path / "again.jsonl") == read_rows(tmp_path / "o.jsonl")


class _Server:
    """Answers each question with its own words and a number, and breaks after so many answers."""

    def __init__(self, breaks_after=None):
        self.breaks_after, self.answered, self._lock = breaks_after, [], threading.Lock()

    def __call__(self, body, headers):
        with self._lock:
            if self.breaks_after is not None and len(self.answered) >= self.breaks_after:
                return fail(503, "going down")
            self.answered.append((body["messages"][-1]["content"], body["seed"]))
            return say(f"said {body['messages'][-1]['content']} {body['seed']}", prompt=10, completion=5)


def test_an_endpoint_that_breaks_half_way_is_asked_only_for_the_rest(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setenv("POLICY_KEY", "sk-0123456789abcdef")
    server, out = _Server(breaks_after=9), tmp_path / "o.jsonl"
    with serve_judge(server) as (address, bodies):
        flags = ["--endpoint", address, "--model", "big", "--api-key-env", "POLICY_KEY", "--prompts", asked, *SAMPLING]
        flags += ["--out", out, "--price-in", 1, "--price-out", 2, "--stop", "never"]
        done, data = generate(*flags)
        assert done.returncode == 2
        assert "same command again" in data["error"]
        assert "503 going down" in data["error"]
        assert not out.exists()
        first, server.breaks_after = list(server.answered), None
        done, data = generate(*flags)
    assert done.returncode == 0, done.stderr
    assert len(first) == 9
    assert len(set(server.answered)) == len(server.answered) == 24
    counts = data["policies"]["big"]
    assert (counts["kept"], counts["calls"]["unanswered"]["failed"]) == (24, len(bodies) - 24)
    assert counts["calls"]["cost"] == pytest.approx(24 * 20 / 1e6)
    rows = read_rows(out)
    sampling = rows[0]["completions"][0]["sampling"]
    assert sampling["endpoint"] == address
    assert sampling["cost"] == pytest.approx(20 / 1e6)
    assert (sampling["finish"], sampling["tokens"], sampling["stop"]) == ("eos", 5, ["never"])
    assert {"seed", "stop", "top_p", "temperature", "max_tokens"} <= bodies[0].keys()
    assert "sk-0123456789abcdef" not in out.read_text()


def test_a_budget_stops_an_endpoint_and_holds_for_the_next_call(tmp_path, asked):
    server = _Server()
    with serve_judge(server) as (address, _):
        flags = ["--endpoint", address, "--model", "big", "--prompts", asked, *SAMPLING, "--out", tmp_path / "o.jsonl"]
        flags += ["--price-out", 1000, "--concurrency", 1]  # an answer costs 0.005, and can cost 0.008
        done, data = generate(*flags, "--budget", 0.024)
        assert (done.returncode, len(server.answered)) == (2, 4)
        assert "higher --budget" in data["error"]
        done, _ = generate(*flags, "--budget", 0.024)
        assert (done.returncode, len(server.answered)) == (2, 4)
        done, data = generate(*flags, "--budget", 1)
    assert (done.returncode, len(server.answered)) == (0, 24)
    assert data["policies"]["big"]["calls"]["cost"] == pytest.approx(24 * 0.005)


def test_refusals_are_counted_and_empty_answers_kept_only_where_all_are(tmp_path, asked):
    def answer(body, _):
        text = body["messages"][-1]["content"]
        if text == "hello 1":
            return fail(400, "blocked", code="content_filter")
        return say("" if text == "hello 2" else f"{text} {body['seed']}")

    with serve_judge(answer) as (address, _):
        flags = ["--endpoint", address, "--model", "big", "--prompts", asked, *SAMPLING, "--limit", 4]
        _, filtered = generate(*flags, "--out", tmp_path / "a.jsonl")
        _, everything = generate(*flags, "--out", tmp_path / "b.jsonl", "--keep-all")
    counts = filtered["policies"]["big"]
    assert (counts["kept"], counts["refused"], counts["empty"], counts["redrawn"]) == (4, 2, 18, 16)
    assert counts["missing"] == {"refused": 2, "empty": 2}
    counts = everything["policies"]["big"]
    assert (counts["kept"], counts["empty"], counts["redrawn"]) == (6, 2, 0)
    texts = [c["messages"][0]["content"] for row in read_rows(tmp_path / "b.jsonl") for c in row["completions"]]
    assert texts.count("") == 2


@pytest.mark.parametrize(("status", "completions"), [(400, 6), (422, 2), (500, 6)])
def test_one_prompt_that_an_endpoint_cannot_take_does_not_stop_the_others(
    tmp_path, asked, monkeypatch, status, completions
):
    """What it says of a prompt that is too long is kept as a refusal. A prompt that makes it fail is asked again."""
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.001)
    questions = []

    def answer(body, _):
        questions.append(text := body["messages"][-1]["content"])
        if text == "hello 1":
            return fail(status, "This model's maximum context length is 2048 tokens")
        return say(f"{text} {body['seed']}")

    with serve_judge(answer) as (address, _):
        flags = ["--endpoint", address, "--model", "big", "--prompts", asked, *SAMPLING, "--limit", 4]
        flags += ["--completions", completions, "--out", tmp_path / "o.jsonl", "--concurrency", 1]
        done, data = generate(*flags)
        assert done.returncode == 0, done.stderr
        counts, of_all = data["policies"]["big"], len(questions)
        assert counts["kept"] == 3 * completions
        if status == 500:
            assert counts["unanswered"] == completions
            again, data = generate(*flags)  # that prompt alone is left
            assert (again.returncode, data["policies"]["big"]["unanswered"]) == (0, completions)
            assert set(questions[of_all:]) == {"hello 1"}
            return
        assert counts["refused"] == completions == questions.count("hello 1")
        [(said, times)] = counts["refusals"].items()
        refused = read_prompts(asked)[1]
        assert (said.startswith(f"prompt {refused.id}: {status} This model's maximum"), times) == (True, completions)
        done = run_command("generate", *flags, "--overwrite")
        assert f"big: refused prompt {refused.id}: {status} This model's maximum" in " ".join(done.stdout.split())


def test_policies_of_all_kinds_are_compared_with_each_other_and_raters_learn_nothing(
    sqlite_store, sqlite_url, tmp_path, tiny_model, asked, monkeypatch
):
    from rlhf_hitl.ui.rating_cards import draw_card

    monkeypatch.setenv("RLHF_HITL_WORKSPACE", str(tmp_path / "workspace"))
    tuned = shutil.copytree(tiny_model, tmp_path / "tuned-policy")
    card = {"method": "dpo", "settings": {"model_name_or_path": str(tiny_model)}}
    (tuned / "training.json").write_text(json.dumps(card))  # tuned for another store
    written, prompts = tmp_path / "written.jsonl", read_prompts(asked)
    with open_completion_file(written) as write:
        for prompt in [*prompts[:6], Prompt.create((Message("user", "not asked"),))]:
            answer = Completion.create(prompt.id, (Message("assistant", f"by hand {prompt.id}"),), "written-policy")
            write(prompt, [answer])
    with serve_judge(_Server()) as (address, _):
        flags = ["--store", sqlite_url, "--prompts", asked, "--policy", tiny_model, "--policy", tuned]
        flags += ["--policy", written, "--endpoint", address, "--model", "served-policy", *SAMPLING, "--seed"]
        done, data = generate(*flags, 3, "--k", 4)
    assert done.returncode == 0, done.stderr
    policies = {tiny_model.name, "tuned-policy", "written-policy", "served-policy"}
    assert data["policies"].keys() == policies
    assert data["policies"]["written-policy"]["unmatched"] == 1
    assert data["policies"]["written-policy"]["unfound"] == 6 == data["without_comparison"]
    assert {r.name: (r.method, r.parent, r.path) for r in list_policies(sqlite_store)} == {
        tiny_model.name: (PolicyMethod.BASE, None, str(tiny_model.resolve())),
        "tuned-policy": (PolicyMethod.DPO, tiny_model.name, str(tuned.resolve())),
        "written-policy": (PolicyMethod.IMPORT, None, "written.jsonl"),
        "served-policy": (PolicyMethod.ENDPOINT, None, address),
    }
    made = list(find_comparisons(sqlite_store))
    assert {x.prompt.id for x in made} <= {p.id for p in prompts[:6]}
    for comparison in made:
        assert {c.policy for c in comparison.completions} == policies
    rater = people.add_rater(sqlite_store, "ann", Role.RATER, None)
    leases = queue.lease_many(sqlite_store, rater.id, len(made), seconds=60)
    by_position = set()
    for lease in leases:
        shown = [lease.comparison.find_completion(id) for id in lease.order_shown]
        by_position.add(shown[0].policy)
        card = draw_card(lease.id, "rank", lease.comparison.prompt.messages, [c.messages for c in shown], lambda *_: "")
        assert not [name for name in policies if name in json.dumps(card)]
    assert len(by_position) > 1, "no policy is always shown first"
    assert not list((tmp_path / "workspace").glob("sampling/*/*"))


def test_bad_policies_are_one_line(tmp_path, tiny_model, asked):
    out = ["--prompts", asked, "--out", tmp_path / "o.jsonl"]
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    other = shutil.copytree(tiny_model, tmp_path / "x" / tiny_model.name)
    for flags, said in (
        (["--policy", tiny_model, "--policy", other], f"policy '{tiny_model.name}': expected each policy once"),
        (["--policy", tmp_path / "none.jsonl"], "none.jsonl"),
        (["--policy", empty], "expected completions"),
        (["--model", "m"], "--endpoint too"),
        (["--endpoint", "http://localhost:1/v1"], "--model NAME"),
        (["--endpoint", "http://me:pw@localhost:1/v1", "--model", "m"], "without a name, a password"),
        (["--policy", tiny_model, "--split", "heldout"], "--split heldout with --prompts"),
        (["--policy", tiny_model, "--prompts", empty], "add lines such as"),
        (["--policy", tiny_model, "--stop", ""], "--stop ''"),
        (["--endpoint", "http://localhost:1/v1", "--model", "m", "--processes", 2], "--concurrency"),
    ):
        done = run_command("generate", *out, *flags)
        assert done.returncode == 2, flags
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "o.jsonl").exists()


def make(prompt, policy, *texts):
    return [Completion.create(prompt.id, (Message("assistant", t),), policy) for t in texts]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 6))
def test_what_can_make_no_comparison_is_refused_and_nothing_else(completions, policies, k):
    prompt, texts = Prompt.create((Message("user", "q"),)), iter("abcdefghijklmnopqrstuvwxyz")
    answers = [c for i in range(policies) for _ in range(completions) for c in make(prompt, f"p{i}", next(texts))]
    samplings = [Sampling(1.0, 1.0, 8, count=completions)]
    if make_comparisons([prompt], answers, k, policies=[f"p{i}" for i in range(policies)]):
        require_enough_completions(samplings, policies, k)
    else:
        with pytest.raises(BadInput, match="--completions"):
            require_enough_completions(samplings, policies, k)


def test_equal_answers_at_temperature_0_make_no_comparison_unless_others_are_there():
    likeliest, sampled = Sampling(0.0, 1.0, 8, count=4), Sampling(1.0, 1.0, 8, count=1)
    with pytest.raises(BadInput, match=r"--completions 4 with --temperature 0.*above 0"):
        require_enough_completions([likeliest], 1, 2)
    require_enough_completions([likeliest, sampled], 1, 2)
    require_enough_completions([likeliest], 2, 2)


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=5, unique=True), min_size=2, max_size=4), st.integers(2, 6)
)
def test_comparisons_across_policies_are_even_and_use_every_answer_that_has_a_partner(answers, k):
    prompt, n = Prompt.create((Message("user", "q"),)), len(answers)
    all_made = [c for i, texts in enumerate(answers) for c in make(prompt, f"p{i}", *texts)]
    made = group_across_policies(prompt, all_made, n, k)
    for comparison in made:
        of = [c.policy for c in comparison.completions]
        counts = [of.count(f"p{i}") for i in range(n)]
        assert len(comparison.completions) == k
        assert max(counts) <= -(-k // n)
        assert len({c.messages for c in comparison.completions}) == k
    if k == 2 and sum(bool(texts) for texts in answers) >= 2:
        compared = {c.id for x in made for c in x.completions}
        for c in all_made:
            has_partner = any(o.policy != c.policy and o.messages != c.messages for o in all_made)
            assert (c.id in compared) == has_partner


def test_a_file_is_streamed_and_its_repeats_are_counted(tmp_path):
    prompt = Prompt.create((Message("user", "q\u2028r"),))
    with open_completion_file(tmp_path / "c.jsonl") as write:
        write(prompt, [*make(prompt, "p", "a", "a", ""), *make(prompt, "r", "a")])
    counts = SamplingCounts()
    [(_, kept)] = CompletionFile(tmp_path / "c.jsonl").complete([prompt], counts)
    assert [(c.policy, c.text) for c in kept] == [("p", "a"), ("r", "a")]
    assert (counts.drawn, counts.kept, dict(counts.missing)) == (4, 2, {"repeat": 1, "empty": 1})


def test_files_side_by_side_count_their_last_prompt(tmp_path):
    prompts = [Prompt.create((Message("user", f"q {i}"),)) for i in range(3)]
    for name in "ab":
        with open_completion_file(tmp_path / f"{name}.jsonl") as write:
            for prompt in prompts:
                write(prompt, make(prompt, name, *(f"{name} {i}" for i in range(4))))
    files = [CompletionFile(tmp_path / f"{name}.jsonl") for name in "ab"]
    for keep_all in (False, True):
        run = GenerationRun(files, prompts, [Sampling(count=4)], tmp_path / "parts", keep_all=keep_all)
        assert sum(len(made) for _, made in run.complete()) == 24
        assert [(c.drawn, c.kept) for c in run.counts.values()] == [(12, 12)] * 2


def test_a_policy_that_says_nothing_is_named_in_a_warning(tmp_path, asked):
    with serve_judge(lambda body, _: say("")) as (address, _):
        flags = ["--endpoint", address, "--model", "silent", "--prompts", asked, *SAMPLING, "--limit", 2]
        done = run_command("generate", *flags, "--out", tmp_path / "o.jsonl", "--keep-all")
    assert "warning: 100% of the answers of silent are empty or loop" in done.stderr


def test_a_tokenizer_without_eos_samples_to_the_limit_and_says_so(tiny_model, tmp_path, caplog):
    from sampled_completions import sample_completions

    folder = shutil.copytree(tiny_model, tmp_path / "endless")
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        if (folder / name).exists():
            values = json.loads((folder / name).read_text())
            values = {k: v for k, v in values.items() if k not in ("eos_token", "eos_token_id", "pad_token")}
            (folder / name).write_text(json.dumps(values))
    prompts = [Prompt.create((Message("user", "hello"),))]
    made = sample_completions(folder, prompts, [Sampling(1.0, 1.0, 30, count=3)])
    assert {c.sampling["finish"] for c in made} == {"length"}
    assert made.counts.cut_off == 3
    assert "has no EOS token" in caplog.text


def test_completions_do_not_depend_on_which_prompts_are_asked_together(tiny_model):
    import torch

    from rlhf_hitl.policy.model_drawer import open_model

    samplings = [Sampling(1.0, 1.0, 2, count=12)]  # repeats, which are drawn again
    prompts = [Prompt.create((Message("user", f"hello {i}"),)) for i in range(4)]

    def complete(some):
        made = complete_prompts(
            open_model(tiny_model, samplings, dtype=torch.float32), some, samplings, counts := SamplingCounts()
        )
        return {p.id: [c.id for c in completions] for p, completions in made}, counts

    together, counts = complete(prompts)
    (one, of_one), (two, of_two) = complete(prompts[::2]), complete(prompts[1::2])
    assert one | two == together
    for name in ("drawn", "kept", "redrawn", "reasons"):
        assert getattr(of_one, name) + getattr(of_two, name) == getattr(counts, name), name
    assert counts.redrawn > 0


@pytest.mark.parametrize("limit", [1, 2, 12])
def test_an_endpoint_that_says_nothing_is_asked_no_further(tmp_path, asked, limit):
    silent = [True]

    def answer(body, _):
        return say(None if silent[0] else f"{body['messages'][-1]['content']} {body['seed']}")

    with serve_judge(answer) as (address, bodies):
        flags = ["--endpoint", address, "--model", "big", "--prompts", asked, "--limit", limit, "--concurrency", 1]
        flags += [*SAMPLING, "--completions", 4, "--out", tmp_path / "o.jsonl"]
        done, data = generate(*flags)
        assert done.returncode == 2
        assert 5 <= len(bodies) <= 17
        assert "expected text" in data["error"]
        assert not (tmp_path / "o.jsonl").exists()
        silent[0] = False  # it is mended, and what it has not answered yet is asked for
        done, data = generate(*flags)
        assert (done.returncode, data["completions"]) == (0, 4 * limit), done.stderr


def test_where_nothing_comes_out_the_command_fails_and_says_why(tmp_path, tiny_model, asked, sqlite_url):
    with serve_judge(lambda body, _: fail(400, "blocked", code="content_filter")) as (address, _):
        flags = ["--endpoint", address, "--model", "big", "--prompts", asked, *SAMPLING, "--limit", 2]
        for place in (["--out", tmp_path / "o.jsonl"], ["--store", sqlite_url]):
            done, data = generate(*flags, *place)
            assert done.returncode == 2
            assert data["error"].startswith("0 completions of big (")
            assert "refused" in data["error"]
            assert not (tmp_path / "o.jsonl").exists()
    flags = ["--policy", tiny_model, "--prompts", asked, "--limit", 2, "--max-new-tokens", 100_000]
    done, data = generate(*flags, "--out", tmp_path / "o.jsonl")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "100,000 new ones" in data["error"]
    assert "no other of 2 prompts is short enough" in data["error"]


def test_requests_that_reached_nobody_are_told_from_those_that_did():
    from rlhf_hitl.cli.endpoint_options import say_calls
    from rlhf_hitl.policy.draws import sum_calls

    call = {"outcome": "answered", "prompt_tokens": 3, "completion_tokens": 2, "cost": 0.0}
    lost = call | {"outcome": "failed", "reached_nobody": True}
    said = say_calls("big", sum_calls([call, lost, lost]))  # a call of an earlier version has no such field
    assert said.startswith("big: 3 requests (of which 2 reached nobody), ")
