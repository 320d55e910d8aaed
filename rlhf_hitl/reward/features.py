"""Hidden states of a frozen backbone, computed once per conversation and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import DRAFT_SUFFIX, atomic_file
from rlhf_hitl.models import best_device, best_dtype, load_config, load_model, load_tokenizer, local_folder
from rlhf_hitl.reward import shared_prefix
from rlhf_hitl.reward.batches import neighbours
from rlhf_hitl.reward.rendering import Conversation, Rendered, Renderer

log = logging.getLogger(__name__)

KEPT_AT = 32  # conversations computed between two writes to disk
GIVEN_UP = 3600  # seconds after which a half-written shard has no writer any more

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
        layer: number of transformer layers to run, or a negative number counted from the last; or several of them. All
            layers also take the final norm, as a sequence classifier does.
        pooling: one of POOLINGS or several; `score` for a sequence classifier, which has its last layer's view only.
        dtype: "auto" takes bfloat16 where the hardware multiplies it natively and float32 elsewhere.

    Every layer in every pooling is a view, and the features are those of all views, side by side. With no `layer` it
    is read at half, two thirds and five sixths of the layers: between them lies what a frozen decoder's states say of
    preferences best. With no `pooling`, in each.

    Features come out in float32 and do not depend on the batch, to rounding: a prompt of several conversations is
    computed once where the model takes trees, else each runs alone on a CPU (batching gains nothing there) and with its
    padding masked on a GPU.
    """

    def __init__(
        self,
        name: str,
        *,
        layer: int | Sequence[int] | None = None,
        pooling: str | Sequence[str] | None = None,
        max_length: int = 1024,
        dtype: str = "auto",
    ):
        from transformers import AutoModel, AutoModelForSequenceClassification

        self.name = name
        path = whole_model(name)
        config = load_config(path)
        depth = config.num_hidden_layers
        self.layers, self.poolings = _layers(name, layer, depth), _poolings(pooling)
        self.views = tuple(View(at, how) for at in self.layers for how in self.poolings)
        last = max(self.layers)
        self.device = torch.device(best_device())
        self.dtype = _dtype(dtype)
        of_score = self.poolings == (SCORE,)
        with quiet_loading():
            model = load_model(AutoModelForSequenceClassification if of_score else AutoModel, path, dtype=self.dtype)
        self.renderer = Renderer(load_tokenizer(path, chats=False), min(max_length, most_tokens(model)))
        self._model = model.to(self.device).eval()
        self._read_by_score: list[torch.Tensor] = []
        if of_score:
            score_head(self._model)[1].register_forward_pre_hook(lambda _, read: self._read_by_score.append(read[0]))
        self._segments = has_segments(self.renderer, config)
        cut = last < depth and hasattr(self._model, "layers")
        if cut:  # later layers are not needed: do not run them
            self._model.layers = self._model.layers[:last]
            self._model.norm = torch.nn.Identity()
        self._last = last if cut or last == depth else None  # the layer whose states the model returns
        self.takes_trees = not of_score and shared_prefix.takes_trees(self._model)
        # Tokens at once. A CPU gains nothing by rows beside each other, and a little by long ones.
        self.budget = 16_384 if self.device.type != "cpu" else 2048 if self.takes_trees else 1
        self.width = config.hidden_size * len(self.views)
        self._digest = _digest(path)

    @property
    def fingerprint(self) -> str:
        """Names all that the features of a conversation depend on: the model, its precision, the views, the rendering
        of chats and where they are cut."""
        rendering = f"{self.renderer.max_length}:{self.renderer.template}"
        views = ":".join(map(self.fingerprint_of, self.views))
        return hashlib.sha256(f"{views}:{rendering}".encode()).hexdigest()[:20]

    def fingerprint_of(self, view: View) -> str:
        """Names what the features of given tokens in one view depend on."""
        return hashlib.sha256(f"{view}:{self.dtype}:{self._digest}".encode()).hexdigest()[:20]

    @property
    def settings(self) -> dict:
        """What is needed to make the same backbone again."""
        return {
            "name": self.name,
            "layer": list(self.layers),
            "pooling": list(self.poolings),
            "max_length": self.renderer.max_length,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def compute(self, rendered: Sequence[Rendered], bar: tqdm | None = None) -> np.ndarray:
        """(n, views, width of one) float32 features, a row a conversation; `bar` is moved on by one for each."""
        views = self.views
        out = np.empty((len(rendered), len(views), self.width // len(views)), dtype=np.float32)
        for batch, states in self._states(rendered, set(self.layers)):
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
                row = shared_prefix.lay([[rendered[i].ids for i in each] for each in trees])
                arguments = shared_prefix.arguments(
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
        self.shelves = [FeatureStore(folder / backbone.fingerprint_of(view)) for view in backbone.views]
        # Keys of conversations that lost prompt or completion tokens, over this cache's life, on disk or not.
        self._dropped: set[str] = set()
        self._cut: set[str] = set()
        self._one_at_a_time = threading.Lock()  # a server asks from several threads

    @property
    def dropped(self) -> int:
        """Conversations met so far that lost tokens of their prompt."""
        return len(self._dropped)

    @property
    def cut(self) -> int:
        """Conversations met so far whose completion lost tokens."""
        return len(self._cut)

    def features(self, conversations: Sequence[Conversation], *, keep: bool = True) -> np.ndarray:
        """(n, width) float32. What is not on disk is computed, in one pass for all views, and written with `keep`."""
        with self._one_at_a_time:
            return self._features(conversations, keep)

    def _features(self, conversations: Sequence[Conversation], keep: bool) -> np.ndarray:
        rendered = [self.backbone.renderer.render(c) for c in conversations]
        keys = [hashlib.sha256(np.array([r.start, *r.ids]).tobytes()).hexdigest()[:32] for r in rendered]
        for shelf in self.shelves:
            shelf.look()
        missing = {k: r for k, r in zip(keys, rendered) if not all(k in shelf for shelf in self.shelves)}
        self._dropped |= {k for k, r in zip(keys, rendered) if r.dropped}
        self._cut |= {k for k, r in zip(keys, rendered) if r.cut}
        if any(r.dropped or r.cut for r in missing.values()):
            limit = self.backbone.renderer.max_length
            log.info("%d prompts and %d completions cut to %d tokens", self.dropped, self.cut, limit)
        out = np.empty((len(keys), len(self.shelves), self.backbone.width // len(self.shelves)), np.float32)
        for row, key in zip(out, keys):
            if key not in missing:  # read at once: while the others are computed, another process may make room
                row[:] = [shelf[key] for shelf in self.shelves]
        todo = [k for siblings in _by_prompt(missing) for k in siblings]
        fresh: dict[str, np.ndarray] = {}
        with tqdm(total=len(todo), desc="features", unit="completion", disable=len(todo) < 8) as bar:
            for start in range(0, len(todo), KEPT_AT):  # so that an interrupted run keeps what it has
                part = todo[start : start + KEPT_AT]
                rows = self.backbone.compute([missing[k] for k in part], bar)
                fresh |= zip(part, rows)
                for j, shelf in enumerate(self.shelves if keep else []):
                    shelf.write(part, np.ascontiguousarray(rows[:, j]))
        for row, key in zip(out, keys):
            if key in fresh:
                row[:] = fresh[key]
        if keep:
            for shelf in self.shelves:
                shelf.used(keys)
            if todo:
                trim(self.root, self.most_gb * 1e9)
        return out.reshape(len(keys), self.backbone.width)


class FeatureStore:
    """Rows on disk by key: a folder of safetensors shards, each written whole and never changed.

    Shards are memory-mapped, and shared by processes (two that compute the same row write it twice, harmlessly).
    """

    MERGE_AT = 64  # small shards; more are merged into one
    SMALL = 16 * 2**20  # bytes

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, tuple[Path, int]] = {}  # key → one of the shards that have it, and where
        self._mapped: dict[Path, tuple[list[str], Any]] = {}  # shard → its keys, and its rows, read one at a time

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> np.ndarray:
        shard, i = self._rows[key]
        return self._mapped[shard][1][i : i + 1][0]

    def look(self) -> None:
        """Take in what others have written since, and let go of what is no longer on disk: the room is freed only then.

        A shard that cannot be read, of a disk that was full, is removed: what it held is computed again.
        """
        there = set(self.folder.glob("*.safetensors"))
        if gone := self._mapped.keys() - there:
            self._mapped = {shard: had for shard, had in self._mapped.items() if shard not in gone}
            # Anew: what a shard that is gone had may be in another, which was merged of it.
            self._rows = {key: (shard, i) for shard, (keys, _) in self._mapped.items() for i, key in enumerate(keys)}
        for shard in sorted(there - self._mapped.keys()):
            try:
                self._take(shard)
            except FileNotFoundError:  # another process has merged it since: look at what it made of it
                return self.look()
            except (SafetensorError, KeyError, TypeError, ValueError) as e:
                log.warning("%s is damaged (%s) and was removed: its features are computed again", shard, e)
                shard.unlink(missing_ok=True)

    def write(self, keys: list[str], rows: np.ndarray) -> None:
        """Keep rows (n, width)."""
        self._write_shard(keys, rows)
        small = [shard for shard in self.folder.glob("*.safetensors") if _size(shard) < self.SMALL]
        if len(small) > self.MERGE_AT:
            self.look()
            # Of each shard what itself has, as only then it may go: another process may be about to remove another that
            # has the same.
            merged = {shard: self._mapped[shard] for shard in small if shard in self._mapped}
            everything = {key: rows[i : i + 1][0] for keys, rows in merged.values() for i, key in enumerate(keys)}
            if everything:  # else others have merged them meanwhile
                self._write_shard(list(everything), np.stack(list(everything.values())))
            for path in merged:
                del self._mapped[path]
                path.unlink(missing_ok=True)

    def used(self, keys: Iterable[str]) -> None:
        """Note on the shards that have these rows that they were of use: what is not is the first to go."""
        for shard in {self._rows[key][0] for key in keys if key in self._rows}:
            with suppress(FileNotFoundError):
                os.utime(shard)

    def _write_shard(self, keys: list[str], rows: np.ndarray) -> None:
        shard = self.folder / f"{uuid.uuid4().hex}.safetensors"
        with atomic_file(shard) as draft:
            save_file({"features": rows}, draft, metadata={"keys": json.dumps(keys)})
            self._take(shard, draft)  # before others see it, who may merge it at once

    def _take(self, shard: Path, file: Path | None = None) -> None:
        opened = safe_open(file or shard, framework="numpy")  # stays readable after the file is gone
        keys, rows = json.loads(opened.metadata()["keys"]), opened.get_slice("features")
        self._mapped[shard] = keys, rows
        self._rows |= {key: (shard, i) for i, key in enumerate(keys)}


def trim(root: Path, most_bytes: float) -> None:
    """Remove the shards under a folder that were of no use for longest, until no more than so many bytes are left; and
    what writers left half-written that are gone."""
    for draft in root.glob(f"*/*{DRAFT_SUFFIX}"):
        with suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime > GIVEN_UP:
                draft.unlink()
    found = []
    for path in root.glob("*/*.safetensors"):
        with suppress(FileNotFoundError):  # another process has removed it
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most_bytes:
            return
        total -= size
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


def most_tokens(model: Any) -> int:
    """How many tokens a model has positions for. RoBERTa and its kin count theirs from after the padding's."""
    learnt = [m for n, m in model.named_modules() if n.endswith("position_embeddings") and hasattr(m, "num_embeddings")]
    told = getattr(model.config, "max_position_embeddings", None) or 1_000_000
    return min([told, *(m.num_embeddings - (0 if m.padding_idx is None else m.padding_idx + 1) for m in learnt)])


def _layers(name: str, layer: int | Sequence[int] | None, depth: int) -> tuple[int, ...]:
    if layer is None:
        return tuple(sorted({max(1, round(depth * share)) for share in (1 / 2, 2 / 3, 5 / 6)}))
    asked = [layer] if isinstance(layer, int) else layer
    found = tuple(at if at > 0 else depth + 1 + at for at in asked)
    if not found or not all(0 < at <= depth for at in found):
        raise BadInput(f"layer {layer}", expected=f"1 to {depth} for {name}", fix="choose a layer the model has")
    return found


def _poolings(pooling: str | Sequence[str] | None) -> tuple[str, ...]:
    found = POOLINGS if pooling is None else (pooling,) if isinstance(pooling, str) else tuple(pooling)
    if found != (SCORE,) and not (found and set(found) <= set(POOLINGS)):
        raise BadInput(f"pooling {pooling!r}", expected=" or ".join(POOLINGS), fix="choose one of these")
    return found


def _digest(path: Path) -> str:
    """Of every byte of the weights (a model of which only some layers were tuned is another) and of the configuration,
    which says how they are put to use."""
    digest = hashlib.sha256((path / "config.json").read_bytes())
    for file in sorted(path.glob("model*.safetensors")):
        with file.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()
