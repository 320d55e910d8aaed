"""How much memory a training takes, from its model's shape: weights, gradients, optimiser, activations, logits, cache.

Bytes are of one device. Sources:

- Weights, gradients and AdamW's states take 16 bytes a trained weight in mixed precision, shared out over the devices
  by ZeRO-3 and FSDP (Rajbhandari et al. 2020, "ZeRO", arXiv:1910.02054, section 3.1): 4 + 4 + 8 where the weights are
  in fp32 under autocast, as here; 2 + 2 + 12 in DeepSpeed.
- What a layer keeps for its backward pass is counted tensor by tensor, as Korthikanti et al. 2022 ("Reducing activation
  recomputation in large transformer models", arXiv:2205.05198, section 4.1) do for GPT, for a layer of Llama in
  transformers: root mean square norms in fp32, rotated and grouped heads, attention that keeps no scores
  (FlashAttention, Dao et al. 2022), a gated MLP. `tests/test_benchmarks.py` holds the count against what PyTorch keeps.
- With checkpointing a layer keeps its input alone, and one layer at a time is computed again (Chen et al. 2016,
  arXiv:1604.06174).
- The KV cache holds two vectors of the key heads a token and layer (Pope et al. 2022, arXiv:2211.05102, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from random_models import Shape

#: How a training computes: all weights in one precision, in fp32 under bf16 autocast, or a LoRA in fp32 on frozen ones.
Mode = Literal["plain", "autocast", "lora"]
FP32, BF16 = 4, 2


@dataclass(frozen=True)
class Load:
    """What a device computes at once.

    Attributes:
        mode: None where nothing is trained.
        width: bytes of a weight where it is kept, and of an activation (under autocast 2, whatever this is).
        tokens: in one forward and backward pass.
        logit_tokens: of these, those whose logits over the vocabulary are computed.
        cached_tokens: in the KV cache while answers are sampled.
        sampled: answers that are sampled side by side.
        rank: of the LoRA.
        shards: devices that the weights, gradients and states are shared out over.
        replicas: devices that each hold all of them, and average their gradients.
        accumulates: whether gradients of an earlier pass are there in the next. Otherwise they grow as activations go.
        server_shards: devices that a second copy for sampling (vLLM) is shared out over; 0: there is none.
    """

    mode: Mode | None
    width: int
    tokens: int
    logit_tokens: int = 0
    cached_tokens: int = 0
    sampled: int = 0
    rank: int = 16
    checkpointing: bool = False
    shards: int = 1
    replicas: int = 1
    accumulates: bool = True
    server_shards: int = 0


def count_lora_parameters(shape: Shape, rank: int) -> int:
    """Return the weights of a LoRA on all linear layers of the decoder: rank times inputs plus outputs of each."""
    h, f, a, k = shape.hidden, shape.intermediate, shape.heads * shape.head_size, shape.key_heads * shape.head_size
    return shape.layers * rank * ((h + a) + 2 * (h + k) + (a + h) + 2 * (h + f) + (f + h))


def count_layer_activations(shape: Shape, mode: Mode, width: int, rank: int) -> int:
    """Return the bytes that a layer keeps for its backward pass, for each token."""
    h, f, a, k = shape.hidden, shape.intermediate, shape.heads * shape.head_size, shape.key_heads * shape.head_size
    b = BF16 if mode == "autocast" else width
    attention = b * (a + 2 * k) + 4 * shape.heads  # queries, keys, values; the log of the sum of exponentials
    inputs_of_norms = 2 * (4 * h + 4)  # in fp32, and the inverse of its root mean square
    if mode == "plain":
        # Normed states and the inputs of projections; what attention gives; gate, its activation, up and their product.
        return inputs_of_norms + 2 * b * h + 2 * b * h + b * a + attention + 4 * b * f
    if mode == "autocast":
        # Each projection has an input in bf16 of its own, and normed states are in fp32.
        return inputs_of_norms + 2 * 4 * h + 5 * b * h + b * a + attention + 4 * b * f
    adapters = 7 * rank * FP32
    if width == FP32:
        return inputs_of_norms + 2 * b * h + b * a + attention + 4 * b * f + adapters
    # Each adapter has an input in fp32 of its own, and frozen projections keep none.
    return inputs_of_norms + FP32 * (5 * h + a + f) + b * a + attention + 3 * b * f + adapters


def estimate_memory(shape: Shape, load: Load) -> dict[str, float]:
    """Return the bytes of each part of the peak of a device's memory, in the parts' names."""
    n, shards = shape.parameters, load.shards
    b = BF16 if load.mode == "autocast" else load.width
    trained = {None: 0, "lora": count_lora_parameters(shape, load.rank)}.get(load.mode, n)
    parts = {
        "weights": n * load.width / shards + (trained * FP32 / shards if load.mode == "lora" else 0),
        # DDP averages gradients in buckets, which are a second copy of them.
        "gradients": trained * FP32 / shards * (2 if load.replicas > 1 else 1),
        "optimiser": trained * 2 * FP32 / shards,
    }
    if load.mode == "autocast" and shards == 1:
        parts["casts"] = n * BF16  # kept until the forward pass has ended
    if shards > 1:
        # Two layers (the next is fetched while one is computed), the embedding and the output layer are whole.
        whole = 2 * shape.layer_parameters + shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
        parts["gathered"] = whole * BF16 * (2 if load.mode == "autocast" else 1)  # with their gradients
    freed = 0.0  # what goes while gradients come
    if load.mode is None:
        # One layer at a time: its input and residual, normed states in fp32, and the widest of its products.
        widest = max(3 * shape.intermediate, 4 * shape.hidden)
        parts["activations"] = load.tokens * (2 * b * shape.hidden + FP32 * shape.hidden + b * widest)
    else:
        layer = count_layer_activations(shape, load.mode, load.width, load.rank)
        entry = (FP32 if load.mode == "autocast" else b) * shape.hidden
        kept = entry * shape.layers + layer if load.checkpointing else layer * shape.layers
        # The backward pass of a layer: the gradient of its states, and of gate, up and their product.
        backward = b * (2 * shape.hidden + 3 * shape.intermediate)
        parts["activations"] = load.tokens * (kept + backward)
        freed = load.tokens * (kept - layer)
    # Log-probabilities and two gradients, in fp32, and the gradient of the model's own where it is not.
    copies = (b if b < FP32 else 0) + 3 * FP32
    parts["logits"] = load.logit_tokens * shape.vocabulary * copies
    cache = 2 * shape.layers * shape.key_heads * shape.head_size
    sampling = load.cached_tokens * cache * b + load.sampled * shape.vocabulary * 3 * FP32
    if load.server_shards:
        parts["server"] = n * BF16 / load.server_shards + sampling / load.server_shards
        sampling = 0
    # Answers are sampled before the update, whose activations and logits are not there then.
    updating = parts["activations"] + parts["logits"]
    if not load.accumulates:
        parts["gradients"] = max(0.0, parts["gradients"] - freed - parts["logits"])
    parts["sampling"] = max(0.0, sampling - updating)
    return {name: float(value) for name, value in parts.items()}
