"""Collate tokenised rows into batches: padded, or packed into prompt trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.utils import pad

from rlhf_hitl.reward import shared_prefix
from rlhf_hitl.reward.vision import VisionReader
from rlhf_hitl.types import UNRANKED


@dataclass(frozen=True)
class LabelCollator:
    """Collates all conversations of some rows, row by row, with the rows' labels.

    The labels come first, because the Trainer takes the length of the first entry for that of the batch.

    Attributes:
        pad_to_multiple_of: pads to a multiple of so many tokens.
        with_token_types: also says which tokens are the completion's.
        as_trees: packs the batch into one row of prompt trees in place of padding it.
        vision: makes tokens and pixels of the rows' texts and images, for a model that reads images.
    """

    pad_id: int
    pad_to_multiple_of: int | None = None
    with_token_types: bool = False
    as_trees: bool = False
    vision: VisionReader | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        def column(name: str) -> list[torch.Tensor]:
            return [torch.tensor(row[name]) for row in rows]

        batch: dict[str, Any] = {
            "weight": torch.stack(column("weight")),
            "ranks": pad(column("ranks"), UNRANKED),
            "shares": pad(column("shares")),
            "log_lengths": pad(column("log_lengths")),
        }
        if self.vision is not None:
            texts, images = ([of for row in rows for of in row[name]] for name in ("texts", "images"))
            return batch | dict(self.vision.encode(texts, images))
        if self.as_trees:
            packed = shared_prefix.pack_trees([row["ids"] for row in rows])
            return batch | {"input_ids": packed.ids, "position_ids": packed.positions, "trees": packed.trees}
        conversations = [torch.tensor(ids) for row in rows for ids in row["ids"]]
        multiple = self.pad_to_multiple_of
        batch["input_ids"] = pad(conversations, self.pad_id, pad_to_multiple_of=multiple)
        batch["attention_mask"] = pad([torch.ones_like(ids) for ids in conversations], pad_to_multiple_of=multiple)
        if self.with_token_types:
            starts = torch.cat(column("starts"))[:, None]
            in_completion = torch.arange(batch["input_ids"].shape[1])[None] >= starts
            batch["token_type_ids"] = (in_completion & batch["attention_mask"].bool()).long()
        return batch
