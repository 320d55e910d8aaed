"""Lists and messages that a file holds as text: JSON, or as Python writes them (a CSV file made by pandas)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: Limits of a text as Python writes it: the parser takes much more memory than the text.
MAX_PYTHON_LETTERS, MAX_PYTHON_DEPTH = 2_000_000, 50
#: Where an object may hold the messages of a conversation.
MESSAGES_KEYS = ("messages", "conversation", "conversations")

_BRACKETS = re.compile(r"[\[({\])}]")
_NUMPY_BREAK = re.compile(r"\}\s*\n\s*\{")  # NumPy writes no comma here; within a text, a line break is written \n
_NUMPY_ARRAY = re.compile(r"\s*array\((.*?)(?:,\s*dtype=object)?\s*\)\s*", re.DOTALL)


def looks_like_messages(text: str) -> bool:
    """Return whether a text may be messages that were written as text."""
    if text[:1] not in "[{(a \n\t" or not text[:200].lstrip().startswith(("[", "{", "(", "array(")):
        return False
    return "role" in text and ("content" in text or "tool_calls" in text)


def decode_value(text: str) -> Any:
    """Return the value that a text is: JSON, or a literal as Python and NumPy write it.

    Raises:
        ValueError: it is neither, or too long or nested too deeply for Python's.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        json_error = str(e)
    if len(text) > MAX_PYTHON_LETTERS:
        raise ValueError(f"no JSON ({json_error}), and of more than {MAX_PYTHON_LETTERS:,} letters")
    if _measure_depth(text) > MAX_PYTHON_DEPTH:
        raise ValueError(f"no JSON ({json_error}), and nested more than {MAX_PYTHON_DEPTH} deep")
    if (array := _NUMPY_ARRAY.fullmatch(text)) is not None:
        text = array[1]
    try:
        return ast.literal_eval(_NUMPY_BREAK.sub("},{", text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as e:
        raise ValueError(f"neither JSON ({json_error}) nor Python ({str(e)[:80]})") from e


def find_messages(value: Any) -> list[Any] | None:
    """Return the messages that a value is: a list of them, one alone, or an object of just them. None for another.

    Arrow may hold a list of messages as an object of lists: `{"role": […], "content": […]}`.
    """
    if hasattr(value, "tolist"):  # a NumPy array
        value = value.tolist()
    if _is_list(value):
        return list(value) if value and all(map(_is_message, value)) else None
    if not isinstance(value, Mapping):
        return None
    if _is_message(value):
        return [value]
    if len(value) == 1 and (key := next(iter(value))) in MESSAGES_KEYS:
        return find_messages(value[key])
    columns = [list(column) for column in value.values() if _is_list(column) or hasattr(column, "tolist")]
    if "role" in value and len(columns) == len(value) and len(set(map(len, columns))) == 1:
        return find_messages([dict(zip(value, row)) for row in zip(*columns)])
    return None


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and len(value) > 1


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _measure_depth(text: str) -> int:
    """Return how deep brackets are nested, those within texts counted too."""
    depth = deepest = 0
    for mark in _BRACKETS.findall(text):
        depth += 1 if mark in "[({" else -1
        deepest = max(deepest, depth)
    return deepest
