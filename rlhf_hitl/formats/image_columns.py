"""Images in a column of their own, as TRL and `datasets.Image` have them: they are put into the messages.

An image is bytes, `{"bytes": …}` or a `data:` URL. Nothing is opened or fetched (`types/images.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_hitl.formats.columns import IMAGES, find_column
from rlhf_hitl.formats.record import SourceRow, make_field_error, read_list_field

_PAYLOADS = ("image", "image_url", "bytes", "base64", "url", "path")
_TYPES = ("image", "image_url", "input_image")

RawMessages = list[Any]


def read_images(row: SourceRow) -> list[Any]:
    """Return a row's images as the file has them: a list, or one."""
    name = find_column(row, IMAGES)
    if name is None:
        return []
    value = row.take(name, "images")
    if isinstance(value, Mapping | bytes) or (isinstance(value, str) and not value.lstrip().startswith("[")):
        return [value]
    return read_list_field(row, name)


def fill_images(row: SourceRow, images: list[Any], prompt: RawMessages, *sides: RawMessages) -> list[RawMessages]:
    """Return a prompt and the sides that go on from it with the row's images in them.

    Each `{"type": "image"}` without an image gets one, in their order through the prompt and a side. Where there is
    none, the images come before the text of the first user message, as TRL puts them.

    Raises:
        BadInput: there are more or fewer places than images.
    """
    if not images:
        return [prompt, *sides]
    in_prompt, in_sides = _count_places(prompt), [_count_places(side) for side in sides]
    if not in_prompt and not any(in_sides):
        chats = [prompt, *sides] if prompt else list(sides)
        placed = [_put_first(chat, images) if not prompt or i == 0 else chat for i, chat in enumerate(chats)]
        if any(chat is None for chat in placed):
            raise make_field_error(row, _name(row), "a user message for the images, or a place for each")
        return [chat or [] for chat in (placed if prompt else [prompt, *placed])]
    if any(in_prompt + n != len(images) for n in in_sides or [0]):
        found = " and ".join(str(in_prompt + n) for n in sorted(set(in_sides or [0])))
        raise make_field_error(
            row, _name(row), f"as many images as there are places for them: {len(images)} and {found}"
        )
    return [_fill(prompt, images), *(_fill(side, images[in_prompt:]) for side in sides)]


def _name(row: SourceRow) -> str:
    return find_column(row, IMAGES) or "images"


def _is_place(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _TYPES and all(part.get(key) is None for key in _PAYLOADS)


def _list_parts(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return list(content) if isinstance(content, list | tuple) else []


def _count_places(messages: RawMessages) -> int:
    return sum(_is_place(part) for message in messages for part in _list_parts(message))


def _fill(messages: RawMessages, images: list[Any]) -> RawMessages:
    left = iter(images)
    filled = []
    for message in messages:
        if parts := _list_parts(message):
            parts = [{**part, "image": next(left)} if _is_place(part) else part for part in parts]
            message = {**message, "content": parts}
        filled.append(message)
    return filled


def _put_first(messages: RawMessages, images: list[Any]) -> RawMessages | None:
    """Return messages with images before the first user's text; None where no user says anything."""
    for i, message in enumerate(messages):
        if isinstance(message, Mapping) and message.get("role") == "user":
            text = message.get("content")
            parts = [{"type": "text", "text": text}] if isinstance(text, str) else _list_parts(message)
            places = [{"type": "image", "image": image} for image in images]
            return [*messages[:i], {**message, "content": [*places, *parts]}, *messages[i + 1 :]]
    return None
