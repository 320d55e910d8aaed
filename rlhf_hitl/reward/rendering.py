"""A conversation to tokens, once: training, scoring, evaluation, routing and tuning all read what this writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import Comparison, Messages, messages_to_dicts

#: A prompt's messages and the messages of a completion to it.
Conversation = tuple[Messages, Messages]

#: For tokenizers that bring no chat template of their own (plain and encoder models).
PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@dataclass(frozen=True)
class Rendered:
    """Token ids of one conversation, EOS last. The completion's are from `start` on. `dropped`: prompt tokens cut from
    the left; `cut`: completion tokens."""

    ids: tuple[int, ...]
    start: int
    dropped: int = 0
    cut: int = 0


class Renderer:
    """Renders with a tokenizer's chat template, EOS explicit, at most `max_length` tokens.

    A tokenizer without a template gets a plain one; an encoder's its [CLS] in front and a [SEP] before the completion.

    What does not fit is cut from the left of the prompt. Only a completion that alone is longer than `max_length`
    loses its end; both are counted in `Rendered`, so that nothing is cut in silence.
    """

    def __init__(self, tokenizer, max_length: int = 1024):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.eos_id = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if self.eos_id is None:
            raise BadInput(
                f"tokenizer of {tokenizer.name_or_path}",
                expected="an EOS (or SEP) token: the reward is read there",
                fix="set eos_token in its tokenizer_config.json",
            )
        self.template = tokenizer.chat_template or PLAIN_TEMPLATE
        # Encoders read "[CLS] prompt [SEP] completion [SEP]", and their classifiers the state of [CLS].
        self.reads_pairs = tokenizer.chat_template is None and None not in (
            tokenizer.cls_token_id, tokenizer.sep_token_id
        )  # fmt: skip
        # A pad that can never be the last real token, so that code which finds a sequence's end by "last token that is
        # not pad" (transformers' sequence classifiers do) finds EOS even where a model pads with EOS.
        candidates = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, 0, 1)
        self.pad_id = next(i for i in candidates if i is not None and i != self.eos_id)

    def render(self, conversation: Conversation) -> Rendered:
        """Raises BadInput for a completion without text."""
        prompt, completion = conversation
        if not has_text(completion):
            raise BadInput(
                "completion ''", expected="an answer with text", fix="drop the comparison or mark it skipped"
            )
        head = self._text(prompt, answer_follows=True)
        whole = self._text(prompt + completion, answer_follows=False)
        # Templates that rewrite earlier turns (dropping old reasoning, say) break the prefix; take what is shared.
        shared = _common_prefix(head, whole)
        prompt_ids = self._ids(whole[:shared])
        completion_ids = self._ids(whole[shared:].rstrip())
        if not completion_ids or completion_ids[-1] != self.eos_id:
            completion_ids.append(self.eos_id)
        front = [self.tokenizer.cls_token_id] if self.reads_pairs else []
        between = [self.tokenizer.sep_token_id] if self.reads_pairs else []
        room = self.max_length - len(front) - len(between)
        cut = max(0, len(completion_ids) - room)
        if cut:
            completion_ids = [*completion_ids[: room - 1], self.eos_id]
        dropped = max(0, len(prompt_ids) + len(completion_ids) - room)
        prompt_ids = front + prompt_ids[dropped:] + between
        return Rendered(tuple(prompt_ids + completion_ids), len(prompt_ids), dropped, cut)

    def _text(self, chat: Messages, *, answer_follows: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages_to_dicts(chat), chat_template=self.template, tokenize=False, add_generation_prompt=answer_follows
        )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def has_text(completion: Messages) -> bool:
    return any(m.content.strip() for m in completion)


def has_texts(comparison: Comparison) -> bool:
    """Whether every completion has text: one without has no reward, and nobody's model can score the comparison."""
    return all(has_text(c.messages) for c in comparison.completions)


def conversations(comparison: Comparison) -> Sequence[Conversation]:
    """A comparison's completions as conversations, in its canonical order. Raises BadInput for one without text."""
    if not has_texts(comparison):
        raise BadInput(
            f"comparison {comparison.id}, completion ''",
            expected="answers with text",
            fix="leave it to raters, or add it without that answer",
        )
    return [(comparison.prompt.messages, c.messages) for c in comparison.completions]


def _common_prefix(a: str, b: str) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)
