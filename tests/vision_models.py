"""A tiny vision model and its processor, made from a configuration."""

from __future__ import annotations

import io
from pathlib import Path

#: Takes text and parts, as the templates of vision models do.
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}"
    "{% if c.type == 'image' %}<|boi|>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_vision_model(folder: Path) -> Path:
    """Save a Gemma 3 of two layers, with a vision tower of one: the smallest kind of which transformers also has a
    sequence classifier that reads images."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3Processor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    raw = Tokenizer(models.BPE(unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|image|>", "<|boi|>", "<|eoi|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        ["what is this it is red it is blue"],
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet),
    )
    names = {"image_token": "<|image|>", "boi_token": "<|boi|>", "eoi_token": "<|eoi|>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>", chat_template=TEMPLATE,
        extra_special_tokens=names,
    )  # fmt: skip
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 28, "width": 28}), tokenizer, chat_template=TEMPLATE, image_seq_length=4
    )
    of_text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 512,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "layer_types": ["full_attention"] * 2,
    }  # fmt: skip
    of_vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 7,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=of_text, vision_config=of_vision, mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"), boi_token_index=6, eoi_token_index=7,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(
        model.model.multi_modal_projector.mm_input_projection_weight, std=0.5
    )  # zeros: it sees nothing
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def paint(colour: str | tuple[int, ...], size: tuple[int, int] = (40, 30)) -> bytes:
    """Return a picture of one colour as PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()
