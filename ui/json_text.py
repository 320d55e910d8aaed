"""JSON as people read it: on lines of its own, with its texts' line breaks as line breaks, and nothing of it changed.

It is not parsed and written again, which would lose keys that occur twice and how a number was written.
"""

from __future__ import annotations

import json
import re
from html import escape

from rlhf_hitl.visible import make_visible

#: Levels that are indented.
INDENTED_LEVELS = 12
_INDENT = "  "
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_ESCAPE = re.compile(r"(?:\\u[0-9a-fA-F]{4})+|\\.")
_READABLE = {r"\n": "\n", r"\t": "\t", r"\/": "/"}


def render_json(text: str) -> str | None:
    """Return JSON as HTML, one entry a line; None where it is none."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    html: list[str] = []
    level, tokens = 0, _TOKEN.findall(text)
    for at, token in enumerate(tokens):
        following = tokens[at + 1] if at + 1 < len(tokens) else ""
        if token in "{[":
            level += 1
            html.append(token if following in "}]" else token + _break_line(level))
        elif token in "}]":
            level -= 1
            html.append(token if tokens[at - 1] in "{[" else _break_line(level) + token)
        elif token == ",":
            html.append("," + _break_line(level))
        elif token == ":":
            html.append(": ")
        elif token[0] == '"':
            css_class = ' class="json-key"' if following == ":" else ""
            html.append(f"<bdi{css_class}>{escape(make_visible(_make_readable(token)))}</bdi>")
        else:
            html.append(escape(token))
    return "".join(html)


def _break_line(level: int) -> str:
    return "\n" + _INDENT * min(level, INDENTED_LEVELS)


def _make_readable(token: str) -> str:
    """Return a text of JSON with its line breaks and letters instead of their escapes; other escapes stay."""
    return _ESCAPE.sub(_read_escape, token) if "\\" in token else token


def _read_escape(found: re.Match[str]) -> str:
    escaped = found[0]
    if not escaped.startswith("\\u"):
        return _READABLE.get(escaped, escaped)
    letters = json.loads(f'"{escaped}"')
    return letters if letters.isprintable() else escaped
