"""Measure how long the head takes: a refit on many labels, the choice of the vote weight, and an update.

    python benchmarks/reward_head.py

Labels are drawn from a known head, on features as wide as SmolLM2-135M's in six views. What matters is their number,
one prompt each. The votes have strengths and ties, the slowest likelihood. A refit computes principal axes, prior by
evidence, thresholds and posterior. `train-reward` also chooses the vote weight by cross-validation and measures heads
on lengths alone: some forty more fits, `choice_s`. An update is timed as a whole: tokenising the texts of a pair,
reading their features from disk, the head's posterior, the card. Figures are medians over runs. `--quick` takes 500
labels, and updates the head alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from record import write_result

from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.head_fitting import fit_head
from rlhf_hitl.reward.labelled_pairs import LabelledPair
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.standardiser import Standardiser
from rlhf_hitl.reward.training.head_update import update_with_label
from rlhf_hitl.reward.training.vote_weight_choice import choose_vote_weight, compute_length_only_loss
from rlhf_hitl.types import Comparison, Completion, Label, Message, Prompt

WIDTH, VIEWS = 576, 6


def draw_graded_votes(margins: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one vote for each pair, (n, 9), by raters who perceive margins (n,) with logistic noise."""
    perceived = margins + rng.logistic(size=len(margins))
    outcomes = np.select([perceived > cut for cut in (2, 1, 0.5, -0.5, -1, -2)], [0, 1, 2, 4, 6, 7], 8)
    return np.eye(9)[outcomes]


def measure_median_seconds(run: Callable[[int], object], times: int) -> float:
    seconds = []
    for i in range(times):
        start = time.perf_counter()
        run(i)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def prepare_full_update(backbone: str, folder: Path, standardiser: Standardiser, head: Head) -> Callable[[int], object]:
    """Return a function that updates a model with this head by one of 50 labels, whose features are cached."""
    labelled = []
    for i in range(50):
        prompt = Prompt.create((Message("user", f"What is {i} and {i}?"),))
        answers = [
            Completion.create(prompt.id, (Message("assistant", t),), "made") for t in (f"{2 * i}.", "I am lost.")
        ]
        comparison = Comparison.create(prompt, answers)
        first, second = sorted(c.id for c in answers)
        labelled.append(LabelledPair(comparison, Label(comparison.id, first, second, (1.0, 0.0, 0.0), 0.0, 1)))
    cache = FeatureCache(folder, Backbone(backbone))
    cache.features([chat for pair in labelled for chat in (pair.first, pair.second)])
    card = {"train_labels": 0, "train_votes": 0}
    model = RewardModel(cache, standardiser, head, backend="head", card=card)
    return lambda i: update_with_label(model, labelled[i])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="smollm2-135m-instruct", help="Of 576 features a layer.")
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    n, times = (500, 2) if args.quick else (args.labels, 9)
    rng = np.random.default_rng(args.seed)
    # Variances that fall as a decoder's do: most of what answers differ in lies in some dozens of directions, of which
    # every view shows a mixture.
    latent = rng.standard_normal((2 * n, WIDTH), dtype=np.float32) * np.geomspace(10, 0.05, WIDTH).astype(np.float32)
    features = latent @ rng.standard_normal((WIDTH, VIEWS * WIDTH), dtype=np.float32)
    lengths = rng.lognormal(6, 1, 2 * n)
    margins = (latent[:n] - latent[n:]) @ (rng.standard_normal(WIDTH) / 30)
    votes = draw_graded_votes(margins, rng)

    def refit(_: int) -> tuple[Standardiser, Head]:
        standardiser = Standardiser.fit(features, lengths)
        return standardiser, fit_head(standardiser.differences(features, lengths), votes)

    standardiser, head = refit(0)  # also warms up
    differences = standardiser.differences(features, lengths)

    def choose(_: int) -> object:
        prompts = np.arange(n)
        return choose_vote_weight(differences, votes, prompts), compute_length_only_loss(differences, votes, prompts)

    def update(i: int) -> Head:
        return head.updated(differences[i], votes[i])

    with tempfile.TemporaryDirectory() as folder:
        update_once = update if args.quick else prepare_full_update(args.backbone, Path(folder), standardiser, head)
        figures = {
            "labels": n,
            "inputs": differences.shape[1],
            "refit_s": measure_median_seconds(refit, times),
            "choice_s": measure_median_seconds(choose, 1),
            "update_ms": 1000 * measure_median_seconds(update_once, 50),
            "agreement": float(np.mean((differences @ head.weights > 0) == (margins > 0))),
        }
    notes = "Generated labels with strengths and ties. A refit starts from features, an update from a model in memory."
    write_result("reward_head", figures, seeds=[args.seed], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
