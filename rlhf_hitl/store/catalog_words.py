"""How texts are cut into words, for the catalog and for a search in it alike, so that both databases find the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

#: Longer words are cut. Of one comparison so many bytes of different words can be found; what comes after is not.
MAX_LETTERS, MAX_BYTES = 60, 400_000
#: A search for the beginning of a word needs so many letters: a shorter one would read half of the index.
LEAST_PREFIX = 3

_ASCII_WORD = re.compile(r"[a-z0-9]+")
# Scripts that are written without spaces: each character is a word.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Vowel signs and other marks, which Python does not count to words.
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0966-\u0dff"
)
_WORD = re.compile(f"[{_ALONE}]|(?:(?![{_ALONE}_])[\\w{_MARKS}])+")


def split_words(text: str) -> list[str]:
    """Return the words of a text in their order, without case: runs of letters and digits, at most MAX_LETTERS each."""
    if text.isascii():
        words = _ASCII_WORD.findall(text.lower())
    else:
        words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return [word[:MAX_LETTERS] for word in words]


def collect_words(texts: Iterable[str]) -> list[str]:
    """Return the different words of some texts, in the order they come, up to MAX_BYTES."""
    words: dict[str, None] = {}
    for text in texts:
        words |= dict.fromkeys(split_words(text))
    if sum(map(len, words)) * 4 <= MAX_BYTES:
        return list(words)
    kept, size = [], 0
    for word in words:
        size += len(word.encode())
        if size > MAX_BYTES:
            break
        kept.append(word)
    return kept


def parse_search(words: str) -> list[tuple[str, bool]]:
    """Return the words that somebody searches for, and whether each is only the beginning of one (written `begin*`)."""
    found: dict[tuple[str, bool], None] = {}
    for part in words.split():
        *whole, last = split_words(part) or [""]
        found |= dict.fromkeys((word, False) for word in whole)
        if last:
            found[last, part.endswith("*") and len(last) >= LEAST_PREFIX] = None
    return list(found)
