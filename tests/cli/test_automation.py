"""`automation status`, `pause` and `resume` on the command line."""

import json
import math

import pytest

from command_line import run_command
from handmade_work import make_history
from rlhf_hitl.routing.threshold_curve import read_curve_basis


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


def test_what_is_not_given_stays_demanded_and_labels_have_to_support_it(run, sqlite_store, tmp_path):
    def read():
        [held] = run("demand")["demands"]
        return held["min_confidence"], held["max_error"]

    run("demand", "--max-error", "0.3")
    run("demand", "--min-confidence", "0.5")  # no model has routed: the next routing tests it
    assert read() == (0.5, 0.3)
    make_history(sqlite_store, tmp_path, days=1, a_day=4, models=1)
    basis = read_curve_basis(sqlite_store)
    assert basis is not None
    strict, lax = (math.ceil(basis.tested.choose_threshold(error).value * 1000) / 1000 for error in (0.1, 0.3))
    assert lax < strict < 1
    run("demand", "--min-confidence", f"{lax}")  # which the bound that was demanded before supports
    assert read() == (lax, 0.3)
    refused = run("demand", "--max-error", "0.1", code=2)["error"]  # from what was demanded before on it is not shown
    assert f"a confidence of {lax:.3f} under a bound of 10%" in refused
    assert read() == (lax, 0.3)
    run("demand", "--max-error", "0.1", "--min-confidence", f"{strict}")
    assert read() == (strict, 0.1)
    assert "above 0 and below 1" in run("demand", "--max-error", "1", code=2)["error"]
