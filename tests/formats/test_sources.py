"""Files of every kind, row by row: CSV as others make it, packed files, and bad rows that cost no other row."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.delimited import MAX_ENDLESS_ROWS, read_delimited
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.formats.limits import Limits
from rlhf_hitl.formats.record import add_unread
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.formats.written_values import decode_value, find_messages

LIMITS = Limits(line_mb=1, expansion=100)
ROWS = [{"prompt": f"Q{i}", "chosen": "a", "rejected": "b"} for i in range(3)]


def parse(content: bytes, separator: str = "", limits: Limits = LIMITS) -> tuple[list[Any], list[str]]:
    """Return the rows of a CSV file as (line, cells), and what is said of bad ones."""
    bad: list[str] = []
    rows = read_delimited(io.BytesIO(content), "f.csv", limits, lambda e: bad.append(f"{e.value}"), separator)
    return [(line, list(cells.values())) for line, cells in rows], bad


def zstd(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


# Kinds of files.

WRITERS: dict[str, Callable[[], bytes]] = {
    "jsonl": lambda: "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "json": lambda: json.dumps(ROWS).encode(),
    "csv": lambda: b"prompt,chosen,rejected\r\n" + b"".join(f"Q{i},a,b\r\n".encode() for i in range(3)),
    "tsv": lambda: b"prompt\tchosen\trejected\n" + b"".join(f"Q{i}\ta\tb\n".encode() for i in range(3)),
}


@pytest.mark.parametrize("pack", [("", bytes), (".gz", gzip.compress), (".zst", zstd), (".GZ", gzip.compress)])
@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "JSONL", "json", "csv", "CSV", "tsv"])
def test_a_file_of_every_kind_is_read(tmp_path, suffix, pack):
    content = WRITERS["jsonl" if suffix == "ndjson" else suffix.lower()]()
    path = tmp_path / f"a.{suffix}{pack[0]}"
    path.write_bytes(pack[1](content))
    assert [dict(row.fields) for row in RowSource(path).rows()] == ROWS


def test_two_frames_of_zstandard_are_one_file(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstd(b'{"a": 1}\n') + zstd(b'{"a": 2}\n'))
    assert [row.fields["a"] for row in RowSource(path).rows()] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.zst", zstd(b'{"a": 1}\n' * 5000)[:-3], "expected a whole Zstandard file"),
        ("a.jsonl.zst", b"no frame at all", "expected a whole Zstandard file"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], "expected a whole gzip file"),
        ("a.csv.zst", zstd(b"a,b\n" + b"1,2\n" * 5_000_000), "at most 100 times the size of the file"),
        ("a.zip", b"PK", "unpack it"),
        ("a.jsonl.tar.gz", b"", "unpack it"),
        ("a.csv", b"a,a\n1,2\n", "two columns named 'a'"),
        ("a.csv", b'a,"b\n1,2\n', "a quotation mark that is not closed before the end of the file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=says) as refused:
        list(RowSource(tmp_path / name).rows(lambda error: None))
    assert "\n" not in str(refused.value)


# CSV as others make it.


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
@pytest.mark.parametrize("separator", list(",;\t|"))
@pytest.mark.parametrize("first", ["", "sep={}\r\n"])
def test_files_of_excel_are_read(mark, separator, first):
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(mark, "utf-8")
    text = f'{first.format(separator)}prompt{separator}"answer"\r\n"Gr{separator}ün"{separator}"a ""b""\r\nc"\r\n'
    rows, bad = parse(mark + text.encode(encoding))
    assert (rows, bad) == ([(2 + bool(first), [f"Gr{separator}ün", 'a "b"\r\nc'])], [])


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(
    st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=6),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_a_csv_writer_writes_reads_back(rows, separator, end, quoting, encoding):
    if end == "\n" and quoting == csv.QUOTE_MINIMAL:  # Python's writer then leaves a lone \r without quotation marks
        rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    file = io.StringIO()
    csv.writer(file, delimiter=separator, lineterminator=end, quoting=quoting).writerows([["a", "b", "c"], *rows])
    read, bad = parse(file.getvalue().encode(encoding))
    assert ([cells for _, cells in read], bad) == (rows, [])


@given(st.binary(max_size=200), st.sampled_from(["", "\t"]))
def test_any_bytes_are_rows_or_bad_rows_and_each_cell_is_valid_text(content, separator):
    try:
        rows, _ = parse(b"a,b\n" + content, separator)
    except BadInput:
        return
    for _, cells in rows:
        assert len(cells) == (2 if separator == "" else 1)
        "".join(cells).encode()


def test_a_bad_row_is_named_by_its_first_line_and_costs_no_other():
    lines = [
        b"prompt,answer", b"one,1", b'"two\nlines",2', b"Gr\xf6\xdfe,3", b"four", b"five,5,5", b'"six"x,6', b"",
        b"seven," + b"y" * 200_000, b"eight," + b"y" * (1 << 21), b"nine,9",
    ]  # fmt: skip
    rows, bad = parse(b"\n".join(lines))
    assert [(line, cells[0]) for line, cells in rows] == [
        (2, "one"), (3, "two\nlines"), (10, "seven"), (12, "nine"),
    ]  # fmt: skip
    assert bad == [
        "f.csv:5: a byte that is not UTF-8", "f.csv:6: 1 cells", "f.csv:7: 3 cells", "f.csv:8: ',' expected after '\"'",
        "f.csv:11: a line of more than 1 MiB",
    ]  # fmt: skip


def test_a_quotation_mark_that_is_never_closed_costs_its_row_only():
    rows, bad = parse(b'a,b\n1,2\n3,"4\n5,6\n7,8\n')
    assert [line for line, _ in rows] == [2, 4, 5]
    assert bad == ["f.csv:3: a quotation mark that is not closed before the end of the file"]


def test_a_row_of_many_lines_that_is_too_long_costs_its_row_only():
    long = b"x" * 700_000
    rows, bad = parse(b'a,b\n1,"' + long + b"\n" + long + b'"\n3,4\n')
    assert (4, ["3", "4"]) in rows
    assert bad[0] == "f.csv:2: a row of more than 1 MiB"


def test_a_part_of_a_row_is_never_left_out():
    rows, bad = parse(b'a,b\n1,"x\n' + b"y" * (2 << 20) + b'\nz"\n3,4\n')
    assert [cells for _, cells in rows] == [["3", "4"]]
    assert bad == ["f.csv:3: a line of more than 1 MiB"]


def test_rows_without_an_end_again_and_again_are_refused():
    row = b'x"y,"z\n' + b"w\n" * 50_000 + b"w\n" * 50_001
    with pytest.raises(BadInput, match="th row with a quotation mark that is not closed"):
        parse(b"a,b\n" + row * (MAX_ENDLESS_ROWS + 2), limits=Limits(10, 100))


def test_utf_16_that_ends_within_a_character_is_named():
    rows, bad = parse(codecs.BOM_UTF16_LE + "a,b\n1,2\n".encode("utf-16-le") + b"3")
    assert [cells for _, cells in rows] == [["1", "2"]]
    assert bad == ["f.csv: truncated data"]


# Every format, skipping bad rows.

MESSAGES = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
OTHERS = [MESSAGES[0], {"role": "assistant", "content": "B"}]
FORMATS = {
    "trl": {"prompt": "Q", "chosen": "a", "rejected": "b", "annotator": "0"},
    "hh": {"chosen": "\n\nHuman: Q\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b"},
    "kwise": {"prompt": "Q", "completions": ["a", "b"], "ranking": [[1], [0]], "rater": "ann"},
    "mt_bench": {
        "judge": "j", "model_a": "x", "model_b": "y", "turn": 1, "winner": "model_a",
        "conversation_a": MESSAGES, "conversation_b": OTHERS,
    },
    "llmbar": {"input": "Q", "output_1": "a", "output_2": "b", "label": 1},
    "native": {
        "messages": MESSAGES[:1],
        "completions": [{"messages": chat[1:], "policy": "p"} for chat in (MESSAGES, OTHERS)],
        "votes": [{"rater": "ann", "ranking": [[0], [1]]}],
    },
    "rewardbench": {
        "prompt": "Q", "chosen": "a", "chosen_model": "x", "rejected": "b", "rejected_model": "y", "subset": "s",
    },
    "rewardbench2": {"prompt": "Q", "chosen": ["a"], "rejected": ["b", "c"], "subset": "s", "id": "1"},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_every_format_is_read_from_every_kind_of_file_but_for_a_bad_row(sqlite_store, tmp_path, name, suffix):
    good, path = FORMATS[name], tmp_path / f"a.{suffix}"
    needed = "model_a" if name == "mt_bench" else next(iter(good))
    bad = good | {needed: None}
    if suffix == "csv":
        with path.open("w", newline="") as f:
            writer = csv.writer(f)
            cells = [v if isinstance(v, str | int) else json.dumps(v) for v in good.values()]
            writer.writerows([good.keys(), cells, [*cells, "one too many"], cells])
    elif suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([good, bad, good]), path)
    else:
        rows = [json.dumps(row) for row in (good, bad, good)]
        path.write_text("\n".join(rows) if suffix == "jsonl" else f"[{','.join(rows)}]")
    with pytest.raises(BadInput):
        import_path(sqlite_store, path, format=name)
    report = import_path(sqlite_store, path, format=name, skip_bad=True)
    assert (report.format, report.comparisons, report.bad_lines, report.unread) == (name, 1, 1, {})


# Values written as text.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(JSON.filter(lambda value: not isinstance(value, str)))
def test_a_value_written_by_json_or_python_reads_back(value):
    assert decode_value(json.dumps(value)) == value
    assert decode_value(repr(value)) == value


@given(st.text(max_size=60) | st.text("[{(}'\"])a:,0 \n", max_size=60))
def test_any_text_is_decoded_or_refused(text):
    try:
        value = decode_value(text)
    except ValueError:
        return
    find_messages(value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{'a':" * 60 + "1" + "}" * 60, "'" + "x" * 3_000_000 + "'", "open('x')"]
)
def test_a_text_that_would_take_much_to_decode_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        decode_value(text)


def test_messages_of_two_kinds_of_message_are_found():
    assert find_messages({"messages": MESSAGES}) == MESSAGES
    assert find_messages({"messages": MESSAGES, "model": "x"}) is None
    assert find_messages(MESSAGES[0]) == MESSAGES[:1]
    assert find_messages([1]) is None


def write_folder(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_files_of_a_folder_that_are_not_read_are_counted(tmp_path):
    source = RowSource(
        write_folder(tmp_path / "set", a_jsonl='{"a": 1}\n', b_xlsx="", c_xlsx="", sub__d_jsonl='{"a": 2}\n', README="")
    )
    assert [row.fields["a"] for row in source.rows()] == [1]
    assert source.unread == {"file ending in .xlsx": 2, "file sub/d.jsonl": 1, "file README": 1}
    list(source.rows())
    assert source.unread["file ending in .xlsx"] == 2


def test_no_more_than_a_thousand_columns_are_counted_by_name(sqlite_store, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(FORMATS["trl"] | {f"column {i}": i for i in range(1500)}) + "\n")
    report = import_path(sqlite_store, path)
    assert (len(report.unread), report.unread["other columns"]) == (1001, 500)


def write_images(path: Path, *sizes: int) -> Path:
    images = [[{"bytes": bytes([65 + i]) * size, "path": None}] for i, size in enumerate(sizes)]
    rows = [{"prompt": f"Q{i}", "images": image} for i, image in enumerate(images)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression="none")
    return path


@pytest.mark.parametrize("nested", [True, False])
def test_many_parquet_rows_of_images_are_read_and_one_that_is_too_long_is_named(tmp_path, monkeypatch, nested):
    monkeypatch.setenv("RLHF_HITL_MAX_LINE_MB", "1")
    sizes = [400_000] * 8 + [1_200_000] + [400_000] * 3 + [30] * 150
    path = tmp_path / "a.parquet"
    if nested:
        write_images(path, *sizes)
    else:  # texts, which are read through a dictionary
        rows = [{"prompt": f"Q{i}", "answer": f"{i:04}" * (size // 4)} for i, size in enumerate(sizes)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression="none")
    with pytest.raises(BadInput, match=r"a.parquet: row 9: a row of more than 1 MiB: expected at most 1 MiB in a row"):
        list(RowSource(path).rows())
    bad: list[BadInput] = []
    read = [row.fields["prompt"] for row in RowSource(path).rows(bad.append)]
    assert read == [f"Q{i}" for i in range(len(sizes)) if i != 8]
    assert [e.value.partition(": ")[2] for e in bad] == ["row 9: a row of more than 1 MiB"]


def test_no_more_than_a_thousand_keys_of_messages_are_counted_by_name(sqlite_store, tmp_path):
    path = tmp_path / "a.jsonl"
    prompt = {"role": "user", "content": "Q"} | {f"key {i}": i for i in range(1500)}
    path.write_text(json.dumps({"prompt": [prompt], "chosen": "a", "rejected": "b"}) + "\n")
    report = import_path(sqlite_store, path)
    assert (len(report.unread), report.unread["other message keys"]) == (1001, 500)


def test_chunks_of_a_file_have_no_more_than_a_thousand_names_together():
    unread = Counter[str]()
    for chunk in range(3):
        add_unread(unread, {f"column {chunk} {i}": 2 for i in range(600)} | {"column same": 1})
    assert (len(unread), unread["other names"], unread["column same"]) == (1001, 2 * 801, 3)
