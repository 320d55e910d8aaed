"""Sample a batch of answers token by token, so that a row's tokens do not depend on the other rows of the batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rlhf_hitl.policy.sampling import RowSampling
from rlhf_hitl.policy.stop_strings import StopFinder, cut_at_stop
from rlhf_hitl.reward.chat_template import ChatTemplate, make_images_error
from rlhf_hitl.types import Prompt
from rlhf_hitl.types.messages import list_images

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rlhf_hitl.policy.decoding import OnPass


class PromptReader:
    """Turns prompts into tokens for a policy, and what it samples into answers.

    Args:
        tokenizer: the policy's, with a chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer, self.template = tokenizer, ChatTemplate(tokenizer)

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt up to where the assistant's answer begins.

        Raises:
            Unreadable: the chat template refuses the prompt, or it has images.
        """
        if next(list_images(prompt.messages), None) is not None:
            raise make_images_error(prompt.id, "this policy reads no images here")
        text = self.template.apply(prompt.messages, None, prompt.tools)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]

    def decode(self, token_ids: Sequence[int], eos: set[int], stop: Sequence[str] = ()) -> str:
        """Return the text of an answer, without special tokens and outer white space; empty if nothing was said.

        It is cut where the first of the stop strings begins.

        A thought that the chat template has opened is a part of the answer: with it, the answer rendered again is the
        tokens that were sampled.
        """
        body = token_ids[:-1] if token_ids and token_ids[-1] in eos else token_ids
        said = cut_at_stop(str(self.tokenizer.decode(list(body), skip_special_tokens=True)), stop)[0].strip()
        return (self.template.opening + said).strip() if said else ""


def find_eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return every token id that ends an answer."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    return {int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None}


def sample_tokens(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[RowSampling],
    *,
    eos: set[int],
    pad: int,
    stop: StopFinder | None = None,
    on_pass: OnPass | None = None,
) -> list[list[int]]:
    """Sample answers side by side, and return each row's new token ids, up to and with the EOS if the row reached one.

    Equal prompts are computed once.

    Args:
        prompts: the token ids of each row's prompt; samplings: how to sample each row.
        stop: ends a row with the token that completes a stop string.
        on_pass: called after each pass of the model, but not where `model.generate` makes them.
    """
    from rlhf_hitl.policy.decoding import can_decode, decode

    if not can_decode(model):
        return _sample_with_generate(model, prompts, samplings, eos, pad, stop)
    choose = make_token_chooser(samplings, model.device)

    def is_finished(row: int, tokens: list[int]) -> bool:
        if tokens[-1] in eos or len(tokens) >= samplings[row].max_new_tokens:
            return True
        return stop is not None and stop.is_reached(tokens)

    heard = {} if on_pass is None else {"on_pass": on_pass}
    return decode(model, prompts, choose, is_finished, pad, **heard)


def plan_batches(
    prompts: Sequence[int], answers: Sequence[int], batch_tokens: int | None, batch_rows: int | None = None
) -> list[list[int]]:
    """Return the indices of rows by batch, long rows first: as many as the budget holds, padding included.

    A row that alone is longer than the budget has a batch of its own. Rows of one length stay in their order: those of
    one prompt that are given side by side are computed side by side.

    Args:
        prompts, answers: the tokens of each row's prompt, and of its answer at most.
        batch_tokens, batch_rows: the most tokens and rows of a batch; None: as many as there are.
    """
    most_tokens, most_rows = batch_tokens or sys.maxsize, batch_rows or sys.maxsize
    batches: list[list[int]] = []
    widths = 0, 0  # of the newest batch: prompts are aligned right, and answers left after them
    for i in sorted(range(len(prompts)), key=lambda i: -prompts[i] - answers[i]):
        wider = max(widths[0], prompts[i]), max(widths[1], answers[i])
        if not batches or len(batches[-1]) == most_rows or sum(wider) * (len(batches[-1]) + 1) > most_tokens:
            batches.append([])
            wider = prompts[i], answers[i]
        batches[-1].append(i)
        widths = wider
    return batches


def _sample_with_generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[RowSampling],
    eos: set[int],
    pad: int,
    stop: StopFinder | None,
) -> list[list[int]]:
    """Sample rows with `model.generate`, for models that keep another state than keys and values of tokens."""
    import torch
    from transformers import LogitsProcessorList

    device = model.device
    width, steps = max(map(len, prompts)), max(s.max_new_tokens for s in samplings)
    tokens = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    choose, owner = make_token_chooser(samplings, device), torch.arange(len(prompts), device=device)

    def leave_one(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = choose(scores, owner, input_ids.shape[1] - width)[:, None]
        return torch.full_like(scores, float("-inf")).scatter(-1, token, 0.0)

    with torch.no_grad():
        out = model.generate(  # type: ignore[operator]
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            logits_processor=LogitsProcessorList([leave_one]),
            max_new_tokens=steps,
            do_sample=False,  # the processor above has made the choice
            num_beams=1,
            eos_token_id=sorted(eos) or None,
            pad_token_id=pad,
        )
    return [_cut(row[: s.max_new_tokens], eos, stop) for row, s in zip(out[:, width:].tolist(), samplings)]


def _cut(row: list[int], eos: set[int], stop: StopFinder | None) -> list[int]:
    """Return a row up to and with its EOS, or the token that completes a stop string."""
    for i, token in enumerate(row):
        if token in eos or (stop is not None and stop.is_reached(row[: i + 1])):
            return row[: i + 1]
    return row


def make_token_chooser(
    samplings: Sequence[RowSampling], device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]:
    """Return a function that chooses a token a row, by inverting the distribution at the row's own uniforms.

    transformers samples a whole batch from one stream of random numbers, which ties every row to its neighbours.

    Returns:
        (logits (n, vocabulary), the rows' numbers (n,), how many tokens they have so far) -> token ids (n,).
    """
    import torch

    steps = max(s.max_new_tokens for s in samplings)
    drawn = [torch.rand(steps, generator=torch.Generator().manual_seed(s.seed), dtype=torch.float64) for s in samplings]
    # What is nearly 1 in float64 is 1 in float32, which is past every token but the last one. MPS has no float64.
    uniforms = torch.stack(drawn).float().clamp(max=1 - 2**-24).to(device)
    temperatures = torch.tensor([s.temperature for s in samplings], device=device)[:, None]
    top_ps = torch.tensor([s.top_p for s in samplings], device=device)[:, None]

    def choose_tokens(scores: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        uniform, temperature, top_p = uniforms[rows, step, None], temperatures[rows], top_ps[rows]
        logits = scores.float()
        greedy = logits.argmax(-1, keepdim=True)
        if not bool((temperature > 0).any()):
            return greedy[:, 0]
        probabilities = (logits / temperature.clamp(min=1e-6)).softmax(-1)
        # Each row by its own top_p: the same uniform means another token among sorted ones.
        is_nucleus = top_p[:, 0] < 1
        if bool(is_nucleus.all()):
            sampled = _invert_nucleus(probabilities, top_p, uniform)
        else:
            cumulative = probabilities.cumsum(-1)
            sampled = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
            if bool(is_nucleus.any()):
                sampled[is_nucleus] = _invert_nucleus(probabilities[is_nucleus], top_p[is_nucleus], uniform[is_nucleus])
        return torch.where(temperature > 0, sampled.clamp(max=scores.shape[-1] - 1), greedy)[:, 0]

    return choose_tokens


def _invert_nucleus(probabilities: torch.Tensor, top_p: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the token of each row, (rows, 1), at its uniform of the nucleus."""
    import torch

    values, order = select_nucleus(probabilities, top_p)
    cumulative = values.cumsum(-1)
    picked = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return order.gather(-1, picked.clamp(max=order.shape[-1] - 1))


def select_nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the likeliest tokens that together reach `top_p`: (probabilities, token ids), sorted, the rest zero.

    It looks at the few hundred likeliest tokens first: sorting a whole vocabulary costs more than a small model's step.

    Args:
        probabilities: (rows, vocabulary); top_p: (rows, 1).
    """
    k, size = min(512, probabilities.shape[-1]), probabilities.shape[-1]
    values, order = probabilities.topk(k, dim=-1)
    while k < size and bool((values.sum(-1, keepdim=True) < top_p).any()):
        k = min(4 * k, size)
        values, order = probabilities.topk(k, dim=-1)
    before = values.cumsum(-1) - values
    return values.masked_fill(before >= top_p, 0.0), order
