"""Comparisons: a prompt, its completions, and the comparison raters rank them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types.content import make_content_id
from rlhf_hitl.types.messages import Messages, Tools, identify_messages
from rlhf_hitl.types.names import check_label
from rlhf_hitl.types.splits import Split, hash_prompt_family, split_for_family


class Route(StrEnum):
    """Who decides a comparison. `auto` (the reward model) is the only route that opens no place for a rater."""

    HUMAN = "human"
    AUTO = "auto"
    AUDIT = "audit"
    CONTROL = "control"
    ESCALATED = "escalated"


#: The project of everything that does not name a project.
DEFAULT_PROJECT = "default"


@dataclass(frozen=True)
class Prompt:
    """Chat messages to be answered, and the tools that the answer may call."""

    id: str
    messages: Messages
    split: Split
    tags: Mapping[str, str] = field(default_factory=dict)
    tools: Tools = ()

    @classmethod
    def create(
        cls,
        messages: Messages,
        tags: Mapping[str, str] | None = None,
        split: Split | None = None,
        tools: Tools = (),
    ) -> Prompt:
        if all(m.is_empty for m in messages):
            raise BadInput("prompt", expected="at least one message with text", fix="drop the row or fill the prompt")
        tags = {
            check_label("tag", tag): check_label(f"tag {tag[:60]!r} =", value) for tag, value in (tags or {}).items()
        }
        family = hash_prompt_family(messages)
        prompt = cls(make_prompt_id(messages, tools), messages, split or split_for_family(family), tags, tools)
        prompt.__dict__["family"] = family  # as the property below would keep it
        return prompt

    @cached_property
    def family(self) -> str:
        return hash_prompt_family(self.messages)

    @property
    def language(self) -> str:
        """The tag `language` in lower case; empty where it is missing or too long to be a language."""
        language = self.tags.get("language", "").strip().lower()
        return language if len(language) <= 40 else ""


@dataclass(frozen=True)
class Completion:
    """One answer of one policy to one prompt. Usually one assistant message; several where the turns between differ."""

    id: str
    prompt_id: str
    messages: Messages
    policy: str
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls, prompt_id: str, messages: Messages, policy: str, sampling: Mapping[str, Any] | None = None
    ) -> Completion:
        policy = check_label("policy", policy)
        id = make_completion_id(prompt_id, policy, messages)
        return cls(id, prompt_id, messages, policy, dict(sampling or {}))

    @property
    def text(self) -> str:
        """The text the policy itself wrote, its turns joined by blank lines."""
        return "\n\n".join(m.text for m in self.messages if m.role == "assistant")

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to judge in it (`Message.is_empty`)."""
        return all(m.is_empty for m in self.messages)


@dataclass(frozen=True)
class Comparison:
    """A prompt with K >= 2 completions to be ranked: the unit of work. Completions stand in canonical (id) order."""

    id: str
    prompt: Prompt
    completions: tuple[Completion, ...]
    overlap: int = 1
    route: Route = Route.HUMAN
    project: str = DEFAULT_PROJECT
    batch: str = ""
    repeat_of: str | None = None  # set on a hidden repeat: the comparison the same rater judged before

    @classmethod
    def create(
        cls,
        prompt: Prompt,
        completions: Sequence[Completion],
        overlap: int = 1,
        route: Route = Route.HUMAN,
        project: str = DEFAULT_PROJECT,
        batch: str = "",
    ) -> Comparison:
        """Return a comparison whose id is the hash of its completions and its project.

        So the same pair in two projects is two comparisons and is judged in both.

        Raises:
            BadInput: there are fewer than two completions, or two of them have the same text.
        """
        if len({c.messages for c in completions}) < max(2, len(completions)):
            raise BadInput(
                f"completions of prompt {prompt.id}",
                expected="two or more completions that differ",
                fix="drop the comparison: identical sides cannot be ranked",
            )
        ordered = tuple(sorted(completions, key=lambda c: c.id))
        parts: list[object] = [[c.id for c in ordered]]
        if project != DEFAULT_PROJECT:
            parts.append({"project": project})
        return cls(make_content_id("x", *parts), prompt, ordered, overlap, route, project, batch)

    def find_completion(self, completion_id: str) -> Completion:
        return next(c for c in self.completions if c.id == completion_id)


def make_prompt_id(messages: Messages, tools: Tools = ()) -> str:
    parts: list[object] = [identify_messages(messages)]
    if tools:
        parts.append({"tools": [tool.as_json for tool in tools]})
    return make_content_id("p", *parts)


def make_completion_id(prompt_id: str, policy: str, messages: Messages) -> str:
    return make_content_id("c", prompt_id, policy, identify_messages(messages))
