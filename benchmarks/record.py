"""What every benchmark shares: running a command, describing the machine, and writing the figures."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rlhf_hitl.reward.rendering import Conversation

RESULTS = Path(__file__).parent / "results"
#: How `rlhf-hitl` is called. The tests name a program that has its imports behind it.
COMMAND = [named] if (named := os.environ.get("RLHF_HITL_TEST_COMMAND")) else [sys.executable, "-m", "rlhf_hitl"]


def write_result(
    name: str, figures: dict[str, float | int | None], *, seeds: list[int], notes: str, quick: bool
) -> Path | None:
    """Write `results/NAME.json`. A quick run only shows that the benchmark works: its figures are printed."""
    result = {
        "name": name,
        "command": re.sub(r"--(workspace|folder) \S+", r"--\1 DIR", " ".join(["python", *sys.argv])),
        "commit": _run_git("rev-parse", "HEAD") + ("+changes" if _run_git("status", "--porcelain", "-uno") else ""),
        "machine": describe_machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": seeds,
        "figures": figures,
        "notes": notes,
    }
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    print(text)
    if quick:
        return None
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(text, encoding="utf-8")
    return path


def describe_machine() -> dict[str, Any]:
    import psutil
    import torch

    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {p: find_version(p) for p in ("torch", "transformers", "trl", "datasets", "rlhf_hitl")},
    }


def find_version(package: str) -> str | None:
    """Return the version of a package that is installed; None where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def run_command(*args: str, env: dict[str, str]) -> dict[str, Any]:
    """Run an `rlhf-hitl` command with `--json` and return its result."""
    process = subprocess.run([*COMMAND, *args, "--json"], env=env, stdout=subprocess.PIPE)
    if process.returncode:
        sys.exit(f"rlhf-hitl {' '.join(args)}: exit {process.returncode}")
    return json.loads(process.stdout)


class Clock:
    """Measures the seconds since it was created: wall-clock time, and processor time of this process."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]


def compute_ratios(turns: Sequence[dict[str, tuple[float, float]]], pairs: int) -> dict[str, float]:
    """Return the pairs per second of `stock` and `ours`, and their ratio: over all turns, of the worst and of the best
    turn. `load` is the machine's load average over 15 minutes, which shows what else was running.

    Args:
        turns: for each turn, name → seconds by the clock and by the processor.
        pairs: the number of pairs in each turn.
    """
    seconds = {name: np.array([turn[name] for turn in turns]) for name in ("stock", "ours")}
    each = seconds["stock"] / seconds["ours"]
    whole = seconds["stock"].sum(0) / seconds["ours"].sum(0)
    return {
        "pairs": pairs * len(turns),
        "stock.pairs_per_s": float(pairs * len(turns) / seconds["stock"][:, 0].sum()),
        "ours.pairs_per_s": float(pairs * len(turns) / seconds["ours"][:, 0].sum()),
        "pairs_ratio": float(whole[0]),
        "pairs_ratio.low": float(each[:, 0].min()),
        "pairs_ratio.high": float(each[:, 0].max()),
        "processor.pairs_ratio": float(whole[1]),
        "load": os.getloadavg()[2],
    }


def load_hh_pairs(data: Path, n: int) -> list[tuple[Conversation, Conversation]]:
    """Return n pairs (chosen, rejected) of HH-RLHF helpful-base, in order of comparison id, which is a hash."""
    from rlhf_hitl.formats.importing import import_path
    from rlhf_hitl.reward.labelled_pairs import load_labelled_pairs
    from rlhf_hitl.store import Store
    from rlhf_hitl.types import Split

    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/votes.db", create=True)
        import_path(store, data / "hh_rlhf" / "helpful-base.test.jsonl.gz")
        pairs = [pair for split in Split for pair in load_labelled_pairs(store, split)]
    pairs = sorted(pairs, key=lambda p: p.comparison.id)[:n]
    return [(p.first, p.second) if p.label.preferred == p.label.first else (p.second, p.first) for p in pairs]


def _run_git(*args: str) -> str:
    process = subprocess.run(["git", *args], cwd=RESULTS.parent, capture_output=True, text=True)
    return process.stdout.strip()
