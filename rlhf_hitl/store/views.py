"""Read-only queries of the pages: a rater's judgments and progress, and all raters' activity."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import median

import sqlalchemy as sa

from rlhf_hitl.errors import NotFound
from rlhf_hitl.store.comparisons import load_comparisons, measures_raters
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import IS_FIRST
from rlhf_hitl.store.queue.assignment import count_available
from rlhf_hitl.store.service_tables import tokens
from rlhf_hitl.store.tables import comparisons, judgments, places, raters
from rlhf_hitl.types import Comparison, Judgment, utc_now
from rlhf_hitl.types.messages import hide_reasoning


@dataclass(frozen=True)
class RaterProgress:
    """The number of comparisons that a rater has `done` since a time, and that are at least `left` for them.

    `left` is 0 where nothing is left, 1 below ten, and else rounded down to tens.
    """

    done: int
    left: int


@dataclass(frozen=True)
class RaterActivity:
    """How much a rater has judged. A correction is not a second judgment. Days are UTC days, as for quotas.

    `by_day` counts what they judged on each of the last days, today's last; `seconds` is the median active time of
    their newest judgments, None where none was measured.
    """

    in_all: int
    by_day: tuple[int, ...]
    seconds: float | None
    judged_at: datetime | None
    signed_in_at: datetime | None

    @property
    def today(self) -> int:
        return self.by_day[-1]

    @property
    def seen_at(self) -> datetime | None:
        return max(filter(None, (self.judged_at, self.signed_in_at)), default=None)


@dataclass(frozen=True)
class FoundJudgments:
    """Judgments that were searched for, with their comparisons, newest first.

    `searched` counts the judgments that were looked at. With `has_more` there are more that match; with
    `ran_out_of_time` older ones were not looked at.
    """

    judged: list[tuple[Judgment, Comparison]]
    searched: int
    has_more: bool
    ran_out_of_time: bool = False


def load_newest_judgment(store: Store, rater_id: str) -> tuple[Judgment, Comparison] | None:
    """Return a rater's newest judgment and its comparison; None before their first."""
    return next(iter(list_current_judgments(store, rater_id, 1)), None)


def load_current_judgment(store: Store, rater_id: str, judgment_id: str) -> tuple[Judgment, Comparison]:
    """Return the newest correction of a rater's judgment (or the judgment itself), and its comparison.

    Raises:
        NotFound: they have none of that id.
    """
    requested = judgments.alias()
    newest = sa.select(sa.func.max(judgments.c.seq)).where(
        judgments.c.rater_id == rater_id,
        judgments.c.comparison_id == requested.c.comparison_id,
        requested.c.id == judgment_id,
        requested.c.rater_id == rater_id,
    )
    with store.read() as conn:
        seq = conn.execute(newest).scalar()
    if seq is None:
        raise NotFound(f"judgment {judgment_id!r}", expected="one of your own", fix="pick it from your history")
    return list_current_judgments(store, rater_id, 1, upto=seq)[0]


def list_current_judgments(
    store: Store, rater_id: str, limit: int, *, upto: int | None = None
) -> list[tuple[Judgment, Comparison]]:
    """Return a rater's judgments that are not superseded, with their comparisons, newest first; up to `seq` `upto`."""
    newer = judgments.alias()
    query = sa.select(judgments).where(
        judgments.c.rater_id == rater_id, ~sa.exists().where(newer.c.supersedes == judgments.c.id)
    )
    if upto is not None:
        query = query.where(judgments.c.seq <= upto)
    with store.read() as conn:
        current = [
            Judgment.from_plain(row)
            for row in conn.execute(query.order_by(judgments.c.seq.desc()).limit(limit)).mappings()
        ]
        comparisons_by_id = load_comparisons(conn, [j.comparison_id for j in current])
    return [(j, comparisons_by_id[j.comparison_id]) for j in current]


def search_current_judgments(
    store: Store, rater_id: str, words: Sequence[str], limit: int, *, seconds: float = 1.0
) -> FoundJudgments:
    """Return a rater's newest judgments that are not superseded and hold every word, whatever its case.

    The prompt, the completions and the rationale are searched. Databases do not fold the case of all scripts, so this
    is done here, and ends after some time.

    Args:
        words: what must occur; none: every judgment is found.
        limit: how many are returned.
        seconds: how long older judgments are still looked at. The first `limit` always are.
    """
    wanted, ends_at = [word.casefold() for word in words], time.monotonic() + seconds
    found: list[tuple[Judgment, Comparison]] = []
    searched, upto = 0, None
    while len(found) <= limit:
        batch = list_current_judgments(store, rater_id, limit + 1, upto=upto)
        found += [judged for judged in batch if all(word in _fold_texts(*judged) for word in wanted)]
        searched += len(batch)
        if len(batch) <= limit:
            return FoundJudgments(found[:limit], searched, has_more=len(found) > limit)
        if time.monotonic() > ends_at:
            return FoundJudgments(found[:limit], searched, has_more=len(found) > limit, ran_out_of_time=True)
        upto = batch[-1][0].seq - 1
    return FoundJudgments(found[:limit], searched, has_more=True)


