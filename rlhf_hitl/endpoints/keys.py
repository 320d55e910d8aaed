"""The key of an endpoint: read from the environment or a file, and taken out of everything that comes back."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from rlhf_hitl.errors import BadInput

#: Parts of a key that are shorter than this are no secret, and would blot out ordinary words.
SHORTEST_KEY = 8
#: A word of what a server says of a key that has so many of its characters in a row may be a part of it.
SHORTEST_PART = 4
HIDDEN = "[key]"


class Key:
    """A key that cannot be printed. `reveal` is for the header of a request only."""

    def __init__(self, value: str, source: str = ""):
        self._value, self.source = value, source

    def __repr__(self) -> str:
        return f"Key({self.source or 'none'})"

    def reveal(self) -> str:
        return self._value

    def remove_from(self, text: str) -> str:
        """Return a text without the key in any form in which a server may send it back."""
        if not self._value:
            return text
        plain, data = self._value, self._value.encode()
        forms = {plain, quote(plain), quote(plain, safe=""), json.dumps(plain)[1:-1], base64.b64encode(data).decode()}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, HIDDEN)
        # A server that shortens what it echoes: `sk-abcdef…`. Its first half gives the key away.
        half = plain[: max(SHORTEST_KEY, len(plain) // 2)]
        return text.replace(half, HIDDEN)

    def remove_parts_from(self, text: str) -> str:
        """Return what a server says of the key without the words that may repeat a part of it, such as `sk-ab***yz`."""
        parts = {self._value[i : i + SHORTEST_PART] for i in range(len(self._value) - SHORTEST_PART + 1)}

        def is_part(word: str) -> bool:
            return any(mark in word for mark in ("*", "…", "...")) or any(part in word for part in parts)

        return " ".join(HIDDEN if is_part(word) else word for word in self.remove_from(text).split())


def read_key(env: str, file: str, environment: Mapping[str, str] = os.environ) -> Key:
    """Return the key in an environment variable or a file; an empty one where neither is named.

    Raises:
        BadInput: both are named, or the one that is named holds no key.
    """
    if env and file:
        raise BadInput("--api-key-env and --api-key-file", expected="one of them", fix="leave one out")
    if env:
        value, source = environment.get(env, "").strip(), f"the variable {env}"
        missing = BadInput(f"the variable {env}", expected="the key of the endpoint in it", fix=f"export {env}=…")
    elif file:
        source = f"the file {file}"
        missing = BadInput(source, expected="the key of the endpoint, on one line", fix="check the path")
        try:
            value = Path(file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise missing from e
    else:
        return Key("")
    if not value:
        raise missing
    if len(value) < SHORTEST_KEY or not value.isascii() or not value.isprintable() or " " in value:
        # The key itself stays out of the error.
        expected = f"a key: one word of {SHORTEST_KEY} or more plain characters"
        raise BadInput(source, expected=expected, fix="check that it holds the key and nothing else")
    return Key(value, source)
