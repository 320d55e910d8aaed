"""Argilla and Label Studio: the votes in their files, counted by a few lines here, are the votes that are read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_formats import read_file, read_rows
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import get_format
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.formats.readers.questions import find_answer, find_answers, read_choice, split_axis
from rlhf_hitl.formats.record import ImportRecord
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Verdict

FILES = Path(__file__).parent / "files"
ANN, BEN, CYD = (f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 2, 3))

Said = tuple[str, str, tuple[tuple[str, ...], ...], str]  # rater, prompt, groups of answers, rationale


def said(records: list[ImportRecord]) -> list[Said]:
    """Who said what, in texts."""
    return sorted(
        (
            record.vote.rater,
            record.prompt[-1].text,
            tuple(tuple(record.completions[i].messages[0].text for i in group) for group in record.vote.ranking),
            record.vote.rationale,
        )
        for record in records
        if record.vote is not None
    )


def rated(records: list[ImportRecord]) -> list[tuple[str, str, str, float]]:
    return sorted(
        (r.rater, record.completions[r.completion].messages[0].text, r.axis, r.value)
        for record in records
        for r in record.ratings
    )


def group_by_rank(answers: dict[str, str], ranks: list[dict[str, Any]]) -> tuple[tuple[str, ...], ...]:
    places = sorted({rank["rank"] for rank in ranks})
    return tuple(tuple(answers[r["value"]] for r in ranks if r["rank"] == place) for place in places)


# Argilla


def count_argilla_flat() -> list[Said]:
    """The submitted and discarded responses in the file, by hand."""
    votes = []
    for row in pq.read_table(FILES / "argilla_flat.parquet").to_pylist():
        why = dict(zip(row["reason.responses.users"] or [], row["reason.responses"] or []))
        for ranks, user, status in zip(*(row[f"ranking.responses{end}"] or [] for end in ("", ".users", ".status"))):
            groups = group_by_rank(row, ranks) if status == "submitted" else ()
            if status != "draft":
                votes.append((user, row["prompt"], groups, why.get(user, "")))
    return sorted(votes)


def test_submitted_responses_of_argilla_are_votes_with_ties_raters_and_reasons():
    _, records, unread = read_file(FILES / "argilla_flat.parquet")
    assert said(records) == count_argilla_flat()
    assert Counter(r.vote.verdict for r in records if r.vote) == {Verdict.RANKED: 3, Verdict.SKIPPED: 1}
    assert unread["responses that are drafts"] == 1
    assert unread["column ranking.suggestion"] == 1
    assert {f"question {name}" for name in ("topic", "faults", "errors")} <= unread.keys()
    assert sum(r.vote is None for r in records) == 1  # the record that nobody judged
    assert {r.tags["language"] for r in records} == {"en", "de"}


def test_ratings_of_argilla_keep_rater_axis_and_where_it_is_known_their_scale():
    _, records, _ = read_file(FILES / "argilla_flat.parquet")
    assert rated(records) == [(ANN, "Blue.", "quality", 7), (ANN, "Red.", "quality", 6), (BEN, "Red.", "quality", 2)]
    assert {(r.lowest, r.highest) for record in records for r in record.ratings} == {(None, None)}
    _, with_settings, _ = read_file(FILES / "argilla_saved")
    assert rated(with_settings) == rated(records)
    assert {(r.lowest, r.highest) for record in with_settings for r in record.ratings} == {(1, 7)}


def test_json_of_argilla_has_no_status_which_is_said():
    _, records, unread = read_file(FILES / "argilla_nested.json")
    rows = json.loads((FILES / "argilla_nested.json").read_text())
    votes = []
    for row in rows:
        why = {one["user_id"]: one["value"] for one in row["responses"].get("reason", [])}
        for one in row["responses"].get("ranking", []):
            groups = group_by_rank(row["fields"], one["value"])
            votes.append((one["user_id"], row["fields"]["prompt"], groups, why.get(one["user_id"], "")))
    assert said(records) == sorted(votes)
    assert unread["responses without a status, taken as submitted"] == len(votes)


def test_rankings_whose_ranks_argilla_left_out_are_refused_and_not_taken_for_an_order():
    with pytest.raises(BadInput, match="leaves the ranks out") as refused:
        read_file(FILES / "argilla_ranks_gone.json")
    assert "rank" in refused.value.fix


def test_names_without_ranks_are_an_order_where_people_gave_different_ones(tmp_path):
    row = json.loads((FILES / "argilla_ranks_gone.json").read_text())[0]
    row["responses"]["ranking"][1]["value"].reverse()
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row]))
    _, records, unread = read_file(path)
    assert [r.vote.ranking for r in records if r.vote] == [((0,), (1,), (2,)), ((2,), (1,), (0,))]
    assert unread["ties of rankings: the file has an order and no ranks"] == 2


@pytest.mark.parametrize("name", ["argilla_labels.json", "argilla_labels.parquet"])
def test_a_label_of_argilla_that_names_an_answer_is_a_vote_on_a_chat_with_a_picture(name):
    _, records, _ = read_file(FILES / name)
    assert [(r.vote.verdict, r.vote.ranking, r.vote.rater) for r in records if r.vote] == [
        (Verdict.RANKED, ((0,), (1,)), ANN),
        (Verdict.RANKED, ((0, 1),), BEN),
        (Verdict.ALL_BAD, (), ANN),
        (Verdict.RANKED, ((1,), (0,)), BEN),
    ]
    assert [m.role for m in records[0].prompt] == ["system", "user"]
    assert [(len(m.images), m.text) for m in records[0].prompt] == [(0, "Be brief."), (1, "What is this, 0?")]
    assert [c.policy for c in records[0].completions] == ["m1", "m2"]


@pytest.mark.parametrize("address", ["file:///etc/passwd", "http://10.0.0.1/picture.png", "/etc/picture.png"])
def test_a_picture_that_is_not_in_the_file_is_refused(tmp_path, address):
    rows = json.loads((FILES / "argilla_labels.json").read_text())
    rows[0]["fields"]["picture"] = address
    (path := tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(BadInput, match="picture"):
        read_file(path)


def test_records_of_argillas_server_have_ranks_and_times(tmp_path):
    row = {
        "id": "1", "status": "completed", "metadata": None,
        "fields": {"prompt": "Q", "response1": "A", "response2": "B"},
        "responses": [{
            "id": "2", "user_id": ANN, "status": "submitted", "inserted_at": "2024-05-01T10:00:00", "updated_at": None,
            "values": {"ranking": {"value": [{"value": "response2", "rank": 1}, {"value": "response1", "rank": 1}]}},
        }],
        "suggestions": [],
    }  # fmt: skip
    (path := tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    _, records, _ = read_file(path)
    (vote,) = [r.vote for r in records]
    assert vote is not None
    assert (vote.ranking, vote.rater, vote.judged_at) == (((0, 1),), ANN, datetime(2024, 5, 1, 10, tzinfo=UTC))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"responses": 5}, "responses"),
        ({"responses": {"ranking": [5]}}, "responses"),
        ({"responses": {"ranking": [{"value": [{"value": "response9", "rank": 1}], "user_id": "1"}]}}, "ranking"),
        ({"responses": {"ranking": [{"value": [{"value": "response1", "rank": "a"}], "user_id": "1"}]}}, "ranking"),
        ({"responses": {"q": [{"value": "x", "user_id": "1", "status": "lost"}]}}, "status"),
        ({"fields": {"prompt": "Q", "response1": 5, "response2": "B"}}, "response1"),
        ({"fields": {"prompt": "Q"}}, "prompt"),
        ({"fields": {"response1": "A", "response2": "B"}}, "expected a prompt"),
        ({"metadata": 3}, "metadata"),
    ],
)
def test_a_bad_record_of_argilla_is_named(tmp_path, change, named):
    row = {"fields": {"prompt": "Q", "response1": "A", "response2": "B"}, "responses": {}}
    (path := tmp_path / "a.jsonl").write_text(json.dumps(row | change) + "\n")
    with pytest.raises(BadInput, match=named) as error:
        read_file(path)
    assert "a.jsonl:1" in str(error.value)


# Label Studio

PAIRS = json.loads((FILES / "label_studio_pairs.json").read_text())


def list_annotations(tasks: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """(task, annotation, control → value)"""
    return [
        (task, annotation, {r["from_name"]: r["value"] for r in annotation["result"]})
        for task in tasks
        for annotation in task["annotations"]
    ]


def count_pairs(*, with_skipped: bool) -> list[Said]:
    votes: list[Said] = []
    for task, annotation, values in list_annotations(PAIRS):
        left, right = (task["data"][f"answer{n}"] for n in (1, 2))
        if "better" in values:
            groups = ((left,), (right,)) if values["better"]["selected"] == "left" else ((right,), (left,))
        elif values.get("otherwise") == {"choices": ["tie"]}:
            groups = ((left, right),)
        else:
            groups = ()
        if with_skipped or not annotation["was_cancelled"]:
            why = "\n".join(values.get("reason", {"text": []})["text"])
            votes.append((str(annotation["completed_by"]), task["data"]["prompt"], groups, why))
    return sorted(votes)


@pytest.mark.parametrize(
    "name", ["label_studio_pairs.json", "label_studio_pairs_min.json", "label_studio_pairs_min.csv"]
)
def test_pairs_of_label_studio_are_votes_in_all_its_forms(name):
    _, records, unread = read_file(FILES / name)
    is_whole = "min" not in name
    assert said(records) == count_pairs(with_skipped=is_whole)  # the converter leaves out what was skipped
    verdicts = Counter(r.vote.verdict.value for r in records if r.vote)
    assert verdicts == {"ranked": 3, "all_bad": 1} | ({"skipped": 1} if is_whole else {})
    times = {(r.vote.rater, r.vote.judged_at) for r in records if r.vote}
    annotations = [a for _, a, _ in list_annotations(PAIRS) if is_whole or not a["was_cancelled"]]
    assert times == {(str(a["completed_by"]), datetime.fromisoformat(a["created_at"])) for a in annotations}
    assert sum(r.vote is None for r in records) == 1
    assert {r.tags["language"] for r in records} == {"en", "de"}
    assert unread["annotation key lead_time" if is_whole else "column lead_time"] == len(annotations)
    # JSON-MIN does not say which answer a rating was put on.
    assert rated(records) == ([("1", "Red.", "quality", 5), ("2", "5", "quality", 2)] if is_whole else [])
    assert unread["result quality"] == (0 if is_whole else 2)


def make_pair(to_name: str, selected: str) -> dict[str, Any]:
    result = {"from_name": "better", "to_name": to_name, "value": {"selected": selected}}
    annotation = {"completed_by": 1, "was_cancelled": False, "created_at": None, "result": [result]}
    return {"id": 1, "data": {"prompt": "Q", "answer1": "A", "answer2": "B"}, "annotations": [annotation]}


@pytest.mark.parametrize(
    ("to_name", "left", "is_noted"),
    [("answer1,answer2", 0, False), ("answer2,answer1", 1, False), ("answer2, answer1", 1, False),
     ("text-2,text-1", 1, False), ("better", 0, True), ("answer1,answer1", 0, True), ("answer2", 0, True)],
)  # fmt: skip
def test_left_is_the_first_answer_that_a_pair_is_put_on(to_name, left, is_noted):
    for selected, best in (("left", left), ("right", 1 - left)):
        (record,), counted = read_tool(make_pair(to_name, selected))
        assert record.vote is not None
        assert record.vote.ranking == ((best,), (1 - best,))
        assert record.order_known == (left == 0)
        assert any("left answer was taken for the first" in what for what in counted) == is_noted


def test_only_what_a_screen_showed_in_the_files_order_has_an_order():
    known = {name: {r.order_known for r in read_file(FILES / name)[1] if r.vote} for name in (
        "argilla_flat.parquet", "argilla_labels.json", "label_studio_ranks.json",
    )}  # fmt: skip
    assert known == {
        "argilla_flat.parquet": {False},
        "argilla_labels.json": {False},
        "label_studio_ranks.json": {True},
    }


@pytest.mark.parametrize("name", ["label_studio_pairs.json", "label_studio_pairs_min.csv"])
def test_what_was_decided_is_a_note_and_not_among_what_was_not_read(sqlite_store, tmp_path, name):
    report = import_path(sqlite_store, FILES / name)
    assert any("left answer" in what for what in report.noted)
    assert not any("left answer" in what for what in report.unread)
    task = make_pair("better", "left")
    task["annotations"][0]["result"] = []
    (path := tmp_path / "a.json").write_text(json.dumps([task]))
    assert import_path(sqlite_store, path).noted == {"annotations without a choice": 1}


@pytest.mark.parametrize("kind", ["ranks", "buckets"])
@pytest.mark.parametrize("form", [".json", "_min.json", "_min.csv"])
def test_rankers_of_label_studio_are_rankings_and_numbered_buckets_are_ties(kind, form):
    tasks = json.loads((FILES / f"label_studio_{kind}.json").read_text())
    votes = []
    for task, annotation, values in list_annotations(tasks):
        texts = {item["id"]: item["body"] for item in task["data"]["items"]}
        buckets = {name: ids for name, ids in values["rank"]["ranker"].items() if ids and name != "_"}
        if kind == "ranks":
            groups = tuple((texts[id],) for id in buckets["rank"])
        else:
            groups = tuple(tuple(texts[id] for id in buckets[name]) for name in sorted(buckets))
        person = annotation["completed_by"]
        rater = person["email"] if isinstance(person, dict) else str(person)
        why = values["reason"]["text"][0] if "reason" in values else ""
        votes.append((rater, task["data"]["prompt"], groups, why))
    _, records, _ = read_file(FILES / f"label_studio_{kind}{form}")
    assert said(records) == sorted(votes)


def change_first(tasks: list[dict[str, Any]], change: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    tasks = json.loads(json.dumps(tasks))
    change(tasks[0])
    return tasks


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t["annotations"][0]["result"][0]["value"].update(selected="middle"), "better"),
        (lambda t: t["annotations"][0].update(created_at="yesterday"), "created_at"),
        (lambda t: t["annotations"][0].update(result=[5]), "result"),
        (lambda t: t["data"].pop("answer2"), "answers"),
        (lambda t: t["data"].pop("prompt"), "expected a prompt"),
        (lambda t: t["data"].update(image="https://example.com/a.png"), "image"),
        (lambda t: t.update(annotations=[None]), "annotations"),
    ],
)
def test_a_bad_task_of_label_studio_is_named(tmp_path, change, named):
    (path := tmp_path / "a.json").write_text(json.dumps(change_first(PAIRS, change)))
    with pytest.raises(BadInput, match=named) as error:
        read_file(path)
    assert "item 1" in str(error.value)


def test_a_task_of_label_studio_may_have_a_chat_and_a_picture_and_zero_is_a_rater(tmp_path):
    picture = json.loads((FILES / "argilla_labels.json").read_text())[0]["fields"]["picture"]

    def change(task: dict[str, Any]) -> None:
        task["data"] = {
            "dialogue": [{"role": "user", "content": "Hi"}], "image": picture, "answerLeft": "A", "answerRight": "B"
        }  # fmt: skip
        task["annotations"][0]["completed_by"] = 0

    (path := tmp_path / "a.json").write_text(json.dumps(change_first(PAIRS, change)[:1]))
    _, records, _ = read_file(path)
    assert (records[0].prompt[0].text, len(records[0].prompt[0].images)) == ("Hi", 1)
    assert records[0].vote is not None
    assert (records[0].vote.rater, records[0].vote.ranking) == ("0", ((0,), (1,)))


# In the store

IMPORTED = sorted(p.name for p in FILES.iterdir() if p.suffix in (".json", ".csv", ".parquet") and "gone" not in p.name)


@pytest.mark.parametrize("name", [*IMPORTED, "argilla_saved"])
def test_a_file_of_a_labelling_tool_is_in_the_store_once_however_often_it_is_imported(sqlite_store, name):
    _, records, _ = read_file(FILES / name)
    report = import_path(sqlite_store, FILES / name)
    votes = [r.vote for r in records if r.vote is not None]
    assert report.judgments == len(votes)
    assert report.ratings == sum(len(r.ratings) for r in records)
    assert report.raters == len({v.rater for v in votes} | {x.rater for r in records for x in r.ratings})
    assert sorted(str(j.answer.verdict) for j in read_judgments(sqlite_store)) == sorted(str(v.verdict) for v in votes)
    again = import_path(sqlite_store, FILES / name)
    assert (again.judgments, again.ratings, again.comparisons, again.prompts, again.raters) == (0, 0, 0, 0, 0)


# Generated rows

answers = st.lists(st.text(max_size=8), min_size=2, max_size=4, unique=True)
statuses = st.sampled_from(["submitted", "draft", "discarded"])


@st.composite
def argilla_rows(draw) -> dict[str, Any]:
    texts = draw(answers)
    names = [f"response{n}" for n in range(1, len(texts) + 1)]
    ranks = st.lists(st.integers(1, len(texts)), min_size=len(texts), max_size=len(texts))
    people = draw(st.lists(st.tuples(ranks, statuses), max_size=3))
    return {
        "id": "1", "status": "pending", "_server_id": None, "prompt": draw(st.text(min_size=1).filter(str.strip)),
        **dict(zip(names, texts)),
        "rank.responses": [[{"value": n, "rank": r} for n, r in zip(names, given)] for given, _ in people],
        "rank.responses.users": [f"user {i}" for i in range(len(people))],
        "rank.responses.status": [status for _, status in people],
    }  # fmt: skip


@given(argilla_rows())
def test_every_response_of_argilla_is_a_vote_or_a_named_draft(row):
    (records, unread), ranked = read_tool(row), {}
    for record in records:
        if record.vote is not None:
            ranked[record.vote.rater] = record.vote
    names = [name for name in row if name.startswith("response")]
    assert [c.messages[0].content for c in records[0].completions] == [row[name] for name in names]
    assert len(ranked) + unread["responses that are drafts"] == len(row["rank.responses"])
    for ranks, user, status in zip(*(row[f"rank.responses{end}"] for end in ("", ".users", ".status"))):
        if status == "submitted":
            assert ranked[user].ranking == group_by_rank({n: i for i, n in enumerate(names)}, ranks)
        elif status == "discarded":
            assert ranked[user].verdict is Verdict.SKIPPED


def read_tool(row: dict[str, Any]) -> tuple[list[ImportRecord], Counter[str]]:
    name = "argilla" if "_server_id" in row else "label_studio"
    assert get_format(name).matches(row)
    return read_rows(name, row)


@st.composite
def label_studio_tasks(draw) -> dict[str, Any]:
    texts = draw(answers)
    ids = [f"i{n}" for n in range(len(texts))]
    order = st.lists(st.sampled_from(ids), unique=True)
    annotations = [
        {
            "completed_by": i, "was_cancelled": draw(st.booleans()), "created_at": None,
            "result": [{"from_name": "rank", "to_name": "list", "value": {"ranker": {"rank": draw(order)}}}],
        }
        for i in range(draw(st.integers(0, 3)))
    ]  # fmt: skip
    items = [{"id": id, "body": text} for id, text in zip(ids, texts)]
    return {
        "id": 1,
        "data": {"prompt": draw(st.text(min_size=1).filter(str.strip)), "items": items},
        "annotations": annotations,
    }


@pytest.mark.parametrize("order", [1, -1])
def test_an_input_follows_its_instruction_after_a_blank_line(order):
    texts = dict([("instruction", "Translate."), ("input", "Ja.")][::order])
    task = {"data": texts | {"answer1": "Yes.", "answer2": "Yep."}, "annotations": []}
    row = texts | {"_server_id": None, "response1": "Yes.", "response2": "Yep."}
    for one in (task, row):
        (record,), unread = read_tool(one)
        assert [m.text for m in record.prompt] == ["Translate.\n\nJa."]
        assert (record.tags, unread) == ({}, {})


@given(label_studio_tasks())
def test_every_annotation_of_label_studio_is_a_vote_or_named(task):
    records, unread = read_tool(task)
    votes = {r.vote.rater: r.vote for r in records if r.vote is not None}
    assert len(votes) + unread["annotations without a choice"] == len(task["annotations"])
    for annotation in task["annotations"]:
        ids = annotation["result"][0]["value"]["ranker"]["rank"]
        vote = votes.get(str(annotation["completed_by"]))
        if annotation["was_cancelled"]:
            assert vote is not None
            assert vote.verdict is Verdict.SKIPPED
        elif len(ids) >= 2:
            assert vote is not None
            assert vote.ranking == tuple((int(id[1:]),) for id in ids)
        else:
            assert vote is None


@given(answers, st.data())
def test_csv_and_json_min_of_label_studio_say_the_same(tmp_path_factory, texts, data):
    selected = data.draw(st.sampled_from(["left", "right"]))
    row = {
        "prompt": "Q", "answer1": texts[0], "answer2": texts[1], "better": [{"selected": selected}], "annotator": 1,
        "annotation_id": 1, "lead_time": 1.5, "created_at": "2024-05-01T10:00:00Z", "updated_at": None, "id": 1,
    }  # fmt: skip
    as_csv = row | {"better": json.dumps(row["better"]), "annotator": "1", "updated_at": ""}
    (by_json, _), (by_csv, _) = read_tool(row), read_tool(as_csv)
    assert by_json == by_csv
    assert by_json[0].vote is not None
    assert by_json[0].vote.ranking == (((0,), (1,)) if selected == "left" else ((1,), (0,)))


# Names that people chose


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["prompt", "response1", "response2"], ["response1", "response2"]),
        (["answer_b", "answer_a", "q"], ["answer_a", "answer_b"]),
        (["Response 1", "Response 2", "Response 10"], ["Response 1", "Response 2", "Response 10"]),
        (["textLeft", "textRight"], ["textLeft", "textRight"]),
        (["answer1", "answer2", "model1", "model2"], ["answer1", "answer2"]),
        (["prompt", "response"], []),
        (["text1", "text2", "answer1", "answer2"], []),
        (["data", "extra"], []),
    ],
)
def test_answers_are_found_by_what_their_names_end_in_or_not_at_all(names, found):
    assert find_answers(names) == found


@pytest.mark.parametrize(
    ("name", "answers", "found"),
    [
        ("1", ["response1", "response2"], 0), ("B", ["response1", "response2"], 1), ("2", ["answer_a", "answer_b"], 1),
        ("left", ["answer1", "answer2"], 0), ("Response 2", ["response_1", "response_2"], 1), ("3", ["a1", "a2"], None),
        ("yes", ["response1", "response2"], None), ("response_1", ["response_0", "response_1"], 1),
    ],
)  # fmt: skip
def test_an_option_means_one_answer_or_none(name, answers, found):
    assert find_answer(name, answers) == found


@pytest.mark.parametrize(
    ("label", "ranking", "strength"),
    [
        ("answer_a", ((0,), (1,)), None), ("B is much better", ((1,), (0,)), 3),
        ("A is slightly better", ((0,), (1,)), 1), ("tie", ((0, 1),), None), ("Both bad", (), None),
    ],
)  # fmt: skip
def test_a_label_says_which_answer_is_better_and_by_how_much(label, ranking, strength):
    choice = read_choice(label, ["answer_a", "answer_b"])
    assert choice is not None
    assert (choice.ranking, choice.strength) == (ranking, strength)


def test_a_label_about_something_else_is_no_choice():
    assert read_choice("colours", ["answer_a", "answer_b"]) is None
    assert split_axis("overall", ["answer_a", "answer_b"]) is None
    assert split_axis("overall", ["answer"]) == ("overall", 0)


def test_an_answer_that_a_record_does_not_have_is_left_out_of_its_ranking():
    row = {
        "_server_id": None, "prompt": "Q", "response1": "A", "response2": "B", "response3": None,
        "rank.responses": [[{"value": f"response{n}", "rank": n} for n in (3, 2, 1)]],
        "rank.responses.users": [ANN], "rank.responses.status": ["submitted"],
    }  # fmt: skip
    (record,), unread = read_tool(row)
    assert record.vote is not None
    assert (len(record.completions), record.vote.ranking) == (2, ((0,), (1,)))
    assert unread == {"ranks in rank of answers that the record does not have": 1}


@pytest.mark.parametrize("text", [" " * 200_000 + "x", "_" * 200_000, "a better " * 20_000, "9" * 10_000])
def test_a_long_text_is_no_choice_and_takes_no_time(text):
    names = ["answer_a", "answer_b"]
    assert (read_choice(text, names), find_answer(text, names), split_axis(text, names)) == (None, None, None)
    assert find_answers([text, "answer_a"]) == []


@pytest.mark.parametrize("rating", [10**400, float("nan"), True, "5"])
def test_a_rating_that_is_no_number_is_counted(rating):
    row = {"fields": {"prompt": "Q", "response": "A"}, "responses": {"quality": [{"value": rating, "user_id": "1"}]}}
    (record,), unread = read_rows("argilla", row)
    assert not record.ratings
    assert unread["question quality"] == 1


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2024-13-01", [5]])
def test_a_time_that_cannot_be_is_named(time):
    task = change_first(PAIRS, lambda t: t["annotations"][0].update(created_at=time))[0]
    with pytest.raises(BadInput, match="created_at"):
        read_tool(task)
