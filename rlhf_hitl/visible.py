"""Characters that cannot be seen or that move others about are shown by their names, so that a text reads as it is.

Texts come from people, policies and files of strangers. On a terminal an escape sequence can rewrite the screen, set
the clipboard or the window's title; bidirectional characters reorder what is read; others cannot be seen at all.
"""

from __future__ import annotations

import json
import re
import unicodedata

# Characters that reorder the text around them are shown by their names, other control characters by their pictures.
_BIDI_NAMES = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
_BIDI_CONTROLS = dict(zip((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), _BIDI_NAMES))
_VISIBLE = (
    {c: f"⟦{name}⟧" for c, name in _BIDI_CONTROLS.items()}
    | {0x7F: "␡"}
    | {c: chr(0x2400 + c) for c in range(0x20) if chr(c) not in "\t\n\r"}
)
_ON_A_PAGE = re.compile(f"[{re.escape(''.join(map(chr, _VISIBLE)))}]")
#: Names people know, of characters without one in Unicode or with a long one.
_SHORT_NAMES = {0x200B: "ZWSP", 0x200C: "ZWNJ", 0x200D: "ZWJ", 0x200E: "LRM", 0x200F: "RLM", 0x061C: "ALM"} | (
    {
        0x00A0: "NBSP",
        0x202F: "NNBSP",
        0x3000: "IDSP",
        0x2060: "WJ",
        0xFEFF: "BOM",
        0x00AD: "SHY",
        0x2028: "LS",
        0x2029: "PS",
    }
    | _BIDI_CONTROLS
)
#: Characters that cannot be seen, as a range for a regular expression: controls, formats, and what no font draws. Those
#: that Unicode has not given out, or leaves to others, are not among them.
UNSEEN_RANGE = (
    r"\u0000-\u001f\u007f-\u009f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f-\u1160\u17b4-\u17b5"
    r"\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
    r"\U0001107f\U00016fe4\U0001d159\U0001da9b\U000110bd\U000110cd\U00013430-\U00013438\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_UNSEEN = re.compile(f"[{UNSEEN_RANGE}\ud800-\udfff]")
_UNSEEN_OR_ODD = re.compile(f"[{UNSEEN_RANGE}\ud800-\udfff\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
#: What Unicode counts as letters, marks or symbols and no font draws (Default_Ignorable_Code_Point, and a blank one).
_BLANK = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0}
    | {*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0000, 0xE1000)}
    | {0x1107F, 0x16FE4, 0x1D159, 0x1DA9B}  # a joiner of numbers, a filler, a note without a head, a fill
)
_UNSEEN_CATEGORIES = frozenset(["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"])
# Texts of letters, figures and the usual marks, the most of all, are not looked at one character at a time.
_PLAIN = re.compile(r"[\x20-\x7e\n\t\u00a1-\u00ac\u00ae-\u02ff\u0370-\u0373\u0391-\u03a1\u0400-\u0482\u2010-\u2027]*")


def make_visible(text: str) -> str:
    """Return a text for a page, with control characters made visible and lone surrogates replaced.

    What joins letters of a script or parts of an emoji stays.
    """
    text = text.encode("utf-8", "replace").decode()
    return text.translate(_VISIBLE) if _ON_A_PAGE.search(text) else text  # translating takes a look at every letter


def make_all_visible(text: str) -> str:
    """Return a text for a terminal or a list of names, with all that cannot be seen shown by its name.

    Line feeds and tabs stay. Private characters stay as well: a terminal shows a sign of the font for them.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(c if c in "\n\t" or not _is_unseen(c) or unicodedata.category(c) == "Co" else _show(c) for c in text)


def show_unseen(text: str) -> str:
    """Return a text for a page, with all that cannot be seen, and every space of an odd width, shown by its name.

    Line feeds and tabs stay.
    """
    if _PLAIN.fullmatch(text):
        return text
    return _UNSEEN_OR_ODD.sub(lambda found: found[0] if found[0] in "\n\t" else _show(found[0]), text)


def find_invisible(text: str) -> str | None:
    """Return the first character that has no place in a name: one that cannot be seen, or a space of an odd width."""
    return next((c for c in text if _is_unseen(c) or (c != " " and unicodedata.category(c) == "Zs")), None)


def is_blank(text: str) -> bool:
    """Return whether a text has nothing that can be seen."""
    return all(c.isspace() or _is_unseen(c) for c in text)


def find_unseen(text: str) -> str | None:
    """Return the first character of `UNSEEN_RANGE`, or half of a surrogate pair, that a text has."""
    found = _UNSEEN.search(text)
    return found[0] if found else None


def name_character(character: str) -> str:
    """Return what people call a character, with its number: `ZWJ (U+200D)`."""
    name = _SHORT_NAMES.get(ord(character)) or unicodedata.name(character, "")
    return f"{name} (U+{ord(character):04X})" if name else f"U+{ord(character):04X}"


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN_CATEGORIES or ord(character) in _BLANK


def _show(character: str) -> str:
    number = ord(character)
    if number < 0x20:
        return chr(0x2400 + number)
    return _VISIBLE.get(number) or f"⟦{_SHORT_NAMES.get(number) or f'U+{number:04X}'}⟧"


def make_cell_visible(text: str) -> str:
    """Return a text for one line of a list or a table, where a line feed or a tab would be read as another row."""
    return make_all_visible(text).replace("\n", "␊").replace("\t", "␉")


def escape_unseen_json(encoded: str) -> str:
    """Return JSON with all that cannot be seen escaped (`\\\\u202e`): it means the same, and nothing in it acts."""
    if _PLAIN.fullmatch(encoded):
        return encoded
    return "".join(c if c == "\n" or not _is_unseen(c) else json.dumps(c)[1:-1] for c in encoded)
