"""Batches and policies that are in the store: a new name must not be taken for one of them.

Names of people and projects are compared where they are added. Batches and policies come with every import, often from
files of others, so plain ASCII names of theirs are told apart by each letter: `judge1` and `judgel` are two policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store.tables import completions, lanes
from rlhf_hitl.types.names import find_look_alike, find_same_name, make_look_alike_error, make_name_key


class KnownNames:
    """The names in the store, and those that were checked since, which are about to be stored.

    Names are read when they are first needed: policies only where a new one is not plain ASCII.

    Args:
        read: returns the values of a query's one column.
    """

    def __init__(self, read: Callable[[sa.Select[Any]], Iterable[str]]):
        self._read = read
        self._batches: dict[str, set[str]] = {}
        self._policies: set[str] | None = None
        self._checked: set[str] = set()

    def check_batch(self, project: str, batch: str) -> None:
        """Check that a batch is in its project already, or is another than each of the project's.

        Raises:
            BadInput: it is one of them in another spelling, or is not plain ASCII and looks like one.
        """
        if project not in self._batches:
            query = sa.select(lanes.c.batch).where(lanes.c.project_id == project).distinct()
            self._batches[project] = set(self._read(query))
        known = self._batches[project]
        if batch not in known:
            others = known - {""}
            if (same := find_same_name(batch, others)) is not None:
                raise BadInput(
                    f"batch {batch!r}",
                    expected=f"the spelling there is, {same!r}, or another name",
                    fix=f"write {same!r}",
                )
            _refuse_look_alike("batch", batch, others)
            known.add(batch)

    def check_policy(self, policy: str) -> None:
        """Check that a policy is plain ASCII, or is in the store already, or looks like none of those that are.

        Raises:
            BadInput: it can be taken for another.
        """
        if policy.isascii() or policy in self._checked:
            return
        if self._policies is None:
            self._policies = set(self._read(sa.select(completions.c.policy).distinct()))
        if policy not in self._policies:
            _refuse_look_alike("policy", policy, self._policies)
        self._checked.add(policy)
        self._policies.add(policy)


def find_spellings(conn: Connection, batch: str) -> list[str]:
    """Return the batches that are the same name as this one; a store made before the rule may have several."""
    key = make_name_key(batch)
    return [name for name in conn.execute(sa.select(lanes.c.batch).distinct()).scalars() if make_name_key(name) == key]


def _refuse_look_alike(kind: str, name: str, others: set[str]) -> None:
    candidates = others if not name.isascii() else [other for other in others if not other.isascii()]
    if (other := find_look_alike(name, candidates)) is not None:
        raise make_look_alike_error(kind, name, other)
