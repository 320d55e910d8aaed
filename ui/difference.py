"""Where two answers differ, word by word."""

from __future__ import annotations

import re

from rapidfuzz.distance import Indel

from rlhf_hitl.ui import markdown
from rlhf_hitl.ui.markdown import SHOWN_LIMIT, escape, make_visible, render, render_cut_note

#: Words compared of each text. Time and memory grow with their product: at the limit 0.3 s and 60 MB.
WORDS_LIMIT = 20_000

# Chinese and Japanese write no spaces, so there a character is a word; a kana's voicing and a variant's selector stay
# with it. Everything that is neither space nor punctuation holds together, so that no letter loses its marks (Hindi,
# Arabic, Thai) and no emoji its parts.
_CJK = "\u3040-\u3098\u309b-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PUNCTUATION = re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~") + (
    "¡«»¿،؛؟।॥‐-‧‹›⁃⁅-⁞\u3000-\u3004\u3008-\u3020\u3030\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
_LETTERS = rf"[^\s{_CJK}{_PUNCTUATION}]+"
# One of the three always fits after a gap, so a text without spaces at its end is read once.
_WORD = re.compile(
    rf"(\s*)([{_CJK}][\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef]*|{_LETTERS}(?:['’]{_LETTERS})*|[{_PUNCTUATION}])"
)

_Words = list[tuple[str, str]]  # each with the space before it


def mark_differing_words(first: str, second: str) -> tuple[str, str]:
    """Both texts as HTML, in each the words marked that the other has not: `del` in the first, `ins` in the second.

    Only words are compared, so that a paragraph that is broken otherwise is still the same paragraph. What lies beyond
    `WORDS_LIMIT` is shown unmarked, what lies beyond `SHOWN_LIMIT` characters not at all, and both is said there.
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
    missing = [render_cut_note(len(text) - SHOWN_LIMIT) for text in (first, second)]
    return _draw_words(texts[0], only_a, "del") + missing[0], _draw_words(texts[1], only_b, "ins") + missing[1]


def _draw_words(words: _Words, only_here: list[bool], mark: str) -> str:
    """Words as paragraphs, neighbours that are marked within one mark."""
    if not words:
        return render("")
    html, inside = ['<div class="text plain difference" dir="auto"><p dir="auto">'], False
    unmarked = markdown.render_translated("difference_cut", "From here on, differences are not marked")
    for at, ((space, word), marked) in enumerate(zip(words, only_here)):
        new_paragraph = at > 0 and space.count("\n") > 1
        if inside and (new_paragraph or not marked):
            html.append(f"</{mark}>")
            inside = False
        if at == WORDS_LIMIT:
            html.append(f'</p><p class="note uncompared">{unmarked}</p><p dir="auto">')
        elif new_paragraph:
            html.append('</p><p dir="auto">')
        if at == 0 or new_paragraph:
            space = space.rpartition("\n")[2]  # the indent of its first line is part of what it says
        html.append(space)
        if marked and not inside:
            html.append(f"<{mark}>")
            inside = True
        html.append(escape(word))
    return "".join([*html, f"</{mark}>" if inside else "", "</p></div>"])
