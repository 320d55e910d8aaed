"""`alerts list`, `seen` and `silence` on the command line."""

import json
from datetime import timedelta

import pytest

from command_line import run_command
from rlhf_hitl.store import tables
from rlhf_hitl.types import utc_now


def test_alerts_are_listed_seen_and_silenced(sqlite_store, sqlite_url, add_comparisons):
    def run(*args, code=0):
        done = run_command("alerts", *args, "--store", sqlite_url, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    assert "Nothing needs a lead." in run_command("alerts", "list", "--store", sqlite_url).stdout
    add_comparisons(sqlite_store, 1)
    with sqlite_store.write() as conn:
        conn.execute(tables.comparisons.update().values(created_at=utc_now() - timedelta(days=5)))
    [alert] = run("list")["alerts"]
    assert (alert["rule"], alert["subject"], alert["state"], alert["new"]) == ("queue_age", "default", "new", True)
    [alert] = run("list", "--no-look")["alerts"]
    assert alert["new"] is False
    number = str(alert["seq"])
    assert run("seen", number)["state"] == "seen"
    assert run("silence", number, "--days", "2")["state"] == "silenced"
    assert "alert 99" in run("seen", "99", code=2)["error"]
    assert "up to 365" in run("silence", number, "--days", "1000", code=2)["error"]
    with sqlite_store.write() as conn:
        conn.execute(tables.comparisons.update().values(created_at=utc_now()))
    assert run("list")["alerts"] == []
    [alert] = run("list", "--past")["alerts"]
    assert alert["state"] == "over"


@pytest.mark.parametrize("command", [("alerts", "list"), ("serve", "--port", "0")])
def test_rules_that_cannot_be_read_are_refused_in_one_line(sqlite_store, sqlite_url, tmp_path, monkeypatch, command):
    (tmp_path / "mine.yaml").write_text("rules: {queue_ages: {}}")
    monkeypatch.setenv("RLHF_HITL_ALERTS", str(tmp_path / "mine.yaml"))
    done = run_command(*command, "--store", sqlite_url)
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert "mine.yaml" in line
    assert "did you mean rules.queue_age?" in line
