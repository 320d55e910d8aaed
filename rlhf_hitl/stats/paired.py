"""Compare two models on the same examples."""

from __future__ import annotations


def mcnemar_p_value(better: int, worse: int) -> float:
    """Return the two-sided exact p-value of McNemar's test (McNemar 1947).

    It is the probability that, if both models were equally good, the examples only one of them has right would be
    distributed at least as unevenly. It is 1 if there is no such example. Examples are assumed to be independent: where
    many share a prompt, use the clustered interval beside it.

    Args:
        better: the number of examples that only the first model has right.
        worse: the number of examples that only the second model has right.
    """
    from scipy import stats

    return float(stats.binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0
