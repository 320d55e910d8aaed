"""Names of people, projects, batches, policies, tags and tokens: which are allowed, and which are the same.

A name is kept as it was given (in NFC). Two names are the same where their keys are: the key is the name in NFKC and
without case, so `Ann`, `ANN` and a decomposed spelling are one name. Two names look alike where their skeletons are the
same (https://www.unicode.org/reports/tr39/#Confusable_Detection): `lea` with a Cyrillic е, `1ea` and `Iea` look like
`lea`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types.content import make_content_id
from rlhf_hitl.visible import find_invisible, find_unseen, name_character

MAX_KEY_LENGTH = 200
#: The rater of a vote for which a file names none. Such votes on a comparison are each another rater's.
UNNAMED = "unnamed"
MAX_MARKS = 4  # accents on one letter; more of them write over the lines above and below

_MARKS = r"\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_TOO_MANY_MARKS = re.compile(f"[{_MARKS}]{{{MAX_MARKS + 1},}}")


def check_name(kind: str, name: str, *, max_length: int = 150, empty: bool = False) -> str:
    """Return a new name in NFC, after checking that it reads as it is.

    Args:
        kind: what it is the name of, for the error.
        max_length: characters it may have.
        empty: whether it may be empty.

    Raises:
        BadInput: it is empty or too long, begins or ends with a space or has two in a row, or has a character that
            cannot be seen: a control, format or bidirectional one, a private or unassigned one, an odd space.
    """
    normal = unicodedata.normalize("NFC", name)
    if not normal and empty:
        return normal
    if not 0 < len(normal) <= max_length or len(make_name_key(normal)) > max(max_length, MAX_KEY_LENGTH):
        raise BadInput(
            f"{kind} {name[:60]!r}", expected=f"a name of 1 to {max_length} letters", fix="give another name"
        )
    if (found := find_invisible(normal)) is not None:
        raise BadInput(
            f"{kind} {name[:60]!r}",
            expected=f"a name of characters that can be seen, without {name_character(found)}",
            fix="write it without this character",
        )
    if normal != " ".join(normal.split(" ")).strip() or "  " in normal:
        raise BadInput(
            f"{kind} {name[:60]!r}",
            expected="no space at either end, and no two in a row",
            fix="take the spaces out",
        )
    if _TOO_MANY_MARKS.search(unicodedata.normalize("NFD", normal)):
        raise BadInput(
            f"{kind} {name[:60]!r}", expected=f"at most {MAX_MARKS} marks on one letter", fix="take the others off"
        )
    return normal


def check_label(kind: str, label: str) -> str:
    """Return the name of a batch or a policy, or a tag, in NFC, after checking that all of it can be seen.

    Files of others bring these, so more is allowed than in the names of people.

    Raises:
        BadInput: it has a control, format or bidirectional character, or one that no font draws.
    """
    if label.isascii() and label.isprintable():
        return label
    if (found := find_unseen(label)) is not None:
        raise BadInput(
            f"{kind} {label[:60]!r}",
            expected=f"characters that can be seen, without {name_character(found)}",
            fix="write it without this character",
        )
    return unicodedata.normalize("NFC", label)


@lru_cache(10_000)
def make_name_key(name: str) -> str:
    """Return what is the same for names that are the same: NFKC, without case."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


@lru_cache(10_000)
def make_name_skeleton(name: str) -> str:
    """Return what is the same for names that look alike, also where they differ in case."""
    # The table is asked for whole letters (NFC), then for their parts (NFD, as UTS 39 has it), and for compatibility
    # mappings (NFKD) only then: these would take a letter away before the table is asked.
    whole = replace_confusables(unicodedata.normalize("NFC", name))
    parts = unicodedata.normalize("NFKD", replace_confusables(unicodedata.normalize("NFD", whole))).casefold()
    return unicodedata.normalize("NFD", replace_confusables(unicodedata.normalize("NFD", parts)))


def hash_name_skeleton(name: str) -> str:
    """Return a short hash of a name's skeleton, which may be much longer than the name."""
    return make_content_id("k", make_name_skeleton(name))


def find_same_name(name: str, others: Iterable[str]) -> str | None:
    """Return the first of the others that is the same name in another spelling."""
    key = make_name_key(name)
    return next((other for other in others if other != name and make_name_key(other) == key), None)


def find_look_alike(name: str, others: Iterable[str]) -> str | None:
    """Return the first of the others that looks like the name and is not it."""
    skeleton = make_name_skeleton(name)
    return next((other for other in sorted(others) if other != name and make_name_skeleton(other) == skeleton), None)


def make_look_alike_error(kind: str, name: str, other: str) -> BadInput:
    """Return the error for a name that can be taken for another."""
    return BadInput(
        f"{kind} {name[:60]!r}",
        expected=f"a name that cannot be taken for {other[:60]!r}, which there is",
        fix="choose a name that differs more, or use the one there is",
    )


def replace_confusables(text: str) -> str:
    prototypes = _load_prototypes()
    return "".join(prototypes.get(character, character) for character in text)


@cache
def _load_prototypes() -> dict[str, str]:
    """Return character → what stands for all that look like it, of Unicode's confusables.

    The library gives, for each text, those on the other side of a row of Unicode's table. The rows of one prototype
    make a star: the prototype is the end that several rows share, or of two ends the longer one.
    """
    from confusable_homoglyphs import confusables

    # The table writes texts of right-to-left scripts between two marks.
    pairs = {
        text.strip("\u200e"): [other["c"].strip("\u200e") for other in others]
        for text, others in confusables.confusables_data.items()
    }
    prototypes = {}
    for text, others in pairs.items():
        if len(text) != 1 or not others:
            continue
        longer = [other for other in others if len(other) > 1]
        if longer:
            prototypes[text] = longer[0]
        elif len(others) == 1:
            [other] = others
            prototypes[text] = other if len(pairs.get(other, ())) > 1 else min(text, other)
    return prototypes
