"""Measure the head backend on real votes: import MT-Bench, train, evaluate on whole held-out questions.

    python benchmarks/replay.py --data ../shared/data/mt_bench/mtbench_human_joined.jsonl.gz

The three commands are those of the README, run as a user runs them. The prompts' hash decides what is held out, so
there is one split, of few questions. The same head is also cross-validated over the training questions, in ten folds of
whole questions, which says more. `--quick` reads 300 votes, cut to 64 tokens.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from record import run_command, write_result

from rlhf_hitl.reward.evaluation.floors import find_length_direction, predict_bag_of_words_margins
from rlhf_hitl.reward.head_fitting import fit_head
from rlhf_hitl.reward.labelled_pairs import count_votes, load_labelled_pairs
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.rendering import measure_completion_lengths
from rlhf_hitl.reward.standardiser import Standardiser
from rlhf_hitl.reward.training.vote_weight_choice import choose_vote_weight
from rlhf_hitl.stats.intervals import clustered_share_interval
from rlhf_hitl.store import Store
from rlhf_hitl.types import Split


def cross_validate_questions(store: str, model: Path, workspace: Path, folds: int = 10) -> dict[str, float | int]:
    """Return the accuracy on the labels of the train split, each predicted by a head that saw none of its question."""
    opened = Store.open(store)
    pairs = load_labelled_pairs(opened, Split.TRAIN)
    cache = load_reward_model(model, workspace / "features").cache
    chats = [p.first for p in pairs] + [p.second for p in pairs]
    features, lengths, n = cache.features(chats), measure_completion_lengths(chats), len(pairs)
    families = np.array([p.comparison.prompt.family for p in pairs])
    fold = np.random.default_rng(0).permutation(len(set(families)))[np.unique(families, return_inverse=True)[1]] % folds
    margins, words, by_length = np.zeros(n), np.zeros(n), np.zeros(n)
    for k in range(folds):
        fitting, predicted = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        if not len(predicted) or not len(fitting):
            continue  # fewer questions than folds
        both = np.r_[fitting, fitting + n]
        differences = Standardiser.fit(features[both], lengths[both]).differences(features, lengths)
        fitting_pairs = [pairs[i] for i in fitting]
        vote_weight, _ = choose_vote_weight(differences[fitting], count_votes(fitting_pairs), families[fitting])
        head = fit_head(differences[fitting], count_votes(fitting_pairs), vote_weight=vote_weight)
        margins[predicted] = differences[predicted] @ head.weights
        words[predicted] = predict_bag_of_words_margins(fitting_pairs, [pairs[i] for i in predicted])
        by_length[predicted] = (lengths[:n] - lengths[n:])[predicted] * find_length_direction(fitting_pairs)
    decided = np.array([p.label.preferred is not None for p in pairs])
    truth = np.array([1.0 if p.label.preferred == p.label.first else -1.0 for p in pairs])[decided]

    def score_correct(m: np.ndarray) -> np.ndarray:
        return np.where(m[decided] == 0, 0.5, m[decided] * truth > 0)

    low, high = clustered_share_interval(score_correct(margins), families[decided])
    return {
        "crossed.labels": int(decided.sum()),
        "crossed.questions": len(set(families)),
        "crossed.accuracy": float(score_correct(margins).mean()),
        "crossed.accuracy.low": low,
        "crossed.accuracy.high": high,
        "crossed.floor.longer": float(score_correct(lengths[:n] - lengths[n:]).mean()),
        "crossed.floor.length": float(score_correct(by_length).mean()),
        "crossed.floor.bag_of_words": float(score_correct(words).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data/mt_bench/mtbench_human_joined.jsonl.gz")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--workspace", help="The folder to keep features in, so that a second run reuses them.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    few = ["--limit", "300"] if args.quick else []
    short = ["--max-length", "64"] if args.quick else []
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {
            "RLHF_HITL_WORKSPACE": args.workspace or folder,
            "RLHF_HITL_STORE": f"sqlite:///{folder}/preferences.db",
        }
        imported = run_command("import", args.data, *few, env=env)
        trained = run_command("train-reward", "--backend", "head", "--backbone", args.backbone, *short, env=env)
        evaluated = run_command("evaluate", env=env)
        crossed = cross_validate_questions(
            env["RLHF_HITL_STORE"], Path(trained["path"]), Path(env["RLHF_HITL_WORKSPACE"])
        )
    figures = {
        "votes": imported["judgments"],
        "train_labels": trained["train_labels"],
        "calibration_labels": trained["calibration_labels"],
        "heldout_labels": evaluated["n"],
        "heldout_ties": evaluated["ties"],
        "accuracy": evaluated["accuracy"]["value"],
        "accuracy.low": evaluated["accuracy"]["low"],
        "accuracy.high": evaluated["accuracy"]["high"],
        "floor.longer": evaluated["longer"]["value"],
        "floor.length": 1 - evaluated["longer"]["value"] if evaluated["shorter_wins"] else evaluated["longer"]["value"],
        "floor.bag_of_words": evaluated["bag_of_words"]["value"],
        "ece": evaluated["ece"],
        "ece.low": evaluated["ece_low"],
        "ece.high": evaluated["ece_high"],
        **crossed,
    }
    notes = "Accuracy over labels with a preference; interval with questions as clusters. One split, by prompt hash."
    write_result("replay", figures, seeds=[], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
