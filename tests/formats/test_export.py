"""A snapshot: what goes in, what stays out, that TRL takes it, and that it comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import handmade_votes
from command_line import run_command
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.formats import archive
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.store import Store, guidelines, people, projects, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons, list_prompts
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.scores import insert_scores
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Completion,
    Guideline,
    Message,
    Prompt,
    Reason,
    Role,
    Route,
    Score,
    Split,
    Verdict,
    messages_to_dicts,
)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def vote(judge: str, winner: str, question: str) -> dict:
    return {
        "judge": judge, "model_a": "m1", "model_b": "m2", "turn": 1, "winner": winner, "category": "sea",
        "conversation_a": [{"role": "user", "content": question}, {"role": "assistant", "content": "hello friend"}],
        "conversation_b": [{"role": "user", "content": question}, {"role": "assistant", "content": "no thanks"}],
    }  # fmt: skip


def load(out: Path, config: str = "pairs", **more):
    """Return the splits that have rows, as `datasets` reads them from the folder."""
    from datasets import load_dataset

    return load_dataset(str(out), config, cache_dir=str(out.parent / "cache"), **more)


def judgment_rows(out: Path, *splits: Split) -> list[dict]:
    from pyarrow import parquet

    files = [out / f"judgments/{split.value}.parquet" for split in splits or Split]
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


@pytest.fixture
def judged(sqlite_store, tmp_path) -> Store:
    """Twelve questions two raters agree on, four in each split."""
    for split in Split:
        rows = [vote(j, "model_b", f"{split} question {i}") for i in range(4) for j in ("ann", "bob")]
        import_path(sqlite_store, write(tmp_path / f"{split.value}.jsonl", rows), split=split)
    return sqlite_store


def test_every_split_holds_its_own_prompts_and_no_others(judged, tmp_path):
    manifest = export_snapshot(judged, tmp_path / "out")
    loaded = load(tmp_path / "out")
    assert list(loaded) == ["train", "calibration", "heldout"]
    pinned = {p.id: p.split.value for p in list_prompts(judged)}
    for split, rows in loaded.items():
        assert len(rows) == manifest["rows"][split] == 4
        assert {pinned[i] for i in rows["prompt_id"]} == {split}
    for split in Split:
        rows = judgment_rows(tmp_path / "out", split)
        assert len(rows) == manifest["judgments"][split.value] == 8
        assert {pinned[r["prompt_id"]] for r in rows} == {split.value}


def test_a_row_has_the_pair_its_label_and_its_judgments(judged, tmp_path):
    export_snapshot(judged, tmp_path / "out")
    row = load(tmp_path / "out")["train"][0]
    comparison = next(find_comparisons(judged, ids=[row["comparison_id"]]))
    assert row["prompt"] == messages_to_dicts(comparison.prompt.messages)
    assert row["chosen"] == [{"role": "assistant", "content": "no thanks"}]
    assert row["rejected"] == [{"role": "assistant", "content": "hello friend"}]
    assert (row["chosen_policy"], row["rejected_policy"]) == ("m2", "m1")
    assert comparison.find_completion(row["chosen_id"]).text == "no thanks"
    assert (row["p_chosen"], row["p_tie"], row["p_rejected"], row["entropy"]) == (1, 0, 0, 0)
    assert (row["votes"], row["label_source"], row["simulated"]) == (2, "human", False)
    assert json.loads(row["tags"]) == {"category": "sea"}
    kept = {j.id: j for j in read_judgments(judged, comparison_ids=[comparison.id])}
    for exported in json.loads(row["judgments"]):
        judgment = kept.pop(exported["judgment_id"])
        assert exported["ranking"] == [list(group) for group in judgment.answer.ranking]
        assert exported["order_shown"] == list(judgment.order_shown)
        assert exported["created_at"] == judgment.created_at.isoformat()
    assert not kept


def test_labels_without_a_strict_preference_are_counted_and_only_among_the_judgments(sqlite_store, tmp_path):
    rows = [
        vote("ann", "model_a", "win"),
        vote("ann", "tie", "tie"),
        vote("ann", "model_a", "mostly tie"), vote("bob", "tie", "mostly tie"), vote("cy", "tie", "mostly tie"),
        vote("ann", "model_a", "split"), vote("bob", "model_b", "split"),
        vote("ann", "tie (bothbad)", "bad"),
    ]  # fmt: skip
    import_path(sqlite_store, write(tmp_path / "a.jsonl", rows), split=Split.TRAIN)
    manifest = export_snapshot(sqlite_store, tmp_path / "out")
    assert [r["prompt"][0]["content"] for r in load(tmp_path / "out")["train"]] == ["win"]
    assert manifest["filters"] == {"tie": 2, "raters evenly split": 1, "all bad": 1}
    loaded = judgment_rows(tmp_path / "out")
    assert len(loaded) == len(rows)
    assert sorted(len(r["ranking"]) for r in loaded) == [0, 1, 1, 1, 2, 2, 2, 2]
    assert {r["verdict"] for r in loaded} == {"ranked", "all_bad"}
    assert all({c["policy"] for c in r["completions"]} == {"m1", "m2"} for r in loaded)


def test_ties_are_exported_on_request_and_imported_as_ties(sqlite_store, tmp_path):
    rows = [vote("ann", "model_a", "win"), vote("ann", "tie", "tie"), vote("bob", "tie (bothbad)", "bad")]
    rows += [vote("ann", "model_a", "split"), vote("bob", "model_b", "split"), vote("cy", "tie", "split")]
    import_path(sqlite_store, write(tmp_path / "a.jsonl", rows), split=Split.TRAIN)
    manifest = export_snapshot(sqlite_store, tmp_path / "out", format="jsonl", include_ties=True)
    assert (manifest["rows"]["train"], manifest["filters"], manifest["include_ties"]) == (4, {}, True)
    loaded = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    labels = {r["prompt"][0]["content"]: (r["p_chosen"], r["p_tie"], r["p_rejected"], r["weight"]) for r in loaded}
    third = pytest.approx(1 / 3)
    assert labels == {"win": (1, 0, 0, 1), "tie": (0, 1, 0, 1), "bad": (0, 1, 0, 1), "split": (third, third, third, 3)}
    again = Store.open(f"sqlite:///{tmp_path / 'again.db'}", create=True)
    import_path(again, tmp_path / "out" / "train.jsonl")
    assert sorted(label.probabilities for label in read_labels(again)) == [(0, 1, 0)] * 3 + [(1, 0, 0)]


def test_skips_flags_and_corrections_are_told_apart(sqlite_store, tmp_path, add_comparisons):
    add_comparisons(sqlite_store, 4)
    guidelines.publish_guideline(sqlite_store, Guideline("default", "g1", "Be fair."))
    rater = people.add_rater(sqlite_store, "ann", Role.RATER).id
    for verdict in (Verdict.SKIPPED, Verdict.FLAGGED, Verdict.ALL_BAD, Verdict.RANKED):
        lease = queue.lease(sqlite_store, rater, seconds=1800)
        assert lease is not None
        ids = lease.order_shown
        ranked = verdict is Verdict.RANKED
        answer = Answer(verdict, ((ids[0],), (ids[1],)) if ranked else (), 3 if ranked else None, rationale="why")
        receipt = queue.submit(sqlite_store, lease.id, rater, answer, simulated=ranked)
    better = Answer(Verdict.RANKED, ((ids[1],), (ids[0],)), 2)
    queue.correct(sqlite_store, receipt.judgment_id, rater, better, idempotency_key="k")

    manifest = export_snapshot(sqlite_store, tmp_path / "out")
    assert manifest["filters"] == {"skipped": 1, "flagged": 1, "all bad": 1}
    assert manifest["simulated"] is True
    (row,) = [r for part in load(tmp_path / "out").values() for r in part]
    assert (row["chosen_id"], row["simulated"]) == (ids[1], True)
    by_id = {j["judgment_id"]: j for j in json.loads(row["judgments"])}
    assert len(by_id) == 2
    assert by_id[receipt.judgment_id]["strength"] == 3
    assert receipt.judgment_id in {j["supersedes"] for j in by_id.values()}
    loaded = judgment_rows(tmp_path / "out")
    assert sorted(r["verdict"] for r in loaded) == ["all_bad", "flagged", "ranked", "ranked", "skipped"]
    assert {r["guideline_version"] for r in loaded} == {"g1"}
    assert [r["rationale"] for r in loaded].count("why") == 4


def test_a_rewrite_is_a_demonstration_that_sft_takes_and_a_reason_is_kept(sqlite_store, tmp_path, add_comparisons):
    from datasets import load_dataset
    from pyarrow import parquet
    from trl.data_utils import is_conversational

    import_path(sqlite_store, write(tmp_path / "one.jsonl", [vote("ann", "model_a", "once")]), split=Split.TRAIN)
    add_comparisons(sqlite_store, 12)
    ann = people.add_rater(sqlite_store, "ann", Role.RATER).id
    answers = {
        "first": Answer(Verdict.ALL_BAD, rewrite="Better ☕."),
        "none": Answer(Verdict.ALL_BAD, rewrite=" \n"),
        "skipped": Answer(Verdict.SKIPPED, reason=Reason.SUBJECT),
        "corrected": Answer(Verdict.ALL_BAD, rewrite="Not this."),
    }
    for name, answer in answers.items():
        lease = queue.lease(sqlite_store, ann, seconds=1800)
        assert lease is not None
        asked = messages_to_dicts(lease.comparison.prompt.messages)
        receipt = queue.submit(sqlite_store, lease.id, ann, answer, simulated=name == "first")
        if name == "first":
            first = {"prompt": asked, "completion": [{"role": "assistant", "content": "Better ☕."}], "simulated": True}
            first |= {"judgment_id": receipt.judgment_id, "rater_id": ann}
    fixed = Answer(Verdict.ALL_BAD, rewrite="But this.")
    fixed_id = queue.correct(sqlite_store, receipt.judgment_id, ann, fixed, idempotency_key="k").judgment_id
    second = {"prompt": asked, "completion": [{"role": "assistant", "content": "But this."}], "simulated": False}
    second |= {"judgment_id": fixed_id, "rater_id": ann}

    manifest = export_snapshot(sqlite_store, tmp_path / "out")
    folder = tmp_path / "out" / "demonstrations"
    rows = list(load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train"))
    assert sorted(rows, key=lambda row: row["judgment_id"] != first["judgment_id"]) == [first, second]
    assert all(is_conversational(row) for row in rows)
    counts = {s.value: parquet.read_metadata(folder / f"{s.value}.parquet").num_rows for s in Split}
    assert manifest["demonstrations"] == counts
    assert [r["reason"] for r in judgment_rows(tmp_path / "out") if r["verdict"] == "skipped"] == ["subject"]


def test_rankings_are_beside_the_pairs_with_the_ranks_of_every_rater(
    sqlite_store, tmp_path, add_comparisons, add_raters
):
    """Of four: a partial ranking, a tie, all bad; of two a skip, and a correction that counts alone."""
    [four] = add_comparisons(sqlite_store, 1, k=4, overlap=3)
    two, skipped = add_comparisons(sqlite_store, 2, first=1)
    a, b, c, d = (side.id for side in four.completions)
    best, worst = (side.id for side in two.completions)
    wrong, right = Answer(Verdict.RANKED, ((worst,), (best,))), Answer(Verdict.RANKED, ((best,), (worst,)))
    raters = add_raters(sqlite_store, 3)
    rankings = [((c,), (a, b)), ((d,), (c,), (b,), (a,)), ()]
    for rater, ranking in zip(raters, rankings):
        of_four = Answer(Verdict.RANKED, ranking) if ranking else Answer(Verdict.ALL_BAD)
        answers = {four.id: of_four, skipped.id: Answer(Verdict.SKIPPED)}
        while lease := queue.lease(sqlite_store, rater, seconds=1800):
            answer = answers.get(lease.comparison.id, wrong)
            receipt = queue.submit(sqlite_store, lease.id, rater, answer, simulated=rater == raters[2])
            if lease.comparison.id == two.id:
                queue.correct(sqlite_store, receipt.judgment_id, rater, right, idempotency_key="k")

    manifest = export_snapshot(sqlite_store, tmp_path / "out")
    loaded = load(tmp_path / "out", "rankings")
    rows = {row["comparison_id"]: (split, row) for split, part in loaded.items() for row in part}
    assert set(rows) == {four.id, two.id}
    for comparison in (four, two):
        split, row = rows[comparison.id]
        assert split == comparison.prompt.split
        assert row["completions"] == [messages_to_dicts(side.messages) for side in comparison.completions]
        assert row["completion_ids"] == [side.id for side in comparison.completions]
        assert row["prompt"] == messages_to_dicts(comparison.prompt.messages)
    of_four, of_two = rows[four.id][1], rows[two.id][1]
    assert sorted(of_four["rankings"]) == sorted([[1, 1, 0, -1], [3, 2, 1, 0], [0, 0, 0, 0]])
    assert of_two["rankings"] == [[0, 1]]
    assert (of_four["weight"], of_two["weight"]) == (3, 1)
    assert of_four["simulated"] is True
    assert manifest["rankings"] == {s.value: len(loaded.get(s.value, ())) for s in Split}
    assert export_snapshot(sqlite_store, tmp_path / "again")["content_hash"] == manifest["content_hash"]
    export_snapshot(sqlite_store, tmp_path / "lines", format="jsonl", min_votes=2)
    lines = [(tmp_path / "lines" / "rankings" / f"{split.value}.jsonl").read_text() for split in Split]
    assert [json.loads(line) for line in "".join(lines).splitlines()] == [of_four]


def test_a_judges_probabilities_are_in_the_rankings_as_they_are_in_the_pairs(sqlite_store, tmp_path):
    prompt = Prompt.create((Message("user", "Why?"),), split=Split.TRAIN)
    comparison = Comparison.create(
        prompt, [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in "ab"]
    )
    with sqlite_store.write() as conn:
        insert_comparisons(sqlite_store, conn, [comparison])
    model, person = (people.add_rater(sqlite_store, name, Role.RATER).id for name in ("gpt", "ann"))
    first, second = (c.id for c in comparison.completions)
    said = {"role": "judge", "order_shown": [second, first], "probabilities": [0.5, 0.25, 0.25]}
    handmade_votes.vote(sqlite_store, comparison, model, "<", **said)
    handmade_votes.vote(sqlite_store, comparison, person, ">")
    export_snapshot(sqlite_store, tmp_path / "out", include_ties=True)
    [ranked] = load(tmp_path / "out", "rankings")["train"]
    assert ranked["completion_ids"] == [first, second]
    worth = {tuple(ranks): weight for ranks, weight in zip(ranked["rankings"], ranked["weights"])}
    assert len(ranked["rankings"]) == 4
    assert sum(w for r, w in zip(ranked["rankings"], ranked["weights"]) if r == [0, 1]) == 1.25
    assert (worth[1, 0], worth[0, 0], ranked["weight"]) == (0.5, 0.25, 2)
    [pair] = load(tmp_path / "out", "pairs")["train"]
    assert pair["chosen_id"] == first
    assert (pair["w_chosen"], pair["w_tie"], pair["w_rejected"]) == (1.25, 0.25, 0.5)
    with pytest.raises(BadInput):  # two votes are not three, in however many rankings they are
        export_snapshot(sqlite_store, tmp_path / "three", min_votes=3)


def test_pairs_with_too_few_votes_stay_out(judged, tmp_path):
    import_path(judged, write(tmp_path / "one.jsonl", [vote("ann", "model_a", "once")]), split=Split.TRAIN)
    manifest = export_snapshot(judged, tmp_path / "out", min_votes=2)
    assert manifest["rows"]["train"] == 4
    assert manifest["filters"] == {"too few votes": 1}


def accept(store: Store, n: int, add_comparisons) -> list[Score]:
    """Comparisons that a reward model was trusted with: chosen is the first of each."""
    add_reward_model(store, RewardModelRecord("rm", "head", "there", "tiny", "hash", simulated=True))
    made = add_comparisons(store, n)
    scores = [
        Score(c.id, "rm", c.completions[0].id, c.completions[1].id, margin=2.0, uncertainty=0.1, probability=0.9)
        for c in made
    ]
    insert_scores(store, scores)
    apply_routings(store, [Routing(c.id, Route.AUTO, Route.AUTO, "sure", "rm") for c in made])
    return scores


def test_pairs_accepted_on_a_models_score_are_marked_and_stay_in_train(judged, tmp_path, add_comparisons):
    scores = {s.comparison_id: s for s in accept(judged, 30, add_comparisons)}
    manifest = export_snapshot(judged, tmp_path / "out")
    loaded = load(tmp_path / "out")
    by_model = [r for part in loaded.values() for r in part if r["label_source"] == "model"]
    in_train = {c.id for c in find_comparisons(judged, split=Split.TRAIN)} & set(scores)
    assert {r["comparison_id"] for r in by_model} == in_train
    assert 0 < len(in_train) < 30
    assert manifest["labels"] == {"human": 12, "judge": 0, "model": len(in_train)}
    assert manifest["filters"] == {"model label outside train": 30 - len(in_train)}
    assert manifest["simulated"] is True
    for row in by_model:
        score = scores[row["comparison_id"]]
        assert (row["chosen_id"], row["rejected_id"]) == (score.chosen, score.rejected)
        assert (row["p_chosen"], row["reward_model_id"], row["votes"]) == (0.9, "rm", 0)
    without = export_snapshot(judged, tmp_path / "without", include_model_labels=False)
    assert without["labels"] == {"human": 12, "judge": 0, "model": 0}


def test_the_command_says_how_many_pairs_carry_a_models_label(judged, tmp_path, add_comparisons):
    before = run_command("export", tmp_path / "before", "--store", judged.url)
    assert "a model's" not in before.stdout
    accept(judged, 30, add_comparisons)
    said = run_command("export", tmp_path / "out", "--store", judged.url).stdout
    n = json.loads((tmp_path / "out" / "manifest.json").read_text())["labels"]["model"]
    assert f"Of the {12 + n} pairs, 12 carry raters' labels and {n} a model's" in said
    without = run_command("export", tmp_path / "without", "--no-model-labels", "--store", judged.url)
    assert "a model's" not in without.stdout


def test_the_same_store_has_the_same_hash_and_one_more_vote_another(judged, tmp_path):
    first, again = (export_snapshot(judged, tmp_path / name) for name in ("a", "b"))
    assert first["content_hash"] == again["content_hash"]
    assert first["store_revision"] == 24
    as_lines = export_snapshot(judged, tmp_path / "c", format="jsonl")
    assert as_lines["content_hash"] == first["content_hash"]
    assert json.loads((tmp_path / "a" / "manifest.json").read_text()) == first
    import_path(judged, write(tmp_path / "one.jsonl", [vote("cy", "tie", "once")]))
    assert export_snapshot(judged, tmp_path / "d")["content_hash"] != first["content_hash"]


def test_the_newest_routing_decides_the_reward_model_of_a_pair(store, tmp_path, add_comparisons):
    made = [c for c in add_comparisons(store, 10) if c.prompt.split is Split.TRAIN]
    for model, probability in (("old", 0.6), ("new", 0.7)):
        add_reward_model(store, RewardModelRecord(model, "head", "there", "tiny", "h", simulated=False))
        sides = [tuple(a.id for a in c.completions) for c in made]
        insert_scores(
            store, [Score(c.id, model, *ids, 1.0, 0.1, probability) for c, ids in zip(made, sides, strict=True)]
        )
        apply_routings(store, [Routing(c.id, Route.AUTO, Route.AUTO, "sure", model) for c in made])
    apply_routings(store, [Routing(made[0].id, Route.AUTO, Route.AUTO, "a lead said so")])
    manifest = export_snapshot(store, tmp_path / "out")
    rows = load(tmp_path / "out")["train"]
    assert {(r["comparison_id"], r["reward_model_id"], r["p_chosen"]) for r in rows} == {
        (c.id, "new", 0.7) for c in made[1:]
    }
    assert manifest["filters"]["accepted without a score"] == 1


def test_a_hidden_repeat_is_among_the_judgments_and_gives_no_label(sqlite_store, tmp_path, add_comparisons, add_raters):
    [comparison], [rater] = add_comparisons(sqlite_store, 1), add_raters(sqlite_store, 1)
    better, worse = (c.id for c in comparison.completions)
    repeat = replace(comparison, id="x_repeat", repeat_of=comparison.id)
    for ranking in (((better,), (worse,)), ((worse,), (better,))):
        lease = queue.lease(sqlite_store, rater, seconds=1800)
        assert lease is not None
        queue.submit(sqlite_store, lease.id, rater, Answer(Verdict.RANKED, ranking))
        with sqlite_store.write() as conn:
            insert_comparisons(sqlite_store, conn, [repeat])
    [label] = read_labels(sqlite_store)
    assert (label.preferred, label.votes) == (better, 1)
    manifest = export_snapshot(sqlite_store, tmp_path / "out")
    [row] = [r for part in load(tmp_path / "out").values() for r in part]
    assert (row["chosen_id"], row["votes"], len(json.loads(row["judgments"]))) == (better, 1, 1)
    [row] = [r for part in load(tmp_path / "out", "rankings").values() for r in part]
    assert (row["comparison_id"], row["rankings"]) == (comparison.id, [[0, 1]])
    loaded = {r["comparison_id"]: r["ranking"] for r in judgment_rows(tmp_path / "out")}
    assert loaded == {comparison.id: [[better], [worse]], "x_repeat": [[worse], [better]]}
    assert manifest["filters"] == {}


def test_an_export_of_one_project_has_nothing_of_another(judged, tmp_path):
    projects.add_project(judged, "sea")
    import_path(judged, write(tmp_path / "s.jsonl", [vote("ann", "model_a", "How deep is it?")]), project="sea")
    manifest = export_snapshot(judged, tmp_path / "out", project="sea")
    assert (sum(manifest["rows"].values()), sum(manifest["judgments"].values())) == (1, 1)
    [row] = judgment_rows(tmp_path / "out")
    assert row["prompt"][0]["content"] == "How deep is it?"
    assert [len(read_labels(judged, project=name)) for name in ("sea", "default")] == [1, 12]
    assert sum(export_snapshot(judged, tmp_path / "all")["rows"].values()) == 13
    with pytest.raises(NotFound, match="project 'see'"):
        export_snapshot(judged, tmp_path / "none", project="see")


def test_the_same_store_has_the_same_hash_on_either_database(judged, postgres_url, tmp_path, add_comparisons):
    accept(judged, 10, add_comparisons)
    archive.write_archive(judged, tmp_path / "a.archive")
    moved = Store.open(postgres_url)
    archive.restore_archive(moved, tmp_path / "a.archive")
    there, here = (
        export_snapshot(moved, tmp_path / "b", format="jsonl"),
        export_snapshot(judged, tmp_path / "c", format="jsonl"),
    )
    moved.close()
    assert there | {"created_at": ""} == here | {"created_at": ""}


def test_datasets_tells_two_exports_apart(judged, tmp_path):
    export_snapshot(judged, tmp_path / "a")
    import_path(judged, write(tmp_path / "one.jsonl", [vote("ann", "model_a", "once")]), split=Split.TRAIN)
    export_snapshot(judged, tmp_path / "b")
    # By what `datasets` names the results it keeps of a computation: one that stands for two would bring up wrong rows.
    loaded = [part._fingerprint for name in "ab" for part in load(tmp_path / name).values()]
    assert len(set(loaded)) == 6


def test_json_lines_hold_the_same_rows(judged, tmp_path):
    export_snapshot(judged, tmp_path / "trl")
    export_snapshot(judged, tmp_path / "lines", format="jsonl")
    for split, rows in load(tmp_path / "trl").items():
        lines = (tmp_path / "lines" / f"{split}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == list(rows)


def test_a_store_without_a_preference_is_refused_and_leaves_nothing(sqlite_store, tmp_path):
    import_path(sqlite_store, write(tmp_path / "a.jsonl", [vote("ann", "tie", "Q")]))
    with pytest.raises(BadInput, match="1 tie"):
        export_snapshot(sqlite_store, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_export_is_overwritten_only_when_asked_and_nothing_else_ever(judged, tmp_path):
    export_snapshot(judged, tmp_path / "out")
    with pytest.raises(BadInput, match="--overwrite"):
        export_snapshot(judged, tmp_path / "out")
    import_path(judged, write(tmp_path / "one.jsonl", [vote("ann", "model_a", "once")]), split=Split.TRAIN)
    export_snapshot(judged, tmp_path / "out", overwrite=True)
    assert len(load(tmp_path / "out")["train"]) == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(BadInput, match="earlier export"):
        export_snapshot(judged, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_trl_trains_a_reward_model_and_a_policy_on_it_as_it_is(judged, tmp_path, tiny_model, add_comparisons):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    accept(judged, 10, add_comparisons)  # rows of both sources: columns that are null in some
    export_snapshot(judged, tmp_path / "out")
    loaded = load(tmp_path / "out")
    common = {
        "output_dir": str(tmp_path / "run"), "max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none",
        "bf16": False, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    reward = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    policy = AutoModelForCausalLM.from_pretrained(tiny_model)
    data = {"train_dataset": loaded["train"], "eval_dataset": loaded["heldout"], "processing_class": tokenizer}
    for trainer in (
        RewardTrainer(model=reward, args=RewardConfig(**common), **data),
        DPOTrainer(model=policy, args=DPOConfig(**common), **data),
    ):
        assert len(trainer.train_dataset) == len(loaded["train"])
        assert trainer.train().training_loss > 0


messages = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)
pairs = st.lists(st.tuples(messages, messages, messages).filter(lambda t: t[1] != t[2]), min_size=1, max_size=6)


@settings(max_examples=10, deadline=None, phases=set(Phase) - {Phase.shrink})  # an example takes a third of a second
@given(pairs)
def test_an_export_is_imported_as_the_same_pairs(sqlite_template, tmp_path_factory, rows):
    import shutil

    folder = tmp_path_factory.mktemp("round")
    stores = []
    for name in ("first", "second"):
        shutil.copy(sqlite_template, folder / f"{name}.db")
        stores.append(Store.open(f"sqlite:///{folder}/{name}.db"))
    first, second = stores
    given_rows = [
        {
            "prompt": [{"role": "user", "content": p}],
            "chosen": [{"role": "assistant", "content": c}],
            "rejected": [{"role": "assistant", "content": r}],
            "topic": "sea",
        }
        for p, c, r in rows
    ]
    import_path(first, write(folder / "a.jsonl", given_rows))
    export_snapshot(first, folder / "out")
    report = import_path(second, folder / "out")
    assert report.splits_kept == 0
    before, after = ([(c.id, c.prompt, c.completions) for c in find_comparisons(store)] for store in (first, second))
    assert before == after
    rankings = [{j.comparison_id: j.answer.ranking for j in read_judgments(store)} for store in (first, second)]
    assert rankings[0] == rankings[1]
    for store in stores:
        store.close()
