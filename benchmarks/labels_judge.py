"""How many human votes a judge saves: MT-Bench, people's votes and the recorded ones of GPT-4. A part of `labels.py`.

Of every comparison up to N human votes are drawn and kept, in 20 splits; the truth is the majority of the others
among first, tie and second, where it is unique. The label of the kept votes alone has an accuracy. Then each kept vote
is kept again with some probability only, and GPT-4's vote, which the rater model takes for one more rater of unknown
reliability, is added. `judge.human_votes_share` is the share of human votes from which on the accuracy is that of all
of them without the judge, on the straight lines between tenths; 0 where the judge needs no human vote at all. Its
interval is a bootstrap over comparisons.

GPT-4's recorded votes were asked in both orders; "tie (inconsistent)" is where its choice turned with the order.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.judges.measuring import JudgeReport, Measured, measure_judge
from rlhf_hitl.stats.intervals import wilson_interval
from rlhf_hitl.stats.rater_model import fit_rater_model
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE, VoteArrays
from rlhf_hitl.store import Store, people
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Role, Verdict

VOTES, JUDGE_VOTES = Path("mt_bench/mtbench_human_joined.jsonl.gz"), Path("mt_bench/gpt4_pair_votes.jsonl")
JUDGE, OWN_POLICIES = "gpt4_pair", "gpt-*"
SPLITS, KEPT = 20, (1, 2)
SHARES = np.linspace(0, 1, 11)
BOOTSTRAPS = 500
OUTCOME_OF_VOTE = np.array([FIRST_UNGRADED, TIE, SECOND_UNGRADED])


def measure(args: argparse.Namespace) -> tuple[dict[str, float | int | None], str]:
    """Measure what GPT-4's votes save, and what they favour."""
    data = Path(args.data)
    with tempfile.TemporaryDirectory() as folder:
        inconsistent, judged = join_judge(data, Path(folder) / "judge.jsonl")
        with Store.open(f"sqlite:///{folder}/votes.db", create=True) as store:
            import_path(store, data / VOTES)
            import_path(store, Path(folder) / "judge.jsonl")
            rater = next(r for r in people.list_raters(store) if r.name.endswith(f":{JUDGE}"))
            report = measure_judge(store, rater, own_policies=OWN_POLICIES)
            votes, is_judge, pairs = read_votes(store)
    low, high = wilson_interval(inconsistent, judged)
    figures: dict[str, float | int | None] = {
        "judge.inconsistent": inconsistent / judged, "judge.inconsistent.low": low, "judge.inconsistent.high": high,
        "judge.votes": int(is_judge.sum()), "judge.human_votes": int((~is_judge).sum()), "judge.pairs": pairs,
        **describe(report),
    }  # fmt: skip
    for n in KEPT:
        splits = 2 if args.quick else SPLITS
        scores, of_pair = compare_shares(votes, is_judge, pairs, n, splits, args.seed)
        figures |= summarise(scores, of_pair, n, args.seed)
    figures |= {
        f"judge.human_votes_share{end}": figures[f"judge.human_votes_share_{KEPT[-1]}{end}"]
        for end in ("", ".low", ".high")
    }
    notes = (
        f"Accuracy of labels of up to N human votes against the majority of the left-out ones, {SPLITS} splits of "
        "MT-Bench; human_votes_share_N is the share of them that reaches the same beside GPT-4's recorded votes, with "
        "a bootstrap interval over comparisons; human_votes_share is that of two. Leans of the judge are beyond those "
        "of people on the same pairs; own policies are gpt-*, whose answers it wrote or a relative did."
    )
    return figures, notes


def join_judge(data: Path, out: Path) -> tuple[int, int]:
    """Write GPT-4's votes with the conversations of people's votes. Returns how many turned round, of how many."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    with gzip.open(data / VOTES, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            rows.setdefault((row["question_id"], row["turn"], row["model_a"], row["model_b"]), row)
    inconsistent = judged = 0
    with (data / JUDGE_VOTES).open(encoding="utf-8") as file, out.open("w", encoding="utf-8") as joined:
        for line in file:
            vote = json.loads(line)
            turned = {"model_a": "model_b", "model_b": "model_a"}
            names = vote["model_a"], vote["model_b"]
            for (a, b), winner in (
                (names, vote["winner"]), (names[::-1], turned.get(vote["winner"], vote["winner"])),
            ):  # fmt: skip
                if (row := rows.get((vote["question_id"], vote["turn"], a, b))) is not None:
                    judged += 1
                    inconsistent += "inconsistent" in str(winner)
                    joined.write(json.dumps(row | {"judge": JUDGE, "winner": winner}) + "\n")
                    break
    return inconsistent, judged


def describe(report: JudgeReport) -> dict[str, float | int | None]:
    figures: dict[str, float | int | None] = {}
    for name in ("agreement", "people_agreement", "length_bias", "self_preference"):
        found: Measured = getattr(report, name)
        figures |= {f"judge.{name}": found.value, f"judge.{name}.low": found.low, f"judge.{name}.high": found.high}
        figures[f"judge.{name}.comparisons"] = found.comparisons
    return figures


def read_votes(store: Store) -> tuple[VoteArrays, np.ndarray, int]:
    """Return all votes, which of them are the judge's, and how many pairs there are."""
    pairs: dict[str, int] = {}
    raters: dict[str, int] = {}
    rows = []
    for judgment in read_judgments(store):
        if judgment.answer.verdict not in (Verdict.RANKED, Verdict.ALL_BAD):
            continue
        pair = pairs.setdefault(judgment.comparison_id, len(pairs))
        rank = {id: r for r, group in enumerate(judgment.answer.ranking) for id in group}
        ids = sorted(rank)
        order = int(np.sign(rank[ids[0]] - rank[ids[1]])) if rank else 0
        rater = raters.setdefault(judgment.rater_id, len(raters))
        rows.append((pair, rater, OUTCOME_OF_VOTE[order + 1], judgment.role is Role.JUDGE))
    pair, rater, outcome, is_judge = np.array(rows).T
    # The file's order is that of the models' names: what was shown on which side is not known.
    votes = VoteArrays(pair, rater, outcome, np.zeros(len(pair), int), np.ones(len(pair)))
    return votes, is_judge.astype(bool), len(pairs)


