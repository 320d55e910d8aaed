"""Chat messages, in the form that chat templates and TRL take: text or parts, tool calls, reasoning."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from rlhf_hitl.errors import BadInput


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image, by the hash of its pixels (`images.py`).

    `png` is the image itself, from where it was read to where the store keeps it; elsewhere it is None.
    """

    id: str
    alt: str = ""
    png: bytes | None = field(default=None, compare=False, repr=False)


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool: `as_json` is the call as it came, with its keys in their order, which a template may show."""

    as_json: str

    @property
    def name(self) -> str:
        return _get_function(self.to_plain())["name"]

    @property
    def arguments(self) -> Any:
        """The arguments as they came: JSON text, as OpenAI writes them, which may be invalid, or an object."""
        return _get_function(self.to_plain()).get("arguments")

    def to_plain(self) -> dict[str, Any]:
        return json.loads(self.as_json)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a prompt offers: its JSON schema, as it came."""

    as_json: str

    def to_plain(self) -> dict[str, Any]:
        return json.loads(self.as_json)


Tools = tuple[Tool, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `content` is None where a message has none, as that of a bare tool call."""

    role: str
    content: str | tuple[Part, ...] | None
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning_content: str = ""

    def __hash__(self) -> int:
        return hash((self.role, self.content))  # a third of the time of a hash of all fields

    @property
    def text(self) -> str:
        """The text of the content; of parts, their texts one after the other."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or () if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        return () if isinstance(self.content, str) else tuple(p for p in self.content or () if isinstance(p, ImagePart))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to judge: no visible text, no image, no call and no reasoning."""
        return not (self.text.strip() or self.images or self.tool_calls or self.reasoning_content.strip())

    @property
    def is_plain(self) -> bool:
        """Whether the message is a role and a text and nothing else."""
        return isinstance(self.content, str) and not (
            self.name or self.tool_calls or self.tool_call_id or self.reasoning_content
        )

    def read_all_text(self) -> str:
        """Return all text of the message: reasoning, content and tool calls, for a search or a length."""
        if self.is_plain:
            return self.text
        return "\n".join(filter(None, [self.reasoning_content, self.text, *(call.as_json for call in self.tool_calls)]))

    def to_plain(self) -> dict[str, Any]:
        """Return the message as a dictionary, with the keys that it has: `role`, `content`, and others where set.

        An image is `{"type": "image", "image": its id}`.
        """
        plain: dict[str, Any] = {"role": self.role, "content": self.content}
        if not self.is_plain:
            if self.content is not None and not isinstance(self.content, str):
                plain["content"] = [_part_to_plain(part) for part in self.content]
            if self.tool_calls:
                plain["tool_calls"] = [call.to_plain() for call in self.tool_calls]
            plain |= {key: value for key in _TEXT_KEYS if (value := getattr(self, key))}
        return plain


Messages = tuple[Message, ...]

_TEXT_KEYS = ("name", "tool_call_id", "reasoning_content")
#: Other names for `reasoning_content`.
_REASONING_KEYS = ("reasoning", "thinking")
#: Other names for a part of text, as OpenAI's Responses have them.
_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image", "image_url", "input_image")
#: Messages of fewer letters are made once where they come again soon, as in the votes on one comparison.
MAX_REMEMBERED = 10_000
#: So many names of what is not read are counted each by itself; a file with more has texts where names should be.
MAX_UNREAD_NAMES = 1000
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def parse_messages(raw: Iterable[Mapping[str, Any]], unread: Counter[str] | None = None) -> Messages:
    """Return chat messages from mappings as OpenAI, transformers and TRL write them. A key that is null is not there.

    Args:
        unread: counts what is not read, by name: keys of messages and of parts, and frames of animations after the
            first. Without it such a key is an error.

    Raises:
        BadInput: a message has no role, or neither content nor tool calls; a content is neither text nor parts; an
            image cannot be read or is not in the message itself; a tool call names no function.
    """
    if not isinstance(raw, Iterable) or isinstance(raw, str | bytes | Mapping):
        raise BadInput(f"messages {str(raw)[:80]!r}", expected="a list of messages", fix="give a list, of one or more")
    return tuple([_parse_message(mapping, i, unread) for i, mapping in enumerate(raw)])


def parse_tools(raw: Any) -> Tools:
    """Return a prompt's tools from a list of JSON schemas, or from its JSON text; nothing from None.

    Raises:
        BadInput: it is no list of objects, or holds what JSON cannot.
    """
    if isinstance(raw, str):
        try:
            raw = json.loads(raw) if raw.strip() else None
        except (ValueError, RecursionError) as e:
            raise BadInput(f"tools {raw[:60]!r}", expected="a JSON list of tools", fix=f"correct it ({e})") from e
    if raw is None:
        return ()
    if not isinstance(raw, Sequence) or not all(isinstance(tool, Mapping) for tool in raw):
        raise BadInput(f"tools {str(raw)[:60]!r}", expected="a list of JSON schemas", fix="give a list of objects")
    return tuple(Tool(_to_json_text(tool, f"tools[{i}]")) for i, tool in enumerate(raw))


def messages_to_dicts(messages: Messages) -> list[dict[str, Any]]:
    """Return messages as the dictionaries that chat templates and TRL take (`Message.to_plain`)."""
    return [m.to_plain() for m in messages]


def list_images(*chats: Messages) -> Iterator[ImagePart]:
    """Yield the images of some chats, in their order."""
    return (image for chat in chats for message in chat for image in message.images)


def drop_pixels(messages: Messages) -> Messages:
    """Return messages whose images are only named: a store keeps the images themselves."""
    if not any(image.png for image in list_images(messages)):
        return messages
    return tuple(_drop_pixels(m) if m.images else m for m in messages)


def _drop_pixels(message: Message) -> Message:
    assert isinstance(message.content, tuple)
    return replace(
        message, content=tuple(ImagePart(p.id, p.alt) if isinstance(p, ImagePart) else p for p in message.content)
    )


def hide_reasoning(messages: Messages) -> Messages:
    """Return messages without their reasoning, for raters whose guideline hides it."""
    if not any(m.reasoning_content for m in messages):
        return messages
    return tuple(replace(m, reasoning_content="") for m in messages)


def identify_messages(messages: Messages) -> list[dict[str, Any]]:
    """Return what the id of a prompt or a completion is the hash of: all that is in its messages.

    Tool calls are texts here, since the order of their keys counts: a template shows it.
    """
    identity = messages_to_dicts(messages)
    for message, plain in zip(messages, identity):
        if message.tool_calls:
            plain["tool_calls"] = [call.as_json for call in message.tool_calls]
    return identity


def _parse_message(raw: Any, number: int, unread: Counter[str] | None) -> Message:
    if type(raw) is dict and len(raw) == 2:  # nearly all are of this kind
        role, content = raw.get("role"), raw.get("content")
        if type(role) is str and type(content) is str:
            return _make_plain(role, content) if len(content) < MAX_REMEMBERED else Message(role, content)
    place = f"messages[{number}]"
    if not isinstance(raw, Mapping) or not isinstance(raw.get("role"), str):
        raise _make_message_error(raw, place)
    given = {key: value for key, value in raw.items() if value is not None}
    texts = {key: given.pop(key) for key in _TEXT_KEYS if key in given}
    for key in _REASONING_KEYS:
        if isinstance(given.get(key), str) and not texts.get("reasoning_content"):
            texts["reasoning_content"] = given.pop(key)
    if wrong := next((key for key, value in texts.items() if not isinstance(value, str)), None):
        raise BadInput(f"{place}.{wrong} = {str(texts[wrong])[:60]!r}", expected="text", fix="write it as text")
    content, calls = given.pop("content", None), given.pop("tool_calls", None)
    tool_calls = () if calls is None else _parse_tool_calls(calls, f"{place}.tool_calls")
    if not isinstance(content, str | None):
        content = _parse_parts(content, f"{place}.content", unread)
    if content is None and not tool_calls and not texts.get("reasoning_content"):
        raise _make_message_error(raw, place)
    role = given.pop("role")
    _count_unread(given, place, "message", unread)
    return Message(role, content, tool_calls=tool_calls, **texts)


_make_plain = lru_cache(1000)(Message)


#: `function_call` is what OpenAI had before `tool_calls`.
_FUNCTION_CALL_FIX = (
    'write function_call as tool_calls: [{"type": "function", "function": {"name": text, "arguments": JSON}}]'
)


def _make_message_error(raw: Any, place: str) -> BadInput:
    return BadInput(
        f"{place} = {str(raw)[:80]!r}",
        expected='a message {"role": text, "content": text or parts}, or one with tool calls or reasoning',
        fix=_FUNCTION_CALL_FIX
        if isinstance(raw, Mapping) and isinstance(raw.get("function_call"), Mapping)
        else "give every message a role and a content",
    )


def _parse_parts(raw: Any, place: str, unread: Counter[str] | None) -> str | tuple[Part, ...]:
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes) or not raw:
        raise BadInput(f"{place} = {str(raw)[:60]!r}", expected="text, or a list of parts", fix="correct it")
    parts = tuple(_parse_part(part, f"{place}[{i}]", unread) for i, part in enumerate(raw))
    # One part of text is the text: what is written in two ways is one prompt, in one split.
    return parts[0].text if len(parts) == 1 and isinstance(parts[0], TextPart) else parts


