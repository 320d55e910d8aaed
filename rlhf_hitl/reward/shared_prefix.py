"""Compute the prompt that several completions share only once, by packing conversations into trees.

The two sides of a pair, or K completions, share their prompt. A tree holds the prompt once (its trunk), followed by
each completion (its branches). A branch has the positions that it has in a conversation of its own, and attends to the
trunk and itself, not to its siblings. Trees follow each other in one row without padding and do not attend to each
other. So a pair costs only the tokens it has, and its states are those of each conversation alone, up to rounding.

Only attention has to know of trees. With SDPA each trunk and branch is a call of its own (nothing that is masked is
computed); with FlexAttention there is one block mask for the whole row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

log = logging.getLogger(__name__)

SDPA_OF_TREES = "sdpa_of_trees"  # the name under which transformers knows `attend_within_trees`
FLEX = "flex_attention"

#: The sizes of a tree in tokens: its trunk, which may be 0, and each of its branches, 1 or more.
TreeSizes = tuple[int, ...]


@dataclass(frozen=True)
class PackedTrees:
    """A row of trees, one after the other. `ids` and `positions` are (1, tokens)."""

    ids: torch.Tensor
    positions: torch.Tensor
    trees: tuple[TreeSizes, ...]

    def paths(self) -> list[torch.Tensor]:
        """Return the indices of each conversation's tokens in the row, tree by tree."""
        return [
            torch.cat([torch.arange(*trunk), torch.arange(*branch)]) for trunk, branch in _iterate_spans(self.trees)
        ]


def measure_tree(conversations: Sequence[Sequence[int]]) -> TreeSizes:
    """Return the sizes of the tree of some conversations, each given as its token ids.

    The trunk is their common beginning: usually the prompt, more where completions open with the same words, nothing
    where a prompt was cut on one side only. Every conversation keeps its last token in its own branch.
    """
    trunk = count_common_tokens(conversations) if len(conversations) > 1 else 0
    return (trunk, *(len(ids) - trunk for ids in conversations))


def count_common_tokens(conversations: Sequence[Sequence[int]]) -> int:
    """Return with how many tokens all conversations begin; each keeps its last one for itself."""
    common = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*conversations)))
    return min(common, *(len(ids) - 1 for ids in conversations))


def pack_trees(trees: Sequence[Sequence[Sequence[int]]]) -> PackedTrees:
    """Pack trees into one row, each tree given as the token ids of its conversations."""
    ids: list[int] = []
    positions: list[int] = []
    shapes = tuple(measure_tree(conversations) for conversations in trees)
    for conversations, (trunk, *_) in zip(trees, shapes):
        ids += conversations[0][:trunk]
        positions += range(trunk)
        for conversation in conversations:
            ids += conversation[trunk:]
            positions += range(trunk, len(conversation))
    return PackedTrees(torch.tensor([ids]), torch.tensor([positions]), shapes)


def find_last_tokens(trees: Sequence[TreeSizes]) -> torch.Tensor:
    """Return the index of each conversation's last token in the row."""
    return torch.tensor([last - 1 for _, (_, last) in _iterate_spans(trees)])


def build_model_inputs(
    model: Any, ids: torch.Tensor, positions: torch.Tensor, trees: Sequence[TreeSizes]
) -> dict[str, Any]:
    """Return the keyword arguments for a model that `supports_trees`, on the device of `ids`."""
    inputs = {"input_ids": ids, "position_ids": positions, "use_cache": False}
    if model.config._attn_implementation == FLEX:
        return inputs | {"attention_mask": build_block_mask(trees, ids.device)}
    # transformers passes a mask of four dimensions on unchanged; without one it would build a mask of its own.
    return inputs | {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device), "trees": trees}


