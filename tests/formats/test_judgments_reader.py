"""The table `judgments` of an export is read back: the same judgments on the same comparisons."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from read_formats import read_file
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.formats.importing import ImportReport, import_path
from rlhf_hitl.store import Store, guidelines, people, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons, list_prompts
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Answer, Axis, Guideline, Judgment, Reason, Role, Split, Verdict

PIXEL = "data:image/png;base64," + (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
CALL = {"type": "function", "function": {"name": "find", "arguments": {"z": 1, "a": [{"y": "é", "b": None}]}}}
EVERYTHING = Guideline("default", "g1", "Be fair.", axes=(Axis("tone", "Tone"), Axis("facts", "Facts")))


def make_rich_row(i: int) -> dict:
    """Return a row with an image, tools, tool calls, and nobody's vote."""
    answers = [
        [
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "wet", "name": "find"},
        ],
        [{"role": "assistant", "content": "No.", "reasoning_content": f"I do not know {i}."}],
    ]
    parts = [{"type": "image", "image": PIXEL, "alt": "red"}, {"type": "text", "text": f"What, {i}?"}]
    return {
        "messages": [{"role": "user", "content": parts}], "tools": [{"name": "find", "parameters": {"z": 1}}],
        "completions": [{"messages": messages, "policy": p} for p, messages in zip("pq", answers)],
        "tags": {"language": "en"},
    }  # fmt: skip


def judge(store: Store, rater: str, number: int) -> None:
    """Give a rater's answers, of each kind: ranked with everything, tied, all bad, skipped, flagged, in turn."""
    n = number
    while lease := queue.lease(store, rater, seconds=1800):
        first, *rest = lease.order_shown
        scores = {"tone": {first: 5, rest[0]: 1}, "facts": {first: 2}}
        strength = 3 if len(rest) == 1 else None
        queue.submit(store, lease.id, rater, [
            Answer(Verdict.RANKED, ((first,), tuple(rest)), strength, scores, "why é", rewrite="Better."),
            Answer(Verdict.RANKED, ((first, *rest),)),
            Answer(Verdict.ALL_BAD, rationale="no"),
            Answer(Verdict.SKIPPED, reason=Reason.SUBJECT),
            Answer(Verdict.FLAGGED, rationale="rude"),
        ][n % 5])  # fmt: skip
        n += 1


