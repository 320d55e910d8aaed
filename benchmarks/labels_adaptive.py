"""Adaptive overlap, replayed on votes that are there: how many votes it asks for, and what its labels are worth.

Of each LLMFAO pair with four votes or more, three drawn at random can be asked for, in that order. The majority of the
others is what labels are measured by, where there is one. Everybody begins with one vote of each pair.

- *fixed*: all three.
- *adaptive*: `stats/value_of_vote.py` decides after each vote, from the votes so far and from what a head that saw no
  vote on the prompt says. The rater model is fitted anew after each round, as a project would do now and then.
- *ActiveLab* (cleanlab, given the same probabilities): the votes go where its score is lowest, those of a tenth of the
  pairs at a time. It has no rule to stop, so all of its curve from one vote to three is measured.

Labels are the rater model's, of the votes alone. ActiveLab's own labels are CROWDLAB's, which hold the model's word; so
the two are compared by the rater model's consensus, which holds it too, and also by the rater model's labels of the
votes that each has asked for (`vs_activelab.labels`).

The price is what a user sets. The one shown was chosen on simulated votes (`choose_price`), without a look at LLMFAO;
the figures for the other prices are here too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from out_of_fold import load_out_of_fold
from reward_accuracy import SETS
from servers import fill_store, make_pair

from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.stats.rater_model import RaterModelFit, fit_rater_model
from rlhf_hitl.stats.rater_population import RaterPopulation, compute_pair_posterior, compute_state_prior
from rlhf_hitl.stats.value_of_vote import decide_on_vote, make_belief
from rlhf_hitl.stats.vote_likelihood import RELIABILITY, compute_vote_probabilities
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE, VoteArrays
from rlhf_hitl.store import Store, people, projects, queue
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import DEFAULT_PROJECT, Answer, OverlapRule, Role, Verdict
from rlhf_hitl.types.votes import read_pair_votes

LEAST, MOST, SPLITS = 1, 3, 20
ACTIVELAB_STEPS = 10  # in each of which one vote of so many pairs is asked
PRICES = (0.001, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02)
#: On simulated votes, labels may lose so much of their accuracy at the price that is chosen.
ACCEPTED_LOSS = 0.005


@dataclass(frozen=True)
class VotePool:
    """The votes that may be asked for, in the order in which they come, and what labels are measured by.

    Attributes:
        rater, outcome, side: (pairs, MOST).
        truth: (pairs,) the majority of the votes left out: 0 first, 1 tie, 2 second; -1 where there is none.
        raters: how many there are.
    """

    rater: np.ndarray
    outcome: np.ndarray
    side: np.ndarray
    truth: np.ndarray
    raters: int

    @property
    def pairs(self) -> int:
        return len(self.truth)

    def fit(self, counts: np.ndarray, witness: np.ndarray | None) -> RaterModelFit:
        """Fit the rater model to the first so many votes of each pair."""
        return fit_rater_model(self.select_votes(counts), self.pairs, self.raters, witness=witness)

    def select_votes(self, counts: np.ndarray) -> VoteArrays:
        pair, place = np.nonzero(np.arange(MOST) < counts[:, None])
        rater, outcome, side = (array[pair, place] for array in (self.rater, self.outcome, self.side))
        return VoteArrays(pair, rater, outcome, side, np.ones(len(pair)))

    def measure_accuracy(self, p: np.ndarray) -> float:
        """Return how often the likeliest outcome of labels (pairs, 3) is that of the votes left out."""
        known = self.truth >= 0
        return float((p.argmax(1) == self.truth)[known].mean())


def find_direction(outcome: np.ndarray) -> np.ndarray:
    """Return 0 first, 1 tie, 2 second for outcomes in VOTE_OUTCOMES."""
    return np.sign(np.asarray(outcome) - TIE) + 1


def find_majority(votes: np.ndarray) -> int:
    """Return the outcome that more votes have than any other; -1 where there is none."""
    counts = np.bincount(votes, minlength=3)
    return int(counts.argmax()) if (counts == counts.max()).sum() == 1 else -1


def read_votes(path: Path) -> tuple[dict[tuple[str, str, str], np.ndarray], int]:
    """Return pair (comparison, first, second) → its votes (n, 3: rater, outcome, side), and the number of raters."""
    votes: dict[tuple[str, str, str], list[tuple[int, int, int]]] = {}
    raters: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/votes.db", create=True)
        import_path(store, path)
        for judgment in read_judgments(store):
            answer, rater = judgment.answer, raters.setdefault(judgment.rater_id, len(raters))
            for vote in read_pair_votes(answer.verdict, answer.ranking, judgment.order_shown, answer.strength):
                pair = judgment.comparison_id, vote.first, vote.second
                votes.setdefault(pair, []).append((rater, vote.outcome, vote.side))
    return {pair: np.array(rows) for pair, rows in votes.items()}, len(raters)


def draw_pool(votes_of_pairs: Sequence[np.ndarray], raters: int, rng: np.random.Generator) -> VotePool:
    """Return a random split of the votes of each pair, which has more than MOST."""
    drawn = [votes[rng.permutation(len(votes))] for votes in votes_of_pairs]
    asked = np.stack([votes[:MOST] for votes in drawn])
    truth = np.array([find_majority(find_direction(votes[MOST:, 1])) for votes in drawn])
    return VotePool(asked[:, :, 0], asked[:, :, 1], asked[:, :, 2], truth, raters)


def replay_adaptive(pool: VotePool, witness: np.ndarray | None, price: float) -> tuple[np.ndarray, RaterModelFit]:
    """Return how many votes each pair got, and the fit to them."""
    counts, asking = np.full(pool.pairs, LEAST), np.arange(pool.pairs)
    for n in range(LEAST, MOST):
        fit = pool.fit(counts, witness)
        asking = np.array([i for i in asking.tolist() if _is_worth_it(pool, fit, i, n, witness, price)], int)
        counts[asking] += 1
    return counts, pool.fit(counts, witness)


def _is_worth_it(
    pool: VotePool, fit: RaterModelFit, pair: int, n: int, witness: np.ndarray | None, price: float
) -> bool:
    said = fit.population, fit.rows[pool.rater[pair, :n]], pool.outcome[pair, :n], pool.side[pair, :n]
    by_votes = compute_pair_posterior(*said)
    posterior = by_votes if witness is None else compute_pair_posterior(*said, witness=witness[pair])
    belief = make_belief(fit.population, posterior, by_votes)
    return decide_on_vote([belief], n, least=LEAST, most=MOST, price=price).action == "ask"


def replay_activelab(pool: VotePool, witness: np.ndarray) -> np.ndarray:
    """Return (steps, 4): the votes of a pair as ActiveLab spends them, and the accuracy of CROWDLAB's labels, of the
    rater model's consensus and of its labels."""
    curve, counts = [], np.full(pool.pairs, LEAST)
    while True:
        fit = pool.fit(counts, witness)
        votes = pool.select_votes(counts)
        by_rater = np.full((pool.pairs, pool.raters), np.nan)
        by_rater[votes.pair, votes.rater] = find_direction(votes.outcome)
        by_rater = by_rater[:, ~np.isnan(by_rater).all(0)]
        labels, scores = _ask_cleanlab(by_rater, witness)
        accuracies = (pool.measure_accuracy(p) for p in (np.eye(3)[labels], fit.consensus, fit.p))
        curve.append((counts.mean(), *accuracies))
        left = np.flatnonzero(counts < MOST)
        if not len(left):
            return np.array(curve)
        counts[left[np.argsort(scores[left], kind="stable")[: -(-pool.pairs // ACTIVELAB_STEPS)]]] += 1


def _ask_cleanlab(by_rater: np.ndarray, witness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return CROWDLAB's labels and ActiveLab's scores, each (pairs,), of votes (pairs, raters); NaN: none."""
    import pandas as pd
    from cleanlab.multiannotator import get_active_learning_scores, get_label_quality_multiannotator

    votes = pd.DataFrame(by_rater)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores, _ = get_active_learning_scores(votes, witness)
        if (~np.isnan(by_rater)).sum(1).max() < 2:  # CROWDLAB refuses these, and says to take the votes as they are
            return np.nanmax(by_rater, axis=1).astype(int), scores
        found = get_label_quality_multiannotator(votes, witness, return_detailed_quality=False, verbose=False)
    return found["label_quality"]["consensus_label"].to_numpy().astype(int), scores


def count_votes_needed(curve: np.ndarray, accuracy: float) -> float:
    """Return how many votes of a pair a curve (steps, 2) of votes and accuracy takes to reach an accuracy; all of its
    votes where it never does. Noise of the curve is kept out: no point is taken to be below one before it."""
    reached = np.maximum.accumulate(curve[:, 1])
    if reached[0] >= accuracy:
        return float(curve[0, 0])
    for (votes, before), (next_votes, after) in pairwise(zip(curve[:, 0], reached)):
        if before < accuracy <= after:
            return float(votes + (next_votes - votes) * (accuracy - before) / (after - before))
    return float(curve[-1, 0])


def simulate_pool(pairs: int, raters: int, rng: np.random.Generator, left_out: int = 2) -> VotePool:
    """Return votes of simulated raters, drawn from the population that the rater model begins with."""
    population, n = RaterPopulation(), MOST + left_out
    prior = compute_state_prior(population)
    state = rng.choice(len(prior), p=prior / prior.sum(), size=pairs)
    people = population.typical + rng.normal(size=(raters, 4)) * np.array(population.spreads)
    people[:, RELIABILITY] = np.maximum(people[:, RELIABILITY], 0)
    people[rng.random(raters) < population.random_share, RELIABILITY] = 0
    rater = np.stack([rng.choice(raters, n, replace=False) for _ in range(pairs)])
    side = rng.choice([1, -1], (pairs, n))
    outcomes = np.array([FIRST_UNGRADED, TIE, SECOND_UNGRADED])
    at = np.arange(pairs * n), np.repeat(state, n)
    said = [
        compute_vote_probabilities(
            people[rater.ravel()], np.full(pairs * n, outcome), side.ravel(), np.array(population.gaps)
        )[at]
        for outcome in outcomes
    ]
    below = np.cumsum(said, axis=0).T / np.sum(said, axis=0)[:, None]
    outcome = outcomes[(rng.random(pairs * n)[:, None] > below[:, :2]).sum(1)].reshape(pairs, n)
    truth = np.array([find_majority(find_direction(votes)) for votes in outcome[:, MOST:]])
    return VotePool(rater[:, :MOST], outcome[:, :MOST], side[:, :MOST], truth, raters)


def choose_price(seed: int, pairs: int, repeats: int) -> float:
    """Return the highest price at which labels of simulated votes lose no more than ACCEPTED_LOSS of their accuracy."""
    rng = np.random.default_rng(seed)
    lost = dict.fromkeys(PRICES, 0.0)
    for _ in range(repeats):
        pool = simulate_pool(pairs, pairs // 20, rng)
        fixed = pool.measure_accuracy(pool.fit(np.full(pairs, MOST), None).p)
        for price in PRICES:
            lost[price] += (fixed - pool.measure_accuracy(replay_adaptive(pool, None, price)[1].p)) / repeats
    return max((price for price, loss in lost.items() if loss <= ACCEPTED_LOSS), default=PRICES[0])


def summarise(values: Sequence[float], key: str) -> dict[str, float]:
    """Return the mean over splits, and between which values 95 % of the splits lie."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {key: float(np.mean(values)), f"{key}.low": float(low), f"{key}.high": float(high)}


def measure(args: argparse.Namespace) -> tuple[dict[str, float | int | None], str]:
    """Replay LLMFAO; see the top of this file."""
    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone(args.backbone, max_length=64 if args.quick else args.max_length)
        labelled, witness = load_out_of_fold(
            Path(args.data), "llmfao", Path(args.workspace or folder), backbone=backbone,
            limit=60 if args.quick else None, folds=2 if args.quick else 5,
        )  # fmt: skip
    votes, raters = read_votes(Path(args.data) / SETS["llmfao"])
    keys = [(pair.label.comparison_id, pair.label.first, pair.label.second) for pair in labelled]
    enough = [i for i, key in enumerate(keys) if len(votes[key]) > MOST]
    of_pairs, witness = [votes[keys[i]] for i in enough], witness[enough]
    price = choose_price(args.seed, 200 if args.quick else 2000, 1 if args.quick else 5)
    rng = np.random.default_rng(args.seed)
    rows: dict[str, list[float]] = {}
    for _ in range(2 if args.quick else SPLITS):
        for key, value in measure_split(draw_pool(of_pairs, raters, rng), witness, price).items():
            rows.setdefault(key, []).append(value)
    figures: dict[str, float | int | None] = {"adaptive.pairs": len(enough), "adaptive.price": price}
    figures |= measure_submits(20 if args.quick else 300)
    for key, values in rows.items():
        figures |= summarise(values, f"adaptive.{key}")
    notes = (
        "Adaptive overlap on LLMFAO pairs with four votes or more: least 1, most 3, beside three votes of each. "
        "votes_share and accuracy_change are against the three votes; vs_activelab is the votes of a pair over those "
        "with which ActiveLab's CROWDLAB labels reach the accuracy of the consensus (below 1: fewer), "
        "vs_activelab.labels the same with the rater model's labels of ActiveLab's votes. The price was chosen on "
        "simulated votes. "
        "low and high: 95 % of 20 splits. submit_ms: a judgment submitted to a SQLite store whose project has a rule, "
        "from the call until it is on disk, the decision included."
    )
    return figures, notes


def measure_submits(comparisons: int) -> dict[str, float]:
    """Return the milliseconds that it takes to submit a judgment where a rule decides whether one more is asked."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/votes.db", create=True) as store:
        projects.change_project(store, DEFAULT_PROJECT, overlap_rule=OverlapRule())
        fill_store(store, (make_pair(i) for i in range(comparisons)))
        for rater in [people.add_rater(store, f"rater {i}", Role.RATER).id for i in range(5)]:
            while (lease := queue.lease(store, rater, seconds=1800)) is not None:
                answer = Answer(Verdict.RANKED, tuple((i,) for i in lease.order_shown))
                start = time.perf_counter()
                queue.submit(store, lease.id, rater, answer)
                seconds.append(time.perf_counter() - start)
    median, most = np.quantile(seconds[1:], [0.5, 0.95]) * 1000  # the first one loads scipy
    return {"adaptive.submit_ms": float(median), "adaptive.submit_ms.p95": float(most)}


def measure_split(pool: VotePool, witness: np.ndarray, chosen: float) -> dict[str, float]:
    three = pool.fit(np.full(pool.pairs, MOST), witness)
    one = pool.fit(np.full(pool.pairs, LEAST), witness)
    fixed, fixed_consensus = pool.measure_accuracy(three.p), pool.measure_accuracy(three.consensus)
    found = {"accuracy.three": fixed, "accuracy.one": pool.measure_accuracy(one.p)}
    found |= {"consensus.three": fixed_consensus, "consensus.one": pool.measure_accuracy(one.consensus)}
    curve = replay_activelab(pool, witness)
    found["activelab.one"], found["activelab.three"] = float(curve[0, 1]), float(curve[-1, 1])
    for price in sorted({*PRICES, chosen}):
        counts, fit = replay_adaptive(pool, witness, price)
        label, consensus = pool.measure_accuracy(fit.p), pool.measure_accuracy(fit.consensus)
        spent = float(counts.mean())
        at_price = {
            "votes_share": spent / MOST,
            "accuracy_change": label - fixed,
            "consensus_change": consensus - fixed_consensus,
            "vs_activelab": spent / count_votes_needed(curve[:, [0, 1]], consensus),
            "vs_activelab.labels": spent / count_votes_needed(curve[:, [0, 3]], label),
            "over_activelab": consensus - float(np.interp(spent, curve[:, 0], curve[:, 1])),
            "over_activelab.labels": label - float(np.interp(spent, curve[:, 0], curve[:, 3])),
        }
        found |= {f"price_{price:g}.{key}": value for key, value in at_price.items()}
        if price == chosen:
            found |= at_price
    return found
