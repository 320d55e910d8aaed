"""Export a snapshot of the store's preferences: a dataset that TRL reads as it is, and every judgment beside it.

OUT/                a `DatasetDict` (train, calibration, heldout) of strictly preferred pairs, or one JSONL a split
OUT/rankings/       the same for rankings: all completions of a comparison with the ranks each vote gave, ties too
OUT/judgments/      one Parquet a split with every judgment: also ties, both bad, skips, flags and corrections
OUT/demonstrations/ one Parquet a split with the better answers that raters wrote, for TRL's SFTTrainer
OUT/manifest.json   counts, filters, the store's revision, the content hash

`snapshot` reads the rows, `export_files` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from rlhf_hitl import __version__
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import atomic_folder, check_may_write
from rlhf_hitl.formats.export_files import write_dataset, write_json_lines
from rlhf_hitl.formats.snapshot import Snapshot
from rlhf_hitl.store import Store, projects
from rlhf_hitl.store.export_query import JsonFields
from rlhf_hitl.store.imports import finish_waiting_imports
from rlhf_hitl.store.judgments import read_store_revision
from rlhf_hitl.types import Split, utc_now


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

    Votes that arrive while this runs may be in it; each is in both the judgments and the labels, or in neither.

    Args:
        format: `trl` for a saved `DatasetDict`, `jsonl` for its rows as JSON lines.
        project: export this project only.
        include_model_labels: also pairs that were accepted on a reward model's score. They are in train only, because
            a model must not be measured on its own labels.
        include_ties: also pairs where raters prefer neither, for trainers that read `p_tie`; TRL's own trainers take
            every row as a strict preference.
        min_votes: leave out pairs with fewer votes.
        overwrite: replace an earlier export.
        progress: draw a bar on stderr.

    Raises:
        BadInput: there is nothing to export, or `out` exists already.
        NotFound: there is no such project.
    """
    check_may_write(out, "export", "folder", is_earlier=_is_export, overwrite=overwrite)
    finish_waiting_imports(store)
    if project is not None:
        with store.read() as conn:
            projects.require_project(conn, project)
    snapshot = Snapshot(store, project, include_model_labels, include_ties, min_votes, progress)
    revision = read_store_revision(store)
    with atomic_folder(out, existing="replace" if overwrite else "refuse") as draft:
        write_rows = write_json_lines if format == "jsonl" else write_dataset
        write_rows(snapshot, draft)
        if not any(snapshot.pairs.values()):
            filtered = ", ".join(f"{n} {why}" for why, n in snapshot.filters.items()) or "nobody judged anything yet"
            raise BadInput(
                f"store {store.safe_url}",
                expected="at least one pair with a strict preference",
                fix=f"judge or import more ({filtered})",
            )
        manifest = {
            "format": format,
            "rows": {s.value: snapshot.pairs[s] for s in Split},
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
            "content_hash": snapshot.compute_content_hash(),
            "created_at": utc_now().isoformat(),
        }
        (draft / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _is_export(path: Path) -> bool:
    """Whether a path is an export, or an empty folder, which holds nothing to lose."""
    return (path / "manifest.json").is_file() or (path.is_dir() and not any(path.iterdir()))
