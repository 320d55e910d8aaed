"""Everything that happened to one comparison: its judgments, labels, decisions, scores, assignments and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from rlhf_hitl.errors import NotFound
from rlhf_hitl.store.catalog_entries import CatalogEntry, load_entries
from rlhf_hitl.store.comparisons import load_comparisons
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.quality_tables import assignments, findings, golds
from rlhf_hitl.store.tables import comparisons, judgments, places, raters, routings, scores
from rlhf_hitl.types import Comparison, Judgment, Score

#: Rows of each kind that are loaded, the newest; a page says how many there are.
MOST_ROWS = 200


@dataclass(frozen=True)
class KeptJudgment:
    """A judgment with its rater's name. `superseded_by` is the correction that takes its place, where there is one."""

    judgment: Judgment
    rater_name: str
    superseded_by: str | None

    @property
    def counts(self) -> bool:
        """Whether a label may rest on it."""
        return self.superseded_by is None and not self.judgment.surplus


@dataclass(frozen=True)
class ComparisonHistory:
    """One comparison with all that is kept of it, each list in the order it came.

    Attributes:
        routings, assignments, findings: rows of these tables by column; those of findings are about its raters, and
            not overruled. Those of assignments and findings have `rater_name`, those of routings `decider_name`.
        places: how many judgments are wanted, and how many of them are given, by raters.
        judgment_count: how many judgments there are, where not all are in `judgments`.
        gold: the row of its right answer, where it is gold.
    """

    comparison: Comparison
    entry: CatalogEntry
    source: str
    judgments: tuple[KeptJudgment, ...]
    judgment_count: int
    routings: tuple[RowMapping, ...]
    scores: tuple[Score, ...]
    assignments: tuple[RowMapping, ...]
    findings: tuple[RowMapping, ...]
    gold: RowMapping | None
    places: tuple[int, int]


def load_history(store: Store, comparison_id: str) -> ComparisonHistory:
    """Return all that is kept of a comparison.

    Raises:
        NotFound: the store has no such comparison.
    """
    with store.read() as conn:
        loaded = load_comparisons(conn, [comparison_id])
        if not loaded:
            raise NotFound(f"comparison {comparison_id[:80]!r}", expected="one in the store", fix="search for it")
        [entry] = load_entries(store, conn, [comparison_id], words=False)
        kept, count = _load_judgments(conn, comparison_id)
        decided = raters.alias()
        routed = sa.select(routings, decided.c.name.label("decider_name"))
        routed = routed.outerjoin(decided, decided.c.id == routings.c.decided_by)
        place_counts = sa.select(sa.func.count(), sa.func.count(places.c.judgment_id)).where(
            places.c.comparison_id == comparison_id, places.c.role == ""
        )
        scored = conn.execute(sa.select(scores).where(scores.c.comparison_id == comparison_id)).mappings()
        score_columns = [c.name for c in scores.c if c.name != "created_at"]
        rater_ids = {k.judgment.rater_id for k in kept}
        accusing = sa.select(findings, raters.c.name.label("rater_name")).join(
            raters, raters.c.id == findings.c.rater_id
        )
        accusing = accusing.where(store.among(findings.c.rater_id, rater_ids), findings.c.overruled_at.is_(None))
        reserved = sa.select(assignments, raters.c.name.label("rater_name"))
        reserved = reserved.join(raters, raters.c.id == assignments.c.rater_id)
        wanted, given = conn.execute(place_counts).one()
        return ComparisonHistory(
            comparison=loaded[comparison_id],
            entry=entry,
            source=conn.execute(sa.select(comparisons.c.source).where(comparisons.c.id == comparison_id)).scalar_one(),
            judgments=tuple(kept),
            judgment_count=count,
            routings=_read(conn, routed.where(routings.c.comparison_id == comparison_id), routings.c.seq),
            scores=tuple(Score(**{name: row[name] for name in score_columns}) for row in scored),
            assignments=_read(
                conn, reserved.where(assignments.c.comparison_id == comparison_id), assignments.c.created_at
            ),
            findings=_read(conn, accusing, findings.c.seq),
            gold=conn.execute(sa.select(golds).where(golds.c.comparison_id == comparison_id)).mappings().first(),
            places=(wanted, given),
        )


def _load_judgments(conn: Connection, comparison_id: str) -> tuple[Sequence[KeptJudgment], int]:
    """Return the newest judgments, in their order, and how many there are."""
    of_comparison = judgments.c.comparison_id == comparison_id
    query = sa.select(judgments, raters.c.name.label("rater_name")).join(raters, raters.c.id == judgments.c.rater_id)
    rows = conn.execute(query.where(of_comparison).order_by(judgments.c.seq.desc()).limit(MOST_ROWS)).mappings().all()
    count = len(rows)
    if count == MOST_ROWS:
        count = conn.execute(sa.select(sa.func.count()).where(of_comparison)).scalar_one()
    superseded_by = {row["supersedes"]: row["id"] for row in rows}
    kept = [KeptJudgment(Judgment.from_plain(r), r["rater_name"], superseded_by.get(r["id"])) for r in reversed(rows)]
    return kept, count


def _read(conn: Connection, query: sa.Select[Any], order: sa.Column[Any]) -> tuple[RowMapping, ...]:
    """Return the newest rows of a query, in their order."""
    return tuple(reversed(conn.execute(query.order_by(order.desc()).limit(MOST_ROWS)).mappings().all()))
