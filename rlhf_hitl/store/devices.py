"""Browsers that somebody has signed in with: whoever else tries that name cannot slow them.

A device's secret is a row of the table `tokens`. It opens nothing.
"""

from __future__ import annotations

from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import tokens
from rlhf_hitl.store.tokens import TokenKind, find_token_owner, make_token
from rlhf_hitl.types import Rater


def remember_device(store: Store, rater: Rater, days: float, *, address: str = "") -> str:
    """Note that a rater has signed in with a browser; returns the secret that the browser is to keep."""
    by = audit.Actor(rater.id, address)
    secret, row = make_token(TokenKind.DEVICE, by, days, rater_id=rater.id)
    with store.write() as conn:
        conn.execute(tokens.insert().values(row))
        audit.record(conn, by, "device.added", rater.name)
    return secret


def find_known_device(store: Store, secret: str, name: str) -> str:
    """Return the id of the browser that holds the secret; "" where the rater of this name has not signed in with it."""
    owner = find_token_owner(store, secret, TokenKind.DEVICE) if secret else None
    return owner[1].id if owner is not None and owner[0].name == name else ""
