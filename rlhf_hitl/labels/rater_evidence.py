"""The evidence against raters: the answers of the store as arrays, and what each check makes of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any

import numpy as np

from rlhf_hitl.stats.near_duplicates import find_copies
from rlhf_hitl.stats.rater_checks import (
    count_cycles,
    find_sessions,
    weigh_below_mark,
    weigh_drift,
    weigh_rates,
    weigh_speed,
)
from rlhf_hitl.stats.spammers import FIRST, SECOND, TIE, PairVotes, weigh_pairs_of_ranking, weigh_spammers
from rlhf_hitl.store.checked_answers import CheckedAnswer, GoldAnswer
from rlhf_hitl.types import Verdict

#: The share of golds to get right where a project wants no other.
PASS_MARK = 0.7
#: What is usual before a store has shown it: the shares of hidden repeats that are contradicted, of triads that are
#: cycles, of rationales that are copies. Each weighs as `PRIOR_TRIALS` trials.
USUAL_CONTRADICTIONS, USUAL_CYCLES, USUAL_COPIES = 0.1, 0.08, 0.02
#: By chance two ninths of repeats are contradicted (of three answers each), and a quarter of triads are cycles.
CHANCE_CONTRADICTIONS, CHANCE_CYCLES = 2 / 9, 1 / 4

#: No crowd prefers what stands first, or what stands last, in so large a share of its votes.
SORTED_SHARE = 0.75
#: Seconds of a pause after which a rater's session is a new one.
SESSION_GAP = 1800.0

Facts = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What one check says of all raters.

    Attributes:
        check: its name.
        project: None where it is about all projects together.
        logs: (raters,) natural logarithms of e-values.
        describe: returns the facts about one rater by number, as they stand in a finding.
    """

    check: str
    project: str | None
    logs: np.ndarray
    describe: Callable[[int], Facts]


class CheckedAnswers:
    """Answers as arrays. Raters and pairs are numbered as they come.

    Answers of attempts to qualify are no votes here: who learns what is wanted fails at first, and says otherwise when
    asked again. The attempts judge them.

    Args:
        answers: in the order in which they came.
        golds: comparison → its right answer.
        sources: rater → where their votes were imported from, empty for those made here. Their order gives the numbers.
    """

    def __init__(self, answers: Sequence[CheckedAnswer], golds: Mapping[str, GoldAnswer], sources: Mapping[str, str]):
        raters = list(sources)
        self.answers, self.golds, self.raters = answers, golds, raters
        self.number = {id: number for number, id in enumerate(raters)}
        self.rater = np.array([self.number[answer.rater_id] for answer in answers], dtype=int)
        pairs: dict[tuple[str, str, str], int] = {}
        columns: list[tuple[int, int, int, int, float, bool]] = []  # answer, pair, outcome, side, weight, repeated
        for index, answer in enumerate(answers):
            outcomes = read_outcomes(answer.verdict, answer.ranking, answer.order_shown)
            if not outcomes or answer.is_learning:
                continue
            place = {id: n for n, id in enumerate(answer.order_shown)}
            weight = weigh_pairs_of_ranking(len(place)) if len(place) > 1 else 1.0
            original = answer.repeat_of or answer.comparison_id
            for (first, second), outcome in outcomes.items():
                pair = pairs.setdefault((original, first, second), len(pairs))
                side = 1 if place.get(first, 0) < place.get(second, 0) else -1
                columns.append((index, pair, outcome, side, weight, answer.repeat_of is not None))
        self.pairs = pairs
        self.of_answer, pair, outcome, side, weight, repeated = (
            np.array(column, dtype=kind)
            for column, kind in zip(
                zip(*columns) if columns else ((),) * 6, (int, int, int, int, float, bool), strict=True
            )
        )
        rater = self.rater[self.of_answer]
        side[self._find_sorted_sources(rater, outcome, side, list(sources.values()))] = 0
        self.votes = PairVotes(pair, rater, outcome, side, weight, repeated)
        self.known = np.full(len(pairs), -1)
        for (comparison, first, second), number in pairs.items():
            if comparison in golds:
                gold = golds[comparison]
                right = read_outcomes(gold.verdict, gold.ranking, [first, second])
                self.known[number] = right.get((first, second), -1)

    def _find_sorted_sources(
        self, rater: np.ndarray, outcome: np.ndarray, side: np.ndarray, sources: Sequence[str]
    ) -> np.ndarray:
        """Return (votes,) whether a vote comes from a file that did not keep the order in which answers were shown.

        In such files the preferred answer stands first, or last, nearly always: `chosen` before `rejected`.
        """
        names, of_rater = np.unique(sources, return_inverse=True)
        of_vote = of_rater[rater]
        first = np.bincount(of_vote, (outcome != TIE) & ((outcome == FIRST) == (side > 0)), len(names))
        decided = np.bincount(of_vote, outcome != TIE, len(names))
        share = np.divide(first, decided, out=np.full(len(names), 0.5), where=decided > 0)
        is_sorted = (np.abs(share - 0.5) > SORTED_SHARE - 0.5) & (names != "")
        return is_sorted[of_vote]

    def count(self, rows: np.ndarray | Sequence[int], weights: Sequence[float] | None = None) -> np.ndarray:
        """Return (raters,) how many of some answers, given by the numbers of their raters, each rater has."""
        return np.bincount(np.asarray(rows, dtype=int), weights, len(self.raters))


