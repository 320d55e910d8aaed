"""Measure prediction-powered means against plain ones, with the same labels: coverage, and width of the intervals.

    python benchmarks/ppi.py --data ../shared/data --workspace DIR

Of MT-Bench and LLMFAO, what the head says of each pair comes from a head that saw nothing of its prompt (five folds),
GPT-4's recorded votes are a second model, and the mean of the two words is a third. Estimated are the win rate of each
policy with `MIN_PAIRS` pairs or more (people's votes, ties one half) and the head's accuracy before review. A draw
takes as many prompts as there are, with replacement, and a random `LABELLED` of their pairs keep people's votes; the
truth is the mean over all pairs. `coverage` is the share of the intervals that hold it, over all quantities of both
sets; `width_ratio` the mean width of the intervals of MT-Bench's win rates by that of the plain ones, with the head's
word; `.judge` and `.both` with the others. `.ceiling` is what a perfect word would reach, which knows how raters vote
on each pair on average but not what a single rater says: sqrt(1 - (1 - LABELLED) R), where R is the share of the
variance of people's word that lies between pairs, by how alike two raters of a pair vote.
`--quick` reads few labels, cut to 64 tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from doubt import FOLDS, Pairs, learn, predict, read_gpt4_votes
from record import write_result
from reward_accuracy import SETS, list_chats, read_labels_of_set

from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.labelled_pairs import LabelledPair, count_votes
from rlhf_hitl.reward.rendering import measure_completion_lengths
from rlhf_hitl.reward.style import measure_style
from rlhf_hitl.stats.intervals import wilson_interval
from rlhf_hitl.stats.prediction_powered import estimate_powered_mean
from rlhf_hitl.stats.vote_outcomes import TIE

LABELLED, MIN_PAIRS = 0.15, 200


def predict_all(pairs: Pairs, folds: int) -> np.ndarray:
    """Return P(first better) + P(tie) / 2 of every pair, (n,), by heads that saw nothing of its prompt."""
    names, prompt = np.unique(pairs.prompts, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[prompt] % folds
    wins = np.empty(len(pairs.votes))
    for k in range(folds):
        learnt = learn(pairs.select(np.flatnonzero(fold != k)))
        held_out = np.flatnonzero(fold == k)
        first, tie, _ = learnt.head.outcome_probabilities(*predict(learnt, pairs.select(held_out))).T
        wins[held_out] = first + tie / 2
    return wins


def list_quantities(
    labelled: list[LabelledPair], pairs: Pairs, head: np.ndarray, judge: np.ndarray, least: int
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return name → (which pairs, what people say, what a model says)."""
    n = len(labelled)
    total = pairs.votes.sum(1)
    people = (pairs.votes[:, :TIE].sum(1) + pairs.votes[:, TIE] / 2) / total
    asked = judge.sum(1) > 0
    said = np.full(n, np.nan)
    said[asked] = (judge[asked, :TIE].sum(1) + judge[asked, TIE] / 2) / judge[asked].sum(1)
    sides = [[p.comparison.find_completion(c).policy for c in (p.label.first, p.label.second)] for p in labelled]
    quantities = {}
    for policy, count in sorted(Counter(name for side in sides for name in side).items()):
        if count < least:
            continue
        is_first = np.array([side[0] == policy for side in sides])
        rows = np.flatnonzero(is_first | np.array([side[1] == policy for side in sides]))
        turn = [np.where(is_first[rows], x[rows], 1 - x[rows]) for x in (people, head, said)]
        quantities[f"wins.{policy}"] = rows, turn[0], turn[1]
        quantities[f"judge.{policy}"] = rows, turn[0], turn[2]
        quantities[f"both.{policy}"] = rows, turn[0], (turn[1] + turn[2]) / 2
    decided = np.flatnonzero((pairs.counts > 0) & (pairs.shares != 0.5))
    right = ((head > 0.5) == (pairs.shares > 0.5)).astype(float)
    quantities["accuracy"] = decided, right[decided], np.maximum(head, 1 - head)[decided]
    return quantities


