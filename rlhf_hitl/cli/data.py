"""Commands: the store, and data in and out of it."""

from __future__ import annotations

import gc
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, table
from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import DEFAULT_PROJECT, Split

FORMAT_HELP = (
    "native, kwise, llmfao, mt_bench, llmbar, rewardbench, rewardbench2, hh, trl or archive; auto: by its first row."
)


class Pairs(StrEnum):
    ADJACENT = "adjacent"
    ALL = "all"


class ExportFormat(StrEnum):
    TRL = "trl"
    JSONL = "jsonl"
    ARCHIVE = "archive"


@command("init")
def init(store: StoreUrl, json: AsJson = False) -> Result:
    """Create the store, or upgrade it to this version."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.comparisons import count_rows

    opened = Store.open(store, create=True)
    counts = count_rows(opened)
    data = {"store": opened.safe_url, "schema_version": opened.schema_version, "counts": counts}
    held = {k: n for k, n in counts.items() if "." not in k}
    return Result(data, table(f"Store {opened.safe_url}, version {opened.schema_version}", held))


@command("import")
def import_(
    path: Annotated[str, typer.Argument(metavar="PATH_OR_HUB_ID", help="A file, a folder or owner/name[:config].")],
    store: StoreUrl,
    format: Annotated[str, typer.Option(help=FORMAT_HELP)] = "auto",
    split: Annotated[
        Split | None, typer.Option(help="Pin every prompt to this split, not the file's own or the prompt's hash.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad lines out and count them.")] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="Ask raters also about comparisons that come with votes.")
    ] = False,
    overlap: Annotated[int, typer.Option(min=1, help="Judgments wanted of each comparison raters are asked.")] = 1,
    pairs: Annotated[
        Pairs, typer.Option(help="Which completions of a prompt to compare: (1st, 2nd), (3rd, 4th), … or all pairs.")
    ] = Pairs.ADJACENT,
    limit: Annotated[int | None, typer.Option(min=1, help="Read this many rows only.")] = None,
    project: Annotated[str, typer.Option(help="The project the comparisons belong to.")] = DEFAULT_PROJECT,
    batch: Annotated[
        str, typer.Option(help="A name for these comparisons, so that raters can be given just them.")
    ] = "",
    json: AsJson = False,
) -> Result:
    """Bring in prompts, completions, comparisons and votes from any known format. Twice adds nothing.

    One bad line, and nothing is imported, unless --skip-bad. The store is created where there is none.

    An archive of `export --format archive` fills a new store with all that was in the old one, its people and their
    passwords too: take none from strangers.
    """
    from rlhf_hitl.formats import archive, open_source
    from rlhf_hitl.formats.importing import import_path
    from rlhf_hitl.store import Store

    _look_for_cycles_less_often()
    if format == "archive" or (format == "auto" and archive.is_archive(path)):
        given = {
            "--split": split, "--skip-bad": skip_bad, "--queue": queue, "--overlap": overlap != 1,
            "--pairs": pairs is not Pairs.ADJACENT, "--limit": limit, "--project": project != DEFAULT_PROJECT,
            "--batch": batch,
        }  # fmt: skip
        _refuse_with_archive(given)
        archive.read_archive_manifest(path)  # before a store is made for a file that cannot be read
        manifest = archive.restore_archive(Store.open(store, create=True), path, progress=True)
        return Result({"path": path} | manifest, _held(f"New from the archive {path}", manifest))
    open_source(path, format)  # before a store is made for a file that is not there
    report = import_path(
        Store.open(store, create=True), path, format=format, skip_bad=skip_bad, split=split, overlap=overlap,
        queue=queue, limit=limit, pairs=pairs.value, project=project, batch=batch, progress=True,
    )  # fmt: skip
    new = {k: getattr(report, k) for k in ("prompts", "completions", "comparisons", "judgments", "raters")}
    splits: dict[str, Any] = {f"prompts in {k}": n for k, n in report.by_split.items() if n}
    notes = {
        "dropped, both sides are the same": report.identical_sides,
        "rows that said nothing new": report.repeated_rows,
        "second votes of a rater, the first kept": report.repeated_votes,
        "bad lines skipped": report.bad_lines,
        "families that stayed in the split they were in": report.splits_kept,
    }
    more: list[Any] = (
        [table(f"Of {report.rows} rows", noted)] if (noted := {k: n for k, n in notes.items() if n}) else []
    )
    more += [f"skipped {reason}" for reason in report.bad_reasons]
    return Result(report.as_dict(), table(f"New from {report.path} ({report.format})", new | splits), more=more)


@command("export")
def export(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder (or archive) to write; it must not exist yet.")
    ],
    store: StoreUrl,
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="trl: a saved DatasetDict; jsonl: the same rows as JSON lines; archive: the whole store in one file."
        ),
    ] = ExportFormat.TRL,
    project: Annotated[str | None, typer.Option(help="Only what belongs to this project.")] = None,
    model_labels: Annotated[
        bool, typer.Option(help="With pairs that were accepted on a model's score; in train only.")
    ] = True,
    ties: Annotated[
        bool, typer.Option("--ties", help="With pairs of which raters prefer neither, for scripts/train_reward.py.")
    ] = False,
    min_votes: Annotated[int, typer.Option(min=1, help="Leave out pairs with fewer votes.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    json: AsJson = False,
) -> Result:
    """Write a dataset snapshot: prompt, chosen, rejected for TRL, beside them every judgment, what raters wrote as a
    better answer, and a manifest.

    An archive is a backup instead: all there is, at one moment, while others go on working. `import` fills a new store
    with it, on SQLite or PostgreSQL. It holds password hashes and webhook secrets, so only its owner may read the file.
    """
    from rlhf_hitl.formats import archive
    from rlhf_hitl.formats.export import export_snapshot as write
    from rlhf_hitl.store import Store

    _look_for_cycles_less_often()
    if format is ExportFormat.ARCHIVE:
        _refuse_with_archive(
            {
                "--project": project,
                "--no-model-labels": not model_labels,
                "--ties": ties,
                "--min-votes": min_votes > 1,
            }
        )
        manifest = archive.write_archive(Store.open(store), out, overwrite=overwrite, progress=True)
        warning = "It holds password hashes and webhook secrets: keep it as safe as the store."
        return Result({"out": str(out)} | manifest, _held(f"All of the store in {out}", manifest), more=[warning])
    manifest = write(
        Store.open(store), out, format=format.value, project=project, include_model_labels=model_labels,
        include_ties=ties, min_votes=min_votes, overwrite=overwrite, progress=True,
    )  # fmt: skip
    columns = ("rows", "rankings", "judgments", "demonstrations")
    rows = [(s.value, *(manifest[column][s.value] for column in columns)) for s in Split]
    title = f"Exported to {out}" + (" (with simulated judgments)" if manifest["simulated"] else "")
    more: list[Any] = []
    if manifest["filters"]:
        more.append(table("Left out of the pairs, kept in the judgments", manifest["filters"]))
    more.append(f"{manifest['content_hash']} at store revision {manifest['store_revision']}")
    return Result({"out": str(out)} | manifest, table(title, rows, ("split", "pairs", *columns[1:])), more=more)


def _look_for_cycles_less_often() -> None:
    # Rows come and go by the thousand and hold no cycles: Python would spend a fifth of the time looking for some.
    gc.set_threshold(20_000)


def _refuse_with_archive(given: dict[str, Any]) -> None:
    if flags := [flag for flag, value in given.items() if value]:
        raise BadInput(", ".join(flags), expected="none of them: an archive is a whole store", fix="leave them out")


def _held(title: str, manifest: dict[str, Any]) -> Any:
    return table(title, {name: said["rows"] for name, said in manifest["tables"].items() if said["rows"]})
