"""Measure how many labels each acquisition rule needs for the held-out accuracy that random asking reaches: real votes.

    python benchmarks/label_efficiency.py --data ../shared/data --workspace DIR

For each seed three prompts in ten of a set are held out and the others are the pool. A label is one vote that a person
gave, drawn among the votes on its pair. All rules begin with the same 20 labels, spread over prompts, and ask in
batches of 20 through `routing.batches`, as `rlhf-hitl route` does; after each batch the head is fitted anew. The
budget is a third of the pool, 400 labels at most, and rules go on to a quarter more. `auto` draws a tenth of its labels
at random, and they count like the others. The principal axes are those of the pool, and how much a vote counts is
chosen by cross-validation once for each seed, on labels drawn at random, for all rules alike.

Accuracy is that of held-out labels with a preference. It is noisy: a few hundred pairs, of which some change sides with
every batch. So the mean over the seeds is smoothed over the logarithm of the labels (a line fitted around each point,
Cleveland 1979, with tricube weights over two thirds of the points), and the first number of labels at which it reaches
that of random at its budget counts, interpolated. `label_share` is that number over the budget: 1 is random, and 1.25,
where a rule never comes there, stands for more. The intervals are from drawing seeds anew, 1,000 times.
`likelihood_share` is the same for the mean log likelihood of the held-out votes, which is less noisy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from record import write_result
from reward_accuracy import SETS, list_chats, read_labels_of_set

from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.head_fitting import fit_head
from rlhf_hitl.reward.labelled_pairs import LabelledPair, count_given_votes
from rlhf_hitl.reward.rendering import measure_completion_lengths
from rlhf_hitl.reward.standardiser import Standardiser, on_one_thread
from rlhf_hitl.reward.training.vote_weight_choice import choose_vote_weight
from rlhf_hitl.routing.acquisition_names import ACQUISITIONS, RULES, Rule
from rlhf_hitl.routing.batches import CompletionInputs, Pool, order_for_raters
from rlhf_hitl.routing.gains import Labels, choose_rule
from rlhf_hitl.stats.vote_outcomes import TIE

BATCH, MOST_LABELS, CONTROL_SHARE = 20, 400, 0.1


@dataclass(frozen=True)
class VotedSet:
    """A set as arrays: each pair with its two completions and the votes on it.

    Attributes:
        completions: (n, 2) rows of `features` and `lengths`, which have each completion once.
        votes: (n, 9) as they were given.
        prompts, policy_pairs: (n,) numbers.
    """

    features: np.ndarray
    lengths: np.ndarray
    completions: np.ndarray
    votes: np.ndarray
    prompts: np.ndarray
    policy_pairs: np.ndarray

    @classmethod
    def make(cls, pairs: Sequence[LabelledPair], cache: FeatureCache) -> VotedSet:
        chats = list_chats(pairs)
        features, lengths = cache.features(chats), measure_completion_lengths(chats)
        n = len(pairs)
        ids = [p.label.first for p in pairs] + [p.label.second for p in pairs]
        _, at, rows = np.unique(ids, return_index=True, return_inverse=True)
        policies = [
            "|".join(sorted(p.comparison.find_completion(i).policy for i in (p.label.first, p.label.second)))
            for p in pairs
        ]
        families = [p.comparison.prompt.family for p in pairs]
        return cls(
            features[at],
            lengths[at],
            np.stack([rows[:n], rows[n:]], axis=1),
            count_given_votes(pairs),
            np.unique(families, return_inverse=True)[1],
            np.unique(policies, return_inverse=True)[1],
        )


@dataclass(frozen=True)
class Trial:
    """A set with its pool and held-out pairs for one seed, and one drawn vote for each pair of the pool."""

    inputs: np.ndarray  # (m, d) of completions
    completions: np.ndarray
    prompts: np.ndarray
    policy_pairs: np.ndarray
    drawn: np.ndarray  # (n, 9)
    votes: np.ndarray
    pool: np.ndarray
    held_out: np.ndarray
    start: np.ndarray
    budget: int
    most: int
    vote_weight: float

    @property
    def differences(self) -> np.ndarray:
        return self.inputs[self.completions[:, 0]] - self.inputs[self.completions[:, 1]]


def prepare_trial(voted: VotedSet, seed: int, batch: int) -> Trial:
    rng = np.random.default_rng(seed)
    names = rng.permutation(int(voted.prompts.max()) + 1)
    is_held_out = np.isin(voted.prompts, names[: max(1, round(0.3 * len(names)))])
    pool, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    decided = voted.votes[held_out, :TIE].sum(1) != voted.votes[held_out, TIE + 1 :].sum(1)
    rows = np.unique(voted.completions[pool])
    standardiser = Standardiser.fit(voted.features[rows], voted.lengths[rows])
    inputs = standardiser(voted.features, voted.lengths).astype(np.float32)
    drawn = rng.multinomial(1, voted.votes / voted.votes.sum(1, keepdims=True)).astype(float)
    budget = min(MOST_LABELS, int(0.7 * len(voted.prompts) / 3)) // batch * batch  # the same for every seed
    most = budget + budget // 4 // batch * batch
    whole = Pool(np.zeros(len(pool)), np.zeros(len(pool)), voted.prompts[pool], voted.policy_pairs[pool])
    start = pool[order_for_raters(whole, "random", batch, rng).places[:batch]]
    first = pool[rng.permutation(len(pool))[: budget // 2]]
    differences = inputs[voted.completions[:, 0]] - inputs[voted.completions[:, 1]]
    vote_weight, _ = choose_vote_weight(differences[first], drawn[first], voted.prompts[first])
    return Trial(
        inputs, voted.completions, voted.prompts, voted.policy_pairs, drawn, voted.votes, pool, held_out[decided],
        start, budget, most, vote_weight,
    )  # fmt: skip


def run_rule(trial: Trial, name: str, seed: int, batch: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the accuracy and the mean log likelihood after each batch, and the rules that were asked."""
    rng = np.random.default_rng([seed, ACQUISITIONS.index(name)])
    asked, is_control = trial.start.copy(), np.ones(batch, bool)
    x, accuracy, likelihood, rules = trial.differences, [], [], []
    while True:
        head = fit_head(x[asked], trial.drawn[asked], vote_weight=trial.vote_weight)
        found = measure_head(head, trial)
        accuracy.append(found[0])
        likelihood.append(found[1])
        if len(asked) >= trial.most:
            return np.array(accuracy), np.array(likelihood), rules
        rule, controls = cast("Rule", name), 0
        if name == "auto":
            labels, own = Labels(x[asked], trial.drawn[asked], trial.prompts[asked]), np.flatnonzero(is_control)
            measured = Labels(labels.differences[own], labels.votes[own], labels.prompts[own])
            rule, controls = choose_rule(head, labels, measured, own).rule, round(CONTROL_SHARE * batch)
        rules.append(rule)
        waiting = np.setdiff1d(trial.pool, asked)
        random = waiting[rng.permutation(len(waiting))[:controls]]
        waiting = np.setdiff1d(waiting, random)
        margins, stds = head.margins(x[waiting])
        pool = Pool(
            margins, stds, trial.prompts[waiting], trial.policy_pairs[waiting], head,
            lambda places, of=waiting: gather_inputs(trial, of[places]),
        )  # fmt: skip
        chosen = waiting[order_for_raters(pool, rule, batch - controls, rng).places[: batch - controls]]
        asked = np.r_[asked, random, chosen]
        is_control = np.r_[is_control, np.ones(len(random), bool), np.zeros(len(chosen), bool)]


