"""Promotions by simulated raters: are worthless policies promoted, and how many judgments does a decision take?

    python benchmarks/promotion.py --data ../shared/data --workspace DIR

Each run is one promotion at a true win rate of 40 to 60 % (in steps of 2.5), with one vote a prompt, the share of ties
of MT-Bench's votes, a least gain of 0.1, alpha 0.05 and beta 0.1. Raters may be asked about twice as many prompts as a
test of a fixed size takes. **That test**: a one-sided z-test at alpha that is told the variances, of the size at which
it promotes a win rate of 60 % in nine cases of ten (`stats/sequential.py: count_fixed_size`); it decides after its
last judgment.

`size_share` is the mean number of outcomes that a decision takes, over all win rates, by the size of that test;
`wrong` the largest share of runs that promote, over win rates up to 1/2 and over all kinds of predictions here;
`power` the share that promotes at 60 %. `size_share_ppi` is with predictions. They are real: out-of-fold predictions
of a head for MT-Bench's pairs, taken within a pair of policies, as a promotion has one. A run draws one of the 15
pairs of policies, an outcome for each prompt, and the prediction of one of that pair's votes with this outcome; four
prompts that nobody judges come with each that is judged. `.all_pairs` takes them from all pairs of policies together,
where a prediction also knows which policies are better: what a model is worth where the two policies differ from
prompt to prompt as much as six policies do. `.wrong_way` is a model that says the opposite. `correlation` is that of
predictions with single votes. `needed_correlation` is the one from which on the share is 0.45 (by the variance that is
saved).
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from out_of_fold import load_out_of_fold
from record import write_result

from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.labelled_pairs import count_votes
from rlhf_hitl.stats.intervals import wilson_interval
from rlhf_hitl.stats.sequential import (
    WinRateTest,
    compute_bets,
    compute_log_capital,
    correct_outcomes,
    count_fixed_size,
    decide,
    make_controls,
)
from rlhf_hitl.stats.vote_outcomes import TIE

RATES = np.arange(0.40, 0.601, 0.025)
TIMES, FRESH = 2, 4
LOST, TIED, WON = 0.0, 0.5, 1.0
WANTED_PPI = 0.45


@dataclass(frozen=True)
class Votes:
    """Single votes on pairs of the same two policies: `outcomes` of the first one, and what a model predicts of it."""

    outcomes: np.ndarray
    predictions: np.ndarray

    def turn(self) -> Votes:
        """Return the same votes from the other side."""
        return Votes(1 - self.outcomes, 1 - self.predictions)

    def measure_correlation(self) -> float:
        return float(np.corrcoef(self.outcomes, self.predictions)[0, 1])


def read_votes_of_policies(
    data: Path, workspace: Path, backbone: Backbone, *, limit: int | None, folds: int
) -> list[Votes]:
    """Return the votes of MT-Bench by pair of policies."""
    pairs, probabilities = load_out_of_fold(data, "mt_bench", workspace, backbone=backbone, limit=limit, folds=folds)
    votes, predictions = count_votes(pairs), probabilities[:, 0] + probabilities[:, 1] / 2
    found: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for pair, of_pair, f in zip(pairs, votes.astype(int), predictions):
        sides = [pair.comparison.find_completion(i).policy for i in (pair.label.first, pair.label.second)]
        if sides[0] > sides[1]:
            of_pair, f = of_pair[::-1], 1 - f
        counts = {WON: of_pair[:TIE].sum(), TIED: of_pair[TIE], LOST: of_pair[TIE + 1 :].sum()}
        rows = found.setdefault(tuple(sorted(sides)), [])
        rows += [(outcome, float(f)) for outcome, count in counts.items() for _ in range(count)]
    listed = [Votes(*np.array(rows).T) for rows in found.values()]
    # A pair of policies without a win, a loss or a tie cannot be drawn from at every win rate.
    return [v for v in listed if {LOST, TIED, WON} <= set(v.outcomes.tolist())]


def draw_runs(
    worlds: list[Votes], rate: float, ties: float, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return outcomes at a true win rate and the predictions of them, each of `shape` (runs, prompts)."""
    u = rng.random(shape)
    outcomes = np.where(u < rate - ties / 2, WON, np.where(u < rate + ties / 2, TIED, LOST))
    predictions = np.empty(shape)
    both = [v for votes in worlds for v in (votes, votes.turn())]
    which = rng.integers(len(both), size=shape[0])
    for k, votes in enumerate(both):
        rows = np.flatnonzero(which == k)
        for outcome in (LOST, TIED, WON):
            at = outcomes[rows] == outcome
            drawn = rng.choice(votes.predictions[votes.outcomes == outcome], int(at.sum()))
            of_rows = predictions[rows]
            of_rows[at] = drawn
            predictions[rows] = of_rows
    return outcomes, predictions