def attend_within_trees(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    trees: Sequence[TreeSizes] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' SDPA does, or within `trees` where the model was called with some.

    Args:
        query, key, value: (1, heads, tokens, d).

    Raises:
        ValueError: attention within trees with a soft cap, a position bias or attention sinks.
    """
    if trees is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if unknown := [name for name in ("softcap", "position_bias", "s_aux") if kwargs.get(name) is not None]:
        raise ValueError(f"attention within trees with {unknown}: only plain attention is supported")
    groups = getattr(module, "num_key_value_groups", 1)
    # Under autocast rotated queries and keys are float32. Plain SDPA is autocast to the values' type, this is not.
    query, key, value = query.to(value.dtype), repeat_kv(key.to(value.dtype), groups), repeat_kv(value, groups)
    options = {"scale": scaling, "dropout_p": dropout}
    # Split rather than sliced: the gradient of a slice is as long as the row.
    parts = zip(*(x.split([size for parts in trees for size in parts], dim=2) for x in (query, key, value)))
    outputs: list[torch.Tensor] = []
    for trunk, *branches in trees:
        q, trunk_k, trunk_v = next(parts)
        if trunk:
            outputs.append(scaled_dot_product_attention(q, trunk_k, trunk_v, is_causal=True, **options))
        for size in branches:
            q, k, v = next(parts)
            k, v = torch.cat([trunk_k, k], dim=2), torch.cat([trunk_v, v], dim=2)
            mask: Any = causal_lower_right(size, trunk + size)
            outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, **options))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def build_block_mask(trees: Sequence[TreeSizes], device: torch.device) -> BlockMask:
    """Return FlexAttention's mask of a row of trees: which token attends to which."""
    tree = torch.tensor([i for i, parts in enumerate(trees) for _ in range(sum(parts))], device=device)
    part = torch.tensor([i for parts in trees for i, size in enumerate(parts) for _ in range(size)], device=device)

    def attends(_batch, _head, q, k):
        return (tree[q] == tree[k]) & ((part[k] == 0) | (part[k] == part[q])) & (k <= q)

    return create_block_mask(attends, None, None, len(tree), len(tree), device=str(device), _compile=True)


def supports_trees(model: Any) -> bool:
    """Whether a decoder (without its head) can be called with trees. Where it uses SDPA, its attention is replaced by
    `attend_within_trees`.

    Its configuration is checked, and it is tried out: a tree of a few tokens has to give the states that its
    conversations give. So an encoder, a model with its own token positions, or one that ignores masks runs without
    trees, which is logged.
    """
    reason = _find_obstacle(model) or _find_deviation(model)
    if reason:
        log.info("prompts are computed once for each completion: %s", reason)
    return not reason


def _find_obstacle(model: Any) -> str | None:
    """Return what in a model's configuration rules out trees; None if nothing does."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"} or any(
        getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")
    ):
        return "attention over windows"
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        return "attention in both directions"
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(SDPA_OF_TREES, attend_within_trees)
        AttentionMaskInterface.register(SDPA_OF_TREES, sdpa_mask)
        model.set_attn_implementation(SDPA_OF_TREES)
    if (implementation := model.config._attn_implementation) not in (SDPA_OF_TREES, FLEX):
        return f"its attention is {implementation}"
    return None


@torch.no_grad()
def _find_deviation(model: Any) -> str | None:
    """Return how the states of a tree of 14 tokens deviate from those of its two conversations; None if only by
    rounding."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = [(i * 7919 + 11) % vocabulary for i in range(14)]
    conversations = [ids[:9], ids[:6] + ids[9:]]
    packed = pack_trees([conversations])
    training = model.training
    model.eval()
    try:
        inputs = build_model_inputs(model, packed.ids.to(model.device), packed.positions.to(model.device), packed.trees)
        in_tree = model(**inputs).last_hidden_state[0]
        for conversation, path in zip(conversations, packed.paths()):
            alone = model(torch.tensor([conversation], device=model.device), use_cache=False).last_hidden_state[0]
            deviation = (in_tree[path.to(model.device)] - alone).float().norm(dim=-1) / alone.float().norm(dim=-1)
            if not (deviation < torch.finfo(alone.dtype).eps ** 0.5).all():  # half of the digits
                return f"a tree of them gives other states (by {deviation.max():.1%})"
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, NotImplementedError) as e:
        return f"a tree of them cannot be computed ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''})"
    finally:
        model.train(training)
    return None


def _iterate_spans(trees: Sequence[TreeSizes]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield the spans (first, last + 1) of the trunk and the branch of each conversation."""
    at = 0
    for trunk, *branches in trees:
        trunk_span, at = (at, at + trunk), at + trunk
        for size in branches:
            yield trunk_span, (at, at + size)
            at += size
