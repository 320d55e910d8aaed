"""Prompts, completions and comparisons: inserted once, read in batches, never changed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import NotFound
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.images import keep_images
from rlhf_hitl.store.known_names import KnownNames
from rlhf_hitl.store.service_tables import promotion_draws
from rlhf_hitl.store.tables import comparisons, completions, judgments, lanes, places, projects, prompts, scores
from rlhf_hitl.types import (
    Comparison,
    Completion,
    OverlapRule,
    Prompt,
    Role,
    Route,
    Split,
    messages_to_dicts,
    parse_messages,
    parse_tools,
    utc_now,
)
from rlhf_hitl.types.messages import list_images

ROWS_PER_QUERY = 500
#: The source of golds, of prompts that came with them, and the policy that their completions are of.
GOLD_SOURCE = "gold"

# Which routes come first in the queue: escalations by a lead, then all others, at the rank that `human` has always had.
# Controls, which measure the model, have drawn places among what the model is unsure of (`routing/router.py`): a rater
# who knew them by their place could judge them otherwise.
ROUTE_RANK = {Route.ESCALATED: 0, Route.CONTROL: 3, Route.AUDIT: 3, Route.HUMAN: 3}


def insert_prompts(store: Store, conn: Connection, new: Sequence[Prompt], source: str = "") -> int:
    """Insert prompts and return how many were new. A family that is in the store keeps its split."""
    # Two concurrent imports could give one family two splits. The lock keeps the name that earlier versions lock too.
    store.lock(conn, "catalog")
    split_by_family = read_family_splits(conn, {p.family for p in new})
    keep_images(store.images, conn, list_images(*(p.messages for p in new)))
    rows = []
    for p in new:
        split = split_by_family.setdefault(p.family, p.split)
        rows.append(
            {
                "id": p.id,
                "family": p.family,
                "split": split.value,
                "messages": messages_to_dicts(p.messages),
                "tags": dict(p.tags),
                "source": source,
                "created_at": utc_now(),
                "tools": [tool.to_plain() for tool in p.tools] or None,
            }
        )
    return store.insert_new(conn, prompts, rows)


def insert_completions(store: Store, conn: Connection, new: Sequence[Completion]) -> int:
    """Insert completions and return how many were new.

    Raises:
        BadInput: a policy can be taken for another.
    """
    store.lock(conn, "catalog")
    known = KnownNames(lambda query: conn.execute(query).scalars())
    for policy in {c.policy for c in new}:
        known.check_policy(policy)
    keep_images(store.images, conn, list_images(*(c.messages for c in new)))
    return store.insert_new(
        conn,
        completions,
        [
            {
                "id": c.id,
                "prompt_id": c.prompt_id,
                "messages": messages_to_dicts(c.messages),
                "policy": c.policy,
                "sampling": dict(c.sampling),
                "created_at": utc_now(),
            }
            for c in new
        ],
    )


def insert_comparisons(store: Store, conn: Connection, new: Sequence[Comparison], source: str = "") -> int:
    """Insert comparisons with their prompts and completions, open their places, and return how many were new."""
    insert_prompts(store, conn, list({c.prompt.id: c.prompt for c in new}.values()), source)
    insert_completions(store, conn, list({a.id: a for c in new for a in c.completions}.values()))
    existing = find_existing_ids(conn, "comparisons", [c.id for c in new])
    added = list({c.id: c for c in new if c.id not in existing}.values())
    lane_ids = find_or_create_lanes(store, conn, {(c.project, c.prompt.language, c.batch) for c in added})
    least = read_least_overlaps(conn, {c.project for c in added})
    rows = [
        {
            "id": c.id,
            "prompt_id": c.prompt.id,
            "completion_ids": [a.id for a in c.completions],
            "overlap": least.get(c.project, c.overlap) if c.overlap else 0,
            "route": c.route.value,
            "source": source,
            "created_at": utc_now(),
            "lane_id": lane_ids[c.project, c.prompt.language, c.batch],
            "repeat_of": c.repeat_of,
        }
        for c in added
    ]
    store.insert_new(conn, comparisons, rows)
    open_places(store, conn, [(r["id"], r["lane_id"], r["overlap"], Route(r["route"])) for r in rows])
    return len(added)


def read_least_overlaps(conn: Connection, project_ids: Iterable[str]) -> dict[str, int]:
    """Return project → how many judgments its comparisons want to begin with, of those of them with an overlap rule."""
    # By the primary key: where an import forbids PostgreSQL to scan tables, it would compile a scan for a tenth of a
    # second each time.
    wanted = projects.c.id.in_(list(project_ids))
    rows = conn.execute(sa.select(projects.c.id, projects.c.overlap_rule).where(wanted))
    return {id: OverlapRule.from_plain(rule).least for id, rule in rows if rule is not None}


def find_or_create_lanes(
    store: Store, conn: Connection, lane_keys: set[tuple[str, str, str]]
) -> dict[tuple[str, str, str], int]:
    """Return (project, language, batch) → id of its lane; lanes that do not exist are created.

    Raises:
        NotFound: no such project.
        BadInput: a batch can be taken for another.
    """
    columns = (lanes.c.id, lanes.c.project_id, lanes.c.language, lanes.c.batch)
    lane_ids = {(p, language, b): n for n, p, language, b in conn.execute(sa.select(*columns))}
    if missing := lane_keys - lane_ids.keys():
        project_ids = set(conn.execute(sa.select(projects.c.id)).scalars())
        if unknown := sorted({p for p, _, _ in missing} - project_ids):
            raise NotFound(
                f"project {unknown[0]!r}",
                expected="one of " + ", ".join(sorted(project_ids)),
                fix=f"make it with `rlhf-hitl projects add {unknown[0]}`",
            )
        known = KnownNames(lambda query: conn.execute(query).scalars())
        for p, _, batch in sorted(missing):
            known.check_batch(p, batch)
        rows = [{"project_id": p, "language": language, "batch": b} for p, language, b in sorted(missing)]
        store.insert_new(conn, lanes, rows)
        lane_ids = {(p, language, b): n for n, p, language, b in conn.execute(sa.select(*columns))}
    return {key: lane_ids[key] for key in lane_keys}


#: The number of the first place for each working role, so that numbers never meet: raters, judges, leads.
FIRST_PLACE = {"": 0, Role.JUDGE.value: 1_000_000, Role.LEAD.value: 2_000_000}


def find_free_numbers(taken: Collection[int], count: int) -> list[int]:
    """Return the lowest numbers that a comparison's places do not have yet, for as many new places of raters."""
    return list(islice((n for n in itertools.count() if n not in taken), max(0, count)))


