"""The form that reward-bench reads: `chosen` and `rejected` are whole conversations, and there is no `prompt`.

    rewardbench --model MODEL --dataset OUT --split heldout

It takes all but the last message of `chosen` as the prompt, and knows messages of a role and a text only. Pairs that do
not fit are left out and counted.
"""

from __future__ import annotations

from pathlib import Path

from rlhf_hitl.formats.export_files import PlainTableWriter, WrittenTables
from rlhf_hitl.formats.snapshot import Snapshot
from rlhf_hitl.store.export_query import JsonFields
from rlhf_hitl.types import Split


def write_rewardbench(snapshot: Snapshot, folder: Path) -> WrittenTables:
    """Write the pairs that fit as one Parquet file a split. The others become filters of the snapshot."""
    from datasets import Features, List, Value

    text = Value("string")
    chat = List({"role": text, "content": text})
    features = Features(
        {"chosen": chat, "rejected": chat, "chosen_model": text, "rejected_model": text, "id": text, "tags": text}
    )
    written = WrittenTables()
    (folder / "pairs").mkdir()
    for split in Split:
        with PlainTableWriter(folder, "pairs", split, features, written) as writer:
            for batch in snapshot.read_batches(split):
                rows = [row for pair in batch.pairs if (row := _make_row(pair, snapshot, split)) is not None]
                writer.write(rows)
    return written


def _make_row(pair: JsonFields, snapshot: Snapshot, split: Split) -> JsonFields | None:
    reason = _find_reason_against(pair)
    if reason is not None:
        snapshot.pairs[split] -= 1
        snapshot.sources[pair["label_source"]] -= 1
        snapshot.filters[reason] += 1
        return None
    return {
        "chosen": pair["prompt"] + pair["chosen"],
        "rejected": pair["prompt"] + pair["rejected"],
        "chosen_model": pair["chosen_policy"],
        "rejected_model": pair["rejected_policy"],
        "id": f"{pair['chosen_id']} {pair['rejected_id']}",
        "tags": pair["tags"],
    }


def _find_reason_against(pair: JsonFields) -> str | None:
    """Return why reward-bench cannot read a pair, or None where it can."""
    sides = pair["chosen"], pair["rejected"]
    if any(len(side) != 1 for side in sides):
        return "completion of several messages, which reward-bench does not know"
    messages = [*pair["prompt"], *pair["chosen"], *pair["rejected"]]
    if "tools" in pair or any(m.keys() != {"role", "content"} or not isinstance(m["content"], str) for m in messages):
        return "message that is more than a text, which reward-bench does not know"
    return None
