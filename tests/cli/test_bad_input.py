"""A mistake of a user or a failure of the machine gives one helpful line and leaves nothing half-written."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import Outcome, run_command
from rlhf_hitl import simulate
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import count_rows, insert_comparisons
from rlhf_hitl.store.runs import read_runs
from rlhf_hitl.types import Comparison, Completion, Message, Prompt


def cli(*args: str, workspace: Path) -> Outcome:
    return run_command(*args, env={"RLHF_HITL_WORKSPACE": str(workspace)})


def cli_with_small_files(*args: str, workspace: Path, kibibytes: int) -> Outcome:
    """Run a command in a process whose files may not grow beyond a size: to it that is a disk that fills up."""
    command = shlex.join([sys.executable, "-m", "rlhf_hitl", *args])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f {kibibytes}\n{command}"], env=os.environ | {"RLHF_HITL_WORKSPACE": str(workspace)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


def the_one_line(done: Outcome, *, code: int = 2) -> str:
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Fix: " in lines[0]
    return lines[0]


@pytest.fixture
def judged(sqlite_store):
    made = []
    for i in range(60):
        prompt = Prompt.create((Message("user", f"prompt {i}"),))
        pair = [Completion.create(prompt.id, (Message("assistant", t * (i + 1)),), "p") for t in ("one ", "two. ")]
        made.append(Comparison.create(prompt, pair))
    with sqlite_store.write() as conn:
        insert_comparisons(sqlite_store, conn, made)
    simulate.judge_queue(sqlite_store, 60)
    return sqlite_store


@pytest.mark.parametrize("kibibytes", [600, 1500])
def test_after_a_full_disk_an_import_is_in_the_store_not_at_all_or_goes_on(tmp_path, kibibytes):
    store = Store.open(f"sqlite:///{tmp_path}/full.db", create=True)
    lines = (
        json.dumps({"prompt": f"question {i}", "chosen": f"yes {i} " * 50, "rejected": f"no {i} " * 50})
        for i in range(3000)
    )
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    done = cli_with_small_files(
        "import", str(tmp_path / "pairs.jsonl"), "--store", store.url, workspace=tmp_path, kibibytes=kibibytes
    )
    told = the_one_line(done)
    if "nothing was changed" in told:  # it was full before all was read
        assert count_rows(store)["prompts"] == 0
    else:
        assert "is read and kept: the next `rlhf-hitl import` or `export`" in told
    assert cli("import", str(tmp_path / "pairs.jsonl"), "--store", store.url, workspace=tmp_path).returncode == 0
    assert count_rows(store)["prompts"] == 3000


def test_a_full_disk_while_exporting_leaves_no_half_export(judged, tmp_path):
    out = tmp_path / "out" / "export"
    done = cli_with_small_files("export", str(out), "--store", judged.url, workspace=tmp_path, kibibytes=8)
    the_one_line(done)
    assert not out.exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_backbone_is_named_and_leaves_no_model(judged, tmp_path):
    done = cli("train-reward", "--backbone", str(tmp_path / "nowhere"), "--store", judged.url, workspace=tmp_path)
    assert "nowhere" in the_one_line(done)
    assert not (tmp_path / "reward").exists()


def test_pickled_weights_are_refused(judged, tiny_model, tmp_path):
    import shutil

    import torch

    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(2, 2)}, folder / "pytorch_model.bin")
    done = cli("train-reward", "--backbone", str(folder), "--store", judged.url, workspace=tmp_path)
    assert "safetensors" in the_one_line(done)


def test_no_reward_model_no_labels_and_no_heldout_labels_each_say_what_to_do(sqlite_store, tmp_path):
    for command, fix in (("route", "train-reward"), ("score", "train-reward"), ("evaluate", "train-reward")):
        assert fix in the_one_line(cli(command, "--store", sqlite_store.url, workspace=tmp_path))
    the_one_line(cli("export", str(tmp_path / "out"), "--store", sqlite_store.url, workspace=tmp_path))
    assert not (tmp_path / "out").exists()


def test_training_says_what_was_cut_and_how_to_cut_less(judged, tiny_model, tmp_path):
    flags = ("--backbone", str(tiny_model), "--store", judged.url)
    short = cli("train-reward", *flags, "--max-length", "12", workspace=tmp_path)
    told = " ".join(short.stderr.split() + short.stdout.split())
    assert re.search(r"To fit 12 tokens, \d+ prompts? lost the beginning and \d+ completions? the end\.", told)
    assert "give a higher --max-length" in told
    whole = cli("train-reward", *flags, workspace=tmp_path)
    assert "To fit" not in whole.stderr + whole.stdout


def test_a_failed_gate_exits_with_one_and_is_named(judged, tiny_model, tmp_path):
    trained = cli("train-reward", "--backbone", str(tiny_model), "--store", judged.url, workspace=tmp_path)
    assert trained.returncode == 0, trained.stderr[-2000:]
    done = cli(
        "evaluate", "--min-accuracy", "1", "--name", "first", "--json", "--store", judged.url, workspace=tmp_path
    )
    result = json.loads(done.stdout)
    assert done.returncode == (0 if result["accuracy"]["value"] == 1 else 1)
    assert result["gate_passed"] is (done.returncode == 0)
    assert [(g["name"], g["passed"]) for g in result["gates"]] == [("min-accuracy", done.returncode == 0)]
    assert (tmp_path / "evaluations" / "first" / "examples.jsonl").is_file()
    [card] = (tmp_path / "reward").glob("*/README.md")
    assert f"| first | {result['n']} | {result['accuracy']['value']:.1%} |" in card.read_text()
    done = cli(
        "evaluate", "--min-accuracy", "0", "--max-ece", "0", "--no-worse-than", "first",
        "--store", judged.url, workspace=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    lines = {line.split(": ")[1]: line for line in done.stdout.splitlines() if line.startswith("Gate ")}
    assert lines["min-accuracy"].startswith("Gate passed")
    assert lines["max-ece"].startswith("Gate FAILED")
    assert "McNemar p = 1" in lines["no-worse-than"]
    with Store.open(judged.url) as store:  # a failed gate is a result
        assert [(r.command, r.outcome) for r in read_runs(store)] == [
            ("train-reward", "finished"), ("evaluate", "finished"), ("evaluate", "finished"),
        ]  # fmt: skip
    for bad in (["--min-slice", "math"], ["--name", "../x"], ["--against", "a", "--no-worse-than", "b"]):
        the_one_line(cli("evaluate", *bad, "--store", judged.url, workspace=tmp_path))
