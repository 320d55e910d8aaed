"""The archive: one file with everything a store holds, as a backup or to move it to another database.

It is a ZIP of one NDJSON file for each table, the images and, last, a manifest. The first line of a table's file holds
the column names; each further line is a row in the form of `store/table_copy.py`, in order of the primary key. Nothing
in it depends on the database or on the time of writing: a store restored from an archive gives the same archive again,
byte for byte. Infinite numbers are written as Python's `json` writes them.

It is read as a stream into one transaction; nothing is unpacked to disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tqdm import tqdm

from rlhf_hitl import __version__
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import atomic_file, check_may_write, make_private_folder
from rlhf_hitl.formats.limits import Limits
from rlhf_hitl.store import Store, imports, table_copy
from rlhf_hitl.store.db import list_schema_versions
from rlhf_hitl.store.earlier_version import open_earlier_version
from rlhf_hitl.store.tables import images
from rlhf_hitl.types import ImagePart
from rlhf_hitl.types.images import MAX_BYTES, read_image

KIND = "rlhf_hitl archive"
MANIFEST, IMAGES = "manifest.json", "images/"
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20  # limits the memory that a crafted file can use
COMPRESSION_LEVEL = 1  # files are a fifth larger than with zlib's default, and written three times as fast

ArchiveManifest = dict[str, Any]


def is_archive(path: str | Path) -> bool:
    """Return whether a file starts like an archive. No other format that is read is a ZIP."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as f:
        return f.read(4) == b"PK\x03\x04"


