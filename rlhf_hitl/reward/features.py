"""Hidden states of a frozen backbone, computed once per conversation and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import best_device, best_dtype, load_tokenizer, local_folder
from rlhf_hitl.reward import tree
from rlhf_hitl.reward.batches import neighbours
from rlhf_hitl.reward.rendering import Conversation, Rendered, Renderer

log = logging.getLogger(__name__)

KEPT_AT = 32  # conversations computed between two writes to disk

K = TypeVar("K", bound=Hashable)


POOLINGS = ("last", "mean")
SCORE = "score"  # what the score head of a sequence classifier reads


@dataclass(frozen=True)
class View:
    """Where a backbone is read: the hidden states after `layer`, at the conversation's EOS (pooling `last`) or averaged
    over the completion's tokens (`mean`); of a sequence classifier also what its score head reads (`score`)."""

    layer: int
    pooling: str


class Backbone:
    """A language model read as a feature extractor.

    Args:
        name: a local folder, a hub id or the name of a fetched model.
        layer: number of transformer layers to run, or a negative number counted from the last. All layers also take the
            final norm, as a sequence classifier does.
        pooling: one of POOLINGS; `score` for a sequence classifier, which has its last layer's view only.
        dtype: "auto" takes bfloat16 where the hardware multiplies it natively and float32 elsewhere.

    With no `layer`, it has views of half, two thirds and five sixths of the layers: between them lies what a frozen
    decoder's states say of preferences best. With no `pooling`, of every pooling. Training chooses among the `views`.

    Features come out in float32 and do not depend on the batch, to rounding: a prompt of several conversations is
    computed once where the model takes trees, else each runs alone on a CPU (batching gains nothing there) and with its
    padding masked on a GPU.
    """

    def __init__(
        self,
        name: str,
        *,
        layer: int | None = None,
        pooling: str | None = None,
        max_length: int = 1024,
        dtype: str = "auto",
    ):
        from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

        self.name = name
        path = whole_model(name)
        config = AutoConfig.from_pretrained(path)
        depth = config.num_hidden_layers
        self.views = _views(name, layer, pooling, depth)
        last = max(view.layer for view in self.views)
        self.device = torch.device(best_device())
        self.dtype = _dtype(dtype)
        self.renderer = Renderer(load_tokenizer(path, chats=False), min(max_length, _positions(config)))
        kind = AutoModelForSequenceClassification if pooling == SCORE else AutoModel
        with quiet_loading():
            model = kind.from_pretrained(path, dtype=self.dtype, use_safetensors=True)
        self._model = model.to(self.device).eval()
        self._read_by_score: list[torch.Tensor] = []
        if pooling == SCORE:
            score_head(self._model)[1].register_forward_pre_hook(lambda _, read: self._read_by_score.append(read[0]))
        self._segments = has_segments(self.renderer, config)
        cut = last < depth and hasattr(self._model, "layers")
        if cut:  # later layers are not needed: do not run them
            self._model.layers = self._model.layers[:last]
            self._model.norm = torch.nn.Identity()
        self._last = last if cut or last == depth else None  # the layer whose states the model returns
        self.takes_trees = pooling != SCORE and tree.takes_trees(self._model)
        # Tokens at once. A CPU gains nothing by rows beside each other, and a little by long ones.
        self.budget = 16_384 if self.device.type != "cpu" else 2048 if self.takes_trees else 1
        self.width = config.hidden_size
        self._weights = _digest_of_weights(path)

    @property
    def view(self) -> View:
        """The only one."""
        if len(self.views) != 1:
            raise BadInput(
                f"backbone {self.name} with {len(self.views)} views", expected="one", fix="give a layer and a pooling"
            )
        return self.views[0]

    @property
    def fingerprint(self) -> str:
        """Names what the features of its view depend on: the weights, the precision, the layer and the pooling."""
        return self.fingerprint_of(self.view)

    def fingerprint_of(self, view: View) -> str:
        return hashlib.sha256(f"{view}:{self.dtype}:{self._weights}".encode()).hexdigest()[:20]

    def at(self, view: View) -> Backbone:
        """The same backbone with one view, loaded anew so that no layer runs beyond it."""
        return Backbone(**self._same | {"layer": view.layer, "pooling": view.pooling})

    @property
    def settings(self) -> dict:
        """What is needed to make the same backbone again, with its only view."""
        return self._same | {"layer": self.view.layer, "pooling": self.view.pooling}

    @property
    def _same(self) -> dict:
        return {
            "name": self.name,
            "max_length": self.renderer.max_length,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def compute(self, rendered: Sequence[Rendered], bar: tqdm | None = None) -> np.ndarray:
        """(n, width) float32 features of its only view, one row a conversation; `bar` is moved on by one for each."""
        return self.compute_views(rendered, [self.view], bar)[:, 0]

    def compute_views(self, rendered: Sequence[Rendered], views: Sequence[View], bar: tqdm | None = None) -> np.ndarray:
        """(n, views, width) float32, of some of its views."""
        out = np.empty((len(rendered), len(views), self.width), dtype=np.float32)
        for batch, states in self._states(rendered, {view.layer for view in views}):
            pooled = []
            for j, i in enumerate(batch):
                for view in views:
                    own = states[view.layer][j]
                    over = own[rendered[i].start :] if view.pooling == "mean" else own[-1:]
                    pooled.append(over.float().mean(0))
            out[batch] = torch.stack(pooled).view(len(batch), len(views), -1).cpu().numpy()
            if bar is not None:
                bar.update(len(batch))
        return out

    def _states(
        self, rendered: Sequence[Rendered], layers: set[int]
    ) -> Iterator[tuple[list[int], dict[int, list[torch.Tensor]]]]:
        """Batch by batch, the longest first: which conversations, and the states (tokens, width) of each by layer."""
        if self.takes_trees:
            for trees in _woods(rendered, self.budget):
                row = tree.lay([[rendered[i].ids for i in each] for each in trees])
                arguments = tree.arguments(
                    self._model, row.ids.to(self.device), row.positions.to(self.device), row.trees
                )
                places = [path.to(self.device) for path in row.paths()]
                made = self._run(arguments, layers)
                yield [i for each in trees for i in each], {at: [made[at][0, p] for p in places] for at in layers}
            return
        for batch in neighbours([len(r.ids) for r in rendered], self.budget):
            rows = [torch.tensor(rendered[i].ids) for i in batch]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.renderer.pad_id)
            places = torch.arange(ids.shape[1])[None]
            mask = places < torch.tensor([len(r) for r in rows])[:, None]
            arguments = {"input_ids": ids, "attention_mask": mask.long()}
            if self._segments:
                arguments["token_type_ids"] = mask & (
                    places >= torch.tensor([rendered[i].start for i in batch])[:, None]
                )
            made = self._run({name: value.long().to(self.device) for name, value in arguments.items()}, layers)
            yield batch, {at: [states[: len(r)] for states, r in zip(made[at], rows)] for at in layers}

    @torch.inference_mode()
    def _run(self, arguments: dict[str, Any], layers: set[int]) -> dict[int, torch.Tensor]:
        """(rows, tokens, width) states after each of some layers; of what a score head reads, one token a row."""
        made = self._model(**arguments, output_hidden_states=layers != {self._last})
        if self._read_by_score:
            return dict.fromkeys(layers, self._read_by_score.pop()[:, None])
        return {at: made.last_hidden_state if at == self._last else made.hidden_states[at] for at in layers}


