"""Passwords that a command makes and prints once."""

from __future__ import annotations

import secrets


def generate_password() -> str:
    """Return a random password of 70 bits that is easy to read out."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(3))