def open_places(store: Store, conn: Connection, demands: Sequence[tuple[str, int, int, Route]]) -> None:
    """Open the places 0..overlap-1 of each (comparison, lane, overlap, route) that do not exist; `auto` opens none."""
    rows = [
        {
            "comparison_id": comparison_id,
            "n": n,
            "lane_id": lane,
            "position": compute_queue_position(store, comparison_id, route),
        }
        for comparison_id, lane, overlap, route in demands
        if route is not Route.AUTO
        for n in range(overlap)
    ]
    store.insert_new(conn, places, rows)


def compute_queue_position(
    store: Store, comparison_id: str, route: Route, round: int = 0, place_in_line: int = 0
) -> int:
    """Return the position of a comparison in its lane as one number of 62 bits; lower comes first.

    Positions order by route; then by round, the newest first, because its scores come from the newest model; then by
    the place the router gave; then at random, by `Store.draw`.
    """
    parts = (ROUTE_RANK[route], 2), (4095 - min(round, 4095), 12), (min(place_in_line, 2**20 - 1), 20)
    number = 0
    for part, bits in (*parts, (store.draw("queue", comparison_id, 2**28), 28)):
        number = number << bits | part
    return number


def compute_shuffle_key(comparison_id: str) -> int:
    """Return a number of 28 bits that orders comparisons at random, in the same order in every store.

    Everybody who knows the id can compute it: what raters must not know is drawn by `Store.draw`.
    """
    return int(hashlib.sha256(comparison_id.encode()).hexdigest()[:7], 16)


def list_prompts(store: Store, *, split: Split | None = None) -> list[Prompt]:
    """Return every prompt (of one split), by id; but none that only golds have, for nobody is to learn those."""
    work = sa.exists().where(comparisons.c.prompt_id == prompts.c.id, ~measures_raters())
    query = sa.select(prompts).where(sa.or_(prompts.c.source != GOLD_SOURCE, work)).order_by(prompts.c.id)
    if split is not None:
        query = query.where(prompts.c.split == split.value)
    with store.read() as conn:
        return [_to_prompt(r) for r in conn.execute(query).mappings()]


