"""Exports for Argilla and Label Studio: what they hold, that our readers give it back, and that the tools take it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store, guidelines, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Answer, Guideline, Message, Reason, Role, Verdict


@pytest.fixture
def judged(sqlite_store, add_comparisons, add_raters) -> Store:
    """Pairs and a comparison of four by three raters: ties, a partial ranking, all bad, a skip, a flag, a strength."""
    pairs, [four] = (
        add_comparisons(sqlite_store, 3, overlap=3),
        add_comparisons(sqlite_store, 1, k=4, overlap=3, first=9),
    )
    raters = add_raters(sqlite_store, 3)
    for number, rater in enumerate(raters):
        while lease := queue.lease(sqlite_store, rater, seconds=1800):
            ids = [c.id for c in lease.comparison.completions]
            if lease.comparison.id == four.id:
                ranking = [((ids[2],), (ids[0], ids[1])), ((ids[3],), (ids[2],), (ids[1],), (ids[0],)), (tuple(ids),)]
                answer = Answer(Verdict.RANKED, ranking[number], rationale="because")
            elif lease.comparison.id == pairs[0].id:
                verdicts = [
                    Answer(Verdict.ALL_BAD),
                    Answer(Verdict.SKIPPED, rationale="why", reason=Reason.SUBJECT),
                    Answer(Verdict.FLAGGED),
                ]
                answer = verdicts[number]
            else:
                best = (number + len(lease.comparison.prompt.messages[0].text)) % 2
                groups = ((ids[best],), (ids[1 - best],)) if number else ((ids[0], ids[1]),)
                answer = Answer(Verdict.RANKED, groups, 3 if number == 2 else None)
            queue.submit(sqlite_store, lease.id, rater, answer)
    return sqlite_store


def count_votes(store: Store, rename=lambda rater: rater) -> Counter:
    """Count (prompt, verdict, rank of each completion, rater, strength, rationale, simulated) of all judgments."""
    names = {r.id: r.name for r in _list_raters(store)}
    comparisons = {c.id: c for c in find_comparisons(store)}
    votes: Counter = Counter()
    for judgment in read_judgments(store):
        comparison, answer = comparisons[judgment.comparison_id], judgment.answer
        if answer.verdict is Verdict.FLAGGED:
            continue
        ranks = {i: rank for rank, group in enumerate(answer.ranking) for i in group}
        said = frozenset((c.policy, c.text, ranks.get(c.id)) for c in comparison.completions)
        rater = rename(judgment.rater_id) if rename else names[judgment.rater_id]  # a reader names them after the tool
        more = answer.strength, answer.rationale, judgment.simulated
        votes[comparison.prompt.messages, answer.verdict, said, rater, more] += 1
    return votes


def _list_raters(store: Store):
    from rlhf_hitl.store import people

    return people.list_raters(store)


def import_again(out: Path, form: str) -> Store:
    """Return a new store that an export fills."""
    again = Store.open(f"sqlite:///{out.parent / 'again.db'}", create=True)
    for place in sorted(out.glob("*_answers")) if form == "argilla" else [out]:
        import_path(again, place)
    return again


@pytest.mark.parametrize("form", ["label_studio", "argilla"])
def test_our_reader_gives_back_what_was_said(judged, tmp_path, form):
    manifest = export_snapshot(judged, tmp_path / "out", format=form)
    assert {why: n for why, n in manifest["filters"].items() if "flag" in why and "place" in why} != {}
    assert sum(n for what, n in manifest["changed"].items() if what.startswith("raters")) == manifest["raters"] == 3
    again = import_again(tmp_path / "out", form)
    votes = count_votes(again, None)
    assert votes == count_votes(judged, lambda rater: f"{form}:{rater}")
    assert {vote[-1][0] for vote in votes} == {None, 3}
    assert "why" in {vote[-1][1] for vote in votes if vote[1] is Verdict.SKIPPED}
    again.close()


@pytest.mark.parametrize("form", ["label_studio", "argilla"])
def test_what_a_model_said_is_no_persons_vote_after_an_export(sqlite_store, tmp_path, add_comparisons, form):
    (tmp_path / "rows.jsonl").write_text(json.dumps(make_ultrafeedback_row()) + "\n")
    import_path(sqlite_store, tmp_path / "rows.jsonl", format="ultrafeedback")
    manifest = export_snapshot(sqlite_store, tmp_path / "out", format=form)
    assert (manifest["simulated_judgments"], manifest["judge_judgments"]) == (0, 1)
    again = import_again(tmp_path / "out", form)
    assert [(j.simulated, j.role) for j in read_judgments(again)] == [(False, Role.JUDGE)]
    again.close()


def make_ultrafeedback_row() -> dict:
    sides = [
        {"model": m, "response": a, "overall_score": s, "annotations": {}}
        for m, a, s in (("m", "Yes", 8.0), ("n", "No", 3.0))
    ]
    return {"source": "x", "instruction": "Is it wet?", "models": ["m", "n"], "completions": sides}


@pytest.mark.parametrize("form", ["label_studio", "argilla"])
def test_what_a_tool_has_no_place_for_is_counted(sqlite_store, tmp_path, add_comparisons, add_raters, form):
    add_comparisons(sqlite_store, 2)
    guidelines.publish_guideline(sqlite_store, Guideline("default", "g1", "Be fair."))
    [rater] = add_raters(sqlite_store, 1)
    for more in ({"rewrite": "Better."}, {"reason": Reason.SUBJECT}):
        lease = queue.lease(sqlite_store, rater, seconds=1800)
        assert lease is not None
        ids = [c.id for c in lease.comparison.completions]
        ranked = "rewrite" in more
        groups = ((ids[0],), (ids[1],)) if ranked else ()
        answer = Answer(Verdict.RANKED if ranked else Verdict.SKIPPED, groups, active_seconds=2.0, **more)
        queue.submit(sqlite_store, lease.id, rater, answer)
    filters = export_snapshot(sqlite_store, tmp_path / "out", format=form)["filters"]
    counted = {what: n for what, n in filters.items() if what.startswith("judgment whose")}
    by_both = {"judgment whose time is left out": 2, "judgment whose active seconds are left out": 2}
    assert counted == {
        "judgment whose better answer (rewrite) is left out": 1,
        "judgment whose reason of a flag or skip is left out": 1,
        "judgment whose order of the answers, as they were shown, is left out": 2,
        "judgment whose version of the guideline is left out": 2,
    } | (by_both if form == "argilla" else {})


def test_what_is_more_than_texts_is_left_out_and_counted(judged, tmp_path):
    one = next(iter(find_comparisons(judged)))
    prompt = replace(one.prompt, id="p_parts", messages=(Message("user", "Hi", name="Ann"),))
    with judged.write() as conn:
        sides = [replace(c, id=f"{c.id}x", prompt_id="p_parts") for c in one.completions]
        insert_comparisons(judged, conn, [replace(one, id="x_parts", prompt=prompt, completions=tuple(sides))])
    rater = next(r.id for r in _list_raters(judged))
    lease = queue.lease(judged, rater, seconds=1800)
    assert lease is not None
    queue.submit(judged, lease.id, rater, Answer(Verdict.ALL_BAD))
    manifest = export_snapshot(judged, tmp_path / "out", format="label_studio")
    assert manifest["filters"]["comparison with more than texts, which the format has no place for"] == 1
    assert len(json.loads((tmp_path / "out" / "tasks.json").read_text())) == 4


def test_the_labelling_configuration_has_each_control_that_a_result_names(judged, tmp_path):
    export_snapshot(judged, tmp_path / "out", format="label_studio")
    config = ElementTree.parse(tmp_path / "out" / "labelling_config.xml").getroot()  # noqa: S314 (written a line above)
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    tags = {node.get("name"): node for node in config.iter() if node.get("toName")}
    results = [result for task in tasks for one in task["annotations"] for result in one["result"]]
    assert {(r["from_name"], r["to_name"]) for r in results} <= {(n, tags[n].get("toName")) for n in tags}
    buckets = {node.get("name") for node in config.iter("Bucket")} | {"_"}
    assert all(set(r["value"]["ranker"]) <= buckets for r in results if r["type"] == "ranker")
    choices = {node.get("value") for node in config.iter("Choice")}
    assert all(set(r["value"]["choices"]) <= choices for r in results if r["type"] == "choices")


def test_label_studios_own_package_takes_the_configuration_and_the_tasks(judged, tmp_path):
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is not installed")
    export_snapshot(judged, tmp_path / "out", format="label_studio")
    interface = sdk.LabelInterface((tmp_path / "out" / "labelling_config.xml").read_text())
    interface.validate()
    for task in json.loads((tmp_path / "out" / "tasks.json").read_text()):
        interface.validate_task(task)
        assert all(interface.validate_annotation(annotation) for annotation in task["annotations"])


def test_argillas_own_package_takes_settings_and_records(judged, tmp_path):
    rg = pytest.importorskip("argilla", reason="argilla is not installed")
    from argilla.records._io import JsonIO

    export_snapshot(judged, tmp_path / "out", format="argilla")
    for n, folder in ((2, tmp_path / "out" / "2_answers"), (4, tmp_path / "out" / "4_answers")):
        settings = rg.Settings.from_json(folder / ".argilla" / "settings.json")
        assert [field.name for field in settings.fields] == ["prompt", *(f"answer_{i}" for i in range(1, n + 1))]
        records = JsonIO._records_from_json(folder / "records.json")
        written = json.loads(Path(folder / "records.json").read_text())
        assert [r.id for r in records] == [w["id"] for w in written]
        assert [len(list(r.responses)) for r in records] == [sum(map(len, w["responses"].values())) for w in written]
