"""A snapshot of the store's preferences: a dataset TRL takes as it is, with everything that was judged beside it.

OUT/                a `DatasetDict` (train, calibration, heldout) of strictly preferred pairs, or one JSONL a split
OUT/rankings/       the same of rankings: all completions of a comparison with what each rater made of them, ties too
OUT/judgments/      one Parquet a split with every judgment there is: ties, both bad, skips, flags and corrections too
OUT/demonstrations/ one Parquet a split with what raters wrote as a better answer, for TRL's SFTTrainer
OUT/manifest.json   counts, filters, the store's revision, the content hash
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlhf_hitl import __version__
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import atomic_folder
from rlhf_hitl.formats.snapshot import (
    COMPARISON_COLUMNS,
    JUDGMENT_COLUMNS,
    JsonFields,
    Snapshot,
    SnapshotBatch,
    to_json,
)
from rlhf_hitl.formats.trl import EXPORT_COLUMNS
from rlhf_hitl.store import Store, projects
from rlhf_hitl.store.judgments import store_revision
from rlhf_hitl.types import Split, utc_now

if TYPE_CHECKING:
    import pyarrow

RANKINGS_FOLDER = "rankings"


def export_snapshot(
    store: Store,
    out: Path,
    *,
    format: Literal["trl", "jsonl"] = "trl",
    project: str | None = None,
    include_model_labels: bool = True,
    include_ties: bool = False,
    min_votes: int = 1,
    overwrite: bool = False,
    progress: bool = False,
) -> JsonFields:
    """Write a snapshot to the folder `out` and return its manifest. The same store gives the same content hash.

    Votes that come in while this runs may be in it; each is in both the judgments and the labels, or in neither.

    Args:
        format: `trl` for a saved `DatasetDict`, `jsonl` for its rows as JSON lines.
        project: of one project only.
        include_model_labels: also pairs a reward model was trusted with; only in train, as a model's own labels
            must not judge it.
        include_ties: also pairs of which raters prefer neither, for trainers that read `p_tie`; TRL's own take every
            row for a strict preference.
        min_votes: leave out pairs with fewer votes.
        overwrite: replace an earlier export.
        progress: draw a bar on stderr.

    Raises:
        BadInput: nothing to export, or `out` exists already.
        NotFound: no such project.
    """
    _check_free(out, overwrite)
    if project is not None:
        with store.read() as conn:
            projects.require_project(conn, project)
    snapshot = Snapshot(store, project, include_model_labels, include_ties, min_votes, progress)
    revision = store_revision(store)
    with atomic_folder(out, existing="replace" if overwrite else "refuse") as draft:
        (_write_json_lines if format == "jsonl" else _write_dataset)(snapshot, draft)
        if not any(snapshot.rows.values()):
            filtered = ", ".join(f"{n} {why}" for why, n in snapshot.filters.items()) or "nobody judged anything yet"
            raise BadInput(
                f"store {store.safe_url}",
                expected="at least one pair with a strict preference",
                fix=f"judge or import more ({filtered})",
            )
        manifest = {
            "format": format,
            "rows": {s.value: snapshot.rows[s] for s in Split},
            "labels": {source: snapshot.sources[source] for source in ("human", "model")},
            "rankings": {s.value: snapshot.rankings[s] for s in Split},
            "judgments": {s.value: snapshot.judgments[s] for s in Split},
            "demonstrations": {s.value: snapshot.demonstrations[s] for s in Split},
            "project": project,
            "filters": dict(sorted(snapshot.filters.items())),
            "min_votes": min_votes,
            "include_model_labels": include_model_labels,
            "include_ties": include_ties,
            "simulated": snapshot.simulated,
            "store_revision": revision,
            "schema_version": store.schema_version,
            "rlhf_hitl_version": __version__,
            "content_hash": snapshot.content_hash(),
            "created_at": utc_now().isoformat(),
        }
        (draft / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _write_json_lines(snapshot: Snapshot, folder: Path) -> None:
    (folder / RANKINGS_FOLDER).mkdir()
    for split in Split:
        name = f"{split.value}.jsonl"
        with (folder / name).open("wb") as f, (folder / RANKINGS_FOLDER / name).open("wb") as of_rankings:
            for part in _with_what_was_said(snapshot, split, folder):
                f.writelines(line + b"\n" for line in part.lines)
                of_rankings.writelines(to_json(row) + b"\n" for row in part.rankings)


def _write_dataset(snapshot: Snapshot, folder: Path) -> None:
    import pyarrow

    pair, ranking = _features().arrow_schema, _ranking_features().arrow_schema
    (folder / RANKINGS_FOLDER).mkdir()
    for split in Split:
        with (
            pyarrow.OSFile(str(_draft(folder, split)), "wb") as f,
            pyarrow.ipc.new_stream(f, pair) as pairs,
            pyarrow.OSFile(str(_draft(folder / RANKINGS_FOLDER, split)), "wb") as g,
            pyarrow.ipc.new_stream(g, ranking) as rankings,
        ):
            for part in _with_what_was_said(snapshot, split, folder):
                pairs.write_table(pyarrow.Table.from_pylist(part.pairs, schema=pair))
                rankings.write_table(pyarrow.Table.from_pylist(part.rankings, schema=ranking))
    name = snapshot.content_hash().removeprefix("sha256:")[:32]
    _lay_out(folder, pair, name)
    _lay_out(folder / RANKINGS_FOLDER, ranking, f"{name}-{RANKINGS_FOLDER}")


def _draft(folder: Path, split: Split) -> Path:
    return folder / f"{split.value}.arrow"


def _lay_out(folder: Path, schema: pyarrow.Schema, name: str) -> None:
    """Make a `DatasetDict` of the drafts in a folder."""
    from datasets import Dataset, DatasetDict, disable_progress_bars
    from datasets.table import InMemoryTable

    # `datasets` lays out the folder around empty splits, and the rows are put in their place: it would copy them
    # through memory. It tells data apart by the fingerprint. Left alone, it saves an empty split as no shard at all and
    # then cannot load it.
    disable_progress_bars()
    empty: Any = {s.value: Dataset(InMemoryTable(schema.empty_table()), fingerprint=f"{name}-{s.value}") for s in Split}
    DatasetDict(empty).save_to_disk(str(folder), num_shards={s.value: 1 for s in Split})
    for split in Split:
        [shard] = (folder / split.value).glob("*.arrow")
        _draft(folder, split).replace(shard)


def _with_what_was_said(snapshot: Snapshot, split: Split, folder: Path) -> Iterator[SnapshotBatch]:
    """The parts of a split; the judgments and demonstrations of each are written on the way."""
    import pyarrow
    import pyarrow.parquet

    schema, demonstration = _judgment_schema(), _demonstration_schema()
    for name in ("judgments", "demonstrations"):
        (folder / name).mkdir(exist_ok=True)
    file = f"{split.value}.parquet"
    with (
        pyarrow.parquet.ParquetWriter(folder / "judgments" / file, schema) as writer,
        pyarrow.parquet.ParquetWriter(folder / "demonstrations" / file, demonstration) as shown,
    ):
        for part in snapshot.parts(split):
            if part.judgments:
                of = pyarrow.array(part.of)
                columns = [
                    pyarrow.array([c[f.name] for c in part.comparisons], f.type).take(of)
                    if f.name in COMPARISON_COLUMNS
                    else pyarrow.array([j[f.name] for j in part.judgments], f.type)
                    for f in schema
                ]
                writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
            if part.demonstrations:
                shown.write_table(pyarrow.Table.from_pylist(part.demonstrations, schema=demonstration))
            yield part


def _chat() -> pyarrow.DataType:
    import pyarrow

    return pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string()}))


def _demonstration_schema() -> pyarrow.Schema:
    import pyarrow

    of = {"judgment_id": pyarrow.string(), "rater_id": pyarrow.string(), "simulated": pyarrow.bool_()}
    return pyarrow.schema({"prompt": _chat(), "completion": _chat()} | of)


def _judgment_schema() -> pyarrow.Schema:
    import pyarrow

    text, texts, chat = pyarrow.string(), pyarrow.list_(pyarrow.string()), _chat()
    other = {
        "prompt": chat,
        "completions": pyarrow.list_(pyarrow.struct({"id": text, "policy": text, "messages": chat})),
        "ranking": pyarrow.list_(texts),
        "order_shown": texts,
        "strength": pyarrow.int64(),
        "active_seconds": pyarrow.float64(),
        "simulated": pyarrow.bool_(),
        "surplus": pyarrow.bool_(),
    }
    return pyarrow.schema({name: other.get(name, text) for name in JUDGMENT_COLUMNS})


def _features() -> Any:
    from datasets import Features, Value

    text = Value("string")
    chat = [{"role": text, "content": text}]
    other = {
        "p_chosen": Value("float64"),
        "p_tie": Value("float64"),
        "p_rejected": Value("float64"),
        "entropy": Value("float64"),
        "votes": Value("int64"),
        "weight": Value("float64"),
        "simulated": Value("bool"),
    }
    trl = dict.fromkeys(("prompt", "chosen", "rejected"), chat)
    return Features(trl | {name: other.get(name, text) for name in EXPORT_COLUMNS})


def _ranking_features() -> Any:
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


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise BadInput(f"{out}", expected="a folder that does not exist yet", fix="name another, or add --overwrite")
    if not (out / "manifest.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}", expected="an earlier export to overwrite", fix="name another folder: this is not one")
