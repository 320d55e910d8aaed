"""A stranger's file: it is refused in one line, in a moment and in little memory, or what is in it can be read."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archive_files import craft, fill_every_table, make_rows
from rlhf_hitl.errors import BadInput, RlhfHitlError
from rlhf_hitl.formats import archive
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.store import Store, audit, guidelines, people, projects, queue, table_copy, tutorial, webhooks
from rlhf_hitl.store.comparisons import count_rows, find_comparisons, list_prompts
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.loop_steps import read_finished_steps
from rlhf_hitl.store.reward_models import list_reward_models
from rlhf_hitl.store.routings import read_routings
from rlhf_hitl.store.row_checks import RowChecks
from rlhf_hitl.store.runs import read_runs
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.store.tables import metadata

# Reads a file and prints the error, the seconds, and the MB of memory that it took on top of the imports.
READ = """
import resource, sys, time
import pyarrow.parquet
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.source import RowSource
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, begun = peak(), time.process_time()
try:
    print(sum(1 for row in RowSource(sys.argv[1]).rows()), "rows")
except BadInput as e:
    print(e)
print(time.process_time() - begun)
print(peak() - before)
"""


def read(path: Path) -> tuple[str, float, float]:
    """Return what reading a file says, its seconds and its MB."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said, seconds, megabytes = done.stdout.strip().splitlines()
    return said, float(seconds), float(megabytes)


def write_gzip(path: Path, *parts: bytes, times: int = 300) -> Path:
    """Write a first part, 300 times a MB of the second, and a last part.

    After a full flush nothing depends on what was before, so the second is compressed once.
    """
    first, middle, last = parts
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    compressed = [compressor.compress(part) + compressor.flush(zlib.Z_FULL_FLUSH) for part in (first, middle, last)]
    checksum = zlib.crc32(first)
    with path.open("wb") as f:
        f.write(b"\x1f\x8b\x08" + bytes(6) + b"\xff" + compressed[0])
        for _ in range(times):
            f.write(compressed[1])
            checksum = zlib.crc32(middle, checksum)
        size = len(first) + times * len(middle) + len(last)
        f.write(compressed[2] + compressor.flush() + struct.pack("<LL", zlib.crc32(last, checksum), size % 2**32))
    return path


MB = 1 << 20