def find_comparisons(
    store: Store,
    *,
    split: Split | None = None,
    routes: Sequence[Route] | None = None,
    source: str | None = None,
    judged: bool | None = None,
    judged_by_people: bool | None = None,
    unscored_by: str | None = None,
    project: str | None = None,
    ids: Collection[str] | None = None,
    repeats: bool = False,
    promotions: bool = True,
    after: str = "",
    limit: int | None = None,
) -> Iterator[Comparison]:
    """Yield the comparisons that meet every given condition, with prompt and completions, in order of id.

    Args:
        judged: only those with (True) or without (False) a judgment; `judged_by_people`: with or without one that is no
            judge's.
        unscored_by: only those without a score of this reward model.
        repeats: also hidden repeats and golds (`measures_raters`).
        promotions: False leaves out those that raters judge for a promotion: nobody else routes them.
        after: only those whose id comes after this one.
        limit: the most comparisons to return.
    """
    query = sa.select(comparisons.c.id).order_by(comparisons.c.id)
    query = restrict_comparisons(query, project=project, split=split, repeats=repeats)
    if routes is not None:
        query = query.where(comparisons.c.route.in_([r.value for r in routes]))
    if source is not None:
        query = query.where(comparisons.c.source == source)
    if judged is not None:
        has_judgment = sa.exists().where(judgments.c.comparison_id == comparisons.c.id)
        query = query.where(has_judgment if judged else ~has_judgment)
    if judged_by_people is not None:
        query = query.where(is_judged_by_people() if judged_by_people else ~is_judged_by_people())
    if unscored_by is not None:
        query = query.where(
            ~sa.exists().where(scores.c.comparison_id == comparisons.c.id, scores.c.reward_model_id == unscored_by)
        )
    if not promotions:
        query = query.where(~sa.exists().where(promotion_draws.c.comparison_id == comparisons.c.id))
    if ids is not None:
        remaining_ids = iter(sorted(set(ids)))
        while chunk := list(islice(remaining_ids, ROWS_PER_QUERY)):
            yield from _load_page(store, query.where(comparisons.c.id.in_(chunk)))
        return
    remaining = ROWS_PER_QUERY if limit is None else limit
    while page := _load_page(store, query.where(comparisons.c.id > after).limit(min(ROWS_PER_QUERY, remaining))):
        yield from page
        after = page[-1].id
        remaining -= len(page) if limit is not None else 0


def is_judged_by_people() -> sa.ColumnElement[bool]:
    """Return the condition that a comparison has a judgment that is no judge's."""
    of_people = judgments.c.role.is_distinct_from(Role.JUDGE.value)
    return sa.exists().where(judgments.c.comparison_id == comparisons.c.id, of_people)


def measures_raters() -> sa.ColumnElement[bool]:
    """Return the condition that a comparison is there to measure raters: a hidden repeat or a gold.

    It tells nothing new about completions, so it is in no label, no dataset and no figure of what models do.
    """
    return sa.or_(comparisons.c.repeat_of.is_not(None), comparisons.c.is_gold.is_(True))


def restrict_comparisons(
    query: sa.Select[Any], *, project: str | None, split: Split | None, repeats: bool
) -> sa.Select[Any]:
    """Restrict a query on `comparisons` to a project and a split (None: any), and unless `repeats` to what is work."""
    if not repeats:
        query = query.where(~measures_raters())
    if project is not None:
        query = query.join(lanes, lanes.c.id == comparisons.c.lane_id).where(lanes.c.project_id == project)
    if split is not None:
        query = query.join(prompts, prompts.c.id == comparisons.c.prompt_id).where(prompts.c.split == split.value)
    return query


def _load_page(store: Store, query: sa.Select[Any]) -> list[Comparison]:
    with store.read() as conn:
        ids = list(conn.execute(query).scalars())
        loaded = load_comparisons(conn, ids)
    return [loaded[i] for i in ids]


def load_comparisons(conn: Connection, ids: Sequence[str]) -> dict[str, Comparison]:
    """Return comparisons by id, with prompt and completions. Meant for up to a few thousand ids."""
    rows = conn.execute(_COMPARISONS, {"ids": list(ids)}).mappings().all()
    completion_ids = list({i for r in rows for i in r["completion_ids"]})
    by_id = {r["id"]: _to_completion(r) for r in conn.execute(_COMPLETIONS, {"ids": completion_ids}).mappings()}
    return {
        r["id"]: Comparison(
            r["id"],
            _to_prompt(r, "prompt_"),
            tuple(by_id[i] for i in r["completion_ids"]),
            r["overlap"],
            Route(r["route"]),
            r["project_id"],
            r["batch"],
            r["repeat_of"],
        )
        for r in rows
    }


