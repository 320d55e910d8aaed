"""Exports for Argilla and Label Studio: what they hold, that our readers give it back, and that the tools take it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_hitl.formats import FORMATS
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.formats.export_argilla import name_user
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Answer, Message, Reason, Verdict


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
                    Answer(Verdict.SKIPPED, reason=Reason.SUBJECT),
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
    """Count (prompt, completions, verdict, ranks of each completion's text, rater, rationale) of all judgments."""
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
        votes[comparison.prompt.messages, answer.verdict, said, rater, answer.rationale] += 1
    return votes


def _list_raters(store: Store):
    from rlhf_hitl.store import people

    return people.list_raters(store)


@pytest.mark.parametrize(("form", "rename"), [("label_studio", str), ("argilla", name_user)])
def test_our_reader_gives_back_what_was_said(judged, tmp_path, form, rename):
    if form not in FORMATS:
        pytest.skip(f"no reader of {form} yet")
    manifest = export_snapshot(judged, tmp_path / "out", format=form)
    assert {why: n for why, n in manifest["filters"].items() if "flag" in why and "place" in why} != {}
    again = Store.open(f"sqlite:///{tmp_path / 'again.db'}", create=True)
    places = sorted((tmp_path / "out").glob("*_answers")) if form == "argilla" else [tmp_path / "out"]
    for place in places:
        import_path(again, place)
    assert count_votes(again, None) == count_votes(judged, lambda rater: f"{form}:{rename(rater)}")
    again.close()


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
