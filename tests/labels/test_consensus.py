"""The reward model is a witness: it has a say in the consensus, and none in any label, export or training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.labels.consensus import collect_witness, read_consensus
from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.labels.kept_fits import fit_and_keep_labels
from rlhf_hitl.reward.labelled_pairs import count_votes, hash_labelled_pairs, load_labelled_pairs
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.reward.training.out_of_fold import predict_out_of_fold
from rlhf_hitl.stats.rater_population import RaterPopulation
from rlhf_hitl.store import projects, queue
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.quality_tables import labels, out_of_fold
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.witness import PairProbabilities, insert_out_of_fold, read_witnesses
from rlhf_hitl.types import DEFAULT_PROJECT, Comparison, Completion, Message, OverlapRule, Prompt, Route, Split


def list_keys(store, split: Split) -> list[tuple[str, str, str]]:
    return [(label.comparison_id, label.first, label.second) for label in read_labels(store, split=split)]


def digest_files(folder: Path) -> dict[str, str]:
    """Return the hash of what every file of an export says; its own words on when it was made are left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".parquet", ".jsonl")
    }


def test_a_head_leaves_a_witness_for_each_pair_it_learnt_and_for_no_other(judged_store, backbone, tmp_path):
    train_head(judged_store, backbone, tmp_path)
    witnesses = read_witnesses(judged_store)
    assert [row[:3] for row in witnesses] == sorted(list_keys(judged_store, Split.TRAIN))
    p = np.array([row.probabilities for row in witnesses])
    assert p.sum(1) == pytest.approx(np.ones(len(p)))
    assert (p >= 0).all()


def test_its_word_on_a_pair_does_not_depend_on_the_votes_on_the_prompt(judged_store, backbone, tmp_path):
    model = train_head(judged_store, backbone, tmp_path)
    pairs = load_labelled_pairs(judged_store, Split.TRAIN)
    differences = model.differences([p.first for p in pairs], [p.second for p in pairs])
    votes, prompts = count_votes(pairs), np.array([p.comparison.prompt.family for p in pairs])
    before = predict_out_of_fold(model.head, differences, votes, prompts)
    turned = votes.copy()
    turned[0] = votes[0, ::-1]  # the first pair's vote is now for the other side
    after = predict_out_of_fold(model.head, differences, turned, prompts)
    assert before[0] == pytest.approx(after[0], abs=1e-12)
    assert not np.allclose(before[1:], after[1:], atol=1e-6)  # others learnt from it


def test_of_one_prompt_alone_there_is_no_witness(trained_model, judged_store):
    differences, votes = np.eye(4), np.zeros((4, 9))
    votes[:, 0] = 1
    assert predict_out_of_fold(trained_model.head, differences, votes, np.array(["p"] * 4)).shape == (0, 3)


def test_labels_exports_and_training_are_the_same_bit_by_bit_with_and_without_a_witness(
    judged_store, backbone, tmp_path
):
    def look(name: str) -> list:
        export_snapshot(judged_store, tmp_path / name)
        pairs = load_labelled_pairs(judged_store, Split.TRAIN)
        model = train_head(judged_store, backbone, tmp_path / "workspace")
        return [
            [repr(label) for split in Split for label in read_labels(judged_store, split=split)],
            digest_files(tmp_path / name),
            hash_labelled_pairs(pairs),
            count_votes(pairs).tobytes(),
            model.head.weights.tobytes(),
            model.id,
        ]

    def clear() -> None:
        with judged_store.write() as conn:
            conn.execute(out_of_fold.delete())

    model_id = train_head(judged_store, backbone, tmp_path / "workspace").id
    clear()
    without = look("without")
    assert without[1]
    clear()
    # A witness that is sure of the opposite of what raters say, on every comparison, in every split.
    against = [
        PairProbabilities(la.comparison_id, la.first, la.second, (second, tie, first))
        for la in read_labels(judged_store)
        for first, tie, second in [la.probabilities]
    ]
    insert_out_of_fold(judged_store, model_id, against)
    keep_beliefs(judged_store)
    assert look("with") == without


