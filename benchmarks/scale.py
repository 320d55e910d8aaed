"""Estimate memory and time of 1B, 8B and 70B policies in each configuration, and check the estimate on small models.

    python benchmarks/scale.py

`memory_model.py` has the formula and its sources. Estimated are one pass of 4 pairs of 1,024 tokens (features, full
reward training, DPO) or 8 episodes of 256 + 256 tokens (PPO, RLOO and GRPO, of which 64 are sampled side by side) on a
device, with gradient checkpointing where weights are trained by TRL. A device is an H100 with 80 GB, 3.35 TB/s and
989 TFLOP/s, of which a tenth is left to the allocator and CUDA itself; eight of them share the work in every
configuration but the first. Time is the FLOPs (`device_speed.count_forward_flops`) by the peak and a utilisation, which
is assumed until `gpu.py` has measured it: UTILISATION; tokens are sampled at SAMPLING_SHARE of the memory's bandwidth,
which reads all weights and the cache for each.

**Check.** Small models are trained on a CPU in fp32, each in a process of its own, and the largest resident memory
above that before the model was built is held against the estimate. `memory_estimate_error` is the largest deviation.
`--quick` checks one tiny model.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # before processes are forked
from device_speed import PEAKS, count_forward_flops
from memory_model import BF16, FP32, Load, estimate_memory
from ppo_race import read_peak_mb
from random_models import SHAPES, Shape, build_tokenizer, make_config
from record import write_result

SIZES = ("1b", "8b", "70b")
DEVICES, DEVICE_BYTES, FREE_SHARE, BANDWIDTH = 8, 80e9, 0.9, 3.35e12
UTILISATION = {"features": 0.5, "reward": 0.4, "dpo": 0.35, "ppo": 0.35, "grpo": 0.35}
SAMPLING_SHARE = 0.6
UNITS = 10_000  # pairs or episodes that the time is of
PAIR, PAIRS, EPISODE, EPISODES, SAMPLED = 1024, 4, 512, 8, 64

#: By method: the load of one device, and the configurations in which it runs. PPO refuses launchers that shard weights.
LOADS: dict[str, tuple[Load, tuple[str, ...]]] = {
    "features": (Load(None, BF16, 2 * PAIRS * PAIR), ("one", "ddp")),
    "reward": (Load("autocast", FP32, 2 * PAIRS * PAIR, checkpointing=True), ("one", "ddp", "fsdp2", "zero3")),
    "dpo": (
        Load("lora", BF16, 2 * PAIRS * PAIR, PAIRS * PAIR, checkpointing=True),
        ("one", "ddp", "fsdp2", "zero3"),
    ),
    "ppo": (
        Load("lora", BF16, EPISODES * EPISODE, EPISODES * EPISODE // 2, SAMPLED * EPISODE, SAMPLED),
        ("one", "ddp"),
    ),
    "grpo": (
        Load("lora", BF16, EPISODES * EPISODE, EPISODES * EPISODE // 2, SAMPLED * EPISODE, SAMPLED, checkpointing=True),
        ("one", "ddp", "fsdp2", "zero3", "vllm"),
    ),
}
#: Small models for the check; two hidden sizes, so that weights and activations change places.
QUICKLY_CHECKED = Shape(2, 256, 768, 4, 2, 4096)
CHECKED = {"16m": Shape(6, 384, 1024, 6, 3, 16_384), "32m": Shape(4, 768, 2048, 12, 6, 8192)}


def place(load: Load, configuration: str) -> Load:
    """Return a load in one of the configurations."""
    if configuration == "one":
        return load
    if configuration == "ddp":
        return replace(load, replicas=DEVICES)
    return replace(load, shards=DEVICES, server_shards=DEVICES if configuration == "vllm" else 0)


def estimate_seconds(shape: Shape, method: str, devices: int) -> float:
    """Return the seconds of 10,000 pairs or episodes on so many devices."""
    answer = EPISODE // 2
    peak = PEAKS["H100"] * UTILISATION[method] * devices
    if method in ("features", "reward", "dpo"):
        forward = count_forward_flops(shape, 2 * PAIR, PAIR, PAIR if method == "dpo" else 0)
        # DPO: forward, backward through frozen weights, and the reference.
        return UNITS * forward * {"features": 1, "reward": 3, "dpo": 3}[method] / peak
    forward = count_forward_flops(shape, EPISODE, EPISODE, answer)
    learnt = UNITS * 4 * forward / peak  # policy and reference, forward, and backward through frozen weights
    cache = SAMPLED * EPISODE / 2 * 2 * shape.layers * shape.key_heads * shape.head_size * BF16
    of_token = (shape.parameters * BF16 + cache) / (BANDWIDTH * SAMPLING_SHARE)  # of SAMPLED answers at once
    return learnt + UNITS / SAMPLED / devices * answer * of_token


def estimate_all() -> dict[str, float | int | None]:
    figures: dict[str, float | int | None] = {}
    for size in SIZES:
        for method, (load, configurations) in LOADS.items():
            for configuration in configurations:
                parts = estimate_memory(SHAPES[size], place(load, configuration))
                figures[f"{size}.{method}.{configuration}.gb"] = sum(parts.values()) / 1e9
            figures[f"{size}.{method}.hours_one"] = estimate_seconds(SHAPES[size], method, 1) / 3600
            figures[f"{size}.{method}.hours_eight"] = estimate_seconds(SHAPES[size], method, DEVICES) / 3600
    return figures


def list_checks(quick: bool) -> list[tuple[str, Shape, Load]]:
    """Return what is checked: name, shape and load, in fp32 on one device."""
    tokens = 512
    loads = {
        "features": Load(None, FP32, 4 * tokens),
        "reward": Load("plain", FP32, tokens, accumulates=False),
        "reward.checkpointing": Load("plain", FP32, tokens, checkpointing=True, accumulates=False),
        "ppo": Load("lora", FP32, tokens, tokens // 2, accumulates=False),
    }
    shapes = {"2m": QUICKLY_CHECKED} if quick else CHECKED
    return [(f"{size}.{name}", shape, load) for size, shape in shapes.items() for name, load in loads.items()]


def run_load(shape: Shape, load: Load) -> None:
    """Compute what a load says, with random weights: two steps where something is trained."""
    torch.manual_seed(0)
    config = make_config(shape, build_tokenizer(512))
    model: Any = transformers.LlamaForCausalLM(config)
    decoder: Any = model.model
    length = min(256, load.tokens)
    ids = torch.randint(8, 500, (load.tokens // length, length))
    if load.mode is None:
        with torch.inference_mode():
            decoder.eval()(input_ids=ids, use_cache=False)
        return
    if load.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if load.mode == "lora":
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=load.rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    for _ in range(2):  # AdamW's states are there from the first step on
        if load.logit_tokens:
            kept = load.logit_tokens // len(ids)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits.float() / 0.9
            loss = -(logits.log_softmax(-1).gather(-1, ids[:, -kept:, None])).mean()
            del logits
        else:
            loss = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, -1].square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        del loss


def measure_peak(shape: Shape, load: Load, answer: Path) -> None:
    """Run one load, in a process of its own, and write by how many bytes its resident memory has grown at most."""
    torch.set_num_threads(1)
    # What is freed goes back at once (M_MMAP_THRESHOLD), as it goes back to the allocator of a GPU.
    ctypes.CDLL(None).mallopt(-3, 1 << 16)
    run_load(SHAPES["tiny"], replace(load, tokens=64, logit_tokens=min(load.logit_tokens, 32)))  # imports what it needs
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    run_load(shape, load)
    answer.write_text(json.dumps(read_peak_mb() * 1e6 - before))


def check_all(quick: bool) -> dict[str, float]:
    """Return, for each check, measured and estimated MB, and the largest deviation."""
    figures: dict[str, float] = {}
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        for name, shape, load in list_checks(quick):
            answer = Path(folder) / f"{name}.json"
            process = multiprocessing.get_context("fork").Process(target=measure_peak, args=(shape, load, answer))
            process.start()
            process.join()
            if not answer.exists():
                sys.exit(f"the check {name} ended with exit {process.exitcode}")
            measured = json.loads(answer.read_text()) / 1e6
            estimated = sum(estimate_memory(shape, load).values()) / 1e6
            errors.append(abs(estimated / measured - 1))
            figures |= {f"check.{name}.measured_mb": measured, f"check.{name}.estimated_mb": estimated}
            print(f"{name}: {measured:.0f} MB, estimated {estimated:.0f} MB", file=sys.stderr)
    figures["memory_estimate_error"] = max(errors)
    figures["memory_estimate_error.mean"] = float(np.mean(errors))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    figures = estimate_all() | check_all(args.quick)
    figures["device_gb"] = DEVICE_BYTES * FREE_SHARE / 1e9
    notes = (
        "GB (10^9 bytes) of one device, and hours of 10,000 pairs or episodes by the utilisation assumed: "
        f"{', '.join(f'{method} {share:.0%}' for method, share in UTILISATION.items())}. check: the growth of a "
        "process that trains a small model on a CPU in fp32."
    )
    write_result("scale", figures, seeds=[0], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
