"""Mark the words in which two answers differ."""

from __future__ import annotations

import re
from collections import Counter

from rapidfuzz.distance import Indel

from rlhf_hitl.ui import markdown
from rlhf_hitl.ui.markdown import SHOWN_LIMIT, escape, make_visible, render_cut_note, render_empty

#: Words compared of each text. Time and memory grow with their product: at the limit 0.3 s and 60 MB.
WORDS_LIMIT = 20_000

# Chinese and Japanese have no spaces between words, so each of their characters is a word, together with a voicing mark
# or variation selector after it. All other characters that are neither space nor punctuation form words, so that
# letters keep their combining marks (Hindi, Arabic, Thai) and emoji their parts.
_CJK = "\u3040-\u3098\u309b-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PUNCTUATION = re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~") + (
    "¡«»¿،؛؟।॥‐-‧‹›⁃⁅-⁞\u3000-\u3004\u3008-\u3020\u3030\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
_LETTERS = rf"[^\s{_CJK}{_PUNCTUATION}]+"
# One of the three alternatives always matches after a gap, so a text without spaces at its end is read once.
_WORD = re.compile(
    rf"(\s*)([{_CJK}][\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef]*|{_LETTERS}(?:['’]{_LETTERS})*|[{_PUNCTUATION}])"
)

_Words = list[tuple[str, str]]  # pairs of the space before a word and the word


def mark_differing_words(first: str, second: str) -> tuple[str, str]:
    """Return both texts as HTML, with the words marked that the other lacks: `del` in the first, `ins` in the second.

    Only words are compared, so paragraphs that differ only in their line breaks count as equal. Words after the first
    `WORDS_LIMIT` are shown unmarked, and characters after the first `SHOWN_LIMIT` are not shown; a note says so there.
    """
    texts = [_WORD.findall(make_visible(text[:SHOWN_LIMIT]).rstrip()) for text in (first, second)]
    numbers: dict[str, int] = {}
    a, b = ([numbers.setdefault(word, len(numbers)) for _, word in words[:WORDS_LIMIT]] for words in texts)
    only_a, only_b = ([False] * len(words) for words in texts)
    for step in Indel.opcodes(a, b):
        if step.tag == "delete":
            only_a[step.src_start : step.src_end] = [True] * (step.src_end - step.src_start)
        elif step.tag == "insert":
            only_b[step.dest_start : step.dest_end] = [True] * (step.dest_end - step.dest_start)
    cut_notes = [render_cut_note(len(text) - SHOWN_LIMIT) for text in (first, second)]
    return _draw_words(texts[0], only_a, "del") + cut_notes[0], _draw_words(texts[1], only_b, "ins") + cut_notes[1]


def share_common_words(first: str, second: str) -> float:
    """Return how much of two texts are words that both have, in whatever order, from 0 to 1; punctuation is no word."""
    a, b = (
        Counter(word for _, word in _WORD.findall(text[:SHOWN_LIMIT].rstrip()) if any(map(str.isalnum, word)))
        for text in (first, second)
    )
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def _draw_words(words: _Words, only_here: list[bool], mark: str) -> str:
    """Return words as HTML paragraphs; marked words that follow each other share one element `mark`."""
    if not words:
        return render_empty()
    html, inside = ['<div class="text plain difference" dir="auto"><p dir="auto">'], False
    for at, ((space, word), marked) in enumerate(zip(words, only_here)):
        new_paragraph = at > 0 and space.count("\n") > 1
        if inside and (new_paragraph or not marked):
            html.append(f"</{mark}>")
            inside = False
        if at == WORDS_LIMIT:
            html.append(f'</p>{_render_unmarked_note()}<p dir="auto">')
        elif new_paragraph:
            html.append('</p><p dir="auto">')
        if at == 0 or new_paragraph:
            space = space.rpartition("\n")[2]  # the indent of its first line is part of the text
        html.append(space)
        if marked and not inside:
            html.append(f"<{mark}>")
            inside = True
        html.append(escape(word))
    return "".join([*html, f"</{mark}>" if inside else "", "</p></div>"])


def render_unmarked(text: str) -> str:
    """Return a visible text as HTML without marks, for one whose differences cannot be found in time."""
    return f'<div class="text plain difference" dir="auto">{_render_unmarked_note()}<div>{escape(text)}</div></div>'


def _render_unmarked_note() -> str:
    unmarked = markdown.render_translated("difference_cut", "From here on, differences are not marked")
    return f'<p class="note uncompared">{unmarked}</p>'
