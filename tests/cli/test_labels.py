"""`labels fit|list|show`: on votes whose order was not kept, as most imported ones are."""

from __future__ import annotations

import json

import pytest

from command_line import run_command
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.types import LABEL_MODELS


@pytest.fixture
def imported_url(tmp_path) -> str:
    """Three comparisons with imported votes of two raters, who differ on the first."""
    said = [("Tea?", "Yes.", "No.", "ann"), ("Tea?", "No.", "Yes.", "bob"), ("Milk?", "Yes.", "No.", "ann"),
            ("Sugar?", "Yes.", "No.", "bob")]  # fmt: skip
    file, url = tmp_path / "votes.jsonl", f"sqlite:///{tmp_path}/preferences.db"
    names = ("prompt", "chosen", "rejected", "rater")
    file.write_text("".join(json.dumps(dict(zip(names, row))) + "\n" for row in said))
    assert run_command("init", "--store", url).returncode == 0
    assert run_command("import", str(file), "--store", url).returncode == 0
    return url


def find_id(url: str, question: str) -> str:
    with Store.open(url) as store:
        return next(c.id for c in find_comparisons(store) if c.prompt.messages[0].text == question)


@pytest.mark.parametrize("label_model", LABEL_MODELS)
def test_votes_and_labels_of_a_comparison_are_shown(imported_url, label_model):
    asked = ("labels", "show", find_id(imported_url, "Tea?"), "--label-model", label_model, "--store", imported_url)
    shown = run_command(*asked)
    assert shown.returncode == 0, shown.stderr
    assert "1 > 2" in shown.stdout
    assert "2 > 1" in shown.stdout
    data = json.loads(run_command(*asked, "--json").stdout)
    assert len(data["votes"]) == 2
    [label] = data["labels"]
    assert sum(label["probabilities"]) == pytest.approx(1)
    assert label["votes"] == 2


def test_a_fit_is_kept_and_listed(imported_url):
    made = json.loads(run_command("labels", "fit", "--store", imported_url, "--json").stdout)
    assert made["figures"]["labels"] == 3
    listed = run_command("labels", "list", "--store", imported_url)
    assert listed.returncode == 0, listed.stderr
    assert "raters" in listed.stdout


def test_a_comparison_without_votes_is_refused_by_name(imported_url):
    done = run_command("labels", "show", "x_none", "--store", imported_url)
    assert done.returncode == 2
    assert "x_none" in done.stderr
    assert "Fix: " in done.stderr
