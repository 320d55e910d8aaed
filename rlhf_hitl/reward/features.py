"""Hidden states of a frozen backbone, computed once per conversation and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import best_device, best_dtype, load_tokenizer, local_folder
from rlhf_hitl.reward.rendering import Conversation, Rendered, Renderer

log = logging.getLogger(__name__)

KEPT_AT = 32  # conversations computed between two writes to disk


class Backbone:
    """A language model read as a feature extractor: the hidden state after `layer` at the EOS of a conversation.

    Args:
        name: a local folder, a hub id or the name of a fetched model.
        layer: number of transformer layers to run, or a negative number counted from the last; None takes two thirds,
            where a frozen decoder's states carry most of what a preference head can use. All layers also take the
            final norm, as a sequence classifier does.
        dtype: "auto" takes bfloat16 where the hardware multiplies it natively and float32 elsewhere.

    Features come out in float32 and do not depend on the batch: on a CPU every conversation runs alone and unpadded
    (batching gains nothing there); on a GPU padding is masked, equal to rounding.
    """

    def __init__(self, name: str, *, layer: int | None = None, max_length: int = 1024, dtype: str = "auto"):
        from transformers import AutoConfig, AutoModel

        self.name = name
        path = whole_model(name)
        config = AutoConfig.from_pretrained(path)
        depth = config.num_hidden_layers
        self.layer = round(depth * 2 / 3) if layer is None else layer if layer > 0 else depth + 1 + layer
        if not 0 < self.layer <= depth:
            raise BadInput(f"layer {layer}", expected=f"1 to {depth} for {name}", fix="choose a layer the model has")
        self.device = torch.device(best_device())
        self.dtype = _dtype(dtype)
        self.renderer = Renderer(load_tokenizer(path, chats=False), min(max_length, _positions(config)))
        with quiet_loading():
            model = AutoModel.from_pretrained(path, dtype=self.dtype, use_safetensors=True)
        self._model = model.to(self.device).eval()
        cut = self.layer < depth and hasattr(self._model, "layers")
        if cut:  # later layers are not needed: do not run them
            self._model.layers = self._model.layers[: self.layer]
            self._model.norm = torch.nn.Identity()
        self._reads_last = cut or self.layer == depth
        self.width = config.hidden_size
        self.fingerprint = _fingerprint(path, self.layer, str(self.dtype))

    @property
    def settings(self) -> dict:
        """What is needed to make the same backbone again."""
        return {
            "name": self.name,
            "layer": self.layer,
            "max_length": self.renderer.max_length,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @torch.inference_mode()
    def compute(self, rendered: Sequence[Rendered], bar: tqdm | None = None) -> np.ndarray:
        """(n, width) float32 features, one row a conversation; `bar` is moved on by one for each."""
        out = np.empty((len(rendered), self.width), dtype=np.float32)
        order = sorted(range(len(rendered)), key=lambda i: -len(rendered[i].ids))
        for batch in _batches(order, [len(r.ids) for r in rendered], 1 if self.device.type == "cpu" else 16_384):
            rows = [torch.tensor(rendered[i].ids) for i in batch]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.renderer.pad_id)
            lengths = torch.tensor([len(r) for r in rows])
            mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
            given = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
            made = self._model(**given, output_hidden_states=not self._reads_last)
            states = made.last_hidden_state if self._reads_last else made.hidden_states[self.layer]
            last = states[torch.arange(len(rows)), lengths - 1]
            out[batch] = last.float().cpu().numpy()
            if bar is not None:
                bar.update(len(batch))
        return out


class FeatureCache:
    """Features on disk by content hash: a folder of safetensors shards, each written whole and never changed.

    Shared by processes (two that compute the same row write it twice, harmlessly). The key covers the tokens and the
    backbone, so another template, layer, precision or weight never meets a stale row.
    """

    MERGE_AT = 64  # shards; more are merged into one

    def __init__(self, folder: Path, backbone: Backbone):
        self.backbone, self.folder = backbone, folder / backbone.fingerprint
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dropped = self.cut = 0  # conversations that lost prompt or completion tokens, over this cache's life
        self._rows: dict[str, tuple[np.ndarray, int]] = {}
        self._seen: set[str] = set()

    def features(self, conversations: Sequence[Conversation], *, keep: bool = True) -> np.ndarray:
        """(n, width) float32. What is not on disk is computed and, with `keep`, written there."""
        rendered = [self.backbone.renderer.render(c) for c in conversations]
        keys = [hashlib.sha256(np.asarray(r.ids, dtype=np.int64).tobytes()).hexdigest()[:32] for r in rendered]
        self._load()
        missing = {k: r for k, r in zip(keys, rendered) if k not in self._rows}
        self.dropped += sum(r.dropped > 0 for r in missing.values())
        self.cut += sum(r.cut > 0 for r in missing.values())
        if any(r.dropped or r.cut for r in missing.values()):
            log.info("%d prompts and %d completions cut to %d tokens", self.dropped, self.cut, self._limit)
        todo = list(missing)
        fresh: dict[str, tuple[np.ndarray, int]] = {}
        with tqdm(total=len(todo), desc="features", unit="completion", disable=len(todo) < 8) as bar:
            for start in range(0, len(todo), KEPT_AT):  # so that an interrupted run keeps what it has
                part = todo[start : start + KEPT_AT]
                rows = self.backbone.compute([missing[k] for k in part], bar)
                fresh |= {k: (rows, i) for i, k in enumerate(part)}
                if keep:
                    self._write(part, rows)
        found = self._rows | fresh
        picked = [found[k] for k in keys]
        return np.stack([rows[i] for rows, i in picked]) if picked else np.empty((0, self.backbone.width), np.float32)

    @property
    def _limit(self) -> int:
        return self.backbone.renderer.max_length

    def _load(self) -> None:
        for shard in sorted(self.folder.glob("*.safetensors")):
            if shard.name in self._seen:
                continue
            with safe_open(shard, framework="numpy") as f:
                rows = f.get_tensor("features")
                keys = json.loads(f.metadata()["keys"])
            self._seen.add(shard.name)
            self._rows |= {k: (rows, i) for i, k in enumerate(keys)}

    def _write(self, keys: list[str], rows: np.ndarray) -> None:
        self._write_shard(keys, rows)
        old = list(self.folder.glob("*.safetensors"))
        if len(old) > self.MERGE_AT:
            self._load()
            everything = list(self._rows)
            self._write_shard(everything, np.stack([self._rows[k][0][self._rows[k][1]] for k in everything]))
            for path in old:
                path.unlink(missing_ok=True)

    def _write_shard(self, keys: list[str], rows: np.ndarray) -> None:
        shard = self.folder / f"{uuid.uuid4().hex}.safetensors"
        draft = shard.with_suffix(".writing")
        save_file({"features": rows}, draft, metadata={"keys": json.dumps(keys)})
        os.replace(draft, shard)
        self._seen.add(shard.name)
        self._rows |= {k: (rows, i) for i, k in enumerate(keys)}


def whole_model(name: str) -> Path:
    """The folder of a model with all of its weights, downloaded if it is a hub id.

    Raises:
        BadInput: no such model, a LoRA adapter without its base, or weights that are not safetensors.
    """
    folder = local_folder(name)
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


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' report of a missing or unused `score` head: reading across architectures is meant here."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _batches(order: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """Neighbours in length, at most `budget` padded tokens a batch (at least one row)."""
    out: list[list[int]] = []
    for i in order:
        if out and (len(out[-1]) + 1) * lengths[out[-1][0]] <= budget:
            out[-1].append(i)
        else:
            out.append([i])
    return out


def _dtype(name: str) -> torch.dtype:
    if name == "auto":
        return best_dtype(best_device())
    if name not in ("float32", "bfloat16", "float16"):
        raise BadInput(f"dtype {name!r}", expected="auto, float32, bfloat16 or float16", fix="choose one of these")
    return getattr(torch, name)


def _positions(config) -> int:
    return getattr(config, "max_position_embeddings", None) or 1_000_000


def _fingerprint(path: Path, layer: int, dtype: str) -> str:
    """Names the weights by every byte of them: a model of which only some layers were tuned is another."""
    digest = hashlib.sha256(f"{layer}:{dtype}".encode())
    for file in sorted(path.glob("model*.safetensors")):
        with file.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()[:20]
