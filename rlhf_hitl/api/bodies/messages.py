"""Conversations in the API: a list of messages with a role and a text."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from rlhf_hitl.api.bodies.fields import MAX_ITEMS, Body, Text
from rlhf_hitl.types import Comparison, Message, Messages, messages_to_dicts


class MessageBody(Body):
    role: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]+$", max_length=40)] = Field(examples=["user"])
    content: Text = Field(examples=["Why is the sky blue?"])


Chat = Annotated[list[MessageBody], Field(min_length=1, max_length=MAX_ITEMS)]


class ShownOut(BaseModel):
    """A completion as a rater sees it: a letter and a text, without the policy that wrote it."""

    key: str = Field(examples=["A"])
    messages: list[MessageBody]


def parse_chat(body: list[MessageBody]) -> Messages:
    return tuple(Message(m.role, m.content) for m in body)


def shown_to_json(comparison: Comparison, order: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the fields of a `ShownOut` for each completion, in the order in which they are shown."""
    return [
        {"key": key, "messages": messages_to_dicts(comparison.find_completion(i).messages)}
        for key, i in zip(ascii_uppercase, order)
    ]
