"""What the sections of `gpu.py` share: the shape of the model, sizes, and what a measurement is reported as."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_speed import compute_mfu, read_peak_gib
from random_models import SHAPES, Shape, build_policy, build_tokenizer, make_config

Figures = dict[str, float | int | None]


class Skipped(Exception):
    """A section cannot run here. The message says why."""


@dataclass(frozen=True)
class Scene:
    """What the sections share: a shape, sizes of batches, the seconds that each measurement lasts, and a folder."""

    shape: Shape
    pairs: int
    prompt: int
    answer: int
    seconds: float
    folder: Path
    quick: bool

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.quick else torch.bfloat16

    def draw_trees(self, trees: int, seed: int = 0) -> list[list[list[int]]]:
        """Return trees of two conversations of random tokens, of which every second one has other lengths."""
        rng, vocabulary = np.random.default_rng(seed), min(self.shape.vocabulary, 2000)
        drawn = []
        for i in range(trees):
            cut = i % 2 * self.answer // 4
            trunk = rng.integers(8, vocabulary, self.prompt - cut).tolist()
            drawn.append([trunk + rng.integers(8, vocabulary, self.answer - k * cut).tolist() for k in range(2)])
        return drawn

    def build(self, shape: Shape, dtype: torch.dtype, kind: str = "AutoModelForCausalLM", **options: Any) -> Any:
        """Return a model with random weights on the device."""
        import transformers

        torch.manual_seed(0)
        config = make_config(shape, build_tokenizer(min(shape.vocabulary, 512)))
        config.dtype, config.num_labels = dtype, 1
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(self.device):
                return getattr(transformers, kind).from_config(config, dtype=dtype, **options)
        finally:
            torch.set_default_dtype(before)

    def add_lora(self, model: Any) -> Any:
        """Return a model with a LoRA of rank 16, as `policy.training.make_policy_lora_config` makes it."""
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, lora)

    def report(self, name: str, n: int, seconds: float, flops: float, **figures: float | None) -> Figures:
        """Return a rate of so many things a step, the share of the device that is used, and the peak of memory."""
        rates = {f"{key}_per_s": value * n / seconds for key, value in figures.items() if value is not None}
        made: Figures = {f"{name}.{key}": value for key, value in rates.items()}
        made[f"{name}.mfu"] = compute_mfu(flops * n, seconds, self.name)
        return made | {f"{name}.peak_gib": read_peak_gib(), f"{name}.steps": n}


def make_scene(folder: Path, *, quick: bool, shape: str = "1b") -> Scene:
    if quick:
        return Scene(SHAPES["tiny"], 4, 24, 16, 0.0, folder, quick)
    return Scene(SHAPES[shape], 16, 256, 256, 8.0, folder, quick)


def require(*packages: str) -> None:
    """Raise Skipped where one of these is not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise Skipped(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed")


def locate_policy(scene: Scene) -> Path:
    """Return a folder with a policy of random weights, written once for all sections."""
    folder = scene.folder / "policy"
    if not (folder / "tokenizer.json").exists():
        dtype = str(scene.dtype).removeprefix("torch.")
        build_policy(folder, scene.shape, dtype=dtype, device=scene.device)
    return folder
