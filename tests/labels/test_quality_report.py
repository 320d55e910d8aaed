"""Agreement and bias in `rlhf-hitl report`: table, JSON and HTML."""

from __future__ import annotations

import json
import re

import pytest

from command_line import run_command
from handmade_votes import fill
from rlhf_hitl.labels.agreement import measure_store_agreement
from rlhf_hitl.labels.bias import measure_bias
from rlhf_hitl.store import people
from rlhf_hitl.store.slices import add_slice
from rlhf_hitl.types.catalog import ComparisonFilter

HOSTILE = "<script>alert($1$)</script>"


@pytest.fixture
def judged_by_tastes(sqlite_store, add_raters):
    raters = add_raters(sqlite_store, 10)
    tastes = {"position": 0.5, HOSTILE: 1.0}
    fill(sqlite_store, raters, 120, votes=3, seed=1, tastes=tastes, policies=(HOSTILE, "plain"), language="en")
    fill(sqlite_store, raters, 110, votes=3, seed=2, tastes=tastes, policies=(HOSTILE, "plain"), language="fr")
    for n, id in enumerate(raters):
        name = people.get_rater(sqlite_store, id).name
        people.change_rater(sqlite_store, name, attributes={"region": "north" if n < 6 else "south"})
    return sqlite_store


def test_the_report_has_both_as_json_and_as_tables(judged_by_tastes):
    url = judged_by_tastes.url
    data = json.loads(run_command("report", "--store", url, "--json").stdout)
    agreement, bias = measure_store_agreement(judged_by_tastes), measure_bias(judged_by_tastes)
    people_found = data["agreement"]["populations"]["people"]
    assert people_found["alpha_nominal"]["value"] == pytest.approx(agreement.people.alpha_nominal.value)
    assert {g["group"] for g in data["agreement"]["groups"]["language"]} == {"en", "fr"}
    assert data["bias"]["effects"][0]["value"] == pytest.approx(bias.effects[0].value)
    shown = run_command("report", "--store", url).stdout
    for expected in ("Agreement between people", "Agreement by language", "What raters reward", "shown first", "north"):
        assert expected in shown
    assert "Not shown: 1 group of region" in shown
    assert "Agreement by round" not in shown, "there is one group only"


def test_the_html_report_draws_both_and_takes_names_as_text(judged_by_tastes, tmp_path):
    page = tmp_path / "report.html"
    assert run_command("report", "--html", page, "--store", judged_by_tastes.url).returncode == 0
    html = page.read_text()
    titles = re.findall(r'<svg[^>]* aria-label="([^"]+)"', html)
    assert titles[titles.index("Agreement between people") :] == [
        "Agreement between people",
        "Nominal alpha by language",
        "Effects on the win probability",
        "Win probability of each policy",
        "Shown first, by language",
        "Twice as long, by language",
        "Shown first, by region",
        "Twice as long, by region",
    ]
    assert html.count("<script") == 1, "that of the plots, which the page's policy names by its hash"
    assert "&lt;script&gt;" in html
    assert "Not shown: 1 group of region with fewer than 5 raters." in html


def test_a_slice_is_reported_alone(judged_by_tastes, tmp_path):
    add_slice(judged_by_tastes, "in French", ComparisonFilter(language=("fr",)))
    page = tmp_path / "report.html"
    url = judged_by_tastes.url
    data = json.loads(run_command("report", "--slice", "in French", "--html", page, "--store", url, "--json").stdout)
    assert (data["slice"], data["bias"]["votes"], data["agreement"]["votes"]["people"]) == ("in French", 330, 330)
    assert page.read_text().count("Of the slice in French.") == 2
    assert "Of the slice in French:" in run_command("report", "--slice", "in French", "--store", url).stdout


def test_an_empty_store_has_a_report_that_says_what_is_not_known(sqlite_url, tmp_path):
    page = tmp_path / "report.html"
    shown = run_command("report", "--html", page, "--store", sqlite_url)
    assert shown.returncode == 0
    assert "their agreement is not known" in shown.stdout
    assert "Too few votes to know any effect." in page.read_text()
    data = json.loads(run_command("report", "--json", "--store", sqlite_url).stdout)
    assert data["agreement"]["populations"]["people"]["alpha_nominal"] == {"value": None, "low": None, "high": None}
