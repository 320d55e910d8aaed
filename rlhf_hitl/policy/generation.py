"""Completions out of a policy, so that each can be drawn again: what a completion is depends on its prompt, how it was
sampled and its own seed, and not on what else was in its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import Comparison, Completion, Message, Messages, Prompt, messages_to_dicts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: How often a completion that is empty, or the same as another of its prompt, is drawn again before it is dropped.
REDRAWS = 8

Backend = Literal["transformers", "vllm"]


@dataclass(frozen=True)
class Sampling:
    """How to draw completions: `count` of them for each prompt. Temperature 0 takes the likeliest token."""

    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 160
    seed: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        for name, value, fine, expected in (
            ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
            ("top-p", self.top_p, 0 < self.top_p <= 1, "a number in (0, 1]"),
            ("max-new-tokens", self.max_new_tokens, self.max_new_tokens >= 1, "1 or more"),
            ("completions", self.count, self.count >= 1, "1 or more"),
        ):
            if not fine:
                raise BadInput(f"{name} {value}", expected=expected, fix=f"change --{name}")


@dataclass(frozen=True)
class Draw:
    """One row to sample. `seed` alone fixes its random numbers."""

    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int


def draw_seed(seed: int, prompt_id: str, sampling: Sampling, index: int, attempt: int = 0) -> int:
    """The seed of one completion. It stands in the completion's `sampling`, and is all that is needed to redo it."""
    key = f"{seed}:{prompt_id}:{sampling.temperature}:{sampling.top_p}:{index}:{attempt}"
    return int(hashlib.sha256(key.encode()).hexdigest()[:12], 16)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, chat: Messages) -> list[int]:
    """Token ids of a prompt up to where the assistant's answer begins."""
    text = tokenizer.apply_chat_template(messages_to_dicts(chat), add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends an answer."""
    known = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = known if isinstance(known, list) else [known]
    return {int(i) for i in [*listed, tokenizer.eos_token_id] if i is not None}


def sample_ids(
    model: PreTrainedModel, ids: Sequence[Sequence[int]], draws: Sequence[Draw], *, eos: set[int], pad: int
) -> list[list[int]]:
    """One batch. Returns each row's new tokens, up to and with the EOS where it came to one.

    Rows are cut at the first EOS by position, so pad = EOS does no harm.
    """
    import torch
    from transformers import LogitsProcessorList

    device = model.device
    width, steps = max(map(len, ids)), max(d.max_new_tokens for d in draws)
    tokens = torch.full((len(ids), width), pad, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, one in enumerate(ids):
        tokens[row, width - len(one) :] = torch.tensor(one)
        mask[row, width - len(one) :] = 1
    with torch.no_grad():
        out = model.generate(  # type: ignore[operator]
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            logits_processor=LogitsProcessorList([_choose(draws, width, steps, device)]),
            max_new_tokens=steps,
            do_sample=False,  # the processor above has made the choice
            num_beams=1,
            eos_token_id=sorted(eos),
            pad_token_id=pad,
        )
    return [_until_eos(row[: d.max_new_tokens], eos) for row, d in zip(out[:, width:].tolist(), draws)]


def _until_eos(row: list[int], eos: set[int]) -> list[int]:
    end = next((i for i, token in enumerate(row) if token in eos), None)
    return row if end is None else row[: end + 1]


def _choose(draws: Sequence[Draw], width: int, steps: int, device: torch.device):
    """A logits processor that leaves one token a row: drawn by inverting the distribution at the row's own uniforms.

    transformers samples a batch from one stream of random numbers, which ties every row to its neighbours.
    """
    import torch

    uniforms = torch.stack(
        [torch.rand(steps, generator=torch.Generator().manual_seed(d.seed), dtype=torch.float64) for d in draws]
    ).to(device)
    temperature = torch.tensor([d.temperature for d in draws], device=device)[:, None]
    top_p = torch.tensor([d.top_p for d in draws], device=device)[:, None]

    def choose(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        u = uniforms[:, input_ids.shape[1] - width, None].float()
        logits = scores.float()
        greedy = logits.argmax(-1, keepdim=True)
        probabilities = (logits / temperature.clamp(min=1e-6)).softmax(-1)
        if bool((top_p < 1).any()):
            values, order = _nucleus(probabilities, top_p)
            cumulative = values.cumsum(-1)
            picked = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
            drawn = order.gather(-1, picked.clamp(max=order.shape[-1] - 1))
        else:
            cumulative = probabilities.cumsum(-1)
            drawn = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
        token = torch.where(temperature > 0, drawn.clamp(max=scores.shape[-1] - 1), greedy)
        return torch.full_like(scores, float("-inf")).scatter(-1, token, 0.0)

    return choose


def _nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens that reach `top_p`, the rest zero: (probabilities, token ids), sorted.

    Looks at the few hundred likeliest tokens first: sorting a whole vocabulary costs more than a small model's step.
    """
    k, size = min(512, probabilities.shape[-1]), probabilities.shape[-1]
    values, order = probabilities.topk(k, dim=-1)
    while k < size and bool((values.sum(-1, keepdim=True) < top_p).any()):
        k = min(4 * k, size)
        values, order = probabilities.topk(k, dim=-1)
    before = values.cumsum(-1) - values
    return values.masked_fill(before >= top_p, 0.0), order


@dataclass(frozen=True)
class _Job:
    prompt: Prompt
    ids: list[int]
    sampling: Sampling
    draw: Draw


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    batch_size: int = 16,
    *,
    policy: str,
) -> Iterator[Completion]:
    """Completions for each prompt, `count` of each sampling, as their batches finish (longest prompts first).

    All completions of a prompt differ: one that is empty or was drawn before is drawn again with another seed, up to
    `REDRAWS` times, and then left out. Prompts that leave no room for an answer are left out with a warning.

    Args:
        policy: the name the completions carry.
    """
    from tqdm import tqdm

    eos, pad = eos_ids(model, tokenizer), int(tokenizer.pad_token_id)  # type: ignore[arg-type]
    limit = getattr(model.config, "max_position_embeddings", None)
    jobs = list(_jobs(tokenizer, prompts, samplings, limit))
    seen: dict[str, set[str]] = {p.id: set() for p in prompts}
    with tqdm(total=len(jobs), desc="completions", unit="completion", disable=not jobs) as bar:
        for attempt in range(1 + REDRAWS):
            again: list[_Job] = []
            jobs.sort(key=lambda j: (-len(j.ids), j.prompt.id, j.sampling.temperature, j.draw.seed))
            for start in range(0, len(jobs), batch_size):
                batch = jobs[start : start + batch_size]
                rows = sample_ids(model, [j.ids for j in batch], [j.draw for j in batch], eos=eos, pad=pad)
                made = []
                for job, row in zip(batch, rows):
                    text = answer_text(tokenizer, row, eos)
                    if not text or text in seen[job.prompt.id]:
                        seed = draw_seed(job.draw.seed, job.prompt.id, job.sampling, 0, attempt + 1)
                        again.append(replace(job, draw=replace(job.draw, seed=seed)))
                        continue
                    seen[job.prompt.id].add(text)
                    made.append(_completion(job, text, row, eos, policy))
                bar.update(len(made))
                yield from made
            jobs = again
            if not jobs:
                return
        tqdm.write(f"{len(jobs)} completions left out: empty or a repeat {REDRAWS + 1} times over", file=_stderr())


