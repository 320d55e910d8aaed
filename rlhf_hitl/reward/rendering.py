"""Render a conversation to tokens: the one rendering for training, scoring, evaluation, routing and tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward import DEFAULT_MAX_TOKENS
from rlhf_hitl.types import Comparison, Messages, messages_to_dicts

#: A prompt's messages and the messages of one completion to it.
Conversation = tuple[Messages, Messages]

#: The chat template of tokenizers that bring none of their own (plain and encoder models).
PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@dataclass(frozen=True)
class RenderedConversation:
    """The token ids of one conversation.

    Attributes:
        ids: all tokens; the last one is EOS.
        start: the index of the completion's first token.
        dropped: how many prompt tokens were cut from the left.
        cut: how many completion tokens were cut from the end.
    """

    ids: tuple[int, ...]
    start: int
    dropped: int = 0
    cut: int = 0


class Renderer:
    """Renders conversations with a tokenizer's chat template, an explicit EOS and at most `max_length` tokens.

    A tokenizer without a template gets a plain one. An encoder gets its [CLS] in front and a [SEP] before the
    completion.

    What does not fit is cut from the left of the prompt. Only a completion that alone is longer than `max_length`
    loses its end. `RenderedConversation` counts both, so that nothing is cut silently.
    """

    def __init__(self, tokenizer, max_length: int = DEFAULT_MAX_TOKENS):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.eos_id = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if self.eos_id is None:
            raise BadInput(
                f"tokenizer of {tokenizer.name_or_path}",
                expected="an EOS (or SEP) token: the reward is read there",
                fix="set eos_token in its tokenizer_config.json",
            )
        self.template = tokenizer.chat_template or PLAIN_TEMPLATE
        # Encoders read "[CLS] prompt [SEP] completion [SEP]", and their classifiers read the state of [CLS].
        self.reads_pairs = tokenizer.chat_template is None and None not in (
            tokenizer.cls_token_id, tokenizer.sep_token_id
        )  # fmt: skip
        # The pad can never be the last real token. Code that looks for a sequence's end by "the last token that is not
        # pad" (transformers' sequence classifiers do) then finds EOS even where a model pads with EOS.
        candidates = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, 0, 1)
        self.pad_id = next(i for i in candidates if i is not None and i != self.eos_id)

    def render(self, conversation: Conversation) -> RenderedConversation:
        """Render one conversation. Raises BadInput for a completion without text."""
        prompt, completion = conversation
        if not has_text(completion):
            raise BadInput(
                "completion ''", expected="an answer with text", fix="drop the comparison or mark it skipped"
            )
        prompt_text = self._apply_template(prompt, answer_follows=True)
        full_text = self._apply_template(prompt + completion, answer_follows=False)
        # Templates that rewrite earlier turns (by dropping old reasoning, say) break the prefix: use what is shared.
        shared = _count_common_prefix(prompt_text, full_text)
        prompt_ids = self._tokenise(full_text[:shared])
        completion_ids = self._tokenise(full_text[shared:].rstrip())
        if not completion_ids or completion_ids[-1] != self.eos_id:
            completion_ids.append(self.eos_id)
        front = [self.tokenizer.cls_token_id] if self.reads_pairs else []
        separator = [self.tokenizer.sep_token_id] if self.reads_pairs else []
        room = self.max_length - len(front) - len(separator)
        cut = max(0, len(completion_ids) - room)
        if cut:
            completion_ids = [*completion_ids[: room - 1], self.eos_id]
        dropped = max(0, len(prompt_ids) + len(completion_ids) - room)
        prompt_ids = front + prompt_ids[dropped:] + separator
        return RenderedConversation(tuple(prompt_ids + completion_ids), len(prompt_ids), dropped, cut)

    def _apply_template(self, chat: Messages, *, answer_follows: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages_to_dicts(chat), chat_template=self.template, tokenize=False, add_generation_prompt=answer_follows
        )

    def _tokenise(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def has_text(completion: Messages) -> bool:
    """Whether any message of a completion has text."""
    return not all(m.is_empty for m in completion)


def all_completions_have_text(comparison: Comparison) -> bool:
    """Whether a model can score a comparison: a completion without text has no reward."""
    return all(has_text(c.messages) for c in comparison.completions)


def list_conversations(comparison: Comparison) -> Sequence[Conversation]:
    """Return a comparison's completions as conversations, in its canonical order.

    Raises:
        BadInput: a completion has no text.
    """
    if not all_completions_have_text(comparison):
        raise BadInput(
            f"comparison {comparison.id}, completion ''",
            expected="answers with text",
            fix="leave it to raters, or add it without that answer",
        )
    return [(comparison.prompt.messages, c.messages) for c in comparison.completions]


def count_characters(messages: Messages) -> int:
    """Return the number of characters of some messages: the length of an answer everywhere below `reward`."""
    return sum(len(m.read_all_text()) for m in messages)


def measure_completion_lengths(conversations: Sequence[Conversation]) -> np.ndarray:
    """Return the number of characters of each completion, (n,) float64."""
    return np.array([count_characters(completion) for _, completion in conversations], dtype=np.float64)


def _count_common_prefix(a: str, b: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b)))
