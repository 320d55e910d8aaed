"""How often a label of few votes is what the votes that were left out say: the rater model, and three peers.

Of every comparison N votes are drawn and kept, in 20 splits. The truth is the majority of the others among first, tie
and second; where it is not unique the comparison is left out of that split, and counted. A prediction with several
equally likely outcomes is scored by the chance that a coin picks the right one.

What is compared: the *label*, which is people's votes alone, with their majority and with crowd-kit's Dawid-Skene,
which see the same votes; the *consensus*, which has the reward model as a witness, with cleanlab's CROWDLAB, which is
given the same votes and the same out-of-fold probabilities (it refuses data with one vote each, and says to take these
as they are). `accuracy_gain_N` is that of the consensus over the best of the three,
`label_gain_N` that of the label over the better of the two without a model. Intervals are clustered by comparison.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from labels_simulation import select_votes
from out_of_fold import load_out_of_fold
from reward_accuracy import SETS

from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.stats.intervals import clustered_mean_interval
from rlhf_hitl.stats.rater_model import RaterModelFit, VoteArrays, fit_rater_model
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE
from rlhf_hitl.store import Store
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Verdict

SPLITS, KEPT = 20, (1, 2, 3)
OUTCOME_OF_VOTE = np.array([FIRST_UNGRADED, TIE, SECOND_UNGRADED])


def read_votes(path: Path, pairs: list[tuple[str, str, str]]) -> VoteArrays:
    """Return the votes of a file on pairs (comparison, first, second), raters numbered as they come.

    MT-Bench's file does not say what was shown on which side: its order is that of the models' names.
    """
    sides_known = "mt_bench" not in path.name and "mtbench" not in path.name
    numbers, raters = {pair: i for i, pair in enumerate(pairs)}, {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/votes.db", create=True)
        import_path(store, path)
        for judgment in read_judgments(store):
            first, second = sorted(judgment.order_shown)
            pair = numbers.get((judgment.comparison_id, first, second))
            if pair is None or judgment.answer.verdict not in (Verdict.RANKED, Verdict.ALL_BAD):
                continue
            rank = {i: r for r, group in enumerate(judgment.answer.ranking) for i in group}
            order = np.sign(rank.get(first, 0) - rank.get(second, 0))  # -1: the first is better
            side = 0 if not sides_known else 1 if judgment.order_shown[0] == first else -1
            rater = raters.setdefault(judgment.rater_id, len(raters))
            rows.append((pair, rater, OUTCOME_OF_VOTE[order + 1], side))
    pair, rater, outcome, side = np.array(rows).T
    return VoteArrays(pair, rater, outcome, side, np.ones(len(pair)))


def draw_kept(votes: VoteArrays, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return which votes are kept: n of each pair, or all it has."""
    order = np.lexsort((rng.random(len(votes.pair)), votes.pair))
    pair = votes.pair[order]
    place = np.arange(len(pair)) - np.searchsorted(pair, pair)  # the how-manieth of its pair
    kept = np.zeros(len(pair), bool)
    kept[order[place < n]] = True
    return kept


def count_outcomes(votes: VoteArrays, pairs: int) -> np.ndarray:
    """Return (pairs, 3) how many votes say first, tie, second."""
    counts = np.zeros((pairs, 3))
    np.add.at(counts, (votes.pair, np.searchsorted(OUTCOME_OF_VOTE, votes.outcome)), 1)
    return counts


def predict_by_majority(votes: VoteArrays, pairs: int, raters: int, witness: np.ndarray) -> np.ndarray:
    return count_outcomes(votes, pairs)


def predict_by_dawid_skene(votes: VoteArrays, pairs: int, raters: int, witness: np.ndarray) -> np.ndarray:
    import pandas as pd
    from crowdkit.aggregation import DawidSkene

    said = np.searchsorted(OUTCOME_OF_VOTE, votes.outcome)
    p = DawidSkene().fit_predict_proba(pd.DataFrame({"task": votes.pair, "worker": votes.rater, "label": said}))
    return p.reindex(index=range(pairs), columns=range(3)).fillna(0).to_numpy()


def predict_by_crowdlab(votes: VoteArrays, pairs: int, raters: int, witness: np.ndarray) -> np.ndarray:
    import pandas as pd
    from cleanlab.multiannotator import get_label_quality_multiannotator

    if np.bincount(votes.pair).max() < 2:  # it refuses these, and says to take the labels as they are
        return count_outcomes(votes, pairs)
    table = np.full((pairs, raters), np.nan)
    table[votes.pair, votes.rater] = np.searchsorted(OUTCOME_OF_VOTE, votes.outcome)
    judged = ~np.isnan(table).all(1)
    of_raters = ~np.isnan(table).all(0)
    out = np.zeros((pairs, 3))
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_label_quality_multiannotator(
            pd.DataFrame(table[judged][:, of_raters]), witness[judged], return_detailed_quality=False, verbose=False
        )
    labels = found["label_quality"]["consensus_label"].to_numpy().astype(int)
    out[np.flatnonzero(judged), labels] = 1
    return out


