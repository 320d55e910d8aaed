"""What is known of every rater, for the page of raters: agreement, speed, sides, golds, repeats, and the newest fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from rlhf_hitl.labels.rater_evidence import SESSION_GAP, CheckedAnswers, find_contradictions, find_gold_scores
from rlhf_hitl.stats.rater_checks import find_sessions
from rlhf_hitl.stats.spammers import FIRST, TIE
from rlhf_hitl.store import Store
from rlhf_hitl.store.checked_answers import load_gold_answers, load_rater_states, read_checked_answers
from rlhf_hitl.store.rater_estimates import RaterEstimate, load_newest_estimates

Z = 1.959964  # of 95 %


@dataclass(frozen=True)
class Measured:
    """A figure with its 95 % interval, and what it rests on; None where nothing was measured."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class SessionFigures:
    """One session of a rater: when it began, how much was judged, how much others agree, the median active time."""

    began_at: datetime
    judgments: int
    agreement: Measured | None
    seconds: float | None


@dataclass(frozen=True)
class RaterFigures:
    """What is known of one rater.

    `agreement` is the share of others' votes on the same pairs that say the same, a comparison counting once; `first`
    is the share of the answer shown first among what they prefer; `seconds` the median active time, with the interval
    of the median; `golds` and `repeats` are shares of golds answered right and of hidden repeats not contradicted.
    `estimate` is the newest fit's.
    """

    judgments: int
    agreement: Measured | None
    first: Measured | None
    seconds: Measured | None
    golds: Measured | None
    repeats: Measured | None
    estimate: RaterEstimate | None
    sessions: Sequence[SessionFigures]


@dataclass(frozen=True)
class RaterOverview:
    """The figures of all raters by id, and whether there is a fit at all."""

    raters: Mapping[str, RaterFigures]
    fitted_at: datetime | None


def compute_rater_overview(store: Store, project: str | None = None) -> RaterOverview:
    """Return the figures of everybody who has judged, in one project or in all."""
    answers = list(read_checked_answers(store, project=project, rationales=False))
    states = load_rater_states(store)
    fit = load_newest_estimates(store)
    sources = {id: states[id].source for id in sorted({answer.rater_id for answer in answers})}
    checked = CheckedAnswers(answers, load_gold_answers(store), sources)
    agreement = _compute_answer_agreement(checked)
    shown = _list_first_shown(checked)
    golds, repeats = find_gold_scores(checked), find_contradictions(checked)
    order = np.argsort(checked.rater, kind="stable")
    starts = np.searchsorted(checked.rater[order], np.arange(len(sources) + 1))
    figures = {}
    for number, id in enumerate(sources):
        own = order[starts[number] : starts[number + 1]]
        agreed = agreement[own]
        seconds = np.array([answers[i].seconds or np.nan for i in own.tolist()], dtype=float)
        figures[id] = RaterFigures(
            len(own),
            measure_share(agreed[np.isfinite(agreed)]),
            measure_share(shown.get(number, np.zeros(0))),
            _measure_median(seconds[np.isfinite(seconds)]),
            measure_share(np.array(golds.get(number, []), dtype=float)),
            measure_share(1 - np.array(repeats.get(number, []), dtype=float)),
            fit.estimates.get(id),
            () if sources[id] else _list_sessions([answers[i].created_at for i in own.tolist()], agreed, seconds),
        )
    return RaterOverview(figures, fit.fitted_at)


def measure_share(values: np.ndarray) -> Measured | None:
    """Return the mean of values from 0 to 1 with Wilson's interval (1927)."""
    n = len(values)
    if not n:
        return None
    share = float(values.mean())
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * float(np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)))
    return Measured(share, max(0.0, centre - half), min(1.0, centre + half), n)


def _measure_median(values: np.ndarray) -> Measured | None:
    """Return the median with the interval between order statistics that holds whatever the distribution."""
    n = len(values)
    if not n:
        return None
    ordered = np.sort(values)
    half = Z * np.sqrt(n) / 2
    low, high = int(max(0, np.floor(n / 2 - half))), int(min(n - 1, np.ceil(n / 2 + half)))
    return Measured(float(np.median(ordered)), float(ordered[low]), float(ordered[high]), n)


def _compute_answer_agreement(checked: CheckedAnswers) -> np.ndarray:
    """Return (answers,) the share of others' votes that say the same; NaN where nobody else judged it."""
    votes = checked.votes
    counts = np.zeros((len(checked.pairs), 3))
    first_time = ~votes.repeated
    np.add.at(counts, (votes.pair[first_time], votes.outcome[first_time]), 1)
    same = np.where(first_time, counts[votes.pair, votes.outcome] - 1, 0)
    others = np.where(first_time, counts[votes.pair].sum(axis=1) - 1, 0)
    n = len(checked.answers)
    same, others = np.bincount(checked.of_answer, same, n), np.bincount(checked.of_answer, others, n)
    return np.divide(same, others, out=np.full(n, np.nan), where=others > 0)


def _list_first_shown(checked: CheckedAnswers) -> dict[int, np.ndarray]:
    """Return rater → for each pair that was told apart, whether the one shown first is preferred."""
    votes = checked.votes
    told_apart = np.flatnonzero((votes.outcome != TIE) & (votes.side != 0))
    rater, first = votes.rater[told_apart], (votes.shown_outcome[told_apart] == FIRST).astype(float)
    order = np.argsort(rater, kind="stable")
    numbers, starts = np.unique(rater[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(first[order], starts[1:]), strict=False))


def _list_sessions(times: Sequence[datetime], agreed: np.ndarray, seconds: np.ndarray) -> list[SessionFigures]:
    stamps = np.array([time.timestamp() for time in times])
    session = find_sessions(np.zeros(len(stamps), int), stamps, SESSION_GAP)
    figures = []
    for number in range(int(session.max()) + 1):
        rows = np.flatnonzero(session == number)
        known, timed = agreed[rows], seconds[rows]
        median = _measure_median(timed[np.isfinite(timed)])
        figures.append(
            SessionFigures(
                times[int(rows[0])],
                len(rows),
                measure_share(known[np.isfinite(known)]),
                None if median is None else median.value,
            )
        )
    return figures
