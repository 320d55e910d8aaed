"""The benchmarks run, and the documentation's figures are theirs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def quick(script: str, *flags: str) -> dict:
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--quick", *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)["figures"]


def test_replay_runs_on_real_votes(shared_data, tiny_model):
    votes = shared_data / "mt_bench" / "mtbench_human_joined.jsonl.gz"
    figures = quick("replay.py", "--data", str(votes), "--backbone", str(tiny_model))
    assert figures["heldout_labels"] > 0
    assert 0 <= figures["accuracy.low"] <= figures["accuracy"] <= figures["accuracy.high"] <= 1


@pytest.mark.timeout(300)
def test_loop_time_runs_from_an_empty_folder(tiny_model):
    figures = quick("loop_time.py", "--policy", str(tiny_model))
    assert figures["judgments"] == 60
    assert figures["minutes"] > 0


def test_the_figures_in_the_documentation_are_those_of_the_results():
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "figures.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
