"""Raters and their sign-in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache

import argon2
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import raters
from rlhf_hitl.types import Rater, Role, content_id, utc_now

_hasher = argon2.PasswordHasher()


@cache
def _nobody() -> str:
    # Verified where a name is unknown, so that an unknown name takes as long to refuse as a wrong password.
    return _hasher.hash("nobody")


def add(store: Store, name: str, role: Role, password: str | None = None, *, simulated: bool = False) -> Rater:
    """Add a person. Without a password they cannot sign in.

    Raises:
        BadInput: an empty name, one that is taken, or a password under eight characters.
    """
    if not name.strip():
        raise BadInput("name ''", expected="a name", fix="give the rater a name")
    row = _row(name.strip(), role, simulated=simulated, source="")
    row["password_hash"] = _hash(password) if password is not None else None
    with store.write() as conn:
        if not store.insert_new(conn, raters, [row]):
            raise BadInput(f"name {name!r}", expected="one that is free", fix="choose another name")
    return _rater(row)


def set_password(store: Store, name: str, password: str) -> None:
    """Raises NotFound for an unknown name and BadInput for a password under eight characters."""
    hashed = _hash(password)
    with store.write() as conn:
        _found(name, conn.execute(raters.update().where(raters.c.name == name).values(password_hash=hashed)).rowcount)


def outside_rater(name: str, source: str) -> dict:
    """The row of a rater whose votes were imported: kept apart by source, never able to sign in."""
    return _row(f"{source}:{name}", Role.RATER, simulated=False, source=source) | {"password_hash": None}


def add_outside(store: Store, conn: Connection, names: Iterable[str], source: str) -> tuple[dict[str, str], int]:
    """Add the raters of imported votes. Returns name → id, and how many were new."""
    rows = {name: outside_rater(name, source) for name in names}
    return {name: row["id"] for name, row in rows.items()}, store.insert_new(conn, raters, list(rows.values()))


def verify(store: Store, name: str, password: str) -> Rater | None:
    """The rater with that name and password, or None."""
    with store.read() as conn:
        row = conn.execute(sa.select(raters).where(raters.c.name == name)).mappings().first()
    known = row is not None and row["password_hash"] is not None and row["disabled_at"] is None
    try:
        _hasher.verify(row["password_hash"] if row is not None and known else _nobody(), password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return None
    return _rater(row) if row is not None and known else None


def get(store: Store, rater_id: str) -> Rater:
    return get_with_mark(store, rater_id)[0]


def get_with_mark(store: Store, rater_id: str) -> tuple[Rater, str]:
    """A rater, and a mark of their password: it says nothing of the password but changes with it.

    Raises:
        NotFound: no such rater.
    """
    with store.read() as conn:
        row = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).mappings().first()
    if row is None:
        raise NotFound(f"rater {rater_id!r}", expected="a known rater", fix="see `rlhf-hitl raters list`")
    return _rater(row), hashlib.sha256((row["password_hash"] or "").encode()).hexdigest()[:12]


def everyone(store: Store) -> list[Rater]:
    with store.read() as conn:
        return [_rater(r) for r in conn.execute(sa.select(raters).order_by(raters.c.name)).mappings()]


def disable(store: Store, name: str) -> None:
    with store.write() as conn:
        _found(name, conn.execute(raters.update().where(raters.c.name == name).values(disabled_at=utc_now())).rowcount)


def _found(name: str, rows: int) -> None:
    if rows == 0:
        raise NotFound(f"rater {name!r}", expected="a known name", fix="see `rlhf-hitl raters list`")


def _hash(password: str) -> str:
    if len(password) < 8:
        raise BadInput("password", expected="eight characters or more", fix="choose a longer one")
    return _hasher.hash(password)


def _row(name: str, role: Role, *, simulated: bool, source: str) -> dict:
    return {
        "id": content_id("r", name),
        "name": name,
        "role": role.value,
        "simulated": simulated,
        "source": source,
        "disabled_at": None,
        "created_at": utc_now(),
    }


def _rater(row) -> Rater:
    return Rater(
        row["id"], row["name"], Role(row["role"]), row["simulated"], row["disabled_at"] is not None, row["source"]
    )
