"""How passwords are hashed (argon2) and checked. `store/sign_in.py` says who may sign in with them."""

from __future__ import annotations

from functools import cache

import argon2

from rlhf_hitl.errors import BadInput

MIN_PASSWORD_LENGTH = 8

_hasher = argon2.PasswordHasher()


def hash_password(password: str) -> str:
    """Return the hash the store keeps. It takes some 50 ms on purpose, so call it outside of transactions.

    Raises:
        BadInput: the password has fewer than eight characters.
    """
    check_new_password(password)
    return _hasher.hash(password)


def check_new_password(password: str) -> None:
    """Check that a password is long enough.

    Raises:
        BadInput: it has fewer than eight characters.
    """
    if len(password) < MIN_PASSWORD_LENGTH:
        raise BadInput("password", expected="eight characters or more", fix="choose a longer one")


def password_matches(password: str, password_hash: str | None) -> bool:
    """Return whether the password has this hash. Where there is no hash it takes as long, and the answer is no.

    An attacker must not learn from the time of an answer whether a name exists.
    """
    try:
        _hasher.verify(_make_decoy_hash() if password_hash is None else password_hash, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
    return password_hash is not None


@cache
def _make_decoy_hash() -> str:
    return _hasher.hash("nobody")
