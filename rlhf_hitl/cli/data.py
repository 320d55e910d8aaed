"""Commands `init`, `import` and `export`: the store, and data in and out of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, LabelModelOption, Result, SliceName, StoreUrl, command, make_table
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import ExportFormat, PairSelection
from rlhf_hitl.terminal import print_note
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, DEFAULT_PROJECT, Split
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.formats.checking import CheckReport
    from rlhf_hitl.formats.importing import ImportReport
    from rlhf_hitl.formats.record import ImportRecord
    from rlhf_hitl.store import Store
    from rlhf_hitl.types import Messages

CHECK_ROWS = 5
COMPLETIONS_SHOWN = 4  # side by side, by --check
LETTERS_SHOWN = 300  # of a message, by --check
NAMES_SHOWN = 30  # of what was not read
FORMAT_HELP = "Read this format (see --formats); auto recognises it by the first row."


@command("init")
def init_store_command(store: StoreUrl, json: AsJson = False) -> Result:
    """Create the store, or upgrade it to this version."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.comparisons import count_rows

    opened = Store.open(store, create=True)
    counts = count_rows(opened)
    data = {"store": opened.safe_url, "schema_version": opened.schema_version, "counts": counts}
    tables = {k: n for k, n in counts.items() if "." not in k}
    return Result(data, make_table(f"Store {opened.safe_url}, version {opened.schema_version}", tables))


@command(
    "import",
    if_interrupted="either nothing of it is in the store, or all of it was read and goes in next time. Give the same "
    "command again: nothing comes in twice",
)
def import_data_command(
    path: Annotated[
        str, typer.Argument(metavar="PATH_OR_HUB_ID", help="A file, a folder, or a hub id: owner/name[:config].")
    ] = "",
    *,
    store: StoreUrl,
    format: Annotated[str, typer.Option(help=FORMAT_HELP)] = "auto",
    split: Annotated[
        Split | None,
        typer.Option(help="Pin every prompt to this split instead of the file's own or the one its hash decides."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad lines and count them.")] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="Queue comparisons for raters even if they come with votes.")
    ] = False,
    overlap: Annotated[
        int, typer.Option(min=1, help="Ask raters for this many judgments of each queued comparison.")
    ] = 1,
    pairs: Annotated[
        PairSelection,
        typer.Option(help="Compare adjacent completions of a prompt, (1st, 2nd), (3rd, 4th), …, or all of them."),
    ] = "adjacent",
    limit: Annotated[int | None, typer.Option(min=1, help="Read only this many rows.")] = None,
    project: Annotated[str, typer.Option(help="Put the comparisons into this project.")] = DEFAULT_PROJECT,
    batch: Annotated[str, typer.Option(help="Name these comparisons, so that raters can be given only them.")] = "",
    map: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="COLUMN=NAME",
            help="Read a column under another name: question=prompt,annotator=rater. A path such as data.text or "
            "responses.0 goes into a column; COLUMN= leaves it out.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Show what would be read, the first rows side by side, and import nothing.")
    ] = False,
    check_rows: Annotated[int, typer.Option(min=1, help="With --check: show so many rows.")] = CHECK_ROWS,
    formats: Annotated[
        bool, typer.Option("--formats", help="List the formats that can be read, and import nothing.")
    ] = False,
    json: AsJson = False,
) -> Result:
    """Import prompts, completions, comparisons and votes from any known format. Importing them again adds nothing.

    If one line is bad, nothing is imported, unless --skip-bad is given. The store is created if there is none.

    An archive of `export --format archive` fills a new store with everything the old one held, including its people
    and their passwords, so import none from strangers.
    """
    from rlhf_hitl.formats import archive, describe_formats, open_source
    from rlhf_hitl.formats.column_map import ColumnMap
    from rlhf_hitl.formats.importing import import_path
    from rlhf_hitl.store import Store

    if formats:
        known = describe_formats() | {"archive": "a whole store, written by `rlhf-hitl export --format archive` (ZIP)"}
        width = max(len(name) for name in known) + 2
        return Result({"formats": known}, more=[f"{name:{width}}{about}" for name, about in known.items()])
    if not path:
        raise BadInput("PATH_OR_HUB_ID", expected="a file, a folder or a hub id", fix="name it, or see --formats")
    _collect_garbage_less_often()
    if format == "archive" or (format == "auto" and archive.is_archive(path)):
        incompatible = {
            "--split": split, "--skip-bad": skip_bad, "--queue": queue, "--overlap": overlap != 1,
            "--pairs": pairs != "adjacent", "--limit": limit, "--project": project != DEFAULT_PROJECT,
            "--batch": batch, "--map": map, "--check": check,
        }  # fmt: skip
        _refuse_with_archive(incompatible)
        archive.read_archive_manifest(path)  # before a store is made for a file that cannot be read
        opened = Store.open(store, create=True)
        manifest = archive.restore_archive(opened, path, progress=True)
        return Result({"path": path} | manifest, _make_archive_table(f"New from the archive {path}", manifest))
    column_map = ColumnMap.parse(map or ())
    if check:
        return _check(path, format=format, column_map=column_map, rows=check_rows, limit=limit, pairs=pairs)
    open_source(path, format, column_map)  # before a store is made for a missing file
    opened = Store.open(store, create=True)
    report = import_path(
        opened, path, format=format, skip_bad=skip_bad, split=split, overlap=overlap, queue=queue,
        limit=limit, pairs=pairs, project=project, batch=batch, column_map=column_map, progress=True,
    )  # fmt: skip
    _record(opened, "import", project, rows=report.rows, judgments=report.judgments)
    new = {k: getattr(report, k) for k in ("prompts", "completions", "comparisons", "judgments", "raters")}
    new |= {k: n for k in ("ratings", "images") if (n := getattr(report, k))}
    splits: dict[str, Any] = {f"prompts in {k}": n for k, n in report.by_split.items() if n}
    notes = {
        "dropped, both sides are the same": report.identical_sides,
        "rows that added nothing new": report.repeated_rows,
        "second votes of a rater, the first kept": report.repeated_votes,
        "bad lines skipped": report.bad_lines,
        "families that stayed in the split they were in": report.splits_kept,
    }
    noted = {k: n for k, n in notes.items() if n}
    met = report.rows + report.bad_lines
    more: list[Any] = [make_table(f"Of {say_count(met, 'row')}", noted)] if noted else []
    more += _make_reading_tables(report)
    more += [f"skipped {reason}" for reason in report.bad_reasons]
    return Result(report.as_dict(), make_table(f"New from {report.path} ({report.format})", new | splits), more=more)


