"""Two models on the same examples."""

from __future__ import annotations


def mcnemar_p_value(better: int, worse: int) -> float:
    """Two-sided exact p-value of McNemar's test (McNemar 1947): were both equally good, how often would examples that
    only one of them has right fall at least as unevenly? 1 where there is no such example.

    It takes examples to be independent: where many are of one prompt, look at the clustered interval beside it.
    """
    from scipy import stats

    return float(stats.binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0