class FeatureCache:
    """Features of a backbone on disk, a shelf a view. What one process computed, others find.

    The key covers the tokens and the backbone, so another template, layer, precision or weight never meets a stale row.

    Args:
        most_gb: of the whole folder, `RLHF_HITL_FEATURES_GB` by default. Beyond it, what was not used for longest goes.
    """

    def __init__(self, folder: Path, backbone: Backbone, most_gb: float | None = None):
        self.root, self.backbone = folder, backbone
        self.most_gb = load_settings().features_gb if most_gb is None else most_gb
        self.shelves = {view: Shelf(folder / backbone.fingerprint_of(view)) for view in backbone.views}
        # Keys of conversations that lost prompt or completion tokens, over this cache's life, on disk or not.
        self._dropped: set[str] = set()
        self._cut: set[str] = set()

    @property
    def dropped(self) -> int:
        """Conversations met so far that lost tokens of their prompt."""
        return len(self._dropped)

    @property
    def cut(self) -> int:
        """Conversations met so far whose completion lost tokens."""
        return len(self._cut)

    def at(self, view: View) -> FeatureCache:
        """The same features, of one view alone."""
        return FeatureCache(self.root, self.backbone.at(view), self.most_gb)

    def features(self, conversations: Sequence[Conversation], *, keep: bool = True) -> np.ndarray:
        """(n, width) float32 of the backbone's only view. What is not on disk is computed and, with `keep`, written."""
        return self.of_views(conversations, keep=keep)[self.backbone.view]

    def of_views(self, conversations: Sequence[Conversation], *, keep: bool = True) -> dict[View, np.ndarray]:
        """(n, width) float32 of each view, in one pass through the backbone."""
        rendered = [self.backbone.renderer.render(c) for c in conversations]
        keys = [hashlib.sha256(np.array([r.start, *r.ids]).tobytes()).hexdigest()[:32] for r in rendered]
        for shelf in self.shelves.values():
            shelf.look()
        missing = {k: r for k, r in zip(keys, rendered) if not all(k in shelf for shelf in self.shelves.values())}
        self._dropped |= {k for k, r in zip(keys, rendered) if r.dropped}
        self._cut |= {k for k, r in zip(keys, rendered) if r.cut}
        if any(r.dropped or r.cut for r in missing.values()):
            limit = self.backbone.renderer.max_length
            log.info("%d prompts and %d completions cut to %d tokens", self.dropped, self.cut, limit)
        views = list(self.shelves)
        todo = [k for siblings in _by_prompt(missing) for k in siblings]
        fresh: dict[View, dict[str, np.ndarray]] = {view: {} for view in views}
        with tqdm(total=len(todo), desc="features", unit="completion", disable=len(todo) < 8) as bar:
            for start in range(0, len(todo), KEPT_AT):  # so that an interrupted run keeps what it has
                part = todo[start : start + KEPT_AT]
                rows = self.backbone.compute_views([missing[k] for k in part], views, bar)
                for j, view in enumerate(views):
                    fresh[view] |= zip(part, rows[:, j])
                    if keep:
                        self.shelves[view].write(part, np.ascontiguousarray(rows[:, j]))
        found = {view: self._picked(keys, fresh[view], shelf) for view, shelf in self.shelves.items()}
        if keep:
            for shelf in self.shelves.values():
                shelf.used(keys)
        if keep and todo:
            trim(self.root, self.most_gb * 1e9)
        return found

    def _picked(self, keys: list[str], fresh: dict[str, np.ndarray], shelf: Shelf) -> np.ndarray:
        rows = [fresh[k] if k in fresh else shelf[k] for k in keys]
        return np.stack(rows) if rows else np.empty((0, self.backbone.width), np.float32)