def test_votes_measure_the_witness_that_a_head_leaves_and_change_no_label(judged_store, backbone, tmp_path):
    def read_rows() -> dict[tuple[str, str, str], Any]:
        with judged_store.read() as conn:
            return {(row.comparison_id, row.first, row.second): row for row in conn.execute(sa.select(labels))}

    assert fit_and_keep_labels(judged_store, "raters").reward_model_id is None
    without = read_rows()
    assert [(r.c_first, r.c_tie, r.c_second) for r in without.values()] == [
        (r.p_first, r.p_tie, r.p_second) for r in without.values()
    ]
    model = train_head(judged_store, backbone, tmp_path)
    prompt = Prompt.create((Message("user", "Not judged yet?"),), split=Split.TRAIN)
    unjudged = Comparison.create(
        prompt, [Completion.create(prompt.id, (Message("assistant", text),), "policy") for text in ("one", "two")]
    )
    with judged_store.write() as conn:
        insert_comparisons(judged_store, conn, [unjudged])
    first, second = sorted(c.id for c in unjudged.completions)
    words = [PairProbabilities(unjudged.id, first, second, (0.9, 0.02, 0.08))]
    words += [  # a witness who knows what people prefer: the head of a tiny model would guess
        PairProbabilities(la.comparison_id, la.first, la.second, tuple(0.7 * share + 0.1 for share in la.probabilities))
        for la in read_labels(judged_store, split=Split.TRAIN)
    ]
    with judged_store.write() as conn:
        conn.execute(out_of_fold.delete())
    insert_out_of_fold(judged_store, model.id, words)

    fit = fit_and_keep_labels(judged_store, "raters")
    assert fit.reward_model_id == model.id
    assert RaterPopulation.from_json(fit.parameters).witness[0] > 0
    rows = read_rows()
    assert {k: (r.p_first, r.p_tie, r.p_second, r.weight) for k, r in rows.items()} == {
        k: (r.p_first, r.p_tie, r.p_second, r.weight) for k, r in without.items()
    }
    of_split = {split: list_keys(judged_store, split) for split in Split}
    moved = [abs(rows[k].c_first - rows[k].p_first) for k in of_split[Split.TRAIN]]
    assert min(moved) > 0
    assert max(moved) > 0.02
    for k in of_split[Split.CALIBRATION] + of_split[Split.HELDOUT]:
        assert rows[k].c_first == pytest.approx(rows[k].p_first, abs=2e-9)
    voted, of_none = read_consensus(judged_store, [of_split[Split.TRAIN][0][0], unjudged.id])
    assert voted.votes == 1
    row = rows[of_split[Split.TRAIN][0]]
    assert voted.consensus == pytest.approx((row.c_first, row.c_tie, row.c_second), abs=5e-3)
    assert of_none.votes == 0
    assert of_none.consensus[0] > of_none.label[0] + 0.02


def keep_beliefs(store) -> None:
    """Have the consensus of every comparison kept where pages read it, too."""
    projects.change_project(store, DEFAULT_PROJECT, overlap_rule=OverlapRule())
    assert queue.apply_overlap_rule(store, DEFAULT_PROJECT)
    projects.change_project(store, DEFAULT_PROJECT, overlap_rule="fixed")
    with store.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(labels)).scalar_one()


def test_the_witness_has_its_say_in_the_consensus_alone(judged_store, trained_model):
    key = list_keys(judged_store, Split.TRAIN)[0]
    insert_out_of_fold(judged_store, trained_model.id, [PairProbabilities(*key, (0.01, 0.0, 0.99))])
    set_reliable_witness(judged_store)
    [found] = read_consensus(judged_store, [key[0]])
    assert found.votes == 1
    assert found.label[0] > found.consensus[0]


def test_in_splits_that_measure_the_model_it_has_none(judged_store, trained_model):
    set_reliable_witness(judged_store)
    for split in (Split.CALIBRATION, Split.HELDOUT):
        key = list_keys(judged_store, split)[0]
        insert_out_of_fold(judged_store, trained_model.id, [PairProbabilities(*key, (0.01, 0.0, 0.99))])
        [found] = read_consensus(judged_store, [key[0]])
        assert found.label == found.consensus
        assert np.isnan(collect_witness(judged_store, [key])).all()


def test_nor_in_a_control_that_was_sent_on_because_raters_are_split(judged_store, trained_model):
    key = list_keys(judged_store, Split.TRAIN)[0]
    insert_out_of_fold(judged_store, trained_model.id, [PairProbabilities(*key, (0.01, 0.0, 0.99))])
    set_reliable_witness(judged_store)
    apply_routings(judged_store, [Routing(key[0], Route.CONTROL, Route.AUTO, "drawn", trained_model.id)])
    apply_routings(judged_store, [Routing(key[0], Route.ESCALATED, Route.CONTROL, "raters are split")])
    [found] = read_consensus(judged_store, [key[0]])
    assert found.label == found.consensus


def test_witnesses_stand_beside_the_pairs_that_are_asked_for(judged_store, trained_model):
    one, two, three = list_keys(judged_store, Split.TRAIN)[:3]
    rows = [PairProbabilities(*one, (0.7, 0.1, 0.2)), PairProbabilities(*three, (0.2, 0.2, 0.6))]
    insert_out_of_fold(judged_store, trained_model.id, rows)
    found = collect_witness(judged_store, [three, two, one])
    assert found[[0, 2]].tolist() == [[0.2, 0.2, 0.6], [0.7, 0.1, 0.2]]
    assert np.isnan(found[1]).all()


def set_reliable_witness(store) -> None:
    """Keep a fit by which the witness counts as much as a rater."""
    from dataclasses import asdict

    from rlhf_hitl.store.quality_tables import label_fits
    from rlhf_hitl.types import utc_now

    row = {"id": "f_1", "label_model": "raters", "reward_model_id": None, "revision": 0, "figures": {}}
    row |= {"parameters": asdict(RaterPopulation(witness=(3.0, 0.0, 0.0))), "simulated": False, "created_at": utc_now()}
    with store.write() as conn:
        conn.execute(label_fits.insert().values(row))
