"""Judges, the places that are opened for them, and their calls. No key of an endpoint is ever in the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.comparisons import FIRST_PLACE, compute_queue_position
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.people import find_rater_id, insert_rater
from rlhf_hitl.store.quality_tables import judge_calls, judges, label_fits, rater_estimates
from rlhf_hitl.store.tables import comparisons, lanes, places, projects, prompts, raters
from rlhf_hitl.types import Role, Route, Split, utc_now
from rlhf_hitl.types.judges import CallOutcome, Judge, JudgeCall, JudgeSettings, JudgeTotals

_JUDGE = Role.JUDGE.value
#: Comparisons whose places are opened in one transaction.
OPENED_AT_ONCE = 500


def add_judge(store: Store, judge: Judge, *, by: audit.Actor = audit.CLI) -> Judge:
    """Add a judge, and the rater that it votes as. `judge.rater_id` is not read.

    Raises:
        BadInput: the name cannot be that of a new rater.
    """
    with store.write() as conn:
        rater = insert_rater(store, conn, judge.name, Role.JUDGE, None, by=by)
        row = {"rater_id": rater.id, "kind": judge.kind, "created_at": utc_now(), "settings": asdict(judge.settings)}
        row |= {name: getattr(judge, name) for name in ("model", "address", "template", "budget")}
        conn.execute(judges.insert().values(row))
        details = {"model": judge.model, "kind": judge.kind, "template": judge.template, "budget": judge.budget}
        audit.record(conn, by, "judge.added", rater.name, **details)
    return get_judge(store, rater.name)


def set_budget(store: Store, name: str, budget: float | None, *, by: audit.Actor = audit.CLI) -> Judge:
    """Change the most that a judge may cost; None: no limit.

    Raises:
        NotFound: there is no such judge.
    """
    judge = get_judge(store, name)
    with store.write() as conn:
        conn.execute(judges.update().where(judges.c.rater_id == judge.rater_id).values(budget=budget))
        audit.record(conn, by, "judge.changed", judge.name, budget=budget)
    return get_judge(store, name)


def get_judge(store: Store, name: str) -> Judge:
    """Return a judge by name.

    Raises:
        NotFound: nobody has this name, or they are no judge that can be asked (imported votes of a model cannot).
    """
    with store.read() as conn:
        rater_id = find_rater_id(conn, name)
        row = conn.execute(_JUDGES.where(judges.c.rater_id == rater_id)).mappings().first()
    if row is None:
        raise NotFound(f"judge {name!r}", expected="a judge that was added", fix="see `rlhf-hitl judges list`")
    return _to_judge(row)


def list_judges(store: Store) -> list[Judge]:
    """Return every judge that can be asked, by name."""
    with store.read() as conn:
        return [_to_judge(row) for row in conn.execute(_JUDGES.order_by(raters.c.name)).mappings()]


_JUDGES = sa.select(judges, raters.c.name).join(raters, raters.c.id == judges.c.rater_id)


def _to_judge(row: Any) -> Judge:
    settings = JudgeSettings.from_plain(row["settings"])
    return Judge(row["rater_id"], row["name"], row["model"], row["address"], row["template"], settings, row["budget"])


def open_judge_places(
    store: Store, *, project: str | None = None, split: Split | None = None, limit: int | None = None
) -> int:
    """Open the judgments that projects want of judges, where they are not open yet. Returns how many were opened.

    Comparisons come in order of id, which is random. A comparison that is accepted on a model's score, a gold and a
    hidden repeat get none.

    Args:
        limit: the most comparisons whose places are opened.
    """
    query = (
        sa.select(comparisons.c.id, comparisons.c.lane_id, comparisons.c.route, projects.c.judge_overlap)
        .join(lanes, lanes.c.id == comparisons.c.lane_id)
        .join(projects, projects.c.id == lanes.c.project_id)
        .where(
            projects.c.judge_overlap > 0,
            projects.c.paused_at.is_(None),
            comparisons.c.route != Route.AUTO.value,
            comparisons.c.repeat_of.is_(None),
            sa.func.coalesce(comparisons.c.is_gold, sa.false()).is_(sa.false()),
            # The last of the places is opened together with the others.
            ~sa.exists().where(
                places.c.comparison_id == comparisons.c.id,
                places.c.n == FIRST_PLACE[_JUDGE] + projects.c.judge_overlap - 1,
            ),
        )
        .order_by(comparisons.c.id)
        .limit(OPENED_AT_ONCE)
    )
    if project is not None:
        query = query.where(lanes.c.project_id == project)
    if split is not None:
        query = query.join(prompts, prompts.c.id == comparisons.c.prompt_id).where(prompts.c.split == split.value)
    opened, of_comparisons, after = 0, 0, ""
    while limit is None or of_comparisons < limit:
        with store.write() as conn:
            page = conn.execute(query.where(comparisons.c.id > after)).all()
            if not page:
                break
            page = page if limit is None else page[: limit - of_comparisons]
            rows = [
                {
                    "comparison_id": id,
                    "n": FIRST_PLACE[_JUDGE] + n,
                    "lane_id": lane,
                    "position": compute_queue_position(store, id, Route(route)),
                    "role": _JUDGE,
                }
                for id, lane, route, overlap in page
                for n in range(overlap)
            ]
            opened += store.insert_new(conn, places, rows)
            of_comparisons += len(page)
            after = page[-1].id
    return opened


def has_judge_overlap(store: Store) -> bool:
    """Whether a project wants judgments of judges."""
    with store.read() as conn:
        return conn.execute(sa.select(projects.c.id).where(projects.c.judge_overlap > 0).limit(1)).first() is not None


def count_open_judge_places(store: Store) -> int:
    """Count the places of judges that have no judgment, leased ones too."""
    with store.read() as conn:
        query = sa.select(sa.func.count()).select_from(places)
        query = query.where(places.c.role == _JUDGE, places.c.judgment_id.is_(None))
        return conn.execute(query).scalar_one()


def record_calls(store: Store, judge: Judge, comparison_id: str, calls: Sequence[JudgeCall]) -> list[int]:
    """Record calls about a comparison, and return their numbers, by which `link_calls` finds them."""
    numbers = []
    with store.write() as conn:
        for call in calls:
            row = asdict(call) | {
                "judge_id": judge.rater_id,
                "comparison_id": comparison_id,
                "template_version": judge.settings.template_version,
                "order_shown": list(call.order_shown),
                "outcome": call.outcome.value,
                "probabilities": None if call.probabilities is None else list(call.probabilities),
                "created_at": utc_now(),
            }
            numbers.append(conn.execute(judge_calls.insert().values(row).returning(judge_calls.c.seq)).scalar_one())
    return numbers


def link_calls(store: Store, numbers: Sequence[int], judgment_id: str) -> None:
    """Note to which judgment calls have led."""
    with store.write() as conn:
        conn.execute(judge_calls.update().where(judge_calls.c.seq.in_(numbers)).values(judgment_id=judgment_id))


def sum_calls(store: Store, judge: Judge) -> JudgeTotals:
    """Return what all calls of a judge come to."""
    own = judge_calls.c.judge_id == judge.rater_id
    sums = [sa.func.coalesce(sa.func.sum(judge_calls.c[name]), 0) for name in ("prompt_tokens", "completion_tokens")]
    sums += [sa.func.coalesce(sa.func.sum(judge_calls.c[name]), 0.0) for name in ("cost", "seconds")]
    judged = sa.func.count(sa.distinct(judge_calls.c.judgment_id))
    with store.read() as conn:
        counts = sa.select(judge_calls.c.outcome, sa.func.count()).where(own).group_by(judge_calls.c.outcome)
        by_outcome = dict(conn.execute(counts).tuples().all())
        judgments, *totals = conn.execute(sa.select(judged, *sums).where(own)).one()
    calls = {outcome.value: by_outcome.get(outcome.value, 0) for outcome in CallOutcome}
    return JudgeTotals(calls, judgments, *totals)


def sum_costs(store: Store, judge: Judge) -> float:
    """Return what all calls of a judge cost."""
    query = sa.select(sa.func.coalesce(sa.func.sum(judge_calls.c.cost), 0.0))
    with store.read() as conn:
        return conn.execute(query.where(judge_calls.c.judge_id == judge.rater_id)).scalar_one()


def find_unanswered(store: Store, judge: Judge, times: int) -> set[str]:
    """Return the comparisons that a judge has refused, or answered unreadably, so many times or more."""
    outcomes = [CallOutcome.REFUSED.value, CallOutcome.UNREADABLE.value]
    query = (
        sa.select(judge_calls.c.comparison_id)
        .where(judge_calls.c.judge_id == judge.rater_id, judge_calls.c.outcome.in_(outcomes))
        .group_by(judge_calls.c.comparison_id)
        .having(sa.func.count() >= times)
    )
    with store.read() as conn:
        return set(conn.execute(query).scalars())


def read_calls(store: Store, judge: Judge) -> Iterator[tuple[str, JudgeCall]]:
    """Yield (comparison id, call) of the answered calls of a judge that led to a judgment, in their order."""
    own = (
        judge_calls.c.judge_id == judge.rater_id,
        judge_calls.c.judgment_id.is_not(None),
        judge_calls.c.outcome == CallOutcome.ANSWERED.value,
    )
    names = [f for f in JudgeCall.__dataclass_fields__ if f not in ("order_shown", "outcome", "probabilities")]
    query = sa.select(judge_calls).where(*own).order_by(judge_calls.c.seq).limit(5000)
    after = 0
    while True:
        with store.read() as conn:
            rows = conn.execute(query.where(judge_calls.c.seq > after)).mappings().all()
        if not rows:
            return
        for row in rows:
            first, second = row["order_shown"]
            told = None if row["probabilities"] is None else tuple(row["probabilities"])
            yield (
                row["comparison_id"],
                JudgeCall((first, second), CallOutcome(row["outcome"]), told, **{n: row[n] for n in names}),
            )
        after = rows[-1]["seq"]


def find_reliability(store: Store, rater_id: str) -> tuple[float, float, float] | None:
    """Return a rater's reliability by the newest fit of labels that has them, with its 95 % interval."""
    fitted = rater_estimates.c
    query = sa.select(fitted.reliability, fitted.reliability_low, fitted.reliability_high).join(
        label_fits, label_fits.c.id == rater_estimates.c.fit_id
    )
    query = query.where(rater_estimates.c.rater_id == rater_id).order_by(label_fits.c.created_at.desc()).limit(1)
    with store.read() as conn:
        row = conn.execute(query).first()
    return None if row is None else (row[0], row[1], row[2])


def check_budget(budget: float | None) -> None:
    """Check that a budget is an amount.

    Raises:
        BadInput: it is not.
    """
    if budget is not None and not 0 < budget < 1e12:
        raise BadInput(f"budget {budget:g}", expected="an amount above 0", fix="give what all calls may cost")
