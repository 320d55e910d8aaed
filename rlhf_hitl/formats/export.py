"""Export a snapshot of the store's preferences, in a form that other tools read as it is.

`trl`, for `load_dataset`, TRL's command line and the hub:

OUT/README.md        the card: what is in it, and where, for people and for `datasets`
OUT/manifest.json    counts, filters, the store's revision, the content hash
OUT/pairs/           strictly preferred pairs, one Parquet a split (train, calibration, heldout), as all that follow
OUT/rankings/        all completions of a comparison with the ranks each vote gave, ties too
OUT/judgments/       every judgment: also ties, both bad, skips, flags and corrections
OUT/demonstrations/  the better answers that raters wrote, for TRL's SFTTrainer
OUT/ratings/         what raters said of single completions

`jsonl` has the rows of pairs, rankings and ratings as JSON lines. The forms of other tools are in `export_rewardbench`,
`export_argilla` and `export_label_studio`. `snapshot` reads the rows, `export_files` writes them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rlhf_hitl import __version__
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import atomic_folder, check_may_write
from rlhf_hitl.formats import SnapshotFormat
from rlhf_hitl.formats.dataset_card import check_license, write_dataset_card
from rlhf_hitl.formats.export_files import WrittenTables, write_json_lines, write_parquet
from rlhf_hitl.formats.export_schema import CONFIGS
from rlhf_hitl.formats.snapshot import Snapshot
from rlhf_hitl.labels.fitting import describe_raters, fit_label_model
from rlhf_hitl.store import Store, projects
from rlhf_hitl.store.export_query import JsonFields
from rlhf_hitl.store.imports import finish_waiting_imports
from rlhf_hitl.store.judgments import read_store_revision
from rlhf_hitl.store.slices import find_slice_ids
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, LabelModelName, Split, utc_now


def export_snapshot(
    store: Store,
    out: Path,
    *,
    format: SnapshotFormat = "trl",
    project: str | None = None,
    slice: str | None = None,
    include_model_labels: bool = True,
    include_ties: bool = False,
    include_judges: bool = True,
    min_votes: int = 1,
    label_model: LabelModelName = DEFAULT_LABEL_MODEL,
    license: str = "unknown",
    repo: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> JsonFields:
    """Write a snapshot to the folder `out` and return its manifest. The same store gives the same content hash.

    Votes that arrive while this runs may be in it; each is in both the judgments and the labels, or in neither.

    Args:
        format: what to write, see above.
        project: export this project only.
        slice: export only the comparisons of this slice, and no ratings, which are of no comparison.
        include_model_labels: also pairs that were accepted on a reward model's score. They are in train only, because
            a model must not be measured on its own labels.
        include_ties: also pairs where raters prefer neither, for trainers that read `p_tie`; TRL's own trainers take
            every row as a strict preference.
        include_judges: also what models that judge have said. Their votes are in labels of the train split only.
        min_votes: leave out pairs with fewer votes.
        label_model: how votes become labels. A fitted one reads the votes of the whole store.
        license: what the card says of it, as the hub names licences.
        repo: the hub id that it is for, which the card then names.
        overwrite: replace an earlier export.
        progress: draw a bar on stderr.

    Raises:
        BadInput: there is nothing to export, or `out` exists already.
        NotFound: there is no such project or slice.
    """
    check_license(license)
    check_may_write(out, "export", "folder", is_earlier=_is_export, overwrite=overwrite)
    finish_waiting_imports(store)
    if project is not None:
        with store.read() as conn:
            projects.require_project(conn, project)
    revision, chosen = read_store_revision(store), find_slice_ids(store, slice)
    fitted = fit_label_model(store, label_model, judges=include_judges)
    snapshot = Snapshot(store, project, include_model_labels, include_ties, min_votes, progress, fitted, include_judges)
    snapshot.comparison_ids = chosen
    with atomic_folder(out, existing="replace" if overwrite else "refuse") as draft:
        written = _write_rows(snapshot, draft, format)
        if not any(snapshot.pairs.values()) and not any(snapshot.ratings.values()):
            filtered = ", ".join(f"{n} {why}" for why, n in snapshot.filters.items()) or "nobody judged anything yet"
            raise BadInput(
                f"store {store.safe_url}",
                expected="at least one pair with a strict preference",
                fix=f"judge or import more ({filtered})",
            )
        manifest = {
            "format": format,
            "rows": {s.value: snapshot.pairs[s] for s in Split},
            "labels": {source: snapshot.sources[source] for source in ("human", "judge", "model")},
            **{c: {s.value: snapshot.count_rows(c, s) for s in Split} for c in CONFIGS if c != "pairs"},
            "project": project,
            **({} if slice is None else {"slice": slice}),
            "filters": dict(sorted(snapshot.filters.items())),
            "changed": dict(sorted(written.changed.items())),
            "min_votes": min_votes,
            "label_model": label_model,
            "reliability": describe_raters(fitted),
            "include_model_labels": include_model_labels,
            "include_ties": include_ties,
            "include_judges": include_judges,
            "simulated": snapshot.simulated,
            "simulated_judgments": snapshot.simulated_judgments,
            "judge_judgments": snapshot.judge_judgments,
            "raters": len(snapshot.raters),
            "agreement": {name: asdict(measured) for name, measured in snapshot.agreement.measure().items()},
            "license": license,
            "store_revision": revision,
            "schema_version": store.schema_version,
            "rlhf_hitl_version": __version__,
            "content_hash": snapshot.compute_content_hash(),
            "created_at": utc_now().isoformat(),
        }
        if tables := _TABLES_WITH_CARD.get(format):
            write_dataset_card(draft, manifest, snapshot, written, tables, repo)
        (draft / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


#: Format → the tables of Parquet that it has, and a card says what is in them.
_TABLES_WITH_CARD = {"trl": CONFIGS, "rewardbench": ("pairs",)}


def _write_rows(snapshot: Snapshot, folder: Path, format: SnapshotFormat) -> WrittenTables:
    match format:
        case "trl":
            return write_parquet(snapshot, folder)
        case "jsonl":
            return write_json_lines(snapshot, folder)
        case "rewardbench":
            from rlhf_hitl.formats.export_rewardbench import write_rewardbench

            return write_rewardbench(snapshot, folder)
        case "argilla":
            from rlhf_hitl.formats.export_argilla import write_argilla

            return write_argilla(snapshot, folder)
        case "label_studio":
            from rlhf_hitl.formats.export_label_studio import write_label_studio

            return write_label_studio(snapshot, folder)


def _is_export(path: Path) -> bool:
    """Whether a path is an export, or an empty folder, which holds nothing to lose."""
    return (path / "manifest.json").is_file() or (path.is_dir() and not any(path.iterdir()))
