"""A sequential test of a mean win rate: it may be looked at after each outcome, and ends as soon as it is decided.

Outcomes y_1, y_2, … lie between 0 and 1 (1: the new one wins, 1/2: a tie, 0: it loses) and have the mean w. The
capital

    K_t(m) = Π_{s<=t} (1 + b_s (z_s - m)),    z_s = y_s - λ_s c_s

begins at 1. Bet b_s >= 0 and slope λ_s follow from what came before s, and the control c_s has the mean 0 whatever
came before. So E[z_s | before s] = w, and where w <= m the capital is a supermartingale; no factor is negative, for
b_s is kept below 1 / (1 + |λ_s|). By Ville's inequality it ever reaches 1 / α with a probability of at most α. "w >=
m" is tested by bets on the other side. K_t(m) falls as m grows, so that {m: K_s(m) < 1/α for all s <= t} is an
interval: its lower end holds at all times with confidence 1 - α, and it passes 1/2 when "w <= 1/2" is rejected.

**The control** is what a model says of the prompt less what it says of other prompts: c_s = f_s - mean of f over fresh
prompts, which belong to this draw alone and which nobody judges. Prompts are drawn independently of one population (a
shuffled set), so f_s and the fresh ones have one mean, whatever the model is: a bad one costs a little time and no
validity. The mean over *all* prompts in the place of fresh ones would not do for the win rate of the population: once
it is known, the first f say something of the next, and what y has in common with them is not w. (Sums are as good:
over n draws with k fresh prompts each the correction is that of prediction-powered inference with n labelled and n k
unlabelled ones.) The best slope of c is that of y on f, times k / (k + 1), for a mean of k prompts has an error of its
own.

**The bets** grow the capital fastest (Kelly's; "GRO" in the theory of e-values) where w is some gain above m: b = gain
/ (variance + gain²), with the variance as seen so far. The stake is shared among some gains (a mixture of capitals is
a capital), so that a large gain is seen sooner than the least one that matters.

Sources: Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting" (capital, plug-in bets,
confidence sequences); Angelopoulos, Duchi & Zrnic 2023, "PPI++" (the slope); Csillag, Struchiner & Goedert 2025,
"Prediction-powered e-values" (a control variate within a bet); Grünwald, de Heide & Koolen 2024, "Safe testing" (GRO).
"""

from __future__ import annotations

import math
from bisect import bisect_left as bisect
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types.promotions import Decision

#: The gains that bets are on, as multiples of the least one that matters, and the share of the stake that each has.
GAINS, STAKES = np.array([1.0, 2.5]), np.array([0.85, 0.15])
#: What is assumed of the variance of an outcome, and of the slope of y on f, before there are any; worth so many
#: outcomes. A calibrated model has the slope 1.
PRIOR_VARIANCE, PRIOR_SLOPE, PRIOR_OUTCOMES = 0.2, 1.0, 10.0
#: The variance of predictions that goes with the prior slope, and the steepest slope that is followed.
PRIOR_SPREAD, STEEPEST = 0.03, 2.0
#: How close a bet may come to losing everything.
BOLDEST = 0.95
#: The ends of confidence sequences are read off this many win rates between 0 and 1.
GRID = 2001


@dataclass(frozen=True)
class WinRateTest:
    """What is tested.

    Attributes:
        least_gain: the new one is rejected once a win rate of 1/2 + least_gain is ruled out.
        alpha: the chance that something with a win rate of 1/2 or less is promoted, at most.
        beta: the chance that something with a win rate of 1/2 + least_gain or more is rejected, at most.
    """

    least_gain: float = 0.1
    alpha: float = 0.05
    beta: float = 0.1

    def __post_init__(self) -> None:
        for name, value, most in (
            ("least_gain", self.least_gain, 0.5),
            ("alpha", self.alpha, 1),
            ("beta", self.beta, 1),
        ):
            if not 0 < value < most:
                raise BadInput(f"{name} {value}", expected=f"above 0, below {most}", fix=f"change {name}")


def count_fixed_size(test: WinRateTest, tie_share: float = 0.0) -> int:
    """Return how many outcomes a test of a fixed size needs for the same error rates.

    It promotes where the mean of the outcomes is shown to be above 1/2 by a one-sided z-test at alpha, and does so with
    a chance of 1 - beta at a win rate of 1/2 + least_gain. It is told the variances, so that it needs no more.

    Args:
        tie_share: how many of the outcomes are ties.
    """
    from scipy.special import ndtri

    none = (1 - tie_share) / 4
    some = none - test.least_gain**2
    wanted = -float(ndtri(test.alpha)) * math.sqrt(none) - float(ndtri(test.beta)) * math.sqrt(max(some, 0.0))
    return math.ceil((wanted / test.least_gain) ** 2)


