"""A learning curve: how often a model errs against how many labels it learnt from, and what more labels would do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Fewer models than this, or labels that grow less than this many times, show no curve.
FEWEST_MODELS, LEAST_GROWTH = 3, 1.5
DRAWS = 200


@dataclass(frozen=True)
class CurveEstimate:
    """The accuracy expected with so many labels, and its 95 % interval."""

    labels: int
    value: float
    low: float
    high: float


def find_obstacle(labels: np.ndarray, n: np.ndarray) -> str:
    """Return why models show no curve, in words; "" where they do.

    Args:
        labels: (models,) that each has learnt from; n: (models,) on how many it was measured.
    """
    found = np.unique(labels[(n > 0) & (labels > 0)])
    if len(found) < FEWEST_MODELS:
        return (
            f"too few points: {len(found)} of the models that routed learnt from different numbers of labels, "
            f"{FEWEST_MODELS} are the fewest that show a curve"
        )
    if found[-1] < LEAST_GROWTH * found[0]:
        return (
            f"too few points: the labels grew from {found[0]:,} to {found[-1]:,} only, and {LEAST_GROWTH:g} times as "
            "many are the least that show a curve"
        )
    return ""


def forecast_accuracy(
    labels: np.ndarray, errors: np.ndarray, n: np.ndarray, wanted: np.ndarray, *, seed: int = 0
) -> list[CurveEstimate]:
    """Return the accuracy expected with each of the `wanted` numbers of labels, by a power law.

    The error is a * labels^-b with b from 0 to 1 (Hestness et al. 2017, "Deep learning scaling is predictable"), fitted
    to log errors by weighted least squares. Intervals draw every model's errors anew from its own share, so they know
    nothing of a curve that bends. Models that are measured on the same labels err together, which makes them too wide
    rather than too narrow for the slope.

    Args:
        labels: (models,) that each has learnt from, above 0; errors, n: (models,) wrong choices, of how many.
        wanted: numbers of labels, above 0.
    """
    rng = np.random.default_rng(seed)
    share = (errors + 0.5) / (n + 1)
    drawn = (rng.binomial(n.astype(int), share, (DRAWS, len(n))) + 0.5) / (n + 1)
    weights = n * share / (1 - share)  # the inverse variance of a log share
    x, at = np.log(labels), np.log(wanted)
    mean = np.average(x, weights=weights)
    spread = np.average((x - mean) ** 2, weights=weights)

    def predict(y: np.ndarray) -> np.ndarray:
        level = np.average(y, weights=weights, axis=-1)
        slope = np.average((y - level[..., None]) * (x - mean), weights=weights, axis=-1) / spread
        slope = np.clip(slope, -1, 0)
        return 1 - np.minimum(np.exp(level[..., None] + slope[..., None] * (at - mean)), 1)

    best = predict(np.log(share)[None])[0]
    low, high = np.quantile(predict(np.log(drawn)), (0.025, 0.975), axis=0)
    return [
        CurveEstimate(int(m), float(b), float(min(a, b)), float(max(b, c)))
        for m, b, a, c in zip(wanted, best, low, high)
    ]
