"""How fast the rater model is fitted and updated, beside crowd-kit's Dawid-Skene on the same votes in the same run."""

from __future__ import annotations

import argparse
import time

import numpy as np
from labels_simulation import simulate_votes

from rlhf_hitl.stats.rater_model import fit_rater_model, update_pair


def measure(args: argparse.Namespace) -> tuple[dict[str, float | int | None], str]:
    """Measure `fit_seconds`, `time_ratio` (ours over theirs: the median of turns) and `update_ms`."""
    import pandas as pd
    from crowdkit.aggregation import DawidSkene

    pairs, raters, turns = (500, 80, 1) if args.quick else (25_000, 4_000, 3)
    votes, _ = simulate_votes(np.random.default_rng(args.seed), raters=raters, pairs=pairs)
    frame = pd.DataFrame({"task": votes.pair, "worker": votes.rater, "label": votes.outcome})
    ours, theirs = [], []
    fit = fit_rater_model(votes, pairs, raters, rounds=1)  # warms up
    for _ in range(turns):
        begun = time.perf_counter()
        fit = fit_rater_model(votes, pairs, raters)
        ours.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        DawidSkene().fit_predict_proba(frame)
        theirs.append(time.perf_counter() - begun)
    rows, updates = fit.rows, 20 if args.quick else 200
    begun = time.perf_counter()
    for pair in range(updates):
        mine = slice(4 * pair, 4 * pair + 4)
        update_pair(fit.population, rows[votes.rater[mine]], votes.outcome[mine], votes.side[mine])
    figures: dict[str, float | int | None] = {
        "votes": len(votes.pair),
        "raters": raters,
        "fit_seconds": float(np.median(ours)),
        "dawid_skene_seconds": float(np.median(theirs)),
        "time_ratio": float(np.median(np.array(ours) / theirs)),
        "update_ms": (time.perf_counter() - begun) / updates * 1000,
    }
    return figures, "Speed: simulated votes, four a pair; time_ratio is the rater model's time over Dawid-Skene's."