_IDS = sa.bindparam("ids", expanding=True)
_COMPARISONS = (
    sa.select(
        *(c for c in comparisons.c if c.name not in ("source", "created_at", "lane_id", "accepted_seq", "is_gold")),
        lanes.c.project_id,
        lanes.c.batch,
        *(c.label(f"prompt_{c.name}") for c in (prompts.c.messages, prompts.c.split, prompts.c.tags, prompts.c.tools)),
    )
    .join(lanes, lanes.c.id == comparisons.c.lane_id)
    .join(prompts, prompts.c.id == comparisons.c.prompt_id)
    .where(comparisons.c.id.in_(_IDS))
)
_COMPLETIONS = sa.select(*(c for c in completions.c if c.name != "created_at")).where(completions.c.id.in_(_IDS))


def count_rows(store: Store) -> dict[str, int]:
    """Return the number of rows of the main tables, and of prompts by split (`prompts.train`, ...)."""
    from rlhf_hitl.store.tables import raters

    with store.read() as conn:
        counts = {
            t.name: conn.execute(sa.select(sa.func.count()).select_from(t)).scalar_one()
            for t in (prompts, completions, comparisons, judgments, raters)
        }
        by_split = conn.execute(sa.select(prompts.c.split, sa.func.count()).group_by(prompts.c.split)).all()
    return counts | {f"prompts.{split}": n for split, n in by_split}


def read_family_splits(conn: Connection, families: set[str]) -> dict[str, Split]:
    """Return prompt family → split, for the families that are in the store."""
    splits: dict[str, Split] = {}
    remaining = iter(families)
    while chunk := list(islice(remaining, ROWS_PER_QUERY)):
        query = sa.select(prompts.c.family, prompts.c.split).where(prompts.c.family.in_(chunk))
        splits |= {family: Split(split) for family, split in conn.execute(query)}
    return splits


def load_prompts(conn: Connection, ids: Sequence[str]) -> dict[str, Prompt]:
    """Return prompts by id; raise NotFound if one is missing. Meant for up to a few thousand ids."""
    rows = conn.execute(sa.select(prompts).where(prompts.c.id.in_(ids))).mappings()
    return _require_all("prompt", ids, {r["id"]: _to_prompt(r) for r in rows})


def load_completions(conn: Connection, ids: Sequence[str]) -> dict[str, Completion]:
    """Return completions by id; raise NotFound if one is missing. Meant for up to some ten thousand ids."""
    loaded: dict[str, Completion] = {}
    remaining = iter(ids)
    while chunk := list(islice(remaining, ROWS_PER_QUERY)):
        loaded |= {r["id"]: _to_completion(r) for r in conn.execute(_COMPLETIONS, {"ids": chunk}).mappings()}
    return _require_all("completion", ids, loaded)


def _require_all(noun: str, ids: Sequence[str], loaded: dict[str, Any]) -> dict[str, Any]:
    for i in ids:
        if i not in loaded:
            raise NotFound(f"{noun} {i!r}", expected="one in the store", fix="add it first")
    return loaded


def find_existing_ids(
    conn: Connection, table: Literal["prompts", "completions", "comparisons"], ids: Iterable[str]
) -> set[str]:
    """Return those of the ids that are in the store."""
    column = {"prompts": prompts, "completions": completions, "comparisons": comparisons}[table].c.id
    existing: set[str] = set()
    remaining = iter(ids)
    while chunk := list(islice(remaining, ROWS_PER_QUERY)):
        existing |= set(conn.execute(sa.select(column).where(column.in_(chunk))).scalars())
    return existing


def _to_prompt(row, prefix: str = "") -> Prompt:
    id, messages, split, tags, tools = (row[prefix + name] for name in ("id", "messages", "split", "tags", "tools"))
    return Prompt(id, parse_messages(messages), Split(split), tags, parse_tools(tools))


def _to_completion(row) -> Completion:
    return Completion(row["id"], row["prompt_id"], parse_messages(row["messages"]), row["policy"], row["sampling"])


def read_families(store: Store, comparison_ids: Collection[str]) -> dict[str, str]:
    """Return comparison id → the family of its prompt."""
    query = sa.select(comparisons.c.id, prompts.c.family).join(prompts, prompts.c.id == comparisons.c.prompt_id)
    with store.read() as conn:
        rows = conn.execute(query.where(store.among(comparisons.c.id, comparison_ids))).all()
    return {row.id: row.family for row in rows}


def read_policies(store: Store, completion_ids: Collection[str]) -> dict[str, str]:
    """Return completion id → the policy that wrote it."""
    query = sa.select(completions.c.id, completions.c.policy)
    with store.read() as conn:
        rows = conn.execute(query.where(store.among(completions.c.id, completion_ids))).all()
    return {row.id: row.policy for row in rows}