def compute_ceiling(labelled: list[LabelledPair], pairs: Pairs, rows: np.ndarray, policy: str) -> float:
    """Return the width ratio of a policy's win rate with a perfect word; independent pairs, no intervals."""
    worth = np.r_[np.ones(TIE), 0.5, np.zeros(len(pairs.votes[0]) - TIE - 1)]
    is_first = [labelled[i].comparison.find_completion(labelled[i].label.first).policy == policy for i in rows]
    votes = np.where(np.array(is_first)[:, None], pairs.votes[rows], pairs.votes[rows, ::-1])
    n, wins, squares = votes.sum(1), votes @ worth, votes @ worth**2
    mean = wins.sum() / n.sum()
    of_pair, of_vote = wins - n * mean, squares - 2 * mean * wins + n * mean**2
    several = n >= 2
    alike = float(np.mean(((of_pair**2 - of_vote) / np.maximum(n * (n - 1), 1))[several])) if several.any() else 0.0
    return float(np.sqrt(1 - (1 - LABELLED) * np.clip(alike / np.mean((of_pair / n) ** 2), 0, 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds the sets.")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--workspace", help="The folder to keep features in.")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    draws = 20 if args.quick else args.draws
    figures: dict[str, float | int | None] = {}
    covered = {"powered": [], "plain": []}
    of_sets: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone(args.backbone, max_length=64 if args.quick else args.max_length)
        cache = FeatureCache(Path(args.workspace or folder) / "features", backbone)
        for name in ("mt_bench", "llmfao"):
            labelled = read_labels_of_set(Path(args.data) / SETS[name], 80 if args.quick else None)
            chats = list_chats(labelled)
            pairs = Pairs(
                cache.features(chats), measure_completion_lengths(chats), measure_style(chats), count_votes(labelled),
                np.array([p.comparison.prompt.family for p in labelled]),
            )  # fmt: skip
            head = predict_all(pairs, 2 if args.quick else FOLDS)
            judge = read_gpt4_votes(Path(args.data), name, labelled)
            quantities = list_quantities(labelled, pairs, head, judge, 10 if args.quick else MIN_PAIRS)
            ratios: dict[str, list[float]] = {"wins": [], "judge": [], "both": [], "accuracy": [], "ceiling": []}
            rng = np.random.default_rng(0)
            for quantity, (rows, people, model) in quantities.items():
                _, prompt = np.unique(pairs.prompts[rows], return_inverse=True)
                of_prompt = [np.flatnonzero(prompt == g) for g in range(int(prompt.max()) + 1)]
                truth, widths, held = float(people.mean()), [], []
                for _ in range(draws):
                    drawn = rng.integers(len(of_prompt), size=len(of_prompt))
                    at = np.concatenate([of_prompt[g] for g in drawn])
                    cluster = np.repeat(np.arange(len(drawn)), [len(of_prompt[g]) for g in drawn])
                    few = np.zeros(len(at), bool)
                    few[rng.choice(len(at), max(4, round(LABELLED * len(at))), replace=False)] = True
                    found = estimate_powered_mean(np.where(few, people[at], np.nan), model[at], cluster)
                    assert found is not None, "some are labelled"
                    held.append(found.low <= truth <= found.high)
                    covered["plain"].append(found.plain_low <= truth <= found.plain_high)
                    widths.append((found.high - found.low, found.plain_high - found.plain_low))
                covered["powered"] += held
                mean = np.mean(widths, axis=0)
                ratios[quantity.split(".")[0]].append(float(mean[0] / mean[1]))
                if quantity.startswith("wins."):
                    ratios["ceiling"].append(compute_ceiling(labelled, pairs, rows, quantity.removeprefix("wins.")))
                print(name, quantity, len(rows), np.mean(held), mean, file=sys.stderr)
            of_sets[name] = ratios
    for name, ratios in of_sets.items():
        figures |= {f"{name}.{kind}.width_ratio": float(np.mean(r)) for kind, r in ratios.items() if r}
    for kind, suffix in (("powered", ""), ("plain", ".plain")):
        low, high = wilson_interval(sum(covered[kind]), len(covered[kind]))
        figures |= {f"coverage{suffix}": float(np.mean(covered[kind]))}
        figures |= {f"coverage{suffix}.low": low, f"coverage{suffix}.high": high}
    figures |= {
        "width_ratio": figures["mt_bench.wins.width_ratio"], "labelled": LABELLED, "draws": draws,
        **{f"width_ratio.{kind}": figures[f"mt_bench.{kind}.width_ratio"] for kind in ("judge", "both", "ceiling")},
        "quantities": sum(len(r) for ratios in of_sets.values() for kind, r in ratios.items() if kind != "ceiling"),
    }  # fmt: skip
    notes = (
        "width_ratio: win rates of MT-Bench's policies with the head's word on all pairs and people's on 15 %, by the "
        "plain ones of the same labels; judge: with GPT-4's votes as the model's word; both: with the mean of the two; "
        "ceiling: with a word that knows the mean vote on each pair; accuracy: the head's own."
    )
    write_result("ppi", figures, seeds=[0], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