def gather_inputs(trial: Trial, places: np.ndarray) -> CompletionInputs:
    pairs = trial.completions[places]
    rows, at = np.unique(pairs, return_index=True)
    of = np.repeat(trial.prompts[places], 2)[at]
    order = np.argsort(of, kind="stable")
    rank = np.empty(len(rows), int)
    rank[order] = np.arange(len(rows))
    starts = np.flatnonzero(np.r_[True, np.diff(of[order]) != 0])
    return CompletionInputs(trial.inputs[rows[order]], starts, rank[np.searchsorted(rows, pairs)])


def measure_head(head: Head, trial: Trial) -> tuple[float, float]:
    """Return the accuracy on held-out majorities and the mean log likelihood of held-out votes with a preference."""
    x = trial.inputs[trial.completions[trial.held_out]]
    margins, stds = head.margins((x[:, 0] - x[:, 1]).astype(float))
    votes = trial.votes[trial.held_out]
    first, second = votes[:, :TIE].sum(1), votes[:, TIE + 1 :].sum(1)
    right = np.where(margins == 0, 0.5, (margins > 0) == (first > second))
    p = np.clip(head.probabilities(margins, stds), 1e-9, 1 - 1e-9)
    return float(right.mean()), float((first * np.log(p) + second * np.log1p(-p)).sum() / (first + second).sum())


