"""Signing in: names and passwords are verified, sessions begin and end.

The routes are in `api/sign_in.py`, the throttle in `api/sign_in_throttle.py`, the page in `ui/sign_in.py`, the hashing
in `store/passwords.py`. A session is a row of the table `tokens`, so it can be ended in the store, and servers share no
signing key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from rlhf_hitl.errors import Conflict
from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.passwords import hash_password, password_matches
from rlhf_hitl.store.people import find_rater_id, rater_from_row
from rlhf_hitl.store.tables import raters, tokens
from rlhf_hitl.store.tokens import TokenKind, find_token, make_token
from rlhf_hitl.types import Rater, utc_now


@dataclass(frozen=True)
class VerifiedPassword:
    """A rater whose password was right a moment ago, and the hash it was checked against."""

    rater: Rater
    password_hash: str = field(repr=False)


def verify_password(store: Store, name: str, password: str) -> VerifiedPassword | None:
    """Return the rater with that name and password, or None. A disabled rater cannot sign in."""
    with store.read() as conn:
        row = conn.execute(sa.select(raters).where(raters.c.name == name)).mappings().first()
    password_hash = row["password_hash"] if row is not None and row["disabled_at"] is None else None
    if not password_matches(password, password_hash) or row is None:  # a hash is computed even for an unknown name
        return None
    return VerifiedPassword(rater_from_row(row), row["password_hash"])


def set_password(store: Store, name: str, password: str, *, by: audit.Actor = audit.CLI) -> None:
    """Give a rater a new password and end their sessions.

    Raises:
        NotFound: no rater has this name.
        BadInput: the password has fewer than eight characters.
    """
    password_hash = hash_password(password)
    with store.write() as conn:
        rater_id = find_rater_id(conn, name)
        conn.execute(raters.update().where(raters.c.id == rater_id).values(password_hash=password_hash))
        sessions = (
            tokens.c.rater_id == rater_id,
            tokens.c.kind == TokenKind.SESSION.value,
            tokens.c.ended_at.is_(None),
        )
        conn.execute(tokens.update().where(*sessions).values(ended_at=utc_now()))
        audit.record(conn, by, "rater.password", name)


def start_session(store: Store, verified: VerifiedPassword, hours: float, *, address: str = "") -> str:
    """Start a session; returns the secret that goes into its cookie.

    Args:
        hours: how long the session lasts.
        address: the client's network address, for the audit log.

    Raises:
        Conflict: the password was changed since it was verified.
    """
    rater, by = verified.rater, audit.Actor(verified.rater.id, address)
    # Verifying a password takes a while, and changing it ends the sessions there are. Because the row is locked, a
    # change is either committed before this, and then seen here, or it comes after and finds this session to end.
    unchanged = sa.select(raters.c.id).where(raters.c.id == rater.id, raters.c.password_hash == verified.password_hash)
    with store.write() as conn:
        if conn.execute(unchanged.with_for_update(key_share=True)).first() is None:
            raise Conflict(f"password of {rater.name!r}: it was changed meanwhile. Fix: sign in with the new one")
        secret, row = make_token(TokenKind.SESSION, by, hours / 24, rater_id=rater.id)
        conn.execute(tokens.insert().values(row))
        audit.record(conn, by, "sign_in", rater.name)
    return secret


def end_session(store: Store, secret: str, *, address: str = "") -> None:
    """End a session. Nothing happens where the session is unknown or has ended already."""
    with store.write() as conn:
        token = find_token(conn, secret, TokenKind.SESSION)
        if token is not None and token.ended_at is None:
            conn.execute(tokens.update().where(tokens.c.id == token.id).values(ended_at=utc_now()))
            audit.record(conn, audit.Actor(token.rater_id or "", address), "sign_out", token.rater_id or "")
