"""What can be seen of an answer without reading it: its length, its formatting, its script."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from rlhf_hitl.types import Completion, Prompt

SCRIPT_LETTERS = 1000  # of a text, by which its script is known

# All of them read a text once: nothing in them can be matched in more than one way over a long stretch.
_ITEM = re.compile(r"^[ \t]{0,3}(?:[-*+•]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+\S", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^\s*][^*\n]{0,300}\*\*|(?<!\w)__[^\s_][^_\n]{0,300}__(?!\w)")
_CODE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)

#: Scripts that one text mixes with Chinese characters.
_MIXED = ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO")


@dataclass(frozen=True, slots=True)
class AnswerFeatures:
    """The features of one completion.

    Attributes:
        characters: of all text the policy wrote.
        has_list: two list items or more; `has_heading`, `has_bold`, `has_code` (a fenced block): one or more, as
            Markdown has them.
        is_foreign: most of its letters are of another script than most of those of the question.
    """

    characters: int
    has_list: bool
    has_heading: bool
    has_bold: bool
    has_code: bool
    is_foreign: bool


def read_features(completion: Completion, asked: str) -> AnswerFeatures:
    """Return the features of a completion of a prompt that has this script (`find_prompt_script`)."""
    text = completion.text
    answered = find_script(text)
    return AnswerFeatures(
        len(text),
        *read_format(text),
        is_foreign=bool(asked and answered and asked != answered),
    )


def read_format(text: str) -> tuple[bool, bool, bool, bool]:
    """Return whether a text has a list, a heading, bold text and a code block, as `AnswerFeatures` has them."""
    return (
        len(_ITEM.findall(text)) >= 2,
        _HEADING.search(text) is not None,
        _BOLD.search(text) is not None,
        _CODE.search(text) is not None,
    )


def count_style(text: str) -> tuple[int, int, int, int]:
    """Return the characters, headings, list items and pieces of bold text of a text."""
    return len(text), len(_HEADING.findall(text)), len(_ITEM.findall(text)), len(_BOLD.findall(text))


def find_prompt_script(prompt: Prompt) -> str:
    """Return the script of what the user wrote."""
    return find_script("\n".join(m.text for m in prompt.messages if m.role == "user"))


def find_script(text: str) -> str:
    """Return the script that most letters of a text have, as Unicode names it; empty without letters."""
    counts: Counter[str] = Counter()
    for letter, n in Counter(text[:SCRIPT_LETTERS]).items():
        if script := _name_script(letter):
            counts[script] += n
    return counts.most_common(1)[0][0] if counts else ""


@lru_cache(maxsize=20_000)
def _name_script(letter: str) -> str:
    if not letter.isalpha():
        return ""
    script = unicodedata.name(letter, "").split(" ")[0]
    return "CJK" if script in _MIXED else script
