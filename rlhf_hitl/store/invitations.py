"""Invitations: links by which one person makes their own account. An invitation is a row of the table `tokens`."""

from __future__ import annotations

from rlhf_hitl.errors import NotFound
from rlhf_hitl.store import audit, people, projects
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.passwords import check_new_password, hash_password
from rlhf_hitl.store.service_tables import tokens
from rlhf_hitl.store.tokens import Token, TokenKind, find_token, make_token
from rlhf_hitl.types import Rater, Role, utc_now


def add_invitation(
    store: Store, role: Role, *, project: str | None = None, days: float = 7, by: audit.Actor = audit.CLI
) -> str:
    """Make an invitation that one person may accept; returns the secret that goes into its link.

    Args:
        role: the role of the account that it makes.
        project: a project they become a member of.
        days: how long it may be accepted.

    Raises:
        NotFound: no such project.
        BadInput: `days` is not above 0, or more than ten years.
    """
    with store.write() as conn:
        if project is not None:
            projects.require_project(conn, project)
        secret, row = make_token(TokenKind.INVITE, by, days, role=role.value, project_id=project)
        conn.execute(tokens.insert().values(row))
        audit.record(conn, by, "invite.added", row["id"], role=role.value, project=project, days=days)
    return secret


def find_open_invitation(store: Store, secret: str) -> Token | None:
    """Return the invitation with this secret, or None where it is unknown, accepted, revoked or expired."""
    with store.read() as conn:
        token = find_token(conn, secret, TokenKind.INVITE)
    return token if token is not None and _is_open(token) else None


def accept_invitation(store: Store, secret: str, name: str, password: str, *, address: str = "") -> Rater:
    """Make the account of an invitation, with the name and password its holder chose; returns the new rater.

    Raises:
        NotFound: no such invitation, or it is no longer open.
        BadInput: the name is taken or the password too short; the invitation stays open.
    """
    # All is checked first, because hashing a password is slow on purpose.
    if find_open_invitation(store, secret) is None:
        raise _make_not_open_error()
    check_new_password(password)
    with store.read() as conn:
        people.check_new_name(conn, name)
    password_hash = hash_password(password)
    with store.write() as conn:
        token = find_token(conn, secret, TokenKind.INVITE, lock=True)
        if token is None or not _is_open(token):
            raise _make_not_open_error()
        by = audit.Actor(f"invite:{token.id}", address)
        rater = people.insert_rater(store, conn, name, Role(token.role), password_hash, by=by)
        if token.project is not None:
            projects.insert_member(store, conn, token.project, rater.id)
        conn.execute(tokens.update().where(tokens.c.id == token.id).values(rater_id=rater.id, ended_at=utc_now()))
        audit.record(conn, by, "invite.accepted", token.id, name=rater.name)
    return rater


def _is_open(token: Token) -> bool:
    return token.rater_id is None and token.is_valid_at(utc_now())


def _make_not_open_error() -> NotFound:
    return NotFound("invitation", expected="one that is valid and not used", fix="ask for a new one")
