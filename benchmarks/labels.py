"""Measure labels: how true they are with few votes, whether what is said of raters holds, and what it takes.

    python benchmarks/labels.py --data ../shared/data --workspace DIR

Each part is a module with `measure(args)`, which says what is compared with what: `labels_accuracy.py` (real votes),
`labels_adaptive.py` (fewer votes), `labels_judge.py` (GPT-4 beside people), `labels_teaches.py` (what a head learns of
labels), `labels_simulation.py` and `labels_spam.py` (simulated), `labels_speed.py`. `--parts` runs some of them; each
writes a file of its own. Peers
(crowd-kit, cleanlab) come with the extra `dev` and run in the same process on the same votes. `--quick` shows that
everything runs.
"""

from __future__ import annotations

import argparse
from importlib import import_module

from record import write_result

PARTS = ("accuracy", "adaptive", "judge", "simulation", "spam", "speed", "teaches")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds the sets of votes.")
    parser.add_argument("--workspace", help="The folder to keep features in, so that a second run reuses them.")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    for part in args.parts:
        figures, notes = import_module(f"labels_{part}").measure(args)
        write_result(f"labels_{part}", figures, seeds=[args.seed], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
