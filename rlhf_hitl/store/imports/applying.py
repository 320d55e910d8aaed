"""Applying: move staged records into the tables within a transaction, and count what is new.

The rows are packed as the tables hold them and go to the driver as they are: SQLAlchemy takes longer to look at a row
than the database takes to insert it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.comparisons import compute_queue_position, find_or_create_lanes, read_least_overlaps
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.imports.records import Batch, format_time
from rlhf_hitl.store.people import insert_imported_raters, set_role_of_imported
from rlhf_hitl.store.policies import record_met_policies
from rlhf_hitl.store.table_copy import copy_rows
from rlhf_hitl.store.tables import comparisons, completions, images, judgments, places, prompts, ratings
from rlhf_hitl.types import Role, Route, utc_now
from rlhf_hitl.types.names import UNNAMED

Judged = TypeVar("Judged", str, tuple[str, str])


@dataclass
class BatchApplier:
    """Applies the batches of one import, each within a transaction of the caller.

    If a transaction fails, the applier must not be used again: it remembers what the transactions before wrote.
    """

    store: Store
    format: str
    source: str
    project: str
    _lanes: dict[tuple[str, str, str], int] = field(default_factory=dict)
    _raters: dict[str, str] = field(default_factory=dict)  # imported name → id
    _judges: set[str] = field(default_factory=set)  # imported names of models
    _policies: set[str] = field(default_factory=set)  # that are recorded

    def apply(self, conn: Connection, batch: Batch) -> tuple[Counter[str], set[str]]:
        """Insert what is new. Returns the counts of the report, and the families that stayed in another split."""
        # Two imports at once could give one family two splits. The lock keeps the name that earlier versions lock too.
        self.store.lock(conn, "catalog")
        now, counts = format_time(utc_now()), Counter[str]()
        existing = {name: self._find_existing(conn, name, getattr(batch, name)) for name in _CATALOG}
        splits = self._insert_prompts(conn, batch, existing["prompts"], now, counts)
        new = [(*row, now) for row in batch.completions if row[0] not in existing["completions"]]
        self._insert(conn, completions, _COMPLETION_COLUMNS, new)
        if unmet := {row[3] for row in new} - self._policies:
            record_met_policies(self.store, conn, unmet, self.source)
            self._policies |= unmet
        counts["completions"] = len(new)
        self._insert_comparisons(conn, batch, existing["comparisons"], now, counts)
        repeated = self._insert_votes(conn, batch, existing["comparisons"], now, counts)
        self._insert_ratings(conn, batch, existing, now, counts)
        new = [(*row, now) for row in batch.images if row[0] not in existing["images"]]
        self._insert(conn, images, ("id", "bytes", "created_at"), new)
        counts["images"] = len(new)
        counts["repeated_rows"] = _count_repeats(batch, existing, repeated)
        requested = {
            (batch.prompts[batch.tasks[at][0]][1], split) for at, split, *_ in batch.records if split is not None
        }
        return counts, {family for family, split in requested if splits[family] != split}

    def _insert_prompts(
        self, conn: Connection, batch: Batch, existing: set[str], now: str, counts: Counter[str]
    ) -> dict[str, str]:
        """Insert new prompts, each in the split of its family. Returns family → split."""
        splits = self._read_family_splits(conn, {row[1] for row in batch.prompts})
        rows = []
        for id, family, split, messages, tags, *tools in batch.prompts:
            split = splits.setdefault(family, split)
            if id not in existing:
                counts[split] += 1
                rows.append((id, family, split, messages, tags, self.source, now, *(tools or [None])))
        self._insert(conn, prompts, _PROMPT_COLUMNS, rows)
        counts["prompts"] = len(rows)
        return splits

    def _insert_comparisons(
        self, conn: Connection, batch: Batch, existing: set[str], now: str, counts: Counter[str]
    ) -> None:
        new = [row for row in batch.comparisons if row[0] not in existing]
        keys = {(self.project, language, part) for *_, language, part in new}
        if missing := keys - self._lanes.keys():
            self._lanes |= find_or_create_lanes(self.store, conn, missing)
        rows, place_rows = [], []
        least = read_least_overlaps(conn, [self.project]).get(self.project)
        for id, prompt_id, completion_ids, overlap, language, part in new:
            overlap = least if overlap and least is not None else overlap
            lane = self._lanes[self.project, language, part]
            rows.append((id, prompt_id, completion_ids, overlap, Route.HUMAN.value, self.source, now, lane))
            position = compute_queue_position(self.store, id, Route.HUMAN) if overlap else 0
            place_rows += [(id, n, lane, position) for n in range(overlap)]
        self._insert(conn, comparisons, _COMPARISON_COLUMNS, rows)
        self._insert(conn, places, ("comparison_id", "n", "lane_id", "position"), place_rows)
        counts["comparisons"] = len(rows)

    def _insert_votes(
        self, conn: Connection, batch: Batch, existing: set[str], now: str, counts: Counter[str]
    ) -> set[int]:
        """Insert new votes. Returns the positions of those that the store had already, word for word."""
        if not batch.votes:
            return set()
        self._add_raters(conn, {row[1] for row in batch.votes}, counts, {row[1] for row in batch.votes if row[-1]})
        # A comparison that is new in this transaction has no judgments yet.
        first_keys = self._read_first_keys(conn, existing)
        unnamed = _UnnamedRaters(self, conn, first_keys, counts)
        repeated = set[int]()
        comparison_ids = [None if at is None else batch.comparisons[at][0] for _, _, at, _ in batch.tasks]
        rows, defaults = [], tuple(_JUDGMENT_DEFAULTS.values())
        for n, (task, name, *said, simulated, key, judgment_id, judged_at, judge) in enumerate(batch.votes):
            comparison_id = cast(str, comparison_ids[task])
            rater_id = self._raters[name] if name != UNNAMED else unnamed.find_rater(comparison_id, key)
            if (kept := first_keys.get((comparison_id, rater_id))) is None:
                first_keys[comparison_id, rater_id] = key
                given = (judgment_id, comparison_id, rater_id, *said, bool(simulated), key)
                role = Role.JUDGE.value if judge else None
                rows.append((*given, self.source, judged_at or now, role, *defaults))
            elif kept == key:
                repeated.add(n)
            else:
                counts["repeated_votes"] += 1
        self._insert(conn, judgments, _JUDGMENT_COLUMNS, rows)
        counts["judgments"] = len(rows)
        return repeated

    def _insert_ratings(
        self, conn: Connection, batch: Batch, existing: dict[str, set[str]], now: str, counts: Counter[str]
    ) -> None:
        new = [row for row in batch.ratings if row[0] not in existing["ratings"]]
        if not new:
            return
        self._add_raters(conn, {row[2] for row in new}, counts, {row[2] for row in new if row[-1]})
        rated = {row[1] for row in new if row[2] == UNNAMED} & existing["completions"]
        unnamed = _UnnamedRaters(self, conn, self._read_rating_ids(conn, rated), counts)
        rows = []
        for id, completion_id, name, axis, *said, simulated, judged_at, _ in new:
            rater_id = self._raters[name] if name != UNNAMED else unnamed.find_rater((completion_id, axis), id)
            given = (id, completion_id, rater_id, axis, *said, bool(simulated))
            rows.append((*given, self.source, judged_at or now))
        self._insert(conn, ratings, _RATING_COLUMNS, rows)
        counts["ratings"] = len(rows)

    def _add_raters(
        self, conn: Connection, names: set[str], counts: Counter[str], judges: Set[str] = frozenset()
    ) -> None:
        """Add imported raters; those among `judges` are models."""
        if unknown := names - self._raters.keys():
            ids, new = insert_imported_raters(self.store, conn, unknown, self.format)
            self._raters |= ids
            counts["raters"] += new
        if new_judges := judges - self._judges - {UNNAMED}:
            set_role_of_imported(conn, [self._raters[name] for name in new_judges], Role.JUDGE)
            self._judges |= new_judges

    def get_rater_id(self, conn: Connection, name: str, counts: Counter[str]) -> str:
        """Return the id of an imported rater, who is added where there is none."""
        if name not in self._raters:
            self._add_raters(conn, {name}, counts)
        return self._raters[name]

    def _find_existing(self, conn: Connection, table: str, rows: Sequence[Sequence[Any]]) -> set[str]:
        if not rows:
            return set()
        query = f"SELECT id FROM {table} WHERE id IN ({self._list()})"  # noqa: S608
        return set(conn.exec_driver_sql(query, (json.dumps([row[0] for row in rows]),)).scalars())

    def _read_family_splits(self, conn: Connection, families: set[str]) -> dict[str, str]:
        # One look into the index for each family: thousands of prompts may share one.
        query = (
            "SELECT f.value, (SELECT split FROM prompts WHERE family = f.value LIMIT 1) "  # noqa: S608
            f"FROM ({self._list()}) AS f"
        )
        rows = conn.exec_driver_sql(query, (json.dumps(list(families)),))
        return {family: split for family, split in rows if split is not None}

    def _read_first_keys(self, conn: Connection, comparison_ids: set[str]) -> dict[tuple[str, str], str]:
        """Return (comparison id, rater id) → the idempotency key of that rater's first judgment of the comparison."""
        # Corrections are left out in Python: in SQL, SQLite would choose the index on `supersedes` and read all rows.
        query = (
            "SELECT comparison_id, rater_id, idempotency_key, supersedes FROM judgments "  # noqa: S608
            f"WHERE comparison_id IN ({self._list()})"
        )
        if not comparison_ids:
            return {}
        rows = conn.exec_driver_sql(query, (json.dumps(list(comparison_ids)),))
        return {(comparison, rater): key for comparison, rater, key, supersedes in rows if supersedes is None}

    def _read_rating_ids(self, conn: Connection, completion_ids: set[str]) -> dict[tuple[tuple[str, str], str], str]:
        """Return ((completion id, axis), rater id) → the id of a rating there."""
        if not completion_ids:
            return {}
        query = f"SELECT completion_id, axis, rater_id, id FROM ratings WHERE completion_id IN ({self._list()})"  # noqa: S608
        rows = conn.exec_driver_sql(query, (json.dumps(list(completion_ids)),))
        return {((completion, axis), rater): id for completion, axis, rater, id in rows}

    def _list(self) -> str:
        """Return a query for the texts of a JSON array, which is its one parameter."""
        if self.store.is_sqlite:
            return "SELECT value FROM json_each(?)"
        return "SELECT value FROM json_array_elements_text(%s::json)"

    def _insert(self, conn: Connection, table: sa.Table, columns: tuple[str, ...], rows: list[tuple]) -> None:
        if not rows:
            return
        if self.store.is_sqlite:
            conn.exec_driver_sql(_make_sqlite_insert(table, columns), rows)
        else:
            copy_rows(conn, table.name, columns, rows)


