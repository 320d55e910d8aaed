"""The archive: a whole store in one file and back, on either database, or not at all."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from archive_files import Tables, craft, fill_every_table
from command_line import Outcome, run_command
from rlhf_hitl.errors import BadInput, RlhfHitlError
from rlhf_hitl.formats import archive
from rlhf_hitl.store import Store, people, queue, sign_in, table_copy
from rlhf_hitl.store.judgments import read_judgments, read_store_revision
from rlhf_hitl.store.tables import judgments, metadata
from rlhf_hitl.types import (
    Answer,
    Message,
    Prompt,
    Role,
    Verdict,
    messages_to_dicts,
)


def counts(store: Store) -> dict[str, int]:
    with store.read() as conn:
        return {table: n for table, n in table_copy.count_table_rows(conn).items() if n}


def everything(store: Store) -> dict[str, set[str]]:
    """Return every row, with the order of keys in JSON. SQLite keeps no negative zero, so all zeros are alike."""
    with store.read() as conn:
        return {
            t.name: {repr([v + 0.0 if type(v) is float else v for v in row]) for row in conn.execute(sa.select(t))}
            for t in metadata.sorted_tables
            if t.name not in ("readiness", "catalog_changes")  # those that a store has not looked at yet
        }


@pytest.fixture
def new_store(request, tmp_path, sqlite_template) -> Iterator[Callable[[str], Store]]:
    """Return a function that makes a new store: `new_store("sqlite")` or `new_store("postgres")`."""
    with ExitStack() as stack:

        def make(kind: str) -> Store:
            if kind == "sqlite":
                path = tmp_path / f"new {len(list(tmp_path.iterdir()))}.db"
                shutil.copy(sqlite_template, path)
                url = f"sqlite:///{path}"
            else:
                postgres = request.getfixturevalue("postgres")
                url = stack.enter_context(postgres.database(template=postgres.template))
            store = Store.open(url)
            stack.callback(store.close)
            return store

        yield make


@pytest.fixture
def full(new_store) -> Store:
    store = new_store("sqlite")
    fill_every_table(store)
    return store


DATABASES = ("sqlite", "postgres")


@pytest.mark.parametrize("second", DATABASES)
@pytest.mark.parametrize("first", DATABASES)
def test_a_restored_store_is_complete_and_gives_the_same_archive_again(new_store, tmp_path, first, second):
    source, target = new_store(first), new_store(second)
    fill_every_table(source)
    archive.write_archive(source, tmp_path / "a.archive")
    archive.restore_archive(target, tmp_path / "a.archive")
    assert everything(target) == everything(source)
    archive.write_archive(target, tmp_path / "b.archive")
    assert (tmp_path / "a.archive").read_bytes() == (tmp_path / "b.archive").read_bytes()


def test_the_language_of_a_database_changes_nothing(postgres, sqlite_store, tmp_path):
    fill_every_table(sqlite_store)
    archive.write_archive(sqlite_store, tmp_path / "a.archive")
    with postgres.database(template="template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'") as url:
        american = Store.open(url, create=True)
        archive.restore_archive(american, tmp_path / "a.archive")
        with american.read() as conn:  # or this would show nothing
            ids = list(conn.execute(sa.text("SELECT id FROM raters ORDER BY id")).scalars())
        assert ids != sorted(ids)
        archive.write_archive(american, tmp_path / "b.archive")
        american.close()
    assert (tmp_path / "a.archive").read_bytes() == (tmp_path / "b.archive").read_bytes()


@pytest.mark.parametrize("second", DATABASES)
@pytest.mark.parametrize("first", DATABASES)
def test_work_continues_in_the_restored_store(new_store, tmp_path, add_comparisons, first, second):
    source, target = new_store(first), new_store(second)
    add_comparisons(source, 3)
    ann = people.add_rater(source, "ann", Role.RATER, "a long password").id
    submit(source, ann)
    held = queue.lease(source, ann, seconds=1800)
    assert held is not None
    archive.write_archive(source, tmp_path / "a.archive")
    archive.restore_archive(target, tmp_path / "a.archive")

    assert sign_in.verify_password(target, "ann", "a long password") is not None
    assert queue.lease(target, ann, seconds=1800) == held
    submit(target, ann)
    assert [j.id for j in read_judgments(target)][:1] == [j.id for j in read_judgments(source)]
    with target.read() as conn:
        assert list(conn.execute(sa.select(judgments.c.seq).order_by(judgments.c.seq)).scalars()) == [1, 2]
    with pytest.raises(exc.DBAPIError, match="append-only"), target._engine.begin() as conn:
        conn.execute(judgments.delete())


def submit(store: Store, rater: str) -> None:
    lease = queue.lease(store, rater, seconds=1800)
    assert lease is not None
    queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, tuple((i,) for i in lease.order_shown)))


def test_an_archive_is_of_one_moment_while_others_write(store, tmp_path, new_store, add_comparisons, add_raters):
    add_comparisons(store, 5)
    (rater,) = add_raters(store, 1)
    before = everything(store)
    with store.snapshot() as conn:
        table_copy.count_table_rows(conn)
        writer = threading.Thread(target=submit, args=(store, rater))
        writer.start()
        writer.join()
        for table in table_copy.TABLE_COLUMNS:
            assert sum(map(len, table_copy.read_table_rows(conn, table))) == len(before[table])
    assert read_store_revision(store) == 1

    # And under fire: an archive that caught half of a write would refer to rows that are not in it.
    stop = threading.Event()

    def write_on() -> None:
        n = 5
        while not stop.is_set():
            add_comparisons(store, 3, first=n)
            submit(store, rater)
            n += 3

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for i in range(5):
            archive.write_archive(store, tmp_path / f"{i}.archive")
    finally:
        stop.set()
        writer.join()
    for i in range(5):
        archive.restore_archive(new_store("sqlite"), tmp_path / f"{i}.archive")


def test_a_store_that_is_not_new_is_refused_with_what_it_holds(store, full, tmp_path, add_comparisons):
    archive.write_archive(full, tmp_path / "a.archive")
    people.add_rater(store, "ann", Role.RATER)
    before = everything(store)
    with pytest.raises(BadInput, match=r"with rows of .*raters \(1\): expected a new store"):
        archive.restore_archive(store, tmp_path / "a.archive")
    assert everything(store) == before


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.7, 0.999])
def test_a_cut_archive_imports_nothing(full, store, tmp_path, share):
    archive.write_archive(full, tmp_path / "a.archive")
    whole = (tmp_path / "a.archive").read_bytes()
    (tmp_path / "cut.archive").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadInput, match="whole archive"):
        archive.restore_archive(store, tmp_path / "cut.archive")
    assert counts(store) == table_copy.ROWS_OF_A_NEW_STORE


def test_an_altered_byte_is_found_wherever_it_matters(full, new_store, tmp_path):
    archive.write_archive(full, tmp_path / "a.archive")
    whole = (tmp_path / "a.archive").read_bytes()
    target, refused = new_store("sqlite"), 0
    for at in range(0, len(whole), len(whole) // 150):
        altered = bytearray(whole)
        altered[at] ^= 0x55
        (tmp_path / "altered.archive").write_bytes(altered)
        try:
            archive.restore_archive(target, tmp_path / "altered.archive")
        except BadInput:
            refused += 1
            assert counts(target) == table_copy.ROWS_OF_A_NEW_STORE
        else:  # it was of the wrapping: a time that is not used
            assert everything(target) == everything(full)
            target = new_store("sqlite")
    assert refused > 100


def test_an_altered_directory_is_bad_input_at_every_byte(full, tmp_path):
    """A ZIP's directory holds lengths and offsets; an altered one leads `zipfile` to places that do not exist.

    All entries are alike, so the first and the last one and the end of the directory are altered in several ways, and
    the bytes of the others in one way each.
    """
    archive.write_archive(full, tmp_path / "a.archive")
    whole = (tmp_path / "a.archive").read_bytes()
    masks = (0x01, 0x55, 0x80, 0xFF)
    start, second = (at.start() for at in islice(re.finditer(b"PK\x01\x02", whole), 2))
    last = whole.rindex(b"PK\x01\x02")
    alterations = [
        (at, mask)
        for at in range(start, len(whole))
        for mask in (masks if at < second or at >= last else [masks[at % 4]])
    ]
    refused = 0
    for at, mask in alterations:
        altered = bytearray(whole)
        altered[at] ^= mask
        (tmp_path / "altered.archive").write_bytes(altered)
        try:
            archive.read_archive_manifest(tmp_path / "altered.archive")
        except BadInput:
            refused += 1
    assert refused > len(alterations) / 3


CHAT = (Message("user", "Why?"),)
PROMPT = [
    Prompt.create(CHAT).id, Prompt.create(CHAT).family, "train", json.dumps(messages_to_dicts(CHAT)), "{}", "",
    "2026-01-02 03:04:05.000000", None,
]  # fmt: skip


def prompt(**changed: Any) -> Tables:
    return {
        "prompts": [[changed.get(name, v) for name, v in zip(table_copy.TABLE_COLUMNS["prompts"], PROMPT, strict=True)]]
    }


@pytest.mark.parametrize(
    "tables",
    [
        prompt(id=1),
        prompt(id=["p"]),
        prompt(id=None),
        prompt(messages="[{"),
        prompt(messages="[" * 100_000),
        prompt(created_at="yesterday"),
        prompt(created_at="2026-02-30 00:00:00.000000"),
        {"prompts": [PROMPT, PROMPT]},
        {"prompts": [PROMPT[1:]]},
        {"prompts": [{"id": "p"}]},
        {"completions": [["c", "no such prompt", "[]", "p", "{}", "2026-01-02 03:04:05.000000"]]},
    ],
    ids=str,
)
def test_rows_with_impossible_values_are_refused(store, tmp_path, tables):
    crafted = craft(tmp_path / "crafted.archive", tables)
    with pytest.raises(RlhfHitlError, match=r"nothing was|not altered"):
        archive.restore_archive(store, crafted)
    assert counts(store) == table_copy.ROWS_OF_A_NEW_STORE


def test_a_crafted_archive_without_errors_is_restored(store, tmp_path):
    key = {"secrets": [["draws", "0" * 64]]}
    archive.restore_archive(store, craft(tmp_path / "crafted.archive", prompt() | key))
    assert counts(store) == {"prompts": 1, "secrets": 1}


def test_a_line_without_end_is_refused_before_it_fills_the_memory(sqlite_store, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HITL_MAX_EXPANSION", "2000")
    crafted = craft(tmp_path / "bomb.archive", prompt(source="x" * (archive.MAX_LINE_BYTES + 2 * archive.BLOCK_BYTES)))
    with pytest.raises(BadInput, match="a line of more than 64 MiB"):
        archive.restore_archive(sqlite_store, crafted)
    assert counts(sqlite_store) == table_copy.ROWS_OF_A_NEW_STORE


def test_a_text_that_was_changed_with_its_checksum_is_found_by_its_hash(sqlite_store, tmp_path):
    crafted = craft(tmp_path / "a.archive", prompt(source="them"))
    with zipfile.ZipFile(crafted) as before, zipfile.ZipFile(tmp_path / "b.archive", "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name).replace(b'"them"', b'"thee"'))
    with pytest.raises(BadInput, match="differs from the manifest"):
        archive.restore_archive(sqlite_store, tmp_path / "b.archive")
    assert counts(sqlite_store) == table_copy.ROWS_OF_A_NEW_STORE


def test_other_files_in_an_archive_are_not_written_anywhere(full, sqlite_store, new_store, tmp_path):
    archive.write_archive(full, tmp_path / "a.archive")
    with zipfile.ZipFile(tmp_path / "a.archive", "a") as z:
        z.writestr("../evil.pth", "import os")
    with pytest.raises(BadInput, match="other files"):
        archive.restore_archive(new_store("sqlite"), tmp_path / "a.archive")
    assert not list(tmp_path.parent.glob("evil*"))


def test_an_archive_of_a_newer_version_is_refused_with_the_way_to_import_it(sqlite_store, tmp_path):
    crafted = craft(tmp_path / "other.archive", {}, schema_version="9999", rlhf_hitl_version="7.7")
    with pytest.raises(BadInput, match=r"of version 9999: .*upgrade rlhf_hitl: it was written by rlhf_hitl 7\.7"):
        archive.restore_archive(sqlite_store, crafted)


def test_the_file_is_its_owners_alone_and_is_replaced_only_when_asked(full, tmp_path):
    out = tmp_path / "deep" / "a.archive"
    archive.write_archive(full, out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with pytest.raises(BadInput, match="--overwrite"):
        archive.write_archive(full, out)
    archive.write_archive(full, out, overwrite=True)
    (tmp_path / "thesis.zip").write_text("mine")
    with pytest.raises(BadInput, match="this is not one"):
        archive.write_archive(full, tmp_path / "thesis.zip", overwrite=True)
    assert (tmp_path / "thesis.zip").read_text() == "mine"
    assert [p.name for p in out.parent.iterdir()] == ["a.archive"]


def test_nothing_in_an_archive_tells_when_it_was_written(full, tmp_path):
    archive.write_archive(full, tmp_path / "a.archive")
    with zipfile.ZipFile(tmp_path / "a.archive") as z:
        assert {info.date_time for info in z.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def cli(*args: object, cwd: Path) -> Outcome:
    with contextlib.chdir(cwd):
        return run_command(*args)


def test_the_commands_move_a_store_to_another_database(full, empty_url, tmp_path):
    done = cli("export", "a.archive", "--format", "archive", "--store", full.url, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tables"]["judgments"]["rows"] == 12
    done = cli("import", "a.archive", "--store", empty_url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # a bar is for a terminal
    target = Store.open(empty_url)
    there, here = everything(target), everything(full)
    # The export is in the log of the store it was made of; the new store has the log as it was then.
    assert [len(rows["audit"] - other["audit"]) for rows, other in ((there, here), (here, there))] == [0, 1]
    assert there | {"audit": None} == here | {"audit": None}
    target.close()
    again = cli("import", "a.archive", "--format", "archive", "--store", empty_url, "--json", cwd=tmp_path)
    assert again.returncode == 2
    assert "judgments (12)" in json.loads(again.stdout)["error"]


def test_the_commands_refuse_options_of_other_formats(full, tmp_path):
    done = cli("export", "a", "--format", "archive", "--min-votes", 2, "--store", full.url, cwd=tmp_path)
    assert "error: --min-votes: expected" in done.stderr
    assert not (tmp_path / "a").exists()
    archive.write_archive(full, tmp_path / "a.archive")
    done = cli("import", "a.archive", "--skip-bad", "--limit", 3, "--store", "sqlite:///none.db", cwd=tmp_path)
    assert "error: --skip-bad, --limit: expected" in done.stderr
    (tmp_path / "cut.archive").write_bytes((tmp_path / "a.archive").read_bytes()[:5000])
    done = cli("import", "cut.archive", "--store", "sqlite:///none.db", cwd=tmp_path)
    assert "expected a whole archive" in done.stderr
    assert not (tmp_path / "none.db").exists()
