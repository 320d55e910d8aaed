"""What a reward model needs to know of a pretrained model: its weights on disk, score head and number of positions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_config, load_pretrained, locate_model_folder
from rlhf_hitl.reward.rendering import Renderer


def locate_full_model(name: str) -> Path:
    """Return the folder of a model with all of its weights. A hub id is downloaded.

    Raises:
        BadInput: no such model, a LoRA adapter without its base, or weights that are not safetensors.
    """
    folder = locate_model_folder(name)
    if (folder / "adapter_config.json").is_file():
        raise BadInput(
            f"backbone {name!r}, a LoRA adapter",
            expected="a whole model",
            fix="train it with `merge: true`, or merge it with peft's merge_and_unload and save that",
        )
    if not any(folder.glob("model*.safetensors")):
        raise BadInput(
            f"backbone {name!r}",
            expected="weights in model*.safetensors",
            fix="save it with `save_pretrained`, or take a model that has them",
        )
    return folder


def is_sequence_classifier(path: Path) -> bool:
    """Whether a model's weights are those of a sequence classifier, whose score head somebody has trained."""
    return any(kind.endswith("ForSequenceClassification") for kind in load_config(path).architectures or [])


def load_sequence_classifier(folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """Load a model as a sequence classifier in float32. Return it and the names of the weights that it lacked, which
    transformers has filled with random numbers."""
    with silence_loading_report():
        model, loading_info = load_pretrained(
            AutoModelForSequenceClassification, folder, dtype=torch.float32, output_loading_info=True, **options
        )
    return model, sorted(loading_info["missing_keys"])


def find_score_head(model: torch.nn.Module) -> tuple[str, torch.nn.Linear]:
    """Return the name and module of a sequence classifier's last linear map: `score` in decoders, `classifier` and the
    like in encoders.

    Raises:
        BadInput: no linear map has a single output.
    """
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1]
    if not linear:
        raise BadInput(
            f"{type(model).__name__}", expected="a last linear layer with one output", fix="take another architecture"
        )
    return linear[-1]


def uses_token_type_ids(renderer: Renderer, config: Any) -> bool:
    """Whether a model is told which tokens are the completion's, as BERT is (`token_type_ids`)."""
    return renderer.reads_pairs and (getattr(config, "type_vocab_size", 0) or 0) > 1


def find_max_tokens(config: Any) -> int:
    """Return how many tokens a model has positions for. RoBERTa and its kin count theirs from after the padding's."""
    from transformers import AutoModel

    with torch.device("meta"), silence_loading_report():  # its modules without their weights
        model = AutoModel.from_config(config, trust_remote_code=False)
    embeddings = [
        m for n, m in model.named_modules() if n.endswith("position_embeddings") and hasattr(m, "num_embeddings")
    ]
    configured = getattr(config.get_text_config(), "max_position_embeddings", None) or 1_000_000
    return min(
        [configured, *(m.num_embeddings - (0 if m.padding_idx is None else m.padding_idx + 1) for m in embeddings)]
    )


def hash_weights(folder: Path) -> str:
    """Return a digest of a model's configuration and of every byte of its weights: a model of which only some layers
    were tuned is another model, and the configuration says how the weights are used."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("model*.safetensors")):
        with file.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()


@contextmanager
def silence_loading_report() -> Iterator[None]:
    """Suppress transformers' report of a missing or unused `score` head: loading across architectures is intended."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
