"""Run a decoder of Llama's kind on a CPU in fewer and larger steps than the library that defines it.

The library's modules are general: they convert, copy and mask for every case, and on a CPU that takes longer than the
products of matrices. Here a batch of prompt trees is one row of tokens; what all of its conversations begin with (the
system prompt, mostly) is computed once; attention is one call for each block of a tree, with keys in the multiples that
its kernel is fast at. The weights are the model's own, and so are the states, up to rounding: `fuse_decoder` tries.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from rlhf_hitl.reward.shared_prefix import count_common_tokens

log = logging.getLogger(__name__)

#: Decoders that are pre-normalised, rotate queries and keys, and have a gated MLP; what differs is looked up.
ARCHITECTURES = ("LlamaModel", "MistralModel", "Qwen2Model")
#: Angles that depend on a token's position alone; others depend on the longest conversation.
ROTATIONS = ("default", "linear", "llama3")
#: Queries of one call of attention. Shorter blocks compute less that is masked, longer ones are fewer.
BLOCK = 256
#: Tokens that pass an MLP together: its intermediate states stay in the cache of a core.
ROWS = 512
#: The number of keys is rounded up to a multiple of this: others take the kernel half as long again.
KEY_MULTIPLE = 32


@dataclass(frozen=True)
class AttentionBlock:
    """Queries that attend together: tokens [start, end) of the row, to keys [key_start, key_end) of the gathered ones.

    `mask` is (1, 1, queries, keys), 0 where a query attends and -inf elsewhere.
    """

    start: int
    end: int
    key_start: int
    key_end: int
    mask: torch.Tensor


@dataclass(frozen=True)
class Forest:
    """A batch of prompt trees in one row, after the beginning that they have in common.

    Attributes:
        ids, positions: (tokens,).
        keys: (keys,), the token that each key of the blocks is of; a block's keys stand side by side.
        paths: by conversation, the indices of its tokens in the row.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    keys: torch.Tensor
    blocks: tuple[AttentionBlock, ...]
    paths: list[torch.Tensor]


def plant_forest(trees: Sequence[Sequence[Sequence[int]]], dtype: torch.dtype) -> Forest:
    """Pack trees, each given as the token ids of its conversations, for attention in `dtype`."""
    root = count_common_tokens([conversation for tree in trees for conversation in tree])
    ids, positions = list(trees[0][0][:root]), list(range(root))
    blocks, keys = _Blocks(dtype), list(range(root))
    if root:
        blocks.add([], [_Part(0, 0, root)])
    paths: list[torch.Tensor] = []
    for tree in trees:
        trunk = count_common_tokens(tree) if len(tree) > 1 else root
        parts = []
        for conversation, begin, end in ((tree[0], root, trunk), *((c, trunk, len(c)) for c in tree)):
            parts.append(_Part(len(ids), begin, end))
            ids += conversation[begin:end]
            positions += range(begin, end)
        stem = [*keys, *parts[0].tokens]
        paths += [torch.tensor([*stem, *branch.tokens]) for branch in parts[1:]]
        blocks.add(keys, parts)
    return Forest(torch.tensor(ids), torch.tensor(positions), torch.tensor(blocks.keys), tuple(blocks.made), paths)


@dataclass(frozen=True)
class _Part:
    """A trunk or a branch: tokens of the row from `first` on, at positions [begin, end)."""

    first: int
    begin: int
    end: int

    @property
    def tokens(self) -> range:
        return range(self.first, self.first + self.end - self.begin)


class _Blocks:
    """The blocks of a forest, as its trees are added."""

    def __init__(self, dtype: torch.dtype):
        self._dtype = dtype
        self.made: list[AttentionBlock] = []
        self.keys: list[int] = []

    def add(self, root: list[int], parts: Sequence[_Part]) -> None:
        """Add a tree: its trunk, which may be empty, then its branches. Short parts share a block."""
        trunk, group = parts[0], list[_Part]()
        for part in parts:
            if group and sum(len(p.tokens) for p in group) + len(part.tokens) > BLOCK:
                self._add_group(root, trunk, group)
                group = []
            group.append(part)
        self._add_group(root, trunk, group)

    def _add_group(self, root: list[int], trunk: _Part, group: Sequence[_Part]) -> None:
        """Add the block of some parts, or the blocks of a long one. All see the root, the trunk and themselves."""
        seen = [*root] if group[0] is trunk else [*root, *trunk.tokens]
        own = [token for part in group for token in part.tokens]
        if not own:
            return
        part_of = torch.tensor(
            [-1] * len(seen) + [-1 if p is trunk else i for i, p in enumerate(group) for _ in p.tokens]
        )
        position = torch.tensor([*range(len(seen)), *(at for p in group for at in range(p.begin, p.end))])
        start = len(self.keys)
        self.keys += seen + own
        self.keys += [0] * (-len(self.keys) % KEY_MULTIPLE)
        for first in range(0, len(own), BLOCK):
            last = min(first + BLOCK, len(own))
            n = len(seen) + last
            padded = n + -n % KEY_MULTIPLE
            queries = slice(len(seen) + first, n)
            attends = (position[:n] <= position[queries, None]) & (
                (part_of[:n] == -1) | (part_of[:n] == part_of[queries, None])
            )
            mask = torch.full((1, 1, last - first, padded), -torch.inf, dtype=self._dtype)
            mask[0, 0, :, :n].masked_fill_(attends, 0)
            self.made.append(AttentionBlock(own[first], own[last - 1] + 1, start, start + padded, mask))


