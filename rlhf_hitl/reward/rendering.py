"""Render a conversation to tokens: the one rendering for training, scoring, evaluation, routing and tuning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward import DEFAULT_MAX_TOKENS
from rlhf_hitl.reward.chat_template import (
    ChatTemplate,
    count_common_prefix,
    find_unshown,
    find_unshown_tools,
    make_images_error,
)
from rlhf_hitl.reward.readability import Obstacle, Unreadable
from rlhf_hitl.reward.vision import ImageLoader, VisionReader
from rlhf_hitl.types import Comparison, Messages, Tools
from rlhf_hitl.types.comparisons import make_prompt_id
from rlhf_hitl.types.messages import list_images
from rlhf_hitl.wording import say_count

#: The chat template of tokenizers that bring none of their own (plain and encoder models).
PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"

#: Conversations whose tokens are kept: what is checked is rendered again soon.
RENDERED_IN_MEMORY = 4096


@dataclass(frozen=True)
class Conversation:
    """A prompt with one completion, and the tools that the prompt offers.

    Attributes:
        may_be_empty: a completion without text is an answer, too, and is scored, as of a policy that says nothing.
            Elsewhere it is a fault of the data, and refused.
    """

    prompt: Messages
    completion: Messages
    tools: Tools = ()
    may_be_empty: bool = False

    @cached_property
    def prompt_id(self) -> str:
        """The id that the prompt has in a store."""
        return make_prompt_id(self.prompt, self.tools)

    def looks_like(self, other: Conversation) -> bool:
        """Whether nobody could tell the two completions apart: they differ in white space at most."""
        return _list_what_people_see(self.completion) == _list_what_people_see(other.completion)


@dataclass(frozen=True)
class RenderedConversation:
    """The token ids of one conversation.

    Attributes:
        ids: all tokens; the last one is EOS.
        start: the index of the completion's first token.
        dropped: how many prompt tokens were cut from the left.
        cut: how many completion tokens were cut from the end.
        unshown: what of the messages the chat template leaves out, by name.
        conversation: the conversation itself, if it has images: tokens alone do not say them.
    """

    ids: tuple[int, ...]
    start: int
    dropped: int = 0
    cut: int = 0
    unshown: tuple[str, ...] = ()
    conversation: Conversation | None = None

    @property
    def image_ids(self) -> tuple[str, ...]:
        chat = self.conversation
        return () if chat is None else tuple(image.id for image in list_images(chat.prompt, chat.completion))


class Renderer:
    """Renders conversations with a tokenizer's chat template, an explicit EOS and at most `max_length` tokens.

    A tokenizer without a template gets a plain one. An encoder gets its [CLS] in front and a [SEP] before the
    completion.

    What does not fit is cut from the left of the prompt. Only a completion that alone is longer than `max_length`
    loses its end. `RenderedConversation` counts both, and names what the template leaves out, so that nothing is cut
    silently.

    Args:
        vision: reads conversations with images. None: the model reads none.
    """

    def __init__(self, tokenizer, max_length: int = DEFAULT_MAX_TOKENS, vision: VisionReader | None = None):
        self.tokenizer, self.max_length, self.vision = tokenizer, max_length, vision
        self.eos_id = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if self.eos_id is None:
            raise BadInput(
                f"tokenizer of {tokenizer.name_or_path}",
                expected="an EOS (or SEP) token: the reward is read there",
                fix="set eos_token in its tokenizer_config.json",
            )
        self.template = tokenizer.chat_template or PLAIN_TEMPLATE
        self.chat_template = (
            ChatTemplate(tokenizer, None if tokenizer.chat_template else PLAIN_TEMPLATE)
            if vision is None
            else vision.template
        )
        # Encoders read "[CLS] prompt [SEP] completion [SEP]", and their classifiers read the state of [CLS].
        self.reads_pairs = tokenizer.chat_template is None and None not in (
            tokenizer.cls_token_id, tokenizer.sep_token_id
        )  # fmt: skip
        # The pad can never be the last real token. Code that looks for a sequence's end by "the last token that is not
        # pad" (transformers' sequence classifiers do) then finds EOS even where a model pads with EOS.
        candidates = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, 0, 1)
        self.pad_id = next(i for i in candidates if i is not None and i != self.eos_id)
        self._render_once = lru_cache(RENDERED_IN_MEMORY)(self._render)

    def __getstate__(self):  # `datasets` sends it to its processes
        return {k: v for k, v in self.__dict__.items() if k != "_render_once"}

    def __setstate__(self, state):
        self.__dict__ |= state
        self._render_once = lru_cache(RENDERED_IN_MEMORY)(self._render)

    def render(self, conversation: Conversation) -> RenderedConversation:
        """Render one conversation.

        Raises:
            Unreadable: a completion without text (unless it may be empty), images, or a conversation that the chat
                template refuses.
        """
        return self._render_once(conversation, self.max_length)

    def read_images_from(self, load_image: ImageLoader) -> None:
        """Take images that messages only name from there, if the model reads images at all."""
        if self.vision is not None:
            self.vision.load_image = load_image

    def find_problem(self, conversations: Sequence[Conversation]) -> Unreadable | None:
        """Return why the answers to a prompt cannot be read, or not be told apart; None where they can."""
        try:
            rendered = [self.render(c) for c in conversations]
        except Unreadable as e:
            return e
        for (a, one), (b, other) in combinations(zip(conversations, rendered), 2):
            if (one.ids, one.image_ids) == (other.ids, other.image_ids) and not a.looks_like(b):
                was_cut = one.cut or one.dropped
                return Unreadable(
                    Obstacle.SAME_WHEN_CUT if was_cut else Obstacle.SAME_TOKENS,
                    a.prompt_id,
                    f"prompt {a.prompt_id}: two answers that differ are the same tokens",
                    expected=f"answers that differ within the {self.max_length:,} tokens that are read"
                    if was_cut
                    else "a chat template that keeps apart what people see as different",
                    fix="raise max_length" if was_cut else "give the tokenizer a template that shows what differs",
                )
        return None

    def _render(self, conversation: Conversation, max_length: int) -> RenderedConversation:
        prompt, completion, tools = conversation.prompt, conversation.completion, conversation.tools
        if not conversation.may_be_empty and not has_text(completion):
            raise Unreadable(
                Obstacle.NO_TEXT,
                conversation.prompt_id,
                "completion ''",
                expected="an answer with text",
                fix="drop the comparison or mark it skipped",
            )
        if next(list_images(prompt, completion), None) is not None:
            if self.vision is None:
                raise make_images_error(conversation.prompt_id, "this backbone reads no images")
            return self._render_with_images(conversation, max_length)
        prompt_text = self.chat_template.apply(prompt, None, tools)
        full_text = self.chat_template.apply(prompt, completion, tools)
        unshown = list_unshown(conversation, full_text)
        if any(name.startswith("completion") for name in unshown):
            self._refuse_nothing(conversation, full_text)
        # Templates that rewrite earlier turns (by dropping old reasoning, say) break the prefix: use what is shared.
        shared = count_common_prefix(prompt_text, full_text)
        prompt_ids = self._tokenise(full_text[:shared])
        completion_ids = self._tokenise(full_text[shared:].rstrip())
        if not completion_ids or completion_ids[-1] != self.eos_id:
            completion_ids.append(self.eos_id)
        front = [self.tokenizer.cls_token_id] if self.reads_pairs else []
        separator = [self.tokenizer.sep_token_id] if self.reads_pairs else []
        room = max_length - len(front) - len(separator)
        cut = max(0, len(completion_ids) - room)
        if cut:
            completion_ids = [*completion_ids[: room - 1], self.eos_id]
        dropped = max(0, len(prompt_ids) + len(completion_ids) - room)
        prompt_ids = front + prompt_ids[dropped:] + separator
        return RenderedConversation(tuple(prompt_ids + completion_ids), len(prompt_ids), dropped, cut, unshown)

    def _render_with_images(self, conversation: Conversation, max_length: int) -> RenderedConversation:
        """Render a conversation whose images are tokens, too. What is too long cannot be cut: images would be."""
        assert self.vision is not None
        c, end = conversation, self.tokenizer.convert_ids_to_tokens(self.eos_id)
        inputs, start = self.vision.encode_conversation(c.prompt, c.completion, c.tools, end=end)
        ids = tuple(inputs["input_ids"][0].tolist())
        if len(ids) > max_length:
            raise Unreadable(
                Obstacle.TOO_LONG,
                c.prompt_id,
                f"prompt {c.prompt_id}: {len(ids):,} tokens with its images",
                expected=f"at most {max_length:,}: what has images is not cut",
                fix="raise max_length",
            )
        full_text = "".join(self.vision.split_text(c.prompt, c.completion, c.tools))
        return RenderedConversation(ids, start, unshown=list_unshown(c, full_text), conversation=c)

    def _refuse_nothing(self, conversation: Conversation, full_text: str) -> None:
        """Raise Unreadable where the template shows no more of a completion than of an empty one."""
        empty = tuple(
            replace(m, content="", tool_calls=(), reasoning_content="", name="") for m in conversation.completion
        )
        try:
            without = self.chat_template.apply(conversation.prompt, empty, conversation.tools)
        except Unreadable:
            return
        if without == full_text:
            raise Unreadable(
                Obstacle.NOTHING_LEFT,
                conversation.prompt_id,
                f"prompt {conversation.prompt_id}: nothing of an answer is left",
                expected="a chat template that shows the answer",
                fix="give the tokenizer a template that shows it",
            )

    def _tokenise(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class UnshownCounts:
    """How often a chat template left something out, by what it was."""

    def __init__(self):
        self._conversations: dict[str, set[int]] = {}
        self._met: set[int] = set()

    def add(self, conversations: Iterable[Conversation], rendered: Iterable[RenderedConversation]) -> None:
        for conversation, one in zip(conversations, rendered):
            self._met.add(hash(conversation))
            for name in one.unshown:
                of = conversation.prompt if name.startswith("prompt") else conversation
                self._conversations.setdefault(name, set()).add(hash(of))

    def as_dict(self) -> dict[str, int]:
        return {name: len(those) for name, those in sorted(self._conversations.items())}

    @property
    def text(self) -> str:
        """In words: `the chat template leaves out the reasoning of 3 of 40 completions`; empty where nothing was."""
        return explain_unshown(self.as_dict(), len(self._met))


def explain_unshown(counts: Mapping[str, int], total: int, what: str = "conversation") -> str:
    """Say what a chat template leaves out, and how often among how many; nothing where it leaves nothing out."""
    if not counts:
        return ""
    parts = []
    for name, n in counts.items():
        side, _, left_out = name.partition(": ")
        parts.append(f"{left_out} of {say_count(n, side)}")
    return f"the chat template leaves out the {', the '.join(parts)} (of {say_count(total, what)} in all)"


def list_unshown(conversation: Conversation, full_text: str) -> tuple[str, ...]:
    """Return what of a conversation is not in the text that a template made of it: `prompt: tools`, `completion:
    reasoning` and so on."""
    found = [f"prompt: {name}" for name in find_unshown(conversation.prompt, full_text)]
    found += [f"prompt: {name}" for name in find_unshown_tools(conversation.tools, full_text)]
    found += [f"completion: {name}" for name in find_unshown(conversation.completion, full_text)]
    return tuple(dict.fromkeys(found))


def has_text(completion: Messages) -> bool:
    """Whether any message of a completion has text, or something else to judge."""
    return not all(m.is_empty for m in completion)


def list_conversations(comparison: Comparison) -> Sequence[Conversation]:
    """Return a comparison's completions as conversations, in its canonical order."""
    prompt = comparison.prompt
    return [Conversation(prompt.messages, c.messages, prompt.tools) for c in comparison.completions]


def count_characters(messages: Messages) -> int:
    """Return the number of characters of some messages: the length of an answer everywhere below `reward`."""
    return sum(len(m.read_all_text()) for m in messages)


def measure_completion_lengths(conversations: Sequence[Conversation]) -> np.ndarray:
    """Return the number of characters of each completion, (n,) float64."""
    return np.array([count_characters(c.completion) for c in conversations], dtype=np.float64)


def _list_what_people_see(completion: Messages) -> list[tuple]:
    return [(m.role, m.name, m.read_all_text().split(), [i.id for i in m.images]) for m in completion]