def _check(path: str, **how: Any) -> Result:
    """Return what an import would read."""
    from rlhf_hitl.formats.checking import check_path

    report = check_path(path, **how)
    more = [make_table("Columns, and what they are read as", report.columns), *_make_reading_tables(report)]
    more.append(make_table("In the whole file" if how["limit"] is None else "In the rows read", report.counts))
    if report.bad_lines:
        what = say_count(report.bad_lines, "bad line")
        more.append(f"{what}: the import stops at the first, or leaves them out with --skip-bad")
        more += [f"bad: {reason}" for reason in report.bad_reasons]
    more.append("Nothing was imported.")
    title = f"{report.path} is read as {report.format}: {report.reason}"
    return Result(report.as_dict(), _make_first_rows_table(title, report.first), more=more)


def _make_first_rows_table(title: str, records: Sequence[ImportRecord]) -> Any:
    """Return the first records, a row each, with their completions side by side."""
    from rich.table import Table

    from rlhf_hitl.formats.checking import describe_vote, name_completion

    most = min(max((len(r.completions) for r in records), default=0), COMPLETIONS_SHOWN)
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in ("prompt", *(name_completion(i) for i in range(most)), "vote"):
        table.add_column(name, overflow="fold", ratio=None if name == "vote" else 1)
    for record in records:
        vote = record.vote
        shown = [_say_chat(c.messages) + f"\n[{c.policy}]" for c in record.completions[:most]]
        if (left := len(record.completions) - most) > 0:
            shown[-1] += f"\n… and {say_count(left, 'more completion')}"
        said = [describe_vote(vote)] + ([f"rater {vote.rater}"] if vote is not None else [])
        said += [f"reason: {_shorten(vote.rationale)}"] if vote is not None and vote.rationale else []
        said += [f"rated {', '.join(f'{r.value:g}' for r in record.ratings)}"] if record.ratings else []
        said += [f"{key}: {value}" for key, value in record.tags.items()]
        said += [f"tools: {len(record.tools)}"] if record.tools else []
        prompt = f"{record.place}\n{_say_chat(record.prompt)}"
        table.add_row(prompt, *shown, *[""] * (most - len(shown)), "\n".join(said))
    return table


