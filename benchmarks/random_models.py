"""Policies with random weights and a tokenizer of their own, built in code: nothing is fetched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

#: ChatML, the format of SmolLM2 and Qwen.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@dataclass(frozen=True)
class Shape:
    """The size of a decoder of Llama's kind."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool = True

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def layer_parameters(self) -> int:
        """Weights of the matrices of one layer; the two norms beside them are left out."""
        attention = self.hidden * self.head_size * 2 * (self.heads + self.key_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """All weights: of the layers, their norms, the embedding, and the output layer where it is not tied."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (self.layer_parameters + 2 * self.hidden) + self.hidden + embeddings


#: The shapes of Llama 3.2 1B, 3.1 8B and 3.1 70B (their `config.json`), of SmolLM2-135M, and two small ones.
SHAPES = {
    "tiny": Shape(2, 64, 128, 4, 2, 512),
    "1m": Shape(4, 128, 384, 4, 2, 512),
    "135m": Shape(30, 576, 1536, 9, 3, 49_152),
    "1b": Shape(16, 2048, 8192, 32, 8, 128_256),
    "8b": Shape(32, 4096, 14_336, 32, 8, 128_256, tied=False),
    "70b": Shape(80, 8192, 28_672, 64, 8, 128_256, tied=False),
}


def read_bundled_prompts() -> list[str]:
    """Return the prompts that come with the package, as user messages of one turn, shortest first."""
    lines = (resources.files("rlhf_hitl.bundled") / "set.jsonl").read_text(encoding="utf-8").splitlines()
    chats = [json.loads(line)["messages"] for line in lines]
    return sorted({chat[0]["content"] for chat in chats if len(chat) == 1}, key=lambda text: (len(text), text))


def build_tokenizer(vocabulary: int) -> Any:
    """Train a byte-level BPE of at most so many tokens on the bundled prompts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(read_bundled_prompts(), trainer)
    names = {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=TEMPLATE, **names)


def make_config(shape: Shape, tokenizer: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=shape.tied,
    )


def build_policy(folder: Path, shape: Shape, *, dtype: str = "float32", device: str = "cpu", seed: int = 0) -> Path:
    """Write a policy with random weights and its tokenizer into a folder, and return the folder.

    Args:
        device: where the weights are drawn; a large model is drawn on a GPU in a second.
    """
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = build_tokenizer(min(shape.vocabulary, 2048))
    torch.manual_seed(seed)
    config = make_config(shape, tokenizer)
    config.dtype = dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
