"""Write the rows of a snapshot to files: one Parquet file a table and split, or JSON lines."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rlhf_hitl.formats.export_schema import (
    CHAT_COLUMNS,
    CONFIGS,
    encode_row,
    make_features,
    make_file_row,
    make_file_schema,
    replace_images,
    replace_messages,
)
from rlhf_hitl.formats.snapshot import Snapshot, SnapshotBatch
from rlhf_hitl.formats.snapshot_rows import COMPARISON_COLUMNS, to_json
from rlhf_hitl.store.export_query import COMPARISONS_PER_BATCH, JsonFields
from rlhf_hitl.types import Split

if TYPE_CHECKING:
    import pyarrow
    from datasets import Features

#: Images make a row group of a file large: it is closed once it holds this much.
GROUP_BYTES = 32 * 2**20

LoadImage = Callable[[str], bytes]


@dataclass
class WrittenTables:
    """What was written: the features of each table, the bytes of its rows in memory, and what could not be written as
    it is."""

    features: dict[str, Features] = field(default_factory=dict)
    bytes: Counter[tuple[str, Split]] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)


def get_table_file(config: str, split: Split) -> str:
    """Return the path of a table's Parquet file within an export."""
    return f"{config}/{split.value}.parquet"


def write_parquet(snapshot: Snapshot, folder: Path, *, tables: Iterable[str] = CONFIGS) -> WrittenTables:
    """Write each table as one Parquet file a split, which is there also where it has no rows."""
    written, tables = WrittenTables(), list(tables)
    for config in tables:
        (folder / config).mkdir()
    for split in Split:
        with ExitStack() as stack:
            writers = {
                config: stack.enter_context(TableWriter(snapshot, folder, config, split, written)) for config in tables
            }
            for batch in snapshot.read_batches(split):
                for config, writer in writers.items():
                    if config == "judgments":
                        writer.write_judgments(batch)
                    else:
                        writer.write(getattr(batch, config))
    return written


def write_json_lines(snapshot: Snapshot, folder: Path) -> WrittenTables:
    """Write pairs, rankings and ratings as one JSONL file a split; judgments and demonstrations as Parquet files."""
    written = WrittenTables()
    for config in CONFIGS[1:]:
        (folder / config).mkdir()
    for split in Split:
        with ExitStack() as stack:
            pairs = stack.enter_context((folder / f"{split.value}.jsonl").open("wb"))
            rankings, ratings = (
                stack.enter_context((folder / config / f"{split.value}.jsonl").open("wb"))
                for config in ("rankings", "ratings")
            )
            judgments, demonstrations = (
                stack.enter_context(TableWriter(snapshot, folder, config, split, written))
                for config in ("judgments", "demonstrations")
            )
            for batch in snapshot.read_batches(split):
                pairs.writelines(line + b"\n" for line in _to_lines(batch.pairs, "pairs", snapshot, batch.pair_lines))
                rankings.writelines(line + b"\n" for line in _to_lines(batch.rankings, "rankings", snapshot))
                ratings.writelines(line + b"\n" for line in _to_lines(batch.ratings, "ratings", snapshot))
                judgments.write_judgments(batch)
                demonstrations.write(batch.demonstrations)
    return written


def _to_lines(
    rows: list[JsonFields], config: str, snapshot: Snapshot, sorted_lines: list[bytes] | None = None
) -> Iterable[bytes]:
    """Return rows as JSON, with images as `data:` URLs. Keys are sorted only where no message has keys of its own."""
    if snapshot.kinds.only_text:
        return map(to_json, rows) if sorted_lines is None else sorted_lines
    if not snapshot.kinds.images:
        return map(encode_row, rows)
    return (encode_row(row | embed_images(row, CHAT_COLUMNS[config], snapshot.load_image)) for row in rows)


def embed_images(row: JsonFields, columns: Iterable[str], load: LoadImage) -> JsonFields:
    """Return the chats of a row with each image as a `data:` URL instead of its id."""

    def embed(part: JsonFields) -> JsonFields:
        return part | {"image": f"data:image/png;base64,{base64.b64encode(load(part['image'])).decode()}"}

    return {name: replace_messages(row[name], lambda message: replace_images(message, embed)) for name in columns}


class PlainTableWriter:
    """Writes rows of one table and split to a Parquet file as they come, in the form of their features."""

    def __init__(self, folder: Path, config: str, split: Split, features: Features, written: WrittenTables):
        import pyarrow.parquet

        self._table, self._written = (config, split), written
        written.features[config] = features
        self._schema = make_file_schema(features)
        self._file = pyarrow.parquet.ParquetWriter(folder / get_table_file(config, split), self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, rows: Iterable[JsonFields]) -> None:
        import pyarrow

        for group in _split_by_size(rows):
            self._write_table(pyarrow.Table.from_pylist(group, schema=self._schema))

    def _write_table(self, table: pyarrow.Table) -> None:
        self._written.bytes[self._table] += table.nbytes
        self._file.write_table(table)


class TableWriter(PlainTableWriter):
    """Writes the rows of a snapshot, with their messages and images as the files have them."""

    def __init__(self, snapshot: Snapshot, folder: Path, config: str, split: Split, written: WrittenTables):
        super().__init__(folder, config, split, make_features(config, snapshot.kinds), written)
        self._kinds = snapshot.kinds
        self._make_row = partial(
            make_file_row, config=config, kinds=snapshot.kinds, load_image=snapshot.load_image, changed=written.changed
        )

    def write(self, rows: Iterable[JsonFields]) -> None:
        super().write(map(self._make_row, rows))

    def write_judgments(self, batch: SnapshotBatch) -> None:
        """Write the judgments of a batch. What those of one comparison share is made once, unless it has images."""
        import pyarrow

        if not batch.judgments:
            return
        if self._kinds.images:
            pairs = zip(batch.judgment_comparisons, batch.judgments, strict=True)
            self.write(batch.comparisons[i] | judgment for i, judgment in pairs)
            return
        comparisons, index = list(map(self._make_row, batch.comparisons)), pyarrow.array(batch.judgment_comparisons)
        columns = [
            pyarrow.array([c[f.name] for c in comparisons], f.type).take(index)
            if f.name in COMPARISON_COLUMNS
            else pyarrow.array([j[f.name] for j in batch.judgments], f.type)
            for f in self._schema
        ]
        self._write_table(pyarrow.Table.from_arrays(columns, schema=self._schema))


def _split_by_size(rows: Iterable[JsonFields]) -> Iterator[list[JsonFields]]:
    """Yield the rows in lists of at most COMPARISONS_PER_BATCH, which end where they hold GROUP_BYTES of images."""
    group: list[JsonFields] = []
    size = 0
    for row in rows:
        images: list[dict[str, Any]] = row.get("images", [])
        group.append(row)
        size += sum(len(image["bytes"]) for image in images)
        if len(group) == COMPARISONS_PER_BATCH or size > GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
