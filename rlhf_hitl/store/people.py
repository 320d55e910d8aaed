"""Raters, leads and the programs that act for them: who there is, their passwords, and what they may be offered."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import argon2
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import raters, tokens
from rlhf_hitl.types import Rater, Role, make_content_id, utc_now

LONGEST_LANGUAGE = 40  # letters, as a prompt's tag has

_hasher = argon2.PasswordHasher()


@dataclass(frozen=True)
class Verified:
    """Somebody whose password was right a moment ago, and the hash it was right for."""

    rater: Rater
    password_hash: str = field(repr=False)


@cache
def _nobody() -> str:
    # Verified where a name is unknown, so that an unknown name takes as long to refuse as a wrong password.
    return _hasher.hash("nobody")


def add(
    store: Store,
    name: str,
    role: Role,
    password: str | None = None,
    *,
    simulated: bool = False,
    by: audit.Actor = audit.CLI,
) -> Rater:
    """Add a person. Without a password they cannot sign in.

    Raises:
        BadInput: an empty name, one that is taken, or a password under eight characters.
    """
    hashed = hash_password(password) if password is not None else None
    with store.write() as conn:
        return enter(store, conn, name, role, hashed, simulated=simulated, by=by)


def enter(
    store: Store,
    conn: Connection,
    name: str,
    role: Role,
    password_hash: str | None,
    *,
    simulated: bool = False,
    by: audit.Actor = audit.CLI,
) -> Rater:
    """`add` within a transaction. The password is hashed before it begins: that takes a while, and locks would wait."""
    name = name.strip()
    if not 0 < len(name) <= 150:
        raise BadInput(f"name {name[:60]!r}", expected="a name of 1 to 150 letters", fix="give the rater another name")
    if re.match(r"[a-z_]+:", name):  # so raters of imported votes are called, after their format
        raise BadInput(f"name {name!r}", expected="a name that starts with no `word:`", fix="choose another name")
    row = _row(name, role, simulated=simulated, source="") | {"password_hash": password_hash}
    if not store.insert_new(conn, raters, [row]):
        raise BadInput(f"name {name!r}", expected="one that is free", fix="choose another name")
    audit.record(conn, by, "rater.added", name, role=role.value, simulated=simulated)
    return from_row(row)


def set_password(store: Store, name: str, password: str, *, by: audit.Actor = audit.CLI) -> None:
    """Give somebody a new password and end their sessions.

    Raises:
        NotFound: an unknown name.
        BadInput: a password under eight characters.
    """
    hashed = hash_password(password)
    with store.write() as conn:
        rater_id = find_id(conn, name)
        conn.execute(raters.update().where(raters.c.id == rater_id).values(password_hash=hashed))
        sessions = sa.and_(tokens.c.rater_id == rater_id, tokens.c.kind == "session", tokens.c.ended_at.is_(None))
        conn.execute(tokens.update().where(sessions).values(ended_at=utc_now()))
        audit.record(conn, by, "rater.password", name)


def change(
    store: Store,
    name: str,
    *,
    role: Role | None = None,
    disabled: bool | None = None,
    paused: bool | None = None,
    languages: Iterable[str] | None = None,
    quota: int | None = None,
    by: audit.Actor = audit.CLI,
) -> Rater:
    """Change what is given of somebody.

    Args:
        disabled: shut out at once; what they judged stays.
        paused: is offered nothing new, and may finish what they hold.
        languages: those they read, as prompts are tagged; none at all for any.
        quota: judgments a UTC day; 0 for no limit.

    Raises:
        NotFound: an unknown name.
        BadInput: a negative quota, a language no prompt can be tagged with, or somebody shutting themselves out.
    """
    new: dict[str, Any] = {}
    told: dict[str, Any] = {}
    if role is not None:
        new["role"] = told["role"] = role.value
    for column, on in {"disabled": disabled, "paused": paused}.items():
        if on is not None:
            new[f"{column}_at"], told[column] = (utc_now() if on else None), on
    if languages is not None:
        read = sorted({code.strip().lower() for code in languages} - {""})
        for code in read:
            if len(code) > LONGEST_LANGUAGE or not code.isprintable() or not code[0].isalpha():
                raise BadInput(
                    f"language {code[:60]!r}",
                    expected=f"a code of up to {LONGEST_LANGUAGE} letters, as prompts are tagged",
                    fix="write e.g. en or pt-br",
                )
        new["languages"], told["languages"] = read or None, read
    if quota is not None:
        if not 0 <= quota < 2**31:
            raise BadInput(f"quota {quota}", expected="judgments a day, or 0 for no limit", fix="give such a number")
        new["quota"], told["quota"] = quota or None, quota
    with store.write() as conn:
        rater_id = find_id(conn, name)
        if disabled and rater_id == by.id:
            raise BadInput(
                f"rater {name!r}", expected="somebody else: nobody shuts themselves out", fix="ask another admin"
            )
        if new:
            conn.execute(raters.update().where(raters.c.id == rater_id).values(new))
            audit.record(conn, by, "rater.changed", name, **told)
        return from_row(conn.execute(sa.select(raters).where(raters.c.id == rater_id)).mappings().one())


def outside_rater(name: str, source: str) -> dict:
    """The row of a rater whose votes were imported: kept apart by source, never able to sign in."""
    return _row(f"{source}:{name}", Role.RATER, simulated=False, source=source) | {"password_hash": None}


def add_outside(store: Store, conn: Connection, names: Iterable[str], source: str) -> tuple[dict[str, str], int]:
    """Add the raters of imported votes. Returns name → id, and how many were new."""
    rows = {name: outside_rater(name, source) for name in names}
    return {name: row["id"] for name, row in rows.items()}, store.insert_new(conn, raters, list(rows.values()))


def verify(store: Store, name: str, password: str) -> Verified | None:
    """Who has that name and password, or None."""
    with store.read() as conn:
        row = conn.execute(sa.select(raters).where(raters.c.name == name)).mappings().first()
    known = row is not None and row["password_hash"] is not None and row["disabled_at"] is None
    try:
        _hasher.verify(row["password_hash"] if row is not None and known else _nobody(), password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return None
    return Verified(from_row(row), row["password_hash"]) if row is not None and known else None


def get(store: Store, rater_id: str) -> Rater:
    """A rater by id.

    Raises:
        NotFound: no such rater.
    """
    with store.read() as conn:
        row = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).mappings().first()
    if row is None:
        raise NotFound(f"rater {rater_id!r}", expected="a known rater", fix="see `rlhf-hitl raters list`")
    return from_row(row)


def named(store: Store, name: str) -> Rater:
    """A rater by name.

    Raises:
        NotFound: no such rater.
    """
    with store.read() as conn:
        rater_id = find_id(conn, name)
    return get(store, rater_id)


def everyone(store: Store) -> list[Rater]:
    with store.read() as conn:
        return [from_row(r) for r in conn.execute(sa.select(raters).order_by(raters.c.name)).mappings()]


def find_id(conn: Connection, name: str) -> str:
    """The id that goes with a name.

    Raises:
        NotFound: no such rater.
    """
    found = conn.execute(sa.select(raters.c.id).where(raters.c.name == name)).scalar()
    if found is None:
        raise NotFound(f"rater {name!r}", expected="a known name", fix="see `rlhf-hitl raters list`")
    return found


def hash_password(password: str) -> str:
    """Raises BadInput where it has under eight characters."""
    if len(password) < 8:
        raise BadInput("password", expected="eight characters or more", fix="choose a longer one")
    return _hasher.hash(password)


def _row(name: str, role: Role, *, simulated: bool, source: str) -> dict:
    return {
        "id": make_content_id("r", name),
        "name": name,
        "role": role.value,
        "simulated": simulated,
        "source": source,
        "disabled_at": None,
        "created_at": utc_now(),
        "languages": None,
        "quota": None,
        "paused_at": None,
    }


def from_row(row) -> Rater:
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
    )
