"""UltraFeedback, HelpSteer 2 and 3: rows as the sets' cards describe them, and each vote, strength and rating."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rated_rows import (
    ATTRIBUTES,
    HELPSTEER3,
    PREFERENCE,
    ULTRAFEEDBACK,
    binarize,
    binarize_cleaned,
    complete,
    rate_response,
    user,
)
from read_formats import read_file, read_rows
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Message, Split, Verdict

ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def write(path: Path, *rows: object) -> Path:
    text = "".join(json.dumps(r) + "\n" for r in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def strength_of(vote) -> int:
    """A vote on a pair as HelpSteer writes it, from -3 to 3."""
    if len(vote.ranking) == 1:
        return 0
    return vote.strength if vote.ranking[0] == (1,) else -vote.strength


# UltraFeedback


def test_ultrafeedback_is_a_ranking_by_the_overall_scores_with_ties_by_a_judge_who_is_no_person(tmp_path):
    name, (record,), unread = read_file(write(tmp_path / "a.jsonl", ULTRAFEEDBACK))
    assert name == "ultrafeedback"
    assert [c.policy for c in record.completions] == ULTRAFEEDBACK["models"]
    assert record.vote is not None
    assert record.vote.ranking == ((1,), (0, 3), (2,))
    assert (record.vote.rater, record.vote.judge) == ("GPT-4", True)
    assert record.tags == {"source": "evol_instruct"}
    assert record.completions[0].sampling == {"principle": "honesty", "custom_system_prompt": "Be honest."}
    assert unread == {"annotation key Type": 4, "annotation key Rationale": 4, "column incorrect_answers": 1}


def test_ultrafeedback_keeps_each_rating_with_its_scale_and_reason(tmp_path):
    _, (record,), _ = read_file(write(tmp_path / "a.jsonl", ULTRAFEEDBACK))
    of_third = {r.axis: (r.value, r.lowest, r.highest, r.rationale) for r in record.ratings if r.completion == 2}
    assert of_third == {
        "overall": (1, 1, 10, "On Seven."), "fine-grained": (4.25, 1, 5, ""), "helpfulness": (1, 1, 5, "It helps."),
        "honesty": (2, 1, 5, "Because."), "instruction_following": (3, 1, 5, "Because."),
        "truthfulness": (4, 1, 5, "Because."),
    }  # fmt: skip
    assert {(r.rater, r.judge) for r in record.ratings} == {("GPT-4", True)}
    assert len(record.ratings) == 4 * (2 + len(ASPECTS))


def test_what_gpt_4_could_not_rate_is_named_and_left_out_of_the_ranking(tmp_path):
    row = ULTRAFEEDBACK | {
        "completions": [complete("a", "A", 5, "N555"), complete("b", "B", None), complete("c", "C", 3)]
    }
    row["completions"][0]["annotations"]["helpfulness"]["Rating"] = "N/A"
    _, (record,), unread = read_file(write(tmp_path / "a.jsonl", row))
    assert record.vote is not None
    assert record.vote.ranking == ((0,), (2,))
    assert unread["ratings N/A of helpfulness"] == 1
    assert unread["completion key critique, without a score"] == 1


@pytest.mark.parametrize("bad", ["six", 11, 0, True, [5]])
def test_a_bad_score_of_ultrafeedback_is_named(tmp_path, bad):
    row = ULTRAFEEDBACK | {"completions": [complete("a", "A", 5), complete("b", "B", bad)]}
    with pytest.raises(BadInput, match=r"a\.jsonl:1: completions\[1\]: overall_score"):
        read_file(write(tmp_path / "a.jsonl", row))


@pytest.mark.parametrize(
    ("make", "axis", "highest"), [(binarize, "overall", 10), (binarize_cleaned, "fine-grained", 5)]
)
def test_binarized_ultrafeedback_has_ties_and_ratings(tmp_path, make, axis, highest):
    path = write(tmp_path / "a.jsonl", make(4.5, 2.0), make(4.5, 4.5), make(2.0, 4.5))
    name, records, unread = read_file(path)
    assert name == "ultrafeedback_binarized"
    assert [r.vote.ranking for r in records if r.vote] == [((0,), (1,)), ((0, 1),), ((0,), (1,))]
    assert unread["rating contradicts the choice, which is kept"] == 1
    assert [(r.value, r.axis, r.lowest, r.highest) for r in records[0].ratings] == [
        (4.5, axis, 1, highest), (2.0, axis, 1, highest)
    ]  # fmt: skip
    assert records[0].prompt == (Message("user", "Q"),)
    assert {(r.vote.rater, r.vote.judge, r.order_known) for r in records if r.vote} == {("GPT-4", True, False)}
    policies = ["gpt-4", "bard"] if make is binarize_cleaned else ["unknown", "unknown"]
    assert [c.policy for c in records[0].completions] == policies


def test_a_set_that_others_made_of_it_has_another_judge_and_is_read_as_trl(tmp_path):
    assert read_file(write(tmp_path / "a.jsonl", binarize(-3.5, -4.0) | {"reference_response": "R"}))[0] == "trl"
    with pytest.raises(BadInput, match="score_chosen"):
        read_file(write(tmp_path / "b.jsonl", binarize(-3.5, -4.0)))


# HelpSteer 2


def test_rows_of_helpsteer_2_with_one_prompt_are_one_comparison_with_ratings(tmp_path):
    rows = [
        rate_response("c#", "A", 3, 4, 4, 2, 1),
        rate_response("c#", "B", 3, 4, 4, 2, 0),
        rate_response("Hi", "C", 0, 1, 2, 3, 4),
    ]
    name, records, unread = read_file(write(tmp_path / "train.jsonl.gz", *rows))
    assert (name, unread) == ("helpsteer2", {})
    assert [[c.messages[0].text for c in r.completions] for r in records] == [["A", "B"], ["C"]]
    assert all(r.vote is None for r in records)
    ratings = [
        (records[i].completions[r.completion].messages[0].text, r.axis, r.value)
        for i in (0, 1)
        for r in records[i].ratings
    ]
    assert ratings == [(row["response"], axis, row[axis]) for row in rows for axis in ATTRIBUTES]
    assert {(r.lowest, r.highest) for record in records for r in record.ratings} == {(0, 4)}


def test_annotators_of_helpsteer_2_who_disagree_are_told_apart(tmp_path):
    row = rate_response("c#", "A", [3, 3, 4], [3, 4, 4], [4, 3, None], [2, 2, 2], [2, 1, 1])
    _, (record,), _ = read_file(write(tmp_path / "a.jsonl", row))
    by_rater = {
        rater: [r.value for r in record.ratings if r.rater == rater] for rater in ("unnamed", "unnamed 2", "unnamed 3")
    }
    assert by_rater == {"unnamed": [3, 3, 4, 2, 2], "unnamed 2": [3, 4, 3, 2, 1], "unnamed 3": [4, 4, 2, 1]}


def test_a_prompt_of_several_turns_is_a_chat(tmp_path):
    prompt = "One\n<extra_id_1>Assistant\nTwo\n\n<extra_id_1>User\nThree\nfour"
    _, (record,), _ = read_file(write(tmp_path / "a.jsonl", rate_response(prompt, "A", 1, 1, 1, 1, 1)))
    assert [(m.role, m.content) for m in record.prompt] == [
        ("user", "One"),
        ("assistant", "Two\n"),
        ("user", "Three\nfour"),
    ]


def test_each_annotator_of_helpsteer_2_has_a_vote_with_strength_and_reason(tmp_path):
    name, records, unread = read_file(write(tmp_path / "preference.jsonl.gz", PREFERENCE))
    votes = [r.vote for r in records if r.vote]
    said = PREFERENCE["all_preferences_unprocessed"]
    assert name == "helpsteer2"
    assert [strength_of(v) for v in votes[:3]] == [one["strength"] for one in said[:3]]
    assert votes[3].verdict is Verdict.ALL_BAD
    assert [v.rationale for v in votes] == [one["justification"] for one in said]
    assert {r.split for r in records} == {Split.CALIBRATION}
    assert set(unread) == {
        "column preference_strength", "column preference_statement", "column preference_elaboration",
        "column three_most_similar_preferences",
    }  # fmt: skip


def test_without_annotators_the_preference_of_the_set_is_one_vote_and_that_is_said(tmp_path):
    aggregated = PREFERENCE | {"all_preferences_unprocessed": [], "three_most_similar_preferences": None}
    _, (record,), unread = read_file(write(tmp_path / "a.jsonl", aggregated))
    assert record.vote is not None
    assert (strength_of(record.vote), record.vote.rationale) == (1, "@Response 2 is better. It is.")
    assert unread["preferences of several annotators together, read as one vote"] == 1


# HelpSteer 3


def test_each_annotator_of_helpsteer_3_has_a_vote_with_strength_and_reasoning(tmp_path):
    name, records, unread = read_file(write(tmp_path / "train.jsonl.gz", HELPSTEER3))
    assert name == "helpsteer3"
    assert [(strength_of(r.vote), r.vote.rationale) for r in records if r.vote] == [
        (one["score"], one["reasoning"]) for one in HELPSTEER3["individual_preference"]
    ]
    assert [m.content for m in records[0].prompt] == ["One", "Two", "Three"]
    assert records[0].tags == {"domain": "code", "language": "python"}
    assert unread == {"column overall_preference": 1}


def test_feedback_of_helpsteer_3_is_a_rating_where_it_says_how_helpful_a_response_is(tmp_path):
    row = {k: HELPSTEER3[k] for k in ("domain", "language", "context", "response1", "response2")} | {
        "feedback1": ["The response is mostly helpful. Yes.", "Hm."], "feedback2": ["The response is not helpful."]
    }  # fmt: skip
    name, (record,), unread = read_file(write(tmp_path / "a.jsonl", row))
    assert (name, record.vote) == ("helpsteer3", None)
    assert [(r.completion, r.axis, r.value, r.rationale) for r in record.ratings] == [
        (0, "helpfulness", 4, "The response is mostly helpful. Yes."),
        (1, "helpfulness", 1, "The response is not helpful."),
    ]  # fmt: skip
    assert unread == {"feedback1 that does not say how helpful the response is": 1}


def test_edits_of_helpsteer_3_are_completions_and_a_good_edit_is_better_than_a_bad_one(tmp_path):
    shared = {k: HELPSTEER3[k] for k in ("domain", "language", "context")} | {
        "original_response": "O",
        "feedback": ["Hm."],
    }
    edit = shared | {"edited_response": "E", "change_summary": "Better."}
    quality = shared | {"good_edited_response": "G", "bad_edited_response": "B"}
    _, (of_edit, of_quality), unread = read_file(write(tmp_path / "a.jsonl", edit, quality))
    assert ([c.messages[0].text for c in of_edit.completions], of_edit.vote) == (["O", "E"], None)
    assert [c.messages[0].text for c in of_quality.completions] == ["O", "G", "B"]
    assert of_quality.vote is not None
    assert of_quality.vote.ranking == ((1,), (2,))
    assert unread == {"feedback that does not say how helpful the response is": 2, "column change_summary": 1}


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (rate_response("Q", "A", 5, 1, 1, 1, 1), "helpfulness"),
        (rate_response("Q", "A", 1, None, 1, 1, 1), "correctness"),
        (rate_response("Q", None, 1, 1, 1, 1, 1), "response"), (rate_response("", "A", 1, 1, 1, 1, 1), "prompt"),
        (PREFERENCE | {"all_preferences_unprocessed": [{"strength": 4}]}, "all_preferences_unprocessed"),
        (PREFERENCE | {"all_preferences_unprocessed": "[{}]"}, "all_preferences_unprocessed"),
        (HELPSTEER3 | {"individual_preference": [{"score": "much"}]}, "individual_preference.score"),
        (HELPSTEER3 | {"individual_preference": [{"score": 1.5}]}, "individual_preference.score"),
        (HELPSTEER3 | {"context": [5]}, "context"),
    ],
)  # fmt: skip
def test_a_bad_row_of_helpsteer_is_named(tmp_path, row, named):
    with pytest.raises(BadInput, match=named) as error:
        read_file(write(tmp_path / "a.jsonl", row))
    assert "a.jsonl:1" in str(error.value)


# In the store


@pytest.mark.parametrize(
    "rows",
    [
        [ULTRAFEEDBACK], [binarize(8, 8), binarize(8, 8)], [binarize_cleaned(4, 3)], [PREFERENCE], [HELPSTEER3],
        [rate_response("c#", "A", 3, 4, 4, 2, 1), rate_response("c#", "B", [3, 3], [4, 4], [4, 4], [2, 2], [0, 0])],
    ],
    ids=["ultrafeedback", "binarized", "cleaned", "helpsteer2", "helpsteer3", "helpsteer2 ratings"],
)  # fmt: skip
def test_a_set_is_in_the_store_once_however_often_it_is_imported(sqlite_store, tmp_path, rows):
    path = write(tmp_path / "a.jsonl", *rows)
    _, records, _ = read_file(path)
    report = import_path(sqlite_store, path)
    # Votes of annotators without names may repeat each other word for word.
    votes = [r.vote for r in records if r.vote is not None]
    assert report.judgments + report.repeated_votes + report.repeated_rows == len(votes)
    assert report.judgments >= len({(v.rater, r.prompt) for r in records if (v := r.vote) is not None})
    assert report.ratings == sum(len(r.ratings) for r in records) // (2 if rows[0] == rows[-1] and len(rows) > 1 else 1)
    assert len(list(read_judgments(sqlite_store))) == report.judgments
    again = import_path(sqlite_store, path)
    assert (again.judgments, again.ratings, again.comparisons, again.prompts, again.raters) == (0, 0, 0, 0, 0)


def test_a_bad_row_between_two_of_one_prompt_is_skipped_and_counted(sqlite_store, tmp_path):
    good = [rate_response("Q", text, 1, 2, 3, 4, 0) for text in ("A", "B")]
    path = write(tmp_path / "a.jsonl", good[0], rate_response("Q", "C", 9, 2, 3, 4, 0), good[1])
    report = import_path(sqlite_store, path, skip_bad=True)
    assert (report.comparisons, report.completions, report.ratings, report.bad_lines) == (1, 2, 10, 1)


def test_rows_of_a_prompt_are_in_the_batch_of_their_own_folder(sqlite_store, tmp_path):
    for folder in ("data", "easy", "hard"):  # of which the first says nothing
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.jsonl", *(rate_response("Q", f"{folder} {i}", 1, 2, 3, 4, 0) for i in range(2)))
    import_path(sqlite_store, tmp_path)
    batches = {c.batch: sorted(m.messages[0].text for m in c.completions) for c in find_comparisons(sqlite_store)}
    assert batches == {name: [f"{name or 'data'} 0", f"{name or 'data'} 1"] for name in ("", "easy", "hard")}


# Generated rows

texts = st.text(max_size=8)
prompts = st.text(min_size=1, max_size=8).filter(lambda t: t.strip() and "<extra_id_1>" not in t)
strengths = st.lists(st.integers(-3, 3), max_size=4)


@given(prompts, texts, texts, strengths)
def test_every_strength_of_helpsteer_is_a_vote(prompt, first, second, given_strengths):
    two = {
        "prompt": prompt, "response_1": first, "response_2": second, "preference_strength": None,
        "all_preferences_unprocessed": [
            {"strength": s, "justification": str(i)} for i, s in enumerate(given_strengths)
        ],
    }  # fmt: skip
    three = {
        "context": [user(prompt)], "response1": first, "response2": second, "overall_preference": None,
        "individual_preference": [{"score": s, "reasoning": str(i)} for i, s in enumerate(given_strengths)],
    }  # fmt: skip
    for format, row in (("helpsteer2", two), ("helpsteer3", three)):
        records, _ = read_rows(format, row)
        assert [strength_of(r.vote) for r in records if r.vote] == given_strengths
        assert [r.vote.rationale for r in records if r.vote] == [str(i) for i in range(len(given_strengths))]
        assert [c.messages[0].content for c in records[0].completions] == [first, second]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), texts, st.lists(st.integers(0, 4), min_size=5, max_size=5)), min_size=1)
)
def test_every_rating_of_helpsteer_2_is_kept_with_its_response(rows):
    records, _ = read_rows(
        "helpsteer2", *(rate_response(prompt, response, *values) for prompt, response, values in rows)
    )
    kept = [
        (r.prompt[0].content, r.completions[x.completion].messages[0].content, x.axis, x.value)
        for r in records
        for x in r.ratings
    ]
    assert kept == [(p, text, axis, value) for p, text, values in rows for axis, value in zip(ATTRIBUTES, values)]
    assert all(a.prompt != b.prompt for a, b in pairwise(records))


@given(prompts, st.lists(st.tuples(texts, st.none() | st.integers(1, 10)), min_size=1, max_size=5))
def test_the_ranking_of_ultrafeedback_is_the_order_of_its_scores(prompt, given_scores):
    row = ULTRAFEEDBACK | {"instruction": prompt, "completions": [complete("m", t, score) for t, score in given_scores]}
    (record,), _ = read_rows("ultrafeedback", row)
    scored = {i: score for i, (_, score) in enumerate(given_scores) if score is not None}
    if len(scored) < 2:
        assert record.vote is None
    else:
        assert record.vote is not None
        place = {i: n for n, group in enumerate(record.vote.ranking) for i in group}
        assert place.keys() == scored.keys()
        for i in scored:
            for j in scored:
                assert (place[i] < place[j]) == (scored[i] > scored[j])
