"""Apply a chat template: the one place where messages become the text that a model reads.

Training, scoring, evaluation, sampling, DPO and PPO all come here. A template gets messages as they are, with their
tool calls, reasoning and names, and the tools of the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.readability import Obstacle, Unreadable
from rlhf_hitl.types import ImagePart, Message, Messages, TextPart, Tools
from rlhf_hitl.types.comparisons import make_prompt_id

#: Two words that no template writes by itself, and which hold no letter that a template would change.
_ASKED, _ANSWERED = "7314085", "9260471"
#: A part as Python or JSON writes it, where a template takes a list of parts for text.
_WRITTEN_OUT = re.compile(rf"""['"]text['"]: ?['"]{_ASKED}""")
_OPENED_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>\s*$")
_TAG = re.compile(r"\s*[<\[][^<>\[\]]{1,40}[>\]]\s*")


class ChatTemplate:
    """A tokenizer's (or processor's) chat template.

    Args:
        owner: what has `apply_chat_template`.
        template: the template in place of the owner's own.

    Raises:
        BadInput: the template shows neither content that is text nor content in parts.
    """

    def __init__(self, owner: Any, template: str | None = None):
        self._owner, self._template = owner, template
        self.name = Path(getattr(getattr(owner, "tokenizer", owner), "name_or_path", "")).name
        shows_text = self._shows_probe(_ASKED, _ANSWERED)
        #: Whether it loops over parts of a content. Some templates take both.
        self.takes_parts = self._shows_probe([{"type": "text", "text": _ASKED}], [{"type": "text", "text": _ANSWERED}])
        #: Whether content that is text is given as a part, too.
        self.wants_parts = self.takes_parts and not shows_text
        if not shows_text and not self.takes_parts and self._takes_any_chat:
            raise BadInput(
                f"the chat template of {self.name or 'the tokenizer'}",
                expected="one that shows a message's content, as text or as a list of parts",
                fix="put a template into its chat_template.jinja, or take another model",
            )

    def apply(self, prompt: Messages, completion: Messages | None, tools: Tools = ()) -> str:
        """Return the text of a conversation; without a completion, up to where the assistant's answer begins.

        Raises:
            Unreadable: the template refuses the chat or fails on it, or cannot show its images.
        """
        plain = [self._prepare(message) for message in prompt + (completion or ())]
        if None in plain:
            raise make_images_error(make_prompt_id(prompt, tools), "this chat template shows no images")
        try:
            return self._render(plain, [tool.to_plain() for tool in tools], answer_follows=completion is None)
        except Exception as e:  # a template is a program: it can raise anything
            said = " ".join(str(e).split())[:120] or type(e).__name__
            raise Unreadable(
                Obstacle.TEMPLATE,
                make_prompt_id(prompt, tools),
                f"prompt {make_prompt_id(prompt, tools)}",
                expected=f"a conversation that the chat template of {self.name or 'the tokenizer'} takes; "
                f"it says: {said}",
                fix="leave it out, or give the tokenizer a template that takes it",
            ) from e

    @cached_property
    def opening(self) -> str:
        """What the template begins an answer with, which is a part of the answer: a thought that it opens.

        A sampled answer goes on from there, so a message without it is not what the model has said.
        """
        asked, answered = Message("user", _ASKED), Message("assistant", _ANSWERED)
        try:
            before, whole = self.apply((asked,), None), self.apply((asked,), (answered,))
        except Unreadable:
            return ""  # the prompts themselves will say what the template refuses
        if found := _OPENED_THOUGHT.search(before):
            return found.group(0)
        rest = before[count_common_prefix(before, whole) :]
        return rest if _TAG.fullmatch(rest) else ""

    @cached_property
    def _takes_any_chat(self) -> bool:
        return any(self._try(chat) is not None for chat in _make_probes(_ASKED, _ANSWERED))

    def _shows_probe(self, asked: Any, answered: Any) -> bool:
        """Whether some chat with these contents is shown as it should be: its words, and not parts written out."""
        for chat in _make_probes(asked, answered):
            words = [_ASKED, _ANSWERED][: len(chat)]
            text = self._try(chat)
            if text is not None and all(word in text for word in words) and not _WRITTEN_OUT.search(text):
                return True
        return False

    def _try(self, chat: list[dict[str, Any]]) -> str | None:
        try:
            return self._render(chat, [], answer_follows=False)
        except Exception:
            return None

    def _render(self, chat: list[Any], tools: list[dict[str, Any]], *, answer_follows: bool) -> str:
        return self._owner.apply_chat_template(
            chat,
            tools=tools or None,
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=answer_follows,
        )

    def _prepare(self, message: Message) -> dict[str, Any] | None:
        """Return a message as the template wants it; None if it has images that the template cannot show."""
        plain, content = message.to_plain(), message.content
        if content is None or content == "":
            plain["content"] = [] if self.wants_parts and content is None else self._wrap("")
        elif isinstance(content, str):
            plain["content"] = self._wrap(content)
        elif self.takes_parts:
            plain["content"] = [_prepare_part(part) for part in content]
        elif message.images:
            return None
        else:
            plain["content"] = message.text
        return plain

    def _wrap(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self.wants_parts else text


def find_unshown(chat: Messages, text: str) -> Iterator[str]:
    """Yield what of some messages does not stand in the text that a template made of them, by name.

    White space is not compared: templates trim.
    """
    squeezed: str | None = None

    def shows(words: str) -> bool:
        nonlocal squeezed
        if words.strip() in text:
            return True
        if squeezed is None:
            squeezed = "".join(text.split())
        return "".join(words.split()) in squeezed

    def shows_in_json(words: str) -> bool:
        return shows(words) or any(json.dumps(words, ensure_ascii=ascii)[1:-1] in text for ascii in (True, False))

    for message in chat:
        texts = [message.content] if isinstance(message.content, str) else [
            part.text for part in message.content or () if isinstance(part, TextPart)
        ]  # fmt: skip
        if not all(map(shows, texts)):
            yield f"text ({message.role})"
        if message.is_plain:
            continue
        if not shows(message.reasoning_content):
            yield "reasoning"
        if not all(
            shows(call.name) and all(map(shows_in_json, _list_words(call.arguments))) for call in message.tool_calls
        ):
            yield "tool calls"
        if not shows(message.name):
            yield "names"


def find_unshown_tools(tools: Tools, text: str) -> Iterator[str]:
    """Yield `tools` if one of a prompt's tools is not named in the text that a template made of it."""
    for tool in tools:
        plain = tool.to_plain()
        function = plain.get("function", plain)
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str) and name not in text:
            yield "tools"
            return


def make_images_error(prompt_id: str, why: str) -> Unreadable:
    """Return the error for images where a model reads none."""
    return Unreadable(
        Obstacle.IMAGES,
        prompt_id,
        f"prompt {prompt_id}: {why}",
        expected="a model that reads images",
        fix="train with --backend full and a vision model, or leave these comparisons out",
    )


def count_common_prefix(a: Any, b: Any) -> int:
    """Return how many letters (or tokens) two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _make_probes(asked: Any, answered: Any) -> list[list[dict[str, Any]]]:
    """Return chats to try a template with. Some ask for both roles, some for one."""
    user, assistant = {"role": "user", "content": asked}, {"role": "assistant", "content": answered}
    return [[user, assistant], [user]]


def _prepare_part(part: TextPart | ImagePart) -> dict[str, Any]:
    return {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}


def _list_words(arguments: Any) -> Iterator[str]:
    """Yield the words and numbers of a call's arguments, which a template may write as JSON or in any other way."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            yield arguments  # invalid JSON stays text
            return
        if isinstance(arguments, str):
            yield arguments
            return
    stack = [arguments]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += [*value, *value.values()]
        elif isinstance(value, list):
            stack += value
        elif isinstance(value, str):
            yield value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield json.dumps(value)
