"""What two answers do not have in common is marked, in any script, and nothing else of them is lost."""

from __future__ import annotations

import re
from html import unescape

import pytest

from rlhf_hitl.ui.difference import WORDS_LIMIT, mark_differing_words


def marked(html: str) -> list[str]:
    return [unescape(text) for _, text in re.findall(r"<(del|ins)>(.*?)</\1>", html, re.S)]


def words(html: str) -> str:
    return "".join(unescape(re.sub(r"<[^>]*>", "\n", html)).split())


@pytest.mark.parametrize(
    ("first", "second", "gone", "new"),
    [
        ("The quick brown fox jumps.", "The quick red fox sleeps.", ["brown", "jumps"], ["red", "sleeps"]),
        ("We do not know it, yet.", "We don't know it yet.", ["do not", ","], ["don't"]),
        ("我喜欢红色的花", "我喜欢蓝色的花", ["红"], ["蓝"]),
        ("かきくけこ", "かか\u3099くけこ", ["き"], ["か\u3099"]),
        ("यह हिन्दी है।", "यह हिन्दु है।", ["हिन्दी"], ["हिन्दु"]),
        ("مرحبا، يا صديقي", "مرحبا، يا أخي", ["صديقي"], ["أخي"]),
        ("a 👩‍👩‍👧 b", "a 👩‍👩‍👦 b", ["👩‍👩‍👧"], ["👩‍👩‍👦"]),
        ("same words\nbroken here", "same\n\nwords broken here", [], []),
        ("a <b>x</b> & c", "a <i>x</i> & c", ["b", "b"], ["i", "i"]),
        ("one two", "", ["one two"], []),
        ("gone here\n\nand there", "kept", ["gone here", "and there"], ["kept"]),
    ],
)  # fmt: skip
def test_the_words_that_only_one_has_are_marked_there(first, second, gone, new):
    one, two = mark_differing_words(first, second)
    assert (marked(one), marked(two)) == (gone, new)
    assert "<ins" not in one
    assert "<del" not in two


def test_paragraphs_lines_and_indents_are_kept():
    text = "\n  def f():\n\n      return 1\nend"
    (one, two) = mark_differing_words(text, text)
    assert one == two
    assert re.findall(r'<p dir="auto">(.*?)</p>', one, re.S) == ["  def f():", "      return 1\nend"]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "</p></div><img src=x>", "&lt;b&gt; \"'"])
def test_nothing_of_a_text_becomes_an_element(text):
    for html in (
        *mark_differing_words(text, ""),
        *mark_differing_words(text, text),
        *mark_differing_words("other " + text, text),
    ):
        assert set(re.findall(r"</?(\w+)", html)) <= {"div", "p", "del", "ins", "span"}
        assert words(html) in ("".join(text.split()), "other" + "".join(text.split()), "(empty)")


def test_beyond_the_limit_nothing_is_compared_and_the_page_is_told():
    many = "word " * WORDS_LIMIT
    one, two = mark_differing_words(many + "first", many + "second third")
    assert one.count("uncompared") == two.count("uncompared") == 1
    assert marked(one) == marked(two) == []
    assert words(two).endswith("secondthird")
    assert "uncompared" not in mark_differing_words(many, many)[0]


@pytest.mark.parametrize(
    ("first", "second"),
    [("a " * 20_000, "a b " * 10_000), (" " * 200_000, "\n" * 200_000), ("x" * 200_000, "!" * 200_000)],
)
def test_no_pair_of_texts_grows_without_bound(first, second):
    assert all(len(html) < 600_000 for html in mark_differing_words(first, second))