def write_archive(store: Store, out: Path, *, overwrite: bool = False, progress: bool = False) -> ArchiveManifest:
    """Write everything that `store` holds at this moment to the file `out` and return the manifest.

    It contains password hashes, so only the file's owner can read it. The secrets of webhooks are in it as the store
    keeps them, sealed: whoever restores it elsewhere needs the key too (`store/sealing.py`).

    Raises:
        BadInput: `out` exists already, or with `overwrite` is not an archive; a row has more than 64 MiB.
    """
    check_may_write(out, "archive", "file", is_earlier=is_archive, overwrite=overwrite)
    make_private_folder(out.parent)
    with atomic_file(out, sync=True) as draft:
        packed = zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL)
        with packed as archive, _open_snapshot(store) as conn:
            manifest = {
                "kind": KIND,
                "schema_version": list_schema_versions()[0],
                "rlhf_hitl_version": __version__,
                "tables": _write_tables(archive, conn, progress),
            }
            for image_id in conn.execute(sa.select(images.c.id).order_by(images.c.id)).scalars():
                archive.writestr(zipfile.ZipInfo(_get_image_name(image_id)), store.images.load(image_id))
            with archive.open(MANIFEST, "w") as member:
                member.write((json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def read_archive_manifest(path: str | Path) -> ArchiveManifest:
    """Return the manifest of an archive.

    Raises:
        BadInput: the archive is damaged, or this version cannot read it.
    """
    with _open_archive(path) as archive:
        return _load_manifest(archive, str(path))


def restore_archive(store: Store, path: str | Path, *, progress: bool = False) -> ArchiveManifest:
    """Fill a new store with everything an archive holds or, if anything is wrong with it, with nothing.

    Its rows are checked against the types of the program and against each other, so that what is restored can be read.

    The writer of an archive decides who can sign in to the store: do not use archives of strangers.

    Raises:
        BadInput: the store is not new, or the archive is damaged, altered or of another version.
    """
    with _open_archive(path) as archive, store.write() as conn:
        manifest = _load_manifest(archive, str(path))
        tables = manifest["tables"]
        table_copy.lock_new_store(store, conn)
        total = sum(entry["rows"] for entry in tables.values())
        image_sizes = _restore_images(archive, store, str(path))
        with tqdm(total=total, desc=Path(path).name, unit=" rows", disable=None if progress else True) as bar:

            def read_table(table: str) -> tuple[list[str], Iterator[table_copy.PlainRow]]:
                rows = _read_rows(archive, table, tables[table], str(path))
                return list(next(rows)), (row for row in rows if bar.update() or True)

            version = manifest["schema_version"]
            if version == list_schema_versions()[0]:
                _check_tables(tables, table_copy.TABLE_COLUMNS, read_table, str(path))
                table_copy.fill_store(store, conn, lambda table: read_table(table)[1])
            else:
                with open_earlier_version(version, store.sealer.seal) as earlier:
                    _check_tables(tables, earlier.columns, read_table, str(path))
                    earlier.step_up(read_table)
                    table_copy.fill_store(store, conn, earlier.read_table)
        sizes = {row.id: row.bytes for row in conn.execute(sa.select(images.c.id, images.c.bytes))}
        if image_sizes.keys() != sizes.keys():
            raise _make_damage_error(str(path), "its images are not those that its rows name")
        for id in (id for id, size in sizes.items() if size == 0):
            conn.execute(images.update().where(images.c.id == id).values(bytes=image_sizes[id]))
    return manifest


def _restore_images(archive: zipfile.ZipFile, store: Store, path: str) -> dict[str, int]:
    """Keep the images of an archive and return id → bytes of its file. Each is made anew, as one from any other file.

    An archive that is refused later leaves them: they are files that no row names.
    """
    sizes = {}
    for member in archive.infolist():
        if not member.filename.startswith(IMAGES):
            continue
        with _report_damage(f"{path}: {member.filename}"):
            data = archive.read(member) if member.file_size <= MAX_BYTES else b""
        try:
            id, png = read_image(data)
        except BadInput as e:
            raise _make_damage_error(f"{path}: {member.filename}", str(e)) from e
        if member.filename != _get_image_name(id):
            raise _make_damage_error(f"{path}: {member.filename}", "its name is not that of its pixels")
        sizes[id] = store.images.save(ImagePart(id, png=png))
    return sizes


def _check_tables(
    tables: dict[str, Any],
    columns: Mapping[str, Sequence[str]],
    read_table: Callable[[str], tuple[list[str], Any]],
    path: str,
) -> None:
    """Check that an archive has the tables of its version, with their columns."""
    if set(tables) != set(columns):
        raise _make_damage_error(f"{path}: {MANIFEST}", "its tables are not those of its version")
    for table, names in columns.items():
        if sorted(read_table(table)[0]) != sorted(names):
            raise _make_damage_error(f"{path}: {_get_member_name(table)}", "line 1 is not valid")


@contextmanager
def _open_snapshot(store: Store) -> Iterator[Connection]:
    """Give a connection that sees the store at one moment at which no import is in it in part."""
    while True:
        imports.finish_waiting_imports(store)
        with store.snapshot() as conn:
            if not imports.has_waiting_imports(conn):
                yield conn
                return


def _write_tables(archive: zipfile.ZipFile, conn: Connection, progress: bool) -> dict[str, Any]:
    tables = {}
    with tqdm(
        total=sum(table_copy.count_table_rows(conn).values()),
        desc="export",
        unit=" rows",
        disable=None if progress else True,
    ) as bar:
        for table, columns in table_copy.TABLE_COLUMNS.items():
            digest, n = hashlib.sha256(), 0
            # With a plain name instead of a ZipInfo no time of writing is stored.
            with archive.open(_get_member_name(table), "w", force_zip64=True) as member:
                for batch in chain([[columns]], table_copy.read_table_rows(conn, table)):
                    lines = "".join(_encode_row(table, row) for row in batch).encode()
                    digest.update(lines)
                    member.write(lines)
                    n += len(batch)
                    bar.update(len(batch))
            tables[table] = {"rows": n - 1, "sha256": digest.hexdigest()}
    return tables


def _get_member_name(table: str) -> str:
    return f"{table}.ndjson"


def _get_image_name(id: str) -> str:
    return f"{IMAGES}{id}.png"


def _encode_row(table: str, row: table_copy.PlainRow) -> str:
    line = _encode(row) + "\n"
    if len(line) > MAX_LINE_BYTES:
        raise BadInput(
            f"row {row[0]} of {table}, {len(line) >> 20} MiB long",
            expected=f"rows of at most {MAX_LINE_BYTES >> 20} MiB",
            fix="back this store up with the tools of its database",
        )
    return line


_encode = json.JSONEncoder(separators=(",", ":")).encode


@contextmanager
def _open_archive(path: str | Path) -> Iterator[zipfile.ZipFile]:
    with _report_damage(str(path)):
        archive = zipfile.ZipFile(path)
    with archive:
        members = archive.infolist()
        # Of other methods, a block can expand to gigabytes before anything is read of it.
        if not {m.compress_type for m in members} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise _make_damage_error(str(path), "it is packed in another way than this program packs")
        Limits.load().check_expansion(str(path), Path(path).stat().st_size, sum(m.file_size for m in members))
        yield archive


@contextmanager
def _report_damage(place: str) -> Iterator[None]:
    """Raise BadInput for every error that damaged bytes of a ZIP can cause."""
    try:
        yield
    # `zipfile` checks little: an altered length or flag can cause any of these errors.
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, LookupError) as e:
        raise _make_damage_error(place, str(e) or type(e).__name__) from e
    except OSError as e:  # an altered offset can cause a seek to before the start of the file
        if e.errno != errno.EINVAL:
            raise
        raise _make_damage_error(place, str(e) or type(e).__name__) from e


def _make_damage_error(place: str, reason: str) -> BadInput:
    return BadInput(place, expected="a whole archive", fix=f"copy or export it again; nothing was imported ({reason})")


def _load_manifest(archive: zipfile.ZipFile, path: str) -> ArchiveManifest:
    place = f"{path}: {MANIFEST}"
    with _report_damage(place), archive.open(MANIFEST) as member:
        manifest = json.loads(member.read(BLOCK_BYTES))
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise _make_damage_error(place, "it is not a manifest of this program")
    versions = list_schema_versions()
    if (version := manifest.get("schema_version")) not in versions:
        raise BadInput(
            f"{path} of version {version}",
            expected=f"an archive of version {versions[0]} or older",
            fix=f"upgrade rlhf_hitl: it was written by rlhf_hitl {manifest.get('rlhf_hitl_version')}",
        )
    tables = manifest.get("tables")
    if not isinstance(tables, dict):
        raise _make_damage_error(place, "its tables are not those of its version")
    rest = sorted(name for name in archive.namelist() if not name.startswith(IMAGES))
    if rest != sorted([MANIFEST, *map(_get_member_name, tables)]):
        raise _make_damage_error(path, "it holds other files")
    if not all(isinstance(entry, dict) and isinstance(entry.get("rows"), int) for entry in tables.values()):
        raise _make_damage_error(place, "it does not count the rows")
    return manifest


def _read_rows(archive: zipfile.ZipFile, table: str, entry: dict[str, Any], path: str) -> Iterator[table_copy.PlainRow]:
    """Yield the names of a table's columns and its rows. After the last, their number and hash have been checked."""
    place = f"{path}: {_get_member_name(table)}"
    digest, n, limits = hashlib.sha256(), -1, Limits.load()
    with _report_damage(place), archive.open(_get_member_name(table)) as member:
        for n, line in enumerate(_read_lines(member, digest, place)):
            limits.check_values(f"{place}:{n + 1}", line)
            row = json.loads(line)
            if not isinstance(row, list) or (n == 0 and not all(isinstance(c, str) for c in row)) or n > entry["rows"]:
                raise _make_damage_error(place, f"line {n + 1} is not valid")
            yield row
    if n != entry["rows"] or digest.hexdigest() != entry.get("sha256"):
        raise _make_damage_error(place, "it differs from the manifest")


def _read_lines(member: IO[bytes], digest: Any, place: str) -> Iterator[bytes]:
    incomplete_line = b""
    while block := member.read(BLOCK_BYTES):
        digest.update(block)
        *lines, incomplete_line = (incomplete_line + block).split(b"\n")
        yield from lines
        if len(incomplete_line) > MAX_LINE_BYTES:
            raise _make_damage_error(place, f"a line of more than {MAX_LINE_BYTES >> 20} MiB")
    if incomplete_line:
        raise _make_damage_error(place, "its last line is incomplete")
