"""The parts of a message that are no text: reasoning, tool calls, their results, the tools a prompt offers, images.

Each is a block that can be folded. What is folded at first depends on its length alone. In front of what is made
readable, `markdown.render_as_written` keeps what was written: the raw view shows one instead of the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from rlhf_hitl.types import ImagePart, Message, Tool, ToolCall, Tools
from rlhf_hitl.ui import markdown
from rlhf_hitl.ui.json_text import render_json
from rlhf_hitl.ui.markdown import escape, make_visible, render_translated

#: Characters and lines up to which a block is open at first.
OPEN_LENGTH, OPEN_LINES = 800, 14
#: Characters of JSON of one card that are drawn in lines, and that are shown.
READABLE_LIMIT, SHOWN_LIMIT = 100_000, 500_000
#: Blocks of one message that are shown; a note says how many are not.
BLOCKS_LIMIT = 300
_NAME_LENGTH = 80  # characters of a name, an id or a tool that are shown

#: The address at which an image is shown to whoever the page is for, by the image's id.
ImageAddress = Callable[[str], str]


class Blocks:
    """Draws the blocks of one card, within its limits. Calls are remembered, for their results to name them."""

    def __init__(self) -> None:
        self._readable, self._shown = READABLE_LIMIT, SHOWN_LIMIT
        self._called: dict[str, str] = {}  # the id of a call → the name of its tool

    def render_tools(self, tools: Tools) -> str:
        """Return the tools that a prompt offers as one folded block, "" where it offers none."""
        if not tools:
            return ""
        title = render_translated("tools_offered", f"Tools offered: {len(tools):,}", len(tools))
        names = ", ".join(_shorten(_describe_tool(tool)[0]) for tool in tools[:20])
        items = "".join(self._render_tool(tool) for tool in tools[:BLOCKS_LIMIT])
        left_out = _render_left_out(len(tools) - BLOCKS_LIMIT)
        return _fold("tools-offered", f"{title} {_render_preview(names)}", f"<ul>{items}</ul>{left_out}", is_open=False)

    def _render_tool(self, tool: Tool) -> str:
        name, description, parameters = _describe_tool(tool)
        about = f'<p dir="auto">{escape(make_visible(description[:2_000]))}</p>' if description else ""
        drawn = self._render_json(json.dumps(parameters, ensure_ascii=False)) if parameters else ""
        return f"<li>{_render_code(name or '?')}{_add_written(about + drawn, tool.as_json)}</li>"

    def render_reasoning(self, text: str, html: str) -> str:
        """Return the reasoning of a message, whose HTML is `html`. It is folded at first, whatever its length."""
        title = render_translated("reasoning", "Reasoning")
        length = render_translated("characters", f"{len(text):,} characters", len(text))
        return _fold("reasoning", f'{title} <span class="note">{length}</span>', html, is_open=False)

    def render_calls(self, message: Message) -> str:
        """Return the tool calls of a message."""
        html: list[str] = []
        for call in message.tool_calls[:BLOCKS_LIMIT]:
            if self._shown <= 0:
                break
            html.append(self._render_call(call))
        return "".join(html) + _render_left_out(len(message.tool_calls) - len(html))

    def _render_call(self, call: ToolCall) -> str:
        if len(call.as_json) > SHOWN_LIMIT:
            title = render_translated("tool_call", "Tool call")
            return _fold("call", title, self._render_json(call.as_json), is_open=False)
        id, name, arguments = call.to_plain().get("id"), call.name, call.arguments
        if isinstance(id, str) and id:
            self._called[id] = name
        title = f"{render_translated('tool_call', 'Tool call')} {_render_code(name)}{_render_id(id)}"
        if arguments is None:
            return _fold("call", title, _add_written("", call.as_json), is_open=False)
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        drawn = self._render_json(written)
        is_short = _is_short(drawn, factor=3)
        preview = "" if is_short else _render_preview(written)
        return _fold("call", title + preview, _add_written(drawn, call.as_json), is_open=is_short)

    def render_result(self, message: Message, html: str) -> str:
        """Return the content of a tool's message: JSON in lines, another text as its HTML. Long ones are folded."""
        text = message.text.strip()
        is_short = _is_short(text)
        if text[:1] in ("{", "[") and not message.images and len(text) <= self._readable:
            self._readable -= len(text)
            if drawn := render_json(text):
                html = _add_written(_wrap_json(drawn), message.text)
                is_short = _is_short(drawn, factor=3)
        if is_short or message.images:
            return html
        title = render_translated("tool_result", "Result")
        return _fold("tool-result", f"{title} {_render_preview(text)}", html, is_open=False)

    def name_tool(self, message: Message) -> str:
        """Return whose result a tool's message is, as HTML: the tool by its call where the message does not name it."""
        name = message.name or self._called.get(message.tool_call_id, "")
        is_unknown = message.tool_call_id and message.tool_call_id not in self._called
        note = render_translated("no_such_call", "no call has this id") if is_unknown else ""
        return (
            (f" {_render_code(name)}" if name else "")
            + _render_id(message.tool_call_id)
            + (f' <span class="note">{note}</span>' if note else "")
        )

    def _render_json(self, text: str) -> str:
        """Return what should be JSON as HTML: in lines, or else as it was written, with a note that says why."""
        shown = text[: max(0, self._shown)]
        self._shown -= len(text)
        if len(text) <= self._readable:
            self._readable -= len(text)
            if html := render_json(text):
                return _wrap_json(html)
            note = render_translated("json_invalid", "This is not JSON. It is shown as it is")
        else:
            note = render_translated("text_plain", markdown.WHY_PLAIN)
        cut_note = markdown.render_cut_note(len(text) - len(shown))
        return f'<p class="note">{note}</p><pre class="json" dir="auto">{escape(make_visible(shown))}</pre>{cut_note}'