def fuse_decoder(model: Any) -> FusedDecoder | None:
    """Return a decoder that computes what `model` computes (one that `shared_prefix.supports_trees`, on a CPU).

    Its architecture is looked up, and it is tried out: a forest of a few tokens has to give the states that its
    conversations give in the model, in the mean of the tokens: in bfloat16 single ones of a deep model deviate by a
    tenth whenever sums are taken in another order. None, with the reason logged, where it is not one of these.
    """
    try:
        reason = _find_obstacle(model)
        decoder = None if reason else FusedDecoder(model)
        if decoder is not None:
            reason = _find_deviation(model, decoder)
    except (AttributeError, TypeError, ValueError, RuntimeError) as e:
        decoder, reason = None, f"{type(e).__name__}: {e}"
    if reason:
        log.info("the model runs as its library defines it: %s", reason)
        return None
    return decoder


def _find_obstacle(model: Any) -> str | None:
    if type(model).__name__ not in ARCHITECTURES:
        return f"{type(model).__name__} is none of {', '.join(ARCHITECTURES)}"
    if model.config.hidden_act != "silu":
        return f"its activation is {model.config.hidden_act}"
    if model.rotary_emb.rope_type not in ROTATIONS:
        return f"its positions are of type {model.rotary_emb.rope_type}"
    return None


@torch.inference_mode()
def _find_deviation(model: Any, decoder: FusedDecoder) -> str | None:
    vocabulary = model.config.vocab_size
    ids = [(i * 7919 + 11) % vocabulary for i in range(30)]
    trees = [[ids[:9], ids[:6] + ids[9:14]], [ids[:4] + ids[14:]]]
    forest = plant_forest(trees, model.dtype)
    last = len(model.layers)
    states = decoder.run(forest, {last})[last]
    for path in forest.paths:
        alone = model(forest.ids[path][None], use_cache=False).last_hidden_state[0]
        deviation = (states[path] - alone).float().norm(dim=-1) / alone.float().norm(dim=-1)
        if not deviation.mean() < torch.finfo(alone.dtype).eps ** 0.5:  # half of the digits
            return f"fused it gives other states (by {deviation.mean():.1%})"
    return None


class FusedDecoder:
    """The layers of a decoder of one of ARCHITECTURES. Use `fuse_decoder`, which checks that it is one."""

    def __init__(self, model: Any):
        self._model = model
        self._layers = [_Layer(layer, model.config) for layer in model.layers]

    @property
    def depth(self) -> int:
        return len(self._layers)

    @torch.inference_mode()
    def run(self, forest: Forest, layers: set[int]) -> dict[int, torch.Tensor]:
        """Return the states (tokens, width) after each of some layers, counted from 1; the last one's are normed where
        the model norms them."""
        states = self._model.embed_tokens(forest.ids)
        cos, sin = (x[0, :, None] for x in self._model.rotary_emb(states[None], forest.positions[None]))
        half = cos.shape[-1] // 2
        rotation = cos[..., :half].contiguous(), sin[..., :half].contiguous()
        kept = {0: states} if 0 in layers else {}
        for i, layer in enumerate(self._layers, 1):
            states = layer.run(states, forest, rotation)
            if i in layers:
                kept[i] = self._model.norm(states) if i == len(self._layers) else states
        return kept


class _Layer:
    def __init__(self, layer: Any, config: Any):
        attention, mlp = layer.self_attn, layer.mlp
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        bias = torch.cat([p.bias for p in projections]) if attention.q_proj.bias is not None else None
        self._in_weight, self._in_bias = torch.cat([p.weight.detach() for p in projections]), bias
        # The model's own are parts of the joined one, so that none is in memory twice.
        for projection, part in zip(projections, self._in_weight.split([len(p.weight) for p in projections])):
            projection.weight = torch.nn.Parameter(part, requires_grad=False)
        self._out, self._gate, self._up, self._down = attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self._norms = layer.input_layernorm, layer.post_attention_layernorm
        self._epsilon = config.rms_norm_eps
        self._head_size = attention.head_dim
        self._heads = attention.q_proj.out_features // self._head_size
        self._key_heads = attention.k_proj.out_features // self._head_size
        self._scale = attention.scaling

    def run(self, states: torch.Tensor, forest: Forest, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        states = states + self._attend(self._normalise(states, 0), forest, rotation)
        for part in states.split(ROWS):
            x = self._normalise(part, 1)
            gated = silu(self._gate(x), inplace=True)
            gated *= self._up(x)
            part += self._down(gated)
        return states

    def _normalise(self, states: torch.Tensor, which: int) -> torch.Tensor:
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32)
        scale = (length.square() / states.shape[-1] + self._epsilon).rsqrt_()
        return (states * scale.to(states.dtype)).mul_(self._norms[which].weight)

    def _attend(self, x: torch.Tensor, forest: Forest, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        projected = linear(x, self._in_weight, self._in_bias).view(len(x), -1, self._head_size)
        rotated = self._heads + self._key_heads
        rotate(projected[:, :rotated], *rotation)
        queries = projected[:, : self._heads].transpose(0, 1)[None]
        gathered = projected[:, self._heads :].index_select(0, forest.keys).transpose(0, 1)[None]
        keys, values = gathered.split(self._key_heads, dim=1)
        outputs = [
            scaled_dot_product_attention(
                queries[:, :, b.start : b.end],
                keys[:, :, b.key_start : b.key_end],
                values[:, :, b.key_start : b.key_end],
                attn_mask=b.mask,
                scale=self._scale,
                enable_gqa=self._heads != self._key_heads,
            )[0].transpose(0, 1)
            for b in forest.blocks
        ]
        return self._out(torch.cat(outputs).flatten(1))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate heads (tokens, heads, d) in place by angles whose cosines and sines are (tokens, 1, d / 2)."""
    first, second = x.chunk(2, dim=-1)
    new_first = first * cos
    new_first.addcmul_(second, sin, value=-1)
    second.mul_(cos).addcmul_(first, sin)
    first.copy_(new_first)
