"""The archive: one file with everything a store holds, to be kept or to be taken to another database.

It is a ZIP of one NDJSON file a table and, last, a manifest. A table's file begins with a line of column names; each
further line is a row, as `store/table_copy.py` says what a row is, in order of the primary key. Nothing in it depends
on the database or on the time of writing: a store filled from an archive gives that archive again, byte for byte.
Infinite numbers are written as Python's `json` writes them.

It is read as a stream, straight into one transaction: nothing is unpacked to disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

from sqlalchemy.engine import Connection
from tqdm import tqdm

from rlhf_hitl import __version__
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import atomic_file
from rlhf_hitl.store import Store, table_copy

KIND = "rlhf_hitl archive"
MANIFEST = "manifest.json"
BLOCK = 1 << 20
LONGEST_LINE = 64 << 20  # bytes; bounds the memory a crafted file can ask for
LEVEL = 1  # of compression: a fifth larger than zlib's default, three times as quick

Manifest = dict[str, Any]


def is_archive(path: str | Path) -> bool:
    """Whether a file begins like an archive. No other format we read is a ZIP."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as f:
        return f.read(4) == b"PK\x03\x04"


def write_archive(store: Store, out: Path, *, overwrite: bool = False, progress: bool = False) -> Manifest:
    """Write everything `store` holds at this moment to the file `out` and return the manifest.

    Password hashes and the secrets webhooks are signed with are in it, so only the file's owner may read it.

    Raises:
        BadInput: `out` exists already, or with `overwrite` is no archive; a row of more than 64 MiB.
    """
    _check_free(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out, private=True, sync=True) as draft:
        packed = zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL)
        with packed as archive, store.snapshot() as conn:
            manifest = {
                "kind": KIND,
                "schema_version": table_copy.list_schema_versions()[0],
                "rlhf_hitl_version": __version__,
                "tables": _write_tables(archive, conn, progress),
            }
            with archive.open(MANIFEST, "w") as member:
                member.write((json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def read_archive_manifest(path: str | Path) -> Manifest:
    """What an archive says of itself.

    Raises:
        BadInput: no whole archive, or one that this version cannot read.
    """
    with _opened(path) as archive:
        return _manifest(archive, str(path))


def restore_archive(store: Store, path: str | Path, *, progress: bool = False) -> Manifest:
    """Fill a new store with all that an archive holds or, where anything is wrong with it, with nothing.

    Whoever wrote the archive says who may sign in to the store: take none from strangers.

    Raises:
        BadInput: the store is not new; no whole archive, one of another version, or one that was altered.
    """
    with _opened(path) as archive, store.write() as conn:
        manifest = _manifest(archive, str(path))
        tables = manifest["tables"]
        table_copy.lock_new_store(store, conn)
        total = sum(said["rows"] for said in tables.values())
        with tqdm(total=total, desc=Path(path).name, unit=" rows", disable=not progress) as bar:

            def contents(table: str) -> Iterator[table_copy.PlainRow]:
                for row in _rows(archive, table, tables[table], str(path)):
                    bar.update()
                    yield row

            table_copy.fill_store(store, conn, contents)
    return manifest


def _write_tables(archive: zipfile.ZipFile, conn: Connection, progress: bool) -> dict[str, Any]:
    tables = {}
    with tqdm(
        total=sum(table_copy.count_table_rows(conn).values()), desc="export", unit=" rows", disable=not progress
    ) as bar:
        for table, columns in table_copy.COLUMNS.items():
            digest, n = hashlib.sha256(), 0
            # Under a name, not a ZipInfo: then nothing is said of when it was written.
            with archive.open(_member(table), "w", force_zip64=True) as member:
                for batch in chain([[columns]], table_copy.read_table_rows(conn, table)):
                    lines = "".join(_line(table, row) for row in batch).encode()
                    digest.update(lines)
                    member.write(lines)
                    n += len(batch)
                    bar.update(len(batch))
            tables[table] = {"rows": n - 1, "sha256": digest.hexdigest()}
    return tables


def _member(table: str) -> str:
    return f"{table}.ndjson"


def _line(table: str, row: table_copy.PlainRow) -> str:
    line = _encode(row) + "\n"
    if len(line) > LONGEST_LINE:
        raise BadInput(
            f"row {row[0]} of {table}, {len(line) >> 20} MiB long",
            expected=f"rows of at most {LONGEST_LINE >> 20} MiB",
            fix="back this store up with the tools of its database",
        )
    return line


_encode = json.JSONEncoder(separators=(",", ":")).encode


@contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    with _whole(str(path)):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


@contextmanager
def _whole(place: str) -> Iterator[None]:
    """Tell whatever can be wrong with the bytes of a ZIP as bad input."""
    try:
        yield
    # `zipfile` checks little: an altered length or flag shows itself by any of these.
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, LookupError) as e:
        raise _broken(place, str(e) or type(e).__name__) from e
    except OSError as e:  # so does an altered offset, by a seek to before the file's begin
        if e.errno != errno.EINVAL:
            raise
        raise _broken(place, str(e) or type(e).__name__) from e


def _broken(place: str, reason: str) -> BadInput:
    return BadInput(place, expected="a whole archive", fix=f"copy or export it again; nothing was imported ({reason})")


def _manifest(archive: zipfile.ZipFile, path: str) -> Manifest:
    place = f"{path}: {MANIFEST}"
    with _whole(place), archive.open(MANIFEST) as member:
        manifest = json.loads(member.read(BLOCK))
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise _broken(place, "it is no manifest of ours")
    newest, *older = table_copy.list_schema_versions()
    if (version := manifest.get("schema_version")) != newest:
        by = f"rlhf_hitl {manifest.get('rlhf_hitl_version')}"
        step_up = f"import it with {by} into a new store, then run `rlhf-hitl init` here with that --store"
        raise BadInput(
            f"{path} of version {version}",
            expected=f"an archive of version {newest}",
            fix=step_up if version in older else f"upgrade rlhf_hitl: it was written by {by}",
        )
    tables = manifest.get("tables")
    if not isinstance(tables, dict) or set(tables) != set(table_copy.COLUMNS):
        raise _broken(place, "its tables are not those of its version")
    if sorted(archive.namelist()) != sorted([MANIFEST, *map(_member, table_copy.COLUMNS)]):
        raise _broken(path, "it holds other files")
    if not all(isinstance(said, dict) and isinstance(said.get("rows"), int) for said in tables.values()):
        raise _broken(place, "it does not count the rows")
    return manifest


def _rows(archive: zipfile.ZipFile, table: str, said: dict[str, Any], path: str) -> Iterator[table_copy.PlainRow]:
    """The rows of one table. When the last has been taken, their number and their hash have been checked."""
    place = f"{path}: {_member(table)}"
    digest, n = hashlib.sha256(), -1
    with _whole(place), archive.open(_member(table)) as member:
        for n, line in enumerate(_lines(member, digest, place)):
            row = json.loads(line)
            if not isinstance(row, list) or (n == 0 and row != table_copy.COLUMNS[table]) or n > said["rows"]:
                raise _broken(place, f"line {n + 1} is not what stands there")
            if n > 0:
                yield row
    if n != said["rows"] or digest.hexdigest() != said.get("sha256"):
        raise _broken(place, "it is not what the manifest says")


def _lines(member: IO[bytes], digest: Any, place: str) -> Iterator[bytes]:
    rest = b""
    while block := member.read(BLOCK):
        digest.update(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        if len(rest) > LONGEST_LINE:
            raise _broken(place, f"a line of more than {LONGEST_LINE >> 20} MiB")
    if rest:
        raise _broken(place, "its last line has no end")


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise BadInput(f"{out}", expected="a file that does not exist yet", fix="name another, or add --overwrite")
    if not is_archive(out):
        raise BadInput(f"{out}", expected="an earlier archive to overwrite", fix="name another: this is not one")