def smooth_curve(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values (steps,) or (draws, steps) smoothed by a line around each point, over log labels."""
    x = np.log(labels)
    span = max(3, round(2 / 3 * len(x)))
    rows = []
    for at in x:
        reach = np.sort(np.abs(x - at))[span - 1] * (1 + 1e-9)
        w = np.clip(1 - (np.abs(x - at) / reach) ** 3, 0, None) ** 3
        design = np.stack([np.ones_like(x), x - at], axis=1)
        rows.append(np.linalg.solve((design.T * w) @ design, design.T * w)[0])
    return values @ np.array(rows).T


def find_share(labels: np.ndarray, curve: np.ndarray, target: float, budget: int) -> float:
    """Return the first number of labels at which a curve reaches the target, over the budget; else 1.25."""
    above = np.flatnonzero(curve >= target)
    if not len(above):
        return 1.25
    i = int(above[0])
    if i == 0:
        return labels[0] / budget
    part = (target - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float((labels[i - 1] + part * (labels[i] - labels[i - 1])) / budget)


def compute_shares(
    labels: np.ndarray, curves: dict[str, np.ndarray], budget: int, draws: np.ndarray
) -> dict[str, np.ndarray]:
    """Return for each rule its shares (1 + draws,): of all seeds, then of seeds drawn anew.

    Args:
        curves: rule → (seeds, steps).
        draws: (draws, seeds) how often each seed is drawn.
    """
    weights = np.concatenate([np.ones((1, draws.shape[1])), draws]) / draws.shape[1]
    smoothed = {name: smooth_curve(labels, weights @ c) for name, c in curves.items()}
    targets = smoothed["random"][:, labels == budget][:, 0]
    return {
        name: np.array([find_share(labels, c, t, budget) for c, t in zip(rows, targets)])
        for name, rows in smoothed.items()
    }


@on_one_thread
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds the three sets.")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--workspace", help="The folder to keep features in, so that a second run reuses them.")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--hh-pairs", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rules", nargs="+", default=list(ACQUISITIONS), choices=list(ACQUISITIONS))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rules: list[str] = list(dict.fromkeys(["random", *args.rules]))
    limits = dict.fromkeys(SETS, 90) if args.quick else {"hh": args.hh_pairs}
    seeds = [0, 1] if args.quick else list(range(args.first_seed, args.first_seed + args.seeds))
    batch = 4 if args.quick else BATCH
    figures: dict[str, float | int | None] = {}
    draws = np.random.default_rng(0).multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=1000)
    shares: dict[str, dict[str, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone(args.backbone, max_length=64 if args.quick else args.max_length)
        cache = FeatureCache(Path(args.workspace or folder) / "features", backbone)
        for name in args.sets:
            pairs = read_labels_of_set(Path(args.data) / SETS[name], limits.get(name))
            measure_set(name, VotedSet.make(pairs, cache), rules, seeds, batch, draws, figures, shares)
    for rule in rules:
        mean = np.mean([of_set[rule] for of_set in shares.values()], axis=0)
        figures |= name_shares("mean_label_share", rule, mean)
    notes = (
        "Labels needed for the held-out accuracy that random reaches with its budget, over that budget; 1.25 stands "
        "for more. Figures without a rule's name are auto's; intervals draw seeds anew, 95 %. "
        f"One vote a label, batches of {batch}, HH: {limits.get('hh')} pairs of helpful-base, Anthropic's test split."
    )
    write_result("label_efficiency", figures, seeds=seeds, notes=notes, quick=args.quick)


def measure_set(
    name: str,
    voted: VotedSet,
    rules: Sequence[str],
    seeds: Sequence[int],
    batch: int,
    draws: np.ndarray,
    figures: dict[str, float | int | None],
    shares: dict[str, dict[str, np.ndarray]],
) -> None:
    """Add the figures of a set."""
    accuracy: dict[str, list[np.ndarray]] = {rule: [] for rule in rules}
    likelihood: dict[str, list[np.ndarray]] = {rule: [] for rule in rules}
    asked: list[str] = []
    trial = None
    for seed in seeds:
        trial = prepare_trial(voted, seed, batch)
        for rule in rules:
            began = time.process_time()
            found = run_rule(trial, rule, seed, batch)
            accuracy[rule].append(found[0])
            likelihood[rule].append(found[1])
            asked += found[2] if rule == "auto" else []
            print(f"{name} seed {seed} {rule}: {time.process_time() - began:.1f} s", file=sys.stderr)
    assert trial is not None
    labels, budget = np.arange(batch, trial.most + 1, batch), trial.budget
    by_accuracy = compute_shares(labels, {r: np.array(c) for r, c in accuracy.items()}, budget, draws)
    by_likelihood = compute_shares(labels, {r: np.array(c) for r, c in likelihood.items()}, budget, draws)
    shares[name] = by_accuracy
    figures |= {f"{name}.pool": len(trial.pool), f"{name}.budget": budget, f"{name}.held_out": len(trial.held_out)}
    for rule in rules:
        figures |= name_shares(f"{name}.label_share", rule, by_accuracy[rule])
        figures |= name_shares(f"{name}.likelihood_share", rule, by_likelihood[rule])
        for share in (0.25, 0.5, 1.0):
            at = int(np.argmin(np.abs(labels - share * budget)))
            figures[f"{name}.accuracy_at_{int(100 * share)}.{rule}"] = float(np.mean([c[at] for c in accuracy[rule]]))
    for rule in RULES if asked else ():
        figures[f"{name}.auto.{rule}"] = asked.count(rule) / len(asked)


def name_shares(key: str, rule: str, values: np.ndarray) -> dict[str, float]:
    prefix = key if rule == "auto" else f"{key}.{rule}"
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return {prefix: float(values[0]), f"{prefix}.low": float(low), f"{prefix}.high": float(high)}


if __name__ == "__main__":
    main()