class _UnnamedRaters(Generic[Judged]):
    """Gives votes and ratings without a rater's name a rater each: `unnamed`, `unnamed 2`, …, the first who has none
    of the same: of a comparison, or of a completion on an axis.

    Args:
        first_keys: (what is judged, rater id) → the key of the vote or rating there, which may grow meanwhile.
    """

    def __init__(
        self, applier: BatchApplier, conn: Connection, first_keys: dict[tuple[Judged, str], str], counts: Counter[str]
    ):
        self._applier, self._conn, self._first_keys, self._counts = applier, conn, first_keys, counts
        self._known: dict[str, str] | None = None  # key → its rater; a key is of one comparison, or completion, only
        self._next: Counter[Judged] = Counter()  # what is judged → how many raters are known to be taken

    def find_rater(self, judged: Judged, key: str) -> str:
        """Return who has said this already, or who has said nothing of the same and will get it."""
        if self._known is None:
            self._known = {known: rater_id for (_, rater_id), known in self._first_keys.items()}
        if key in self._known:
            return self._known[key]
        while True:
            self._next[judged] += 1
            n = self._next[judged]
            rater_id = self._applier.get_rater_id(self._conn, UNNAMED if n == 1 else f"{UNNAMED} {n}", self._counts)
            if (judged, rater_id) not in self._first_keys:
                self._known[key] = rater_id
                return rater_id