def read_outcomes(verdict: str, ranking: Sequence[Sequence[str]], shown: Sequence[str]) -> dict[tuple[str, str], int]:
    """Return pair in canonical order → outcome, for each pair of completions that an answer ranks."""
    if verdict == Verdict.RANKED:
        rank = {id: place for place, group in enumerate(ranking) for id in group}
    elif verdict == Verdict.ALL_BAD:
        rank = dict.fromkeys(shown, 0)
    else:
        return {}
    return {
        (first, second): FIRST if rank[first] < rank[second] else SECOND if rank[first] > rank[second] else TIE
        for first, second in combinations(sorted(rank), 2)
    }


def collect_evidence(
    checked: CheckedAnswers,
    lengths: tuple[Mapping[str, int], Mapping[str, int]],
    timed: Collection[str],
    rates: Mapping[str, float],
    now: datetime,
) -> list[Evidence]:
    """Return what every check says.

    Args:
        lengths: characters by prompt and by completion.
        timed: the raters whose times and sessions are their own: people, not imported votes.
        rates: check → its rate of false alarm, where a threshold depends on it.
        now: when it is looked at; a session that ended shortly before may go on.
    """
    evidence, surprise = _weigh_answers(checked)
    evidence += _weigh_golds(checked)
    evidence += [_weigh_repeats(checked), _weigh_cycles(checked), _weigh_copies(checked)]
    is_timed = np.array([answer.rater_id in timed for answer in checked.answers], dtype=bool)
    evidence.append(_weigh_times(checked, lengths, is_timed, rates["too_fast"]))
    evidence.append(_weigh_fatigue(checked, surprise, is_timed, now))
    return evidence


