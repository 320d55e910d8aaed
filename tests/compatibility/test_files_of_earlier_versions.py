"""A store, an archive, exports, models and an evaluation that an earlier version wrote open unchanged.

`files/README.md` says which version wrote them and what is in them; `expected.json` holds what it read from them.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import sqlalchemy as sa
from datasets import load_from_disk

from rlhf_hitl.formats.archive import restore_archive, write_archive
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.reward.evaluation.browse import PairQuery, find_rows
from rlhf_hitl.reward.evaluation.pair_index import load_index, read_rows
from rlhf_hitl.reward.evaluation.storage import load_evaluation, load_evaluation_for_page, read_evaluated_pairs
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.rendering import list_conversations
from rlhf_hitl.reward.training.dataset_loading import COLUMNS, load_training_rows
from rlhf_hitl.store import Store, guidelines, queue, table_copy, tutorial
from rlhf_hitl.store.comparisons import find_comparisons, list_prompts
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.loop_steps import read_finished_steps, read_round_ends
from rlhf_hitl.store.runs import read_runs
from rlhf_hitl.store.sign_in import verify_password
from rlhf_hitl.store.tables import metadata
from rlhf_hitl.types import Answer, Split, Verdict

FILES = Path(__file__).parent / "files"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A copy of the files, which is the current folder: the models name their backbone by a relative path."""
    shutil.copytree(FILES, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    return tmp_path / "files"


@pytest.fixture
def old_store(files):
    """The store, upgraded as `rlhf-hitl init` upgrades it."""
    store = Store.open("sqlite:///preferences.db", create=True)
    yield store
    store.close()


def read_tables(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Table → its rows in order of their primary key, times as text."""
    with store.read() as conn:
        return {
            table.name: [
                {name: v.isoformat() if isinstance(v, datetime) else v for name, v in row.items()}
                for row in conn.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()
            ]
            for table in metadata.sorted_tables
            if table.name == "readiness" or table.name not in table_copy.NOT_COPIED
        }


def as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file, with lists for tuples."""
    return json.loads(json.dumps(value))


def same_judgments(found: list[dict[str, Any]]) -> bool:
    """Whether these rows are those of the earlier version; columns that came later are not looked at."""
    rows = [{name: row[name] for name in then} for row, then in zip(found, EXPECTED["judgments"])]
    return len(found) == len(EXPECTED["judgments"]) and rows == EXPECTED["judgments"]


def test_every_table_of_the_store_has_its_rows_and_every_judgment_its_fields(old_store):
    tables = read_tables(old_store)
    assert {name: len(tables[name]) for name in EXPECTED["counts"]} == EXPECTED["counts"]
    assert same_judgments(tables["judgments"])


def test_judgments_are_read_with_all_that_raters_answered(old_store):
    judgments = list(read_judgments(old_store, current=False))
    assert len(judgments) == len(EXPECTED["judgments"])
    for judgment, row in zip(judgments, EXPECTED["judgments"]):
        answer = judgment.answer
        assert (judgment.id, judgment.seq, judgment.comparison_id, judgment.rater_id) == (
            row["id"], row["seq"], row["comparison_id"], row["rater_id"],
        )  # fmt: skip
        assert (answer.verdict, answer.reason, answer.strength) == (row["verdict"], row["reason"], row["strength"])
        assert answer.ranking == tuple(map(tuple, row["ranking"]))
        assert answer.scores == row["scores"]
        assert (answer.rationale, answer.rewrite) == (row["rationale"], row["rewrite"])
        assert answer.active_seconds == row["active_seconds"]
        assert judgment.order_shown == tuple(row["order_shown"])
        assert (judgment.surplus, judgment.simulated, judgment.supersedes) == (
            row["surplus"], row["simulated"], row["supersedes"],
        )  # fmt: skip
        assert (judgment.route, judgment.source, judgment.reward_model_id) == (
            row["route"], row["source"], row["reward_model_id"],
        )  # fmt: skip
        assert (judgment.guideline_version, judgment.interface_version, judgment.idempotency_key) == (
            row["guideline_version"], row["interface_version"], row["idempotency_key"],
        )  # fmt: skip
        assert judgment.created_at.isoformat() == row["created_at"]
    assert {j.answer.verdict for j in judgments} == set(Verdict)
    assert sum(j.surplus for j in judgments) == sum(j.supersedes is not None for j in judgments) == 1


def test_the_time_of_its_finished_steps_counts_as_that_of_runs(old_store):
    runs = read_runs(old_store)
    assert [(r.round, r.step, r.seconds) for r in runs] == [(1, "sample", 12.5), (1, "route", 0.5)]
    assert {(r.command, r.outcome) for r in runs} == {("loop", "finished")}
    [finished_at] = read_round_ends(old_store).values()
    assert finished_at - runs[-1].began_at == timedelta(seconds=0.5)


def test_work_goes_on_in_the_store(old_store):
    assert sum(p.split is Split.HELDOUT for p in list_prompts(old_store)) == EXPECTED["heldout_prompts"]
    verified = verify_password(old_store, "ann", "a-good-password")
    assert verified is not None
    assert guidelines.has_acknowledged(old_store, verified.rater.id, "default", "2")
    assert len(tutorial.list_examples(old_store)) == 1
    assert read_finished_steps(old_store)[1, "sample"] == {"completions": 3, "nested": {"share": 0.25}, "seconds": 12.5}
    lease = queue.lease(old_store, verified.rater.id, seconds=600)
    assert lease is not None
    answer = Answer(Verdict.RANKED, tuple((i,) for i in lease.order_shown))
    assert queue.submit(old_store, lease.id, verified.rater.id, answer).outcome == "counted"


def test_the_archive_gives_the_same_store_and_what_is_restored_the_same_archive(old_store, files, store):
    restore_archive(store, files / "store.archive")
    restored, upgraded = read_tables(store), read_tables(old_store)
    # Sealed twice, a secret gives two texts.
    secrets = [[s.sealer.unseal(row.pop("secret")) for row in t["webhooks"]] for s, t in
               ((store, restored), (old_store, upgraded))]  # fmt: skip
    assert secrets[0] == secrets[1]
    assert all(secret.startswith("whsec_") for secret in secrets[0])
    for tables in (restored, upgraded):  # what is drawn for each store anew
        tables["secrets"].clear()
        tables["readiness"].clear()
        for place in tables["places"]:
            place["position"] >>= 28
    assert restored == upgraded
    assert same_judgments(restored["judgments"])
    write_archive(store, files / "again.archive")
    with Store.open("sqlite:///third.db", create=True) as third:
        restore_archive(third, files / "again.archive")
        write_archive(third, files / "third.archive")
    assert (files / "third.archive").read_bytes() == (files / "again.archive").read_bytes()


@pytest.mark.parametrize("form", ["trl", "jsonl"])
def test_the_store_gives_the_same_export(old_store, files, form):
    """The same rows. Those of `trl` were saved datasets and are Parquet now, with a card; ratings are new."""
    export_snapshot(old_store, files / "again", format=form, include_ties=True)
    before, after = files / f"export-{form}", files / "again"
    if form == "jsonl":
        for name in (str(p.relative_to(before)) for p in before.rglob("*.jsonl")):
            now, was = ((folder / name).read_text("utf-8").splitlines() for folder in (after, before))
            assert [drop_newer_fields(json.loads(line)) for line in now] == list(map(json.loads, was)), name
    for name in (str(p.relative_to(before)) for p in before.rglob("*.parquet")):
        now, was = (pyarrow.parquet.read_table(folder / name).to_pylist() for folder in (after, before))
        assert list(map(drop_newer_fields, now)) == was, name
    written, read = (json.loads((folder / "manifest.json").read_text()) for folder in (before, after))
    newer = {"created_at": "", "schema_version": "", "content_hash": ""}
    assert read["labels"].pop("judge") == 0
    assert {key: read[key] for key in written} | newer == written | newer
    if form == "trl":
        for part, now in (("", "pairs"), ("rankings", "rankings")):
            for split, rows in load_from_disk(str(before / part)).items():
                read = pyarrow.parquet.read_table(after / now / f"{split}.parquet").to_pylist()
                assert list(map(drop_newer_fields, read)) == rows.to_list()


NEWER_FIELDS = {
    *("repeat_of", "role", "probabilities", "label_model", "adjudicated", "weights"),
    *("w_chosen", "w_tie", "w_rejected"),
}


def drop_newer_fields(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of an export without what earlier versions did not write: of which comparison one is a repeat, in
    which capacity a judgment was given, and how a label was made."""
    row = {key: value for key, value in row.items() if key not in NEWER_FIELDS}
    if isinstance(row.get("judgments"), str):
        judgments = [drop_newer_fields(judgment) for judgment in json.loads(row["judgments"])]
        row["judgments"] = json.dumps(judgments, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return row


@pytest.mark.parametrize(("learn_from", "counted"), [("pairs", "rows"), ("rankings", "rankings")])
def test_full_training_reads_the_export(files, learn_from, counted):
    rows = load_training_rows(str(files / "export-trl"), learn_from)
    manifest = json.loads((files / "export-trl" / "manifest.json").read_text())
    assert len(rows["train"]) == manifest[counted]["train"]
    assert set(rows["train"][0]) >= set(COLUMNS[learn_from])


@pytest.mark.parametrize("kind", ["head", "full"])
def test_a_model_gives_the_same_rewards_and_scores(old_store, files, kind):
    was = EXPECTED["models"][kind]
    model = load_reward_model(files / "made" / "reward" / was["id"], files / "features")
    comparisons = list(find_comparisons(old_store))
    conversations = [chat for c in comparisons[:5] for chat in list_conversations(c)]
    assert model.id == was["id"]
    assert model.rewards(conversations).tolist() == pytest.approx(was["rewards"], abs=1e-6)
    [score] = model.score(comparisons[:1])
    assert (score.margin, score.uncertainty, score.probability) == pytest.approx(
        (was["margin"], was["uncertainty"], was["probability"]), abs=1e-6
    )


def test_an_evaluation_is_read_by_the_gates_and_by_the_page(files):
    folder = files / "made" / "evaluations" / "first"
    for evaluation in (load_evaluation(folder), load_evaluation_for_page(folder)):
        read = as_json(evaluation.as_dict())
        assert {name: read[name] for name in EXPECTED["evaluation"]} == EXPECTED["evaluation"]
        assert read.keys() - EXPECTED["evaluation"].keys() == {
                "measured_on", "learnt_from", "score_notes", "unreadable", "replayed", "label_model",
            }  # fmt: skip
        assert "did not tell which" in evaluation.measured_note
    assert [as_json(pair.as_dict()) for pair in read_evaluated_pairs(folder)] == EXPECTED["examples"]
    index = load_index(folder)
    pairs = read_rows(index, find_rows(index, PairQuery(show="all", order="replayed")))
    assert [as_json(pair.as_dict()) for pair in pairs] == EXPECTED["examples"]


def test_the_files_hold_one_of_everything():
    """So that a change of any table meets a row of it."""
    assert min(EXPECTED["counts"].values()) >= 1
    with closing(sqlite3.connect(f"file:{FILES / 'preferences.db'}?mode=ro&immutable=1", uri=True)) as database:
        query = "SELECT count(*) FROM judgments JOIN comparisons ON comparisons.id = comparison_id {}"
        (repeats,) = database.execute(query.format("WHERE repeat_of IS NOT NULL")).fetchone()
        (imported,) = database.execute(query.format("WHERE judgments.source <> ''")).fetchone()
    assert repeats >= 1
    assert imported == 3
    assert {len(row["order_shown"]) for row in EXPECTED["judgments"]} == {2, 4}
