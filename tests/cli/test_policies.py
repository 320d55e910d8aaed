"""The command `policies`: the ranking, who beats whom, the lineage, and what cannot be shown."""

from __future__ import annotations

import json

import pytest
from handmade_promotions import hold_tied_promotion

from command_line import run_command
from handmade_votes import fill
from rlhf_hitl.store.policies import PolicyMethod, record_policy

HOSTILE = "[/x] tuned :smile:"


@pytest.fixture
def voted(sqlite_store, add_raters, tmp_path):
    """A store with votes on three policies and a lineage; the URL of the store."""
    names = ("base", HOSTILE, "elsewhere")
    fill(sqlite_store, add_raters(sqlite_store, 2), 200, tastes={HOSTILE: 1.5}, policies=names, topic="code")
    gone = {"path": tmp_path / "gone", "method": PolicyMethod.DPO, "parent": "base", "reward_model_id": "m_1"}
    record_policy(sqlite_store, HOSTILE, **gone, round=1, settings={})
    hold_tied_promotion(sqlite_store, HOSTILE, "base")
    return sqlite_store.url


def test_policies_are_ranked_with_who_beats_whom_and_the_lineage(voted):
    done = run_command("policies", "--store", voted, "--lineage", "--style-control")
    assert done.returncode == 0, done.stdout
    shown = " ".join(done.stdout.split())
    for said in ("win rate", "Who beats whom", "What style is worth", "folder not there: deleted or moved", "└"):
        assert said in shown
    assert HOSTILE.split()[0] in shown, "brackets are no markup"
    found = json.loads(run_command("policies", "--store", voted, "--json").stdout)
    assert found["policies"][0]["policy"] == HOSTILE
    assert found["base"] == "base"
    assert found["policies"][0]["win_rate"] > 0.6
    assert found["lineage"][1]["gate"].startswith("undecided over base, 0 judgments: win rate 50%")
    assert [(line["depth"], line["policy"], line["place"]) for line in found["lineage"]] == [
        (0, "base", None), (1, HOSTILE, "gone")
    ]  # fmt: skip
    filtered = json.loads(run_command("policies", "--store", voted, "--json", "--tag", "topic=poems").stdout)
    assert filtered["policies"] == []
    assert run_command("policies", "--store", voted, "--tag", "topic=poems").returncode == 0


def test_what_is_asked_for_and_is_not_there_is_named(voted):
    for flags, said in (
        (("--tag", "topic"), "expected NAME=VALUE"),
        (("--base", "nobody"), "a policy that raters have compared (["),
        (("--project", "nowhere"), "nowhere"),
    ):
        done = run_command("policies", "--store", voted, *flags)
        assert done.returncode != 0
        assert said in done.stderr


def test_a_store_without_votes_says_what_to_do(sqlite_url):
    shown = run_command("policies", "--store", sqlite_url, "--lineage").stdout
    assert "Fix: have raters compare answers of two policies" in shown
    assert "No policy is recorded yet" in shown