def run_promotions(
    outcomes: np.ndarray, predictions: np.ndarray | None, test: WinRateTest, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each run decides (`stats.sequential.decide`), and after how many outcomes."""
    controls = None if predictions is None else make_controls(predictions, draws)
    z, slopes = correct_outcomes(outcomes[:, :draws], controls)
    bets = compute_bets(z, slopes, test.least_gain)
    above, below = (compute_log_capital(z, bets, rate, side) for rate, side in ((0.5, 1), (0.5 + test.least_gain, -1)))
    return decide(above, below, test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds the sets.")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--workspace", help="The folder to keep features in.")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--quick", action="store_true", help="few votes and few runs, to show that the benchmark works")
    args = parser.parse_args()
    runs = 60 if args.quick else args.runs
    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone(args.backbone, max_length=64 if args.quick else args.max_length)
        limit, folds = (400, 2) if args.quick else (None, 5)
        workspace = Path(args.workspace or folder)
        worlds = read_votes_of_policies(Path(args.data), workspace, backbone, limit=limit, folds=folds)
    together = [Votes(*(np.concatenate([vars(v)[name] for v in worlds]) for name in ("outcomes", "predictions")))]
    opposite = [Votes(v.outcomes, 1 - v.predictions) for v in worlds]
    ties = float((together[0].outcomes == TIED).mean())
    sizes = np.array([len(v.outcomes) for v in worlds])
    figures: dict[str, float | int | None] = {
        "runs": runs * len(args.seeds),
        "ties": ties,
        "correlation": float(np.average([v.measure_correlation() for v in worlds], weights=sizes)),
        "correlation.all_pairs": together[0].measure_correlation(),
        "fresh": FRESH,
    }
    wrong, wrong_high = [], []
    for gain in (0.1, 0.05):
        test = WinRateTest(gain)
        fixed = count_fixed_size(test, ties)
        kinds = {"": None, "_ppi": worlds, "_ppi.all_pairs": together, "_ppi.wrong_way": opposite}
        prefix = "" if gain == 0.1 else "gain_5."
        figures |= {f"{prefix}fixed_size": fixed}
        for kind, of in kinds.items() if gain == 0.1 else [("", None), ("_ppi", worlds)]:
            shares, promoted = [], []
            for n, rate in enumerate(RATES):
                parts = []
                for seed in args.seeds:
                    rng = np.random.default_rng([seed, n])
                    shape = (runs, TIMES * fixed * (1 if of is None else 1 + FRESH))
                    if of is None:
                        u = rng.random(shape)
                        y = np.where(u < rate - ties / 2, WON, np.where(u < rate + ties / 2, TIED, LOST))
                        parts.append(run_promotions(y, None, test, TIMES * fixed))
                    else:
                        parts.append(run_promotions(*draw_runs(of, rate, ties, shape, rng), test, TIMES * fixed))
                decisions, steps = (np.concatenate(part) for part in zip(*parts))
                shares.append(float(steps.mean()) / fixed)
                promoted.append(int((decisions == 1).sum()))
                figures[f"{prefix}size_share{kind}.at_{rate * 100:g}"] = shares[-1]
                if kind == "" and gain == 0.1:
                    figures[f"rejected.at_{rate * 100:g}"] = float((decisions == 2).mean())
                    figures[f"promoted.at_{rate * 100:g}"] = float((decisions == 1).mean())
            total = runs * len(args.seeds)
            figures[f"{prefix}size_share{kind}"] = float(np.mean(shares))
            if gain == 0.1:
                figures[f"power{kind}"] = promoted[-1] / total
            worst = max(count for rate, count in zip(RATES, promoted) if rate <= 0.5 + 1e-9)
            figures[f"{prefix}wrong{kind}" if kind or prefix else "wrong.votes_alone"] = worst / total
            wrong.append(worst / total)
            wrong_high.append(wilson_interval(worst, total)[1])
    figures |= {"wrong": max(wrong), "wrong_high": max(wrong_high)}
    saved = 1 - WANTED_PPI / float(figures["size_share"] or 1.0)
    figures["needed_correlation"] = math.sqrt(max(0.0, saved) * (FRESH + 1) / FRESH)
    notes = (
        "Simulated raters. fixed_size: a one-sided z-test with the same alpha (0.05), told the variances, that "
        "promotes a win rate of 60 % with a chance of 0.9; a promotion asks twice as many at most. size_share: mean "
        "over win rates from 40 to 60 %. size_share_ppi: with a head's out-of-fold predictions within a pair of "
        f"MT-Bench's policies, and {FRESH} prompts that nobody judges for each judged one; all_pairs: of all pairs of "
        "policies together; gain_5: the same with a least gain of 0.05."
    )
    write_result("promotion", figures, seeds=args.seeds, notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
