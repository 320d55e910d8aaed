"""Secrets that are handed out once and shown again later: API tokens, sessions of a browser, invitations.

This module holds API tokens and what all of them share; sessions are in `sign_in.py`, invitations in
`invitations.py`, browsers in `devices.py`.
The store keeps a digest only. A secret is 256 random bits, so it cannot be computed back from a plain SHA-256.
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
from rlhf_hitl.store import audit, people
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import tokens
from rlhf_hitl.store.tables import raters
from rlhf_hitl.types import Rater, Scope, utc_now
from rlhf_hitl.types.names import check_name

MAX_DAYS = 3650
MAX_TOKEN_NAME_LENGTH = 150


class TokenKind(StrEnum):
    SESSION = "session"
    API = "api"
    INVITE = "invite"
    DEVICE = "device"


@dataclass(frozen=True)
class Token:
    """A row of `tokens` without its digest. `role` and `project` are those that an invitation gives."""

    id: str
    kind: TokenKind
    name: str
    rater_id: str | None
    scopes: tuple[str, ...]
    role: str | None
    project: str | None
    created_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None

    def is_valid_at(self, time: datetime) -> bool:
        return self.ended_at is None and (self.expires_at is None or self.expires_at > time)


def add_api_token(
    store: Store,
    rater_id: str,
    name: str,
    scopes: Iterable[Scope],
    *,
    days: float | None = 90,
    by: audit.Actor = audit.CLI,
) -> str:
    """Make an API token that acts for a rater within some scopes; returns the secret, which cannot be read again.

    Args:
        days: how long it is valid; None for as long as it is not revoked.

    Raises:
        NotFound: no such rater.
        BadInput: no scope, the name holds what cannot be seen, or `days` is not above 0 or more than ten years.
    """
    scope_names = sorted({Scope(s).value for s in scopes})
    if not scope_names:
        raise BadInput("scopes []", expected="at least one of " + ", ".join(Scope), fix="say what the token is for")
    name = check_name("token name", name, max_length=MAX_TOKEN_NAME_LENGTH, empty=True)
    owner = people.get_rater(store, rater_id)
    with store.write() as conn:
        secret, row = make_token(TokenKind.API, by, days, name=name, rater_id=rater_id, scopes=scope_names)
        conn.execute(tokens.insert().values(row))
        details = {"of": owner.name, "scopes": scope_names, "days": days}
        audit.record(conn, by, "token.added", row["id"], **details)
    return secret


def find_token_owner(store: Store, secret: str, kind: TokenKind) -> tuple[Rater, Token] | None:
    """Return the rater that a session or an API token acts for, and the token, as they are in the store now.

    It is None where the secret is unknown, ended or expired, or the rater is disabled.
    """
    with store.read() as conn:
        row = (
            conn.execute(_TOKEN_WITH_OWNER, {"digest": _compute_digest(secret), "kind": kind.value}).mappings().first()
        )
    if row is None or row["owner_disabled_at"] is not None:
        return None
    token = _token_from_row(row)
    rater = people.rater_from_row({name: row[f"owner_{name}"] for name in _OWNER_COLUMNS})
    return (rater, token) if token.is_valid_at(utc_now()) else None


_TOKEN_COLUMNS = [c for c in tokens.c if c.name not in ("digest", "created_by")]
_OWNER_COLUMNS = [
    c.name for c in raters.c if c.name not in ("password_hash", "created_at", "name_key", "name_skeleton")
]
# Built once: this query runs with every request.
_TOKEN_WITH_OWNER = (
    sa.select(*_TOKEN_COLUMNS, *(raters.c[name].label(f"owner_{name}") for name in _OWNER_COLUMNS))
    .join(raters, raters.c.id == tokens.c.rater_id)
    .where(tokens.c.digest == sa.bindparam("digest"), tokens.c.kind == sa.bindparam("kind"))
)


def list_tokens(store: Store, *, kinds: Iterable[TokenKind] = (TokenKind.API, TokenKind.INVITE)) -> list[Token]:
    """Return the tokens of these kinds, newest first."""
    query = sa.select(tokens).where(tokens.c.kind.in_([k.value for k in kinds])).order_by(tokens.c.created_at.desc())
    with store.read() as conn:
        return [_token_from_row(row) for row in conn.execute(query).mappings()]


def revoke_token(store: Store, token_id: str, *, by: audit.Actor = audit.CLI) -> None:
    """End an API token or an invitation at once.

    Raises:
        NotFound: no such token.
        Conflict: it has ended already.
    """
    with store.write() as conn:
        # The row is locked: an invitation is accepted either before this, and then it has ended, or not at all.
        row = conn.execute(sa.select(tokens).where(tokens.c.id == token_id).with_for_update()).mappings().first()
        if row is None:
            raise NotFound(f"token {token_id!r}", expected="a known token", fix="see `rlhf-hitl tokens list`")
        if row["ended_at"] is not None:
            raise Conflict(f"token {token_id}: it has ended already. Fix: nothing is left to do")
        conn.execute(tokens.update().where(tokens.c.id == token_id).values(ended_at=utc_now()))
        audit.record(conn, by, "token.revoked", token_id)


def end_tokens(conn: Connection, rater_id: str, kind: TokenKind) -> int:
    """End all tokens of a kind that act for a rater, within a transaction; returns how many that were valid."""
    now = utc_now()
    own = (tokens.c.rater_id == rater_id, tokens.c.kind == kind.value, tokens.c.ended_at.is_(None))
    unexpired = sa.or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > now)
    return conn.execute(tokens.update().where(*own, unexpired).values(ended_at=now)).rowcount


def count_api_tokens(store: Store, rater_id: str) -> int:
    """Return how many API tokens act for a rater now."""
    return sum(t.rater_id == rater_id and t.is_valid_at(utc_now()) for t in list_tokens(store, kinds=[TokenKind.API]))


def make_token(kind: TokenKind, by: audit.Actor, days: float | None, **columns) -> tuple[str, dict]:
    """Return a new secret and the row of `tokens` to insert for it.

    Args:
        days: how long it is valid; None for as long as it is not ended.
        columns: the values of the columns that this kind of token uses.

    Raises:
        BadInput: `days` is not above 0, or more than ten years.
    """
    if days is not None and not 0 < days <= MAX_DAYS:
        raise BadInput(f"days {days}", expected=f"more than 0 and at most {MAX_DAYS}", fix="give such a number")
    secret = f"rh_{kind.value}_{secrets.token_urlsafe(32)}"  # scanners for leaked secrets can look for the prefix
    unused = {"rater_id": None, "name": "", "scopes": [], "role": None, "project_id": None, "ended_at": None}
    now = utc_now()
    row = {
        "id": f"t_{uuid.uuid4().hex[:24]}",
        "kind": kind.value,
        "digest": _compute_digest(secret),
        "created_by": by.id[:80],
        "created_at": now,
        "expires_at": None if days is None else now + timedelta(days=days),
    }
    return secret, unused | row | columns


def find_token(conn: Connection, secret: str, kind: TokenKind, *, lock: bool = False) -> Token | None:
    """Return the token with this secret, valid or not; `lock` locks its row until the transaction ends."""
    query = sa.select(tokens).where(tokens.c.digest == _compute_digest(secret), tokens.c.kind == kind.value)
    row = conn.execute(query.with_for_update() if lock else query).mappings().first()
    return None if row is None else _token_from_row(row)


def _compute_digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _token_from_row(row: RowMapping) -> Token:
    return Token(
        id=row["id"],
        kind=TokenKind(row["kind"]),
        name=row["name"],
        rater_id=row["rater_id"],
        scopes=tuple(row["scopes"]),
        role=row["role"],
        project=row["project_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
    )
