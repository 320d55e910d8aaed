"""Secrets that are handed out and shown again: sessions of a browser, API tokens, invitations.

The store keeps a digest only. A secret is 256 random bits, so a plain SHA-256 of it cannot be turned round.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import audit, people, projects
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import raters, tokens
from rlhf_hitl.types import Rater, Role, Scope, utc_now

LONGEST = 3650  # days


class Kind(StrEnum):
    SESSION = "session"
    API = "api"
    INVITE = "invite"


@dataclass(frozen=True)
class Token:
    """What the store knows of a secret. `role` and `project` are those an invitation gives."""

    id: str
    kind: Kind
    name: str
    rater_id: str | None
    scopes: tuple[str, ...]
    role: str | None
    project: str | None
    created_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None

    def holds(self, now: datetime) -> bool:
        return self.ended_at is None and (self.expires_at is None or self.expires_at > now)


def add(
    store: Store,
    rater_id: str,
    name: str,
    scopes: Iterable[Scope],
    *,
    days: float | None = 90,
    by: audit.Actor = audit.CLI,
) -> str:
    """Make an API token that acts for a rater through the doors in `scopes`; returns the secret, told only now.

    Args:
        days: how long it holds; None for as long as it is not revoked.

    Raises:
        NotFound: no such rater.
        BadInput: no scope, or a time that is over or ends after ten years.
    """
    wanted = sorted({Scope(s).value for s in scopes})
    if not wanted:
        raise BadInput("scopes []", expected="at least one of " + ", ".join(Scope), fix="say what the token is for")
    owner = people.get(store, rater_id)
    with store.write() as conn:
        secret, row = _new(Kind.API, by, days, name=name, rater_id=rater_id, scopes=wanted)
        conn.execute(tokens.insert().values(row))
        told = {"of": owner.name, "scopes": wanted, "days": days}
        audit.record(conn, by, "token.added", row["id"], **told)
    return secret


def invite(
    store: Store, role: Role, *, project: str | None = None, days: float = 7, by: audit.Actor = audit.CLI
) -> str:
    """Make an invitation that one person may take up; returns the secret that goes into its link.

    Raises:
        NotFound: no such project.
        BadInput: a time that is over or ends after ten years.
    """
    with store.write() as conn:
        if project is not None:
            projects.require_project(conn, project)
        secret, row = _new(Kind.INVITE, by, days, role=role.value, project_id=project)
        conn.execute(tokens.insert().values(row))
        audit.record(conn, by, "invite.added", row["id"], role=role.value, project=project, days=days)
    return secret


def invitation(store: Store, secret: str) -> Token | None:
    """The invitation a secret stands for, while it may be taken up."""
    with store.read() as conn:
        found = _by_secret(conn, secret, Kind.INVITE)
    return found if found is not None and found.rater_id is None and found.holds(utc_now()) else None


def accept(store: Store, secret: str, name: str, password: str, *, address: str = "") -> Rater:
    """Take up an invitation under a name and with a password of one's own.

    Raises:
        NotFound: no such invitation (any more).
        BadInput: a name that is taken or a password that is too short; the invitation still stands.
    """
    if invitation(store, secret) is None:  # before the password is hashed, which is made to be slow
        raise NotFound("invitation", expected="one that holds and is not used", fix="ask for a new one")
    hashed = people.hash_password(password)
    with store.write() as conn:
        found = _by_secret(conn, secret, Kind.INVITE, lock=True)
        if found is None or found.rater_id is not None or not found.holds(utc_now()):
            raise NotFound("invitation", expected="one that holds and is not used", fix="ask for a new one")
        by = audit.Actor(f"invite:{found.id}", address)
        rater = people.enter(store, conn, name, Role(found.role), hashed, by=by)
        if found.project is not None:
            projects.insert_member(store, conn, found.project, rater.id)
        conn.execute(tokens.update().where(tokens.c.id == found.id).values(rater_id=rater.id, ended_at=utc_now()))
        audit.record(conn, by, "invite.accepted", found.id, name=rater.name)
    return rater


def sign_in(store: Store, who: people.Verified, hours: float, *, address: str = "") -> str:
    """Start a session; returns the secret that goes into its cookie.

    Raises:
        Conflict: the password was changed since it was verified.
    """
    rater, by = who.rater, audit.Actor(who.rater.id, address)
    # Looking at a password takes a while, and its change ends the sessions there are. With the row locked, a change
    # comes either before this and is seen here, or after it and finds this session to end.
    same = sa.select(raters.c.id).where(raters.c.id == rater.id, raters.c.password_hash == who.password_hash)
    with store.write() as conn:
        if conn.execute(same.with_for_update(key_share=True)).first() is None:
            raise Conflict(f"password of {rater.name!r}: it was changed meanwhile. Fix: sign in with the new one")
        secret, row = _new(Kind.SESSION, by, hours / 24, rater_id=rater.id)
        conn.execute(tokens.insert().values(row))
        audit.record(conn, by, "sign_in", rater.name)
    return secret


def sign_out(store: Store, secret: str, *, address: str = "") -> None:
    """End a session. One that is over or unknown is left as it is."""
    with store.write() as conn:
        found = _by_secret(conn, secret, Kind.SESSION)
        if found is not None and found.ended_at is None:
            conn.execute(tokens.update().where(tokens.c.id == found.id).values(ended_at=utc_now()))
            audit.record(conn, audit.Actor(found.rater_id or "", address), "sign_out", found.rater_id or "")


def holder(store: Store, secret: str, kind: Kind) -> tuple[Rater, Token] | None:
    """Who shows a session or API token, read afresh: None where it is unknown, over, or its rater is disabled."""
    with store.read() as conn:
        row = conn.execute(_HOLDER, {"digest": _digest(secret), "kind": kind.value}).mappings().first()
    if row is None or row["owner_disabled_at"] is not None:
        return None
    token = _token(row)
    rater = people.from_row({name: row[f"owner_{name}"] for name in _OF_OWNER})
    return (rater, token) if token.holds(utc_now()) else None


_OF_TOKEN = [c for c in tokens.c if c.name not in ("digest", "created_by")]
_OF_OWNER = [c.name for c in raters.c if c.name not in ("password_hash", "created_at")]
_HOLDER = (
    sa.select(*_OF_TOKEN, *(raters.c[name].label(f"owner_{name}") for name in _OF_OWNER))
    .join(raters, raters.c.id == tokens.c.rater_id)
    .where(tokens.c.digest == sa.bindparam("digest"), tokens.c.kind == sa.bindparam("kind"))
)


def everything(store: Store, *, kinds: Iterable[Kind] = (Kind.API, Kind.INVITE)) -> list[Token]:
    """Tokens of these kinds, newest first."""
    query = sa.select(tokens).where(tokens.c.kind.in_([k.value for k in kinds])).order_by(tokens.c.created_at.desc())
    with store.read() as conn:
        return [_token(row) for row in conn.execute(query).mappings()]


def revoke(store: Store, token_id: str, *, by: audit.Actor = audit.CLI) -> None:
    """End a token or invitation at once.

    Raises:
        NotFound: no such token.
        Conflict: it is over already.
    """
    with store.write() as conn:
        # Locked: an invitation is taken up either before this, and is over then, or after it, and holds no more.
        row = conn.execute(sa.select(tokens).where(tokens.c.id == token_id).with_for_update()).mappings().first()
        if row is None:
            raise NotFound(f"token {token_id!r}", expected="a known token", fix="see `rlhf-hitl tokens list`")
        if row["ended_at"] is not None:
            raise Conflict(f"token {token_id}: it is over already. Fix: nothing is left to do")
        conn.execute(tokens.update().where(tokens.c.id == token_id).values(ended_at=utc_now()))
        audit.record(conn, by, "token.revoked", token_id)


def _new(kind: Kind, by: audit.Actor, days: float | None, **more) -> tuple[str, dict]:
    if days is not None and not 0 < days <= LONGEST:
        raise BadInput(f"days {days}", expected=f"more than 0 and at most {LONGEST}", fix="give such a number")
    secret = f"rh_{kind.value}_{secrets.token_urlsafe(32)}"  # what scanners for leaked secrets can look for
    empty = {"rater_id": None, "name": "", "scopes": [], "role": None, "project_id": None, "ended_at": None}
    now = utc_now()
    row = {
        "id": f"t_{uuid.uuid4().hex[:24]}",
        "kind": kind.value,
        "digest": _digest(secret),
        "created_by": by.id[:80],
        "created_at": now,
        "expires_at": None if days is None else now + timedelta(days=days),
    }
    return secret, empty | row | more


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _by_secret(conn: Connection, secret: str, kind: Kind, *, lock: bool = False) -> Token | None:
    query = sa.select(tokens).where(tokens.c.digest == _digest(secret), tokens.c.kind == kind.value)
    row = conn.execute(query.with_for_update() if lock else query).mappings().first()
    return None if row is None else _token(row)


def _token(row: RowMapping) -> Token:
    return Token(
        id=row["id"],
        kind=Kind(row["kind"]),
        name=row["name"],
        rater_id=row["rater_id"],
        scopes=tuple(row["scopes"]),
        role=row["role"],
        project=row["project_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
    )
