"""Prompts, completions and comparisons: in once, out in batches, never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import comparisons, completions, judgments, places, prompts, scores
from rlhf_hitl.types import Comparison, Completion, Prompt, Route, Split, as_dicts, messages, utc_now

BATCH = 500

# Who comes first in the queue: what a lead sent back, then the checks on the model (few, and worthless if they wait
# behind everything else), then what the model is unsure of. A million places in line between one route and the next.
PRIORITY = {Route.ESCALATED: 0, Route.CONTROL: 1_000_000, Route.AUDIT: 2_000_000, Route.HUMAN: 3_000_000}


def add_prompts(store: Store, conn: Connection, new: Sequence[Prompt], source: str = "") -> int:
    """Add prompts. A family that is in the store keeps its split, whatever the new prompt says. Returns how many."""
    store.lock(conn, "catalog")  # two importers at once could give one family two splits
    known = splits_of(conn, {p.family for p in new})
    rows = []
    for p in new:
        split = known.setdefault(p.family, p.split)
        rows.append(
            {
                "id": p.id,
                "family": p.family,
                "split": split.value,
                "messages": as_dicts(p.messages),
                "tags": dict(p.tags),
                "source": source,
                "created_at": utc_now(),
            }
        )
    return store.insert_new(conn, prompts, rows)


def add_completions(store: Store, conn: Connection, new: Sequence[Completion]) -> int:
    store.lock(conn, "catalog")
    return store.insert_new(
        conn,
        completions,
        [
            {
                "id": c.id,
                "prompt_id": c.prompt_id,
                "messages": as_dicts(c.messages),
                "policy": c.policy,
                "sampling": dict(c.sampling),
                "created_at": utc_now(),
            }
            for c in new
        ],
    )


def add_comparisons(store: Store, conn: Connection, new: Sequence[Comparison], source: str = "") -> int:
    """Add comparisons, their prompts and completions, and open the places their routes want. Returns how many."""
    add_prompts(store, conn, list({c.prompt.id: c.prompt for c in new}.values()), source)
    add_completions(store, conn, list({a.id: a for c in new for a in c.completions}.values()))
    known = known_ids(conn, "comparisons", [c.id for c in new])
    fresh = list({c.id: c for c in new if c.id not in known}.values())
    store.insert_new(
        conn,
        comparisons,
        [
            {
                "id": c.id,
                "prompt_id": c.prompt.id,
                "completion_ids": [a.id for a in c.completions],
                "overlap": c.overlap,
                "route": c.route.value,
                "source": source,
                "created_at": utc_now(),
            }
            for c in fresh
        ],
    )
    open_places(store, conn, [(c.id, c.overlap, c.route) for c in fresh])
    return len(fresh)


def open_places(store: Store, conn: Connection, wanted: Sequence[tuple[str, int, Route]]) -> None:
    """Open places 0..overlap-1 of each comparison that are not there yet; `auto` opens none."""
    rows = [
        {"comparison_id": cid, "n": n, "priority": PRIORITY[route], "shuffle": shuffle(cid)}
        for cid, overlap, route in wanted
        if route is not Route.AUTO
        for n in range(overlap)
    ]
    store.insert_new(conn, places, rows)


def shuffle(comparison_id: str) -> int:
    """A number that orders comparisons at random, the same on every machine."""
    return int(hashlib.sha256(comparison_id.encode()).hexdigest()[:7], 16)


def all_prompts(store: Store, *, split: Split | None = None) -> list[Prompt]:
    query = sa.select(prompts).order_by(prompts.c.id)
    if split is not None:
        query = query.where(prompts.c.split == split.value)
    with store.read() as conn:
        return [_prompt(r) for r in conn.execute(query).mappings()]


def find(
    store: Store,
    *,
    split: Split | None = None,
    routes: Sequence[Route] | None = None,
    source: str | None = None,
    judged: bool | None = None,
    unscored_by: str | None = None,
    ids: Sequence[str] | None = None,
) -> Iterator[Comparison]:
    """Comparisons that meet every condition given, whole, in order of id.

    Args:
        judged: only those that have (True) or have not (False) a judgment.
        unscored_by: only those without a score of this reward model.
    """
    query = sa.select(comparisons.c.id).order_by(comparisons.c.id)
    if split is not None:
        query = query.join(prompts, prompts.c.id == comparisons.c.prompt_id).where(prompts.c.split == split.value)
    if routes is not None:
        query = query.where(comparisons.c.route.in_([r.value for r in routes]))
    if source is not None:
        query = query.where(comparisons.c.source == source)
    if judged is not None:
        has = sa.exists().where(judgments.c.comparison_id == comparisons.c.id)
        query = query.where(has if judged else ~has)
    if unscored_by is not None:
        query = query.where(
            ~sa.exists().where(scores.c.comparison_id == comparisons.c.id, scores.c.reward_model_id == unscored_by)
        )
    if ids is not None:
        query = query.where(store.among(comparisons.c.id, ids))
    with store.read() as conn:
        found = list(conn.execute(query).scalars())
    rest = iter(found)
    while chunk := list(islice(rest, BATCH)):
        with store.read() as conn:
            loaded = load(conn, chunk)
        yield from (loaded[i] for i in chunk if i in loaded)


def load(conn: Connection, ids: Sequence[str]) -> dict[str, Comparison]:
    """Comparisons by id, whole. Meant for up to a few thousand ids."""
    rows = conn.execute(sa.select(comparisons).where(comparisons.c.id.in_(ids))).mappings().all()
    completion_ids = {i for r in rows for i in r["completion_ids"]}
    prompt_ids = {r["prompt_id"] for r in rows}
    answers = {
        r["id"]: _completion(r)
        for r in conn.execute(sa.select(completions).where(completions.c.id.in_(completion_ids))).mappings()
    }
    asked = {
        r["id"]: _prompt(r) for r in conn.execute(sa.select(prompts).where(prompts.c.id.in_(prompt_ids))).mappings()
    }
    return {
        r["id"]: Comparison(
            r["id"],
            asked[r["prompt_id"]],
            tuple(answers[i] for i in r["completion_ids"]),
            r["overlap"],
            Route(r["route"]),
        )
        for r in rows
    }


def counts(store: Store) -> dict[str, int]:
    """How much of everything there is."""
    from rlhf_hitl.store.tables import raters

    with store.read() as conn:
        out = {
            t.name: conn.execute(sa.select(sa.func.count()).select_from(t)).scalar_one()
            for t in (prompts, completions, comparisons, judgments, raters)
        }
        by_split = conn.execute(sa.select(prompts.c.split, sa.func.count()).group_by(prompts.c.split)).all()
    return out | {f"prompts.{split}": n for split, n in by_split}


def splits_of(conn: Connection, families: set[str]) -> dict[str, Split]:
    """The splits of those prompt families that are in the store."""
    out: dict[str, Split] = {}
    rest = iter(families)
    while chunk := list(islice(rest, BATCH)):
        query = sa.select(prompts.c.family, prompts.c.split).where(prompts.c.family.in_(chunk))
        out |= {family: Split(split) for family, split in conn.execute(query)}
    return out


def known_ids(conn: Connection, what: Literal["prompts", "completions", "comparisons"], ids: Iterable[str]) -> set[str]:
    """Those of the ids that are in the store."""
    column = {"prompts": prompts, "completions": completions, "comparisons": comparisons}[what].c.id
    out: set[str] = set()
    rest = iter(ids)
    while chunk := list(islice(rest, BATCH)):
        out |= set(conn.execute(sa.select(column).where(column.in_(chunk))).scalars())
    return out


def _prompt(row) -> Prompt:
    return Prompt(row["id"], messages(row["messages"]), Split(row["split"]), row["tags"])


def _completion(row) -> Completion:
    return Completion(row["id"], row["prompt_id"], messages(row["messages"]), row["policy"], row["sampling"])
