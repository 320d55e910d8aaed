"""The witness: what a reward model says of pairs whose prompt it saw nothing of.

Its word helps to decide when enough votes are in. It is in no label: nothing that trains or measures a reward model
reads this module (`labels/consensus.py` says who does). And it has no say where judgments measure the model, in the
calibration and held-out splits and in controls and audits: a model that stops raters where they agree with it would be
measured by votes that it chose.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.quality_tables import out_of_fold
from rlhf_hitl.store.tables import comparisons, lanes, projects, prompts, reward_models, routings
from rlhf_hitl.types import Route, Split

#: The routes whose judgments measure the reward model.
MEASURING_ROUTES = (Route.CONTROL, Route.AUDIT)
#: Rows of one transaction, which takes some milliseconds: raters wait meanwhile.
ROWS_AT_ONCE = 500


def measures_reward_model() -> sa.ColumnElement[bool]:
    """Whether judgments on a comparison measure the reward model; for a query on `comparisons` and `prompts`.

    What was drawn to measure it does so for ever: whoever sends it on because raters are split changes its route only.
    """
    routes = [route.value for route in MEASURING_ROUTES]
    drawn = sa.exists().where(routings.c.comparison_id == comparisons.c.id, routings.c.route.in_(routes))
    return sa.or_(prompts.c.split != Split.TRAIN.value, comparisons.c.route.in_(routes), drawn)


class PairProbabilities(NamedTuple):
    """The probabilities of a pair's outcomes, as a model sees them."""

    comparison_id: str
    first: str
    second: str
    probabilities: tuple[float, float, float]  # first better, tie, second better


def insert_out_of_fold(store: Store, reward_model_id: str, pairs: Sequence[PairProbabilities]) -> None:
    """Keep what a reward model that saw nothing of the pairs' prompts says of them. What it said before stays."""
    for start in range(0, len(pairs), ROWS_AT_ONCE):
        rows = [
            {"comparison_id": comparison_id, "reward_model_id": reward_model_id, "first": first, "second": second}
            | dict(zip(("p_first", "p_tie", "p_second"), probabilities))
            for comparison_id, first, second, probabilities in pairs[start : start + ROWS_AT_ONCE]
        ]
        with store.write() as conn:
            store.insert_new(conn, out_of_fold, rows)


def load_witness(conn: Connection, comparison_id: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Return (first, second) → what the newest reward model that may bear witness says of a comparison's pairs."""
    rows = conn.execute(_WITNESS, {"comparison": comparison_id}).all()
    return {(row.first, row.second): (row.p_first, row.p_tie, row.p_second) for row in rows}  # the newest comes last


_OLDEST_FIRST = (
    sa.select(out_of_fold)
    .join(reward_models, reward_models.c.id == out_of_fold.c.reward_model_id)
    .join(comparisons, comparisons.c.id == out_of_fold.c.comparison_id)
    .join(prompts, prompts.c.id == comparisons.c.prompt_id)
    .where(~measures_reward_model())
    .order_by(reward_models.c.created_at, reward_models.c.id)
)
_WITNESS = _OLDEST_FIRST.where(out_of_fold.c.comparison_id == sa.bindparam("comparison"))


def read_witnesses(store: Store, comparison_ids: Collection[str] | None = None) -> list[PairProbabilities]:
    """Return for each pair that a witness knows what the newest of them says, in order of comparison and pair.

    Args:
        comparison_ids: only of these comparisons.
    """
    newest: dict[tuple[str, str, str], PairProbabilities] = {}
    query = _OLDEST_FIRST
    if comparison_ids is not None:
        query = query.where(store.among(out_of_fold.c.comparison_id, comparison_ids))
    with store.read() as conn:
        for row in conn.execute(query):
            key = row.comparison_id, row.first, row.second
            newest[key] = PairProbabilities(*key, (row.p_first, row.p_tie, row.p_second))
    return [newest[key] for key in sorted(newest)]


def read_words(store: Store, reward_model_id: str, comparison_ids: Collection[str]) -> list[PairProbabilities]:
    """Return what a reward model that saw nothing of the prompt says of the pairs of some comparisons."""
    query = sa.select(out_of_fold).where(
        out_of_fold.c.reward_model_id == reward_model_id, store.among(out_of_fold.c.comparison_id, comparison_ids)
    )
    with store.read() as conn:
        rows = conn.execute(query.order_by(out_of_fold.c.comparison_id, out_of_fold.c.first, out_of_fold.c.second))
        return [_to_pair(row) for row in rows]


def read_words_drawn_at_random(store: Store, reward_model_id: str) -> list[PairProbabilities]:
    """Return what a reward model that saw nothing of the prompt says of the pairs of training comparisons that came to
    raters at random. What a router chose to have judged is harder than the rest, and tells nothing of its errors.

    Those are the controls, and what raters judged before any routing in a project with a fixed overlap: with an overlap
    rule the witness's own word may have ended the votes where raters agreed with it.
    """
    routed = sa.exists().where(routings.c.comparison_id == comparisons.c.id)
    control = sa.exists().where(routings.c.comparison_id == comparisons.c.id, routings.c.route == Route.CONTROL.value)
    query = (
        sa.select(out_of_fold)
        .join(comparisons, comparisons.c.id == out_of_fold.c.comparison_id)
        .join(prompts, prompts.c.id == comparisons.c.prompt_id)
        .join(lanes, lanes.c.id == comparisons.c.lane_id)
        .join(projects, projects.c.id == lanes.c.project_id)
        .where(
            out_of_fold.c.reward_model_id == reward_model_id,
            prompts.c.split == Split.TRAIN.value,
            sa.or_(control, sa.and_(~routed, projects.c.overlap_rule.is_(None))),
        )
        .order_by(out_of_fold.c.comparison_id, out_of_fold.c.first, out_of_fold.c.second)
    )
    with store.read() as conn:
        return [_to_pair(row) for row in conn.execute(query)]


def _to_pair(row: Any) -> PairProbabilities:
    return PairProbabilities(row.comparison_id, row.first, row.second, (row.p_first, row.p_tie, row.p_second))


def find_newest_witness(store: Store) -> str | None:
    """Return the id of the newest reward model that may bear witness; None where none may."""
    newest_first = _OLDEST_FIRST.with_only_columns(reward_models.c.id).order_by(None)
    newest_first = newest_first.order_by(reward_models.c.created_at.desc(), reward_models.c.id.desc())
    with store.read() as conn:
        return conn.execute(newest_first.limit(1)).scalar()
