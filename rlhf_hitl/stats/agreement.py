"""How far raters agree: coefficients that correct for chance, with intervals clustered by comparison.

All are computed from *count tables*: row u holds how many votes a unit (a pair of completions) has in each category
(an outcome). Rows may have any number of votes, so votes may be missing anywhere. The conventions are:

- Only units with two votes or more say how often raters agree.
- Krippendorff's alpha knows chance from the same votes, drawn without replacement (Krippendorff 2019, *Content
  Analysis*, ch. 12); a vote that is alone on its unit is in nothing.
- Fleiss' kappa and Gwet's AC1 know it from the mean over *all* units, also those with one vote, of the share of each
  category in the unit's votes. For equal numbers of votes this is Fleiss' kappa (Fleiss 1971); for unequal ones it is
  the form of Gwet (2014, *Handbook of Inter-Rater Reliability*, ch. 2 and 4), which his irrCAC computes.
- A coefficient for which chance leaves nothing to explain (one category in all votes, no unit with two votes) is None:
  not known.
- An interval is a percentile bootstrap over comparisons, which are drawn with all of their pairs and votes, widened for
  few comparisons as Hesterberg (2015, *The American Statistician* 69:371) says. It is None below MIN_COMPARISONS that
  have two votes on a pair, and where the resamples do not differ: a bootstrap knows nothing of what it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

Level = Literal["nominal", "ordinal"]
Sums = dict[str, np.ndarray]  # name → sums over units; each may have leading axes, one entry a resample

RESAMPLES = 2000
MIN_COMPARISONS = 10  # with fewer, the percentiles of a bootstrap are too close
MAX_UNDEFINED = 0.05  # share of resamples in which a coefficient may be unknown
CELLS_AT_ONCE = 20_000_000  # of a table of weights, resamples × comparisons


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A figure with its 95 % interval; None where it is not known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the raters of some comparisons agree.

    Attributes:
        pairwise: of all pairs of votes on one unit, the share that says the same, without a correction for chance.
        votes, units, comparisons: those with two votes or more on a unit, on which all of this rests.
        vote_pairs: the number of pairs of votes on one unit.
    """

    alpha_nominal: Coefficient = Coefficient()
    alpha_ordinal: Coefficient = Coefficient()
    fleiss_kappa: Coefficient = Coefficient()
    gwet_ac1: Coefficient = Coefficient()
    pairwise: Coefficient = Coefficient()
    votes: int = 0
    units: int = 0
    comparisons: int = 0
    vote_pairs: int = 0


@dataclass(frozen=True, slots=True)
class RaterAgreement:
    """How often one rater says what another says of the same unit.

    Attributes:
        share: of the pairs of this rater's vote with another's, the share that says the same; None without any pair.
        vote_pairs: their number.
        comparisons: on how many comparisons they are.
    """

    share: Coefficient
    vote_pairs: int
    comparisons: int


def count_categories(unit: np.ndarray, category: np.ndarray, units: int, categories: int) -> np.ndarray:
    """Return the count table (units, categories) of votes.

    Args:
        unit: (n,) the number of each vote's unit, from 0.
        category: (n,) the number of its category, from 0; negative for a vote that says nothing.
    """
    said = category >= 0
    flat = unit[said].astype(np.int64) * categories + category[said]
    return np.bincount(flat, minlength=units * categories).reshape(units, categories)