def _say_chat(messages: Messages) -> str:
    """Return messages in short for a terminal: the role of each, but of a lone answer, and the start of its text."""
    is_lone = len(messages) == 1 and messages[0].role in ("user", "assistant")
    said = []
    for m in messages:
        images = f" ({say_count(len(m.images), 'image')})" if m.images else ""
        said.append(("" if is_lone else f"{m.role}: ") + _shorten(m.read_all_text()) + images)
    return "\n".join(said)


def _shorten(text: str) -> str:
    return text if len(text) <= LETTERS_SHOWN else f"{text[:LETTERS_SHOWN]}… ({len(text):,} letters)"


def _make_reading_tables(report: ImportReport | CheckReport) -> list[Any]:
    """Return what of a file was not read, and what readers decided."""
    titles = {"Not read": report.unread, "Note": report.noted}
    tables: list[Any] = []
    for title, counts in titles.items():
        if counts:
            tables.append(make_table(title, dict(list(counts.items())[:NAMES_SHOWN])))
        if (left := len(counts) - NAMES_SHOWN) > 0:
            what = "that were not read" if counts is report.unread else "of the notes"
            tables.append(f"… and {left:,} more {what}: --json names all")
    return tables


@command("export", if_interrupted="nothing was written. Give the same command again")
def export_data_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder or archive to write. It must not exist yet.")],
    store: StoreUrl,
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="Write a dataset in Parquet for TRL, `datasets` and the hub (trl), its rows as JSON lines (jsonl), "
            "what reward-bench, Argilla or Label Studio take in, or the whole store (archive)."
        ),
    ] = "trl",
    project: Annotated[str | None, typer.Option(help="Export only this project.")] = None,
    slice: SliceName = None,
    model_labels: Annotated[
        bool, typer.Option(help="Include pairs that were accepted on a model's score, in the train split only.")
    ] = True,
    ties: Annotated[
        bool, typer.Option("--ties", help="Include pairs of which raters prefer neither, for scripts/train_reward.py.")
    ] = False,
    judges: Annotated[
        bool,
        typer.Option(
            "--with-judges/--without-judges",
            help="Include what AI judges said, or leave it out. Their votes count in labels of the train split only.",
        ),
    ] = True,
    min_votes: Annotated[int, typer.Option(min=1, help="Leave out pairs with fewer votes than this.")] = 1,
    label_model: LabelModelOption = DEFAULT_LABEL_MODEL,
    license: Annotated[
        str, typer.Option(help="The licence that the dataset card names, as the hub writes it, such as cc-by-4.0.")
    ] = "unknown",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Also upload it to the hub, with the token in HF_TOKEN. Private."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new dataset on the hub public.")] = False,
    revision: Annotated[str | None, typer.Option(help="Upload to this branch, made where it is missing.")] = None,
    json: AsJson = False,
) -> Result:
    """Write a dataset snapshot for TRL: prompt, chosen and rejected, with all judgments, a card and a manifest.

    Rankings, ratings and the better answers that raters wrote are in it too.

    An archive is a backup instead: everything in the store at one moment, while others go on working. `import` fills a
    new store with it, on SQLite or PostgreSQL. It holds password hashes and webhook secrets, so only the owner of the
    file may read it.
    """
    import rlhf_hitl.hub as hub
    from rlhf_hitl.formats import archive
    from rlhf_hitl.formats.export import export_snapshot as write
    from rlhf_hitl.store import Store

    _collect_garbage_less_often()
    if push_to_hub is not None:
        hub.check_repo(push_to_hub)
        hub.require_token()  # before the work
    elif public or revision is not None:
        raise BadInput(
            "--public" if public else "--revision", expected="--push-to-hub", fix="add --push-to-hub OWNER/NAME"
        )
    if format == "archive":
        _refuse_with_archive(
            {
                "--license": license != "unknown",
                "--push-to-hub": push_to_hub,
                "--project": project,
                "--slice": slice,
                "--no-model-labels": not model_labels,
                "--ties": ties,
                "--without-judges": not judges,
                "--min-votes": min_votes > 1,
                "--label-model": label_model != DEFAULT_LABEL_MODEL,
            }
        )
        opened = Store.open(store)
        manifest = archive.write_archive(opened, out, overwrite=overwrite, progress=True)
        _record_export(opened, format, None, with_accepted=True)
        warning = "It holds password hashes and webhook secrets: keep it as safe as the store."
        return Result(
            {"out": str(out)} | manifest, _make_archive_table(f"All of the store in {out}", manifest), more=[warning]
        )
    opened = Store.open(store)
    manifest = write(
        opened, out, format=format, project=project, slice=slice, include_model_labels=model_labels,
        include_ties=ties, min_votes=min_votes, label_model=label_model, include_judges=judges, license=license,
        repo=push_to_hub, overwrite=overwrite, progress=True,
    )  # fmt: skip
    _record_export(opened, format, project, with_accepted=model_labels)
    columns = ("rows", "rankings", "judgments", "demonstrations", "ratings")
    rows = [(s.value, *(manifest[column][s.value] for column in columns)) for s in Split]
    title = f"Exported to {out}" + (" (with simulated judgments)" if manifest["simulated"] else "")
    more: list[Any] = []
    if by_model := manifest["labels"]["model"]:
        by_raters = manifest["labels"]["human"] + manifest["labels"]["judge"]
        pairs = say_count(by_model + by_raters, "pair")
        more.append(
            f"Of the {pairs}, {by_raters:,} carry raters' labels and {by_model:,} a model's: accepted on its score, in "
            "the train split only. Leave them out with --no-model-labels."
        )
    if manifest["filters"]:
        has_judgments = format in ("trl", "jsonl")
        title_of_filters = "Left out of the pairs, kept in the judgments" if has_judgments else "Left out"
        more.append(make_table(title_of_filters, manifest["filters"]))
    more += [f"changed: {n:,} {why}" for why, n in manifest["changed"].items()]
    more.append(f"{manifest['content_hash']} at store revision {manifest['store_revision']}")
    pushed: dict[str, Any] = {}
    if push_to_hub is not None:
        message = f"Export of store revision {manifest['store_revision']}"
        try:
            url = hub.push_folder(
                out, push_to_hub, repo_type="dataset", message=message, public=public, revision=revision
            )
        except hub.HubFailure as e:
            raise hub.HubFailure(f"{e}. The export is whole in {out}: what failed is only the upload") from e
        pushed = {"pushed_to": push_to_hub, "url": url}
        more.append(f"uploaded to {push_to_hub}: {url}")
    return Result(
        {"out": str(out)} | manifest | pushed, make_table(title, rows, ("split", "pairs", *columns[1:])), more=more
    )