def _parse_part(raw: Any, place: str, unread: Counter[str] | None) -> Part:
    given = {k: v for k, v in raw.items() if v is not None} if isinstance(raw, Mapping) else {}
    kind = given.pop("type", None)
    if kind in _TEXT_TYPES and isinstance(given.get("text"), str):
        part: Part = TextPart(given.pop("text"))
    elif kind in _IMAGE_TYPES:
        part = _parse_image(given, place, unread)
    else:
        raise BadInput(
            f"{place} = {str(raw)[:60]!r}",
            expected='a part {"type": "text", "text": …} or {"type": "image", "image": …}',
            fix="leave other parts out, or give what they say as text",
        )
    _count_unread(given, place, "part", unread)
    return part


def _parse_image(given: dict[str, Any], place: str, unread: Counter[str] | None) -> ImagePart:
    from rlhf_hitl.types.images import is_image_id, read_image  # Pillow takes a while

    alt = str(given.pop("alt", ""))
    key = next((k for k in ("image", "image_url", "bytes", "base64", "url", "path") if k in given), None)
    value = given.pop(key) if key is not None else None
    if key == "image_url" and isinstance(value, Mapping):
        given |= {f"image_url.{name}": more for name, more in value.items() if name != "url" and more is not None}
        value = value.get("url")
    if isinstance(value, str) and is_image_id(value):
        return ImagePart(value, alt)
    try:
        id, png = read_image(value, unread)
    except BadInput as e:
        raise BadInput(f"{place}: {e.value}", expected=e.expected, fix=e.fix) from e
    return ImagePart(id, alt, png)


