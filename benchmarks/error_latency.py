"""Measure how long a user waits for the one line that says what is wrong with a command.

    python benchmarks/error_latency.py

Typical mistakes, each as a real command in a process of its own, in turn. Each must exit with 2 and print one line on
stderr, of at most `MOST_CHARACTERS`, that names the mistake; otherwise the benchmark fails. `--quick` makes six of them
once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
from record import write_result

from rlhf_hitl.formats.importing import import_bundled, import_path
from rlhf_hitl.store import Store

MOST_CHARACTERS = 300
REPEATS = 3
#: Folders: without a store; with the bundled set and its rankings; with that set and none, or one, of its rankings.
EMPTY, FILLED, UNJUDGED, FEW = "empty", "filled", "unjudged", "few"


@dataclass(frozen=True)
class Mistake:
    """A command that must fail, where it is run, and what its error must name."""

    words: str
    names: str
    folder: str = FILLED
    env: dict[str, str] = field(default_factory=dict)


MISTAKES = (
    Mistake("route", "preferences.db", EMPTY),
    Mistake("score", "preferences.db", EMPTY),
    Mistake("evaluate", "preferences.db", EMPTY),
    Mistake("train-reward", "preferences.db", EMPTY),
    Mistake("train-dpo", "preferences.db", EMPTY),
    Mistake("train-ppo", "preferences.db", EMPTY),
    Mistake("generate", "preferences.db", EMPTY),
    Mistake("serve", "preferences.db", EMPTY),
    Mistake("route", "train-reward"),
    Mistake("score --reward-model 3", "reward model '3'"),
    Mistake("evaluate", "train-reward"),
    Mistake("train-reward --backbone missing/backbone/folder", "missing/backbone/folder"),
    Mistake("train-reward --backend heads", "did you mean head?"),
    Mistake("train-dpo", "train-reward"),
    Mistake("train-dpo --set foo=1", "--set foo"),
    Mistake("train-dpo --set learning_rat=1", "did you mean learning_rate?"),
    Mistake("train-ppo --set steps=many", "--set steps=many"),
    Mistake("train-ppo --config missing.yaml", "missing.yaml"),
    Mistake("generate --policy missing/model/folder", "missing/model/folder"),
    Mistake("generate --prompts prompts.jsonl", "prompts.jsonl:2"),
    Mistake("loop --policy smollm2-135m-instrct", "did you mean smollm2-135m-instruct?"),
    Mistake("loop --config loop.yaml", "loop.yaml: seed"),
    Mistake("route --max-error 2", "--max-error 2"),
    Mistake("import missing.jsonl", "missing.jsonl"),
    Mistake("import rows.jsonl", "rows.jsonl"),
    Mistake("import rows.jsonl --format trll", "did you mean trl?"),
    Mistake("export taken", "taken"),
    Mistake("serve --port {port}", "--port"),
    Mistake("evalute", "did you mean evaluate?"),
    Mistake("report", "RLHF_HITL_LEASE_SECONDS", env={"RLHF_HITL_LEASE_SECONDS": "soon"}),
    Mistake("train-reward", "0 labels with a preference", UNJUDGED),
    Mistake("train-reward", "5 labels with a preference", FEW),
    Mistake("train-dpo --human-only", "pairs for DPO", UNJUDGED),
)


def make_store(folder: Path, *, rankings: int | None = None) -> None:
    """Make a store with the bundled set.

    Args:
        rankings: keep only this many of its author's rankings, all of the train split. None keeps all where they are.
    """
    with Store.open(f"sqlite:///{folder}/workspace/preferences.db", create=True) as store:
        if rankings is None:
            import_bundled(store)
        else:
            text = (resources.files("rlhf_hitl.bundled") / "set.jsonl").read_text(encoding="utf-8")
            rows = sorted(map(json.loads, text.splitlines()), key=lambda row: "votes" not in row)
            kept = [row | {"split": "train"} for row in rows[:rankings]]
            kept += [{key: value for key, value in row.items() if key != "votes"} for row in rows[rankings:]]
            path = folder / "set.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in kept))
            import_path(store, path, format="native", pairs="all")
    (folder / "workspace").chmod(0o700)


def add_files_with_mistakes(folder: Path) -> None:
    (folder / "prompts.jsonl").write_text('{"prompt": "Tea?"}\n{"question": "Coffee?"}\n')
    (folder / "rows.jsonl").write_text('{"question": "Tea?", "good": "Yes.", "bad": "No."}\n')
    (folder / "loop.yaml").write_text("seed: soon\n")
    (folder / "taken").mkdir()
    (folder / "taken" / "file").write_text("")


def make_mistake(mistake: Mistake, folder: Path, port: int) -> tuple[float, float]:
    """Run the command. Returns the seconds until it has ended, and those of a processor; exits where the error is not
    as promised."""
    words = mistake.words.format(port=port).split()
    unset = ("RLHF_HITL_STORE", "RLHF_HITL_WORKSPACE")
    env = {k: v for k, v in os.environ.items() if k not in unset} | mistake.env
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_hitl", *words],
        cwd=folder / mistake.folder,
        env=env,
        capture_output=True,
        text=True,
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stderr.splitlines()
    if done.returncode != 2 or len(lines) != 1 or mistake.names not in lines[0] or len(lines[0]) > MOST_CHARACTERS:
        sys.exit(
            f"rlhf-hitl {' '.join(words)}: exit {done.returncode}, {len(lines)} lines on stderr: {done.stderr[:2000]}"
        )
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    mistakes = MISTAKES[:: -(-len(MISTAKES) // 6)] if quick else MISTAKES
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as taken:
        folder = Path(name)
        for part in (EMPTY, FILLED, UNJUDGED, FEW):
            (folder / part).mkdir()
        for part, rankings in ((FILLED, None), (UNJUDGED, 0), (FEW, 1)):
            if any(mistake.folder == part for mistake in mistakes):
                make_store(folder / part, rankings=rankings)
        add_files_with_mistakes(folder / FILLED)
        port = taken.getsockname()[1]
        runs = [make_mistake(m, folder, port) for _ in range(1 if quick else REPEATS) for m in mistakes]
    seconds, processor_seconds = np.array(runs).T
    p50, p95 = np.percentile(seconds, [50, 95])
    figures: dict[str, float | int | None] = {
        "mistakes": len(mistakes),
        "runs": len(runs),
        "p50_s": float(p50),
        "p95_s": float(p95),
        "worst_s": float(seconds.max()),
        "processor_worst_s": float(processor_seconds.max()),
        "load": os.getloadavg()[2],
    }
    notes = "From the start of the process to its end. The mark is 3 s for the 95th percentile."
    write_result("error_latency", figures, seeds=[], notes=notes, quick=quick)


if __name__ == "__main__":
    main()
