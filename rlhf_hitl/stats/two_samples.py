"""Whether two samples of texts are of one kind."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from scipy.stats import mannwhitneyu

_BUCKETS = 2**12
_WORDS = re.compile(r"\w+")


def compare_texts(first: Sequence[str], second: Sequence[str]) -> tuple[float, float]:
    """Return how well two samples of texts can be told apart by their words, and the p-value of that.

    A classifier two-sample test (Lopez-Paz and Oquab 2017): the direction between the means of one half of the texts
    ranks those of the other half, and the reverse. As the other half had no part in it, its ranks are uniform where
    both samples are of one kind.

    Returns:
        The area under the curve (0.5: alike, 1: apart), the mean of the halves; and twice the lower of their one-sided
        p-values.
    """
    rows = [_count_words(first), _count_words(second)]
    areas, p_values = [], []
    for half in (0, 1):
        fitted, ranked = ([r[k::2] for r in rows] for k in (half, 1 - half))
        if any(len(r) == 0 for r in (*fitted, *ranked)):
            return 0.5, 1.0
        direction = fitted[1].mean(axis=0) - fitted[0].mean(axis=0)
        low, high = (r @ direction for r in ranked)
        test = mannwhitneyu(high, low, alternative="greater")
        areas.append(float(test.statistic) / (len(low) * len(high)))
        p_values.append(float(test.pvalue))
    return float(np.mean(areas)), min(1.0, 2 * min(p_values))


def _count_words(texts: Sequence[str]) -> np.ndarray:
    """Return (texts, buckets): which words each text has, hashed, each row of length 1."""
    rows = np.zeros((len(texts), _BUCKETS), np.float32)
    for n, text in enumerate(texts):
        for word in _WORDS.findall(text.casefold()):
            rows[n, zlib.crc32(word.encode()) % _BUCKETS] = 1
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
