"""Views: the layers at which a backbone is read, and how the states of a conversation's tokens become one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_hitl.errors import BadInput

POOLINGS = ("last", "mean")
SCORE_POOLING = "score"  # reads what the score head of a sequence classifier reads


@dataclass(frozen=True)
class FeatureView:
    """Where a backbone is read: the hidden states after `layer`, pooled.

    The pooling `last` takes the state at the conversation's EOS, `mean` the average over the completion's tokens, and
    `score` what the score head of a sequence classifier reads.
    """

    layer: int
    pooling: str


def parse_layers(name: str, layer: int | Sequence[int] | None, depth: int) -> tuple[int, ...]:
    if layer is None:
        return tuple(sorted({max(1, round(depth * share)) for share in (1 / 2, 2 / 3, 5 / 6)}))
    requested = [layer] if isinstance(layer, int) else layer
    layers = tuple(at if at > 0 else depth + 1 + at for at in requested)
    if not layers or not all(0 < at <= depth for at in layers):
        raise BadInput(f"layer {layer}", expected=f"1 to {depth} for {name}", fix="choose a layer the model has")
    return layers


def parse_poolings(pooling: str | Sequence[str] | None) -> tuple[str, ...]:
    poolings = POOLINGS if pooling is None else (pooling,) if isinstance(pooling, str) else tuple(pooling)
    if poolings != (SCORE_POOLING,) and not (poolings and set(poolings) <= set(POOLINGS)):
        raise BadInput(f"pooling {pooling!r}", expected=" or ".join(POOLINGS), fix="choose one of these")
    return poolings