def _count_repeats(batch: Batch, existing: dict[str, set[str]], repeated_votes: set[int]) -> int:
    """Return the number of records that added nothing, for all that they name was there; others are counted as
    identical."""
    seen = set[str]().union(*(existing[name] for name in ("prompts", "completions", "comparisons", "ratings")))
    done, repeats = set[int](), 0  # tasks that are in `seen`
    for task, _, vote, rated, is_identical in batch.records:
        ids = [] if task in done else _list_ids(batch, task)
        ids += [batch.ratings[i][0] for i in rated or ()]
        repeats += not is_identical and (vote is None or vote in repeated_votes) and seen.issuperset(ids)
        seen.update(ids)
        done.add(task)
    return repeats


def _list_ids(batch: Batch, task: int) -> list[str]:
    prompt, completions, comparison, _ = batch.tasks[task]
    ids = [batch.prompts[prompt][0], *(batch.completions[i][0] for i in completions)]
    return ids if comparison is None else [*ids, batch.comparisons[comparison][0]]


_CATALOG = ("prompts", "completions", "comparisons", "images", "ratings")
_PROMPT_COLUMNS = ("id", "family", "split", "messages", "tags", "source", "created_at", "tools")
_COMPLETION_COLUMNS = ("id", "prompt_id", "messages", "policy", "sampling", "created_at")
_COMPARISON_COLUMNS = (
    "id", "prompt_id", "completion_ids", "overlap", "route", "source", "created_at", "lane_id",
)  # fmt: skip
_JUDGMENT_DEFAULTS: dict[str, Any] = {
    "rewrite": "", "route": Route.HUMAN.value, "guideline_version": "", "interface_version": "",
    "surplus": False,
}  # fmt: skip
_JUDGMENT_COLUMNS = (
    "id", "comparison_id", "rater_id", "verdict", "ranking", "strength", "rationale", "scores", "order_shown",
    "simulated", "idempotency_key", "source", "created_at", "role", *_JUDGMENT_DEFAULTS,
)  # fmt: skip
_RATING_COLUMNS = (
    "id", "completion_id", "rater_id", "axis", "value", "lowest", "highest", "rationale", "simulated", "source",
    "created_at",
)  # fmt: skip


@cache
def _make_sqlite_insert(table: sa.Table, columns: tuple[str, ...]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608
