"""An importer that is killed leaves nothing or, after the next command, everything; two importers lose nothing."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from rlhf_hitl.formats.archive import write_archive
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store, imports
from rlhf_hitl.store.comparisons import count_rows
from rlhf_hitl.store.imports import finishing, staging
from rlhf_hitl.store.service_tables import import_batches
from rlhf_hitl.store.service_tables import imports as imports_table

ROWS, VOTES = 3000, 4
IMPORT = """
import sys, time
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store
from rlhf_hitl.store.imports import pacing
pacing.FEWEST, pacing.MOST = 8, 40  # many transactions, so that the kill comes between two of them
store = Store.open(sys.argv[1])
print("ready", flush=True)
import_path(store, sys.argv[2])
"""


@pytest.fixture
def votes(tmp_path) -> Path:
    path = tmp_path / "votes.jsonl"
    with path.open("w") as f:
        for i in range(ROWS):
            chats = [[{"role": "user", "content": f"Q{i // VOTES}"}, {"role": "assistant", "content": c}] for c in "ab"]
            row = {"judge": f"rater {i % VOTES}", "model_a": "A", "model_b": "B", "turn": 1, "winner": "model_a"}
            f.write(json.dumps(row | {"conversation_a": chats[0], "conversation_b": chats[1]}) + "\n")
    return path


WHOLE = {
    "prompts": ROWS // VOTES, "completions": 2 * ROWS // VOTES, "comparisons": ROWS // VOTES, "judgments": ROWS,
    "raters": VOTES,
}  # fmt: skip


def totals(store: Store) -> dict[str, int]:
    return {name: n for name, n in count_rows(store).items() if "." not in name}


def test_long_texts_are_staged_and_applied_few_at_a_time(store, tmp_path):
    """So no transaction writes, or deletes, more than some megabytes."""
    path = tmp_path / "long.jsonl"
    with path.open("w") as f:
        for i in range(30):
            chats = [
                [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": c * 200_000}] for c in "ab"
            ]
            row = {"judge": "ann", "model_a": "A", "model_b": "B", "turn": 1, "winner": "model_a"}
            f.write(json.dumps(row | {"conversation_a": chats[0], "conversation_b": chats[1]}) + "\n")
    import_path(store, path)
    with store.read() as conn:
        sizes = list(conn.execute(sa.select(import_batches.c.size)).scalars())
    assert sum(sizes) == 30
    assert max(sizes) <= 6, "400 KB each, and a batch ends with two megabytes"


def kill_import(url: str, votes: Path, seconds: float) -> None:
    """Import in a process of its own and kill that some seconds after it began."""
    process = subprocess.Popen([sys.executable, "-c", IMPORT, url, str(votes)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.8])
def test_a_killed_import_is_nothing_or_after_the_next_command_everything(store, votes, tmp_path, monkeypatch, share):
    monkeypatch.setattr(finishing, "HEARTBEAT_TIMEOUT", finishing.timedelta(seconds=0.3))
    kill_import(store.url, votes, 2.5 * share * random.Random(share).uniform(0.8, 1.2))
    with store.read() as conn:
        is_committed = conn.execute(sa.select(imports_table.c.committed_at)).scalars().first() is not None
    if not is_committed:
        assert not any(totals(store).values())
    write_archive(store, tmp_path / "a.archive")  # the next command
    assert totals(store) == (WHOLE if is_committed else dict.fromkeys(WHOLE, 0))
    report = import_path(store, votes)
    assert totals(store) == WHOLE
    assert (report.judgments, report.repeated_rows) == ((0, ROWS) if is_committed else (ROWS, 0))


def interrupt_import(store: Store, votes: Path, monkeypatch) -> None:
    """Stop an import in the middle of its application, as a full disk does."""
    seen = 0
    apply_part = finishing._ImportRun._apply_part

    def fail_later(self, *args):
        nonlocal seen
        seen += 1
        if seen == 5:
            raise KeyboardInterrupt
        return apply_part(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(finishing._ImportRun, "_apply_part", fail_later)
        with pytest.raises(KeyboardInterrupt):
            import_path(store, votes)
    assert 0 < totals(store)["judgments"] < ROWS


def test_somebody_else_finishes_an_import_with_the_report_of_all_of_it(store, votes, monkeypatch):
    monkeypatch.setattr(finishing, "HEARTBEAT_TIMEOUT", finishing.timedelta(0))
    interrupt_import(store, votes, monkeypatch)
    [finished] = imports.finish_waiting_imports(store)
    assert {k: finished.counts[k] for k in WHOLE} == WHOLE == totals(store)
    assert finished.counts["rows"] == ROWS
    assert imports.finish_waiting_imports(store) == []


def test_a_server_finishes_an_import_beside_its_requests(store, votes, monkeypatch):
    monkeypatch.setattr(finishing, "HEARTBEAT_TIMEOUT", finishing.timedelta(seconds=0.5))
    interrupt_import(store, votes, monkeypatch)
    keepers = [imports.Housekeeper(store, look_interval=0.05) for _ in range(3)]
    for keeper in keepers:
        keeper.start()
    deadline = time.monotonic() + 30
    while totals(store) != WHOLE and time.monotonic() < deadline:
        time.sleep(0.05)
    for keeper in keepers:
        keeper.stop()
    assert totals(store) == WHOLE


def test_two_imports_at_once_lose_nothing_and_count_right(store, votes):
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(import_path(store, votes))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals(store) == WHOLE
    for name, n in WHOLE.items():
        assert sum(getattr(r, name) for r in reports) == n
    assert sum(r.repeated_rows for r in reports) == ROWS


def test_what_was_staged_and_not_committed_is_deleted_after_a_while(store, votes, monkeypatch):
    kill_import(store.url, votes, 0)
    with imports.ImportStaging(store, name="x", format="native", source="", project="default") as staged:
        monkeypatch.setattr(staging, "STAGING_KEPT", staging.timedelta(0))
        imports.delete_old_imports(store)
        with pytest.raises(staging.ImportLost, match="nothing was imported"):
            staged.commit({})
    with store.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(import_batches)).scalar_one() == 0
    assert not any(totals(store).values())