def compare_shares(
    votes: VoteArrays, is_judge: np.ndarray, pairs: int, n: int, splits: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores (rows of all splits, 1 + shares), people alone first, and the pair of each row."""
    rng, raters = np.random.default_rng(seed), int(votes.rater.max()) + 1
    scores, of_pair = [], []
    human = np.flatnonzero(~is_judge)
    for _ in range(splits):
        order = human[np.lexsort((rng.random(len(human)), votes.pair[human]))]
        place = np.arange(len(order)) - np.searchsorted(votes.pair[order], votes.pair[order])
        kept, left_out = order[place < n], order[place >= n]
        counts = np.zeros((pairs, 3))
        np.add.at(counts, (votes.pair[left_out], np.searchsorted(OUTCOME_OF_VOTE, votes.outcome[left_out])), 1)
        most = counts == counts.max(1, keepdims=True)
        scored = np.flatnonzero((counts.sum(1) > 0) & (most.sum(1) == 1))
        truth, drawn = counts[scored].argmax(1), rng.random(len(kept))
        chosen = [kept, *(np.r_[kept[drawn < share], np.flatnonzero(is_judge)] for share in SHARES)]
        fits = [fit_rater_model(select(votes, some), pairs, raters).p[scored] for some in chosen]
        scores.append(np.stack([score(p, truth) for p in fits], 1))
        of_pair.append(scored)
    return np.concatenate(scores), np.concatenate(of_pair)


def select(votes: VoteArrays, kept: np.ndarray) -> VoteArrays:
    return VoteArrays(votes.pair[kept], votes.rater[kept], votes.outcome[kept], votes.side[kept], votes.weight[kept])


def score(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return (n,) the chance that a coin between the likeliest outcomes of a prediction (n, 3) picks the truth."""
    best = prediction >= prediction.max(1, keepdims=True) - 1e-12
    return best[np.arange(len(truth)), truth] / best.sum(1)


def find_share(accuracies: np.ndarray) -> float:
    """Return the share from which on the accuracy with the judge is that without it; `accuracies[0]` is the latter."""
    gain = accuracies[1:] - accuracies[0]
    below = np.flatnonzero(gain < 0)
    if not len(below):
        return 0.0
    last = int(below[-1])
    if last == len(SHARES) - 1:
        return 1.0  # the judge makes all human votes no better: it saves none
    between = -gain[last] / (gain[last + 1] - gain[last])
    return float(SHARES[last] + between * (SHARES[last + 1] - SHARES[last]))


def summarise(scores: np.ndarray, of_pair: np.ndarray, n: int, seed: int) -> dict[str, float]:
    """Return the accuracies and the share, with its bootstrap interval over comparisons."""
    accuracies = scores.mean(0)
    names, index = np.unique(of_pair, return_inverse=True)
    sums, counts = np.zeros((len(names), scores.shape[1])), np.bincount(index)
    np.add.at(sums, index, scores)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(BOOTSTRAPS):
        drawn = rng.integers(0, len(names), len(names))
        found.append(find_share(sums[drawn].sum(0) / counts[drawn].sum()))
    low, high = np.quantile(found, (0.025, 0.975))
    figures = {f"judge.accuracy_people_{n}": float(accuracies[0])}
    figures |= {f"judge.accuracy_with_{round(share * 100)}_{n}": float(a) for share, a in zip(SHARES, accuracies[1:])}
    share = find_share(accuracies)
    figures |= {f"judge.human_votes_share_{n}": share, f"judge.human_votes_share_{n}.low": float(low)}
    return figures | {f"judge.human_votes_share_{n}.high": float(high), f"judge.scored_{n}": len(names)}