@pytest.mark.parametrize(
    ("name", "parts", "says"),
    [
        ("a.jsonl.gz", (b'{"a": "', b"x" * MB, b'"}\n'), "a line of more than 64 MiB|at most 100 times"),
        ("a.json.gz", (b'[{"a": "', b"x" * MB, b'"}]'), "an item of more than 64 MiB|at most 100 times"),
        ("zeros.json.gz", (b"", b"0" * MB, b""), "expected a JSON array"),
        ("a.csv.gz", (b'a\n"', b"x" * MB, b'"\n'), "a line of more than 64 MiB|at most 100 times"),
        ("many.csv.gz", (b'a\n"', b"x\n" * (MB // 2), b'"\n'), "at most 100,000 lines in one row|at most 100 times"),
        ("short.jsonl.gz", (b"", b'{"a": 1}\n' * (MB // 9), b""), "at most 100 times the size of the file"),
        ("short.json.gz", (b"[", b'{"a": 1},\n' * (MB // 10), b"{}]"), "at most 100 times the size of the file"),
        ("short.csv.gz", (b"a,b\n", b"1,2\n" * (MB // 4), b""), "at most 100 times the size of the file"),
        ("values.json.gz", (b"[", b"[]," * (MB // 3), b"[]]"), "at most 100 times|values in one line|a JSON object"),
        ("nested.json.gz", (b"[", b"[" * MB, b""), "JSON in UTF-8"),
        (
            "values.jsonl.gz",
            (b'{"a": [', b"[]," * (MB // 3), b"[]]}\n"),
            "a line of more than 64 MiB|at most 100 times",
        ),
    ],
)
def test_three_hundred_megabytes_of_nothing_are_refused_at_once(tmp_path, name, parts, says):
    # A limit ends the reading of short rows, which takes long by right.
    times = 20 if name.startswith("short") else 300
    said, seconds, megabytes = read(write_gzip(tmp_path / name, *parts, times=times))
    assert re.search(says, said), said
    assert seconds < 10  # of the processor; 1 to 2 on a machine that does nothing else
    assert megabytes < 150


def test_a_line_of_millions_of_values_takes_no_more_memory_than_its_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": [' + b"[]," * (20 * MB) + b"[]]}\n")
    said, _, megabytes = read(path)
    assert "values in one line: expected at most 2,097,152 (with RLHF_HITL_MAX_LINE_MB = 64)" in said
    assert megabytes < 200


def test_a_limit_that_is_hit_can_be_raised_as_its_error_says(tmp_path, monkeypatch):
    path = write_gzip(tmp_path / "a.jsonl.gz", b'{"a": "', b"x" * MB, b'"}\n', times=65)
    with pytest.raises(BadInput, match="set RLHF_HITL_MAX_EXPANSION to more"):
        list(RowSource(path).rows())
    monkeypatch.setenv("RLHF_HITL_MAX_EXPANSION", "2000")
    with pytest.raises(BadInput, match="set RLHF_HITL_MAX_LINE_MB to more"):
        list(RowSource(path).rows())
    monkeypatch.setenv("RLHF_HITL_MAX_LINE_MB", "80")
    assert len(next(iter(RowSource(path).rows())).fields["a"]) == 65 * MB


def test_the_header_of_a_csv_file_is_no_part_of_its_first_row(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HITL_MAX_LINE_MB", "1")
    path, long = tmp_path / "a.csv", "x" * (MB * 6 // 10)
    path.write_text(f"a,{long}\n1,{long}\n2,{long}\n")
    assert [row.fields["a"] for row in RowSource(path).rows()] == ["1", "2"]
    path.write_text(f'a,b\n1,"{long}\n{long}"\n')
    with pytest.raises(BadInput, match="a row of more than 1 MiB"):
        list(RowSource(path).rows())


def test_a_line_that_is_too_long_is_a_bad_line_and_those_after_it_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HITL_MAX_LINE_MB", "2")
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "' + b"x" * 5 * MB + b'"}\n{"a": 3}')
    errors: list[BadInput] = []
    assert [(row.fields["a"], row.place[-2:]) for row in RowSource(path).rows(errors.append)] == [(1, ":1"), (3, ":3")]
    assert [str(e) for e in errors] == [
        f"{path}:2: a line of more than 2 MiB: expected at most 2 MiB in a line. "
        "Fix: check the file; if it is as it should be, set RLHF_HITL_MAX_LINE_MB to more"
    ]


def test_a_small_parquet_of_gigabytes_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    text = pyarrow.array(["x" * MB])
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 100_000), text)
    pyarrow.parquet.write_table(pyarrow.table({"a": rows}), path, compression="zstd")
    assert path.stat().st_size < MB
    said, seconds, megabytes = read(path)
    assert said == "100000 rows"  # one text, which each row repeats
    assert megabytes < 250
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x" * MB] * 300}), path, compression="zstd", use_dictionary=False)
    said, seconds, megabytes = read(path)
    assert "at most 100 times the size of the file" in said
    assert (seconds < 10, megabytes < 150) == (True, True)


def test_a_parquet_whose_footer_lies_about_its_size_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"{i}" + "a" * (5 * MB) for i in range(30)]
    pyarrow.parquet.write_table(pyarrow.table({"a": texts}), path, compression="zstd", use_dictionary=False)
    footer = pyarrow.parquet.read_metadata(path)
    packed = path.read_bytes()
    for size in {footer.row_group(0).total_byte_size, footer.row_group(0).column(0).total_uncompressed_size}:
        varint, rest = b"", 2 * size
        while rest >= 128:
            varint, rest = varint + bytes([rest & 127 | 128]), rest >> 7
        varint += bytes([rest])
        small = b"\x82" + b"\x80" * (len(varint) - 2) + b"\x00"  # 1, as a number that is as long
        assert varint in packed
        packed = packed.replace(varint, small)
    path.write_bytes(packed)
    assert pyarrow.parquet.read_metadata(path).row_group(0).total_byte_size == 1
    said, _, megabytes = read(path)
    assert "times the size of the file" in said or "a batch of" in said
    assert megabytes < 500


def test_an_archive_that_is_packed_in_another_way_is_refused_before_anything_of_it_is_read(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as packed, packed.open("manifest.json", "w") as member:
        for _ in range(100):
            member.write(b"0" * MB)
    path.write_bytes(path.read_bytes().replace((100 * MB).to_bytes(4, "little"), (2000).to_bytes(4, "little")))
    with pytest.raises(BadInput, match="packed in another way"):
        archive.read_archive_manifest(path)


def test_a_line_of_an_archive_has_no_millions_of_values(empty_url, tmp_path, tables, monkeypatch):
    monkeypatch.setenv("RLHF_HITL_MAX_EXPANSION", "100000")  # a larger archive would not need it
    path = craft(tmp_path / "lists.zip", tables)
    with zipfile.ZipFile(path) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    first = f"{next(iter(table_copy.TABLE_COLUMNS))}.ndjson"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in (members | {first: b"[" + b"[]," * 5_000_000 + b"[]]\n"}).items():
            packed.writestr(name, content)
    with Store.open(empty_url, create=True) as store, pytest.raises(BadInput, match="values in one line"):
        archive.restore_archive(store, path)


@pytest.mark.parametrize(
    "value",
    ["1e999999", "-Infinity", "NaN", "9" * 10_000_000, "[" * 200_000, '{"a":' * 100_000, '"\\ud800"', '"\\u0000"'],
    ids=["huge", "infinite", "not a number", "ten million digits", "nested", "nested objects", "half a pair", "NUL"],
)
def test_odd_values_are_bad_lines_or_values_but_no_trace_back(store, tmp_path, value):
    completions = ", ".join(
        f'{{"messages": [{{"role": "assistant", "content": "{c}"}}], "policy": "p", "sampling": {{"t": {value}}}}}'
        for c in "ab"
    )
    path = tmp_path / "a.jsonl"
    good = '{"messages": [{"role": "user", "content": "Q"}]}\n'
    path.write_text(f'{good}{{"messages": [{{"role": "user", "content": "Q"}}], "completions": [{completions}]}}\n')
    report = import_path(store, path, skip_bad=True)
    assert report.prompts == 1
    assert report.bad_lines == (0 if value.startswith('"') else 1)
    assert count_rows(store)["completions"] == (2 if value.startswith('"') else 0)


# Archives.

BAD_VALUES: list[tuple[str, str, Any]] = [
    ("raters", "role", "owner"),
    ("raters", "languages", '"en"'),
    ("raters", "languages", "null"),
    ("raters", "quota", -1),
    ("raters", "name", " "),
    ("raters", "name", "x" * 201),
    ("raters", "name", "a\x00b"),
    ("raters", "name", "\ud800"),
    ("projects", "id", "../x"),
    ("projects", "repeat_every", 1),
    ("prompts", "split", "test"),
    ("prompts", "messages", "null"),
    ("prompts", "messages", '[{"role": "user"}]'),
    ("prompts", "messages", '[{"role": "user", "content": "altered"}]'),
    ("prompts", "family", "0000000000000000"),
    ("prompts", "tags", "[]"),
    ("completions", "policy", "another"),
    ("completions", "messages", "[]"),
    ("comparisons", "completion_ids", "[]"),
    ("comparisons", "route", "auto pilot"),
    ("comparisons", "overlap", -1),
    ("comparisons", "overlap", 2**40),
    ("comparisons", "repeat_of", "x_none"),
    ("comparisons", "lane_id", None),
    ("comparisons", "accepted_seq", 5),
    ("comparisons", "accepted_seq", 2**31 - 1),
    ("places", "judgment_id", "j_none"),
    ("places", "lease_id", "l_none"),
    ("places", "position", -1),
    ("leases", "order_shown", '["c_none"]'),
    ("leases", "expires_at", "2001-01-01 00:00:00.000000"),
    ("judgments", "verdict", "best"),
    ("judgments", "ranking", '[["c_none"], ["c_other"]]'),
    ("judgments", "ranking", "[[]]"),
    ("judgments", "order_shown", '["c_none"]'),
    ("judgments", "scores", '{"axis": 3}'),
    ("judgments", "scores", '{"axis": {"c_none": 3}}'),
    ("judgments", "reason", "boring"),
    ("judgments", "supersedes", "j_none"),
    ("judgments", "active_seconds", -1.0),
    ("guidelines", "axes", '[{"id": "A B", "title": "t"}]'),
    ("guidelines", "scores", "sometimes"),
    ("guidelines", "version", ""),
    ("examples", "ranking", "[[7]]"),
    ("examples", "explanation", "altered"),
    ("example_answers", "verdict", "ranked"),
    ("scores", "chosen", "c_none"),
    ("scores", "probability", 1.5),
    ("routings", "proposed", ""),
    ("routings", "round", -1),
    ("tokens", "kind", "root"),
    ("tokens", "scopes", '["everything"]'),
    ("tokens", "role", "god"),
    ("audit", "details", "[]"),
    ("audits", "max_error", 1.5),
    ("audits", "outcome", "maybe"),
    ("automation", "state", "gone"),
    ("automation", "after_decision", -1),
    ("alerts", "figures", "[]"),
    ("webhooks", "events", '["judgment.deleted"]'),
    ("deliveries", "event", "x"),
    ("deliveries", "attempts", -1),
]


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, list[list[Any]]]:
    """The plain rows of a store with rows in every table."""
    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('full')}/full.db", create=True) as full:
        fill_every_table(full)
        with full.read() as conn:
            return {
                name: [list(row) for batch in table_copy.read_table_rows(conn, name) for row in batch]
                for name in table_copy.TABLE_COLUMNS
            }


def alter(tables: dict[str, list[list[Any]]], table: str, row: int, column: str, value: Any) -> dict:
    rows = [list(r) for r in tables[table]]
    rows[row][table_copy.TABLE_COLUMNS[table].index(column)] = value
    return tables | {table: rows}


@pytest.mark.parametrize(("table", "column", "value"), BAD_VALUES, ids=lambda v: str(v)[:30])
def test_a_value_outside_the_types_is_refused_and_nothing_is_written(
    sqlite_store, tables, tmp_path, table, column, value
):
    crafted = craft(tmp_path / "a.archive", alter(tables, table, 0, column, value))
    with pytest.raises(RlhfHitlError) as refused:
        archive.restore_archive(sqlite_store, crafted)
    assert table.removesuffix("s") in str(refused.value)
    assert "\n" not in str(refused.value)
    with sqlite_store.read() as conn:
        counts = {name: n for name, n in table_copy.count_table_rows(conn).items() if n}
    assert counts == table_copy.ROWS_OF_A_NEW_STORE


def open_everything(store: Store, out: Path) -> None:
    """Read everything that commands and pages read."""
    people.list_raters(store)
    queue.count_places(store)
    list(find_comparisons(store, repeats=True))
    list_prompts(store)
    list(read_judgments(store, current=False))
    read_routings(store, newest=False)
    webhooks.list_webhooks(store)
    audit.list_entries(store)
    read_finished_steps(store)
    read_runs(store)
    for model in list_reward_models(store):
        read_scores(store, model.id)
    for project in projects.list_projects(store):
        guidelines.get_current_guideline(store, project.id)
        tutorial.list_examples(store, project.id)
    archive.write_archive(store, out, overwrite=True)


ODD = st.one_of(
    st.none(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.booleans(),
    st.sampled_from(["null", "[]", "{}", "[[]]", "[null]", '""', "0", '{"a": null}', '[{"role": 1}]', "[1]"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_archive_with_one_value_changed_is_refused_or_everything_in_it_opens(
    tables, sqlite_template, tmp_path, data
):
    table = data.draw(st.sampled_from(sorted(table_copy.TABLE_COLUMNS)))
    column = data.draw(st.sampled_from(table_copy.TABLE_COLUMNS[table]))
    row = data.draw(st.integers(0, len(tables[table]) - 1))
    others = [r[table_copy.TABLE_COLUMNS[table].index(column)] for r in tables[table]]
    value = data.draw(st.one_of(ODD, st.sampled_from(others)))
    crafted = craft(tmp_path / "a.archive", alter(tables, table, row, column, value))
    shutil.copy(sqlite_template, tmp_path / "new.db")
    with Store.open(f"sqlite:///{tmp_path}/new.db") as store:
        try:
            archive.restore_archive(store, crafted)
        except RlhfHitlError:
            return
        open_everything(store, tmp_path / "again.archive")


def test_an_archive_without_a_value_that_must_be_there_is_refused(sqlite_store, tables, tmp_path):
    for table in RowChecks().of_table:  # which would be asked about what is not there
        for column in metadata.tables[table].columns:
            if not column.nullable and tables[table]:
                crafted = craft(tmp_path / "a.archive", alter(tables, table, 0, column.name, None))
                with pytest.raises(BadInput, match=f"{table}.{column.name}"):
                    archive.restore_archive(sqlite_store, crafted)


def test_rows_of_the_helper_are_those_of_a_real_archive(sqlite_store, tables, tmp_path):
    archive.restore_archive(sqlite_store, craft(tmp_path / "a.archive", tables))
    open_everything(sqlite_store, tmp_path / "b.archive")
    assert {name: len(rows) for name, rows in tables.items() if name not in table_copy.ROWS_OF_A_NEW_STORE} == {
        name: len(rows) for name, rows in make_rows(12).items() if name not in table_copy.ROWS_OF_A_NEW_STORE
    }


@pytest.mark.parametrize("files", ["{secret}", "http://127.0.0.1:9/secret.csv", "../secret.csv"])
def test_a_card_in_a_folder_opens_no_file_elsewhere(sqlite_store, tmp_path, files):
    secret = tmp_path / "secret.csv"
    secret.write_text("prompt,chosen,rejected\nQ,a,b\n")
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {files.format(secret=secret)}\n---\n"
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "README.md").write_text(card)
    with pytest.raises(BadInput, match="expected a folder with files ending in"):
        import_path(sqlite_store, folder)
    (folder / "votes.jsonl").write_text('{"prompt": "Q2", "chosen": "a", "rejected": "b"}\n')
    assert import_path(sqlite_store, folder).comparisons == 1  # the file in it, and not the one that the card names
    assert [m.text for c in find_comparisons(sqlite_store) for m in c.prompt.messages] == ["Q2"]


@pytest.mark.parametrize("kind", ["state", "splits"])
def test_a_saved_dataset_opens_no_file_elsewhere(sqlite_store, tmp_path, kind):
    rows = [{"prompt": "Q", "chosen": "a", "rejected": "b"}]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "secret"))
    good = datasets.Dataset.from_list(rows)
    if kind == "splits":
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["../secret"]}')
    else:
        good.save_to_disk(str(tmp_path / "set"))
        state = (tmp_path / "set" / "state.json").read_text()
        [name] = [file["filename"] for file in json.loads(state)["_data_files"]]
        (tmp_path / "set" / "state.json").write_text(state.replace(name, f"../secret/{name}"))
    assert len(datasets.load_from_disk(str(tmp_path / "set"))) == 1  # so others open it
    with pytest.raises(BadInput, match=r"it names .*secret.*expected files within the folder"):
        import_path(sqlite_store, tmp_path / "set")


@pytest.mark.parametrize("kind", ["image", "images", "audio"])
def test_a_path_in_a_saved_dataset_is_not_opened(tmp_path, kind):
    rows = [{"prompt": "Q", "chosen": "a", "rejected": "b"}]
    media = {"bytes": None, "path": "/etc/passwd"}
    features: dict[str, Any] = {
        "image": datasets.Image(), "images": datasets.List(datasets.Image()), "audio": datasets.Audio(),
    }  # fmt: skip
    plain = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    value: Any = [media] if kind == "images" else media
    text = {name: datasets.Value("string") for name in rows[0]}
    stored = datasets.Features(text | {kind: datasets.List(plain) if kind == "images" else plain})
    datasets.Dataset.from_list([rows[0] | {kind: value}], features=stored).save_to_disk(str(tmp_path / "set"))
    info = json.loads((tmp_path / "set" / "dataset_info.json").read_text())
    info["features"] = datasets.Features(text | {kind: features[kind]}).to_dict()
    (tmp_path / "set" / "dataset_info.json").write_text(json.dumps(info))
    assert datasets.load_from_disk(str(tmp_path / "set")).features[kind] == features[kind]
    [row] = RowSource(tmp_path / "set").rows()
    assert row.fields[kind] == value  # where the file is opened there are its bytes, or an error
