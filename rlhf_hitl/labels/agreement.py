"""How far the raters of a store agree: as a whole, and by language, round, guideline, project, tag and rater.

People, models that judge, and simulated raters are told apart, and a group is always one of people. A unit is a pair of
completions, an outcome is what a vote says of it (the first is better, neither, the second), and intervals draw whole
comparisons. `stats/agreement.py` says how the coefficients are defined.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.votes import LabelVote
from rlhf_hitl.stats.agreement import (
    Agreement,
    Coefficient,
    RaterAgreement,
    count_categories,
    measure_agreement,
    measure_rater_agreement,
)
from rlhf_hitl.store import Store
from rlhf_hitl.store.counted_votes import CountedVote, read_counted_votes
from rlhf_hitl.store.loop_steps import read_round_ends
from rlhf_hitl.store.people import list_raters
from rlhf_hitl.types.votes import read_pair_votes

GROUPINGS = ("language", "round", "guideline", "project", "rater", "tag:NAME")
MAX_GROUPS = 100  # of one grouping; those with fewer votes are counted and left out
NOT_STATED = "not stated"
POPULATIONS = PEOPLE, JUDGES, SIMULATED = "people", "judges", "simulated"
#: The degree of each of VOTE_OUTCOMES; -1 where it was not said how much better one is.
_DEGREE_OF_OUTCOME = (0, 1, 2, -1, 3, -1, 4, 5, 6)
DEGREES = 7  # first much, clearly, slightly better, tie, second slightly, clearly, much better


@dataclass(frozen=True)
class GroupAgreement:
    """The agreement of the votes that people gave in one group, such as one language."""

    group: str
    agreement: Agreement


@dataclass(frozen=True)
class NamedRaterAgreement:
    """How often one person says what others say."""

    rater_id: str
    name: str
    agreement: RaterAgreement


@dataclass(frozen=True)
class AgreementReport:
    """Agreement in a store.

    Attributes:
        populations: `people`, `judges` (models) and `simulated` → the agreement among them; those without votes are
            missing, but for people.
        alpha_strength: Krippendorff's ordinal alpha of people over seven degrees, from the first much better to the
            second much better, on the votes that say how much, and ties.
        votes: population → how many votes there are in all, also those that are alone on their pair.
        groups: grouping → its groups, rounds in their order, others by the number of votes.
        left_out: grouping → how many groups were left out as the smallest.
        raters: people with the fewest agreeing votes first; empty unless asked for.
    """

    populations: dict[str, Agreement]
    alpha_strength: Coefficient
    votes: dict[str, int]
    groups: dict[str, list[GroupAgreement]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    raters: list[NamedRaterAgreement] = field(default_factory=list)

    @property
    def people(self) -> Agreement:
        return self.populations[PEOPLE]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_grouping(by: str) -> str:
    """Return a grouping as it was given. Raises BadInput for one that does not exist."""
    if by in GROUPINGS[:-1] or (by.startswith("tag:") and len(by) > 4):
        return by
    raise BadInput(f"--by {by!r}", expected="one of " + ", ".join(GROUPINGS), fix="write e.g. tag:category")


def measure_store_agreement(
    store: Store,
    by: Iterable[str] = (),
    *,
    project: str | None = None,
    comparison_ids: Collection[str] | None = None,
) -> AgreementReport:
    """Measure the agreement in a store, with one reading of its votes.

    Args:
        by: groupings out of GROUPINGS.
        project, comparison_ids: only votes on these comparisons (those of a slice, for instance).

    Raises:
        BadInput: there is no such grouping.
    """
    groupings = [check_grouping(one) for one in by]
    round_ends = read_round_ends(store) if "round" in groupings else {}
    table = _read_votes(
        read_counted_votes(store, project=project, comparison_ids=comparison_ids),
        {g: _make_group_finder(g, round_ends) for g in groupings if g != "rater"},
    )
    rows_of = {name: table.population == n for n, name in enumerate(POPULATIONS)}
    rows_of = {name: rows for name, rows in rows_of.items() if rows.any() or name == PEOPLE}
    people = rows_of[PEOPLE]
    measured = {grouping: _measure_groups(table, people, grouping) for grouping in table.groups}
    return AgreementReport(
        populations={name: table.measure(rows) for name, rows in rows_of.items()},
        alpha_strength=table.measure_strength(people),
        votes={name: len(np.unique(table.vote[rows])) for name, rows in rows_of.items()},
        groups={grouping: groups for grouping, (groups, _) in measured.items()},
        left_out={grouping: n for grouping, (_, n) in measured.items()},
        raters=_measure_raters(store, table, people) if "rater" in groupings else [],
    )


class AgreementCounter:
    """Counts the votes of comparisons as they pass by, in a few bytes each, for the card of an export."""

    def __init__(self) -> None:
        self._counts = {name: array("H") for name in POPULATIONS}
        self._comparisons = {name: array("Q") for name in POPULATIONS}
        self._next = 0

    def add(self, votes: Iterable[tuple[str, LabelVote]]) -> None:
        """Add the votes on one comparison, each with the population whose it is."""
        pairs: dict[tuple[str, str, str], list[int]] = {}
        for population, vote in votes:
            for said in read_pair_votes(vote.verdict, vote.ranking, vote.order_shown, vote.strength):
                pairs.setdefault((population, said.first, said.second), [0, 0, 0])[said.winner] += 1
        for (population, *_), counts in pairs.items():
            self._counts[population].extend(counts)
            self._comparisons[population].append(self._next)
        self._next += 1

    def measure(self) -> dict[str, Agreement]:
        """Return the agreement among each population that has votes, and among people."""
        measured = {}
        for name in POPULATIONS:
            counts = np.array(self._counts[name], np.int64).reshape(-1, 3)
            if len(counts) or name == PEOPLE:
                chosen = counts[:, counts.any(0)] if len(counts) else counts
                measured[name] = measure_agreement(chosen, np.array(self._comparisons[name], np.int64))
        return measured


def name_population(is_judge: bool, is_simulated: bool) -> str:
    """Return whose a vote is. What was simulated is simulated, whoever it plays."""
    return SIMULATED if is_simulated else JUDGES if is_judge else PEOPLE


@dataclass(frozen=True)
class _VoteTable:
    """Votes on pairs, a row each, as columns (n,).

    Attributes:
        vote: the number of the judgment; a ranking of three says something of three pairs.
        degree: how much better the first is, 0 to DEGREES - 1; -1 where it was not said.
        comparison_of_unit: (units,)
        groups: grouping → (the names of its groups, the group of each row).
    """

    unit: np.ndarray
    rater: np.ndarray
    outcome: np.ndarray
    degree: np.ndarray
    population: np.ndarray
    vote: np.ndarray
    comparison_of_unit: np.ndarray
    rater_ids: list[str]
    groups: dict[str, tuple[list[str], np.ndarray]]

    def measure(self, rows: np.ndarray, outcomes: np.ndarray | None = None) -> Agreement:
        """Return the agreement of some rows.

        Args:
            rows: (n,) bool.
            outcomes: those that raters chose from; by default those that are in the rows. Chance as AC1 knows it
                depends on how many there are.
        """
        chosen = np.unique(self.outcome[rows]) if outcomes is None else outcomes
        return self._measure(rows, np.searchsorted(chosen, self.outcome), max(len(chosen), 1))

    def measure_strength(self, rows: np.ndarray) -> Coefficient:
        """Return ordinal alpha over the degrees; not known where no vote says how much better one is."""
        graded = rows & (self.degree >= 0)
        if not (self.degree[graded] != DEGREES // 2).any():
            return Coefficient()
        return self._measure(graded, self.degree, DEGREES).alpha_ordinal

    def _measure(self, rows: np.ndarray, category: np.ndarray, categories: int) -> Agreement:
        units, unit = np.unique(self.unit[rows], return_inverse=True)
        counts = count_categories(unit, category[rows], len(units), categories)
        return measure_agreement(counts, self.comparison_of_unit[units])


def _read_votes(votes: Iterable[CountedVote], find_group: dict[str, Callable[[CountedVote], str]]) -> _VoteTable:
    columns = [array("q") for _ in range(6)]
    units: dict[tuple[str, str, str], int] = {}
    comparisons: dict[str, int] = {}
    raters: dict[str, int] = {}
    comparison_of_unit = array("q")
    groups: dict[str, dict[str, int]] = {grouping: {} for grouping in find_group}
    group_of_row = {grouping: array("q") for grouping in find_group}
    for n, vote in enumerate(votes):
        pairs = list(read_pair_votes(vote.verdict, vote.ranking, vote.order_shown, vote.strength))
        population = POPULATIONS.index(name_population(vote.is_judge, vote.simulated))
        for said in pairs:
            rater = raters.setdefault(vote.rater_id, len(raters))
            unit = units.setdefault((vote.comparison_id, said.first, said.second), len(units))
            if unit == len(comparison_of_unit):
                comparison_of_unit.append(comparisons.setdefault(vote.comparison_id, len(comparisons)))
            degree = _DEGREE_OF_OUTCOME[said.outcome]
            for column, value in zip(columns, (unit, rater, said.winner, degree, population, n), strict=True):
                column.append(value)
            for grouping, find in find_group.items():
                group_of_row[grouping].append(groups[grouping].setdefault(find(vote), len(groups[grouping])))
    return _VoteTable(
        *(np.array(column, np.int64) for column in (*columns, comparison_of_unit)),
        rater_ids=list(raters),
        groups={g: (list(groups[g]), np.array(group_of_row[g], np.int64)) for g in find_group},
    )


def _make_group_finder(grouping: str, round_ends: dict[int, datetime]) -> Callable[[CountedVote], str]:
    """Return the function that names the group of a vote."""
    if grouping == "round":
        rounds, ends = list(round_ends), list(round_ends.values())

        def find_round(vote: CountedVote) -> str:
            # What is done between two rounds counts with the later one, and what comes after the last with the last.
            if vote.source:
                return "imported"
            return str(rounds[min(bisect_left(ends, vote.created_at), len(rounds) - 1)]) if rounds else "no round yet"

        return find_round
    if grouping.startswith("tag:"):
        tag = grouping.removeprefix("tag:")
        return lambda vote: str(vote.tags.get(tag) or NOT_STATED)
    return {
        "language": lambda vote: vote.language or NOT_STATED,
        "guideline": lambda vote: vote.guideline_version or NOT_STATED,
        "project": lambda vote: vote.project,
    }[grouping]


def _measure_groups(table: _VoteTable, people: np.ndarray, grouping: str) -> tuple[list[GroupAgreement], int]:
    """Return the largest groups of a grouping, and how many others there are."""
    names, group_of_row = table.groups[grouping]
    outcomes = np.unique(table.outcome[people])
    sizes = np.bincount(group_of_row[people], minlength=len(names))
    present = [n for n in np.argsort(-sizes, kind="stable") if sizes[n]]
    shown = present[:MAX_GROUPS]
    found = [GroupAgreement(names[n], table.measure(people & (group_of_row == n), outcomes)) for n in shown]
    if grouping == "round":
        found.sort(key=lambda g: (not g.group.isdigit(), int(g.group) if g.group.isdigit() else 0))
    else:
        found.sort(key=lambda g: -g.agreement.votes)
    return found, len(present) - len(shown)


def _measure_raters(store: Store, table: _VoteTable, people: np.ndarray) -> list[NamedRaterAgreement]:
    """Return the people who judged something that another has judged, too, those who agree least first."""
    measured = measure_rater_agreement(
        table.unit[people],
        table.rater[people],
        table.outcome[people],
        len(table.rater_ids),
        table.comparison_of_unit,
    )
    name_of = {r.id: r.name for r in list_raters(store)}
    found = [NamedRaterAgreement(id, name_of[id], one) for id, one in zip(table.rater_ids, measured) if one.vote_pairs]
    return sorted(found, key=lambda one: (one.agreement.share.value, one.name))
