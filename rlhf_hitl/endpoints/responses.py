"""What endpoints say besides an answer: how many tokens it took, how long to wait, that a filter refused.

Nothing of a response is taken for granted: it comes from another machine, and its text from a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_FILTERED = ("content_filter", "content_policy", "content management policy")
MOST_TOKENS = 2**31 - 1


def clean_text(text: str) -> str:
    """Return a text that both databases can hold: without zero bytes and halves of characters."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def read_choices(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the choices of a chat completion.

    Raises:
        ValueError: it is none.
    """
    choices = content.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) for c in choices):
        raise ValueError(f"it has no choices: {str(content)[:200]}")
    return choices


def read_usage(content: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many tokens a chat completion says that its prompt and its answer took; 0 where it does not say."""
    usage = content.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return _read_count(usage.get("prompt_tokens")), _read_count(usage.get("completion_tokens"))


def says_refusal(text: str) -> bool:
    """Whether an endpoint says that a filter kept it from answering."""
    return any(word in text.lower() for word in _FILTERED)


def read_retry_after(headers: Mapping[str, str]) -> float:
    """Return how many seconds an endpoint asks to wait; 0 where it does not say.

    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after: seconds, or a date.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                until = parsedate_to_datetime(value)
            except ValueError:
                continue
            seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return 0.0


def _read_count(value: Any) -> int:
    return min(value, MOST_TOKENS) if type(value) is int and value > 0 else 0
