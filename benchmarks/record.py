"""What every benchmark shares: its command, the machine it ran on, and the file its figures go to."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

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


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=RESULTS.parent, capture_output=True, text=True)
    return done.stdout.strip()
