"""What is known only in simulation: whether intervals of raters hold, and what spammers cost. All of it is simulated.

Raters and pairs are drawn from the model's own priors, so `coverage.*` says whether the fit is right, not whether
people are so: the share of raters whose true reliability, position bias and tie width lie in their 95 % intervals. In
each run the population is drawn too, from what the fit holds it to; `coverage.ordinary.*` is with the population that
`spam.*` is measured on. Runs take turns with SIZES.

`spam.loss_ratio`: a fifth of the raters answers at random and a tenth always chooses what is shown first; the accuracy
that the label loses against votes without them, over what majority loses. `spam.known_loss_ratio` is the same for a
label whose spammers were named and left out, as their votes are lost to all. Truth is the outcome most likely for
the reference rater.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.stats.rater_model import (
    MEAN_SPREADS,
    MOST_SPREADS,
    OTHER_RATERS,
    RANDOM_RATERS,
    SPREAD_RATERS,
    RaterPopulation,
    VoteArrays,
    fit_rater_model,
)
from rlhf_hitl.stats.rater_population import PAIR_COUNTS, SCALES, SPREADS
from rlhf_hitl.stats.vote_likelihood import NOISES
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE

#: Ordinary people: most see differences alike, some prefer what comes first, ties are common.
POPULATION = RaterPopulation(tie_width=1.0, difference_scale=1.5, spreads=(0.4, 0.4, 0.5, 0.4), random_share=0.0)
#: Raters, and votes of each on average, of the runs that measure coverage.
SIZES = ((60, 40), (30, 100), (100, 80))


@dataclass(frozen=True)
class Truth:
    """What votes were drawn from: raters (raters, 4) as in `vote_likelihood`, and d and noise of pairs (pairs,)."""

    raters: np.ndarray
    difference: np.ndarray
    noise: np.ndarray
    spammer: np.ndarray  # (raters,) bool


def simulate_votes(
    rng: np.random.Generator,
    *,
    raters: int = 100,
    pairs: int = 2_000,
    per_pair: int = 4,
    random: float = 0.0,
    first: float = 0.0,
    population: RaterPopulation = POPULATION,
) -> tuple[VoteArrays, Truth]:
    """Draw votes: some raters do much and most do little (Pareto), and nobody votes twice on a pair.

    Args:
        random, first: the shares of raters who answer at random, and who always choose what is shown first.
    """
    theta = population.typical + np.array(population.spreads) * rng.normal(size=(raters, 4))
    theta[rng.random(raters) < population.random_share, 0] = 0
    component = rng.choice(len(population.pair_weights), pairs, p=np.array(population.pair_weights))
    level, scale = np.divmod(component, len(SCALES))
    difference = np.clip(rng.normal(size=pairs) * SCALES[scale] * population.difference_scale, -10, 10)
    noise = NOISES[level]
    activity = np.log(rng.pareto(1.2, raters) + 0.2)
    pair = np.repeat(np.arange(pairs), per_pair)
    rater = np.concatenate(
        [np.argsort(-(activity + rng.gumbel(size=(len(part), raters))), 1)[:, :per_pair].ravel()
         for part in np.array_split(np.arange(pairs), -(-pairs * raters // 5_000_000))]
    )  # fmt: skip
    side = rng.choice([-1, 1], len(pair))
    z = theta[rater, 0] * difference[pair] + theta[rater, 1] * side + noise[pair] * rng.logistic(size=len(pair))
    outcome = np.where(np.abs(z) < np.exp(theta[rater, 2]), TIE, np.where(z > 0, FIRST_UNGRADED, SECOND_UNGRADED))
    kinds = rng.permutation(raters)
    guessing = np.isin(rater, kinds[: round(random * raters)])
    outcome[guessing] = rng.choice([FIRST_UNGRADED, TIE, SECOND_UNGRADED], guessing.sum())
    lefts = np.isin(rater, kinds[round(random * raters) : round((random + first) * raters)])
    outcome[lefts] = np.where(side[lefts] > 0, FIRST_UNGRADED, SECOND_UNGRADED)
    votes = VoteArrays(pair, rater, outcome.astype(np.int8), side, np.ones(len(pair)))
    return votes, Truth(theta, difference, noise, np.isin(np.arange(raters), kinds[: round((random + first) * raters)]))


def select_votes(votes: VoteArrays, kept: np.ndarray) -> VoteArrays:
    return VoteArrays(votes.pair[kept], votes.rater[kept], votes.outcome[kept], votes.side[kept], votes.weight[kept])


def draw_population(rng: np.random.Generator) -> RaterPopulation:
    """Draw what `fit_rater_model` holds a population to: spreads as if SPREAD_RATERS were known, means and pairs."""
    _, position_bias, log_tie_width, _ = MEAN_SPREADS * rng.normal(size=4)
    weights = rng.dirichlet(PAIR_COUNTS).reshape(len(NOISES), -1)
    unclear = weights[:, 1:]  # noise has no unit of its own; clear ties may be as many as they are
    of_noise = unclear.sum(1)
    unclear *= (0.5 * (of_noise + of_noise[::-1]) / of_noise)[:, None]
    return RaterPopulation(
        tie_width=float(np.exp(log_tie_width)),
        position_bias=float(position_bias),
        spreads=tuple(np.minimum(SPREADS * np.sqrt(SPREAD_RATERS / rng.chisquare(SPREAD_RATERS, 4)), MOST_SPREADS)),
        random_share=rng.beta(RANDOM_RATERS, OTHER_RATERS),
        difference_scale=float(1.5 * np.exp(MEAN_SPREADS[0] * rng.normal())),
        pair_weights=tuple((weights / weights.sum()).ravel().tolist()),
    )


def measure_coverage(runs: int, seed: int, *, drawn: bool) -> dict[str, float]:
    """Return the mean over runs of the share of raters with votes whose truth is in its interval."""
    inside: dict[str, list[float]] = {"reliability": [], "position_bias": [], "tie_width": []}
    for run in range(runs):
        rng, (raters, each) = np.random.default_rng([seed, run]), SIZES[run % len(SIZES)]
        population = draw_population(rng) if drawn else POPULATION
        votes, truth = simulate_votes(rng, raters=raters, pairs=raters * each // 4, population=population)
        voted = np.bincount(votes.rater, minlength=raters) > 0
        fit = fit_rater_model(votes, len(truth.difference), len(truth.raters))
        for column, name in enumerate(inside):
            true = np.exp(truth.raters[:, column]) if name == "tie_width" else truth.raters[:, column]
            low, high = getattr(fit, f"{name}_low"), getattr(fit, f"{name}_high")
            inside[name].append(float(((low <= true) & (true <= high))[voted].mean()))
    return {f"coverage.{'' if drawn else 'ordinary.'}{name}": float(np.mean(shares)) for name, shares in inside.items()}


def measure_spam(runs: int, seed: int) -> dict[str, float]:
    accuracy: dict[str, list[float]] = {}
    for run in range(runs):
        for kind, random, first in (("clean", 0.0, 0.0), ("spam", 0.2, 0.1)):
            votes, truth = simulate_votes(np.random.default_rng([seed, run]), random=random, first=first)
            pairs = len(truth.difference)
            best = find_likeliest_outcomes(truth)
            counts = np.zeros((pairs, 3))
            np.add.at(counts, (votes.pair, votes.outcome - FIRST_UNGRADED), 1)
            honest = select_votes(votes, ~truth.spammer[votes.rater])
            for name, p in (
                ("known", fit_rater_model(honest, pairs, len(truth.raters)).p),
                ("label", fit_rater_model(votes, pairs, len(truth.raters)).p),
                ("majority", counts),
            ):
                likeliest = p >= p.max(1, keepdims=True) - 1e-12
                right = likeliest[np.arange(pairs), best] / likeliest.sum(1)
                accuracy.setdefault(f"spam.{name}.{kind}", []).append(float(right.mean()))
    figures = {name: float(np.mean(values)) for name, values in accuracy.items()}
    loss = {
        name: figures[f"spam.{name}.clean"] - figures[f"spam.{name}.spam"] for name in ("label", "known", "majority")
    }
    return figures | {
        "spam.loss_ratio": loss["label"] / loss["majority"],
        "spam.known_loss_ratio": loss["known"] / loss["majority"],
    }


def find_likeliest_outcomes(truth: Truth) -> np.ndarray:
    """Return (pairs,) what the reference rater most likely says: 0 first, 1 tie, 2 second."""
    cut = POPULATION.tie_width
    above = 1 / (1 + np.exp((cut - truth.difference) / truth.noise))
    below = 1 / (1 + np.exp((cut + truth.difference) / truth.noise))
    return np.stack([above, 1 - above - below, below], 1).argmax(1)


def measure(args: argparse.Namespace) -> tuple[dict[str, float | int | None], str]:
    """Measure `coverage.*` and `spam.loss_ratio`."""
    runs = 3 if args.quick else 200
    figures: dict[str, float | int | None] = {"coverage.runs": runs}
    figures |= measure_coverage(runs, args.seed, drawn=True) | measure_coverage(runs, args.seed, drawn=False)
    figures |= measure_spam(2 if args.quick else 20, args.seed)
    notes = (
        "Coverage and spam are simulated, four votes a pair. Coverage: raters, pairs and population drawn from the "
        "model's priors, 30 to 100 raters with 40 to 100 votes each on average. Spam: 100 raters, 2,000 pairs, 20 % "
        "random raters and 10 % who always choose what is shown first. Spammers take the place of honest raters, whose "
        "votes are lost: spam.known_loss_ratio is what that alone costs, were they named. A change of the model's "
        "priors changes what is drawn, so the figures of two versions are not of the same data."
    )
    return figures, notes
