"""How unlike its training prompts a conversation looks to a head: the share of its features outside their axes.

A head's posterior knows only the axes that it reads, so it is as sure about prompts of another kind as at home. The
share of a conversation's features that lies outside the principal axes of the training conversations says that it is
elsewhere: an angle, as its length says how the answer is written more than what it is about. What is usual is told by
training conversations whose prompts were left out when the axes were found: with their own, they would look more usual
than any other ever does. Source: the reconstruction error of PCA as a measure of novelty (Jackson & Mudholkar 1979,
"Control procedures for residuals associated with principal component analysis"), as a share of the length as in Cook,
Zare & Gader 2020, "Outlier detection through null space analysis of neural networks".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.extmath import randomized_svd

from rlhf_hitl.reward.standardiser import on_one_thread

#: Few, so that axes of a fold are about as good as those of all; and found on so many conversations at most.
COMPONENTS, MAX_ROWS, FOLDS = 32, 1024, 10
#: Below so many prompts, those left out say nothing about what is usual.
MIN_PROMPTS = 4


@dataclass(frozen=True)
class Novelty:
    """Tells how unlike the training conversations others are.

    Attributes:
        mean, scale: (width,) of the features.
        axes: (width, components) orthonormal principal axes of the scaled features.
        usual: the log odds of what lies outside them that are usual: a standard deviation above the median of training
            conversations that were left out.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    usual: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the novelty (n,) of features (n, width): the log of how many times larger than usual the odds are of
        what lies outside the axes."""
        return _measure_outside(features, self.mean, self.scale, self.axes) - self.usual

    @classmethod
    @on_one_thread
    def fit(cls, features: np.ndarray, prompts: np.ndarray) -> tuple[Novelty, np.ndarray] | None:
        """Fit to the features of the training conversations, (n, width), and also return the novelty (n,) that each
        has when its prompt is left out. None with too few prompts.

        Args:
            prompts: (n,) which prompt a conversation belongs to.
        """
        names, index = np.unique(prompts, return_inverse=True)
        if len(names) < MIN_PROMPTS:
            return None
        fold = np.random.default_rng(0).permutation(len(names))[index] % min(FOLDS, len(names))
        outside = np.empty(len(features))
        for k in np.unique(fold):
            outside[fold == k] = _measure_outside(features[fold == k], *_find_axes(features[fold != k]))
        usual = float(np.median(outside) + outside.std())
        return cls(*_find_axes(features), usual), outside - usual


def join_pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the novelty of pairs: that of the more usual of two answers, because one odd answer, such as an empty
    list repeated to the end, makes no unusual prompt."""
    return np.minimum(first, second)


def _find_axes(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = features[:: -(-len(features) // MAX_ROWS)]
    mean, scale = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64) + 1e-6
    z = (rows - mean.astype(np.float32)) / scale.astype(np.float32)
    rounds: Any = 3  # scikit-learn annotates n_iter as a string only
    _, _, axes = randomized_svd(z, min(COMPONENTS, *z.shape), n_iter=rounds, random_state=0)
    return mean, scale, axes.T.astype(np.float64)


def _measure_outside(features: np.ndarray, mean: np.ndarray, scale: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return the log odds of the share of the squared length that lies outside the axes, (n,). In float32, the type of
    the features."""
    z = (features - mean.astype(np.float32)) / scale.astype(np.float32)
    inside = z @ axes.astype(np.float32)
    within = np.einsum("nk,nk->n", inside, inside, dtype=np.float64)
    outside = np.einsum("nd,nd->n", z, z, dtype=np.float64) - within
    return np.log(np.maximum(outside, 1e-6)) - np.log(np.maximum(within, 1e-6))