@dataclass(frozen=True)
class Controls:
    """What a model says of the prompts that are drawn: `predictions` f (..., n), `controls` c (..., n), and `worth`
    (n,), k / (k + 1) of each draw with k fresh prompts."""

    predictions: np.ndarray
    controls: np.ndarray
    worth: np.ndarray


def make_controls(predictions: np.ndarray, draws: int) -> Controls:
    """Return the controls of the first `draws` prompts: those after them are their fresh prompts, shared out evenly.

    Where there are fewer fresh prompts than draws, the first draws have one each, and the rest none.

    Args:
        predictions: (..., prompts) P(new one wins) + P(tie) / 2 in the order in which prompts are drawn, each between 0
            and 1.
    """
    f = np.asarray(predictions, float)
    if not ((f >= 0) & (f <= 1)).all():
        raise BadInput(
            "a prediction that is no number from 0 to 1", expected="P(win) + P(tie) / 2", fix="check the model"
        )
    n, spare = min(draws, f.shape[-1]), max(0, f.shape[-1] - draws)
    each = np.full(n, spare // n if n else 0) + (np.arange(n) < (spare % n if n else 0))
    ends = draws + np.cumsum(each)
    sums = np.concatenate([np.zeros((*f.shape[:-1], 1)), np.cumsum(f, axis=-1)], axis=-1)
    fresh = (sums[..., ends] - sums[..., ends - each]) / np.maximum(each, 1)
    drawn = f[..., :n]
    return Controls(drawn, np.where(each > 0, drawn - fresh, 0.0), each / (each + 1))


def correct_outcomes(outcomes: np.ndarray, controls: Controls | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the corrected outcomes z and the slopes λ, each (..., n). No outcome has a part in its own slope."""
    y = np.asarray(outcomes, float)
    if controls is None:
        return y, np.zeros(y.shape)
    n = y.shape[-1]
    f, c, worth = controls.predictions[..., :n], controls.controls[..., :n], controls.worth[:n]
    count = np.arange(1, n + 1)
    means = [np.cumsum(x, axis=-1) / count for x in (y, f, f * y, f * f)]
    together, spread = count * (means[2] - means[0] * means[1]), count * (means[3] - means[1] ** 2)
    prior = PRIOR_OUTCOMES * PRIOR_SPREAD
    slopes = np.clip((together + prior * PRIOR_SLOPE) / (spread + prior), -STEEPEST, STEEPEST)
    slopes = _delay(slopes, PRIOR_SLOPE) * worth
    return y - slopes * c, slopes


def compute_bets(corrected: np.ndarray, slopes: np.ndarray, least_gain: float) -> np.ndarray:
    """Return the bets on each of `GAINS`, (..., n, gains). No outcome has a part in its own bet.

    Args:
        corrected, slopes: of `correct_outcomes`.
    """
    z = np.asarray(corrected, float)
    count = np.arange(1, z.shape[-1] + 1)
    mean = np.cumsum(z, axis=-1) / count
    squares = np.maximum(np.cumsum(z * z, axis=-1) - count * mean**2, 0.0)
    variance = _delay((squares + PRIOR_OUTCOMES * PRIOR_VARIANCE) / (count + PRIOR_OUTCOMES), PRIOR_VARIANCE)
    gains = GAINS * least_gain
    return np.minimum(gains / (variance[..., None] + gains**2), BOLDEST / (1 + np.abs(slopes[..., None])))


def _delay(values: np.ndarray, first: float) -> np.ndarray:
    """Return (..., n) what was known before each outcome: `first`, then the values of those before."""
    return np.concatenate([np.full((*values.shape[:-1], 1), first), values[..., :-1]], axis=-1)[..., : values.shape[-1]]


def compute_log_capital(corrected: np.ndarray, bets: np.ndarray, rate: np.ndarray | float, side: int) -> np.ndarray:
    """Return log K_t after each outcome, (..., n): the evidence against a win rate of `rate` or less (`side` 1), or of
    `rate` or more (`side` -1)."""
    factors = side * bets * (corrected[..., None] - np.asarray(rate, float)[..., None, None])
    logs = np.cumsum(np.log1p(factors), axis=-2) + np.log(STAKES)
    most = logs.max(axis=-1, keepdims=True)
    return most[..., 0] + np.log(np.exp(logs - most).sum(axis=-1))


@dataclass(frozen=True)
class WinRateEvidence:
    """What the outcomes so far say of a win rate.

    Attributes:
        outcomes: how many there are.
        win_rate: the mean of the corrected outcomes, unbiased at a fixed number of them; `plain`: of the
            outcomes alone.
        low, high: the confidence sequence: `low` holds at all times with confidence 1 - alpha, `high` with 1 - beta.
        evidence_for: the most that the capital against "win rate <= 1/2" has been. At 1 / alpha it is promoted.
        evidence_against: the same against "win rate >= 1/2 + least_gain"; it is rejected at 1 / beta.
        slope: how much of a prediction the next outcome would be corrected by.
    """

    test: WinRateTest
    outcomes: int
    win_rate: float
    plain: float
    low: float
    high: float
    evidence_for: float
    evidence_against: float
    decision: Decision
    decided_after: int | None
    slope: float

    @cached_property
    def is_worse(self) -> bool:
        """Whether the win rate is shown to be below 1/2, with the confidence of `high`."""
        return self.high < 0.5


def weigh_outcomes(outcomes: np.ndarray, test: WinRateTest, controls: Controls | None = None) -> WinRateEvidence:
    """Return what outcomes say, in the order in which their prompts were drawn.

    What is shown below 1/2 is rejected with it: the capital against "win rate >= 1/2" is never above the one against
    "win rate >= 1/2 + least_gain", factor by factor.

    Args:
        outcomes: (n,) between 0 and 1.
        controls: of at least n draws; None without a model.
    """
    y = np.asarray(outcomes, float)
    if y.ndim != 1 or not ((y >= 0) & (y <= 1)).all():
        raise BadInput("an outcome that is no number from 0 to 1", expected="0, 1/2 or 1", fix="check the votes")
    if not len(y):
        return WinRateEvidence(test, 0, math.nan, math.nan, 0.0, 1.0, 1.0, 1.0, Decision.UNDECIDED, None, 0.0)
    z, slopes = correct_outcomes(y, controls)
    bets = compute_bets(z, slopes, test.least_gain)
    above = compute_log_capital(z, bets, 0.5, 1)
    below = compute_log_capital(z, bets, 0.5 + test.least_gain, -1)
    decisions, steps = decide(above, below, test)
    low, high = compute_confidence_sequence(z, bets, test)
    return WinRateEvidence(
        test, len(y), float(np.clip(z.mean(), 0, 1)), float(y.mean()), low, high,
        math.exp(min(above.max(), 700.0)), math.exp(min(below.max(), 700.0)),
        (Decision.UNDECIDED, Decision.PROMOTE, Decision.REJECT)[int(decisions)],
        int(steps) if decisions else None, float(slopes[-1]),
    )  # fmt: skip


def decide(above: np.ndarray, below: np.ndarray, test: WinRateTest) -> tuple[np.ndarray, np.ndarray]:
    """Return what is decided first, (...): 0 nothing, 1 promote, 2 reject; and after how many outcomes (where nothing
    is, all of them).

    Args:
        above, below: (..., n) the logarithms of the capital against 1/2 or less, and against 1/2 + least_gain or more.
    """
    n = above.shape[-1]
    first = []
    for capital, level in ((above, test.alpha), (below, test.beta)):
        reached = capital >= math.log(1 / level)
        first.append(np.where(reached.any(axis=-1), reached.argmax(axis=-1), n))
    step = np.minimum(*first)
    decision = np.where(step == n, 0, np.where(first[0] <= first[1], 1, 2))
    return decision, np.minimum(step + 1, n)


def compute_confidence_sequence(corrected: np.ndarray, bets: np.ndarray, test: WinRateTest) -> tuple[float, float]:
    """Return the ends of the confidence sequence after all outcomes, (n,) and their bets (n, gains)."""
    rates = np.linspace(0, 1, GRID)

    def rules_out(at: int, side: int, level: float) -> bool:
        return compute_log_capital(corrected, bets, float(rates[at]), side).max() >= math.log(1 / level)

    # The capital falls with the rate on one side, and grows with it on the other.
    low = bisect(range(GRID), True, key=lambda at: not rules_out(at, 1, test.alpha))
    high = GRID - 1 - bisect(range(GRID), True, key=lambda at: not rules_out(GRID - 1 - at, -1, test.beta))
    return float(rates[max(low - 1, 0)]), float(rates[min(high + 1, GRID - 1)])