def score(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return (n,) the chance that a coin between the likeliest outcomes of a prediction (n, 3) picks the truth."""
    best = prediction >= prediction.max(1, keepdims=True) - 1e-12
    return best[np.arange(len(truth)), truth] / best.sum(1)


PEERS: dict[str, Callable[[VoteArrays, int, int, np.ndarray], np.ndarray]] = {
    "majority": predict_by_majority,
    "dawid_skene": predict_by_dawid_skene,
    "crowdlab": predict_by_crowdlab,
}


def compare_labels(
    votes: VoteArrays, witness: np.ndarray, n: int, splits: int, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """Return the scores of every method (rows of all splits), the pair of each row, and how many truths were split."""
    pairs, raters = len(witness), int(votes.rater.max()) + 1
    scores: dict[str, list[np.ndarray]] = {name: [] for name in ("label", "consensus", *PEERS)}
    of_pair, undecided = [], 0
    rng = np.random.default_rng(seed)
    for _ in range(splits):
        kept = draw_kept(votes, n, rng)
        left_out = count_outcomes(select_votes(votes, ~kept), pairs)
        most = left_out == left_out.max(1, keepdims=True)
        has_votes = left_out.sum(1) > 0
        unique = has_votes & (most.sum(1) == 1)
        undecided += int((has_votes & ~unique).sum())
        rows, shown = np.flatnonzero(unique), select_votes(votes, kept)
        truth = left_out[rows].argmax(1)
        fit: RaterModelFit = fit_rater_model(shown, pairs, raters, witness=witness)
        predictions = {"label": fit.p, "consensus": fit.consensus}
        predictions |= {name: predict(shown, pairs, raters, witness) for name, predict in PEERS.items()}
        for name, p in predictions.items():
            scores[name].append(score(p[rows], truth))
        of_pair.append(rows)
    return {name: np.concatenate(s) for name, s in scores.items()}, np.concatenate(of_pair), undecided


def summarise(scores: dict[str, np.ndarray], of_pair: np.ndarray, n: int) -> dict[str, float]:
    figures = {f"accuracy.{name}_{n}": float(s.mean()) for name, s in scores.items()}
    gains = (
        (f"accuracy_gain_{n}", "consensus", tuple(PEERS)),
        (f"label_gain_{n}", "label", ("majority", "dawid_skene")),
        (f"consensus_gain_over_crowdlab_{n}", "consensus", ("crowdlab",)),
    )
    for key, ours, peers in gains:
        best = max(peers, key=lambda name: scores[name].mean())
        gain = scores[ours] - scores[best]
        low, high = clustered_mean_interval(gain, of_pair)
        figures |= {key: float(gain.mean()), f"{key}.low": low, f"{key}.high": high}
    return figures


def measure(args: argparse.Namespace) -> tuple[dict[str, float | int | None], str]:
    """Measure both sets: `llmfao.` and `mt_bench.`."""
    figures: dict[str, float | int | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone(args.backbone, max_length=64 if args.quick else args.max_length)
        for name in ("mt_bench",) if args.quick else ("llmfao", "mt_bench"):
            labelled, witness = load_out_of_fold(
                Path(args.data),
                name,
                Path(args.workspace or folder),
                backbone=backbone,
                limit=60 if args.quick else None,
                folds=2 if args.quick else 5,
            )
            names = [(p.comparison.id, p.label.first, p.label.second) for p in labelled]
            votes = read_votes(Path(args.data) / SETS[name], names)
            figures |= {f"{name}.pairs": len(names), f"{name}.votes": len(votes.pair)}
            for n in KEPT:
                found, of_pair, undecided = compare_labels(votes, witness, n, 2 if args.quick else SPLITS, args.seed)
                figures |= {f"{name}.{key}": value for key, value in summarise(found, of_pair, n).items()}
                figures |= {f"{name}.scored_{n}": len(of_pair), f"{name}.undecided_{n}": undecided}
    notes = (
        "Accuracy: of N votes against the majority of the left-out votes (first, tie, second), "
        f"{SPLITS} splits; comparisons whose left-out votes have no unique majority are not scored (undecided_N, over "
        "all splits). accuracy_gain_N: the consensus (votes and out-of-fold probabilities, as CROWDLAB has them) over "
        "the best of majority, Dawid-Skene and CROWDLAB; label_gain_N: the label (votes alone) over the better of "
        "majority and Dawid-Skene. Intervals are clustered by comparison. Both sets served while the model was "
        "developed: the figures were looked at several times, and showed that ties were overruled."
    )
    return figures, notes
