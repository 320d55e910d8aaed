"""An error rate that is watched for ever: bounds and an alarm that hold whenever somebody looks.

An ordinary interval is right for one look. Who looks after each audit, and stops at the first bad one, is wrong far
more often than it says. What is here is an e-process: wealth that, as long as the error keeps its bound, is not
expected to grow, so that it ever reaches 1 / delta with a probability of at most delta (Ville's inequality).

Sources: Robbins 1970, "Statistical methods related to the law of the iterated logarithm" (the beta-binomial mixture);
Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting"; Shin, Ramdas and Rinaldo 2022,
"E-detectors: a nonparametric framework for sequential change detection" (sums of e-processes that begin at each time).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincc, betaln

#: How far above its bound the error may be by the bets: `bound + raise * (1 - bound)`.
RAISES = np.geomspace(0.005, 0.5, 7)
#: The share of the stake that bets from the first observation on. The rest is spread over all later beginnings.
FROM_THE_START = 0.5
#: The prior of the mixture, Jeffreys's: it is narrow where errors are rare.
_PRIOR = 0.5, 0.5


def compute_log_evidence(wrong: np.ndarray, bounds: np.ndarray | float) -> np.ndarray:
    """Return, after each observation, the logarithm of the evidence that errors pass their bound, now or earlier.

    The chance that it ever reaches log(1 / delta) is at most delta, as long as each error, whatever went before, has a
    probability of at most its bound. Part of the stake begins to bet anew at each observation: a long good time before
    a bad one does not hide it. A beginning later than the first has to wait for its stake of about
    1 / (j log(j)^2), which is the price of looking for ever (an e-detector of Shin et al. has the stake 1 at each
    beginning, and promises a time between false alarms instead of their chance).

    Args:
        wrong: (..., n) 1 where an observation is an error, 0 where not, in the order in which they came; between them,
            how far it is one.
        bounds: what each may be on average, (..., n) or one for all; above 0, below 1.
    """
    x = np.asarray(wrong, float)
    alpha = np.broadcast_to(np.asarray(bounds, float), x.shape)
    starts = np.log(np.arange(x.shape[-1] + 1) + math.e)
    stakes = (1 - FROM_THE_START) * (1 / starts[:-1] - 1 / starts[1:])
    stakes[:1] += FROM_THE_START
    log_sums = np.full((*x.shape[:-1], len(RAISES)), -math.inf)
    waiting, evidence = 1.0, np.empty(x.shape)
    for t in range(x.shape[-1]):
        bound, error = alpha[..., t, None], x[..., t, None]
        # The likelihood of an error rate above the bound, over that of the bound. Its mean is 1 at the bound, and less
        # below it.
        factors = error * (bound + RAISES * (1 - bound)) / bound + (1 - error) * (1 - RAISES)
        log_sums = np.logaddexp(log_sums, math.log(stakes[t])) + np.log(factors)
        waiting -= stakes[t]
        bets = np.logaddexp.reduce(log_sums, axis=-1) - math.log(len(RAISES))
        evidence[..., t] = np.logaddexp(bets, math.log(max(waiting, 1e-300)))
    return evidence


def compute_error_bounds(errors: int, n: int, delta: float) -> tuple[float, float]:
    """Return the lower and the upper end of the confidence sequence of an error rate that stays the same.

    Each end holds at all n together with probability 1 - `delta`. The evidence against a rate is the mixture of all
    rates above it (for the lower end; below it for the upper one), weighed by a beta distribution.

    Args:
        errors: how many of the `n` observations are errors.
    """
    return _find_lower_end(errors, n - errors, delta), 1 - _find_lower_end(n - errors, errors, delta)


def _find_lower_end(s: int, f: int, delta: float) -> float:
    if s == 0:
        return 0.0
    a, b = _PRIOR
    constant = float(betaln(a + s, b + f) - betaln(a, b)) + math.log(delta)

    def measure_excess(m: float) -> float:
        # Below the share of errors, so that no tail is too small for its logarithm.
        tails = math.log(betaincc(a + s, b + f, m)) - math.log(betaincc(a, b, m))
        return constant + tails - s * math.log(m) - f * math.log1p(-m)

    end = min(s / (s + f), 1 - 1e-12)
    tiny = 1e-12
    if measure_excess(tiny) < 0:
        return 0.0
    if measure_excess(end) > 0:  # at a mean of 1 the mixture still grows
        return end
    root: Any = brentq(measure_excess, tiny, end, xtol=1e-12)
    return float(root)