def _part_to_plain(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image", "image": part.id} | ({"alt": part.alt} if part.alt else {})


def _parse_tool_calls(raw: Any, place: str) -> tuple[ToolCall, ...]:
    if isinstance(raw, str):  # some files hold them as JSON text
        with suppress(ValueError, RecursionError):  # the error below says what is wrong with it
            raw = json.loads(raw)
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise BadInput(f"{place} = {str(raw)[:60]!r}", expected="a list of tool calls", fix="give a list")
    calls = []
    for i, call in enumerate(raw):
        function = _get_function(call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadInput(
                f"{place}[{i}] = {str(call)[:60]!r}",
                expected='{"type": "function", "function": {"name": text, "arguments": JSON}}',
                fix="name the function that is called",
            )
        calls.append(ToolCall(_to_json_text(_drop_nulls(call), f"{place}[{i}]")))
    return tuple(calls)


def _get_function(call: Any) -> Any:
    """Return the function of a call: the call itself where it is flat, `{"name", "arguments"}`."""
    return call["function"] if isinstance(call.get("function"), Mapping) else call


def _drop_nulls(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call without the keys that are null, which Arrow adds to it; its arguments are left as they are."""
    plain = {key: value for key, value in call.items() if value is not None}
    if isinstance(function := plain.get("function"), Mapping):
        plain["function"] = {key: value for key, value in function.items() if value is not None}
    return plain


def _to_json_text(value: Mapping[str, Any], place: str) -> str:
    try:
        return _encode(value)
    except (ValueError, TypeError, RecursionError) as e:
        raise BadInput(
            f"{place} = {str(value)[:60]!r}",
            expected="what JSON can hold: no NaN, not nested too deeply",
            fix=f"correct it ({e})",
        ) from e


def _count_unread(left: Mapping[str, Any], place: str, what: str, unread: Counter[str] | None) -> None:
    for key in left:
        if unread is None:
            raise BadInput(
                f"{place}: the key {str(key)[:60]!r}",
                expected="the keys of a message: role, content, name, tool_calls, tool_call_id, reasoning_content"
                if what == "message"
                else "the keys of a part: type, text, image, alt",
                fix="leave it out",
            )
        name = f"{what} key {str(key)[:60]}"
        unread[name if name in unread or len(unread) < MAX_UNREAD_NAMES else f"other {what} keys"] += 1
