"""Policies: how each was made, from which other, and where it is.

A policy is known by the name that its completions carry. Every policy whose completions come into the store has a row:
from a training with what it was tuned on, else with where its completions came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import policies
from rlhf_hitl.types import utc_now
from rlhf_hitl.types.names import check_label

MAX_NAME_LENGTH = 500
#: What importers write where a file does not say which policy an answer is of.
UNNAMED = "unknown"


class PolicyMethod(StrEnum):
    """How a policy was made."""

    BASE = "base"  # a model on this machine that nobody tuned here
    DPO = "dpo"
    PPO = "ppo"
    RLOO = "rloo"
    GRPO = "grpo"
    IMPORT = "import"  # its completions came in a file, or over the API
    ENDPOINT = "endpoint"  # an endpoint was asked for its completions


@dataclass(frozen=True)
class PolicyRecord:
    """How a policy was made.

    Attributes:
        path: a folder, a hub id, or an address; of an import, the source of its rows.
        parent: the name of the policy it was made of.
        settings_digest: tells whether two were made with the same settings; empty where they are not known.
        replaced: how many earlier policies of the same name were recorded; completions of that name may be theirs.
    """

    name: str
    path: str
    parent: str | None
    method: PolicyMethod
    reward_model_id: str | None = None
    round: int | None = None
    settings_digest: str = ""
    created_at: datetime = field(default_factory=utc_now)
    replaced: int = 0

    @property
    def place(self) -> Literal["here", "gone", "elsewhere"]:
        """Whether its folder is there, was deleted or moved, or is none of this machine's (a hub id, an address)."""
        path = Path(self.path)
        if not path.is_absolute():
            return "elsewhere"
        try:
            return "here" if path.exists() else "gone"
        except OSError:  # a name that is too long, a folder that may not be read
            return "gone"


@dataclass(frozen=True)
class LineageEntry:
    """A policy in the lineage, which is listed from each root downwards.

    Attributes:
        depth: how many tunings lie between it and its root.
        record: None for a policy that is only known as the parent of another.
    """

    name: str
    parent: str | None
    depth: int
    record: PolicyRecord | None


def record_policy(
    store: Store,
    name: str,
    *,
    path: str | Path,
    method: PolicyMethod,
    parent: str | None = None,
    reward_model_id: str | None = None,
    round: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> PolicyRecord:
    """Record how a policy was made. One that is recorded with the same facts already is recorded once.

    Args:
        name: as its completions carry it (`models.get_display_name`).
        parent: the name of the policy it was made of.
        settings: what it was made with; their digest is kept.

    Raises:
        BadInput: the name is empty, too long, cannot be seen, or is that of its parent.
    """
    for of in (name, parent):
        if of is not None and not 0 < len(check_label("policy", of)) <= MAX_NAME_LENGTH:
            raise BadInput(f"policy {of[:60]!r}", expected=f"a name of 1 to {MAX_NAME_LENGTH} letters", fix="rename it")
    if name == parent:
        raise BadInput(f"policy {name!r} tuned from itself", expected="another name", fix="choose another folder")
    digest = "" if settings is None else _digest(settings)
    made = PolicyRecord(name, str(path), parent, PolicyMethod(method), reward_model_id, round, digest)
    with store.write() as conn:
        store.lock(conn, "policies")
        newest = next((r for r in _read_records(conn, name)), None)
        if newest is not None and _list_facts(newest) == _list_facts(made):
            return newest
        row = {"name": name, "path": made.path, "parent": parent, "method": made.method.value, "round": round}
        row |= {"reward_model_id": reward_model_id, "settings_digest": digest, "created_at": made.created_at}
        conn.execute(policies.insert().values(row))
        return next(iter(_read_records(conn, name)))


def record_met_policies(
    store: Store, conn: Connection, names: Iterable[str], path: str, method: PolicyMethod = PolicyMethod.IMPORT
) -> None:
    """Record where completions come from, of policies of which nothing is recorded yet.

    Args:
        names: as completions carry them, checked as those are.
        path: see `PolicyRecord`.
    """

    def find_missing(names: set[str]) -> set[str]:
        known = sa.select(policies.c.name).where(store.among(policies.c.name, names))
        return names - set(conn.execute(known).scalars())

    if missing := find_missing(set(names) - {"", UNNAMED}):
        store.lock(conn, "policies")
        rows = [
            {"name": name, "path": path, "method": method.value, "settings_digest": "", "created_at": utc_now()}
            for name in sorted(find_missing(missing))  # another may have recorded some meanwhile
        ]
        store.insert_new(conn, policies, rows)


def list_policies(store: Store) -> list[PolicyRecord]:
    """Return the newest record of every policy that is recorded, oldest first."""
    with store.read() as conn:
        return _read_records(conn)


def read_lineage(store: Store) -> list[LineageEntry]:
    """Return every recorded policy below the one it was made of, roots first, and parents that are not recorded. Roots
    of which nothing was made come last.

    Names that were used again may make a policy its own ancestor; then the oldest of them is taken as a root.
    """
    records = {r.name: r for r in list_policies(store)}
    children: dict[str | None, list[str]] = {}
    for record in records.values():
        children.setdefault(record.parent, []).append(record.name)
    roots = [name for name in children if name is not None and name not in records] + children.get(None, [])
    roots.sort(key=lambda name: name not in children)
    entries: list[LineageEntry] = []
    seen: set[str] = set()
    for root in [*roots, *records]:  # what no root leads to is a circle
        waiting = [(root, 0)]
        while waiting:
            name, depth = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            record = records.get(name)
            parent = record.parent if record is not None and depth else None
            entries.append(LineageEntry(name, parent, depth, record))
            waiting += [(child, depth + 1) for child in reversed(children.get(name, []))]
    return entries


def _read_records(conn: sa.Connection, name: str | None = None) -> list[PolicyRecord]:
    query = sa.select(policies).order_by(policies.c.seq)
    newest: dict[str, PolicyRecord] = {}
    for row in conn.execute(query if name is None else query.where(policies.c.name == name)).mappings():
        values = {key: value for key, value in row.items() if key not in ("seq", "method")}
        before = newest.pop(row["name"], None)
        replaced = 0 if before is None else before.replaced + 1
        newest[row["name"]] = PolicyRecord(method=PolicyMethod(row["method"]), replaced=replaced, **values)
    return list(newest.values())


def _list_facts(record: PolicyRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in ("created_at", "replaced")}


def _digest(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
