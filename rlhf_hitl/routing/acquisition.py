"""Acquisition functions: how much a judgment of a comparison would teach the reward model."""

from __future__ import annotations

import numpy as np
from scipy.special import entr
from scipy.stats import norm

_LOGIT_TO_PROBIT = np.sqrt(np.pi / 8)
_C = np.sqrt(np.pi * np.log(2) / 2)


def compute_mutual_information(margins: np.ndarray, uncertainties: np.ndarray) -> np.ndarray:
    """Return the information (n,), in bits, that one vote gives about the head's weights.

    It is the entropy of the vote less the entropy that would remain if the weights were known, so pairs on which
    people would disagree anyway score low, unlike with "smallest margin first". Formula: eq. 5 of Houlsby et al. 2011,
    "Bayesian active learning for classification and preference learning", with the logistic link taken as a probit.

    Args:
        margins: (n,) logits; uncertainties: (n,) their epistemic standard deviations.
    """
    mean = np.asarray(margins, float) * _LOGIT_TO_PROBIT
    variance = (np.asarray(uncertainties, float) * _LOGIT_TO_PROBIT) ** 2
    p = norm.cdf(mean / np.sqrt(variance + 1))
    total = (entr(p) + entr(1 - p)) / np.log(2)
    remaining = _C / np.sqrt(variance + _C**2) * np.exp(-(mean**2) / (2 * (variance + _C**2)))
    return np.maximum(total - remaining, 0)
