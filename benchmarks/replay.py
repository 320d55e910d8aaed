"""The head backend on real votes: import MT-Bench, train, replay whole held-out questions.

    python benchmarks/replay.py --data ../shared/data/mt_bench/mtbench_human_joined.jsonl.gz

The three commands are those of the README, run as a user runs them. The prompts' own hash decides what is held out, so
there is one split and no seed; `--quick` reads 300 votes with short features.
"""

from __future__ import annotations

import argparse
import os
import tempfile

from record import run, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data/mt_bench/mtbench_human_joined.jsonl.gz")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--workspace", help="Keep features here, so that a second run need not read the texts again.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    few = ["--limit", "300"] if args.quick else []
    short = ["--max-length", "64"] if args.quick else []
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {
            "RLHF_HITL_WORKSPACE": args.workspace or folder,
            "RLHF_HITL_STORE": f"sqlite:///{folder}/preferences.db",
        }
        imported = run("import", args.data, *few, env=env)
        trained = run("train-reward", "--backend", "head", "--backbone", args.backbone, *short, env=env)
        found = run("evaluate", env=env)
    figures = {
        "votes": imported["judgments"],
        "train_labels": trained["train_labels"],
        "calibration_labels": trained["calibration_labels"],
        "heldout_labels": found["n"],
        "heldout_ties": found["ties"],
        "accuracy": found["accuracy"]["value"],
        "accuracy.low": found["accuracy"]["low"],
        "accuracy.high": found["accuracy"]["high"],
        "floor.longer": found["longer"]["value"],
        "floor.bag_of_words": found["bag_of_words"]["value"],
        "ece": found["ece"],
    }
    notes = "Accuracy over labels with a preference; interval with questions as clusters. One split, by prompt hash."
    write("replay", figures, seeds=[], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
