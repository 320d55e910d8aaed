"""The largest set of a model's surest answers whose error is shown to be below a bound, and what more labels would do.

Sets of the surest answers are tested in one fixed order, from a small one upwards, each at the whole level; the first
that is not shown to be good ends the test (fixed-sequence testing: Angelopoulos et al. 2021, "Learn then test"). So a
set that breaks the bound is chosen with a probability of at most delta, for any model. Three choices make it powerful,
and none of them looks at the errors:

- One label of each prompt: the exact binomial test. It can spend delta only at some numbers of labels, those from which
  on one more error is allowed, so sets of these sizes are tested and no others.
- Several labels of a prompt: a bound with the effective number of labels (`intervals.clustered_share_upper_bound`), in
  steps of a twentieth. It is approximate, and finer steps would use up what it has in hand.
- The first set is as large as a model with half the allowed error passes in three cases of four, and a fifth of the
  labels at most: smaller ones end the test by one unlucky label, larger ones pass over models that are good only where
  they are surest.

Tried on simulated judges, with a gain too small for what it costs: the best of all starts (at most 0.01 of the oracle's
share), several starts that share delta (0.01 to 0.02 for two close ones, a loss otherwise), windows of sets tested
jointly (a loss), fewer steps (a loss). A control variate (prediction-powered inference) could save the part of the
errors' variance that confidences explain, about a tenth of the labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rlhf_hitl.stats.intervals import clopper_pearson_upper_bound, clustered_share_upper_bound

#: The most of the labels that the first set takes, and the chance that a model with half the allowed error passes it.
FIRST_SHARE, FIRST_POWER = 1 / 5, 0.75
#: How many sets are tested, about: at most where each prompt has one label, and where some have several.
MOST_SETS, CLUSTERED_SETS = 100, 20
#: Forecasts: how many times as many labels are asked about, up to this many, and how many worlds are drawn for each.
TIMES_AS_MANY, MOST_LABELS = tuple(2**i for i in range(12)), 20_000
WORLDS = 100


@dataclass(frozen=True)
class ShownSet:
    """The surest `size` labels, whose error is below `bound` with confidence 1 - delta; 0 where nothing is shown."""

    size: int = 0
    bound: float = 1.0


@dataclass(frozen=True)
class Forecast:
    """What so many labels would show: the share accepted (mean, and 80 % interval over curves that the labels so far
    allow), and the chance that anything is. `error` is the standard error of the mean, as worlds are few."""

    labels: int
    share: float
    low: float
    high: float
    chance: float
    error: float = 0.0


def bound_error(wrong: np.ndarray, clusters: np.ndarray, delta: float) -> float:
    """Return the bound below which the error is with confidence 1 - delta (one-sided): exact where each cluster has one
    label.

    Args:
        wrong: (n,) 0 or 1; clusters: (n,) the prompt of each.
    """
    if len(np.unique(clusters)) == len(wrong):
        return clopper_pearson_upper_bound(float(wrong.sum()), len(wrong), delta)
    return clustered_share_upper_bound(wrong, clusters, delta)


def count_allowed_errors(sizes: np.ndarray | Sequence[int], max_error: float, delta: float) -> np.ndarray:
    """Return how many errors so many independent labels may have and still show an error below `max_error`; -1: they
    cannot show it."""
    from scipy import stats

    sizes = np.asarray(sizes, int)
    allowed = stats.binom.ppf(delta, sizes, max_error)
    return np.where(stats.binom.cdf(allowed, sizes, max_error) > delta, allowed - 1, allowed).astype(int)


def count_clusters_needed(max_error: float, delta: float, *, clustered: bool = False) -> int:
    """Return how many labels without an error show an error below `max_error`: one for each prompt, or with
    `clustered` the prompts where some have several."""
    n = max(2, math.ceil(math.log(delta) / math.log(1 - max_error)))
    while clustered and clustered_share_upper_bound(np.zeros(n), np.arange(n), delta) > max_error:
        n += 1
    return n


@cache
def count_first_labels(max_error: float, delta: float) -> int:
    """Return the size of a set that a model with half the allowed error passes with FIRST_POWER."""
    from scipy import stats

    n = count_clusters_needed(max_error, delta)
    while n < 1_000_000:
        sizes = np.arange(n, 2 * n)
        allowed = count_allowed_errors(sizes, max_error, delta)
        passing = np.flatnonzero(stats.binom.cdf(allowed, sizes, max_error / 2) >= FIRST_POWER)
        if len(passing):
            return int(sizes[passing[0]])
        n *= 2
    return n


def list_sizes(clusters: np.ndarray, max_error: float, delta: float) -> list[int]:
    """Return the sizes of the sets to test, ascending; none where the labels cannot show the bound.

    Args:
        clusters: (n,) the prompt of each label, the surest first.
    """
    n = len(clusters)
    first_labels = np.sort(np.unique(clusters, return_index=True)[1])  # of each prompt, in order
    needed = count_clusters_needed(max_error, delta, clustered=len(first_labels) < n)
    if len(first_labels) < needed:
        return []
    wanted = min(count_first_labels(max_error, delta), len(first_labels))
    first = max(first_labels[needed - 1] + 1, min(math.ceil(FIRST_SHARE * n), first_labels[wanted - 1] + 1))
    if len(first_labels) < n:
        return [*range(int(first), n, max(1, round(n / CLUSTERED_SETS))), n]
    sizes = np.arange(1, n + 1)
    is_gain = np.diff(count_allowed_errors(sizes, max_error, delta), prepend=-1) > 0
    chosen: list[int] = []
    for size in sizes[is_gain & (sizes >= first) & (sizes < n)].tolist():
        if not chosen or size - chosen[-1] >= n / MOST_SETS:
            chosen.append(size)
    return [*chosen, n]


def respect_ties(confidence: np.ndarray, sizes: Sequence[int]) -> list[int]:
    """Return sizes that a threshold can cut out: each set is extended to the end of its last confidence, and begins
    before it, too, where many labels share it.

    Args:
        confidence: (n,) descending.
    """
    c, n = -np.asarray(confidence), len(confidence)
    ends: list[int] = []
    for size in sizes:
        before, after = (int(np.searchsorted(c, c[size - 1], side)) for side in ("left", "right"))
        if after - before > n / CLUSTERED_SETS and before >= sizes[0]:
            ends.append(before)
        ends.append(after)
    return list(dict.fromkeys(ends))


def find_shown_set(
    wrong: np.ndarray, clusters: np.ndarray, sizes: Sequence[int], *, max_error: float, delta: float
) -> ShownSet:
    """Return the last set that is shown before one is not.

    Args:
        wrong: (n,) 1 where the answer is wrong, the surest first; clusters: (n,) the prompt of each.
        sizes: of the sets, in the order of the test. They may follow from anything but `wrong`.
    """
    if len(np.unique(clusters)) == len(wrong):  # exact, and all at once
        passed = np.cumsum(wrong)[np.array(sizes, int) - 1] <= count_allowed_errors(sizes, max_error, delta)
        reached = int(np.append(passed, False).argmin())
        size = sizes[reached - 1] if reached else 0
        return ShownSet(size, bound_error(wrong[:size], clusters[:size], delta))
    shown = ShownSet()
    for size in sizes:
        bound = bound_error(wrong[:size], clusters[:size], delta)
        if bound > max_error:
            break
        shown = ShownSet(size, bound)
    return shown


def forecast_share(
    confidence: np.ndarray, wrong: np.ndarray, clusters: np.ndarray, *, max_error: float, delta: float, seed: int = 0
) -> list[Forecast]:
    """Return what these labels and 2, 4, 8, ... times as many would show, by the error curve that these have.

    The curve is a logistic regression of right and wrong on the confidence's logit. Each world draws the prompts anew
    with replacement, fits its curve, draws labels from it and tests them. Labels of one prompt count as the number of
    independent ones that they are worth. A forecast and no bound: it trusts the curve.

    Args:
        confidence, wrong, clusters: (n,) each, finite; none for fewer than two prompts.
    """
    names, index = np.unique(clusters, return_inverse=True)
    n = len(wrong)
    if len(names) < 2:
        return []
    worth = _find_worth(np.asarray(wrong, float), index)
    rng = np.random.default_rng(seed)
    logits = _logit(confidence)
    curves = []
    for _ in range(WORLDS):
        weights = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[index]
        curves.append(_fit_curve(logits, wrong, weights))
    forecasts = []
    for labels in [n, *(t * n for t in TIMES_AS_MANY[1:] if t * n <= MOST_LABELS)]:
        m = max(2, round(labels * worth))
        sizes = list_sizes(np.arange(m), max_error, delta)
        allowed = count_allowed_errors(sizes, max_error, delta)
        shares = np.zeros(WORLDS)
        for i, (intercept, slope) in enumerate(curves if sizes else []):
            drawn = np.sort(logits[rng.integers(n, size=m)])[::-1]
            errors = (rng.random(m) > _expit(intercept + slope * drawn)).cumsum()
            passed = errors[np.array(sizes) - 1] <= allowed
            reached = len(sizes) if passed.all() else int(np.argmin(passed))
            shares[i] = sizes[reached - 1] / m if reached else 0.0
        low, high = np.quantile(shares, (0.1, 0.9))
        error, chance = float(shares.std(ddof=1)) / math.sqrt(WORLDS), float((shares > 0).mean())
        forecasts.append(Forecast(labels, float(shares.mean()), float(low), float(high), chance, error))
    return forecasts


def _find_worth(wrong: np.ndarray, index: np.ndarray) -> float:
    """Return how many independent labels a label is worth, of labels that come in clusters."""
    n, groups, share = len(wrong), int(index.max()) + 1, float(wrong.mean())
    spread = np.bincount(index, wrong - share)
    variance = (spread**2).sum() * groups / (groups - 1) / n**2
    if groups == n or not 0 < share < 1 or variance == 0:
        return groups / n
    return float(np.clip(share * (1 - share) / variance / n, 1 / n, 1))


def _fit_curve(logits: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return intercept and slope of the chance to be right, held near the confidence itself (normal, deviation 2)."""
    x = np.stack([np.ones_like(logits), logits], 1)
    right, w, begin = 1 - np.asarray(wrong, float), np.array([0.0, 1.0]), np.array([0.0, 1.0])
    for _ in range(25):
        p = _expit(x @ w)
        slope = x.T @ (weights * (right - p)) - (w - begin) / 4
        hessian = (x * (weights * p * (1 - p))[:, None]).T @ x + np.eye(2) / 4
        step = np.linalg.solve(hessian, slope)
        w = w + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-6:
            break
    return float(w[0]), float(w[1])


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(p, float), 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))


def _expit(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
