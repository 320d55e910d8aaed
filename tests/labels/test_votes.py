"""Which judgments of a store are votes, on both databases, and that labels of both are the same."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import sqlalchemy as sa

from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.labels.kept_fits import fit_and_keep_labels, load_kept_label_model
from rlhf_hitl.labels.label_models import Raters, Shares
from rlhf_hitl.labels.votes import read_votes
from rlhf_hitl.store import people, projects, queue
from rlhf_hitl.store.catalog_entries import load_entries
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.counted_votes import read_counted_votes
from rlhf_hitl.store.export_query import read_judged_comparisons
from rlhf_hitl.store.judgments import append_judgment, judgment_to_row
from rlhf_hitl.store.label_fits import list_label_fits, load_rater_estimates
from rlhf_hitl.store.quality_tables import labels
from rlhf_hitl.store.tables import comparisons, judgments, prompts, raters
from rlhf_hitl.types import (
    DEFAULT_PROJECT,
    LABEL_MODELS,
    Answer,
    Comparison,
    Completion,
    Message,
    OverlapRule,
    Prompt,
    Role,
    Route,
    Split,
    Verdict,
    utc_now,
)


def fill(store, n=6):
    """Add n comparisons, every third held out, and five people and a judge; return comparisons and rater ids."""
    made = []
    for i in range(n):
        prompt = Prompt.create((Message("user", f"Question {i}?"),), split=Split.HELDOUT if i % 3 == 2 else Split.TRAIN)
        answers = [Completion.create(prompt.id, (Message("assistant", f"{i}.{k}"),), "p") for k in range(2)]
        made.append(Comparison.create(prompt, answers, 2))
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    ids = [people.add_rater(store, f"rater {k}", Role.RATER).id for k in range(5)]
    return made, ids


def judge(store, comparison, rater, winner=0, *, role=Role.RATER, verdict=Verdict.RANKED, **more):
    best, worst = (comparison.completions[k].id for k in (winner, 1 - winner))
    answer = Answer(verdict, ((best,), (worst,)) if verdict is Verdict.RANKED else ())
    row = judgment_to_row(
        answer, comparison_id=comparison.id, rater_id=rater, order_shown=[best, worst], route=Route.HUMAN.value,
        created_at=utc_now(), idempotency_key=f"{comparison.id} {rater} {more}", role=role.value, **more,
    )  # fmt: skip
    with store.write() as conn:
        append_judgment(conn, row)
    return row["id"]


def test_what_measures_raters_and_what_models_say_of_heldout_prompts_are_no_votes(store):
    made, ids = fill(store)
    with store.write() as conn:
        conn.execute(comparisons.update().where(comparisons.c.id == made[0].id).values(is_gold=True))
        conn.execute(raters.update().where(raters.c.id == ids[1]).values(vote_weight=0.5))
    for comparison in (made[0], made[1], made[2]):
        judge(store, comparison, ids[0])
        judge(store, comparison, ids[4], 1, role=Role.JUDGE, probabilities=[0.9, 0.05, 0.05])
    mistaken = judge(store, made[1], ids[1], 0)
    judge(store, made[1], ids[1], 1, supersedes=mistaken)
    judge(store, made[1], ids[2], 0, surplus=True)
    judge(store, made[1], ids[3], verdict=Verdict.SKIPPED)
    votes = dict(read_votes(store))
    assert set(votes) == {made[1].id, made[2].id}  # not the gold
    assert [v.rater_id for v in votes[made[2].id]] == [ids[0]]  # held out: no judge
    assert {v.rater_id: (v.role, v.weight) for v in votes[made[1].id]} == {
        ids[0]: (Role.RATER, 1), ids[1]: (Role.RATER, 0.5), ids[4]: (Role.JUDGE, 1),
    }  # fmt: skip
    assert [v.probabilities for v in votes[made[1].id] if v.role == Role.JUDGE] == [[0.9, 0.05, 0.05]]
    assert {v.rater_id for v in dict(read_votes(store, judges=False))[made[1].id]} == set(ids[:2])
    assert [i for i, _ in read_votes(store, split=Split.HELDOUT)] == [made[2].id]
    assert [i for i, _ in read_votes(store, comparison_id=made[1].id)] == [made[1].id]
    [label] = read_labels(store, split=Split.TRAIN)
    assert (label.judges, label.votes, label.weight) == (1, 3, 2.5)


@pytest.fixture
def voted(store):
    made, ids = fill(store, 12)
    for n, comparison in enumerate(made):
        for k in range(3):
            judge(store, comparison, ids[(n + k) % 4], int((n + k) % 4 == 3))
    judge(store, made[0], ids[4], 1, role=Role.LEAD)
    return store


@pytest.mark.parametrize("label_model", LABEL_MODELS)
def test_two_exports_have_the_same_content_and_say_how_labels_were_made(voted, tmp_path, label_model):
    one, other = (
        export_snapshot(voted, tmp_path / name, format="jsonl", label_model=label_model, include_ties=True)
        for name in ("one", "other")
    )
    assert one["content_hash"] == other["content_hash"]
    assert one["label_model"] == label_model
    assert (one["reliability"] is not None) == (label_model == "raters")


def test_labels_of_both_databases_are_the_same(sqlite_store, postgres_url):
    from rlhf_hitl.store import Store

    with Store.open(postgres_url) as postgres_store:
        kept = []
        for store in (sqlite_store, postgres_store):
            made, _ = fill(store, 12)
            with store.read() as conn:
                by_name = dict(conn.execute(sa.select(raters.c.name, raters.c.id)).tuples().all())
            order = made if store is sqlite_store else made[::-1]
            for comparison in order:
                n = made.index(comparison)
                for k in range(3):
                    judge(store, comparison, by_name[f"rater {(n + k) % 4}"], int((n + k) % 4 == 3))
            kept.append({name: read_labels(store, label_model=name) for name in LABEL_MODELS})
        assert kept[0]["shares"] == kept[1]["shares"]
        for name in LABEL_MODELS:  # raters have other ids there, so sums of theirs may differ in the last digits
            for one, other in zip(kept[0][name], kept[1][name], strict=True):
                assert (one.comparison_id, one.counts) == (other.comparison_id, other.counts)
                assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_a_model_that_was_imported_as_a_person_is_a_judge_to_every_reader(store):
    """An earlier version kept no role in the judgment. Of the six comparisons, two are held out."""
    made, ids = fill(store)
    for comparison in made:
        judge(store, comparison, ids[0])
    with store.write() as conn:
        conn.execute(raters.update().where(raters.c.id == ids[0]).values(role="judge", source="preferences"))
    assert [vote.role for _, votes in read_votes(store) for vote in votes] == [Role.JUDGE.value] * 4
    assert list(read_votes(store, split=Split.HELDOUT)) == []
    assert [vote.is_judge for vote in read_counted_votes(store)] == [True] * 6
    exported = [
        judgment["role"]
        for split in (Split.TRAIN, Split.HELDOUT)
        for batch in read_judged_comparisons(store, split=split)
        for judged in batch
        for judgment in judged.judgments
    ]
    assert exported == [Role.JUDGE.value] * 6
    with store.read() as conn:
        entries = load_entries(store, conn, [c.id for c in made])
    assert all(("judge", "yes") in entry.terms and entry.votes == 0 for entry in entries)
    # A person who is made a judge later has judged as a person.
    with store.write() as conn:
        conn.execute(raters.update().where(raters.c.id == ids[0]).values(source=""))
    assert len(list(read_votes(store, split=Split.HELDOUT))) == 2


def test_a_fit_is_kept_for_pages_and_replaces_the_one_before(voted):
    assert isinstance(load_kept_label_model(voted, "raters"), Shares)
    first, second = (fit_and_keep_labels(voted, "raters") for _ in range(2))
    assert [fit.id for fit in list_label_fits(voted)] == [second.id] != [first.id]
    assert second.figures["labels"] == 12
    assert second.figures["adjudicated"] == 1
    with voted.read() as conn:
        estimates = load_rater_estimates(conn, second.id)
        rows = {row["comparison_id"]: row for row in conn.execute(sa.select(labels)).mappings()}
    assert [e["votes"] for e in estimates] == [9] * 4
    assert all(e["reliability_low"] <= e["reliability"] <= e["reliability_high"] for e in estimates)
    made = {label.comparison_id: label for label in read_labels(voted, label_model="raters")}
    assert {i: (row["p_first"], row["p_tie"], row["p_second"]) for i, row in rows.items()} == {
        i: label.probabilities for i, label in made.items()
    }
    assert sorted(row["state"] for row in rows.values()) == ["adjudicated"] + ["open"] * 11
    kept = load_kept_label_model(voted, "raters")
    assert isinstance(kept, Raters)
    for comparison_id, votes in read_votes(voted):
        [label] = kept.make_labels(comparison_id, votes)
        assert label.probabilities == pytest.approx(made[comparison_id].probabilities, abs=5e-3)
        assert asdict(label)["votes"] == made[comparison_id].votes


def test_the_queue_and_a_fit_write_the_same_label_of_the_same_votes(voted):
    """People's and judges' votes, some of them worth less, and what a lead has decided, against the votes."""
    with voted.read() as conn:
        ids = dict(conn.execute(sa.select(raters.c.name, raters.c.id)).tuples().all())
        in_train = conn.execute(
            sa.select(comparisons.c.id).join(prompts).where(prompts.c.split == "train").order_by(comparisons.c.id)
        )
        _, split, control = list(in_train.scalars())[:3]
        lead_said = conn.execute(sa.select(judgments.c.comparison_id).where(judgments.c.role == "lead")).scalar_one()
    of = {comparison.id: comparison for comparison in find_comparisons(voted, ids=[split, control])}
    torn = people.add_rater(voted, "torn", Role.RATER).id
    for one in (split, control):
        judge(voted, of[one], torn, role=Role.JUDGE, probabilities=[0.5, 0.0, 0.5])
    with voted.write() as conn:
        conn.execute(raters.update().where(raters.c.id == ids["rater 1"]).values(vote_weight=0.1))
        conn.execute(comparisons.update().where(comparisons.c.id == control).values(route=Route.CONTROL.value))

    def read_rows() -> dict[str, list[float]]:
        numbers = [c for c in labels.c if c.name[:2] in ("p_", "c_") or c.name in ("entropy", "votes", "weight")]
        with voted.read() as conn:
            rows = conn.execute(sa.select(labels.c.comparison_id, labels.c.state, *numbers)).mappings().all()
        assert {r["comparison_id"] for r in rows if r["state"] == "adjudicated"} == {lead_said}
        return {r["comparison_id"]: [r[c.name] for c in numbers] for r in rows}

    fit_and_keep_labels(voted, "raters")
    by_fit = read_rows()
    projects.change_project(voted, DEFAULT_PROJECT, overlap_rule=OverlapRule())
    assert queue.apply_overlap_rule(voted, DEFAULT_PROJECT) == 12
    by_queue = read_rows()
    assert by_queue.keys() == by_fit.keys()
    for one in by_fit:
        assert by_queue[one] == pytest.approx(by_fit[one], abs=5e-6)
    assert sorted(by_fit[lead_said][:6]) == [0, 0, 0, 0, 1, 1]  # certain, and the consensus, too
    fit_and_keep_labels(voted, "raters")
    again = read_rows()
    for one in by_fit:
        assert again[one] == pytest.approx(by_fit[one], abs=1e-6)