def answer_text(tokenizer: PreTrainedTokenizerBase, row: Sequence[int], eos: set[int]) -> str:
    """What the tokens of a completion say, without special tokens and outer blank space."""
    body = row[:-1] if row and row[-1] in eos else row
    return str(tokenizer.decode(list(body), skip_special_tokens=True)).strip()


def _jobs(tokenizer, prompts: Sequence[Prompt], samplings: Sequence[Sampling], limit: int | None) -> Iterator[_Job]:
    from tqdm import tqdm

    for prompt in prompts:
        ids = prompt_ids(tokenizer, prompt.messages)
        for s in samplings:
            if limit is not None and len(ids) + s.max_new_tokens > limit:
                tqdm.write(
                    f"prompt {prompt.id} left out: {len(ids)} tokens and {s.max_new_tokens} new ones do not fit "
                    f"in the model's {limit}",
                    file=_stderr(),
                )
                continue
            for index in range(s.count):
                seed = draw_seed(s.seed, prompt.id, s, index)
                yield _Job(prompt, ids, s, Draw(s.temperature, s.top_p, s.max_new_tokens, seed))


def _completion(job: _Job, text: str, row: Sequence[int], eos: set[int], policy: str) -> Completion:
    how: dict[str, Any] = {
        "temperature": job.sampling.temperature,
        "top_p": job.sampling.top_p,
        "max_new_tokens": job.sampling.max_new_tokens,
        "seed": job.draw.seed,
        "finish": "eos" if row and row[-1] in eos else "length",
        "tokens": len(row),
        "model": policy,
    }
    return Completion.create(job.prompt.id, (Message("assistant", text),), policy, how)


