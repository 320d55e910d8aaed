"""What is said twice: completions with the same text, ratings without a rater, rows that bring little new."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.formats.importing import ImportReport, import_path
from rlhf_hitl.formats.occurrences import OccurrenceCounter
from rlhf_hitl.formats.record import ImportCompletion, ImportRating, ImportRecord, ImportVote
from rlhf_hitl.formats.record_checker import REPEATS, RecordChecker
from rlhf_hitl.formats.source import raise_bad_row
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import count_rows, find_comparisons
from rlhf_hitl.store.imports import StagedRecord
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.known_names import KnownNames
from rlhf_hitl.store.tables import completions, raters, ratings
from rlhf_hitl.types import Message, Verdict

RANKED = {"prompt": "Q", "completions": ["a", "b", "a", "c"], "ranking": [[1], [0], [3], [2]], "rater": "ann"}
KTO = {"prompt": "Q", "completion": "a", "label": True}


def read(store: Store, tmp_path: Path, *rows: object) -> ImportReport:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return import_path(store, path)


def check(record: ImportRecord) -> tuple[RecordChecker, StagedRecord]:
    with OccurrenceCounter() as occurrences:
        checker = RecordChecker("x", KnownNames(lambda query: ()), occurrences)
        [staged] = checker.read([record], raise_bad_row)
    return checker, staged


def make_record(texts: str, vote: ImportVote | None = None, *given: ImportRating) -> ImportRecord:
    answers = tuple(ImportCompletion((Message("assistant", text),), f"p{i}") for i, text in enumerate(texts))
    return ImportRecord((Message("user", "Q"),), answers, "x:1", vote, ratings=given)


def rank(staged: StagedRecord) -> list[str]:
    """The ranking in texts, a group a word."""
    assert staged.vote is not None
    texts = {c.id: c.text for c in staged.completions}
    return ["".join(sorted(texts[id] for id in group)) for group in staged.vote.answer.ranking]


def test_of_completions_that_say_the_same_the_first_is_ranked(sqlite_store, tmp_path):
    report = read(sqlite_store, tmp_path, RANKED)
    assert (report.comparisons, report.judgments, report.completions, report.identical_sides) == (1, 1, 3, 0)
    assert report.noted == {REPEATS: 1}
    [comparison], [judgment] = find_comparisons(sqlite_store), read_judgments(sqlite_store)
    texts = {c.id: c.text for c in comparison.completions}
    assert [[texts[id] for id in group] for group in judgment.answer.ranking] == [["b"], ["a"], ["c"]]
    again = read(sqlite_store, tmp_path, RANKED)
    assert (again.judgments, again.repeated_rows) == (0, 1)


def test_votes_on_the_same_completions_are_all_on_those_that_are_left(sqlite_store, tmp_path):
    bob = RANKED | {"rater": "bob", "ranking": [[2], [1], [3], [0]], "scores": {"style": [None, 2, 5, 1]}}
    report = read(sqlite_store, tmp_path, RANKED, bob)
    assert (report.comparisons, report.judgments, report.noted) == (1, 2, {REPEATS: 2})
    [comparison] = find_comparisons(sqlite_store)
    texts = {c.id: c.text for c in comparison.completions}
    said = list(read_judgments(sqlite_store))[-1].answer
    assert [[texts[id] for id in group] for group in said.ranking] == [["b"], ["c"], ["a"]]
    assert {texts[id]: n for id, n in said.scores["style"].items()} == {"a": 5, "b": 2, "c": 1}


def test_a_repeat_that_alone_is_ranked_or_rated_speaks_for_the_first():
    vote = ImportVote(Verdict.RANKED, ((2,), (1,)), "ann")
    ratings = [ImportRating(0, "style", 1), ImportRating(2, "style", 5), ImportRating(2, "truth", 4)]
    checker, staged = check(make_record("abac", vote, *ratings))
    assert rank(staged) == ["a", "b"]
    first = staged.completions[0].id
    assert [(r.completion_id, r.axis, r.value) for r in staged.ratings] == [(first, "style", 1), (first, "truth", 4)]
    assert checker.noted == {REPEATS: 1}


def test_where_all_say_the_same_prompt_and_ratings_are_kept(sqlite_store, tmp_path):
    checker, staged = check(make_record("aa", ImportVote.of_pair("first"), ImportRating(1, "style", 3)))
    assert (checker.counts["identical_sides"], checker.noted) == (1, {})
    assert (staged.comparison, staged.vote, len(staged.completions)) == (None, None, 1)
    assert [(r.completion_id, r.value) for r in staged.ratings] == [(staged.completions[0].id, 3)]
    report = read(sqlite_store, tmp_path, {"prompt": "Q", "chosen": "a", "rejected": "a"})
    assert (report.prompts, report.completions, report.comparisons, report.identical_sides) == (1, 1, 0, 1)


@given(st.text("abc", min_size=2, max_size=6), st.data())
def test_no_ranking_breaks_when_repeats_are_merged(texts, data):
    order = data.draw(st.permutations(range(len(texts))))
    cuts = sorted({0, len(texts), *data.draw(st.sets(st.integers(1, len(texts) - 1)))})
    groups = tuple(tuple(order[a:b]) for a, b in itertools.pairwise(cuts))
    checker, staged = check(make_record(texts, ImportVote(Verdict.RANKED, groups)))
    different = sorted(set(texts))
    assert sorted(c.text for c in staged.completions) == different
    if len(different) < 2:
        assert (staged.vote, checker.counts["identical_sides"]) == (None, 1)
        return
    firsts = ["".join(sorted(texts[i] for i in group if texts.index(texts[i]) == i)) for group in groups]
    assert rank(staged) == [group for group in firsts if group]
    assert checker.noted[REPEATS] == len(texts) - len(different)


def test_a_row_that_brings_a_completion_or_a_rating_is_no_repeat(store, tmp_path):
    ann = KTO | {"rater": "ann"}
    first = read(store, tmp_path, ann, ann | {"completion": "b"}, ann)
    assert (first.prompts, first.completions, first.ratings, first.repeated_rows) == (1, 2, 2, 1)
    second = read(store, tmp_path, ann, ann | {"rater": "bob"}, ann | {"completion": "c", "rater": "bob"})
    assert (second.completions, second.ratings, second.repeated_rows) == (1, 2, 1)


def test_an_equal_rating_without_a_rater_is_anothers_and_comes_in_once(store, tmp_path):
    bad = KTO | {"label": False}
    first = read(store, tmp_path, KTO, KTO, bad)
    assert (first.ratings, first.raters, first.repeated_rows) == (3, 3, 0)
    again = read(store, tmp_path, bad, KTO, KTO)
    assert (again.ratings, again.raters, again.repeated_rows) == (0, 0, 3)
    more = read(store, tmp_path, KTO, KTO, KTO)
    assert (more.ratings, more.raters, more.repeated_rows) == (1, 1, 2)
    query = sa.select(raters.c.name, ratings.c.value).join(completions).join(raters).order_by(raters.c.name)
    with store.read() as conn:
        said = [tuple(row) for row in conn.execute(query)]
    assert said == [("kto:unnamed", 1), ("kto:unnamed 2", 1), ("kto:unnamed 3", 0), ("kto:unnamed 4", 1)]


@pytest.mark.parametrize("same", [True, False])
def test_a_rating_told_again_in_another_comparison_is_the_same(same):
    records = [make_record(texts, None, ImportRating(0, "style", 3)) for texts in ("ab", "ab" if same else "ac")]
    with OccurrenceCounter() as occurrences:
        checker = RecordChecker("x", KnownNames(lambda query: ()), occurrences)
        ids = {rating.id for staged in checker.read(records, raise_bad_row) for rating in staged.ratings}
    assert len(ids) == 1 + same


def test_a_row_is_counted_once_as_a_vote_a_repeat_or_of_identical_sides(sqlite_store, tmp_path):
    pair = {"prompt": "Q", "chosen": "a", "rejected": "b", "rater": "ann"}
    report = read(sqlite_store, tmp_path, pair, pair, pair | {"chosen": "b"}, pair | {"chosen": "b"})
    assert (report.rows, report.judgments, report.repeated_rows, report.identical_sides) == (4, 1, 1, 2)
    assert count_rows(sqlite_store)["completions"] == 2
