"""The head backend on real votes: import MT-Bench, train, replay whole held-out questions.

    python benchmarks/replay.py --data ../shared/data/mt_bench/mtbench_human_joined.jsonl.gz

The three commands are those of the README, run as a user runs them. The prompts' own hash decides what is held out, so
there is one split, of few questions. Beside it stands the same head cross-validated over the training questions, in ten
folds of whole questions, which says more. `--quick` reads 300 votes with short features.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from record import run, write

from rlhf_hitl.reward.evaluation.floors import find_length_direction, predict_bag_of_words_margins
from rlhf_hitl.reward.head_fitting import fit_head
from rlhf_hitl.reward.labelled_pairs import count_votes, load_labelled_pairs
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.rendering import completion_lengths
from rlhf_hitl.reward.standardiser import Standardiser
from rlhf_hitl.reward.training.vote_weight_choice import choose_vote_weight
from rlhf_hitl.stats.intervals import clustered_share_interval
from rlhf_hitl.store import Store
from rlhf_hitl.types import Split


def cross_validated(store: str, model: Path, workspace: Path, folds: int = 10) -> dict[str, float | int]:
    """Accuracy over the labels of the train split, each predicted by a head that saw none of its question."""
    opened = Store.open(store)
    pairs = load_labelled_pairs(opened, Split.TRAIN)
    cache = load_reward_model(model, workspace / "features").cache
    chats = [p.first for p in pairs] + [p.second for p in pairs]
    features, size, n = cache.features(chats), completion_lengths(chats), len(pairs)
    families = np.array([p.comparison.prompt.family for p in pairs])
    fold = np.random.default_rng(0).permutation(len(set(families)))[np.unique(families, return_inverse=True)[1]] % folds
    margins, words, by_length = np.zeros(n), np.zeros(n), np.zeros(n)
    for k in range(folds):
        seen, asked = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        if not len(asked) or not len(seen):
            continue  # fewer questions than folds
        both = np.r_[seen, seen + n]
        differences = Standardiser.fit(features[both], size[both]).differences(features, size)
        known = [pairs[i] for i in seen]
        vote_weight, _ = choose_vote_weight(differences[seen], count_votes(known), families[seen])
        head = fit_head(differences[seen], count_votes(known), vote_weight=vote_weight)
        margins[asked] = differences[asked] @ head.weights
        words[asked] = predict_bag_of_words_margins(known, [pairs[i] for i in asked])
        by_length[asked] = (size[:n] - size[n:])[asked] * find_length_direction(known)
    decided = np.array([p.label.preferred is not None for p in pairs])
    truth = np.array([1.0 if p.label.preferred == p.label.first else -1.0 for p in pairs])[decided]

    def right(m: np.ndarray) -> np.ndarray:
        return np.where(m[decided] == 0, 0.5, m[decided] * truth > 0)

    low, high = clustered_share_interval(right(margins), families[decided])
    return {
        "crossed.labels": int(decided.sum()),
        "crossed.questions": len(set(families)),
        "crossed.accuracy": float(right(margins).mean()),
        "crossed.accuracy.low": low,
        "crossed.accuracy.high": high,
        "crossed.floor.longer": float(right(size[:n] - size[n:]).mean()),
        "crossed.floor.length": float(right(by_length).mean()),
        "crossed.floor.bag_of_words": float(right(words).mean()),
    }


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
        crossed = cross_validated(env["RLHF_HITL_STORE"], Path(trained["path"]), Path(env["RLHF_HITL_WORKSPACE"]))
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
        "floor.length": 1 - found["longer"]["value"] if found["shorter_wins"] else found["longer"]["value"],
        "floor.bag_of_words": found["bag_of_words"]["value"],
        "ece": found["ece"],
        **crossed,
    }
    notes = "Accuracy over labels with a preference; interval with questions as clusters. One split, by prompt hash."
    write("replay", figures, seeds=[], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
