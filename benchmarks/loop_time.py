"""Measure how long two rounds of the whole loop take, with simulated raters, from an empty folder.

    python benchmarks/loop_time.py

`--quick` runs one small round.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from record import run_command, write_result

QUICK = {
    "prompts_per_round": 3,
    "completions_per_prompt": 2,
    "temperatures": [1.0],
    "max_new_tokens": 8,
    "judgments_per_round": 60,
    "dpo_pairs": 12,
    "dpo_prompts": 1,
    "ppo_steps": 1,
    "ppo_rollouts": 2,
    "gate_prompts": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rounds = 1 if args.quick else args.rounds
    with tempfile.TemporaryDirectory() as workspace:
        env = os.environ | {
            "RLHF_HITL_WORKSPACE": workspace,
            "RLHF_HITL_STORE": f"sqlite:///{workspace}/preferences.db",
        }
        config = Path(workspace) / "loop.yaml"
        config.write_text(json.dumps(QUICK if args.quick else {}))
        flags = ["--config", str(config), "--policy", args.policy, "--backbone", args.policy]
        start = time.monotonic()
        result = run_command("loop", "--rounds", str(rounds), "--simulate", *flags, env=env)
        seconds = time.monotonic() - start
    steps = {(s["round"], s["step"]): s for s in result["steps"]}
    last = steps[rounds, "evaluate"]
    figures: dict[str, float | int | None] = {
        "rounds": rounds,
        "minutes": seconds / 60,
        "judgments": sum(steps[n, "review"]["judgments"] for n in range(1, rounds + 1)),
        "heldout_labels": last["n"],
        "heldout_accuracy": last["accuracy"]["value"] if last["n"] else None,
        "promoted": sum(steps[n, "promote"]["promoted"] for n in range(1, rounds + 1)),
    }
    figures |= {f"report.{key}": f["value"] for key, f in result["report"]["figures"].items()}
    figures |= {f"minutes.{s['round']}.{s['step']}": s["seconds"] / 60 for s in result["steps"]}
    write_result("loop_time", figures, seeds=[0], notes="All judgments are simulated.", quick=args.quick)


if __name__ == "__main__":
    main()
