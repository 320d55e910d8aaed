"""Conversations in the API: lists of messages, with parts, tool calls and reasoning as chat templates have them."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_uppercase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_serializer

from rlhf_hitl.api.bodies.fields import MAX_ITEMS, TEXT, Body, Name, Text
from rlhf_hitl.types import Comparison, Messages, messages_to_dicts, parse_messages
from rlhf_hitl.types.images import MAX_BYTES

MAX_TOOLS = 128

Role = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]+$", max_length=40)]
JsonObject = Annotated[dict[str, Any], Field(max_length=1000)]


class TextPartBody(Body):
    type: Literal["text"]
    text: Text


class ImagePartBody(Body):
    type: Literal["image"]
    image: Annotated[str, StringConstraints(pattern=TEXT, max_length=MAX_BYTES * 4 // 3 + 100)] = Field(
        description="A `data:image/…;base64,` URL, or the id of an image that the server has. Nothing is fetched."
    )
    alt: Annotated[str, StringConstraints(pattern=TEXT, max_length=2000)] = ""


class FunctionBody(Body):
    name: Name
    arguments: Text | JsonObject = Field("{}", description="JSON as the model wrote it, which may be invalid.")


class ToolCallBody(Body):
    id: Name = ""
    type: Literal["function"] = "function"
    function: FunctionBody


class MessageBody(Body):
    """One message: nothing of it is left out or changed. Without content, calls and reasoning its text is empty."""

    role: Role = Field(examples=["user"])
    content: Text | Annotated[list[TextPartBody | ImagePartBody], Field(min_length=1, max_length=100)] | None = Field(
        None, examples=["Why is the sky blue?"]
    )
    name: Name | None = None
    tool_calls: Annotated[list[ToolCallBody], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Name | None = None
    reasoning_content: Text | None = None


class MessageOut(BaseModel):
    """One message, with the keys that it has. An image is `{"type": "image", "image": its id}`: `GET /images/{id}`."""

    role: str
    content: str | list[dict[str, Any]] | None = Field(examples=["Why is the sky blue?"])
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    @model_serializer(mode="wrap")
    def _leave_out_nulls(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value is not None or key == "content"}


Chat = Annotated[list[MessageBody], Field(min_length=1, max_length=MAX_ITEMS)]
ToolsField = Annotated[
    list[JsonObject],
    Field(max_length=MAX_TOOLS, description="JSON schemas of the tools that an answer may call."),
]


class ShownOut(BaseModel):
    """A completion as a rater sees it: a letter and a text, without the policy that wrote it."""

    key: str = Field(examples=["A"])
    messages: list[MessageOut]


def parse_chat(body: list[MessageBody]) -> Messages:
    chat = [m.model_dump(exclude_unset=True) for m in body]
    for message in chat:
        if message.get("content") is None and not message.get("tool_calls") and not message.get("reasoning_content"):
            message["content"] = ""
    return parse_messages(chat)


def shown_to_json(comparison: Comparison, order: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the fields of a `ShownOut` for each completion, in the order in which they are shown."""
    return [
        {"key": key, "messages": messages_to_dicts(comparison.find_completion(i).messages)}
        for key, i in zip(ascii_uppercase, order)
    ]
