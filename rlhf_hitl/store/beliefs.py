"""What is believed of one comparison, given its votes, what was last measured of its raters, and the witness.

This is for the queue and for pages, which need it at once and for one comparison. Labels that train or measure are
fitted to all votes anew (`labels/`) and never read from here.

Where judgments measure the reward model (calibration, held-out, controls, audits), judges' votes are left out, and the
witness has no say (`witness.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.stats.entropy import entropy_in_nats
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.quality_tables import label_fits, labels, rater_estimates
from rlhf_hitl.store.tables import comparisons, judgments, prompts, raters
from rlhf_hitl.store.witness import load_witness, measures_reward_model
from rlhf_hitl.types import Role, Route, Verdict
from rlhf_hitl.types.votes import read_pair_votes

if TYPE_CHECKING:
    import numpy as np

    from rlhf_hitl.stats.rater_population import RaterPopulation
    from rlhf_hitl.stats.value_of_vote import Belief


#: What a lead says where an escalated comparison is decided; else another lead is asked.
DECISIONS = (Verdict.RANKED, Verdict.ALL_BAD)
LabelState = Literal["open", "sure", "split", "adjudicated"]


@dataclass(frozen=True)
class PairBelief:
    """What is believed of a pair.

    Attributes:
        label: (3,) the probabilities that the reference rater says first better, tie, second better, by the votes.
        consensus: (3,) the same with the witness.
        next_vote: what the next rater will say, with the witness.
        votes: how many there are. weight: how many votes of a reference rater would say as much.
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
    """

    comparison_id: str
    route: Route
    pairs: tuple[PairBelief, ...]
    fit_id: str | None
    decided: bool


class _Vote(NamedTuple):
    rater_id: str
    outcome: int
    side: int
    weight: float


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
    left_out = {Role.LEAD, Role.JUDGE} if comparison.measures else {Role.LEAD}
    votes = _group_by_pair([row for row in current if row["role"] not in left_out])
    model = _load_pair_model(conn, {vote.rater_id for of_pair in votes.values() for vote in of_pair})
    witness = load_witness(conn, comparison_id)
    pairs = [
        model.believe(first, second, votes.get((first, second), []), witness.get((first, second)))
        for first, second in combinations(sorted(comparison.completion_ids), 2)
    ]
    return ComparisonBelief(comparison_id, Route(comparison.route), tuple(pairs), model.fit_id, decided)


def save_beliefs(store: Store, conn: Connection, belief: ComparisonBelief, state: LabelState, now: datetime) -> None:
    """Keep what is believed of a comparison in `labels`, where pages and the catalog find it."""
    for pair in belief.pairs:
        label, consensus = pair.label.tolist(), pair.consensus.tolist()
        row = {"comparison_id": belief.comparison_id, "first": pair.first, "second": pair.second}
        row |= dict(zip(("p_first", "p_tie", "p_second"), label))
        row |= dict(zip(("c_first", "c_tie", "c_second"), consensus))
        row |= {"entropy": entropy_in_nats(label), "votes": pair.votes, "weight": pair.weight}
        row |= {"state": state, "fit_id": belief.fit_id, "updated_at": now}
        conn.execute(_make_upsert(store.is_sqlite), row)


@cache
def _make_upsert(is_sqlite: bool) -> Any:
    if is_sqlite:
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert
    statement = insert(labels)
    keys = list(labels.primary_key.columns)
    changed = {c.name: statement.excluded[c.name] for c in labels.c if not c.primary_key}
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)


def _group_by_pair(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[_Vote]]:
    votes: dict[tuple[str, str], list[_Vote]] = defaultdict(list)
    for row in rows:
        said = list(read_pair_votes(row["verdict"], row["ranking"], row["order_shown"], row["strength"]))
        # K completions have K (K - 1) / 2 pairs and weigh K - 1.
        ranked = len({i for vote in said for i in (vote.first, vote.second)})
        weight = 1.0 if row["vote_weight"] is None else row["vote_weight"]
        for vote in said:
            votes[vote.first, vote.second].append(_Vote(row["rater_id"], vote.outcome, vote.side, weight * 2 / ranked))
    return votes


_COMPARISON = (
    sa.select(
        *(comparisons.c[name] for name in ("completion_ids", "route", "repeat_of", "is_gold")),
        measures_reward_model().label("measures"),
    )
    .join(prompts, prompts.c.id == comparisons.c.prompt_id)
    .where(comparisons.c.id == sa.bindparam("comparison"))
)
_READ = ("id", "rater_id", "verdict", "ranking", "order_shown", "strength", "role", "surplus", "supersedes")
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
        self, first: str, second: str, votes: Sequence[_Vote], witness: tuple[float, float, float] | None
    ) -> PairBelief:
        import numpy as np

        from rlhf_hitl.stats.rater_population import compute_pair_posterior, compute_reference_probabilities
        from rlhf_hitl.stats.value_of_vote import make_belief

        rows = np.array([self.raters[vote.rater_id] for vote in votes])
        outcomes, sides, weights = np.array([vote[1:] for vote in votes]).reshape(-1, 3).T
        said = self.population, rows, outcomes.astype(int), sides, weights
        by_votes = compute_pair_posterior(*said)
        with_witness = by_votes if witness is None else compute_pair_posterior(*said, witness=np.array(witness))
        reference = compute_reference_probabilities(self.population)
        return PairBelief(
            first,
            second,
            label=by_votes @ reference,
            consensus=with_witness @ reference,
            next_vote=make_belief(self.population, with_witness, by_votes),
            votes=len(votes),
            weight=float(weights @ rows[:, 0]) if len(votes) else 0.0,
        )


def _load_pair_model(conn: Connection, rater_ids: set[str]) -> _PairModel:
    from rlhf_hitl.stats.rater_population import RATER_COLUMNS, RaterPopulation  # numpy

    fit = conn.execute(_NEWEST_FIT).first()
    population = RaterPopulation.from_json({} if fit is None else fit.parameters)
    new_rater: Sequence[float] = population.describe_new_rater().tolist()
    known = dict.fromkeys(rater_ids, new_rater)
    if fit is not None:
        query = sa.select(rater_estimates).where(
            rater_estimates.c.fit_id == fit.id, rater_estimates.c.rater_id.in_(rater_ids)
        )
        known |= {row["rater_id"]: [row[c] for c in RATER_COLUMNS] for row in conn.execute(query).mappings()}
    return _PairModel(None if fit is None else fit.id, population, known)


_NEWEST_FIT = (
    sa.select(label_fits.c.id, label_fits.c.parameters)
    .where(label_fits.c.label_model == "raters")
    .order_by(label_fits.c.created_at.desc(), label_fits.c.id.desc())
    .limit(1)
)
