"""The audit log has what is done on the command line too, and its table shows people by their names."""

from __future__ import annotations

import json
from contextlib import contextmanager

from command_line import run_command
from rlhf_hitl.store import Store, StoreFailure, audit, people, projects
from rlhf_hitl.types import Role

ROW = {"prompt": "Tea?", "chosen": "Yes, with milk.", "rejected": "No.", "split": "train"}


def test_imports_and_exports_are_recorded_with_what_they_were_of(sqlite_url, tmp_path):
    rows, archive = tmp_path / "rows.jsonl", tmp_path / "all.zip"
    rows.write_text(json.dumps(ROW) + "\n")
    for words in (
        ["import", rows],
        ["export", tmp_path / "snapshot"],
        ["export", archive, "--format", "archive"],
    ):
        done = run_command(*words, "--store", sqlite_url)
        assert done.returncode == 0, done.stderr
    with Store.open(sqlite_url) as store:
        said = [(e.actor, e.action, e.subject, e.details) for e in audit.list_entries(store)]
    assert said == [
        ("cli", "import", "default", {"rows": 1, "judgments": 1}),
        ("cli", "export", "trl", {"project": None, "decisions": 0}),
        ("cli", "export", "archive", {"project": None, "decisions": 0}),
    ]
    restored = f"sqlite:///{tmp_path}/restored.db"
    assert run_command("import", archive, "--store", restored).returncode == 0
    text = run_command("audit", "--store", restored, env={"COLUMNS": "200"}).stdout
    assert [line.split()[2:] for line in text.splitlines()[2:]][:2] == [
        ["cli", "export", "trl"],
        ["cli", "import", "default"],
    ], "a store that was filled from an archive is the store that it was, with its log"


def test_what_fails_is_not_recorded(sqlite_store, sqlite_url, tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert run_command("import", tmp_path / "rows.jsonl", "--store", sqlite_url).returncode == 2
    assert run_command("export", tmp_path / "snapshot", "--store", sqlite_url).returncode == 2
    assert audit.list_entries(sqlite_store) == []


def test_an_export_of_a_store_that_cannot_be_written_says_that_the_log_lacks_it(sqlite_url, tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    assert run_command("import", tmp_path / "rows.jsonl", "--store", sqlite_url).returncode == 0

    @contextmanager
    def refuse(self):
        raise StoreFailure("the store is read-only")
        yield

    monkeypatch.setattr(Store, "write", refuse)
    done = run_command("export", tmp_path / "all.zip", "--format", "archive", "--store", sqlite_url)
    assert done.returncode == 0
    assert "note: this export is not in the audit log: the store is read-only" in done.stderr
    assert (tmp_path / "all.zip").is_file()


def test_the_table_has_names_and_the_json_has_ids(sqlite_store, sqlite_url):
    lea = people.add_rater(sqlite_store, "lea", Role.LEAD)
    projects.add_project(sqlite_store, "tea", by=audit.Actor(lea.id))
    projects.add_member(sqlite_store, "tea", "lea")
    with sqlite_store.write() as conn:
        audit.record(conn, audit.Actor(lea.id), "sign_out", lea.id)
    text = run_command("audit", "--store", sqlite_url, env={"COLUMNS": "200"}).stdout
    assert lea.id not in text
    shown = [line.split()[2:] for line in text.splitlines()[2:6]]
    assert shown == [
        ["lea", "sign_out", "lea"],
        ["cli", "project.admitted", "tea", "(lea)"],
        ["lea", "project.added", "tea"],
        ["cli", "rater.added", "lea"],
    ]
    entries = json.loads(run_command("audit", "--json", "--store", sqlite_url).stdout)["entries"]
    assert (entries[0]["actor"], entries[0]["subject"]) == (lea.id, lea.id)
