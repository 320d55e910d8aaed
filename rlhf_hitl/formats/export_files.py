"""Write the rows of a snapshot to files: saved datasets or JSON lines, and Parquet files of judgments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_hitl.formats.readers.trl import EXPORT_COLUMNS
from rlhf_hitl.formats.snapshot import Snapshot, SnapshotBatch
from rlhf_hitl.formats.snapshot_rows import COMPARISON_COLUMNS, JUDGMENT_COLUMNS, to_json
from rlhf_hitl.store.export_query import JUDGMENT_FIELD_TYPES
from rlhf_hitl.types import Split

if TYPE_CHECKING:
    import pyarrow

RANKINGS_FOLDER = "rankings"


def write_json_lines(snapshot: Snapshot, folder: Path) -> None:
    """Write pairs and rankings as one JSONL file a split, judgments and demonstrations as Parquet files."""
    (folder / RANKINGS_FOLDER).mkdir()
    for split in Split:
        name = f"{split.value}.jsonl"
        with (folder / name).open("wb") as f, (folder / RANKINGS_FOLDER / name).open("wb") as rankings_file:
            for batch in _write_judgments(snapshot, split, folder):
                f.writelines(line + b"\n" for line in batch.pair_lines)
                rankings_file.writelines(to_json(row) + b"\n" for row in batch.rankings)


def write_dataset(snapshot: Snapshot, folder: Path) -> None:
    """Write pairs and rankings as saved `DatasetDict`s, judgments and demonstrations as Parquet files."""
    import pyarrow

    pair_schema, ranking_schema = _make_pair_features().arrow_schema, _make_ranking_features().arrow_schema
    (folder / RANKINGS_FOLDER).mkdir()
    for split in Split:
        with (
            pyarrow.OSFile(str(_get_arrow_path(folder, split)), "wb") as f,
            pyarrow.ipc.new_stream(f, pair_schema) as pairs,
            pyarrow.OSFile(str(_get_arrow_path(folder / RANKINGS_FOLDER, split)), "wb") as g,
            pyarrow.ipc.new_stream(g, ranking_schema) as rankings,
        ):
            for batch in _write_judgments(snapshot, split, folder):
                pairs.write_table(pyarrow.Table.from_pylist(batch.pairs, schema=pair_schema))
                rankings.write_table(pyarrow.Table.from_pylist(batch.rankings, schema=ranking_schema))
    name = snapshot.compute_content_hash().removeprefix("sha256:")[:32]
    _save_as_dataset(folder, pair_schema, name)
    _save_as_dataset(folder / RANKINGS_FOLDER, ranking_schema, f"{name}-{RANKINGS_FOLDER}")


def _get_arrow_path(folder: Path, split: Split) -> Path:
    return folder / f"{split.value}.arrow"


def _save_as_dataset(folder: Path, schema: pyarrow.Schema, name: str) -> None:
    """Turn the Arrow files in a folder into a saved `DatasetDict`."""
    from datasets import Dataset, DatasetDict, disable_progress_bars
    from datasets.table import InMemoryTable

    # `datasets` saves empty splits, whose files are then replaced by ours: it would copy the rows through memory. Its
    # cache tells data apart by the fingerprint. Without `num_shards` it saves an empty split as no file at all, which
    # it cannot load.
    disable_progress_bars()
    empty_splits: Any = {
        s.value: Dataset(InMemoryTable(schema.empty_table()), fingerprint=f"{name}-{s.value}") for s in Split
    }
    DatasetDict(empty_splits).save_to_disk(str(folder), num_shards={s.value: 1 for s in Split})
    for split in Split:
        [shard] = (folder / split.value).glob("*.arrow")
        _get_arrow_path(folder, split).replace(shard)


def _write_judgments(snapshot: Snapshot, split: Split, folder: Path) -> Iterator[SnapshotBatch]:
    """Yield the batches of a split, after writing the judgments and demonstrations of each to Parquet files."""
    import pyarrow
    import pyarrow.parquet

    judgment_schema, demonstration_schema = _make_judgment_schema(), _make_demonstration_schema()
    for name in ("judgments", "demonstrations"):
        (folder / name).mkdir(exist_ok=True)
    file = f"{split.value}.parquet"
    with (
        pyarrow.parquet.ParquetWriter(folder / "judgments" / file, judgment_schema) as judgment_writer,
        pyarrow.parquet.ParquetWriter(folder / "demonstrations" / file, demonstration_schema) as demonstration_writer,
    ):
        for batch in snapshot.read_batches(split):
            if batch.judgments:
                comparison_index = pyarrow.array(batch.judgment_comparisons)
                columns = [
                    pyarrow.array([c[f.name] for c in batch.comparisons], f.type).take(comparison_index)
                    if f.name in COMPARISON_COLUMNS
                    else pyarrow.array([j[f.name] for j in batch.judgments], f.type)
                    for f in judgment_schema
                ]
                judgment_writer.write_table(pyarrow.Table.from_arrays(columns, schema=judgment_schema))
            if batch.demonstrations:
                demonstration_writer.write_table(
                    pyarrow.Table.from_pylist(batch.demonstrations, schema=demonstration_schema)
                )
            yield batch


def _make_messages_type() -> pyarrow.DataType:
    import pyarrow

    return pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string()}))


def _make_demonstration_schema() -> pyarrow.Schema:
    import pyarrow

    fields = {"judgment_id": pyarrow.string(), "rater_id": pyarrow.string(), "simulated": pyarrow.bool_()}
    return pyarrow.schema({"prompt": _make_messages_type(), "completion": _make_messages_type()} | fields)


def _make_judgment_schema() -> pyarrow.Schema:
    import pyarrow

    text, texts, chat = pyarrow.string(), pyarrow.list_(pyarrow.string()), _make_messages_type()
    special = {
        "prompt": chat,
        "completions": pyarrow.list_(pyarrow.struct({"id": text, "policy": text, "messages": chat})),
        "ranking": pyarrow.list_(texts),
        "order_shown": texts,
    }
    plain = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    special |= {name: plain[python_type] for name, python_type in JUDGMENT_FIELD_TYPES.items()}
    return pyarrow.schema({name: special.get(name, text) for name in JUDGMENT_COLUMNS})


def _make_pair_features() -> Any:
    from datasets import Features, Value

    text = Value("string")
    chat = [{"role": text, "content": text}]
    special = {
        "p_chosen": Value("float64"),
        "p_tie": Value("float64"),
        "p_rejected": Value("float64"),
        "entropy": Value("float64"),
        "votes": Value("int64"),
        "weight": Value("float64"),
        "simulated": Value("bool"),
    }
    trl = dict.fromkeys(("prompt", "chosen", "rejected"), chat)
    return Features(trl | {name: special.get(name, text) for name in EXPORT_COLUMNS})


def _make_ranking_features() -> Any:
    from datasets import Features, Value

    text = Value("string")
    chat = [{"role": text, "content": text}]
    return Features(
        {
            "prompt": chat,
            "completions": [chat],
            "rankings": [[Value("int64")]],
            "weight": Value("float64"),
            "comparison_id": text,
            "prompt_id": text,
            "completion_ids": [text],
            "policies": [text],
            "simulated": Value("bool"),
            "tags": text,
        }
    )
