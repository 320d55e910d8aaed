"""Pairs as rows for DPO: tokens, or text with images, both by the one rendering of chats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from datasets import Dataset

from rlhf_hitl.policy.dpo_pair import DPOPair
from rlhf_hitl.reward.chat_template import ChatTemplate, count_common_prefix, make_images_error
from rlhf_hitl.reward.readability import LeftOut, Obstacle, Unreadable
from rlhf_hitl.reward.rendering import list_unshown
from rlhf_hitl.reward.vision import VisionReader
from rlhf_hitl.types.messages import list_images


@dataclass(frozen=True)
class PairRows:
    """Pairs as the trainer takes them.

    Attributes:
        rows: `prompt_ids`, `chosen_ids` and `rejected_ids`, with `share`, `tie` and `weight` of their labels, and
            whether raters `judged` them (1) or the reward model (0). Where there are images `texts` and `images`, each
            of the chosen and of the rejected side, and of each the prompt's and the completion's.
        pairs: the pairs of these rows.
        too_long: pairs left out because they have more tokens than are read.
        left_out: pairs left out because the policy cannot read them or tell their sides apart.
        unshown: what the chat template leaves out, and in how many pairs.
    """

    rows: Dataset
    pairs: tuple[DPOPair, ...]
    too_long: int
    left_out: LeftOut
    unshown: dict[str, int]
    with_images: bool


def read_pairs(
    pairs: Sequence[DPOPair], tokenizer: Any, max_length: int | None, vision: VisionReader | None = None
) -> PairRows:
    """Return pairs as rows for the trainer: tokens, or text with images where a pair has any.

    Pairs of more than `max_length` tokens are left out, because TRL would cut off their ends silently.

    Args:
        vision: reads pairs with images. None: the policy reads none.
    """
    template = ChatTemplate(tokenizer) if vision is None else vision.template
    with_images = vision is not None and any(map(_has_images, pairs))
    rows: list[dict[str, Any]] = []
    kept: list[DPOPair] = []
    left_out, unshown, too_long = LeftOut("pair"), Counter[str](), 0
    for pair in pairs:
        try:
            if with_images:
                assert vision is not None
                row = _read_with_images(pair, vision)
            else:
                row = _read_tokens(pair, tokenizer, template)
            if row.pop("same") and not pair.chosen_chat.looks_like(pair.rejected_chat):
                raise _make_same_tokens_error(pair)
        except Unreadable as e:
            left_out.add(e)
            continue
        unshown.update(dict.fromkeys(row.pop("unshown"), 1))
        if max_length is not None and row.pop("length") > max_length:
            too_long += 1
            continue
        rows.append(
            row
            | {
                "label_source": pair.label_source,
                "prompt_id": pair.prompt.id,
                "share": pair.share,
                "tie": pair.tie,
                "weight": pair.weight,
                "judged": float(pair.label_source == "human"),
            }
        )
        kept.append(pair)
    for row in rows:
        row.pop("length", None)
    return PairRows(Dataset.from_list(rows), tuple(kept), too_long, left_out, dict(unshown), with_images)


def _read_tokens(pair: DPOPair, tokenizer: Any, template: ChatTemplate) -> dict[str, Any]:
    """Return a pair's tokens as TRL makes them: a completion begins where it parts from the prompt."""
    if _has_images(pair):
        raise make_images_error(pair.prompt.id, "this policy reads no images")

    def tokenise(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    texts = [
        template.apply(chat.prompt, chat.completion, chat.tools) for chat in (pair.chosen_chat, pair.rejected_chat)
    ]
    prompt = tokenise(template.apply(pair.prompt.messages, None, pair.prompt.tools))
    chosen, rejected = map(tokenise, texts)
    start = min(count_common_prefix(prompt, chosen), count_common_prefix(prompt, rejected))
    return {
        "prompt_ids": prompt[:start],
        "chosen_ids": chosen[start:],
        "rejected_ids": rejected[start:],
        "length": max(len(chosen), len(rejected)),
        "same": chosen == rejected,
        "unshown": _list_unshown(pair, texts),
    }


def _read_with_images(pair: DPOPair, vision: VisionReader) -> dict[str, Any]:
    """Return a pair as text and images: `VisionPairCollator` makes tokens and pixels of them batch by batch."""
    sides = []
    for chat in (pair.chosen_chat, pair.rejected_chat):
        asked, answered = vision.split_text(chat.prompt, chat.completion, chat.tools)
        inputs, _ = vision.encode_conversation(chat.prompt, chat.completion, chat.tools)  # also tries the processor
        images = [vision.load_images(chat.prompt), vision.load_images(chat.completion)]
        sides.append((asked, answered, images, inputs["input_ids"][0].tolist()))
    (asked, chosen, images, ids), (_, rejected, other_images, other_ids) = sides
    return {
        "texts": [[asked, chosen], [sides[1][0], rejected]],
        "images": [images, other_images],
        "length": max(len(ids), len(other_ids)),
        "same": ids == other_ids and images == other_images,
        "unshown": _list_unshown(pair, [asked + chosen, sides[1][0] + rejected]),
    }


def _list_unshown(pair: DPOPair, texts: Sequence[str]) -> set[str]:
    return {
        name for chat, text in zip((pair.chosen_chat, pair.rejected_chat), texts) for name in list_unshown(chat, text)
    }


def _make_same_tokens_error(pair: DPOPair) -> Unreadable:
    return Unreadable(
        Obstacle.SAME_TOKENS,
        pair.prompt.id,
        f"prompt {pair.prompt.id}: two answers that differ are the same tokens",
        expected="a chat template that keeps apart what people see as different",
        fix="give the policy's tokenizer a template that shows what differs",
    )


def _has_images(pair: DPOPair) -> bool:
    return next(list_images(pair.prompt.messages, pair.chosen.messages, pair.rejected.messages), None) is not None


@dataclass(frozen=True)
class VisionPairCollator:
    """Collates pairs with images as TRL's own collator does, the chosen sides first.

    TRL's takes images in prompts only and gives its template no tools.
    """

    vision: VisionReader

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        sides = [(row["texts"][side], row["images"][side]) for side in (0, 1) for row in rows]
        batch = dict(
            self.vision.encode(["".join(texts) for texts, _ in sides], [[*chain(*images)] for _, images in sides])
        )
        prompts = self.vision.encode([texts[0] for texts, _ in sides], [images[0] for _, images in sides])
        starts = torch.tensor(
            [
                count_common_prefix(prompt[mask.bool()].tolist(), whole.tolist())
                for prompt, mask, whole in zip(prompts["input_ids"], prompts["attention_mask"], batch["input_ids"])
            ]
        )
        in_completion = torch.arange(batch["input_ids"].shape[1])[None] >= starts[:, None]
        return batch | {"completion_mask": in_completion.long() * batch["attention_mask"]}
