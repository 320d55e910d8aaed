"""Judges that are real models: one that `transformers serve` serves, and one on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import httpx
import pytest
import torch

from command_line import run_command
from rlhf_hitl.endpoints.budget import Budget
from rlhf_hitl.errors import BadInput
from rlhf_hitl.judges.judging import run_judge
from rlhf_hitl.judges.local import LocalModel
from rlhf_hitl.judges.templates import ask_about, load_template
from rlhf_hitl.models import load_policy, load_tokenizer
from rlhf_hitl.store.judges import add_judge, list_judges, read_calls, sum_calls
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Role, Split
from rlhf_hitl.types.judges import Judge, JudgeSettings

#: What a random model answers says nothing, so all that is printable counts: the first sign decides.
ANY_ANSWER = """
about: whatever it says
system: Say A or B.
question: "{{ prompt }} {{ first }} {{ second }}"
answers: {A: first, B: second, C: tie}
reads: '(?s)^.*?([ABC])'
max_tokens: 200
"""


@pytest.fixture(scope="module")
def served_model(tiny_model, tmp_path_factory):
    """The address of `transformers serve` with the tiny model."""
    if find_spec("openai") is None:
        pytest.skip("transformers serve needs openai: pip install 'rlhf_hitl[judge]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tiny_model)]
    serve += ["--port", str(port), "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    with log.open("wb") as out:
        process = subprocess.Popen(serve, stdout=out, stderr=out, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        give_up = time.monotonic() + 200
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_a_judge_behind_transformers_serve_votes(sqlite_url, tmp_path, fill, served_model, tiny_model):
    from rlhf_hitl.store import Store

    template = tmp_path / "any.yaml"
    template.write_text(ANY_ANSWER)
    with Store.open(sqlite_url) as store:
        wanted = sum(c.prompt.split is Split.TRAIN for c in fill(store, 3))
    more = ["--model", tiny_model, "--endpoint", served_model, "--template", template, "--store", sqlite_url]
    done = run_command("judges", "add", "tiny", *more, "--price-in", 1, "--timeout", 120, "--json")
    assert done.returncode == 0, done.stdout
    done = run_command("judges", "run", "tiny", "--store", sqlite_url, "--concurrency", 2)
    with Store.open(sqlite_url) as store:
        [judge] = list_judges(store)
        totals, judgments = sum_calls(store, judge), list(read_judgments(store))
    # The model is random: it may name no letter at all, and then that is what was counted.
    assert totals.calls["failed"] == totals.calls["timed_out"] == 0
    assert totals.prompt_tokens > 0
    assert totals.completion_tokens > 0
    assert totals.cost == pytest.approx(totals.prompt_tokens / 1e6)
    assert len(judgments) + totals.calls["unreadable"] == wanted > 0
    assert all(j.role is Role.JUDGE for j in judgments)
    assert re.search(rf"comparisons judged\s+{len(judgments)}\b", done.stdout)


def test_a_policy_behind_transformers_serve_is_compared_with_one_here(sqlite_url, tmp_path, served_model, tiny_model):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "hello"}\n{"prompt": "what is the capital of france"}\n')
    flags = ["--prompts", prompts, "--temperature", 1, "--completions", 2, "--max-new-tokens", 12, "--out"]
    written = tmp_path / "local.jsonl"
    here = shutil.copytree(tiny_model, tmp_path / "here")
    done = run_command("generate", "--policy", here, *flags, written)
    assert done.returncode == 0, done.stderr
    done = run_command(
        "generate", "--policy", written, "--endpoint", served_model, "--model", tiny_model, *flags[:-1],
        "--store", sqlite_url, "--price-in", 1, "--keep-all", "--json",
        env={"RLHF_HITL_WORKSPACE": str(tmp_path / "workspace")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    counts = data["policies"][tiny_model.name]
    assert (counts["drawn"], counts["kept"], data["prompts"]) == (4, 4, 2)
    assert (counts["calls"]["requests"], counts["calls"]["unanswered"]) == (4, {})
    assert counts["calls"]["cost"] == pytest.approx(counts["calls"]["prompt_tokens"] / 1e6)
    assert data["comparisons"] >= 2


def make_local(store, model, **more) -> Judge:
    settings = JudgeSettings(template_version=load_template("pairwise").version, **more)
    return add_judge(store, Judge("", "local", str(model), "", "pairwise", settings))


def test_a_local_judge_says_what_its_next_token_says(sqlite_store, fill, tiny_model):
    [comparison, *_] = fill(sqlite_store, 3)
    judge = make_local(sqlite_store, tiny_model)
    template = load_template("pairwise")
    # The tiny model reads 1,024 tokens, and its vocabulary knows few words: the question is longer.
    report = run_judge(sqlite_store, judge)
    assert (report.judged, dict(report.unanswered)) in ((3, {}), (0, {"failed": 3}))
    short = template.__class__("t", "v", "", "Judge.", "{{ prompt }} {{ first }} {{ second }}", template.answers, "(A)")
    first, second = (c.id for c in comparison.completions)
    question, calls = ask_about(short, comparison, first, second), []
    asker = LocalModel(judge, short, Budget(1.0, 1.0, 1.0))
    opinion = asker.ask(question, (first, second), calls)
    tokenizer, model = load_tokenizer(tiny_model), load_policy(tiny_model, torch.float32)
    messages = [{"role": "system", "content": "Judge."}, {"role": "user", "content": question.content[0]}]
    ids = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    with torch.inference_mode():
        shares = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    letters = [float(shares[tokenizer.convert_tokens_to_ids(letter)]) for letter in "ACB"]
    assert opinion.probabilities == pytest.approx([p / sum(letters) for p in letters], abs=0.01)
    assert (calls[0].prompt_tokens, calls[0].cost) == (len(ids), pytest.approx(len(ids) / 1e6))


def test_a_local_judge_gives_no_reasons(tiny_model):
    with pytest.raises(BadInput, match="transformers serve"):
        LocalModel(Judge("", "n", str(tiny_model)), load_template("pairwise-reasons"), Budget(None, 0, 0))


def test_calls_of_a_judge_are_read_back(sqlite_store, fill, tiny_model):
    fill(sqlite_store, 1)
    judge = make_local(sqlite_store, tiny_model)
    run_judge(sqlite_store, judge)
    for _, call in read_calls(sqlite_store, judge):
        assert sum(call.probabilities) == pytest.approx(1)
