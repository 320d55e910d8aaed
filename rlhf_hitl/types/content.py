"""Ids that are hashes of content, and what content may not hold."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rlhf_hitl.errors import BadInput

_encoder = json.JSONEncoder(ensure_ascii=False, sort_keys=True)


def _make_encoder() -> Any:
    """Return what gives the canonical JSON of a value in pieces.

    It is what `_encoder.encode` makes anew for every value, which takes longer than to write a short one.
    """
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # another Python than CPython
        return lambda value, level: [_encoder.encode(value)]
    quote, separators = json.encoder.encode_basestring, (_encoder.key_separator, _encoder.item_separator)
    return make(None, _encoder.default, quote, None, *separators, True, False, True)


_encode_canonically = _make_encoder()


def make_content_id(prefix: str, *parts: object) -> str:
    """Return an id that is the same for the same content, so that importing a file twice adds nothing."""
    digest = hashlib.sha256("".join(_encode_canonically(parts, 0)).encode()).hexdigest()
    return f"{prefix}_{digest[:24]}"


def refuse_nul(name: str, *texts: str) -> None:
    """Raise BadInput where one of the texts holds a NUL character."""
    if any("\x00" in text for text in texts):
        raise BadInput(name, expected="text without a NUL, which PostgreSQL cannot hold", fix="take it out")
