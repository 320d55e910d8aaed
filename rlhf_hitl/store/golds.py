"""Golds: comparisons with a known right answer, and how raters answered them.

A gold is a comparison of its own, whatever else is in the store, and is in no label and no dataset
(`comparisons.measures_raters`). Its places are made when raters get it (`queue/gold_places.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.comparisons import (
    GOLD_SOURCE,
    find_or_create_lanes,
    insert_completions,
    insert_prompts,
    load_comparisons,
)
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import IS_FIRST
from rlhf_hitl.store.projects import check_enough_golds, require_project
from rlhf_hitl.store.quality_tables import golds
from rlhf_hitl.store.queue.gold_places import GOLD_ID
from rlhf_hitl.store.queue.places import is_free
from rlhf_hitl.store.tables import comparisons, judgments, places, projects
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Completion,
    Gold,
    GoldPurpose,
    GoldResult,
    Prompt,
    QualificationRule,
    Route,
    TutorialExample,
    Verdict,
    make_content_id,
    utc_now,
)

RESULTS_AT_ONCE = 500


def add_golds(
    store: Store,
    project: str,
    new: Sequence[TutorialExample],
    *,
    purpose: GoldPurpose = GoldPurpose.HIDDEN,
    language: str = "",
    by: audit.Actor = audit.CLI,
) -> int:
    """Add golds to a project, each given as a tutorial example is; return how many it did not have.

    One that the project has already, ended or not, is in use from now on with this answer, explanation and purpose.

    Args:
        language: the language of their prompts; empty: raters of any language get them.

    Raises:
        NotFound: there is no such project.
        BadInput: two of them are the same pair, two completions are the same, or a qualification would lack golds.
    """
    made = [(_make_comparison(example, language, project), example) for example in new]
    for i, (comparison, _) in enumerate(made):
        if comparison.id in {other.id for other, _ in made[:i]}:
            raise BadInput(
                f"example {i + 1}", expected="each pair once", fix="leave out one of those that are the same"
            )
    with store.write() as conn:
        _lock_project(conn, project)
        insert_prompts(store, conn, list({c.prompt.id: c.prompt for c, _ in made}.values()), GOLD_SOURCE)
        insert_completions(store, conn, list({a.id: a for c, _ in made for a in c.completions}.values()))
        lane_ids = find_or_create_lanes(store, conn, {(project, c.prompt.language, "") for c, _ in made})
        rows = [_to_comparison_row(c, lane_ids[project, c.prompt.language, ""]) for c, _ in made]
        added = store.insert_new(conn, comparisons, rows)
        store.insert_new(conn, golds, [_to_row(c, e, purpose) for c, e in made])
        for comparison, example in made:
            row = _to_row(comparison, example, purpose)
            changed = {k: row[k] for k in ("verdict", "ranking", "strength", "explanation", "purpose", "ended_at")}
            conn.execute(golds.update().where(golds.c.comparison_id == comparison.id).values(changed))
        _check_qualification(conn, project)
        audit.record(conn, by, "golds.added", project, golds=len(made), new=added, purpose=purpose.value)
    return added


def end_golds(store: Store, project: str, ids: Sequence[str], *, by: audit.Actor = audit.CLI) -> int:
    """Give golds to nobody any more, and return how many were still in use. Answers to them are kept, and still count.

    Whoever holds one may answer it.

    Raises:
        NotFound: the project does not have one of them.
        BadInput: the project's qualification would lack golds.
    """
    with store.write() as conn:
        _lock_project(conn, project)
        of_project = (golds.c.project_id == project, store.among(golds.c.comparison_id, ids))
        known = set(conn.execute(sa.select(golds.c.comparison_id).where(*of_project)).scalars())
        if unknown := sorted(set(ids) - known):
            raise NotFound(
                f"gold {unknown[0]!r}", expected=f"one of project {project}",
                fix=f"see `rlhf-hitl gold list --project {project}`",
            )  # fmt: skip
        ended = golds.update().where(*of_project, golds.c.ended_at.is_(None)).values(ended_at=utc_now())
        count = conn.execute(ended).rowcount
        repeats = sa.select(comparisons.c.id).where(
            sa.or_(store.among(comparisons.c.id, ids), store.among(comparisons.c.repeat_of, ids))
        )
        unfilled = (places.c.judgment_id.is_(None), places.c.reserved_for.is_not(None), is_free())
        conn.execute(places.delete().where(*unfilled, places.c.comparison_id.in_(repeats)), {"now": store.now(conn)})
        _check_qualification(conn, project)
        audit.record(conn, by, "golds.ended", project, golds=count)
    return count


def list_golds(store: Store, project: str | None = None, *, ended: bool = False) -> list[Gold]:
    """Return golds, oldest first: of one project or of all; with `ended` also those that are given to nobody."""
    query = sa.select(golds).order_by(golds.c.created_at, golds.c.comparison_id)
    if project is not None:
        query = query.where(golds.c.project_id == project)
    if not ended:
        query = query.where(golds.c.ended_at.is_(None))
    with store.read() as conn:
        rows = conn.execute(query).mappings().all()
        loaded: dict[str, Comparison] = {}
        for start in range(0, len(rows), RESULTS_AT_ONCE):
            loaded |= load_comparisons(conn, [row["comparison_id"] for row in rows[start : start + RESULTS_AT_ONCE]])
    return [
        Gold(
            loaded[row["comparison_id"]],
            Answer.from_plain(row),
            row["explanation"],
            GoldPurpose(row["purpose"]),
            row["ended_at"] is not None,
        )
        for row in rows
    ]


def read_gold_results(
    store: Store, *, project: str | None = None, rater_id: str | None = None, after: int = 0
) -> Iterator[GoldResult]:
    """Yield how raters answered golds, in the order of their answers, each by its right answer as it is now.

    The first answer counts: a rater may correct it after they were told the right one.

    Args:
        after: only answers whose `seq` is above this.
    """
    query = (
        sa.select(
            *(judgments.c[name] for name in ("seq", "id", "rater_id", "simulated", "created_at")),
            *(judgments.c[name].label(f"said_{name}") for name in ("verdict", "ranking")),
            *(golds.c[name] for name in ("comparison_id", "verdict", "ranking", "purpose")),
            comparisons.c.repeat_of,
        )
        .select_from(judgments)
        .join(comparisons, comparisons.c.id == judgments.c.comparison_id)
        .join(golds, golds.c.comparison_id == GOLD_ID)
        .where(IS_FIRST, judgments.c.surplus.is_(False))
        .order_by(judgments.c.seq)
        .limit(RESULTS_AT_ONCE)
    )
    if project is not None:
        query = query.where(golds.c.project_id == project)
    if rater_id is not None:
        query = query.where(judgments.c.rater_id == rater_id)
    while True:
        with store.read() as conn:
            rows = conn.execute(query.where(judgments.c.seq > after)).mappings().all()
        if not rows:
            return
        yield from map(_to_result, rows)
        after = rows[-1]["seq"]


def _to_result(row: RowMapping) -> GoldResult:
    said = Answer.from_plain({"verdict": row["said_verdict"], "ranking": row["said_ranking"]})
    right = Answer.from_plain({"verdict": row["verdict"], "ranking": row["ranking"]})
    return GoldResult(
        row["comparison_id"],
        row["rater_id"],
        GoldPurpose(row["purpose"]),
        right.prefers_same(said),
        said.verdict is Verdict.SKIPPED,
        row["repeat_of"] is not None,
        row["simulated"],
        row["created_at"],
        row["id"],
        row["seq"],
    )


def _make_comparison(example: TutorialExample, language: str, project: str) -> Comparison:
    """Return the comparison of an example, whose id is that of no other comparison of these texts."""
    prompt = Prompt.create(example.messages, {"language": language} if language else None)
    sides = [Completion.create(prompt.id, chat, GOLD_SOURCE) for chat in example.completions]
    made = Comparison.create(prompt, sides, overlap=0, project=project)  # it waits for nobody
    return Comparison(
        make_content_id("x", [c.id for c in made.completions], {"gold": project}),
        prompt, made.completions, made.overlap, made.route, project,
    )  # fmt: skip


def _to_comparison_row(comparison: Comparison, lane_id: int) -> dict:
    return {
        "id": comparison.id,
        "prompt_id": comparison.prompt.id,
        "completion_ids": [c.id for c in comparison.completions],
        "overlap": comparison.overlap,
        "route": Route.HUMAN.value,
        "source": GOLD_SOURCE,
        "created_at": utc_now(),
        "lane_id": lane_id,
        "is_gold": True,
    }


def _to_row(comparison: Comparison, example: TutorialExample, purpose: GoldPurpose) -> dict:
    """Return the row of a gold. The example's answer names positions, the row's names completions."""
    ids = [Completion.create(comparison.prompt.id, chat, GOLD_SOURCE).id for chat in example.completions]
    right = example.answer.rename_completions({str(i): id for i, id in enumerate(ids)})
    answer = {name: value for name, value in right.to_plain().items() if name in ("verdict", "ranking", "strength")}
    described = {
        "explanation": example.explanation,
        "purpose": purpose.value,
        "created_at": utc_now(),
        "ended_at": None,
    }
    return {"comparison_id": comparison.id, "project_id": comparison.project} | answer | described


def _lock_project(conn: Connection, project: str) -> None:
    """Lock a project, so that its golds and its qualification change one after the other."""
    require_project(conn, project)
    conn.execute(sa.select(projects.c.id).where(projects.c.id == project).with_for_update(key_share=True))


def _check_qualification(conn: Connection, project: str) -> None:
    rule = QualificationRule.from_plain(require_project(conn, project)["qualification"])
    if rule is not None:
        check_enough_golds(conn, project, rule)
