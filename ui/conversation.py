"""Chat messages as HTML, as plain text and as one-line excerpts, the same on every page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf_hitl.types import Message
from rlhf_hitl.ui import markdown
from rlhf_hitl.ui.rendering import render_texts

#: Roles with a translated name.
SPEAKERS = ("system", "user", "assistant", "tool")
#: Messages of one conversation that are shown; a note says how many are not.
MESSAGES_LIMIT = 1_000


def render_card(prompt: Sequence[Message], completions: Sequence[Sequence[Message]]) -> tuple[str, list[str]]:
    """Return a prompt and its completions as HTML. They share one budget of time: see `rendering.py`.

    A completion is its text, or a conversation if it has more than one message.
    """
    chats = [prompt, *completions]
    html = render_texts(m.text for chat in chats for m in chat[:MESSAGES_LIMIT])
    return _render_conversation(prompt, html), [
        html[chat[0].text] if len(chat) == 1 else _render_conversation(chat, html) for chat in completions
    ]


def _render_conversation(messages: Sequence[Message], html: Mapping[str, str]) -> str:
    """Return messages as HTML, each with the name of its speaker and the HTML of its text."""
    turns = []
    for message in messages[:MESSAGES_LIMIT]:
        if message.role in SPEAKERS:
            role = message.role
            speaker = markdown.render_translated(f"speaker_{role}", role.capitalize())
        else:
            role = "other"
            speaker = markdown.escape(markdown.make_visible(message.role[:40]))
        turns.append(f'<article class="turn {role}"><h2 class="speaker">{speaker}</h2>{html[message.text]}</article>')
    missing = len(messages) - MESSAGES_LIMIT
    if missing > 0:
        note = markdown.render_translated("messages_cut", f"Messages that are not shown: {missing:,}", missing)
        turns.append(f'<p class="note">{note}</p>')
    return "\n".join(turns)


def get_completion_text(messages: Sequence[Message]) -> str:
    """Return what the policy itself wrote."""
    return "\n\n".join(m.text for m in messages if m.role == "assistant" or len(messages) == 1)


def make_excerpt(text: str, length: int) -> str:
    """Return the beginning of a text on one line, with its control characters made visible."""
    line = markdown.make_visible(" ".join(text[: 4 * length].split()))
    return line if len(line) <= length else line[:length].rstrip() + "…"


def make_question_excerpt(messages: Sequence[Message], length: int) -> str:
    """Return the beginning of the last message of the user, or "" if there is none."""
    question = next((m.text for m in reversed(messages) if m.role == "user"), "")
    return make_excerpt(question, length)
