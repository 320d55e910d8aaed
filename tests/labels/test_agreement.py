"""Agreement in a store: whose votes count, in which groups they are, and what stands in a report and a card."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import krippendorff
import numpy as np
import pytest

from command_line import run_command
from handmade_votes import put_comparisons, vote
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.labels.agreement import NOT_STATED, measure_store_agreement
from rlhf_hitl.stats.agreement import Coefficient
from rlhf_hitl.store import counted_votes, people
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.loop_steps import finish_step
from rlhf_hitl.store.slices import add_slice
from rlhf_hitl.store.tables import comparisons
from rlhf_hitl.types import Role, utc_now
from rlhf_hitl.types.catalog import ComparisonFilter


def test_people_judges_and_simulated_raters_are_told_apart(store, add_raters):
    ann, ben, cy, judge, other_judge, lead, *bots = add_raters(store, 8)
    made = put_comparisons(store, 12)
    for c in made:
        vote(store, c, ann, ">")
        vote(store, c, ben, ">")
        for n, bot in enumerate(bots):
            vote(store, c, bot, "><"[n], simulated=True)
        vote(store, c, judge, "<", role=Role.JUDGE.value)
        vote(store, c, other_judge, "<", role=Role.JUDGE.value)
        vote(store, c, lead, "<", role=Role.LEAD.value)  # decides it: no vote
    vote(store, made[0], cy, "<")
    report = measure_store_agreement(store)
    # Eleven comparisons with one pair of votes that agrees, and one with one of three.
    assert report.people.pairwise.value == pytest.approx(12 / 14)
    assert (report.people.votes, report.people.comparisons, report.people.vote_pairs) == (25, 12, 14)
    assert report.populations["judges"].pairwise.value == 1.0
    assert report.populations["simulated"].pairwise.value == 0.0
    assert report.votes == {"people": 25, "judges": 24, "simulated": 24}


def test_golds_repeats_surplus_and_corrected_votes_are_out(store, add_raters):
    ann, ben = add_raters(store, 2)
    gold, repeat, surplus, corrected, counted = put_comparisons(store, 5)
    with store.write() as conn:
        conn.execute(comparisons.update().where(comparisons.c.id == gold.id).values(is_gold=True))
        conn.execute(comparisons.update().where(comparisons.c.id == repeat.id).values(repeat_of=counted.id))
    for c in (gold, repeat, counted):
        vote(store, c, ann, ">")
        vote(store, c, ben, ">")
    vote(store, surplus, ann, ">")
    vote(store, surplus, ben, ">", surplus=True)
    vote(store, corrected, ben, ">")
    first = vote(store, corrected, ann, ">")
    vote(store, corrected, ann, "<", supersedes=first)
    report = measure_store_agreement(store)
    assert report.votes == {"people": 5}
    assert report.people.vote_pairs == 2
    assert report.people.pairwise.value == 0.5, "agreed on one, and not on the one that was corrected"


def test_rankings_of_three_are_three_pairs_of_one_comparison(store, add_raters):
    ann, ben = add_raters(store, 2)
    [c] = put_comparisons(store, 1, k=3)
    vote(store, c, ann, "0>1>2")
    vote(store, c, ben, "0>1=2")
    report = measure_store_agreement(store)
    assert (report.people.units, report.people.comparisons, report.people.votes) == (3, 1, 6)
    assert report.people.pairwise.value == pytest.approx(2 / 3)
    assert report.votes == {"people": 2}


def test_groups_are_of_votes_by_language_tag_project_guideline_round_and_rater(store, add_raters):
    ann, ben = add_raters(store, 2)
    english, french = put_comparisons(store, 10, language="EN", category="code"), put_comparisons(store, 12, first=10)
    begun = utc_now() - timedelta(days=1)
    for c in english:
        vote(store, c, ann, ">", guideline_version="v1", created_at=begun)
        vote(store, c, ben, ">", guideline_version="v1", created_at=begun)
    finish_step(store, 1, "train", {}, 1.0, last=True)
    for n, c in enumerate(french):
        vote(store, c, ann, ">", guideline_version="v1")
        vote(store, c, ben, "><"[n % 2], guideline_version="v2")
    finish_step(store, 2, "train", {}, 1.0, last=True)
    groupings = ("language", "tag:category", "project", "guideline", "round", "rater")
    report = measure_store_agreement(store, groupings)
    shares = {g: {x.group: x.agreement.pairwise.value for x in groups} for g, groups in report.groups.items()}
    assert shares == {
        "language": {"en": 1.0, NOT_STATED: 0.5},
        "tag:category": {"code": 1.0, NOT_STATED: 0.5},
        "project": {"default": pytest.approx(16 / 22)},
        "guideline": {"v1": 1.0, "v2": None},  # no two votes under v2 are on one pair
        "round": {"1": 1.0, "2": 0.5},
    }
    assert [x.group for x in report.groups["round"]] == ["1", "2"]
    assert [(r.rater_id in (ann, ben), r.agreement.share.value) for r in report.raters] == [(True, 16 / 22)] * 2
    assert report.raters[0].name == people.get_rater(store, report.raters[0].rater_id).name


def test_a_project_and_chosen_comparisons_are_measured_alone(store, add_raters, monkeypatch):
    ann, ben = add_raters(store, 2)
    made = put_comparisons(store, 4)
    for n, c in enumerate(made):
        vote(store, c, ann, ">")
        vote(store, c, ben, "><"[n % 2])
    assert measure_store_agreement(store, comparison_ids=[c.id for c in made[::2]]).people.pairwise.value == 1.0
    for limit in (0, 1000):  # asked for by name, or picked out of all
        monkeypatch.setattr(counted_votes, "MAX_IDS_IN_QUERY", limit)
        assert measure_store_agreement(store, comparison_ids=[c.id for c in made[1:]]).people.pairwise.value == 1 / 3
    assert measure_store_agreement(store, comparison_ids=[]).people.pairwise == Coefficient()
    assert measure_store_agreement(store, project="another").votes == {"people": 0}


def test_how_much_better_is_a_scale_of_its_own(sqlite_store, add_raters):
    ann, ben = add_raters(sqlite_store, 2)
    made = put_comparisons(sqlite_store, 40)
    rng = np.random.default_rng(0)
    degrees = []
    for c in made:
        pair = []
        for rater in (ann, ben):
            degree = int(rng.integers(-3, 4))  # -3: the first is much better
            pair.append(degree)
            vote(sqlite_store, c, rater, ">=<"[1 + (degree > 0) - (degree < 0)], strength=abs(degree) or None)
        degrees.append(pair)
    theirs = krippendorff.alpha(np.array(degrees).T, level_of_measurement="ordinal")
    report = measure_store_agreement(sqlite_store)
    assert report.alpha_strength.value == pytest.approx(theirs, abs=1e-9)
    outcomes = np.sign(np.array(degrees)).T
    theirs = krippendorff.alpha(outcomes, level_of_measurement="ordinal")
    assert report.people.alpha_ordinal.value == pytest.approx(theirs, abs=1e-9)


def test_one_vote_one_rater_or_only_ties_is_not_known_rather_than_a_number(sqlite_store, add_raters):
    ann, ben = add_raters(sqlite_store, 2)
    assert measure_store_agreement(sqlite_store, ("rater", "language")).votes == {"people": 0}
    made = put_comparisons(sqlite_store, 20)
    for c in made:
        vote(sqlite_store, c, ann, "=")
    alone = measure_store_agreement(sqlite_store, ("rater", "round", "language"))
    assert alone.people.pairwise == alone.people.alpha_nominal == alone.people.gwet_ac1 == Coefficient()
    assert alone.raters == []
    for c in made:
        vote(sqlite_store, c, ben, "=")
    tied = measure_store_agreement(sqlite_store)
    assert tied.people.pairwise.value == 1.0
    assert tied.people.alpha_nominal == tied.people.fleiss_kappa == tied.people.gwet_ac1 == Coefficient()
    assert "NaN" not in json.dumps(tied.as_dict())


def test_a_grouping_that_does_not_exist_is_refused(sqlite_store):
    for wrong in ("tag:", "policy", ""):
        with pytest.raises(BadInput, match="tag:category"):
            measure_store_agreement(sqlite_store, (wrong,))


def test_alpha_of_a_published_crowd_is_that_of_the_krippendorff_package(sqlite_store, shared_data):
    """LLMFAO: 8,931 votes of 124 people, taken from the judgments on one side, and from the report on the other."""
    import_path(sqlite_store, shared_data / "llmfao")
    canonical = {c.id: [a.id for a in c.completions] for c in find_comparisons(sqlite_store)}
    votes: dict[tuple[str, str], int] = {}
    for j in read_judgments(sqlite_store):
        best = j.answer.ranking[0] if j.answer.ranking else ()
        tied = len(best) != 1
        votes[j.rater_id, j.comparison_id] = 1 if tied else 2 * canonical[j.comparison_id].index(best[0])
    raters, units = (sorted({key[n] for key in votes}) for n in (0, 1))
    table = np.full((len(raters), len(units)), np.nan)
    for (rater, unit), outcome in votes.items():
        table[raters.index(rater), units.index(unit)] = outcome
    report = measure_store_agreement(sqlite_store, ("rater",))
    found: Any
    theirs: Any
    for found, theirs in (
        (report.people.alpha_nominal, krippendorff.alpha(table, level_of_measurement="nominal")),
        (report.people.alpha_ordinal, krippendorff.alpha(table, level_of_measurement="ordinal")),
    ):
        assert found.value == pytest.approx(theirs, abs=1e-9)
        assert found.low < theirs < found.high
    assert len(report.raters) == 124


def test_the_command_shows_groups_and_refuses_what_it_does_not_know(sqlite_store, add_raters):
    ann, ben = add_raters(sqlite_store, 2)
    for n, c in enumerate(put_comparisons(sqlite_store, 12, language="fr")):
        vote(sqlite_store, c, ann, "><"[n % 2])
        vote(sqlite_store, c, ben, "><"[n % 2] if n else "=")
    shown = run_command("agreement", "--by", "language", "--by", "rater", "--store", sqlite_store.url)
    assert shown.returncode == 0
    for expected in ("Gwet's AC1", "Agreement by language", "fr", "91.7%", "24 votes on 12 comparisons"):
        assert expected in shown.stdout
    data = json.loads(run_command("agreement", "--by", "rater", "--json", "--store", sqlite_store.url).stdout)
    assert data["populations"]["people"]["pairwise"]["value"] == pytest.approx(11 / 12)
    assert len(data["raters"]) == 2
    refused = run_command("agreement", "--by", "colour", "--store", sqlite_store.url)
    assert refused.returncode == 2
    assert "tag:category" in refused.stderr
    add_slice(sqlite_store, "french", ComparisonFilter(language=("fr",)))
    of_slice = run_command("agreement", "--slice", "french", "--store", sqlite_store.url)
    assert "12 comparisons" in of_slice.stdout
    assert run_command("agreement", "--slice", "none", "--store", sqlite_store.url).returncode == 2
    missing = run_command("agreement", "--project", "nowhere", "--store", sqlite_store.url)
    assert missing.returncode == 2
    assert "projects list" in missing.stderr


def test_the_card_of_an_export_says_what_the_report_says(sqlite_store, add_raters, tmp_path):
    """In the card, votes are counted as they are written; in the report, they are read for it."""
    ann, ben, bot, other_bot, judge = add_raters(sqlite_store, 5)
    for n, c in enumerate(put_comparisons(sqlite_store, 30)):
        vote(sqlite_store, c, ann, "><"[n % 2])
        vote(sqlite_store, c, ben, "><="[n % 3])
        vote(sqlite_store, c, judge, "<", role=Role.JUDGE.value)
        for one in (bot, other_bot):
            vote(sqlite_store, c, one, ">", simulated=True)
    report = measure_store_agreement(sqlite_store)
    manifest = export_snapshot(sqlite_store, tmp_path / "out", format="trl")
    assert manifest["agreement"] == {name: asdict(a) for name, a in report.populations.items()}
    card = (tmp_path / "out" / "README.md").read_text()
    value = report.people.alpha_nominal.value
    assert f"alpha {value:.3f} (" in card
    assert "Two votes of people" in card
    assert "Two votes of simulated raters" in card
    assert "models that judge" not in card, "one judge has nobody to agree with"
