"""An exported dataset as full training reads it: rows that are checked, their labels, their tokens."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.model import lengths
from rlhf_hitl.reward.rendering import Conversation, Renderer
from rlhf_hitl.types import messages, prompt_family

log = logging.getLogger(__name__)


def load_pairs(name: str) -> DatasetDict:
    """A DatasetDict with `train` and perhaps `calibration`, from an exported folder or the hub."""
    if not name:
        raise BadInput("dataset ''", expected="a dataset", fix="give --dataset a folder of `rlhf-hitl export`")
    try:
        data = load_from_disk(name) if Path(name).is_dir() else load_dataset(name)
    except Exception as e:  # datasets raises many kinds for what is one thing to the user
        raise BadInput(f"dataset {name}", expected="an exported folder or a hub id", fix=str(e).splitlines()[0]) from e
    data = data if isinstance(data, DatasetDict) else DatasetDict({"train": data})
    if "label_source" in data["train"].column_names:  # a model that learns its own labels only grows surer of them
        data = data.filter(lambda row: row["label_source"] == "human", desc="human labels")
    missing = {"prompt", "chosen", "rejected"} - set(data["train"].column_names)
    if missing or not len(data["train"]):
        raise BadInput(
            f"dataset {name} with {len(data['train'])} rows, columns {data['train'].column_names}",
            expected="rows with prompt, chosen and rejected as chat messages",
            fix="make it with `rlhf-hitl export`",
        )
    refuse_heldout(name, data)
    return data


def refuse_heldout(name: str, data: DatasetDict) -> None:
    """Raise BadInput where a prompt to train on shares its opening with one that is held out."""
    held = {_family(row) for split in ("heldout", "test") for row in data.get(split, [])}
    for i, row in enumerate(data["train"] if held else []):
        if _family(row) in held:
            raise BadInput(
                f"dataset {name}: train row {i}",
                expected="no prompt that opens like one of the held-out rows",
                fix="take the row out of train, or make the dataset with `rlhf-hitl export`",
            )


def _family(row: Any) -> str:
    return prompt_family(messages(row["prompt"]))


def chats(row: Any) -> tuple[Conversation, Conversation]:
    """The two conversations of a row: (chosen, rejected)."""
    prompt = messages(row["prompt"])
    return (prompt, messages(row["chosen"])), (prompt, messages(row["rejected"]))


def shares(row: Any) -> tuple[float, float, float]:
    """(chosen better, tie, rejected better) among the votes: the exported shares, else a vote for chosen.

    Raises:
        BadInput: shares that are not probabilities.
    """
    if "p_chosen" not in row:
        return 1.0, 0.0, 0.0
    chosen, tie = row["p_chosen"], row.get("p_tie", 0.0)
    rejected = row.get("p_rejected", 1 - chosen - tie)
    if not (min(chosen, tie, rejected) > -1e-6 and abs(chosen + tie + rejected - 1) < 1e-6):
        raise BadInput(
            f"p_chosen {chosen}, p_tie {tie}, p_rejected {rejected}",
            expected="three shares that sum to 1",
            fix="make the dataset with `rlhf-hitl export`, or leave the columns out",
        )
    return chosen, tie, rejected


def weight(row: Any) -> float:
    """How much a label counts: the column `weight`, else 1.

    Raises:
        BadInput: not a finite number, 0 or more.
    """
    value = row.get("weight", 1.0)
    if not (isinstance(value, float | int) and math.isfinite(value) and value >= 0):
        raise BadInput(f"weight {value}", expected="a number, 0 or more", fix="correct or leave out the column")
    return float(value)


def tokenised(data: Dataset, renderer: Renderer, processes: int | None = None) -> Dataset:
    """The columns TRL takes as they are: chosen_ids, rejected_ids; and ours, of LABEL."""

    def render(row: dict[str, Any]) -> dict[str, Any]:
        chosen, rejected = (renderer.render(chat) for chat in chats(row))
        log_lengths = np.log1p(lengths(chats(row)))
        return {
            "chosen_ids": list(chosen.ids),
            "rejected_ids": list(rejected.ids),
            "starts": (chosen.start, rejected.start),
            "shares": shares(row),
            "weight": weight(row),
            "length_difference": log_lengths[0] - log_lengths[1],
            "cut": sum(r.dropped + r.cut > 0 for r in (chosen, rejected)),
        }

    with PartialState().main_process_first():
        out = data.map(render, remove_columns=data.column_names, num_proc=processes, desc="rendering")
    if cut := sum(out["cut"]):
        log.warning("%d of %d conversations were cut to %d tokens", cut, 2 * len(out), renderer.max_length)
    return out.remove_columns("cut")
