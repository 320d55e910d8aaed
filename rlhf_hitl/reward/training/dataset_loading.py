"""Load an exported dataset for full training, and refuse what must not be trained on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, get_dataset_config_names, load_dataset, load_from_disk

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.rendering import has_text
from rlhf_hitl.reward.training.dataset_rows import read_prompt, read_ranking
from rlhf_hitl.types import hash_prompt_family
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

#: What a training may learn from, and the columns that such rows have.
COLUMNS = {"pairs": ("prompt", "chosen", "rejected"), "rankings": ("prompt", "completions", "rankings")}


def load_training_rows(name: str, learn_from: str = "pairs", cache: str | None = None) -> DatasetDict:
    """Load the usable rows of `train`, and of `calibration` where there is one, from an exported folder or the hub.

    Args:
        name: a folder of `export`, also one of an earlier version, which is a saved `DatasetDict`; or a hub id.
        learn_from: a key of COLUMNS: an export has a table for each.
        cache: the folder in which `datasets` keeps what it reads; None for its own.
    """
    if learn_from not in COLUMNS:
        raise BadInput(f"learn_from {learn_from!r}", expected=" or ".join(COLUMNS), fix="choose one of them")
    if not name:
        raise BadInput("dataset ''", expected="a dataset", fix="give --dataset a folder of `rlhf-hitl export`")
    try:
        data = _load(name, learn_from, cache)
    except Exception as e:  # datasets raises many kinds for what is one thing to the user
        raise BadInput(f"dataset {name}", expected="an exported folder or a hub id", fix=str(e).splitlines()[0]) from e
    data = data if isinstance(data, DatasetDict) else DatasetDict({"train": data})
    if "train" not in data:
        raise BadInput(f"dataset {name} of {', '.join(map(str, data))}", expected="a split `train`", fix="name it so")
    for split in (used := [s for s in ("train", "calibration") if s in data]):
        if missing := set(COLUMNS[learn_from]) - set(data[split].column_names):
            raise BadInput(
                f"dataset {name}, {split} without {', '.join(sorted(missing))}",
                expected=f"rows with {', '.join(COLUMNS[learn_from])}, to learn from {learn_from}",
                fix="make it with `rlhf-hitl export`, or set learn_from to what it holds",
            )
    refuse_heldout_prompts(name, data)
    usable = DatasetDict({split: _select_usable(data[split], f"{name}: {split}") for split in used})
    if not len(usable["train"]):
        raise BadInput(
            f"dataset {name}: {say_count(len(data['train']), 'train row')}, none usable",
            expected="one that people labelled, whose completions all have text",
            fix="rate or import more comparisons",
        )
    return usable


def _load(name: str, learn_from: str, cache: str | None) -> Any:
    for folder in (Path(name) / learn_from, Path(name)):  # an earlier version's rankings are in a folder of their own
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            return load_from_disk(str(folder))
    configs = get_dataset_config_names(name)
    return load_dataset(name, learn_from if learn_from in configs else None, cache_dir=cache)


def refuse_heldout_prompts(name: str, data: DatasetDict) -> None:
    """Raise BadInput where a prompt to train on shares its opening with one that is held out."""
    heldout = {
        _read_family(row)
        for split in ("heldout", "test")
        if split in data and "prompt" in data[split].column_names
        for row in data[split]
    }
    for i, row in enumerate(data["train"] if heldout else []):
        if _read_family(row) in heldout:
            raise BadInput(
                f"dataset {name}: train row {i}",
                expected="no prompt that opens like one of the held-out rows",
                fix="take the row out of train, or make the dataset with `rlhf-hitl export`",
            )


def _select_usable(rows: Dataset, place: str) -> Dataset:
    """Return the rows that people or judges labelled and whose completions all have text; a warning counts the others.

    A model that learns its own labels only becomes more confident of them, and a completion without text has no reward.
    """
    usable: list[int] = []
    by_model = without_text = 0
    for i, row in enumerate(rows):
        row: Any = row
        try:
            if row.get("label_source") == "model":
                by_model += 1
            elif not all(has_text(chat.completion) for chat in read_ranking(row).chats):
                without_text += 1
            else:
                usable.append(i)
        except BadInput as e:
            raise BadInput(f"{place} row {i}: {e.value}", expected=e.expected, fix=e.fix) from e
    for n, reason in ((by_model, "labelled by a model"), (without_text, "of completions without text")):
        if n:
            log.warning("%s left out: %s", say_count(n, f"{place.rpartition(' ')[2]} row"), reason)
    return rows.select(usable)


def _read_family(row: Any) -> str:
    return hash_prompt_family(read_prompt(row))