def _fold_texts(judgment: Judgment, comparison: Comparison) -> str:
    """Return all texts of a judgment and its comparison, in one case: without reasoning, which may be hidden."""
    chats = [comparison.prompt.messages, *(completion.messages for completion in comparison.completions)]
    chats = [hide_reasoning(chat) for chat in chats]
    return "\n".join([judgment.answer.rationale, *(m.read_all_text() for chat in chats for m in chat)]).casefold()


def load_progress(
    store: Store, rater_id: str, since: datetime, *, cap: int = 1000, now: datetime | None = None
) -> RaterProgress:
    """Count the comparisons that a rater has judged since a time and those that are left for them.

    `left` stops counting at `cap`, so that the time this takes does not grow with the queue. It is not exact, because a
    hidden repeat would show by it: judging one leaves as many as there were.
    """
    now = now or utc_now()
    done = sa.select(sa.func.count()).where(judgments.c.rater_id == rater_id, judgments.c.created_at >= since, IS_FIRST)
    is_held = (places.c.rater_id == rater_id, places.c.judgment_id.is_(None), places.c.leased_until > now)
    held = sa.select(sa.func.count(), sa.func.count(sa.case((measures_raters(), 1))))
    held = held.select_from(places.join(comparisons)).where(*is_held, places.c.role == "")
    with store.read() as conn:
        in_all, measuring = conn.execute(held).one()
        left = min(in_all - measuring + count_available(conn, rater_id, now, cap), cap)
        return RaterProgress(conn.execute(done).scalar_one(), round_left(left) or int(in_all > 0))


def round_left(left: int) -> int:
    """Return how many comparisons are left as raters are told: rounded down to tens, and 1 below ten."""
    return left // 10 * 10 or int(left > 0)


def load_activity(
    store: Store, *, days: int = 14, newest: int = 50, now: datetime | None = None
) -> dict[str, RaterActivity]:
    """Return rater id → activity, for every rater. This takes two statements, however many raters there are.

    Args:
        days: the number of days that `by_day` covers.
        newest: the number of each rater's newest judgments whose median is `seconds`.
    """
    today = (now or utc_now()).astimezone(UTC).date()
    covered_days = [today - timedelta(days=days - 1 - i) for i in range(days)]
    since = datetime.combine(covered_days[0], datetime.min.time(), UTC)
    day = sa.case((judgments.c.created_at >= since, sa.func.date(judgments.c.created_at, type_=sa.Date)))
    judgments_by_day = sa.select(
        judgments.c.rater_id,
        day.label("day"),
        sa.func.count(sa.case((IS_FIRST, 1))),
        sa.type_coerce(sa.func.max(judgments.c.created_at), judgments.c.created_at.type),
    ).group_by(judgments.c.rater_id, "day")
    counts: dict[str, dict[date | None, int]] = {}
    last: dict[str, datetime] = {}
    with store.read() as conn:
        for rater, judged_on, count, newest_at in conn.execute(judgments_by_day):
            counts.setdefault(rater, {})[judged_on] = count
            last[rater] = max(newest_at, last.get(rater, newest_at))
        return {
            row.id: RaterActivity(
                in_all=sum(counts.get(row.id, {}).values()),
                by_day=tuple(counts.get(row.id, {}).get(date, 0) for date in covered_days),
                seconds=median(row.seconds) if row.seconds else None,
                judged_at=last.get(row.id),
                signed_in_at=row.signed_in_at,
            )
            for row in conn.execute(_select_activity_of_raters(store, newest))
        }


def _select_activity_of_raters(store: Store, newest: int) -> sa.Select:
    """Select the active seconds of every rater's newest judgments, and when they last signed in.

    The subqueries run for each rater, so that this is some index scans for each and not a scan of all judgments.
    """
    corrected = judgments.alias()
    recent = (
        sa.select(judgments.c.active_seconds)
        .where(
            judgments.c.rater_id == raters.c.id,
            judgments.c.active_seconds.is_not(None),
            ~sa.exists().where(corrected.c.supersedes == judgments.c.id),
        )
        .order_by(judgments.c.seq.desc())
        .limit(newest)
        .correlate(raters)
        .subquery()
    )
    aggregate = sa.func.json_group_array if store.is_sqlite else sa.func.json_agg
    seconds = sa.select(aggregate(recent.c.active_seconds, type_=sa.JSON)).scalar_subquery()
    session = sa.select(sa.func.max(tokens.c.created_at)).where(
        tokens.c.rater_id == raters.c.id, tokens.c.kind == "session"
    )
    signed_in_at = sa.type_coerce(session.correlate(raters).scalar_subquery(), tokens.c.created_at.type)
    return sa.select(raters.c.id, seconds.label("seconds"), signed_in_at.label("signed_in_at"))
