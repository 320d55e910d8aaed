"""Tests of one rater against the raters of a store, each with a rate of false alarm that holds however often one looks.

Every test returns the logarithm of an e-value by rater: of a number that is 1 on average at most while the rater is
honest, whenever one looks. So it ever reaches 1 / alpha for a share alpha of honest raters at most (Ville 1939;
Ramdas, Grünwald, Vovk & Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference"). An alarm is raised
where it does. Random and one-sided raters are found in `spammers.py`, copied texts in `near_duplicates.py`.

Where honest raters differ, the e-value is a ratio of likelihoods whose denominator is averaged over their population,
which is fitted to the raters of the store. The rate is then that of honest raters drawn from this population.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: How many observations of a rate the assumed mean rate weighs as, before raters have shown theirs.
PRIOR_TRIALS = 20.0
#: Concentrations of the beta distribution of raters' rates: 3 is wide, 300 hardly any spread.
_CONCENTRATIONS = np.array([3.0, 6.0, 12.0, 25.0, 50.0, 100.0, 300.0])
_LOG_PRIOR = -(np.log(_CONCENTRATIONS / 12.0) ** 2) / 8  # a few raters do not settle on an extreme
#: Readers' speeds differ by a quarter (natural logarithms) at least: most adults read 175 to 300 words of plain
#: English a minute (Brysbaert 2019, "How many words do we read per minute?"), and 0.27 is half the logarithm of their
#: ratio.
LEAST_SPREAD = 0.27
#: With the speeds of fewer raters nothing is known of what is usual.
LEAST_RATERS = 5
#: Of one rater, and in one session.
LEAST_TIMED, LEAST_IN_SESSION = 5, 8


def weigh_below_mark(right: np.ndarray, answered: np.ndarray, mark: float) -> np.ndarray:
    """Return the evidence (raters,) that somebody's share of right answers is below a mark.

    It is the likelihood ratio of a share that is uniform between 0 and the mark against the mark itself. Its expected
    factor falls with the true share and is 1 at the mark, so raters at or above it are accused with probability alpha.

    An answer may be right in part: the factor is convex in how right it is.

    Args:
        right: (raters,) right answers, with those that are half right counted as halves.
        answered: (raters,) answers.
        mark: the share that is good enough, between 0 and 1.
    """
    from scipy.special import betainc, betaln

    wrong = answered - right
    below = np.maximum(betainc(right + 1, wrong + 1, mark), 1e-300)
    log_uniform = betaln(right + 1, wrong + 1) + np.log(below) - np.log(mark)
    return log_uniform - right * np.log(mark) - wrong * np.log1p(-mark)


def weigh_rates(
    hits: np.ndarray, trials: np.ndarray, *, usual: float, suspect: tuple[float, float], suspect_share: float = 0.1
) -> np.ndarray:
    """Return the evidence (raters,) that something befalls somebody at a suspect rate, not at one usual here.

    Rates of honest raters follow a beta distribution, which is fitted by expectation and maximization next to a share
    of suspects, whose rate is uniform between two bounds.

    Args:
        hits: (raters,) how often it happened.
        trials: (raters,) how often it could have.
        usual: the mean rate to assume before anything is seen; it weighs `PRIOR_TRIALS` trials.
        suspect: the least and the highest rate of suspects; a single rate where they are equal.
        suspect_share: the share of suspects to begin with.
    """
    log_suspect = _log_uniform_rate(hits, trials, *suspect)
    honest = np.full(len(hits), 1 - suspect_share)
    log_honest = log_suspect
    share = suspect_share
    for _ in range(15):
        # Of the others: a rater is not measured by themselves.
        mean = (honest @ hits - honest * hits + usual * PRIOR_TRIALS) / (
            honest @ trials - honest * trials + PRIOR_TRIALS
        )
        logs = np.stack([_log_beta_binomial(hits, trials, mean, c) for c in _CONCENTRATIONS], axis=1)
        log_honest = logs[:, int(np.argmax(honest @ logs + _LOG_PRIOR))]
        odds = share / (1 - share) * np.exp(np.clip(log_suspect - log_honest, -50, 50))
        honest = 1 / (1 + odds)
        share = min(float((1 - honest).sum() + suspect_share * 5) / (len(hits) + 5), 0.5)
    return log_suspect - log_honest


def _log_beta_binomial(hits: np.ndarray, trials: np.ndarray, mean: np.ndarray, concentration: float) -> np.ndarray:
    """Return the log probability of a sequence of hits and misses, at a rate drawn from a beta distribution."""
    from scipy.special import betaln

    a, b = mean * concentration, (1 - mean) * concentration
    return betaln(hits + a, trials - hits + b) - betaln(a, b)


def _log_uniform_rate(hits: np.ndarray, trials: np.ndarray, low: float, high: float) -> np.ndarray:
    from scipy.special import betainc, betaln

    if low == high:
        return hits * np.log(low) + (trials - hits) * np.log1p(-low)
    a, b = hits + 1, trials - hits + 1
    inside = np.maximum(betainc(a, b, high) - betainc(a, b, low), 1e-300)
    return betaln(a, b) + np.log(inside) - np.log(high - low)


@dataclass(frozen=True)
class SpeedFit:
    """How long raters take. Times are natural logarithms of seconds, less what the length of the text explains.

    Attributes:
        slope: how much the log time grows with the log length.
        typical: the time of a typical rater.
        floor: the time of raters of whom fewer than the stated share are as fast; -inf where too few are known.
        deviation: the standard deviation of one rater's times.
        log_evidence: (raters,) that a rater's usual time is below the floor.
        level: (raters,) each rater's median time; NaN without one.
    """

    slope: float
    typical: float
    floor: float
    deviation: float
    log_evidence: np.ndarray
    level: np.ndarray


def weigh_speed(
    rater: np.ndarray, log_seconds: np.ndarray, log_length: np.ndarray, raters: int, false_alarm_rate: float
) -> SpeedFit:
    """Return how fast raters are, and the evidence that some cannot have read what they judged.

    Times are log-normal, with a speed of each rater (van der Linden 2006, "A lognormal model for response times on
    test items"). The centre of the speeds is that of the shortest interval with half of the raters, and their spread
    is taken from the slower side, so that a third of raters who do not read move neither. Half of the stated rate goes
    to the share of honest raters below the floor, half to the test that somebody is below it: the mixture martingale
    of Robbins (1970), as in Howard, Ramdas, McAuliffe & Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic
    confidence sequences", section 3.2. The halves are within `log_evidence`.

    Args:
        rater: (n,) the number of the rater.
        log_seconds: (n,) of active time.
        log_length: (n,) of all that had to be read.
        raters: how many raters there are.
        false_alarm_rate: alpha.
    """
    from scipy.stats import norm

    nothing = SpeedFit(0.0, 0.0, -np.inf, 1.0, np.zeros(raters), np.full(raters, np.nan))
    count = np.bincount(rater, minlength=raters)
    if (count >= LEAST_TIMED).sum() < LEAST_RATERS:
        return nothing
    slope = _fit_slope(
        log_length - _take_medians(log_length, rater, raters)[rater],
        log_seconds - _take_medians(log_seconds, rater, raters)[rater],
    )
    times = log_seconds - slope * log_length
    level = _take_medians(times, rater, raters)
    known = np.sort(level[count >= LEAST_TIMED])
    half = len(known) // 2
    begin = int(np.argmin(known[half:] - known[: len(known) - half]))
    typical = float(np.median(known[begin : begin + half + 1]))
    slower = known[known >= typical] - typical
    spread = max(LEAST_SPREAD, 1.4826 * float(np.median(slower)))
    deviation = max(0.1, 1.4826 * float(np.median(np.abs(times - level[rater]))))
    floor = typical - float(norm.ppf(1 - false_alarm_rate / 2)) * spread
    # A single time far away, as of an interrupted or an obvious comparison, counts as one three deviations away.
    below = np.clip((floor - times) / deviation, -3, 3)
    total, n = np.bincount(rater, below, raters), count + 1.0
    # The mixture's factor 2 is spent on the half of the rate.
    log_evidence = total**2 / (2 * n) - np.log(n) / 2 + norm.logcdf(total / np.sqrt(n))
    return SpeedFit(slope, typical, floor, deviation, log_evidence, level)


def _fit_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Return the median slope between pairs of points (Theil 1950), drawn at random, within 0 and 1.

    Nobody takes longer for a shorter text, and a longer one is not read more slowly.
    """
    a, b = np.random.default_rng(0).integers(0, len(x), (2, 20_000))
    run, rise = x[a] - x[b], y[a] - y[b]
    apart = (run != 0) & (np.abs(run) >= np.median(np.abs(run)))  # those close to each other say little
    return min(max(float(np.median(rise[apart] / run[apart])), 0.0), 1.0) if apart.any() else 0.0


def _take_medians(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Return (groups,) the median of each group's values, NaN for empty ones."""
    order = np.lexsort((values, group))
    ordered, count = values[order], np.bincount(group, minlength=groups)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    medians = np.full(groups, np.nan)
    filled = count > 0
    low, high = start + (count - 1) // 2, start + count // 2
    medians[filled] = (ordered[low[filled]] + ordered[high[filled]]) / 2
    return medians


def find_sessions(rater: np.ndarray, seconds: np.ndarray, gap: float = 1800.0) -> np.ndarray:
    """Return (n,) the number of the session of each judgment: a rater's judgments without a long pause between them.

    Args:
        rater: (n,) the number of the rater.
        seconds: (n,) when each was made, rising for each rater.
        gap: seconds of a pause after which a session is a new one.
    """
    order = np.lexsort((seconds, rater))
    is_new = np.ones(len(order), bool)
    is_new[1:] = (np.diff(rater[order]) != 0) | (np.diff(seconds[order]) > gap)
    session = np.empty(len(order), int)
    session[order] = np.cumsum(is_new) - 1
    return session


def weigh_drift(values: np.ndarray, session: np.ndarray, rater: np.ndarray, raters: int) -> np.ndarray:
    """Return the evidence (raters,) that values fall within a rater's sessions.

    In a session without drift every order of its values is equally likely, so Spearman's rank correlation with the
    position gives a p-value. It is made an e-value, 1 / (2 sqrt(p)), which has mean 1 (Shafer 2021, "Testing by
    betting"; Vovk & Wang 2021, "E-values: calibration, combination and applications"); those of sessions multiply.
    Sessions are looked at when they are over. Of sessions that are shorter than `LEAST_IN_SESSION` nothing is said.

    Args:
        values: (n,) in the order in which they came.
        session: (n,) the number of the session.
        rater: (n,) the number of the rater.
        raters: how many raters there are.
    """
    from scipy.stats import norm, rankdata

    log_evidence = np.zeros(raters)
    order = np.argsort(session, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(session[order])) + 1):
        n = len(rows)
        if n < LEAST_IN_SESSION or np.ptp(values[rows]) == 0:
            continue
        ranks = rankdata(values[rows])
        correlation = np.corrcoef(np.arange(n), ranks)[0, 1]
        # The normal approximation errs towards larger p-values in the tails, which are what counts.
        log_p = float(norm.logcdf(correlation * np.sqrt(n - 1)))
        log_evidence[rater[rows[0]]] -= np.log(2) + log_p / 2
    return log_evidence


def count_cycles(preferences: Sequence[tuple[str, str, str]]) -> tuple[int, int]:
    """Return how many triads of one rater's preferences among answers to one prompt are cycles, and how many triads.

    A triad is three preferences between three answers; it is a cycle where a is better than b, b than c and c than a
    (Kendall & Babington Smith 1940, "On the method of paired comparisons"). Each preference is used once, in the order
    in which they came, so that triads are independent; of coin flips a quarter are cycles. The three must come from
    three comparisons, for no ranking contradicts itself.

    Args:
        preferences: (comparison, better, worse) in the order in which they came.
    """
    unused: dict[frozenset[str], tuple[str, str]] = {}  # pair → (the better one, the comparison)
    cycles = triads = 0
    for comparison, better, worse in preferences:
        pair = frozenset((better, worse))
        others = {answer for known in unused for answer in known} - pair
        for third in sorted(others):
            one, other = frozenset((better, third)), frozenset((worse, third))
            if one not in unused or other not in unused:
                continue
            (best_of_one, in_one), (best_of_other, in_other) = unused[one], unused[other]
            if len({comparison, in_one, in_other}) < 3:
                continue
            triads += 1
            cycles += best_of_one == third and best_of_other == worse
            del unused[one], unused[other]
            break
        else:
            unused[pair] = (better, comparison)
    return cycles, triads