class Shelf:
    """Rows on disk by key: a folder of safetensors shards, each written whole and never changed.

    Shards are memory-mapped, and shared by processes (two that compute the same row write it twice, harmlessly).
    """

    MERGE_AT = 64  # small shards; more are merged into one
    SMALL = 16 * 2**20  # bytes

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, tuple[Path, int]] = {}
        self._mapped: dict[Path, Any] = {}  # shard → its rows, read from the map one at a time

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> np.ndarray:
        shard, i = self._rows[key]
        return self._mapped[shard][i : i + 1][0]

    def look(self) -> None:
        """Take in what others have written since."""
        for shard in sorted(self.folder.glob("*.safetensors")):
            if shard in self._mapped:
                continue
            try:
                self._take(shard)
            except FileNotFoundError:  # another process has merged it since: look at what it made of it
                return self.look()

    def write(self, keys: list[str], rows: np.ndarray) -> None:
        """Keep rows (n, width)."""
        self._write_shard(keys, rows)
        small = [shard for shard in self.folder.glob("*.safetensors") if _size(shard) < self.SMALL]
        if len(small) > self.MERGE_AT:
            self.look()
            everything = [key for key, (shard, _) in self._rows.items() if shard in small]
            if everything:  # else others have merged them meanwhile
                self._write_shard(everything, np.stack([self[key] for key in everything]))
            for path in small:
                self._mapped.pop(path, None)
                path.unlink(missing_ok=True)

    def used(self, keys: Iterable[str]) -> None:
        """Note on the shards that have these rows that they were of use: what is not is the first to go."""
        for shard in {self._rows[key][0] for key in keys if key in self._rows}:
            with suppress(FileNotFoundError):
                os.utime(shard)

    def _write_shard(self, keys: list[str], rows: np.ndarray) -> None:
        shard = self.folder / f"{uuid.uuid4().hex}.safetensors"
        draft = shard.with_suffix(".writing")
        save_file({"features": rows}, draft, metadata={"keys": json.dumps(keys)})
        self._take(shard, draft)  # before others see it, who may merge it at once
        os.replace(draft, shard)

    def _take(self, shard: Path, file: Path | None = None) -> None:
        opened = safe_open(file or shard, framework="numpy")  # stays readable after the file is gone
        self._mapped[shard] = opened.get_slice("features")
        self._rows |= {key: (shard, i) for i, key in enumerate(json.loads(opened.metadata()["keys"]))}


