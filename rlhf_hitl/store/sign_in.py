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
from rlhf_hitl.store.people import find_rater_id, find_rater_row, rater_from_row
from rlhf_hitl.store.service_tables import tokens
from rlhf_hitl.store.tables import raters
from rlhf_hitl.store.tokens import TokenKind, end_tokens, find_token, make_token
from rlhf_hitl.types import Rater, utc_now
from rlhf_hitl.types.names import make_name_key


@dataclass(frozen=True)
class VerifiedPassword:
    """A rater whose password was right a moment ago, and the hash it was checked against."""

    rater: Rater
    password_hash: str = field(repr=False)


@dataclass(frozen=True)
class EndedAccess:
    """How many sessions and API tokens a new password ended."""

    sessions: int
    api_tokens: int


def find_account_name(store: Store, name: str) -> str:
    """Return the name of the account that somebody signs in to; where there is none, the key of what they typed."""
    with store.read() as conn:
        row = find_rater_row(conn, name)
    return make_name_key(name) if row is None else row["name"]


def verify_password(store: Store, name: str, password: str) -> VerifiedPassword | None:
    """Return the rater with that name and password, or None. A disabled rater cannot sign in.

    The name may be in another case or another form of Unicode than the account's.
    """
    with store.read() as conn:
        row = find_rater_row(conn, name)
    password_hash = row["password_hash"] if row is not None and row["disabled_at"] is None else None
    if not password_matches(password, password_hash) or row is None:  # a hash is computed even for an unknown name
        return None
    return VerifiedPassword(rater_from_row(row), row["password_hash"])


def set_password(
    store: Store, name: str, password: str, *, keep_tokens: bool = False, by: audit.Actor = audit.CLI
) -> EndedAccess:
    """Give a rater a new password and end their sessions and API tokens; returns how many were ended.

    Whoever knew the old password may have made themselves a token.

    Args:
        keep_tokens: leave the API tokens as they are, for programs that go on with them.

    Raises:
        NotFound: no rater has this name.
        BadInput: the password has fewer than eight characters.
    """
    password_hash = hash_password(password)
    with store.write() as conn:
        rater_id = find_rater_id(conn, name)
        own = raters.c.id == rater_id
        conn.execute(raters.update().where(own).values(password_hash=password_hash))
        sessions = end_tokens(conn, rater_id, TokenKind.SESSION)
        end_tokens(conn, rater_id, TokenKind.DEVICE)  # whoever knew the old password may have signed in with one
        api_tokens = 0 if keep_tokens else end_tokens(conn, rater_id, TokenKind.API)
        stored_name = conn.execute(sa.select(raters.c.name).where(own)).scalar_one()
        audit.record(conn, by, "rater.password", stored_name, sessions_ended=sessions, tokens_ended=api_tokens)
    return EndedAccess(sessions, api_tokens)


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
    with store.read() as conn:  # anybody can ask for this, and must not wait for the lock that submits wait for
        if find_token(conn, secret, TokenKind.SESSION) is None:
            return
    with store.write() as conn:
        token = find_token(conn, secret, TokenKind.SESSION)
        if token is not None and token.ended_at is None:
            conn.execute(tokens.update().where(tokens.c.id == token.id).values(ended_at=utc_now()))
            audit.record(conn, audit.Actor(token.rater_id or "", address), "sign_out", token.rater_id or "")
