"""Finding the pairs of an evaluation through its index, without a browser."""

from __future__ import annotations

import pytest

from handmade_evaluations import bundled, example, put
from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.reward.evaluation import browse
from rlhf_hitl.reward.evaluation.browse import PairQuery
from rlhf_hitl.reward.evaluation.pair_index import (
    MAX_TAG_VALUES,
    EvaluationIndex,
    find_row_by_key,
    load_index,
    make_pair_key,
    read_rows,
)
from rlhf_hitl.reward.evaluation.storage import (
    PAIRS_FILE,
    SUMMARY_FILE,
    find_evaluation_folder,
    load_evaluation_for_page,
)


def query_rows(index: EvaluationIndex, *query, **more) -> list[str]:
    return [e.comparison_id for e in read_rows(index, browse.find_rows(index, PairQuery(*query), **more))]


def test_pairs_are_read_as_they_were_written_in_any_order(tmp_path):
    pairs = bundled(1, 0.6)
    index = load_index(put(tmp_path, "one", pairs))
    assert read_rows(index, browse.find_rows(index, PairQuery("all", order="replayed"))) == pairs
    assert read_rows(index, [7, 3]) == [pairs[7], pairs[3]]
    assert len(query_rows(index, "disagreements")) == sum(e.correct == 0 for e in pairs)


def test_equal_rewards_are_disagreements_and_a_tie_is_more_wrong_the_larger_the_margin(tmp_path):
    ties = [example(f"tie{m}", m, correct=None) for m in (0.5, -3.0)]
    index = load_index(put(tmp_path, "one", [example("equal", 0.0), example("right"), *ties, example("wrong", -1.0)]))
    assert query_rows(index, "disagreements") == ["c_right", "c_wrong", "c_equal"]
    assert query_rows(index, "ties") == ["c_tie-3.0", "c_tie0.5"]
    assert query_rows(index, "agreements") == []


def test_pairs_are_filtered_by_tag_by_description_and_by_all_words(tmp_path):
    pairs = [
        example(1, chosen="Straße im Regen", tags={"language": "de"}),
        example(2, chosen="A long street. " * 40, tags={"language": "en"}),
        example(3, prompt="Rain?", chosen="The STRASSE of rain", tags={}, votes=1),
    ]
    index = load_index(put(tmp_path, "one", pairs))
    assert query_rows(index, "all", ("language", "de")) == ["c_1"]
    assert query_rows(index, "all", ("agreement", "one vote")) == ["c_3"]
    assert query_rows(index, "all", ("language", "fr")) == query_rows(index, "all", ("nothing", "x")) == []
    assert query_rows(index, "all", None, "replayed", "strasse") == ["c_1", "c_3"]
    assert query_rows(index, "all", None, "replayed", " rain  strasse ") == ["c_3"]
    assert query_rows(index, "all", None, "longest")[0] == "c_2"


def test_tags_with_too_many_values_are_not_filters(tmp_path):
    pairs = [example(i, tags={"source": f"s{i}", "topic": f"t{i % 3}"}) for i in range(MAX_TAG_VALUES + 1)]
    index = load_index(put(tmp_path, "one", pairs))
    assert "source" not in index.tags
    assert index.tags["topic"][0] == ("t0", "t1", "t2")


def test_a_key_finds_its_pair_even_where_ids_look_like_keys(tmp_path):
    pairs = [example("k.2"), example("k"), example("k.2", chosen_id="x"), example("é\n"), example("k.2", chosen_id="y")]
    index = load_index(put(tmp_path, "one", pairs))
    keys = [make_pair_key(index, row, e) for row, e in enumerate(read_rows(index, list(range(len(pairs)))))]
    assert keys == ["c_k.2", "c_k", "c_k.2.2", "c_é\n", "c_k.2.3"]
    assert [find_row_by_key(index, key) for key in keys] == list(range(len(pairs)))
    assert [find_row_by_key(index, key) for key in ("", "c_k.0", "c_k.9", "c_k.²", "c_k.", ".1")] == [None] * 6


def test_many_labels_of_one_prompt_do_not_make_a_model_significantly_better(tmp_path):
    """Twelve labels of one prompt are all that tells the two apart, and McNemar's test alone would be sure."""
    family = {i: "one" if i < 12 else f"f{i}" for i in range(21)}
    first = put(tmp_path, "first", [example(i, 1.0, family=family[i]) for i in family])
    second = put(tmp_path, "second", [example(i, -1.0 if i < 12 else 1.0, family=family[i]) for i in family])
    two = browse.place_side_by_side(load_index(first), load_index(second)).difference
    assert two is not None
    assert (two.n, two.ours, two.theirs) == (21, 12, 0)
    assert two.p_value < 0.001
    assert two.accuracy.low < 0
    assert not two.is_better


def test_an_index_does_not_read_a_file_that_was_replaced(tmp_path):
    folder = put(tmp_path, "one", [example(i) for i in range(9)])
    old = load_index(folder)
    put(tmp_path, "one", [example(i, chosen="longer " * 9) for i in range(5)])
    for read in (lambda: read_rows(old, [3]), lambda: browse.find_rows(old, PairQuery(words="chosen"))):
        with pytest.raises(Conflict, match="was replaced"):
            read()
    assert len(load_index(folder)) == 5


@pytest.mark.parametrize("harm", [lambda t: t[:-1], lambda t: t[:-300], lambda t: t + "{}\n", lambda t: "\x00" + t])
def test_a_damaged_file_is_named_with_its_line(tmp_path, harm):
    folder = put(tmp_path, "one", [example(i) for i in range(3)])
    (folder / PAIRS_FILE).write_text(harm((folder / PAIRS_FILE).read_text()))
    with pytest.raises(BadInput, match=r"one/examples.jsonl:[134]: expected a pair"):
        load_index(folder)


def test_without_its_files_an_evaluation_is_not_found(tmp_path):
    folder = put(tmp_path, "one", [example(1)])
    (folder / PAIRS_FILE).unlink()
    with pytest.raises(NotFound, match="'one'"):
        load_index(folder)
    assert find_evaluation_folder(tmp_path, "one") == folder
    (folder / SUMMARY_FILE).unlink()
    for read in (lambda: find_evaluation_folder(tmp_path, "one"), lambda: load_evaluation_for_page(folder)):
        with pytest.raises(NotFound, match="'one'"):
            read()
