"""Loops: what counts as one, against a slow reference and on texts that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.policy.loops import LEAST_TIMES, LONGEST_PHRASE, is_degenerate, measure_loop

WORDS = st.lists(st.sampled_from("abc"), max_size=40)


def measure_slowly(words: list[str]) -> int:
    """Try every phrase at every place."""
    best = 0
    for n in range(1, min(LONGEST_PHRASE, len(words) // LEAST_TIMES) + 1):
        for start in range(len(words)):
            end = start + n
            while end < len(words) and words[end] == words[end - n]:
                end += 1
            if LEAST_TIMES * n <= end - start and end <= len(words):
                best = max(best, end - start)
    return best


@given(WORDS)
def test_the_longest_loop_is_that_of_a_slow_search(words):
    assert measure_loop(words) == measure_slowly(words)


@given(st.lists(st.sampled_from(["sea", "ship", "old", "moon"]), min_size=1, max_size=12), st.integers(20, 40))
def test_a_phrase_over_and_over_is_degenerate_whatever_comes_before(phrase, times):
    before = " ".join(f"word{i}" for i in range(len(phrase) * times // 2))
    assert is_degenerate(f"{before} {' '.join(phrase * times)}")


@given(st.lists(st.integers(), unique=True))
def test_words_that_all_differ_are_no_loop(numbers):
    assert not is_degenerate(" ".join(map(str, numbers)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ha ha ha ha ha", False),  # short
        ("| a | b |\n| --- | --- |\n" + "\n".join(f"| row {i} | {i * 7} |" for i in range(9)), False),
        ("I am sorry. " * 12, True),
        ("の" * 30, True),
        ("今日はとても良い天気ですから、公園へ散歩に行きましょう。", False),
        ("la la la la la la la la la la " + " ".join(f"verse{i}" for i in range(20)), False),  # a third of it
    ],
)
def test_texts_as_models_write_them(text, found):
    assert is_degenerate(text) is found
