"""Prediction-powered means: a model's word on all examples and people's on a random few, unbiased whatever the model.

Source: Angelopoulos, Duchi & Zrnic 2023, "PPI++: efficient prediction-powered inference" (the mean, with its power
tuning). Theirs takes examples as independent and labelled ones as of one draw; here examples come in clusters (several
comparisons of one prompt), draws in strata (each had its own model and pool), and some labelled examples have no value
(a tie does not say whether a model was right).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PoweredMean:
    """A prediction-powered mean beside the plain one of the same labels.

    Attributes:
        value, low, high: the mean and its interval.
        plain, plain_low, plain_high: of the labels alone.
        power: by how much the model's word is multiplied; 0 where it would not help. (The paper stops at 1; a word that
            is too timid may count for more.)
        labels: labelled examples with a value.
        examples: all examples that the model has judged.
        clusters: of the labelled examples.
    """

    value: float
    low: float
    high: float
    plain: float
    plain_low: float
    plain_high: float
    power: float
    labels: int
    examples: int
    clusters: int

    @property
    def width_ratio(self) -> float:
        """The width of the interval by that of the plain one; 1 where that has none."""
        plain = self.plain_high - self.plain_low
        return (self.high - self.low) / plain if plain > 0 else 1.0

    @property
    def labels_worth(self) -> int:
        """How many labels the plain mean would take for an interval as narrow."""
        return round(self.labels / self.width_ratio**2) if self.width_ratio > 0 else self.labels


def estimate_powered_mean(
    values: np.ndarray,
    predictions: np.ndarray,
    clusters: np.ndarray,
    *,
    labelled: np.ndarray | None = None,
    strata: np.ndarray | None = None,
    level: float = 0.95,
) -> PoweredMean | None:
    """Return the mean of a value between 0 and 1, or None without a labelled example that has one.

    Intervals are Wilson's with the effective number of independent labels, as `intervals.clustered_share_interval`
    has, so that they keep their coverage with few clusters and near 0 and 1.

    Args:
        values: (n,) what people say; NaN where they said nothing, or nothing that counts.
        predictions: (n,) what the model says in its place, in any scale. Where it says nothing (NaN, infinity), the
            mean of its stratum stands for it.
        clusters: (n,) the cluster of each example, for instance its prompt.
        labelled: (n,) whether an example was drawn at random and seen by people, whatever they said; by default where
            there is a value. Those drawn have to be drawn without a look at the values.
        strata: (n,) the draw that each example belongs to; one for all by default.
        level: of the interval.
    """
    y = np.asarray(values, float)
    seen = np.isfinite(y) if labelled is None else np.asarray(labelled, bool)
    counts = seen & np.isfinite(y)
    if not counts.any():
        return None
    draw = np.unique(np.zeros(len(y)) if strata is None else np.asarray(strata), return_inverse=True)[1]
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    n, plain = int(counts.sum()), float(y[counts].mean())
    # What each example adds to the error of the plain mean, and to that of the model's mean over the labelled ones.
    own = np.where(counts, y - plain, 0.0) / n
    shift, model = _compare_predictions(np.asarray(predictions, float), seen, counts, draw)
    a, b = np.bincount(cluster, own), np.bincount(cluster, model)
    groups = len(np.unique(cluster[counts]))
    spread = float(b @ b)
    power = max(0.0, -float(a @ b) / spread) if groups > 2 and spread > 1e-18 else 0.0
    value = float(np.clip(plain + power * shift, 0, 1))
    followed = power > 0
    low, high = _make_interval(value, a + power * b, groups, 1 + followed, level)
    plain_low, plain_high = _make_interval(plain, a, groups, 1, level)
    return PoweredMean(value, low, high, plain, plain_low, plain_high, power, n, len(y), groups)


def _compare_predictions(
    predictions: np.ndarray, seen: np.ndarray, counts: np.ndarray, draw: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the model's mean over the examples not seen less that over those seen, and what each example adds to its
    error, (n,). Strata weigh as their labels do."""
    shift, parts = 0.0, np.zeros(len(predictions))
    for k in np.unique(draw):
        drawn, rest = seen & (draw == k), ~seen & (draw == k)
        known = np.isfinite(predictions) & (drawn | rest)
        weight = (counts & drawn).sum() / counts.sum()
        if not weight or not rest.any() or not known.any():
            continue
        f = np.where(known, predictions, predictions[known].mean())
        shift += weight * (f[rest].mean() - f[drawn].mean())
        parts[rest] = weight * (f[rest] - f[rest].mean()) / rest.sum()
        parts[drawn] = -weight * (f[drawn] - f[drawn].mean()) / drawn.sum()
    return float(shift), parts


def _make_interval(value: float, errors: np.ndarray, groups: int, estimated: int, level: float) -> tuple[float, float]:
    """Return Wilson's interval of a share with the effective number of labels.

    Args:
        errors: (clusters,) what each adds to the estimate's error.
        groups: clusters with labels; `estimated`: parameters that were estimated from them.
    """
    from scipy import stats

    freedom = groups - estimated
    if freedom < 1:
        return 0.0, 1.0
    variance = float(errors @ errors) * groups / freedom
    # Without spread between clusters, the number of clusters is all that is known.
    effective = value * (1 - value) / variance if variance > 1e-18 and 0 < value < 1 else float(groups)
    z = float(stats.norm.ppf(0.5 + level / 2))
    effective *= (z / float(stats.t.ppf(0.5 + level / 2, freedom))) ** 2
    centre = (value + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * math.sqrt(value * (1 - value) / effective + z**2 / (4 * effective**2))
    return max(0.0, centre - half), min(1.0, centre + half)