def _record(store: Store, action: str, subject: str, **details: Any) -> None:
    """Record an import in the audit log, as the API does."""
    from rlhf_hitl.store import audit

    with _note_failure(action), store.write() as conn:
        audit.record(conn, audit.CLI, action, subject, **details)


def _record_export(store: Store, format: str, project: str | None, *, with_accepted: bool) -> None:
    """Record an export in the audit log, as the API does."""
    from rlhf_hitl.store import accepted, audit

    with _note_failure(accepted.EXPORT), store.write() as conn:
        accepted.record_export(conn, audit.CLI, format, project=project, with_accepted=with_accepted)


@contextmanager
def _note_failure(action: str) -> Iterator[None]:
    """Say in a note that the audit log lacks something, where the store cannot be written: an export does without.

    What was read or written is complete by now.
    """
    from rlhf_hitl.store import StoreFailure

    try:
        yield
    except StoreFailure as e:
        print_note(f"note: this {action} is not in the audit log: {e}")


def _collect_garbage_less_often() -> None:
    # Thousands of rows are made and dropped, and none is in a reference cycle: looking for cycles takes a fifth of the
    # time.
    gc.set_threshold(20_000)


def _refuse_with_archive(incompatible: dict[str, Any]) -> None:
    if flags := [flag for flag, value in incompatible.items() if value]:
        raise BadInput(", ".join(flags), expected="none of them: an archive is a whole store", fix="leave them out")


def _make_archive_table(title: str, manifest: dict[str, Any]) -> Any:
    return make_table(title, {name: entry["rows"] for name, entry in manifest["tables"].items() if entry["rows"]})
