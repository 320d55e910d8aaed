"""`automation status`, `pause` and `resume` on the command line."""

import json

import pytest

from command_line import run_command


@pytest.fixture
def run(sqlite_store, sqlite_url):
    def run(*args, code=0):
        done = run_command("automation", *args, "--store", sqlite_url, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_project_is_paused_and_resumed_and_its_history_says_by_whom_and_why(run):
    [row] = run("status")["projects"]
    assert (row["project"], row["state"], row["audits"]["decided"]) == ("default", "running", 0)
    assert run("pause", "--because", "New guideline.")["state"] == "paused"
    assert "paused already" in run("pause", code=2)["error"]
    [row] = run("status")["projects"]
    assert (row["state"], row["reason"], row["by"]) == ("paused", "New guideline.", "somebody with a shell")
    assert run("resume", "--because", "Raters have read it.")["state"] == "running"
    assert [e["state"] for e in run("status", "--project", "default")["history"]] == ["running", "paused"]
    assert "a known project" in run("status", "--project", "nowhere", code=2)["error"]
    assert "a known project" in run("pause", "--project", "nowhere", code=2)["error"]
