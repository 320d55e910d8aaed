"""Measure how many tokens a second are sampled, beside plain `model.generate`.

    python benchmarks/generation.py --data ../shared/data

The same prompts (of HH-RLHF helpful-base), temperature, top-p, rows side by side and number of new tokens, in turns
that begin now with the one and now with the other. With `--completions` answers to a prompt, `model.generate` is given
`num_return_sequences`, as its users do. Every row is sampled to the token limit, so that both compute as many tokens:
that finished rows leave our batch is not in the figure, and is measured apart, on answers of lengths as they come
(`eos.`), where tokens are those of the answers. `--quick` samples few.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from record import Clock, load_hh_pairs, write_result
from tqdm import tqdm

from rlhf_hitl.models import find_best_device, load_policy, load_tokenizer, resolve_dtype
from rlhf_hitl.policy.sampling import RowSampling
from rlhf_hitl.policy.token_sampling import PromptReader, find_eos_ids, sample_tokens
from rlhf_hitl.types import Prompt

TEMPERATURE, TOP_P = 1.0, 0.95


def sample_ours(model: Any, prompts: list[list[int]], k: int, new: int, seed: int, eos: set[int], pad: int) -> int:
    """Sample `k` answers to each prompt with `sample_tokens`. Returns how many tokens they have."""
    rows = [p for p in prompts for _ in range(k)]
    draws = [RowSampling(TEMPERATURE, TOP_P, new, seed * 1000 + i) for i in range(len(rows))]
    return sum(map(len, sample_tokens(model, rows, draws, eos=eos, pad=pad)))


def sample_plainly(model: Any, prompts: list[list[int]], k: int, new: int, seed: int, eos: set[int], pad: int) -> int:
    """Sample the same with `model.generate`, which pads what has ended."""
    torch.manual_seed(seed)
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    out = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, top_k=0,
        max_new_tokens=new, num_return_sequences=k, eos_token_id=sorted(eos) or -1, pad_token_id=pad,
    )  # fmt: skip
    tokens = 0
    for row in out[:, width:].tolist():
        tokens += next((i + 1 for i, token in enumerate(row) if token in eos), len(row))
    return tokens


def measure(model: Any, prompts: list[list[int]], k: int, new: int, turns: int, eos: set[int], pad: int) -> dict:
    """Return tokens a second of both, and their ratio: over all turns, of the worst and of the best."""
    ways = {"ours": sample_ours, "generate": sample_plainly}
    for way in ways.values():  # warms up
        way(model, prompts, k, 2, 0, eos, pad)
    speeds: list[dict[str, float]] = []
    totals = {way: [0.0, 0.0] for way in ways}
    for turn in tqdm(range(turns), desc=f"{k} of each prompt", unit="turn"):
        speed = {}
        for name in sorted(ways, reverse=turn % 2 == 1):
            clock = Clock()
            tokens = ways[name](model, prompts, k, new, turn, eos, pad)
            seconds, _ = clock.read()
            speed[name] = tokens / seconds
            totals[name][0] += tokens
            totals[name][1] += seconds
        speeds.append(speed)
    ratios = [s["ours"] / s["generate"] for s in speeds]
    overall = {way: tokens / seconds for way, (tokens, seconds) in totals.items()}
    return {
        "ours.tokens_per_s": overall["ours"],
        "generate.tokens_per_s": overall["generate"],
        "tokens_ratio": overall["ours"] / overall["generate"],
        "tokens_ratio.low": min(ratios),
        "tokens_ratio.high": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds the sets.")
    parser.add_argument("--policy", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=16, help="Rows side by side.")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--max-prompt-tokens", type=int, default=384)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rows, new, turns = (4, 4, 1) if args.quick else (args.rows, args.new_tokens, args.turns)
    tokenizer = load_tokenizer(args.policy)
    model = load_policy(args.policy, resolve_dtype()).to(find_best_device())  # type: ignore[arg-type]
    reader, pad = PromptReader(tokenizer), int(tokenizer.pad_token_id)  # type: ignore[arg-type]
    pairs = load_hh_pairs(Path(args.data), 8 * rows)
    tokenized = {chosen.prompt: reader.tokenize(Prompt.create(chosen.prompt)) for chosen, _ in pairs}
    prompts = [ids for ids in tokenized.values() if len(ids) <= args.max_prompt_tokens][:rows]
    figures: dict[str, float | int | None] = {"rows": rows, "new_tokens": new, "threads": torch.get_num_threads()}
    figures["prompt_tokens"] = sum(map(len, prompts)) / len(prompts)
    for k in (1, 4):
        found = measure(model, prompts[: rows // k], k, new, turns, set(), pad)
        figures |= {f"k{k}.{name}": value for name, value in found.items()}
    found = measure(model, prompts[: rows // 4], 4, new, turns, find_eos_ids(model, tokenizer), pad)
    figures |= {f"eos.{name}": value for name, value in found.items()}
    figures["tokens_ratio"] = min(float(figures[f"k{k}.tokens_ratio"] or 0) for k in (1, 4))
    figures["load"] = os.getloadavg()[2]
    notes = f"{args.policy}, {rows} rows side by side; tokens_ratio is the lower of those for 1 and 4 answers a prompt."
    write_result("generation", figures, seeds=list(range(turns)), notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
