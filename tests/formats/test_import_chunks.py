"""A file that several processes read gives the same store, the same report and the same errors as one alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import chunk_reading
from rlhf_hitl.formats.importing import ImportReport, import_path
from rlhf_hitl.formats.source import parse_json
from rlhf_hitl.store import Store
from rlhf_hitl.store.tables import comparisons, completions, judgments, prompts

LINES = 600


def make_line(i: int, **other: object) -> str:
    question = {"role": "user", "content": f"Q{i // 4}"}
    chats = [[question, {"role": "assistant", "content": answer, "weight": 1}] for answer in ("yes", "no ä")]
    row = {"judge": f"rater {i % 4}", "model_a": "A", "model_b": "B", "turn": 1, "winner": "model_a", "mood": "good"}
    return json.dumps(row | {"conversation_a": chats[0], "conversation_b": chats[1]} | other) + "\n"


@pytest.fixture
def in_chunks(monkeypatch):
    """Return a function that sets how many workers read, a few lines each time."""
    used: list[int] = []
    read = chunk_reading._Worker.read

    def count(self, lines):
        used.append(len(lines))
        return read(self, lines)

    def use(workers: int) -> list[int]:
        monkeypatch.setattr(chunk_reading, "CHUNK_BYTES", 4000)
        monkeypatch.setattr("rlhf_hitl.formats.importing.choose_workers", lambda source: workers)
        # All chunks are theirs: the importer waits for them instead of reading some itself.
        monkeypatch.setattr(chunk_reading._Worker, "is_free", property(lambda self: True))
        monkeypatch.setattr(chunk_reading._Worker, "read", count)
        return used

    return use


def import_into(folder: Path, name: str, path: Path, **options) -> tuple[ImportReport, dict[str, list]]:
    """Return the report, and what the tables hold in their order, without times and judgments' own ids."""
    with Store.open(f"sqlite:///{folder}/{name}.db", create=True) as store:
        report = import_path(store, path, **options)
        with store.read() as conn:
            rows = {
                table.name: [
                    tuple(v for c, v in zip(table.c, row) if c.name != "created_at" and str(c) != "judgments.id")
                    for row in conn.execute(sa.select(table).order_by(key))
                ]
                for table, key in (
                    (prompts, prompts.c.id),
                    (completions, completions.c.id),
                    (comparisons, comparisons.c.id),
                    (judgments, judgments.c.seq),
                )
            }
    return replace(report, longest_write_ms=0), rows


def compare(folder: Path, in_chunks, lines: list[str], **options) -> tuple[ImportReport, list[int]]:
    """Import lines with two workers and without; check that all is equal, and return the report and the chunks read."""
    path = folder / "votes.jsonl"
    path.write_text("".join(lines))
    alone = import_into(folder, "alone", path, **options)
    used = in_chunks(2)
    assert import_into(folder, "workers", path, **options) == alone
    return alone[0], used


def test_workers_give_the_same_store_and_the_same_counts(tmp_path, in_chunks):
    report, used = compare(tmp_path, in_chunks, [make_line(i) for i in range(LINES)])
    assert sum(used) == LINES
    assert len(used) > 10
    assert (report.judgments, report.comparisons, report.raters) == (LINES, LINES // 4, 4)
    assert report.unread["column mood"] == LINES
    assert report.unread["message key weight"] == 2 * LINES


def test_bad_lines_are_counted_and_quoted_in_the_order_of_the_file(tmp_path, in_chunks):
    lines = [make_line(i) for i in range(LINES)]
    for i in range(30, LINES, 40):
        lines[i] = ("{broken\n", "[]\n", make_line(i, winner="nobody"), make_line(i, judge="\ud800"))[i // 40 % 4]
    report, used = compare(tmp_path, in_chunks, lines, skip_bad=True)
    assert sum(used) == LINES
    assert (report.bad_lines, report.judgments) == (15, LINES - 15)
    assert [reason.split(":")[1] for reason in report.bad_reasons] == ["31", "71", "111", "151", "191"]


def test_the_first_bad_line_ends_the_import_and_is_named(tmp_path, in_chunks):
    lines = [make_line(i) for i in range(LINES)]
    lines[500] = lines[300] = "{broken\n"
    (tmp_path / "votes.jsonl").write_text("".join(lines))
    assert in_chunks(2) == []
    with (
        Store.open(f"sqlite:///{tmp_path}/a.db", create=True) as store,
        pytest.raises(BadInput, match=r"votes\.jsonl:301: expected JSON"),
    ):
        import_path(store, tmp_path / "votes.jsonl")


def test_votes_without_a_name_are_told_apart_in_the_order_of_the_file(tmp_path, in_chunks):
    lines = [make_line(i, judge=None if i > LINES // 2 else "ann") for i in range(LINES)]
    report, used = compare(tmp_path, in_chunks, [*lines, *lines[-20:]])
    assert 0 < sum(used) < LINES, "once a worker has given a chunk back, the importer reads the others itself"
    assert report.judgments == LINES // 2 // 4 + 1 + LINES // 2 - 1 + 20


def test_a_name_that_looks_like_one_of_another_chunk_is_refused(tmp_path, in_chunks):
    lines = [make_line(i, model_a="лea" if i == 100 else "л\u0435а" if i == 500 else "A") for i in range(LINES)]
    report, used = compare(tmp_path, in_chunks, lines, skip_bad=True)
    assert sum(used) == LINES
    assert report.bad_lines == 1
    assert report.bad_reasons[0].startswith(str(tmp_path / "votes.jsonl:501: policy"))


def test_a_worker_that_is_killed_is_not_missed(tmp_path, in_chunks, monkeypatch):
    take = chunk_reading.ChunkedReading._take

    def kill(self, lines, read):
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # it is a zombie
                if "rlhf_hitl.formats.import_worker" in child.cmdline():
                    child.kill()
        return take(self, lines, read)

    monkeypatch.setattr(chunk_reading.ChunkedReading, "_take", kill)
    report, _ = compare(tmp_path, in_chunks, [make_line(i) for i in range(LINES)])
    assert report.judgments == LINES


def test_workers_end_with_an_importer_that_is_killed(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(make_line(i) for i in range(40_000)))
    Store.open(f"sqlite:///{tmp_path}/a.db", create=True).close()
    program = (
        "import sys; from rlhf_hitl.formats import chunk_reading, importing; from rlhf_hitl.store import Store; "
        "importing.choose_workers = lambda source: 2; print(1, flush=True); "
        "importing.import_path(Store.open(sys.argv[1]), sys.argv[2])"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{tmp_path}/a.db", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 30
    while len(workers := psutil.Process(process.pid).children()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(workers) == 2
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert len(gone) == 2
    assert not alive


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 123456789012345678901234567890}', '{"n": -9223372036854775809}', '{"n": [1, -0, 1.0, 1e3]}',
        '{"n": NaN}', '{"n": 1E999}', '{"n": "\\ud800"}', '{"n": 1, "n": 2}', '{"n": 12345678901234567.25}',
    ],
)  # fmt: skip
def test_a_line_is_read_as_pythons_json_reads_it(text):
    assert repr(parse_json(text.encode())) == repr(json.loads(text))