def render_image(part: ImagePart, n: int, of: int, where: str, address: ImageAddress) -> str:
    """Return an image as a button that shows it larger. `where` is "conversation" or "answer"."""
    if part.alt.strip():
        described = f'alt="{escape(make_visible(part.alt))}"'
    elif where == "answer":
        described = f'data-i18n-alt="image_in_answer" data-n="{n}" data-of="{of}" alt="Image {n} of {of} in the answer"'
    else:
        described = (
            f'data-i18n-alt="image_in_conversation" data-n="{n}" data-of="{of}" alt="Image {n} of {of} in the question"'
        )
    source = escape(address(part.id))
    image = f'<img src="{source}" {described} decoding="async" draggable="false">'
    written = json.dumps({"image": part.id} | ({"alt": part.alt} if part.alt else {}), ensure_ascii=False)
    return f'<button type="button" class="picture">{image}</button>{markdown.render_as_written(written)}'


def _describe_tool(tool: Tool) -> tuple[str, str, object]:
    """Return the name, the description and the parameters of a tool, as far as its schema has them."""
    plain = tool.to_plain()
    function = plain["function"] if isinstance(plain.get("function"), Mapping) else plain
    parameters = next((function[k] for k in ("parameters", "input_schema", "inputSchema") if k in function), None)
    if "name" not in function:
        parameters = plain
    return str(function.get("name", "")), str(function.get("description") or ""), parameters


def _fold(kind: str, summary: str, body: str, *, is_open: bool) -> str:
    return (
        f'<details class="block {kind}"{" open" if is_open else ""}><summary>{summary}</summary>'
        f'<div class="block-body">{body}</div></details>'
    )


def _render_code(name: str) -> str:
    return f'<code dir="auto">{escape(_shorten(name))}</code>'


def _render_id(id: object) -> str:
    return f' <bdi class="note call-id">{escape(_shorten(id))}</bdi>' if isinstance(id, str) and id else ""


def _render_preview(text: str) -> str:
    line = make_visible(" ".join(text[:400].split()))[:120]
    return f' <bdi class="note block-preview">{escape(line)}</bdi>'


def _render_left_out(n: int) -> str:
    note = render_translated("blocks_cut", f"Not shown: {n:,}", n)
    return f'<p class="note">{note}</p>' if n > 0 else ""


def _shorten(name: str) -> str:
    return make_visible(name if len(name) <= _NAME_LENGTH else name[:_NAME_LENGTH] + "…")


def _wrap_json(html: str) -> str:
    return f'<pre class="json" dir="ltr">{html}</pre>'


def _add_written(html: str, text: str) -> str:
    """Return what was made readable, followed by what was written, which the raw view shows instead."""
    return f'<div class="readable">{html}</div>{markdown.render_as_written(text)}'


def _is_short(text: str, factor: int = 1) -> bool:
    return len(text) <= OPEN_LENGTH * factor and text.count("\n") < OPEN_LINES  # `factor`: for what tags add