@pytest.fixture
def judged(sqlite_store, tmp_path, add_comparisons) -> Store:
    """Texts, tool calls with images, and rankings of four, judged by two people."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(make_rich_row(i)) + "\n" for i in range(4)))
    import_path(sqlite_store, tmp_path / "rows.jsonl", overlap=2)
    add_comparisons(sqlite_store, 7, overlap=2)
    add_comparisons(sqlite_store, 5, k=4, overlap=2, first=20)
    guidelines.publish_guideline(sqlite_store, EVERYTHING)
    for number, name in enumerate(("ann", "bob")):
        judge(sqlite_store, people.add_rater(sqlite_store, name, Role.RATER).id, number)
    return sqlite_store


def import_judgments(place: Path) -> tuple[Store, ImportReport]:
    again = Store.open(f"sqlite:///{place.parent / 'again.db'}", create=True)
    return again, import_path(again, place)


def say(judgment: Judgment, rater: str) -> tuple:
    answer = judgment.answer
    ranking = tuple(tuple(sorted(group)) for group in answer.ranking)
    said = answer.verdict, ranking, answer.strength, json.dumps(dict(answer.scores), sort_keys=True), answer.rationale
    return judgment.comparison_id, rater, *said, judgment.order_shown, judgment.simulated, judgment.created_at


def say_all(store: Store, prefix: str) -> Counter:
    """Count all judgments; raters whom an import made are called `judgments:` and the id that they had."""
    names = {r.id: r.name for r in people.list_raters(store)}
    return Counter(say(j, f"{prefix}{j.rater_id}" if prefix else names[j.rater_id]) for j in read_judgments(store))


@pytest.mark.parametrize("form", ["trl", "jsonl"])
def test_an_import_of_an_export_as_a_whole_takes_its_judgments(judged, tmp_path, form):
    export_snapshot(judged, tmp_path / "out", format=form)
    again, _ = import_judgments(tmp_path / "out")
    assert say_all(again, "") == say_all(judged, "judgments:")
    again.close()


@pytest.mark.parametrize("form", ["trl", "jsonl"])
def test_an_import_of_the_judgments_gives_the_same_judgments(judged, tmp_path, form):
    manifest = export_snapshot(judged, tmp_path / "out", format=form)
    again, report = import_judgments(tmp_path / "out" / "judgments")
    assert say_all(again, "") == say_all(judged, "judgments:")
    assert report.judgments == sum(manifest["judgments"].values()) > 20
    assert {(p.id, p.split, json.dumps(dict(p.tags))) for p in list_prompts(again)} == {
        (p.id, p.split, json.dumps(dict(p.tags))) for p in list_prompts(judged)
    }
    assert {c.id for c in find_comparisons(again)} == {c.id for c in find_comparisons(judged)}
    assert {v[2] for v in say_all(again, "")} == set(Verdict)
    # What a vote of an import has no place for is named.
    assert set(report.unread) == {f"column {c}" for c in ("rewrite", "reason", "guideline_version", "route")}
    assert report.unread["column rewrite"] == sum(1 for j in read_judgments(judged) if j.answer.rewrite)
    again.close()


def test_a_file_of_one_split_is_read_too_and_simulated_judgments_stay_so(sqlite_store, tmp_path):
    row = {
        "messages": [{"role": "user", "content": "Hi"}],
        "completions": [{"messages": [{"role": "assistant", "content": t}], "policy": "p"} for t in ("a", "b")],
        "votes": [
            {"rater": "bot", "ranking": [[0], [1]], "simulated": True},
            {"rater": "ann", "ranking": [[1], [0]], "judged_at": "2026-05-01T12:30:00.25Z"},
        ],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    import_path(sqlite_store, tmp_path / "rows.jsonl", split=Split.HELDOUT)
    export_snapshot(sqlite_store, tmp_path / "out", include_ties=True)
    again, _ = import_judgments(tmp_path / "out" / "judgments" / "heldout.parquet")
    assert say_all(again, "") == say_all(sqlite_store, "judgments:")
    assert sorted(j.simulated for j in read_judgments(again)) == [False, True]
    again.close()


def test_a_correction_is_the_vote_and_a_hidden_repeat_is_none(sqlite_store, tmp_path, add_comparisons):
    [comparison] = add_comparisons(sqlite_store, 1)
    rater = people.add_rater(sqlite_store, "ann", Role.RATER).id
    lease = queue.lease(sqlite_store, rater, seconds=1800)
    assert lease is not None
    first, second = lease.order_shown
    done = queue.submit(sqlite_store, lease.id, rater, Answer(Verdict.RANKED, ((first,), (second,))))
    corrected = Answer(Verdict.RANKED, ((second,), (first,)), 2)
    queue.correct(sqlite_store, done.judgment_id, rater, corrected, idempotency_key="k")
    with sqlite_store.write() as conn:
        insert_comparisons(sqlite_store, conn, [replace(comparison, id="x_repeat", repeat_of=comparison.id)])
    lease = queue.lease(sqlite_store, rater, seconds=1800)
    assert lease is not None
    queue.submit(sqlite_store, lease.id, rater, Answer(Verdict.RANKED, ((first,), (second,))))
    export_snapshot(sqlite_store, tmp_path / "out")
    again, report = import_judgments(tmp_path / "out" / "judgments")
    [judgment] = read_judgments(again)
    assert judgment.answer == corrected
    assert report.noted == {
        "judgments that were corrected: the correction is the vote": 1, "judgments of hidden repeats": 1,
    }  # fmt: skip
    again.close()


def make_row(**more: object) -> dict:
    sides = [{"id": id, "policy": "p", "messages": [{"role": "assistant", "content": id}]} for id in "ab"]
    return {
        "judgment_id": "j1", "comparison_id": "x1", "prompt_id": "p1", "prompt": [{"role": "user", "content": "Hi"}],
        "completions": sides, "rater_id": "r1", "verdict": "ranked", "ranking": [["a"], ["b"]], "strength": None,
        "scores": "{}", "rationale": "", "order_shown": ["b", "a"], "simulated": False, "surplus": False,
        "supersedes": None, "repeat_of": None, "created_at": "2026-05-01T12:30:00+00:00", "tags": "{}",
    } | more  # fmt: skip


def read(folder: Path, *rows: dict):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_file(path, "judgments")[1]


def test_surplus_judgments_and_hidden_repeats_are_no_votes(sqlite_store, tmp_path):
    rows = [
        make_row(),
        make_row(judgment_id="j2", rater_id="r2", surplus=True),
        make_row(judgment_id="j3", comparison_id="x2", repeat_of="x1"),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = import_path(sqlite_store, path)
    assert (report.format, report.judgments) == ("judgments", 1)
    assert report.noted == {"surplus judgments, which do not count": 1, "judgments of hidden repeats": 1}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"ranking": [["a"], ["c"]]}, "ranking"),
        ({"ranking": [["a"], ["a"]]}, "ranking"),
        ({"ranking": []}, "two or more completions where the verdict is ranked"),
        ({"verdict": "skipped"}, "else none"),
        ({"verdict": "good"}, "verdict"),
        ({"strength": 7}, "strength"),
        ({"strength": 2, "ranking": [["a", "b"]]}, "one of two completions is better"),
        ({"scores": '{"tone": {"a": 9}}'}, "1 to 5"),
        ({"scores": '{"tone": {"c": 1}}'}, "scores"),
        ({"scores": "{"}, "scores"),
        ({"order_shown": ["a"]}, "order_shown"),
        ({"simulated": "yes"}, "simulated"),
        ({"completions": "none"}, "completions"),
        ({"completions": [1, 2]}, "completions[0]"),
        ({"created_at": "soon"}, "created_at"),
        ({"prompt": "Hi"}, "prompt"),
    ],
)
def test_what_cannot_be_is_named_with_its_line(sqlite_store, tmp_path, more, says):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(make_row()) + "\n" + json.dumps(make_row(judgment_id="j2") | more) + "\n")
    with pytest.raises(BadInput) as caught:
        import_path(sqlite_store, path)
    assert "rows.jsonl:2" in str(caught.value)
    assert says in str(caught.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["a", "b", "ranked", "{}", "[]", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "id", "role", "policy"]), inner),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted(make_row())), values, max_size=3))
def test_any_other_value_is_read_or_refused_in_one_line(tmp_path_factory, more):
    folder = tmp_path_factory.mktemp("row")
    try:
        records = read(folder, make_row() | more)
    except BadInput:
        return
    assert all(record.vote is not None for record in records)
