"""Ids that are hashes of content, and what content may not hold."""

from __future__ import annotations

import hashlib
import json

from rlhf_hitl.errors import BadInput

_encode_canonically = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


def make_content_id(prefix: str, *parts: object) -> str:
    """Return an id that is the same for the same content, so that importing a file twice adds nothing."""
    digest = hashlib.sha256(_encode_canonically(parts).encode()).hexdigest()
    return f"{prefix}_{digest[:24]}"


def refuse_nul(name: str, *texts: str) -> None:
    """Raise BadInput where one of the texts holds a NUL character."""
    if any("\x00" in text for text in texts):
        raise BadInput(name, expected="text without a NUL, which PostgreSQL cannot hold", fix="take it out")
