"""What every benchmark shares: its command, the machine it ran on, and the file its figures go to."""

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
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rlhf_hitl.reward.rendering import Conversation

RESULTS = Path(__file__).parent / "results"


def write(
    name: str, figures: dict[str, float | int | None], *, seeds: list[int], notes: str, quick: bool
) -> Path | None:
    """Write `results/NAME.json`. A quick run proves that the benchmark runs: its figures are printed, not kept."""
    result = {
        "name": name,
        "command": re.sub(r"--workspace \S+", "--workspace DIR", " ".join(["python", *sys.argv])),
        "commit": _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno") else ""),
        "machine": machine(),
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


def machine() -> dict[str, Any]:
    import psutil
    import torch

    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {p: version(p) for p in ("torch", "transformers", "trl", "datasets", "rlhf_hitl")},
    }


def run(*args: str, env: dict[str, str]) -> dict[str, Any]:
    """Run an `rlhf-hitl` command with `--json` and return what it says."""
    done = subprocess.run([sys.executable, "-m", "rlhf_hitl", *args, "--json"], env=env, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"rlhf-hitl {' '.join(args)}: exit {done.returncode}")
    return json.loads(done.stdout)


class Clock:
    """Seconds since it was made: the clock's, and the processor's for this process."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]


def ratios(turns: Sequence[dict[str, tuple[float, float]]], pairs: int) -> dict[str, float]:
    """Pairs a second of `stock` and `ours` over turns of so many pairs, and how many times as many ours are: over all,
    and of the worst and best turn. `load` is what else ran: processes that wanted a core, on the average of minutes."""
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


def hh_pairs(data: Path, n: int) -> list[tuple[Conversation, Conversation]]:
    """(chosen, rejected) of HH-RLHF helpful-base, in order of comparison id, which is a hash."""
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


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=RESULTS.parent, capture_output=True, text=True)
    return done.stdout.strip()