def compute_agreement(votes: PairVotes, pairs: int, raters: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (raters,) the share of others' votes on the same pairs that say the same, and the number of such votes."""
    counted = votes.take(~votes.repeated)
    counts = np.zeros((pairs, 3))
    np.add.at(counts, (counted.pair, counted.outcome), 1)
    same = np.bincount(counted.rater, counts[counted.pair, counted.outcome] - 1, raters)
    others = np.bincount(counted.rater, counts[counted.pair].sum(axis=1) - 1, raters)
    return np.divide(same, others, out=np.full(raters, np.nan), where=others > 0), others


def _take_usual(shares: np.ndarray) -> float | None:
    """Return the median of the shares that are known; None where none is."""
    known = shares[np.isfinite(shares)]
    return float(np.median(known)) if len(known) else None


def _weigh_answers(checked: CheckedAnswers) -> tuple[list[Evidence], np.ndarray]:
    """Return the evidence for random and for one-sided answers, and (votes,) the surprise of each vote."""
    votes, raters = checked.votes, len(checked.raters)
    spam = weigh_spammers(votes, len(checked.pairs), raters, checked.known)
    agreement, others = compute_agreement(votes, len(checked.pairs), raters)
    usual = _take_usual(agreement[others >= 10])
    shown = np.stack([np.bincount(votes.rater[votes.shown_outcome == o], minlength=raters) for o in range(3)], axis=1)
    shares = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
    usual_shares = shown.sum(axis=0) / max(shown.sum(), 1)

    def describe_random(rater: int) -> Facts:
        return {"votes": int(shown[rater].sum()), "others_votes": int(others[rater]), "usual": _round(usual)} | {
            "agreement": _round(agreement[rater]) if others[rater] else None
        }

    def describe_one_side(rater: int) -> Facts:
        side = int(spam.same_answer[rater].argmax())
        facts = {"answer": ("first", "tie", "last")[side], "votes": int(shown[rater].sum())}
        return facts | {"share": _round(shares[rater, side]), "usual": _round(usual_shares[side])}

    one_side = np.logaddexp.reduce(spam.same_answer, axis=1) - math.log(3)
    evidence = [
        Evidence("random", None, spam.random, describe_random),
        Evidence("one_side", None, one_side, describe_one_side),
    ]
    return evidence, spam.surprise


def _weigh_golds(checked: CheckedAnswers) -> list[Evidence]:
    """Return the evidence that a rater answers hidden golds of a project worse than it wants.

    The check's rate of false alarm is that of all projects together. The k-th project in which a rater gets a gold has
    the share 1/k − 1/(k+1) = 1/k(k+1) of it, which add up to 1 however many come: its evidence is so much weaker.
    """
    answered: dict[str, list[int]] = defaultdict(list)
    scores: dict[str, list[float]] = defaultdict(list)
    marks: dict[str, float] = {}
    projects: dict[int, list[str]] = defaultdict(list)  # of a rater, in order
    for rater, answer, gold, score in _iterate_golds(checked):
        if gold.purpose == "hidden":
            marks[answer.project] = float((gold.qualification or {}).get("pass_mark", PASS_MARK))
            answered[answer.project].append(rater)
            scores[answer.project].append(score)
            if answer.project not in projects[rater]:
                projects[rater].append(answer.project)
    found = []
    for project in sorted(answered):
        shares = np.zeros(len(checked.raters))
        for rater, own in projects.items():
            if project in own:
                k = own.index(project) + 1
                shares[rater] = -math.log(k * (k + 1))
        found.append(_make_gold_evidence(checked, project, answered[project], scores[project], marks[project], shares))
    return found


def find_gold_scores(checked: CheckedAnswers) -> dict[int, list[float]]:
    """Return rater → how right each answer to a gold is, in order."""
    scores: dict[int, list[float]] = defaultdict(list)
    for rater, _, _, score in _iterate_golds(checked):
        scores[rater].append(score)
    return scores


def _iterate_golds(checked: CheckedAnswers) -> Iterator[tuple[int, CheckedAnswer, GoldAnswer, float]]:
    """Yield rater, answer, gold and score of each answer to a gold that ranks something."""
    for answer, rater in zip(checked.answers, checked.rater.tolist(), strict=True):
        gold = checked.golds.get(answer.repeat_of or answer.comparison_id)
        if gold is not None and answer.verdict in (Verdict.RANKED, Verdict.ALL_BAD):
            yield rater, answer, gold, score_gold(answer, gold)


def _make_gold_evidence(
    checked: CheckedAnswers, project: str, answered: list[int], scores: list[float], mark: float, shares: np.ndarray
) -> Evidence:
    """Return the evidence of one project; `shares` are the logarithms of its share of each rater's false alarms."""
    answers, right = checked.count(answered), checked.count(answered, scores)
    mark = min(max(mark, 0.01), 0.99)

    def describe(rater: int) -> Facts:
        return {"right": _round(float(right[rater])), "answered": int(answers[rater]), "mark": mark}

    return Evidence("gold", project, weigh_below_mark(right, answers, mark) + shares, describe)


def score_gold(answer: CheckedAnswer, gold: GoldAnswer) -> float:
    """Return how right an answer to a gold is, from 0 to 1: a tie is half right where one is better, and vice versa."""
    said = read_outcomes(answer.verdict, answer.ranking, answer.order_shown)
    wanted = read_outcomes(gold.verdict, gold.ranking, answer.order_shown)
    scores = [1 - abs(said.get(pair, outcome) - outcome) / 2 for pair, outcome in wanted.items()]
    return sum(scores) / len(scores) if scores else 1.0


def _weigh_repeats(checked: CheckedAnswers) -> Evidence:
    """Return the evidence that a rater contradicts themselves where they see a comparison again, sides swapped."""
    hits, trials = np.zeros(len(checked.raters)), np.zeros(len(checked.raters))
    for rater, contradicted in find_contradictions(checked).items():
        hits[rater], trials[rater] = sum(contradicted), len(contradicted)
    logs = weigh_rates(hits, trials, usual=USUAL_CONTRADICTIONS, suspect=(CHANCE_CONTRADICTIONS, 1.0))
    return Evidence("repeats", None, logs, _describe_rate("contradicted", "repeats", hits, trials))


def find_contradictions(checked: CheckedAnswers) -> dict[int, list[bool]]:
    """Return rater → for each hidden repeat, whether it prefers the other completion than the first time."""
    first_said: dict[tuple[int, str], CheckedAnswer] = {}
    contradicted: dict[int, list[bool]] = defaultdict(list)
    for answer, rater in zip(checked.answers, checked.rater.tolist(), strict=True):
        if answer.is_learning:
            continue
        if answer.repeat_of is None:
            first_said[rater, answer.comparison_id] = answer
        elif former := first_said.get((rater, answer.repeat_of)):
            before = read_outcomes(former.verdict, former.ranking, former.order_shown)
            now = read_outcomes(answer.verdict, answer.ranking, answer.order_shown)
            both = [{before[pair], now[pair]} for pair in before.keys() & now.keys()]
            if both:  # of a long ranking, most pairs
                contradicted[rater].append(2 * both.count({FIRST, SECOND}) > len(both))
    return contradicted


def _weigh_cycles(checked: CheckedAnswers) -> Evidence:
    """Return the evidence that a rater's preferences among answers to one prompt go round in circles."""
    preferences: dict[tuple[int, str], list[tuple[str, str, str]]] = defaultdict(list)
    for answer, rater in zip(checked.answers, checked.rater.tolist(), strict=True):
        if answer.repeat_of is None and not answer.is_learning:
            for (first, second), outcome in read_outcomes(answer.verdict, answer.ranking, answer.order_shown).items():
                if outcome != TIE:
                    better, worse = (first, second) if outcome == FIRST else (second, first)
                    preferences[rater, answer.prompt_id].append((answer.comparison_id, better, worse))
    cycles, triads = np.zeros(len(checked.raters)), np.zeros(len(checked.raters))
    for (rater, _), said in preferences.items():
        if len({comparison for comparison, *_ in said}) >= 3:
            found = count_cycles(said)
            cycles[rater], triads[rater] = cycles[rater] + found[0], triads[rater] + found[1]
    logs = weigh_rates(cycles, triads, usual=USUAL_CYCLES, suspect=(CHANCE_CYCLES, CHANCE_CYCLES))
    return Evidence("cycles", None, logs, _describe_rate("cycles", "triads", cycles, triads))


def _weigh_copies(checked: CheckedAnswers) -> Evidence:
    """Return the evidence that a rater copies rationales, their own or others'."""
    written = [i for i, answer in enumerate(checked.answers) if answer.rationale]
    authors = checked.rater[written]
    copies = find_copies([checked.answers[i].rationale for i in written], authors.tolist())
    is_copy = copies.of >= 0
    hits, trials = checked.count(authors[is_copy]), checked.count(authors[copies.looked_at])
    describe_rate = _describe_rate("copies", "rationales", hits, trials)

    def describe(rater: int) -> Facts:
        own = np.flatnonzero(is_copy & (authors == rater))
        of_others = sum(authors[copies.of[n]] != rater for n in own)
        example = checked.answers[written[own[0]]].rationale[:200] if len(own) else ""
        return describe_rate(rater) | {"of_others": int(of_others), "example": example}

    return Evidence("copied", None, weigh_rates(hits, trials, usual=USUAL_COPIES, suspect=(0.2, 1.0)), describe)


def _describe_rate(hit: str, trial: str, hits: np.ndarray, trials: np.ndarray) -> Callable[[int], Facts]:
    usual = float(hits.sum() / trials.sum()) if trials.sum() else None

    def describe(rater: int) -> Facts:
        return {hit: int(hits[rater]), trial: int(trials[rater]), "usual": _round(usual)}

    return describe


def _weigh_times(
    checked: CheckedAnswers,
    lengths: tuple[Mapping[str, int], Mapping[str, int]],
    is_timed: np.ndarray,
    false_alarm_rate: float,
) -> Evidence:
    """Return the evidence that a rater answers faster than anybody reads. Skips and flags need no reading."""
    of_prompts, of_completions = lengths
    rows = [
        i
        for i in np.flatnonzero(is_timed).tolist()
        if checked.answers[i].seconds and checked.answers[i].verdict in (Verdict.RANKED, Verdict.ALL_BAD)
    ]
    seconds = np.array([checked.answers[i].seconds for i in rows], dtype=float)
    characters = np.array(
        [
            of_prompts.get(answer.prompt_id, 0) + sum(of_completions.get(id, 0) for id in answer.order_shown)
            for answer in (checked.answers[i] for i in rows)
        ],
        dtype=float,
    )
    log_length = np.log(100.0 + characters)  # a comparison takes some time, however short its texts are
    rater = checked.rater[rows]
    fit = weigh_speed(rater, np.log(np.maximum(seconds, 0.1)), log_length, len(checked.raters), false_alarm_rate)

    def describe(number: int) -> Facts:
        own = rater == number
        at = fit.slope * float(np.median(log_length[own])) if own.any() else 0.0
        return {
            "judgments": int(own.sum()),
            "seconds": _round(math.exp(fit.level[number] + at)),
            "floor": _round(math.exp(fit.floor + at)),
            "typical": _round(math.exp(fit.typical + at)),
        }

    return Evidence("too_fast", None, fit.log_evidence, describe)


def _weigh_fatigue(checked: CheckedAnswers, surprise: np.ndarray, is_timed: np.ndarray, now: datetime) -> Evidence:
    """Return the evidence that a rater agrees less with others the longer a session lasts."""
    votes, answers = checked.votes, len(checked.answers)
    weight = np.bincount(checked.of_answer, votes.weight, answers)
    total = np.bincount(checked.of_answer, votes.weight * surprise, answers)
    rows = np.flatnonzero(is_timed & (weight > 0))
    rater = checked.rater[rows]
    agreement = -total[rows] / weight[rows]
    seconds = np.array([checked.answers[i].created_at.timestamp() for i in rows.tolist()])
    session = find_sessions(rater, seconds, SESSION_GAP) if len(rows) else rater
    if len(rows):  # a session that may go on is looked at when it is over
        last = np.zeros(session.max() + 1)
        np.maximum.at(last, session, seconds)
        over = last[session] < now.timestamp() - SESSION_GAP
        agreement, session, rater = agreement[over], session[over], rater[over]
    logs = weigh_drift(agreement, session, rater, len(checked.raters))

    def describe(number: int) -> Facts:
        own = session[rater == number]
        return {"judgments": len(own), "sessions": len(np.unique(own))}

    return Evidence("fatigue", None, logs, describe)


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
