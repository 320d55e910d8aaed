"""Sample a batch of answers token by token, so that a row's tokens do not depend on the other rows of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rlhf_hitl.policy.sampling import RowSampling
from rlhf_hitl.reward.chat_template import ChatTemplate, make_images_error
from rlhf_hitl.types import Prompt
from rlhf_hitl.types.messages import list_images

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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

    def decode(self, token_ids: Sequence[int], eos: set[int]) -> str:
        """Return the text of an answer, without special tokens and outer white space; empty if nothing was said.

        A thought that the chat template has opened is a part of the answer: with it, the answer rendered again is the
        tokens that were sampled.
        """
        body = token_ids[:-1] if token_ids and token_ids[-1] in eos else token_ids
        said = str(self.tokenizer.decode(list(body), skip_special_tokens=True)).strip()
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
) -> list[list[int]]:
    """Sample one batch and return each row's new token ids, up to and with the EOS if the row reached one.

    Rows are cut at the first EOS by position, so a pad token that equals EOS does no harm.

    Args:
        prompts: the token ids of each row's prompt; samplings: how to sample each row.
    """
    import torch
    from transformers import LogitsProcessorList

    device = model.device
    width, steps = max(map(len, prompts)), max(s.max_new_tokens for s in samplings)
    tokens = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    with torch.no_grad():
        out = model.generate(  # type: ignore[operator]
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            logits_processor=LogitsProcessorList([_make_token_chooser(samplings, width, steps, device)]),
            max_new_tokens=steps,
            do_sample=False,  # the processor above has made the choice
            num_beams=1,
            eos_token_id=sorted(eos),
            pad_token_id=pad,
        )
    return [_cut_after_eos(row[: s.max_new_tokens], eos) for row, s in zip(out[:, width:].tolist(), samplings)]


def _cut_after_eos(row: list[int], eos: set[int]) -> list[int]:
    end = next((i for i, token in enumerate(row) if token in eos), None)
    return row if end is None else row[: end + 1]


def _make_token_chooser(
    samplings: Sequence[RowSampling], width: int, steps: int, device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a logits processor that leaves one token a row, by inverting the distribution at the row's own uniforms.

    transformers samples a whole batch from one stream of random numbers, which ties every row to its neighbours.

    Args:
        width: columns of the prompts; steps: tokens to be sampled at most.
    """
    import torch

    uniforms = torch.stack(
        [torch.rand(steps, generator=torch.Generator().manual_seed(s.seed), dtype=torch.float64) for s in samplings]
    ).to(device)
    temperature = torch.tensor([s.temperature for s in samplings], device=device)[:, None]
    top_p = torch.tensor([s.top_p for s in samplings], device=device)[:, None]

    def choose_tokens(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = uniforms[:, input_ids.shape[1] - width, None].float()
        logits = scores.float()
        greedy = logits.argmax(-1, keepdim=True)
        probabilities = (logits / temperature.clamp(min=1e-6)).softmax(-1)
        if bool((top_p < 1).any()):
            values, order = select_nucleus(probabilities, top_p)
            cumulative = values.cumsum(-1)
            picked = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
            sampled = order.gather(-1, picked.clamp(max=order.shape[-1] - 1))
        else:
            cumulative = probabilities.cumsum(-1)
            sampled = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        token = torch.where(temperature > 0, sampled.clamp(max=scores.shape[-1] - 1), greedy)
        return torch.full_like(scores, float("-inf")).scatter(-1, token, 0.0)

    return choose_tokens


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
