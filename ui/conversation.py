"""Chat messages as HTML, as plain text and as one-line excerpts, the same on every page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rlhf_hitl.types import ImagePart, Message, TextPart, Tools
from rlhf_hitl.ui import markdown
from rlhf_hitl.ui.look_alikes import find_hidden_differences, find_look_alikes
from rlhf_hitl.ui.message_blocks import Blocks, ImageAddress, render_image
from rlhf_hitl.ui.rendering import render_texts

#: Roles with a translated name.
SPEAKERS = ("system", "user", "assistant", "tool")
#: Messages of one conversation that are shown; a note says how many are not.
MESSAGES_LIMIT = 1_000


@dataclass(frozen=True)
class CardHtml:
    """A prompt and its completions as HTML.

    Attributes:
        alike: groups of completions, by their places, that look the same and are not written the same.
        hidden: groups of completions that differ only in what raters do not see of them.
    """

    prompt: str
    completions: list[str]
    alike: list[list[int]]
    hidden: list[list[int]]


def render_card(
    prompt: Sequence[Message],
    completions: Sequence[Sequence[Message]],
    image_address: ImageAddress,
    *,
    tools: Tools = (),
    written: Sequence[Sequence[Message]] | None = None,
) -> CardHtml:
    """Return a prompt with its tools, and its completions, as HTML. They share one budget of time: see `rendering.py`.

    A completion is its message, or a conversation if it has more than one. `written` are the completions with what a
    guideline hides of them, which is compared and not drawn; None where nothing is hidden. Addresses of images are for
    one person, so they are not in what is cached.
    """
    chats = [prompt, *completions]
    html = render_texts(text for chat in chats for m in chat[:MESSAGES_LIMIT] for text in _list_texts(m))
    blocks = Blocks()
    drawn_tools = blocks.render_tools(tools)
    drawn_prompt = drawn_tools + _ChatDrawer(prompt, "conversation", html, blocks, image_address).draw()
    drawn = [_ChatDrawer(chat, "answer", html, blocks, image_address).draw_completion() for chat in completions]
    hidden = find_hidden_differences(completions, completions if written is None else written)
    return CardHtml(drawn_prompt, drawn, find_look_alikes(completions, drawn), hidden)


def _list_texts(message: Message) -> Iterator[str]:
    yield from filter(None, [message.reasoning_content])
    yield from (piece for piece in _list_pieces(message) if isinstance(piece, str))


def _list_pieces(message: Message) -> list[str | ImagePart]:
    """Return the content in its order: texts, those that follow each other as one, and images."""
    if isinstance(message.content, str):
        return [message.content] if message.content else []  # a blank text is called empty, and is in the raw view
    pieces: list[str | ImagePart] = []
    for is_text, parts in groupby(message.content or (), lambda part: isinstance(part, TextPart)):
        if is_text:
            text = "".join(part.text for part in parts if isinstance(part, TextPart))
            pieces += [text] if text.strip() else []
        else:
            pieces += [part for part in parts if isinstance(part, ImagePart)]
    return pieces


class _ChatDrawer:
    """Draws one conversation. `where` it stands, "conversation" or "answer", is part of what its images are called."""

    def __init__(
        self,
        messages: Sequence[Message],
        where: str,
        html: Mapping[str, str],
        blocks: Blocks,
        image_address: ImageAddress,
    ):
        self._messages, self._where, self._html, self._blocks = messages, where, html, blocks
        self._image_address = image_address
        self._images = sum(len(m.images) for m in messages[:MESSAGES_LIMIT])
        self._images_drawn = 0

    def draw_completion(self) -> str:
        """Return the HTML of a completion: without the name of a speaker where only the policy speaks."""
        only = self._messages[0] if len(self._messages) == 1 else None
        return self._draw_content(only) if only and not only.name and not only.tool_call_id else self.draw()

    def draw(self) -> str:
        """Return the messages as HTML, each with the name of its speaker."""
        turns = []
        for message in self._messages[:MESSAGES_LIMIT]:
            speaker = _name_speaker(message)
            if message.role == "tool":
                speaker += self._blocks.name_tool(message)
            elif message.name:
                speaker += f' <bdi class="name">{markdown.escape(markdown.make_visible(message.name[:80]))}</bdi>'
            role = message.role if message.role in SPEAKERS else "other"
            content = self._draw_content(message)
            turns.append(f'<article class="turn {role}"><h2 class="speaker">{speaker}</h2>{content}</article>')
        missing = len(self._messages) - MESSAGES_LIMIT
        if missing > 0:
            note = markdown.render_translated("messages_cut", f"Messages that are not shown: {missing:,}", missing)
            turns.append(f'<p class="note">{note}</p>')
        return "\n".join(turns)

    def _draw_content(self, message: Message) -> str:
        """Return reasoning, content and tool calls, in the order in which a template writes them."""
        reasoning = ""
        if text := message.reasoning_content:
            reasoning = self._blocks.render_reasoning(text, self._draw_text(text))
        content = "".join(map(self._draw_piece, _list_pieces(message)))
        if message.role == "tool" and content:
            content = self._blocks.render_result(message, content)
        return (reasoning + content + self._blocks.render_calls(message)) or markdown.render_empty()

    def _draw_piece(self, piece: str | ImagePart) -> str:
        if isinstance(piece, str):
            return self._draw_text(piece)
        self._images_drawn += 1
        return render_image(piece, self._images_drawn, self._images, self._where, self._image_address)

    def _draw_text(self, text: str) -> str:
        """Return a text formatted and, unless that is the same, as it was written: the raw view shows this one."""
        html = self._html[text]
        return html if markdown.is_as_written(text, html) else html + markdown.render_as_written(text)


def _name_speaker(message: Message) -> str:
    if message.role in SPEAKERS:
        return markdown.render_translated(f"speaker_{message.role}", message.role.capitalize())
    return markdown.escape(markdown.make_visible(message.role[:40]))


def get_completion_text(messages: Sequence[Message]) -> str:
    """Return what the policy itself says to the user."""
    return "\n\n".join(m.text for m in _get_own_messages(messages))


def read_completion(messages: Sequence[Message]) -> str:
    """Return all that the policy itself wrote: its reasoning, its text and its tool calls."""
    return "\n\n".join(m.read_all_text() for m in _get_own_messages(messages))


def _get_own_messages(messages: Sequence[Message]) -> list[Message]:
    return [m for m in messages if m.role == "assistant" or len(messages) == 1]


def make_excerpt(text: str, length: int) -> str:
    """Return the beginning of a text on one line, with its control characters made visible."""
    line = markdown.make_visible(" ".join(text[: 4 * length].split()))
    return line if len(line) <= length else line[:length].rstrip() + "…"


def make_question_excerpt(messages: Sequence[Message], length: int) -> str:
    """Return the beginning of the last message of the user, or "" if there is none."""
    question = next((m for m in reversed(messages) if m.role == "user"), None)
    pieces = _list_pieces(question) if question else []
    return make_excerpt(" ".join(piece for piece in pieces if isinstance(piece, str)), length)
