"""Chat messages as HTML, as plain text and as one-line excerpts, the same on every page."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_hitl.types import Message
from rlhf_hitl.ui import markdown

#: Roles with a translated name.
SPEAKERS = ("system", "user", "assistant", "tool")


def render_conversation(messages: Sequence[Message]) -> str:
    """Return messages as HTML, each with the name of its speaker."""
    turns = []
    for message in messages:
        if message.role in SPEAKERS:
            role = message.role
            speaker = markdown.render_translated(f"speaker_{role}", role.capitalize())
        else:
            role = "other"
            speaker = markdown.escape(message.role[:40])
        text = markdown.render(message.content)
        turns.append(f'<article class="turn {role}"><h2 class="speaker">{speaker}</h2>{text}</article>')
    return "\n".join(turns)


def render_completion(messages: Sequence[Message]) -> str:
    """Return a completion as HTML: its text, or a conversation if it has more than one message."""
    return markdown.render(messages[0].content) if len(messages) == 1 else render_conversation(messages)


def get_completion_text(messages: Sequence[Message]) -> str:
    """Return what the policy itself wrote."""
    return "\n\n".join(m.content for m in messages if m.role == "assistant" or len(messages) == 1)


def make_excerpt(text: str, length: int) -> str:
    """Return the beginning of a text on one line, with its control characters made visible."""
    line = markdown.make_visible(" ".join(text[: 4 * length].split()))
    return line if len(line) <= length else line[:length].rstrip() + "…"


def make_question_excerpt(messages: Sequence[Message], length: int) -> str:
    """Return the beginning of the last message of the user, or "" if there is none."""
    question = next((m.content for m in reversed(messages) if m.role == "user"), "")
    return make_excerpt(question, length)
