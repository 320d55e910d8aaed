"""Read the judgments that count as votes, without their texts: what labels are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa

from rlhf_hitl.store.comparisons import restrict_comparisons
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import find_role
from rlhf_hitl.store.table_copy import cast_to_plain
from rlhf_hitl.store.tables import comparisons, judgments, prompts, raters
from rlhf_hitl.types import Role, Split, Verdict

ROWS_AT_ONCE = 5000


class VoteRow(NamedTuple):
    """A judgment that counts as a vote; `ranking`, `order_shown` and `probabilities` are JSON."""

    comparison_id: str
    rater_id: str
    role: str | None
    verdict: str
    ranking: str
    order_shown: str
    strength: int | None
    simulated: int
    probabilities: str | None


_FIELDS = VoteRow._fields[1:]


def read_vote_rows(
    store: Store,
    *,
    split: Split | None = None,
    project: str | None = None,
    comparison_id: str | None = None,
    judges_measure: bool = False,
) -> Iterator[VoteRow]:
    """Yield the judgments that rank something, those of one comparison together.

    Superseded and surplus judgments are left out, those of hidden repeats and golds, and those of judges outside the
    train split: a model decides no label that measures models, unless `judges_measure`.
    """
    newer = judgments.alias()
    query = (
        sa.select(
            comparisons.c.id,
            *(
                find_role().label(name)
                if name == "role"
                else cast_to_plain(judgments.c[name], store.is_sqlite).label(name)
                for name in _FIELDS
            ),
        )
        .join_from(comparisons, judgments, judgments.c.comparison_id == comparisons.c.id)
        .where(
            judgments.c.verdict.in_([Verdict.RANKED.value, Verdict.ALL_BAD.value]),
            judgments.c.surplus.is_(False),
            ~sa.exists().where(newer.c.supersedes == judgments.c.id),
        )
        .order_by(comparisons.c.id, judgments.c.rater_id)
    )
    if comparison_id is not None:
        query = query.where(comparisons.c.id == comparison_id)
    query = restrict_comparisons(query, project=project, split=split, repeats=False)
    is_of_person = sa.func.coalesce(find_role(), "") != Role.JUDGE.value
    if judges_measure:
        pass
    elif split is None:
        query = query.join(prompts, prompts.c.id == comparisons.c.prompt_id)
        query = query.where(sa.or_(is_of_person, prompts.c.split == Split.TRAIN.value))
    elif split is not Split.TRAIN:
        query = query.where(is_of_person)
    with store.snapshot() as conn:  # PostgreSQL has a cursor within a transaction only
        rows: Any = conn.execution_options(yield_per=ROWS_AT_ONCE).execute(query)
        for row in rows:
            yield VoteRow._make(row)


def read_vote_weights(store: Store) -> dict[str, float]:
    """Return rater id → how much the rater's votes count (0 to 1), of those whose votes count less than 1."""
    query = sa.select(raters.c.id, raters.c.vote_weight).where(raters.c.vote_weight.is_not(None))
    with store.read() as conn:
        return dict(conn.execute(query).tuples().all())
