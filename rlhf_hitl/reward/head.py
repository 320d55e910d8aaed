"""A Bayesian linear head on frozen features: an ordinal likelihood of the votes, Gaussian prior set by evidence.

A vote is a place on one scale, from "first much better" over a tie to "second much better": margin and logistic noise,
cut at thresholds (`losses.ordinal`). Votes without strengths and ties make it Bradley-Terry. The weights' posterior is
Gaussian around their mode (Laplace): with a difference of inputs x = phi(a) - phi(b), margin = w.x and its variance
x'Sx. Sources: MacKay 1992, "The evidence framework applied to classification networks" (prior precision by evidence,
moderated output); Bishop 2006, 4.4-4.5; Agresti 1992 for the scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

#: Columns of `votes`: what can be said of a pair, best for the first in front. UNSAID: better, without how strongly.
OUTCOMES = (
    "much", "clearly", "slightly", "unsaid", "tie", "second unsaid", "second slightly", "second clearly", "second much",
)  # fmt: skip
UNSAID, TIE, SECOND_UNSAID = 3, 4, 5
# Every outcome is above a cut of the scale, below one, or both. Cuts: t3, t2, t1, -t1, -t2, -t3.
_ABOVE = np.zeros((9, 6))
_ABOVE[[0, 1, 2, 3, 4, 6, 7], [0, 1, 2, 2, 3, 4, 5]] = 1
_BELOW = _ABOVE[::-1, ::-1].copy()

# On 1,348 pairs of HH helpful-base that no benchmark measures, cross-validated over prompts, 100 predicted best of 50
# to 600, with all labels as with 80; the prior does the rest of the shrinking.
COMPONENTS = 100
# Matrices this small are multiplied sooner by one thread than by several that wait for each other.
ONE_THREAD = threadpool_limits.wrap(limits=1, user_api="blas")
ENOUGH = 4096  # conversations for the principal axes: more than that moves them little and takes time


@dataclass(frozen=True)
class Standardiser:
    """Features and lengths to the head's inputs: principal components of the features, and log length beside them.

    `mean` (width,), `axes` (width, components) with each column scaled so that the first component has unit variance
    and the others keep their relative size: directions with little variance say little, and the prior knows.
    """

    mean: np.ndarray
    axes: np.ndarray
    length_mean: float
    length_std: float

    @classmethod
    @ONE_THREAD
    def fit(cls, features: np.ndarray, lengths: np.ndarray, components: int = COMPONENTS) -> Standardiser:
        """Args: features (n, width); lengths (n,) in characters."""
        logs = np.log1p(lengths)
        features = features[:: -(-len(features) // ENOUGH)]
        mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        # A few of a decoder's dimensions are hundreds of times larger than the rest: without this they are the PCA.
        scale = std + 1e-6
        z = (features - mean.astype(np.float32)) / scale.astype(np.float32)
        most: Any = 3  # rounds; its annotation says a string only
        _, sizes, axes = randomized_svd(z, min(components, *z.shape), n_iter=most, random_state=0)
        k = max(1, int((sizes > sizes[0] * 3e-4).sum()))
        size = float(sizes[0]) / math.sqrt(len(z)) or 1.0
        axes = axes[:k].T.astype(np.float64) / scale[:, None] / size
        return cls(mean, axes, float(logs.mean()), float(logs.std() + 1e-6))

    def __call__(self, features: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """(n, components + 1) float64."""
        projected = self._project(features - self.mean.astype(np.float32))
        length = (np.log1p(lengths) - self.length_mean) / self.length_std
        return np.concatenate([projected, length[:, None]], axis=1)

    def differences(self, features: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """(n, components + 1) inputs of the first halves of (2n, width) and (2n,) less those of the second."""
        n = len(features) // 2
        length = (np.log1p(lengths[:n]) - np.log1p(lengths[n:])) / self.length_std
        return np.concatenate([self._project(features[:n] - features[n:]), length[:, None]], axis=1)

    def _project(self, centred: np.ndarray) -> np.ndarray:
        """In float32, which features come in: an eighth of the time of float64, on thousands of numbers a row."""
        return (centred @ self.axes.astype(np.float32)).astype(np.float64)


@dataclass(frozen=True)
class Head:
    """Weights' mode (d,), covariance (d, d), prior precisions of the two groups (components, length), temperature, the
    thresholds between a tie, slightly, clearly and much better (all 0 where nobody said so), and how much of a vote
    counts (`mass`, below 1 where votes about one prompt say less of other prompts than as many independent ones)."""

    weights: np.ndarray
    covariance: np.ndarray
    precisions: tuple[float, float]
    temperature: float = 1.0
    thresholds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mass: float = 1.0

    def rewards(self, inputs: np.ndarray) -> np.ndarray:
        """(n,) rewards in logits, before temperature."""
        return inputs @ self.weights

    def margins(self, differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Margins (n,) of differences (n, d) and their epistemic standard deviations (n,), both in logits."""
        variance = np.einsum("nd,de,ne->n", differences, self.covariance, differences)
        return differences @ self.weights, np.sqrt(np.maximum(variance, 0))

    def probabilities(self, margins: np.ndarray, stds: np.ndarray) -> np.ndarray:
        """P(first preferred) by a rater who sees a difference, moderated by the uncertainty (MacKay 1992, eq. 10) and
        calibrated by the temperature."""
        m = margins / self.temperature / np.sqrt(1 + np.pi / 8 * (stds / self.temperature) ** 2)
        # Odds of being above the band of ties rather than below it; m itself where there is no such band.
        return expit(np.logaddexp(0, m + self.thresholds[0]) - np.logaddexp(0, self.thresholds[0] - m))

    def with_temperature(self, temperature: float) -> Head:
        return replace(self, temperature=temperature)

    def updated(self, difference: np.ndarray, votes: np.ndarray) -> Head:
        """The head after one more label, without a refit: its posterior so far is the prior of the next.

        The mode is exact for that prior (one equation in the label's margin), the covariance changes by rank one.
        Prior, thresholds and temperature stay. A refit also sees that the older labels' curvature is another at the
        new mode.

        Args:
            difference: (d,) inputs of the first completion less those of the second.
            votes: (9,) votes for each of OUTCOMES.
        """
        x, v = np.asarray(difference, np.float64), self.mass * np.asarray(votes, np.float64)[None]
        spread = self.covariance @ x
        margin, variance, mass = float(x @ self.weights), float(x @ spread), float(v.sum())
        if variance <= 0 or mass <= 0:  # two answers that read the same, or nobody said anything
            return self
        cuts = _cuts(self.thresholds)

        def slope(m: float) -> float:
            return (m - margin) / variance + float(_slopes(np.array([m]), v, cuts)[0][0])

        reach = 2 * mass * variance + 1e-9  # no vote pulls more than by 2 at a margin
        root: Any = brentq(slope, margin - reach, margin + reach, xtol=1e-12)
        at = float(root)
        curvature = float(_slopes(np.array([at]), v, cuts)[1][0])
        covariance = self.covariance - np.outer(spread, spread) * (curvature / (1 + curvature * variance))
        return replace(self, weights=self.weights + spread * ((at - margin) / variance), covariance=covariance)


