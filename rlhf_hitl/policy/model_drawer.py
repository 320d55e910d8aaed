"""Policies that are models on this machine: how they read prompts, and how transformers draws their answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_hitl.policy.completing import Drawer, TooLong
from rlhf_hitl.policy.completion_jobs import CompletionJob
from rlhf_hitl.policy.draws import Draw, Finish
from rlhf_hitl.policy.sampling import BATCH_TOKENS, GenerationBackend, Sampling
from rlhf_hitl.policy.stop_strings import StopFinder, cut_at_stop
from rlhf_hitl.policy.token_sampling import PromptReader, find_eos_ids, plan_batches, sample_tokens
from rlhf_hitl.policy.training import explain_out_of_memory
from rlhf_hitl.types import Prompt
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

#: Tokens of a short prompt and its answer: by them a budget of tokens is a number of completions drawn together.
TOKENS_OF_ROW = 256


class TokenReader:
    """The part of a drawer that turns prompts into tokens, and tokens into draws.

    Args:
        limit: the most tokens that the model has positions for; None: unknown.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase, samplings: Sequence[Sampling], limit: int | None):
        self.name, self.limit, self.tokenizer = name, limit, tokenizer
        self.reader = PromptReader(tokenizer)
        self.stop = samplings[0].stop if samplings else ()
        self._new = max((s.max_new_tokens for s in samplings), default=0)

    def read(self, prompt: Prompt) -> list[int]:
        """Return a prompt's token ids: see `Drawer`."""
        tokens = self.reader.tokenize(prompt)
        if self.limit is not None and len(tokens) + self._new > self.limit:
            raise TooLong(
                f"prompt {prompt.id} of {say_count(len(tokens), 'token')}",
                expected=f"{self.limit:,} or fewer with the {say_count(self._new, 'new one')}",
                fix="give fewer --max-new-tokens, or leave the prompt out",
            )
        return tokens

    def make_draw(self, tokens: Sequence[int], eos: set[int]) -> Draw:
        """Return the draw of an answer's tokens, up to and with its EOS."""
        text = self.reader.decode(tokens, eos, self.stop)
        finish: Finish = "eos" if tokens and tokens[-1] in eos else "length"
        if self.stop:
            body = tokens[:-1] if finish == "eos" else tokens
            decoded = str(self.tokenizer.decode(list(body), skip_special_tokens=True))
            finish = "stop" if cut_at_stop(decoded, self.stop)[1] else finish
        return Draw({"role": "assistant", "content": text}, finish, len(tokens))

    def warn_without_eos(self, eos: set[int]) -> None:
        if not eos:
            log.warning("%s has no EOS token: every answer goes on to the token limit or a stop string", self.name)


class ModelDrawer(TokenReader):
    """Draws answers with transformers.

    Args:
        load: returns the model; it is called when the first answer is drawn, so that a finished journal needs none.
        batch_size, batch_tokens: the most rows, and the most tokens, that are computed side by side.
    """

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        samplings: Sequence[Sampling],
        load: Callable[[], PreTrainedModel],
        *,
        limit: int | None = None,
        batch_size: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ):
        super().__init__(name, tokenizer, samplings, limit)
        self.window = max(1, batch_tokens // TOKENS_OF_ROW)
        self._load, self._batch_size, self._batch_tokens = load, batch_size, batch_tokens
        self._model: PreTrainedModel | None = None

    def draw(self, jobs: Sequence[CompletionJob], known: Set[str]) -> Iterator[tuple[CompletionJob, Draw | None]]:
        """Yield the draws of a batch when it is finished. A batch of which only some are known is computed again."""
        if all(job.key in known for job in jobs):
            return
        if self._model is None:
            self._model = self._load()
            self.warn_without_eos(find_eos_ids(self._model, self.tokenizer))
        eos = find_eos_ids(self._model, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        stop = StopFinder(self.tokenizer, self.stop) if self.stop else None
        prompts, rows = [j.prompt_tokens for j in jobs], [j.row for j in jobs]
        lengths = list(map(len, prompts)), [row.max_new_tokens for row in rows]
        for batch in plan_batches(*lengths, self._batch_tokens, self._batch_size):
            if all(jobs[i].key in known for i in batch):
                continue
            with explain_out_of_memory("--batch-tokens (batch_tokens)", "max_new_tokens where that is at one row"):
                answers = sample_tokens(
                    self._model, [prompts[i] for i in batch], [rows[i] for i in batch], eos=eos, stop=stop,
                    pad=0 if pad is None else int(pad),  # type: ignore[arg-type]
                )  # fmt: skip
            for i, answer in zip(batch, answers):
                if jobs[i].key not in known:
                    yield jobs[i], self.make_draw(answer, eos)

    def release(self) -> None:
        """Forget the model; it is loaded again when another answer is drawn."""
        self._model = None

    close = release


def open_model(
    policy: str | Path,
    samplings: Sequence[Sampling],
    *,
    backend: GenerationBackend = "transformers",
    dtype: torch.dtype | None = None,
    batch_size: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Drawer:
    """Return what draws the answers of a model: a folder, with an adapter or whole, a hub id or a short name.

    The weights are loaded when the first answer is drawn.
    """
    from rlhf_hitl.models import (
        find_best_device,
        find_position_limit,
        get_display_name,
        load_policy,
        load_tokenizer,
        locate_model_folder,
        resolve_dtype,
    )

    name, folder = get_display_name(policy), locate_model_folder(policy)
    tokenizer, limit = load_tokenizer(policy, needs_eos=False), find_position_limit(policy)
    if backend == "vllm":
        from rlhf_hitl.policy.vllm_generation import VllmDrawer

        return VllmDrawer(name, tokenizer, samplings, folder, limit)

    def load() -> PreTrainedModel:
        return load_policy(policy, dtype or resolve_dtype()).to(find_best_device())  # type: ignore[arg-type]

    return ModelDrawer(name, tokenizer, samplings, load, limit=limit, batch_size=batch_size, batch_tokens=batch_tokens)
