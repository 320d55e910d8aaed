"""What the rows of a restored store must be to each other where no foreign key says so."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store.quality_tables import golds, judge_calls, out_of_fold
from rlhf_hitl.store.service_tables import secrets
from rlhf_hitl.store.tables import (
    comparisons,
    completions,
    examples,
    images,
    judgments,
    leases,
    places,
    prompts,
    routings,
    scores,
)
from rlhf_hitl.types import Route, parse_messages
from rlhf_hitl.types.messages import list_images

ROWS_AT_ONCE = 500
FIX = "use an archive that was not altered"


def check_references(conn: Connection) -> None:
    """Check a filled store within the transaction that filled it.

    Raises:
        BadInput: a row refers to one that is not there, or that belongs to something else.
    """
    if conn.execute(sa.select(secrets.c.name).where(secrets.c.name == "draws")).first() is None:
        raise BadInput("secrets without 'draws'", expected="the key that the store draws by", fix=FIX)
    _check_completions_of_comparisons(conn)
    _check_images_of_messages(conn)
    for table, expected, query in _list_queries():
        if (found := conn.execute(query.limit(1)).first()) is not None:
            raise BadInput(f"{table} {found[0]!r}", expected=expected, fix=FIX)
    _check_what_names_completions(conn)


def _list_queries() -> list[tuple[str, str, sa.Select[Any]]]:
    """Return (table, what is expected, query for the rows that are not so)."""
    original, corrected, filled = comparisons.alias(), judgments.alias(), judgments.alias()
    held, lane = leases.alias(), comparisons.alias()
    is_same_work = (
        corrected.c.comparison_id == judgments.c.comparison_id, corrected.c.rater_id == judgments.c.rater_id,
        corrected.c.seq < judgments.c.seq,
    )  # fmt: skip
    return [
        (
            "comparisons", "a repeat of a comparison that is there, of the same prompt and completions",
            sa.select(comparisons.c.id).where(
                comparisons.c.repeat_of.is_not(None),
                ~sa.exists().where(
                    original.c.id == comparisons.c.repeat_of, original.c.prompt_id == comparisons.c.prompt_id,
                    original.c.lane_id == comparisons.c.lane_id, original.c.repeat_of.is_(None),
                ),
            ),
        ),
        (
            "comparisons", "the decision by which it is accepted, where it is",
            sa.select(comparisons.c.id).where(
                comparisons.c.accepted_seq.is_not(None),
                sa.or_(
                    comparisons.c.route != Route.AUTO.value,
                    ~sa.exists().where(
                        routings.c.seq == comparisons.c.accepted_seq, routings.c.comparison_id == comparisons.c.id,
                        routings.c.route == Route.AUTO.value,
                    ),
                ),
            ),
        ),
        (
            "comparisons", "a right answer in `golds` where it is gold, and only there",
            sa.select(comparisons.c.id).where(
                sa.func.coalesce(comparisons.c.is_gold, sa.false())
                != sa.exists().where(golds.c.comparison_id == comparisons.c.id)
            ),
        ),
        (
            "judgments", "a correction of an earlier judgment of the same rater and comparison",
            sa.select(judgments.c.id).where(
                judgments.c.supersedes.is_not(None),
                ~sa.exists().where(corrected.c.id == judgments.c.supersedes, *is_same_work),
            ),
        ),
        (
            "places of comparison", "a judgment of this comparison",
            sa.select(places.c.comparison_id).where(
                places.c.judgment_id.is_not(None),
                ~sa.exists().where(
                    filled.c.id == places.c.judgment_id, filled.c.comparison_id == places.c.comparison_id
                ),
            ),
        ),
        (
            "places of comparison", "a lease on this comparison, and its rater",
            sa.select(places.c.comparison_id).where(
                places.c.lease_id.is_not(None),
                sa.or_(
                    places.c.rater_id.is_(None),
                    ~sa.exists().where(held.c.id == places.c.lease_id, held.c.comparison_id == places.c.comparison_id),
                ),
            ),
        ),
        (
            "places of comparison", "the lane of the comparison",
            sa.select(places.c.comparison_id).where(
                ~sa.exists().where(lane.c.id == places.c.comparison_id, lane.c.lane_id == places.c.lane_id)
            ),
        ),
    ]  # fmt: skip


def _check_completions_of_comparisons(conn: Connection) -> None:
    query = sa.select(comparisons.c.id, comparisons.c.prompt_id, sa.cast(comparisons.c.completion_ids, sa.Text))
    for page in _read_pages(conn, query):
        ids_of = [(id, prompt_id, json.loads(text)) for id, prompt_id, text in page]
        wanted = list({i for _, _, ids in ids_of for i in ids})
        prompt_of: dict[str, str] = {}
        for start in range(0, len(wanted), ROWS_AT_ONCE):
            some = completions.c.id.in_(wanted[start : start + ROWS_AT_ONCE])
            prompt_of |= dict(conn.execute(sa.select(completions.c.id, completions.c.prompt_id).where(some)).all())
        for id, prompt_id, ids in ids_of:
            if any(prompt_of.get(i) != prompt_id for i in ids):
                raise BadInput(f"comparisons {id!r}", expected="completions of its prompt", fix=FIX)


def _check_images_of_messages(conn: Connection) -> None:
    known = set(conn.execute(sa.select(images.c.id)).scalars())
    for column in (prompts.c.messages, completions.c.messages, examples.c.messages, examples.c.completions):
        text = sa.cast(column, sa.Text)
        for page in _read_pages(conn, sa.select(column.table.c.id, text).where(text.contains('"img_'))):
            for id, found in page:
                chats = json.loads(found) if column.name == "completions" else [json.loads(found)]
                if any(image.id not in known for image in list_images(*map(parse_messages, chats))):
                    raise BadInput(f"{column.table.name} {id!r}", expected="images of the archive", fix=FIX)  # type: ignore[attr-defined]


def _check_what_names_completions(conn: Connection) -> None:
    """Check that judgments, leases and scores name completions of their comparison only."""
    for table, key, columns in (
        (judgments, judgments.c.id, (judgments.c.order_shown, judgments.c.ranking, judgments.c.scores)),
        (leases, leases.c.id, (leases.c.order_shown,)),
        (judge_calls, judge_calls.c.seq, (judge_calls.c.order_shown,)),
    ):
        texts = [sa.cast(c, sa.Text) for c in (comparisons.c.completion_ids, *columns)]
        query = sa.select(key, *texts).join_from(table, comparisons, comparisons.c.id == table.c.comparison_id)
        for page in _read_pages(conn, query):
            for id, *named in page:
                if not _names_only(*named):
                    raise BadInput(f"{table.name} {id!r}", expected="the completions of its comparison", fix=FIX)
    known = sa.cast(comparisons.c.completion_ids, sa.Text)
    query = sa.select(golds.c.comparison_id, known, sa.cast(golds.c.ranking, sa.Text))
    for page in _read_pages(conn, query.join(comparisons, comparisons.c.id == golds.c.comparison_id)):
        for id, ids, ranking in page:
            if not _names_only(ids, "[]", ranking):
                raise BadInput(f"golds {id!r}", expected="the completions of its comparison", fix=FIX)
    query = sa.select(out_of_fold.c.comparison_id, known, out_of_fold.c.first, out_of_fold.c.second)
    for page in _read_pages(conn, query.join(comparisons, comparisons.c.id == out_of_fold.c.comparison_id)):
        for id, ids, first, second in page:
            if not {first, second} <= set(json.loads(ids)) or first >= second:
                raise BadInput(f"out_of_fold of {id!r}", expected="two completions of its comparison", fix=FIX)
    sides = (scores.c.chosen, scores.c.rejected, sa.cast(scores.c.rewards, sa.Text))
    query = sa.select(scores.c.comparison_id, sa.cast(comparisons.c.completion_ids, sa.Text), *sides)
    for page in _read_pages(conn, query.join(comparisons, comparisons.c.id == scores.c.comparison_id)):
        for id, ids, chosen, rejected, rewards in page:
            if not {chosen, rejected, *json.loads(rewards)} <= set(json.loads(ids)):
                raise BadInput(f"scores of {id!r}", expected="the completions of its comparison", fix=FIX)


def _read_pages(conn: Connection, query: Any) -> Any:
    return conn.execute(query, execution_options={"yield_per": ROWS_AT_ONCE}).partitions()


@lru_cache(1000)
def _names_only(completion_ids: str, order_shown: str, ranking: str = "[]", scores: str = "{}") -> bool:
    """Whether an order shows each completion once, or is not known, and nothing else is ranked or scored."""
    known, order = json.loads(completion_ids), json.loads(order_shown)
    if order and sorted(order) != sorted(known):
        return False
    ranked = (i for group in json.loads(ranking) for i in group)
    scored = (i for axis in json.loads(scores).values() for i in axis)
    return set(known).issuperset({*ranked, *scored})
