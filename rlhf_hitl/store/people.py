"""Raters: everybody who judges, leads or administers, and the raters of imported votes, with their properties.

How they sign in is in `sign_in.py`, which API tokens act for them in `tokens.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from unicodedata import category

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.passwords import hash_password
from rlhf_hitl.store.tables import raters
from rlhf_hitl.types import Rater, Role, make_content_id, utc_now
from rlhf_hitl.types.names import check_label, check_name, hash_name_skeleton, make_look_alike_error, make_name_key

MAX_NAME_LENGTH = 150
NAME_MARKS = ".-_@+'’ "  # that the name of a new person may have beside letters, digits and accents
MAX_ATTRIBUTE_LENGTH = 80
MAX_LANGUAGE_LENGTH = 40  # as a prompt's tag has


def add_rater(
    store: Store,
    name: str,
    role: Role,
    password: str | None = None,
    *,
    simulated: bool = False,
    by: audit.Actor = audit.CLI,
) -> Rater:
    """Add a rater. Without a password they cannot sign in.

    Raises:
        BadInput: the name is empty or taken, or the password has fewer than eight characters.
    """
    password_hash = hash_password(password) if password is not None else None
    with store.write() as conn:
        return insert_rater(store, conn, name, role, password_hash, simulated=simulated, by=by)


def insert_rater(
    store: Store,
    conn: Connection,
    name: str,
    role: Role,
    password_hash: str | None,
    *,
    simulated: bool = False,
    by: audit.Actor = audit.CLI,
) -> Rater:
    """Add a rater within a transaction.

    It takes the password's hash, not the password: hashing is slow, and would hold the transaction's locks meanwhile.

    Raises:
        BadInput: the name is empty, too long, of the form that imported raters have, holds what cannot be seen, is
            taken in this or another spelling, or looks like another person's.
    """
    store.lock(conn, "names of people")  # two that look alike may be added at once
    name = check_new_name(conn, name)
    row = _make_rater_row(name, role, simulated=simulated, source="") | {"password_hash": password_hash}
    if not store.insert_new(conn, raters, [row]):
        raise BadInput(f"name {name!r}", expected="one that is free", fix="choose another name")
    audit.record(conn, by, "rater.added", name, role=role.value, simulated=simulated)
    return rater_from_row(row)


def check_new_name(conn: Connection, name: str) -> str:
    """Return the name that a new rater will have.

    Raises:
        BadInput: as for `insert_rater`.
    """
    name = check_name("name", name.strip(), max_length=MAX_NAME_LENGTH)
    # A name is typed on command lines and stands in addresses, and one with a colon is that of an imported rater. A
    # store of an earlier version may hold others.
    if wrong := next((c for c in name if not (c.isalnum() or category(c)[0] == "M" or c in NAME_MARKS)), None):
        raise BadInput(
            f"name {name!r}",
            expected=f"letters and digits of any script, single spaces, and {' '.join(NAME_MARKS.strip())}",
            fix=f"write it without {wrong}",
        )
    _refuse_mistakable(conn, name)
    return name


def change_rater(
    store: Store,
    name: str,
    *,
    role: Role | None = None,
    disabled: bool | None = None,
    paused: bool | None = None,
    languages: Iterable[str] | None = None,
    quota: int | None = None,
    attributes: Mapping[str, str] | None = None,
    by: audit.Actor = audit.CLI,
) -> Rater:
    """Change some properties of a rater; those left out (None) stay as they are.

    Args:
        disabled: may no longer sign in or use tokens, from now on; their judgments stay.
        paused: is offered nothing new, and may finish what they have leased.
        languages: those they read, as prompts are tagged; an empty list for any.
        quota: judgments a UTC day; 0 for no limit.
        attributes: groups that they agreed to be counted in, name → value, added to those they have; an empty value
            takes one away. The audit log has their names only.

    Raises:
        NotFound: no rater has this name.
        BadInput: the quota is negative, no prompt can be tagged with a language, an attribute cannot be named so, or
            somebody disables themselves.
    """
    values: dict[str, Any] = {}
    details: dict[str, Any] = {}
    if role is not None:
        values["role"] = details["role"] = role.value
    for flag, on in {"disabled": disabled, "paused": paused}.items():
        if on is not None:
            values[f"{flag}_at"], details[flag] = (utc_now() if on else None), on
    if paused is not None:
        values["paused_reason"] = None  # a check's, which is no longer why
    if languages is not None:
        codes = sorted({code.strip().lower() for code in languages} - {""})
        for code in codes:
            if len(code) > MAX_LANGUAGE_LENGTH or not code.isprintable() or not code[0].isalpha():
                raise BadInput(
                    f"language {code[:60]!r}",
                    expected=f"a code of up to {MAX_LANGUAGE_LENGTH} letters, as prompts are tagged",
                    fix="write e.g. en or pt-br",
                )
        values["languages"], details["languages"] = codes or None, codes
    if quota is not None:
        if not 0 <= quota < 2**31:
            raise BadInput(f"quota {quota}", expected="judgments a day, or 0 for no limit", fix="give such a number")
        values["quota"], details["quota"] = quota or None, quota
    if attributes is not None:
        attributes = {_check_attribute(name): _check_attribute(value or " ") for name, value in attributes.items()}
        details["attributes"] = sorted(attributes)
    with store.write() as conn:
        rater_id = find_rater_id(conn, name)
        if attributes:
            had = conn.execute(sa.select(raters.c.attributes).where(raters.c.id == rater_id)).scalar_one() or {}
            values["attributes"] = {n: value for n, value in (had | attributes).items() if value.strip()} or None
        if disabled and rater_id == by.id:
            raise BadInput(
                f"rater {name!r}", expected="somebody else: nobody can disable themselves", fix="ask another admin"
            )
        if values:
            conn.execute(raters.update().where(raters.c.id == rater_id).values(values))
        row = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).mappings().one()
        if values:
            audit.record(conn, by, "rater.changed", row["name"], **details)
        return rater_from_row(row)


def _check_attribute(text: str) -> str:
    """Return the name or the value of an attribute. Raises BadInput for one that cannot be seen or is too long."""
    if not 0 < len(text) <= MAX_ATTRIBUTE_LENGTH:
        raise BadInput(
            f"attribute {text[:60]!r}",
            expected=f"1 to {MAX_ATTRIBUTE_LENGTH} characters",
            fix="write e.g. region=north",
        )
    return check_label("attribute", text)


def make_imported_rater_row(name: str, source: str) -> dict:
    """Return the row of a rater whose votes were imported: named after their source, and never able to sign in."""
    return _make_rater_row(f"{source}:{name}", Role.RATER, simulated=False, source=source) | {"password_hash": None}


def insert_imported_raters(
    store: Store, conn: Connection, names: Iterable[str], source: str
) -> tuple[dict[str, str], int]:
    """Add the raters of imported votes. Returns the id of each name, and how many raters were new."""
    rows = {name: make_imported_rater_row(name, source) for name in names}
    return {name: row["id"] for name, row in rows.items()}, store.insert_new(conn, raters, list(rows.values()))


def set_role_of_imported(conn: Connection, ids: Sequence[str], role: Role) -> None:
    """Give a role to raters of imported votes: an earlier version took models for people."""
    conn.execute(raters.update().where(raters.c.id.in_(ids), raters.c.source != "").values(role=role.value))


def get_rater(store: Store, rater_id: str) -> Rater:
    """Return a rater by id.

    Raises:
        NotFound: no such rater.
    """
    with store.read() as conn:
        row = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).mappings().first()
    if row is None:
        raise NotFound(f"rater {rater_id!r}", expected="a known rater", fix="see `rlhf-hitl raters list`")
    return rater_from_row(row)


def get_rater_by_name(store: Store, name: str) -> Rater:
    """Return a rater by name.

    Raises:
        NotFound: no rater has this name.
    """
    with store.read() as conn:
        rater_id = find_rater_id(conn, name)
    return get_rater(store, rater_id)


def list_raters(store: Store) -> list[Rater]:
    """Return all raters, ordered by name."""
    with store.read() as conn:
        return [rater_from_row(row) for row in conn.execute(sa.select(raters).order_by(raters.c.name)).mappings()]


def load_names(store: Store, ids: Iterable[str]) -> dict[str, str]:
    """Return rater id → name, for those of the ids that the store has."""
    query = sa.select(raters.c.id, raters.c.name).where(store.among(raters.c.id, ids))
    with store.read() as conn:
        return dict(conn.execute(query).tuples().all())


def find_rater_id(conn: Connection, name: str) -> str:
    """Return the id of the rater with this name: spelt exactly so or, where nobody is, the same in another spelling.

    Raises:
        NotFound: no rater has this name.
    """
    row = find_rater_row(conn, name)
    if row is None:
        raise NotFound(f"rater {name!r}", expected="a known name", fix="see `rlhf-hitl raters list`")
    return row["id"]


def find_rater_row(conn: Connection, name: str) -> RowMapping | None:
    """Return the row of the rater with this name, found as `find_rater_id` does."""
    is_exact = raters.c.name == name
    query = sa.select(raters).where(sa.or_(is_exact, raters.c.name_key == make_name_key(name)))
    return conn.execute(query.order_by(is_exact.desc()).limit(1)).mappings().first()


def list_mistakable(store: Store) -> list[tuple[str, ...]]:
    """Return the names of people that are the same or look alike, together; older stores may have some."""
    groups: dict[str, list[str]] = {}
    with store.read() as conn:
        query = sa.select(raters.c.name_skeleton, raters.c.name).where(raters.c.source == "").order_by(raters.c.name)
        for skeleton, name in conn.execute(query):
            groups.setdefault(skeleton, []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def _refuse_mistakable(conn: Connection, name: str) -> None:
    """Raise BadInput where somebody has this name in another spelling, or one that looks like it."""
    names_alike = sa.select(raters.c.name).where(
        raters.c.source == "",
        sa.or_(raters.c.name_skeleton == hash_name_skeleton(name), raters.c.name_key == make_name_key(name)),
    )
    for (other,) in conn.execute(names_alike):
        if other == name:
            raise BadInput(f"name {name!r}", expected="one that is free", fix="choose another name")
        raise make_look_alike_error("name", name, other)


def _make_rater_row(name: str, role: Role, *, simulated: bool, source: str) -> dict:
    return {
        "id": make_content_id("r", name),
        "name": name,
        "name_key": name if source else make_name_key(name),
        "name_skeleton": "" if source else hash_name_skeleton(name),
        "role": role.value,
        "simulated": simulated,
        "source": source,
        "disabled_at": None,
        "created_at": utc_now(),
        "languages": None,
        "quota": None,
        "paused_at": None,
        "attributes": None,
    }


def rater_from_row(row) -> Rater:
    """Return the rater that a row of `raters` describes."""
    return Rater(
        id=row["id"],
        name=row["name"],
        role=Role(row["role"]),
        simulated=row["simulated"],
        disabled=row["disabled_at"] is not None,
        source=row["source"],
        languages=None if row["languages"] is None else tuple(row["languages"]),
        quota=row["quota"],
        paused=row["paused_at"] is not None,
        attributes=row["attributes"] or {},
    )
