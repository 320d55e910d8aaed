"""The tokens that conversations begin with alike, computed once.

The two sides of a pair, or K completions, share their prompt. As a tree it stands in a row once, each completion after
it, at the positions and with the sight it has in a conversation of its own: the prompt and itself, not its siblings.
Trees follow each other in a row without padding and do not see each other. So a pair costs the tokens it has, and what
comes out is what every conversation alone gives, to rounding.

Attention is what has to know. With SDPA each prompt and completion is a call of its own (varlen: nothing is computed
that is masked), with FlexAttention a block mask of the whole row.
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

SDPA = "sdpa_of_trees"  # transformers' name of `attention`
FLEX = "flex_attention"

#: The sizes of a tree, in tokens: of its trunk, which may be 0, and of each of its branches, 1 or more.
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """Trees after each other. `ids` and `positions` are (1, tokens)."""

    ids: torch.Tensor
    positions: torch.Tensor
    trees: tuple[Sizes, ...]

    def paths(self) -> list[torch.Tensor]:
        """Where in the row each conversation's tokens are, tree by tree."""
        return [torch.cat([torch.arange(*trunk), torch.arange(*branch)]) for trunk, branch in _spans(self.trees)]


def sizes(conversations: Sequence[Sequence[int]]) -> Sizes:
    """Of the tree of some conversations, which are token ids. Where they begin alike is the trunk: a prompt as a rule,
    more where completions open with the same words, nothing where a prompt was cut on one side only. Every one of them
    keeps its last token to itself."""
    trunk = 0
    if len(conversations) > 1:
        alike = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*conversations)))
        trunk = min(alike, *(len(ids) - 1 for ids in conversations))
    return (trunk, *(len(ids) - trunk for ids in conversations))


def lay(trees: Sequence[Sequence[Sequence[int]]]) -> Row:
    """The row of some trees, each given as its conversations."""
    ids: list[int] = []
    positions: list[int] = []
    shapes = tuple(sizes(conversations) for conversations in trees)
    for conversations, (trunk, *_) in zip(trees, shapes):
        ids += conversations[0][:trunk]
        positions += range(trunk)
        for conversation in conversations:
            ids += conversation[trunk:]
            positions += range(trunk, len(conversation))
    return Row(torch.tensor([ids]), torch.tensor([positions]), shapes)


def ends(trees: Sequence[Sizes]) -> torch.Tensor:
    """Where in the row each conversation's last token is."""
    return torch.tensor([last - 1 for _, (_, last) in _spans(trees)])


def arguments(model: Any, ids: torch.Tensor, positions: torch.Tensor, trees: Sequence[Sizes]) -> dict[str, Any]:
    """What to call a model with that `takes_trees`, on the device of `ids`."""
    given = {"input_ids": ids, "position_ids": positions, "use_cache": False}
    if model.config._attn_implementation == FLEX:
        return given | {"attention_mask": block_mask(trees, ids.device)}
    # A mask of four dimensions is passed on as it is; this one keeps transformers from making one of its own.
    return given | {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device), "trees": trees}


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    trees: Sequence[Sizes] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' SDPA attention, or of `trees` where the model was called with some. q, k, v: (1, heads, tokens, d).

    Raises:
        ValueError: scores that are capped, biased or sunk, of trees.
    """
    if trees is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if unknown := [name for name in ("softcap", "position_bias", "s_aux") if kwargs.get(name) is not None]:
        raise ValueError(f"attention of trees with {unknown}: known is plain attention only")
    groups = getattr(module, "num_key_value_groups", 1)
    # Under autocast rotated queries and keys come in float32; plain SDPA is autocast to the values' type, this is not.
    query, key, value = query.to(value.dtype), repeat_kv(key.to(value.dtype), groups), repeat_kv(value, groups)
    how = {"scale": scaling, "dropout_p": dropout}
    # Split, not sliced: the gradient of a slice is as long as the row.
    parts = zip(*(x.split([size for parts in trees for size in parts], dim=2) for x in (query, key, value)))
    seen: list[torch.Tensor] = []
    for trunk, *branches in trees:
        q, stem_k, stem_v = next(parts)
        if trunk:
            seen.append(scaled_dot_product_attention(q, stem_k, stem_v, is_causal=True, **how))
        for size in branches:
            q, k, v = next(parts)
            k, v = torch.cat([stem_k, k], dim=2), torch.cat([stem_v, v], dim=2)
            mask: Any = causal_lower_right(size, trunk + size)
            seen.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, **how))
    return torch.cat(seen, dim=2).transpose(1, 2).contiguous(), None


def block_mask(trees: Sequence[Sizes], device: torch.device) -> BlockMask:
    """FlexAttention's mask of a row: who sees whom."""
    tree = torch.tensor([i for i, parts in enumerate(trees) for _ in range(sum(parts))], device=device)
    part = torch.tensor([i for parts in trees for i, size in enumerate(parts) for _ in range(size)], device=device)

    def sees(_batch, _head, q, k):
        return (tree[q] == tree[k]) & ((part[k] == 0) | (part[k] == part[q])) & (k <= q)

    return create_block_mask(sees, None, None, len(tree), len(tree), device=str(device), _compile=True)


def takes_trees(model: Any) -> bool:
    """Whether a decoder (without its head) can be called with trees; where it is SDPA's, its attention is changed to.

    By its configuration, and by trial: a tree of a few tokens has to give the states that its conversations give. So an
    encoder, a model that places tokens in its own way, or one that ignores masks goes without, and it is logged.
    """
    why = _hindrance(model) or _difference(model)
    if why:
        log.info("prompts are computed once for each completion: %s", why)
    return not why


def _hindrance(model: Any) -> str | None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"} or any(
        getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")
    ):
        return "attention over windows"
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        return "attention in both directions"
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(SDPA, attention)
        AttentionMaskInterface.register(SDPA, sdpa_mask)
        model.set_attn_implementation(SDPA)
    if (found := model.config._attn_implementation) not in (SDPA, FLEX):
        return f"its attention is {found}"
    return None


@torch.no_grad()
def _difference(model: Any) -> str | None:
    """What a tree of 14 tokens does to the model that its two conversations do not; None where that is rounding."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = [(i * 7919 + 11) % vocabulary for i in range(14)]
    conversations = [ids[:9], ids[:6] + ids[9:]]
    row = lay([conversations])
    training = model.training
    model.eval()
    try:
        given = arguments(model, row.ids.to(model.device), row.positions.to(model.device), row.trees)
        together = model(**given).last_hidden_state[0]
        for conversation, path in zip(conversations, row.paths()):
            alone = model(torch.tensor([conversation], device=model.device), use_cache=False).last_hidden_state[0]
            off = (together[path.to(model.device)] - alone).float().norm(dim=-1) / alone.float().norm(dim=-1)
            if not (off < torch.finfo(alone.dtype).eps ** 0.5).all():  # half of the digits
                return f"a tree of them gives other states (by {off.max():.1%})"
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, NotImplementedError) as e:
        return f"a tree of them cannot be computed ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''})"
    finally:
        model.train(training)
    return None


def _spans(trees: Sequence[Sizes]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """(first, last + 1) of the trunk and of the branch of each conversation."""
    at = 0
    for trunk, *branches in trees:
        stem, at = (at, at + trunk), at + trunk
        for size in branches:
            yield stem, (at, at + size)
            at += size