def krippendorff_alpha(counts: np.ndarray, level: Level = "nominal") -> float | None:
    """Return Krippendorff's alpha of a count table (units, categories); None where it is not known.

    Args:
        level: `ordinal` takes the categories as a scale in the order of the columns.
    """
    return _to_figure(_compute_alpha(_sum_all(counts), level))


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Return Fleiss' kappa of a count table (units, categories), in Gwet's form; None where it is not known."""
    return _to_figure(_compute_kappa(_sum_all(counts)))


def gwet_ac1(counts: np.ndarray) -> float | None:
    """Return Gwet's AC1 (Gwet 2008, *Br. J. Math. Stat. Psychol.* 61:29) of a count table; None where it is not known.

    It depends on how many categories there are: every column counts as one, also one that nobody chose.
    """
    return _to_figure(_compute_ac1(_sum_all(counts)))


def pairwise_agreement(counts: np.ndarray) -> float | None:
    """Return the share of all pairs of votes on one unit that say the same; None without such a pair."""
    return _to_figure(_compute_pairwise(_sum_all(counts)))


def measure_agreement(
    counts: np.ndarray, clusters: np.ndarray | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Agreement:
    """Return every coefficient of a count table, with its interval.

    Args:
        counts: (units, categories), the categories in the order of their scale.
        clusters: (units,) the number of each unit's comparison; by default each unit is one.
        resamples: of the bootstrap.
        seed: equal seeds give equal intervals.
    """
    counts = np.asarray(counts)
    units = len(counts)
    index = np.arange(units) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    per_cluster = _sum_clusters(_sum_units(counts), index)
    judged_twice = counts.sum(1) >= 2
    informative = len(np.unique(index[judged_twice]))
    coefficients: dict[str, Callable[[Sums], np.ndarray]] = {
        "alpha_nominal": lambda sums: _compute_alpha(sums, "nominal"),
        "alpha_ordinal": lambda sums: _compute_alpha(sums, "ordinal"),
        "fleiss_kappa": _compute_kappa,
        "gwet_ac1": _compute_ac1,
        "pairwise": _compute_pairwise,
    }
    totals = {name: sums.sum(0) for name, sums in per_cluster.items()}
    values = {name: _to_figure(compute(totals)) for name, compute in coefficients.items()}
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(coefficients)
    if informative >= MIN_COMPARISONS:
        drawn = list(_resample(per_cluster, resamples, np.random.default_rng(seed)))
        for name, compute in coefficients.items():
            intervals[name] = _take_percentiles(np.concatenate([compute(sums) for sums in drawn]), informative)
    share = values.pop("pairwise")
    vote_pairs = int(totals["vote_pairs"]) // 2
    return Agreement(
        **{name: Coefficient(value, *(intervals[name] or (None, None))) for name, value in values.items()},
        pairwise=_bound_share(share, intervals["pairwise"], informative),
        votes=int(counts[judged_twice].sum()),
        units=int(judged_twice.sum()),
        comparisons=informative,
        vote_pairs=vote_pairs,
    )


def measure_rater_agreement(
    unit: np.ndarray,
    rater: np.ndarray,
    category: np.ndarray,
    raters: int,
    clusters: np.ndarray | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[RaterAgreement]:
    """Return for each rater how often others say the same of the same unit.

    Args:
        unit, rater, category: (n,) of each vote; a negative category is a vote that says nothing.
        raters: how many raters there are.
        clusters: (units,) the number of each unit's comparison; by default each unit is one.
        resamples, seed: as for `measure_agreement`.
    """
    said = category >= 0
    unit, rater, category = unit[said], rater[said], category[said]
    if not len(unit):
        return [RaterAgreement(Coefficient(), 0, 0)] * raters
    counts = count_categories(unit, category, int(unit.max()) + 1, int(category.max()) + 1)
    others = counts.sum(1)[unit] - 1
    same = counts[unit, category] - 1
    comparison = unit if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1][unit]
    # What one rater said of one comparison is one draw of the bootstrap.
    told = others > 0
    _, draw = np.unique(np.stack([rater[told], comparison[told]]), axis=1, return_inverse=True)
    draws = int(draw.max()) + 1 if told.any() else 0
    sums = np.stack([np.bincount(draw, column[told], draws) for column in (same, others)], 1).astype(np.int64)
    rater_of_draw = np.zeros(draws, np.int64)
    rater_of_draw[draw] = rater[told]
    found = []
    rng = np.random.default_rng(seed)
    order = np.argsort(rater_of_draw, kind="stable")
    bounds = np.searchsorted(rater_of_draw[order], np.arange(raters + 1))
    for begin, end in pairwise(bounds):
        total, comparisons = sums[order[begin:end]].sum(0), int(end - begin)
        interval = None
        if comparisons >= MIN_COMPARISONS:
            same_drawn, of = _resample_pairs(sums[order[begin:end]], resamples, rng)
            interval = _take_percentiles(same_drawn / of, comparisons)
        share = float(total[0] / total[1]) if comparisons else None
        found.append(RaterAgreement(_bound_share(share, interval, comparisons), int(total[1]), comparisons))
    return found


def _sum_units(counts: np.ndarray) -> Sums:
    """Return what each unit adds to the sums that all coefficients follow from, each (units, ...)."""
    n = counts.astype(float)
    votes = n.sum(1)
    twice = votes >= 2
    pairs = n[:, :, None] * n[:, None, :]
    columns = np.arange(n.shape[1])
    pairs[:, columns, columns] -= n  # no vote is paired with itself
    pairs[~twice] = 0
    same = pairs[:, columns, columns].sum(1)
    vote_pairs = np.where(twice, votes * (votes - 1), 0)
    return {
        "coincidences": pairs / np.maximum(votes - 1, 1)[:, None, None],
        "shares": n / np.maximum(votes, 1)[:, None],
        "rated": (votes > 0).astype(float),
        "agreed": same / np.maximum(vote_pairs, 1),
        "twice": twice.astype(float),
        "same": same,
        "vote_pairs": vote_pairs,
    }


def _sum_all(counts: np.ndarray) -> Sums:
    return {name: sums.sum(0) for name, sums in _sum_units(np.asarray(counts)).items()}


def _sum_clusters(units: Sums, index: np.ndarray) -> Sums:
    """Return the sums of each cluster of units, each (clusters, ...)."""
    clusters = int(index.max()) + 1 if len(index) else 0
    if clusters == len(index):
        return units
    summed = {}
    for name, values in units.items():
        summed[name] = np.zeros((clusters, *values.shape[1:]))
        np.add.at(summed[name], index, values)
    return summed


def _resample(clusters: Sums, resamples: int, rng: np.random.Generator) -> Iterator[Sums]:
    """Yield the sums of resamples, each (some of the resamples, ...). Clusters that say the same are counted together,
    so that it takes a hundredth of the time where comparisons have few votes."""
    n = len(clusters["rated"])
    flat = np.concatenate([values.reshape(n, -1) for values in clusters.values()], axis=1)
    patterns, numbers = np.unique(flat, axis=0, return_counts=True)
    shapes = {name: values.shape[1:] for name, values in clusters.items()}
    ends = np.cumsum([int(np.prod(shape, dtype=int)) for shape in shapes.values()])
    at_once = max(1, CELLS_AT_ONCE // len(patterns))
    for begin in range(0, resamples, at_once):
        size = min(at_once, resamples - begin)
        totals = rng.multinomial(n, numbers / n, size=size) @ patterns
        parts = np.split(totals, ends[:-1], axis=1)
        yield {name: part.reshape(size, *shape) for (name, shape), part in zip(shapes.items(), parts)}


def _resample_pairs(sums: np.ndarray, resamples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the totals (resamples,) of the two columns of `sums` (n, 2) in each resample of its rows."""
    n = len(sums)
    if n <= 1000:  # below this, drawing rows is faster than drawing the numbers of equal rows
        drawn = rng.integers(0, n, (resamples, n))
        return sums[:, 0][drawn].sum(1), sums[:, 1][drawn].sum(1)
    kinds, numbers = np.unique(sums, axis=0, return_counts=True)
    same, of = (rng.multinomial(n, numbers / n, size=resamples) @ kinds.astype(float)).T
    return same, of