def generate_with_vllm(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    *,
    policy: str,
) -> Iterator[Completion]:
    """The same through vLLM, for machines with a GPU. Not yet run on one: this project's own checks have none.

    vLLM draws from its own random numbers, so a seed gives other completions than transformers does. Repeats and
    empty answers are left out, not drawn again.
    """
    try:
        from vllm import LLM, SamplingParams  # type: ignore[import-not-found]
    except ImportError as e:
        raise BadInput(
            "--backend vllm",
            expected="an installed vllm and a GPU",
            fix="`pip install vllm`, or use --backend transformers",
        ) from e
    llm = LLM(model=str(path), trust_remote_code=False)
    limit = llm.llm_engine.model_config.max_model_len
    jobs = list(_jobs(tokenizer, prompts, samplings, limit))
    eos = {int(tokenizer.eos_token_id)}  # type: ignore[arg-type]
    outputs = llm.generate(
        [{"prompt_token_ids": j.ids} for j in jobs],
        [
            SamplingParams(
                temperature=j.draw.temperature,
                top_p=j.draw.top_p,
                max_tokens=j.draw.max_new_tokens,
                seed=j.draw.seed % 2**31,
                stop_token_ids=sorted(eos),
            )
            for j in jobs
        ],
        use_tqdm=True,
    )
    seen: dict[str, set[str]] = {p.id: set() for p in prompts}
    for job, output in zip(jobs, outputs):
        row = list(output.outputs[0].token_ids)
        if output.outputs[0].finish_reason == "stop" and (not row or row[-1] not in eos):
            row.append(min(eos))
        text = answer_text(tokenizer, row, eos)
        if text and text not in seen[job.prompt.id]:
            seen[job.prompt.id].add(text)
            yield _completion(job, text, row, eos, policy)


def sample_completions(
    policy: str | Path,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    *,
    batch_size: int = 16,
    backend: Backend = "transformers",
    dtype: torch.dtype | None = None,
) -> list[Completion]:
    """Load a policy and draw completions for the prompts, in the order of the prompts."""
    from rlhf_hitl.models import best_device, best_dtype, display_name, load_policy, load_tokenizer, local_folder

    name, tokenizer = display_name(policy), load_tokenizer(policy)
    if backend == "vllm":
        made = list(generate_with_vllm(local_folder(policy), tokenizer, prompts, samplings, policy=name))
    else:
        device = best_device()
        model = load_policy(policy, dtype or best_dtype(device)).to(device)  # type: ignore[arg-type]
        made = list(generate(model, tokenizer, prompts, samplings, batch_size, policy=name))
    place = {p.id: i for i, p in enumerate(prompts)}
    return sorted(made, key=lambda c: (place[c.prompt_id], c.sampling["temperature"], c.id))


def make_comparisons(
    prompt: Prompt, completions: Sequence[Completion], k: int = 2, overlap: int = 1
) -> list[Comparison]:
    """Comparisons of `k` completions that differ; each completion is in one of them, a few in two to fill the last.

    Which meet is settled by the hash of their text, so it is at random and the same every time.
    """
    if k < 2:
        raise BadInput(f"{k} completions a comparison", expected="2 or more", fix="compare at least two")
    distinct = sorted({c.messages: c for c in completions}.values(), key=lambda c: c.id)
    if len(distinct) < k:
        return []
    wanted = -(-len(distinct) // k) * k
    row = distinct + distinct[: wanted - len(distinct)]
    return [Comparison.create(prompt, row[i : i + k], overlap) for i in range(0, wanted, k)]


def comparisons_of(
    prompts: Sequence[Prompt], completions: Sequence[Completion], k: int = 2, overlap: int = 1
) -> list[Comparison]:
    """`make_comparisons` for many prompts at once."""
    by_id = {p.id: p for p in prompts}
    ordered = sorted(completions, key=lambda c: c.prompt_id)
    return [
        comparison
        for prompt_id, group in groupby(ordered, key=lambda c: c.prompt_id)
        for comparison in make_comparisons(by_id[prompt_id], list(group), k, overlap)
    ]


def _stderr():
    import sys

    return sys.stderr
