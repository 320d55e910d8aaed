"""Chat messages, in the form chat templates and TRL take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_hitl.errors import BadInput


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


Messages = tuple[Message, ...]


def parse_messages(raw: Iterable[Mapping[str, Any]]) -> Messages:
    """Return chat messages from `{"role", "content"}` mappings.

    Raises:
        BadInput: a message lacks one of the two keys, or its content is not text.
    """
    if not isinstance(raw, Iterable) or isinstance(raw, str):
        raise BadInput(f"messages {str(raw)[:80]!r}", expected="a list of messages", fix="give a list, of one or more")
    messages = []
    for i, mapping in enumerate(raw):
        try:
            role, content = mapping["role"], mapping["content"]
        except (TypeError, LookupError):
            role = content = None
        if not isinstance(role, str) or not isinstance(content, str):
            raise BadInput(
                f"messages[{i}] = {str(mapping)[:80]!r}",
                expected='a message {"role": text, "content": text}',
                fix="give every message both keys as text",
            )
        messages.append(Message(role, content))
    return tuple(messages)


def messages_to_dicts(messages: Messages) -> list[dict[str, str]]:
    """Return messages as the `{"role", "content"}` dictionaries that chat templates and TRL take."""
    return [{"role": m.role, "content": m.content} for m in messages]
