"""What is believed of one comparison, given its votes, what was last measured of its raters, and the witness.

This is for the queue and for pages, which need it at once and for one comparison. Labels that train or measure are
fitted to all votes anew (`labels/`) and never read from here.

What counts in a label counts here, in the same way (`types/votes.py`), and a lead's decision goes before all votes.
Where judgments measure the reward model (calibration, held-out, controls, audits), the witness has no say
(`witness.py`), and judges have none in when to stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.label_fits import (
    LabelState,
    load_newest_fit,
    load_rater_estimates,
    make_label_row,
    save_label_rows,
)
from rlhf_hitl.store.tables import comparisons, judgments, prompts, raters
from rlhf_hitl.store.witness import load_witness, measures_reward_model
from rlhf_hitl.types import Role, Route, Split, Verdict
from rlhf_hitl.types.votes import LabelVote, PairVotes, VotePart, gather_pair_votes, get_winner

if TYPE_CHECKING:
    import numpy as np

    from rlhf_hitl.stats.rater_population import RaterPopulation
    from rlhf_hitl.stats.value_of_vote import Belief


#: What a lead says where an escalated comparison is decided; else another lead is asked.
DECISIONS = (Verdict.RANKED, Verdict.ALL_BAD)


@dataclass(frozen=True)
class PairBelief:
    """What is believed of a pair.

    Attributes:
        label: (3,) the probabilities that the reference rater says first better, tie, second better, by the votes; or
            what a lead has decided.
        consensus: (3,) the same with the witness.
        next_vote: what the next rater will say, with the witness.
        votes, weight: see `make_label_row`.
    """

    first: str
    second: str
    label: np.ndarray
    consensus: np.ndarray
    next_vote: Belief
    votes: int
    weight: float


@dataclass(frozen=True)
class ComparisonBelief:
    """What is believed of a comparison's pairs.

    Attributes:
        fit_id: the fit of the rater model; None where none was made yet.
        decided: a lead has decided it, whatever the votes say.
        unanimous: there are votes, and of no pair do two of them say different things. The rater model may still expect
            that raters differ, but none has. Judges who have no say in when to stop are not among them.
    """

    comparison_id: str
    route: Route
    pairs: tuple[PairBelief, ...]
    fit_id: str | None
    decided: bool
    unanimous: bool = False


def believe(conn: Connection, comparison_id: str, new: Mapping[str, Any] | None = None) -> ComparisonBelief | None:
    """Return what is believed of a comparison by the votes on it; None of hidden repeats and gold.

    Args:
        new: the row of a judgment that is not in the store yet.
    """
    of = {"comparison": comparison_id}
    comparison = conn.execute(_COMPARISON, of).one()
    if comparison.repeat_of is not None or comparison.is_gold:
        return None
    rows: list[Any] = list(conn.execute(_JUDGMENTS, of).mappings())
    if new is not None:
        query = sa.select(raters.c.vote_weight).where(raters.c.id == new["rater_id"])
        rows.append({**new, "vote_weight": conn.execute(query).scalar()})
    superseded = {row["supersedes"] for row in rows}
    current = [row for row in rows if row["id"] not in superseded and not row["surplus"]]
    decided = any(row["role"] == Role.LEAD and row["verdict"] in DECISIONS for row in current)
    counted = [row for row in current if row["role"] != Role.JUDGE or comparison.split == Split.TRAIN]
    votes = gather_pair_votes([_to_vote(row) for row in counted])
    model = _load_pair_model(conn, {part.rater_id for said in votes.values() for part in said.parts})
    judges = {row["rater_id"] for row in counted if row["role"] == Role.JUDGE} if comparison.measures else set()
    witness = load_witness(conn, comparison_id)
    pairs = [
        model.believe(pair, votes.get(pair, PairVotes()), witness.get(pair), judges)
        for pair in combinations(sorted(comparison.completion_ids), 2)
    ]
    return ComparisonBelief(
        comparison_id, Route(comparison.route), tuple(pairs), model.fit_id, decided, _agree(votes.values(), judges)
    )


def _agree(votes: Iterable[PairVotes], judges: set[str]) -> bool:
    said = [{get_winner(part.outcome) for part in pair.parts if part.rater_id not in judges} for pair in votes]
    return max(map(len, said), default=0) == 1


def save_beliefs(store: Store, conn: Connection, belief: ComparisonBelief, state: LabelState, now: datetime) -> None:
    """Keep what is believed of a comparison in `labels`, where pages and the catalog find it."""
    rows = [
        make_label_row(
            (belief.comparison_id, pair.first, pair.second),
            pair.label.tolist(),
            pair.consensus.tolist(),
            votes=pair.votes,
            weight=pair.weight,
            state=state,
            fit_id=belief.fit_id,
            now=now,
        )
        for pair in belief.pairs
    ]
    save_label_rows(store, conn, rows)


def _to_vote(row: Mapping[str, Any]) -> LabelVote:
    return LabelVote(
        row["rater_id"],
        row["role"] or Role.RATER.value,
        row["verdict"],
        row["ranking"],
        row["order_shown"],
        row["strength"],
        weight=1.0 if row["vote_weight"] is None else row["vote_weight"],
        probabilities=row.get("probabilities"),
    )


_COMPARISON = (
    sa.select(
        *(comparisons.c[name] for name in ("completion_ids", "route", "repeat_of", "is_gold")),
        prompts.c.split,
        measures_reward_model().label("measures"),
    )
    .join(prompts, prompts.c.id == comparisons.c.prompt_id)
    .where(comparisons.c.id == sa.bindparam("comparison"))
)
_READ = (
    *("id", "rater_id", "verdict", "ranking", "order_shown", "strength", "role", "surplus", "supersedes"),
    "probabilities",
)
_JUDGMENTS = (
    sa.select(*(judgments.c[name] for name in _READ), raters.c.vote_weight)
    .join(raters, raters.c.id == judgments.c.rater_id)
    .where(judgments.c.comparison_id == sa.bindparam("comparison"))
    .order_by(judgments.c.seq)
)


@dataclass(frozen=True)
class _PairModel:
    """The newest fit of the rater model: its population, and what it says of the raters of one comparison."""

    fit_id: str | None
    population: RaterPopulation
    raters: Mapping[str, Sequence[float]]

    def believe(
        self, pair: tuple[str, str], said: PairVotes, witness: tuple[float, float, float] | None, judges: set[str]
    ) -> PairBelief:
        """Return what is believed of a pair; `judges` have no say in when to stop."""
        import numpy as np

        from rlhf_hitl.stats.rater_population import compute_reference_probabilities, compute_vote_worth
        from rlhf_hitl.stats.value_of_vote import make_belief

        of_votes = self._weigh(said.parts)
        with_witness = of_votes if witness is None else self._weigh(said.parts, np.array(witness))
        reference = compute_reference_probabilities(self.population)
        label, consensus = of_votes @ reference, with_witness @ reference
        worth = sum(part.votes * compute_vote_worth(self.raters[part.rater_id]) for part in said.parts)
        if said.decided is not None:
            label = consensus = np.array(said.decided)
            worth += 1
        of_people = of_votes
        if judges:  # where there are any, there is no witness
            of_people = with_witness = self._weigh([part for part in said.parts if part.rater_id not in judges])
        return PairBelief(
            *pair,
            label=label,
            consensus=consensus,
            next_vote=make_belief(self.population, with_witness, of_people),
            votes=sum(said.counts),
            weight=worth,
        )

    def _weigh(self, parts: Sequence[VotePart], witness: np.ndarray | None = None) -> np.ndarray:
        """Return the probability of each state of a pair by votes, and a witness."""
        import numpy as np

        from rlhf_hitl.stats.rater_population import compute_pair_posterior

        rows = np.array([self.raters[part.rater_id] for part in parts])
        said = np.array([(part.outcome, part.side, part.weight) for part in parts], float).reshape(-1, 3)
        outcomes, sides = said[:, :2].T.astype(int)
        return compute_pair_posterior(self.population, rows, outcomes, sides, said[:, 2], witness=witness)


def _load_pair_model(conn: Connection, rater_ids: set[str]) -> _PairModel:
    from rlhf_hitl.stats.rater_population import RATER_COLUMNS, RaterPopulation  # numpy

    fit = load_newest_fit(conn, "raters")
    population = RaterPopulation.from_json({} if fit is None else fit.parameters)
    new_rater: Sequence[float] = population.describe_new_rater().tolist()
    known = dict.fromkeys(rater_ids, new_rater)
    if fit is not None:
        estimates = load_rater_estimates(conn, fit.id, rater_ids)
        known |= {row["rater_id"]: [row[column] for column in RATER_COLUMNS] for row in estimates}
    return _PairModel(None if fit is None else fit.id, population, known)