def trim(root: Path, most_bytes: float) -> None:
    """Remove the shards under a folder that were of no use for longest, until no more than so many bytes are left."""
    found = sorted((path.stat().st_mtime, path) for path in root.glob("*/*.safetensors") if path.exists())
    total = sum(_size(path) for _, path in found)
    for _, path in found:
        if total <= most_bytes:
            return
        total -= _size(path)
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Bytes; 0 of a file that another process has removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


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


def has_segments(renderer: Renderer, config: Any) -> bool:
    """Whether a model is told which tokens are the completion's, as BERT is (`token_type_ids`)."""
    return renderer.reads_pairs and (getattr(config, "type_vocab_size", 0) or 0) > 1


def score_head(model: torch.nn.Module) -> tuple[str, torch.nn.Linear]:
    """The last linear map of a sequence classifier and its name: `score` of decoders, `classifier` and the like of
    encoders.

    Raises:
        BadInput: there is none with one output.
    """
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1]
    if not linear:
        raise BadInput(
            f"{type(model).__name__}", expected="a last linear layer with one output", fix="take another architecture"
        )
    return linear[-1]


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


def _by_prompt(rendered: Mapping[K, Rendered]) -> list[list[K]]:
    """Keys of those that share their prompt, in the order in which the prompts come."""
    siblings: dict[tuple[int, ...], list[K]] = {}
    for key, r in rendered.items():
        siblings.setdefault(r.ids[: r.start], []).append(key)
    return list(siblings.values())


def _woods(rendered: Sequence[Rendered], budget: int) -> list[list[list[int]]]:
    """Batches of trees of conversations, of at most `budget` tokens (or one conversation), the longest first."""
    trees: list[tuple[int, list[int]]] = []
    for siblings in _by_prompt(dict(enumerate(rendered))):
        tokens = budget
        for i in siblings:
            own = len(rendered[i].ids) - rendered[i].start
            if tokens + own > budget:  # the prompt begins a tree
                tokens = rendered[i].start
                trees.append((0, []))
            tokens += own
            trees[-1] = tokens, [*trees[-1][1], i]
    out: list[list[list[int]]] = []
    room = 0
    for tokens, conversations in sorted(trees, key=lambda t: -t[0]):
        if tokens > room:
            out.append([])
            room = budget
        out[-1].append(conversations)
        room -= tokens
    return out


def _dtype(name: str) -> torch.dtype:
    if name == "auto":
        return best_dtype(best_device())
    if name not in ("float32", "bfloat16", "float16"):
        raise BadInput(f"dtype {name!r}", expected="auto, float32, bfloat16 or float16", fix="choose one of these")
    return getattr(torch, name)


def _positions(config) -> int:
    return getattr(config, "max_position_embeddings", None) or 1_000_000


def _views(name: str, layer: int | None, pooling: str | None, depth: int) -> tuple[View, ...]:
    if layer is None:
        layers = sorted({max(1, round(depth * share)) for share in (1 / 2, 2 / 3, 5 / 6)})
    else:
        layers = [layer if layer > 0 else depth + 1 + layer]
    if not 0 < layers[0] <= depth:
        raise BadInput(f"layer {layer}", expected=f"1 to {depth} for {name}", fix="choose a layer the model has")
    if pooling is not None and pooling not in (*POOLINGS, SCORE):
        raise BadInput(f"pooling {pooling!r}", expected=" or ".join(POOLINGS), fix="choose one of these")
    return tuple(View(at, how) for at in layers for how in (POOLINGS if pooling is None else (pooling,)))


def _digest_of_weights(path: Path) -> str:
    """Of every byte of them: a model of which only some layers were tuned is another."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("model*.safetensors")):
        with file.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()
