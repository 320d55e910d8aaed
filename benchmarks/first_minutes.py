"""Measure a newcomer's first minutes on the bundled set: after the install, without a download, with simulated raters.

    python benchmarks/first_minutes.py

Each run begins in an empty folder. `quickstart` serves until its sign-in page answers; then simulated raters make
`--judgments` judgments, and `train-reward`, `evaluate` and `route` run one after the other, each a process of its own.
No language model is on the machine: what is read of the bundled answers came with the package. Every store draws which
comparisons come first, so each run has other judgments.

* `first_page_s`: from the start of `quickstart` to the sign-in page, the slowest run.
* `train_evaluate_route_s`: the three commands, the slowest run.
* `accuracy_over_floor`: accuracy on held-out prompts less the highest floor, the mean over the runs; `.worst` is the
  lowest of all runs, and `clear_of_floors` how many runs have their whole interval above every floor.
* `author_alone.accuracy`: of a model that has learnt from the rankings that come with the set, and from nobody else.
* `accepted_share`: the share of the routed comparisons that `route` accepts under its default bound.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
from record import COMMAND, run_command, write_result

JUDGMENTS = 60


def measure_run(folder: Path, judgments: int) -> dict[str, float]:
    # A folder of models that is empty: nothing that the user has fetched before is read.
    env = os.environ | {
        "RLHF_HITL_WORKSPACE": str(folder / "workspace"),
        "RLHF_HITL_STORE": f"sqlite:///{folder}/workspace/preferences.db",
        "RLHF_HITL_MODELS": str(folder / "models"),
    }
    begun = time.monotonic()
    server = subprocess.Popen([*COMMAND, "quickstart", "--port", "0", "--json"], env=env, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        httpx.get(f"{json.loads(server.stdout.readline())['address']}/login", trust_env=False).raise_for_status()
        first_page = time.monotonic() - begun
    finally:
        server.terminate()
        server.wait()
    run_command("train-reward", env=env)
    alone = run_command("evaluate", env=env)
    run_command("simulate", "--judgments", str(judgments), env=env)
    begun = time.monotonic()
    run_command("train-reward", env=env)
    evaluation = run_command("evaluate", env=env)
    routed = run_command("route", env=env)
    seconds = time.monotonic() - begun
    routes = routed["routes"]
    return {
        "first_page_s": first_page,
        "train_evaluate_route_s": seconds,
        "author_alone.accuracy": alone["accuracy"]["value"],
        "accuracy": evaluation["accuracy"]["value"],
        "floor": evaluation["floor"]["value"],
        "accuracy_over_floor": evaluation["accuracy"]["value"] - evaluation["floor"]["value"],
        "clear_of_floors": float(evaluation["clear_of_floors"]),
        "labels": evaluation["n"],
        "accepted_share": routes["auto"] / sum(routes.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--judgments", type=int, default=JUDGMENTS)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    runs = []
    for _ in range(1 if args.quick else args.runs):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measure_run(Path(folder), args.judgments))

    def over_runs(key: str) -> list[float]:
        return [run[key] for run in runs]

    def mean(key: str) -> float:
        return sum(over_runs(key)) / len(runs)

    figures: dict[str, float | int | None] = {
        "runs": len(runs),
        "judgments": args.judgments,
        "heldout_labels": runs[0]["labels"],
        "first_page_s": max(over_runs("first_page_s")),
        "train_evaluate_route_s": max(over_runs("train_evaluate_route_s")),
        "author_alone.accuracy": mean("author_alone.accuracy"),
        "accuracy": mean("accuracy"),
        "floor": mean("floor"),
        "accuracy_over_floor": mean("accuracy_over_floor"),
        "accuracy_over_floor.worst": min(over_runs("accuracy_over_floor")),
        "clear_of_floors": int(sum(over_runs("clear_of_floors"))),
        "accepted_share": mean("accepted_share"),
        "accepted_share.worst": min(over_runs("accepted_share")),
        "runs_that_accept": sum(share > 0 for share in over_runs("accepted_share")),
    }
    notes = (
        "All judgments are simulated. The rankings of held-out and calibration prompts are those of the set's author."
    )
    write_result("first_minutes", figures, seeds=[], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
