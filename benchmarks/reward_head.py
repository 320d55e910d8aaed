"""How long the head takes: a refit on many labels, and an update after one.

    python benchmarks/reward_head.py

Labels are drawn from a head that is known, on features as wide as SmolLM2-135M's in six views: what counts here is
their number. The votes say strengths and ties, the slowest likelihood there is. A refit is everything after the
features: principal axes, prior by evidence, thresholds, posterior. Both are the median over runs. `--quick` takes 500
labels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from record import write

from rlhf_hitl.reward.head import Head, Standardiser, fit

WIDTH, VIEWS = 576, 6


def graded_votes(margins: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, 9) one vote a pair, by raters who see margins (n,) with logistic noise."""
    seen = margins + rng.logistic(size=len(margins))
    said = np.select([seen > cut for cut in (2, 1, 0.5, -0.5, -1, -2)], [0, 1, 2, 4, 6, 7], 8)
    return np.eye(9)[said]


def median_seconds(do: Callable[[int], object], times: int) -> float:
    took = []
    for i in range(times):
        start = time.perf_counter()
        do(i)
        took.append(time.perf_counter() - start)
    return float(np.median(took))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    n, times = (500, 2) if args.quick else (args.labels, 9)
    rng = np.random.default_rng(args.seed)
    # Variances that fall as a decoder's do: most of what answers differ in lies in some dozens of directions, of which
    # every view shows a mixture.
    meant = rng.standard_normal((2 * n, WIDTH), dtype=np.float32) * np.geomspace(10, 0.05, WIDTH).astype(np.float32)
    features = meant @ rng.standard_normal((WIDTH, VIEWS * WIDTH), dtype=np.float32)
    lengths = rng.lognormal(6, 1, 2 * n)
    margins = (meant[:n] - meant[n:]) @ (rng.standard_normal(WIDTH) / 30)
    votes = graded_votes(margins, rng)

    def refit(_: int) -> tuple[Standardiser, Head]:
        standardiser = Standardiser.fit(features, lengths)
        return standardiser, fit(standardiser.differences(features, lengths), votes)

    standardiser, head = refit(0)  # also warms up
    differences = standardiser.differences(features, lengths)
    figures = {
        "labels": n,
        "inputs": differences.shape[1],
        "refit_s": median_seconds(refit, times),
        "update_ms": 1000 * median_seconds(lambda i: head.updated(differences[i], votes[i]), 50),
        "agreement": float(np.mean((differences @ head.weights > 0) == (margins > 0))),
    }
    notes = "Made labels with strengths and ties. A refit starts from cached features, an update from a head in memory."
    write("reward_head", figures, seeds=[args.seed], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