def preferences(targets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Votes (n, 9) that say no strength and no tie: targets (n,) is the share of the first, weights (n,) how many."""
    y = np.asarray(targets, np.float64)
    c = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    votes = np.zeros((len(y), len(OUTCOMES)))
    votes[:, UNSAID], votes[:, SECOND_UNSAID] = c * y, c * (1 - y)
    return votes


@ONE_THREAD
def fit(differences: np.ndarray, votes: np.ndarray, *, mass: float = 1.0, rounds: int = 30) -> Head:
    """Fit a head to labelled differences; prior precisions follow the evidence, thresholds are the likeliest.

    Args:
        differences: (n, d) inputs of the first completion minus those of the second; the last column is the length's.
        votes: (n, 9) how many votes each of OUTCOMES has; fractions are fine.
        mass: of a vote, a likelihood's power (Grünwald & van Ommen 2017, "Inconsistency of Bayesian inference for
            misspecified linear models, and a proposal for repairing it"): votes are taken as independent, and those
            about one prompt are not.
        rounds: of evidence at most. Within one, the likelihood is taken as the Gaussian it is near the mode, so that
            its n labels are gone through once.
    """
    x, v = np.asarray(differences, np.float64), mass * np.asarray(votes, np.float64)
    d = x.shape[1]
    group = np.r_[np.zeros(d - 1, int), 1]
    alpha, w, thresholds = np.ones(2), np.zeros(d), (0.0, 0.0, 0.0)
    for _ in range(rounds):
        thresholds = likeliest_thresholds(x @ w, v)
        cuts = _cuts(thresholds)
        slopes, curvatures = _slopes(x @ w, v, cuts)
        curvature = _gram(x, curvatures)
        pull = curvature @ w - x.T @ slopes
        before, mode = alpha, w
        for _ in range(5):
            covariance = np.linalg.inv(curvature + np.diag(alpha[group]))
            mode = covariance @ pull
            # MacKay's update, a group: alpha = gamma / |w|^2 with gamma the number of well-determined weights.
            gamma = np.array([(1 - alpha[g] * np.diag(covariance)[group == g]).sum() for g in (0, 1)])
            size = np.array([(mode[group == g] ** 2).sum() for g in (0, 1)])
            alpha = np.clip(gamma / np.maximum(size, 1e-12), 1e-3, 1e6)
        w = _towards(mode, w, x, v, cuts, alpha[group])
        if np.allclose(np.log(alpha), np.log(before), atol=1e-2):
            break
    w, hessian = _mode(x, v, _cuts(thresholds), alpha[group], w)
    return Head(w, np.linalg.inv(hessian), (float(alpha[0]), float(alpha[1])), thresholds=thresholds, mass=mass)


def bootstrapped(
    head: Head, differences: np.ndarray, votes: np.ndarray, prompts: np.ndarray, *, heads: int = 128, seed: int = 0
) -> Head:
    """The head with the covariance of an ensemble in the place of Laplace's.

    Each member is fitted to as many prompts, drawn with replacement and taken whole (labels of one prompt are not
    independent), under the head's prior moved to a draw from it: without that, members would agree where there are no
    labels (anchored ensembles: Pearce et al. 2020, "Uncertainty in neural networks: approximately Bayesian
    ensembling"). Mode, prior and thresholds stay the head's.

    Args:
        differences, votes: what the head was fitted to, (n, d) and (n, 9).
        prompts: (n,) which prompt a label is of.
        heads: more than inputs, or there are directions in which all agree.
    """
    rng = np.random.default_rng(seed)
    names, index = np.unique(prompts, return_inverse=True)
    d = len(head.weights)
    alpha = np.r_[np.full(d - 1, head.precisions[0]), head.precisions[1]]
    cuts, members = _cuts(head.thresholds), np.empty((heads, d))
    for i in range(heads):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[index]
        drawn = times > 0
        anchor = rng.normal(size=d) / np.sqrt(alpha)
        said = votes[drawn] * (head.mass * times[drawn, None])
        members[i], _ = _mode(differences[drawn], said, cuts, alpha, head.weights, anchor)
    return replace(head, covariance=np.cov(members, rowvar=False))


def likeliest_thresholds(margins: np.ndarray, votes: np.ndarray) -> tuple[float, float, float]:
    """The thresholds (t1, t2, t3) under which votes (n, 9) at margins (n,) are likeliest.

    A threshold that no vote speaks of is where the one before it is: without ties t1 is 0.
    """
    total = votes.sum(0)
    within = np.array([total[TIE], total[2] + total[6], total[1] + total[7]])  # votes between neighbouring cuts
    beyond = total[[0, 1, 2, 6, 7, 8]].sum()
    free = np.flatnonzero([within[0] > 0, beyond > 0, beyond > 0])
    if not len(free):
        return 0.0, 0.0, 0.0
    sides = np.array([2.0, 1.0, 1.0])  # the tie lies between -t1 and t1

    def loss(log_gaps: np.ndarray) -> tuple[float, np.ndarray]:
        gaps = np.zeros(3)
        gaps[free] = np.exp(log_gaps)
        t = np.cumsum(gaps)
        z = margins[:, None] - _cuts(t)
        above, below = votes @ _ABOVE, votes @ _BELOW
        at_cut = (above * expit(-z) - below * expit(z)).sum(0)
        at_t = at_cut[2::-1] - at_cut[3:]
        wide = -np.expm1(-sides * gaps)
        at_gap = np.cumsum(at_t[::-1])[::-1].copy()
        value = float((above * np.logaddexp(0, -z) + below * np.logaddexp(0, z)).sum())
        for i in free:
            value -= within[i] * np.log(wide[i])
            at_gap[i] -= within[i] * sides[i] * (1 - wide[i]) / wide[i]
        return value, (at_gap * gaps)[free]

    best: Any = minimize(loss, np.log(np.full(len(free), 0.5)), jac=True, bounds=[(-6, 3)] * len(free))
    gaps = np.zeros(3)
    gaps[free] = np.exp(best.x)
    t1, t2, t3 = np.cumsum(gaps).tolist()
    return t1, t2, t3


def calibrate(head: Head, differences: np.ndarray, targets: np.ndarray) -> Head:
    """The head with the temperature at which its own `probabilities` have the best log likelihood (Guo et al. 2017).

    Args:
        differences: (n, d) inputs of labelled pairs that it was not fitted to; with none it stays as it is.
        targets: (n,) probability that the first is preferred.
    """
    if len(differences) == 0:
        return head
    margins, stds = head.margins(differences)

    def loss(log_t: float) -> float:
        p = np.clip(head.with_temperature(float(np.exp(log_t))).probabilities(margins, stds), 1e-12, 1 - 1e-12)
        return float(-np.mean(targets * np.log(p) + (1 - targets) * np.log(1 - p)))

    # Bounded: on few, cleanly separated examples the best temperature runs to zero.
    best: Any = minimize_scalar(loss, bounds=(-2, 3), method="bounded")
    return head.with_temperature(float(np.exp(best.x)))


def laplace(labels: Iterable[tuple[np.ndarray, np.ndarray]], weights: np.ndarray, precision: float = 1.0) -> np.ndarray:
    """Covariance (d, d) of Bradley-Terry weights (d,), trained elsewhere. `labels` come in chunks, of each differences
    (n, d) and how much they count (n,)."""
    curvature = precision * np.eye(len(weights))
    for differences, counts in labels:
        p = expit(differences @ weights)
        curvature += (differences * (counts * p * (1 - p))[:, None]).T @ differences
    return np.linalg.inv(curvature)


def _cuts(thresholds: Any) -> np.ndarray:
    t1, t2, t3 = thresholds
    return np.array([t3, t2, t1, -t1, -t2, -t3])


def _slopes(margins: np.ndarray, votes: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and second derivatives (n,) of the negative log likelihood of votes (n, 9) in the margins (n,).

    As every outcome is above one cut and below another, this is Bradley-Terry at each cut.
    """
    above, below = votes @ _ABOVE, votes @ _BELOW
    spoken_of = np.flatnonzero(above.any(0) | below.any(0))
    above, below = above[:, spoken_of], below[:, spoken_of]
    p = expit(margins[:, None] - cuts[spoken_of])
    return (below * p - above * (1 - p)).sum(1), ((above + below) * p * (1 - p)).sum(1)


def _gram(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """x' diag(weights) x (d, d). Of float32 products: it sets the length of steps and the width of the posterior, not
    where the mode is."""
    z = (x * np.sqrt(weights)[:, None]).astype(np.float32)
    return (z.T @ z).astype(np.float64)


def _loss(
    w: np.ndarray, x: np.ndarray, votes: np.ndarray, cuts: np.ndarray, alpha: np.ndarray, anchor: np.ndarray | float = 0
) -> float:
    """Negative log posterior of weights under a prior round `anchor`, but for what does not depend on them."""
    above, below = votes @ _ABOVE, votes @ _BELOW
    spoken_of = np.flatnonzero(above.any(0) | below.any(0))
    z = (x @ w)[:, None] - cuts[spoken_of]
    likelihood = above[:, spoken_of] * np.logaddexp(0, -z) + below[:, spoken_of] * np.logaddexp(0, z)
    return float(likelihood.sum() + 0.5 * (alpha * (w - anchor) ** 2).sum())


def _towards(
    goal: np.ndarray,
    w: np.ndarray,
    x: np.ndarray,
    votes: np.ndarray,
    cuts: np.ndarray,
    alpha: np.ndarray,
    anchor: np.ndarray | float = 0,
) -> np.ndarray:
    """From w as far towards `goal` as the loss does not rise (it is convex): all of the way, half of it, ..."""
    here, scale = _loss(w, x, votes, cuts, alpha, anchor), 1.0
    while scale > 1e-6 and _loss(w + scale * (goal - w), x, votes, cuts, alpha, anchor) > here:
        scale /= 2
    return w + scale * (goal - w)


def _mode(
    x: np.ndarray,
    votes: np.ndarray,
    cuts: np.ndarray,
    alpha: np.ndarray,
    w: np.ndarray,
    anchor: np.ndarray | float = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The posterior's mode and the Hessian there, by Newton steps from w."""
    hessian = np.diag(alpha)
    for _ in range(50):
        slopes, curvatures = _slopes(x @ w, votes, cuts)
        hessian = _gram(x, curvatures) + np.diag(alpha)
        step = np.linalg.solve(hessian, x.T @ slopes + alpha * (w - anchor))
        if np.abs(step).max() < 1e-7:
            break
        w = _towards(w - step, w, x, votes, cuts, alpha, anchor)
    return w, hessian
