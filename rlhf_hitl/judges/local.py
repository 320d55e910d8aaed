"""A judge on this machine: the probabilities that a model gives the answer's letters as its next token.

Nothing is generated, so one reading of the prompt is one answer, and the answer is always readable.
"""

from __future__ import annotations

import time
from threading import Lock
from typing import Any

from rlhf_hitl.endpoints.budget import Budget
from rlhf_hitl.errors import BadInput
from rlhf_hitl.judges.asking import Opinion, weigh_letters
from rlhf_hitl.judges.templates import Question, Template
from rlhf_hitl.types.judges import CallOutcome, Judge, JudgeCall


class LocalModel:
    """Asks a chat model of transformers.

    Raises:
        BadInput: no such model, a template that asks for reasons, or a tokenizer without tokens for the letters.
    """

    takes_images = False

    def __init__(self, judge: Judge, template: Template, budget: Budget):
        from rlhf_hitl.models import find_best_device, load_policy, load_tokenizer, resolve_dtype

        check_local_template(template)
        self._tokenizer = load_tokenizer(judge.model)
        self._tokens = {letter: self._find_tokens(letter, judge.model) for letter in template.answers}
        self._model: Any = load_policy(judge.model, resolve_dtype()).to(find_best_device())  # type: ignore[arg-type]
        self._budget, self._lock = budget, Lock()

    def ask(self, question: Question, order_shown: tuple[str, str], calls: list[JudgeCall]) -> Opinion | None:
        """Read one question: see `Asker`."""
        import torch

        began, ids = time.perf_counter(), self._encode(question)
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and len(ids) > longest:
            error = f"a question of {len(ids):,} tokens, and the model reads {longest:,}"
            calls.append(JudgeCall(order_shown, CallOutcome.FAILED, error=error))
            return None
        with self._lock, torch.inference_mode():  # one forward pass uses all cores by itself
            reserved = self._budget.reserve(len(ids), 0)
            assert reserved is not None, "nothing else is under way"
            logits = self._model(torch.tensor([ids], device=self._model.device)).logits[0, -1].float()
            shares = logits.softmax(-1).cpu()
            self._budget.settle(reserved, reserved)
        weights = {letter: float(shares[tokens].sum()) for letter, tokens in self._tokens.items()}
        probabilities = weigh_letters(weights, question.template)
        outcome = CallOutcome.UNREADABLE if probabilities is None else CallOutcome.ANSWERED
        error = "no letter has a probability" if probabilities is None else ""
        seconds = time.perf_counter() - began
        calls.append(JudgeCall(order_shown, outcome, probabilities, len(ids), 0, reserved, seconds, error))
        return None if probabilities is None else Opinion(probabilities)

    def close(self) -> None:
        """Nothing is open."""

    def _encode(self, question: Question) -> list[int]:
        [content] = question.content
        messages = [{"role": "system", "content": question.system}, {"role": "user", "content": content}]
        try:
            return self._apply(messages)
        except Exception:  # templates without a system role refuse it, each in its own way
            return self._apply([{"role": "user", "content": f"{question.system}\n\n{content}"}])

    def _apply(self, messages: list[dict[str, Any]]) -> list[int]:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._tokenizer.encode(str(text), add_special_tokens=False)

    def _find_tokens(self, letter: str, model: str) -> list[int]:
        """Return the tokens that are this letter, with or without a space before it."""
        found = {tuple(self._tokenizer.encode(text, add_special_tokens=False)) for text in (letter, f" {letter}")}
        unknown = self._tokenizer.unk_token_id
        tokens = sorted({ids[0] for ids in found if len(ids) == 1 and ids[0] != unknown})
        if not tokens:
            raise BadInput(
                f"model {model!r}", expected=f"a tokenizer with a token for the letter {letter}", fix="take another"
            )
        return tokens


def check_local_template(template: Template) -> None:
    """Check that a template asks for a letter alone.

    Raises:
        BadInput: it asks for reasons.
    """
    if template.rationale:
        raise BadInput(
            f"template {template.name!r} for a local model",
            expected="one that asks for a letter alone, such as pairwise",
            fix="serve the model (`transformers serve`) and give its address with --endpoint",
        )
