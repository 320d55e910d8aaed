"""Texts that were written before: the same again, or nearly so."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Shorter texts are phrases that anybody may write twice ("A is more complete").
LEAST_CHARACTERS = 60
SHINGLE = 8  # characters: alike for scripts with and without spaces
#: The share of shingles that two texts have in common, of all they have together, from which one is a copy.
ALIKE = 0.8
READ_CHARACTERS = 600
#: A text that so many people wrote is a phrase that a guideline gave them, or that suggests itself.
COMMON_AUTHORS = 4
_SKETCH = 4  # two texts that are `ALIKE` share one of the four lowest hashes in 998 of 1000 cases
_LOOKED_AT = 20  # earlier texts that share one of them


@dataclass(frozen=True)
class Copies:
    """Which texts are copies.

    Attributes:
        of: (n,) the number of the earlier text that each is a copy of; -1 if it is none.
        looked_at: (n,) whether a text was long enough and no common phrase.
    """

    of: np.ndarray
    looked_at: np.ndarray


def find_copies(texts: Sequence[str], authors: Sequence[int]) -> Copies:
    """Return which texts are copies of earlier ones, by whomever.

    Two texts are alike where their sets of shingles (runs of characters) have a Jaccard similarity of `ALIKE`.
    Candidates share one of their lowest hashes (Broder 1997, "On the resemblance and containment of documents").

    Args:
        texts: in the order in which they were written.
        authors: (n,) the number of each text's author.
    """
    n = len(texts)
    of, looked_at = np.full(n, -1), np.zeros(n, bool)
    shingles: dict[int, np.ndarray] = {}
    by_hash: dict[int, list[int]] = defaultdict(list)
    families: dict[int, set[int]] = {}  # the first text of each family of copies → its authors
    family_of: dict[int, int] = {}
    for number, text in enumerate(texts):
        hashes = _hash_shingles(text)
        if hashes is None:
            continue
        looked_at[number] = True
        sketch = hashes[:_SKETCH].tolist()
        candidates = {other for key in sketch for other in by_hash[key][:_LOOKED_AT]}
        for other in sorted(candidates):
            common = len(np.intersect1d(hashes, shingles[other], assume_unique=True))
            if common >= ALIKE * (len(hashes) + len(shingles[other]) - common):
                of[number] = other
                break
        family = family_of[number] = family_of[int(of[number])] if of[number] >= 0 else number
        families.setdefault(family, set()).add(authors[number])
        if of[number] < 0:  # copies of it are found by the first of them
            shingles[number] = hashes
            for key in sketch:
                by_hash[key].append(number)
    for number, family in family_of.items():
        if len(families[family]) >= COMMON_AUTHORS:
            of[number], looked_at[number] = -1, False
    return Copies(of, looked_at)


def _hash_shingles(text: str) -> np.ndarray | None:
    """Return the sorted hashes of the shingles of a text, whatever its case and blanks; None if it is short."""
    plain = " ".join(unicodedata.normalize("NFKC", text[: 2 * READ_CHARACTERS]).casefold().split())[:READ_CHARACTERS]
    if len(plain) < LEAST_CHARACTERS:
        return None
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, SHINGLE)
    with np.errstate(over="ignore"):
        hashes = windows @ _MULTIPLIERS
        hashes = (hashes ^ (hashes >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return np.unique(hashes)


_MULTIPLIERS = np.random.default_rng(0).integers(1, 2**63, SHINGLE, dtype=np.uint64)