def _compute_alpha(sums: Sums, level: Level) -> np.ndarray:
    """alpha = 1 - observed disagreement / expected disagreement, both weighted by the distance of the categories."""
    observed = sums["coincidences"]
    totals = observed.sum(-1)
    n = totals.sum(-1)
    expected = totals[..., :, None] * totals[..., None, :]
    size = totals.shape[-1]
    if level == "ordinal":
        # δ(c, k) = votes in the categories from c to k, those of the two ends counted by half.
        middle = np.cumsum(totals, -1) - totals / 2
        distance = (middle[..., :, None] - middle[..., None, :]) ** 2
    else:
        distance = 1 - np.eye(size)
    disagreement = (observed * distance).sum((-1, -2))
    by_chance = (expected * distance).sum((-1, -2))
    return _divide(by_chance - (n - 1) * disagreement, by_chance)


def _compute_kappa(sums: Sums) -> np.ndarray:
    p = _divide(sums["shares"], sums["rated"][..., None])
    by_chance = (p**2).sum(-1)
    return _correct_for_chance(sums, by_chance)


def _compute_ac1(sums: Sums) -> np.ndarray:
    p = _divide(sums["shares"], sums["rated"][..., None])
    by_chance = (p * (1 - p)).sum(-1) / max(p.shape[-1] - 1, 1)
    return np.where(p.shape[-1] > 1, _correct_for_chance(sums, by_chance), np.nan)


def _compute_pairwise(sums: Sums) -> np.ndarray:
    return _divide(sums["same"], sums["vote_pairs"])


def _correct_for_chance(sums: Sums, by_chance: np.ndarray) -> np.ndarray:
    observed = _divide(sums["agreed"], sums["twice"])
    return _divide(observed - by_chance, 1 - by_chance)


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Return top / bottom; NaN, inside this module, where there is nothing to divide by."""
    top, bottom = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=np.abs(bottom) > 1e-12)


def _to_figure(value: np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None


def _take_percentiles(drawn: np.ndarray, comparisons: int) -> tuple[float, float] | None:
    """Return the 95 % interval of resampled figures; None where too many are unknown, or all are the same."""
    known = np.sort(drawn[np.isfinite(drawn)])
    if len(known) < (1 - MAX_UNDEFINED) * len(drawn) or known[-1] - known[0] < 1e-12:
        return None
    cut = int(_find_tail(comparisons) * (len(known) - 1))  # of the whole figures outside, none is taken back
    return float(known[cut]), float(known[-1 - cut])


@lru_cache(maxsize=10_000)
def _find_tail(comparisons: int) -> float:
    """Return the share of resamples to leave out on each side, which widens the percentiles (Hesterberg 2015, 5.4)."""
    from scipy import special

    n = comparisons
    return float(special.ndtr(-np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, 0.975)))


def _bound_share(share: float | None, interval: tuple[float, float] | None, comparisons: int) -> Coefficient:
    """Return a share with its interval: that of Wilson over comparisons where no resample could differ."""
    from rlhf_hitl.stats.intervals import wilson_interval

    if interval is None and share in (0.0, 1.0) and comparisons:
        interval = wilson_interval(round(share * comparisons), comparisons)
    return Coefficient(share, *(interval or (None, None)))
