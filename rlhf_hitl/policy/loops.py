"""Degenerate answers: those that end in a loop, the same words over and over.

Sampling from a language model can fall into a loop that it does not leave (https://arxiv.org/abs/1904.09751).
"""

from __future__ import annotations

import re

import numpy as np

#: The longest phrase, in words, that is looked for.
LONGEST_PHRASE = 48
#: A phrase loops if it stands at least so often in a row, in at least so many words, which are at least that share of
#: the answer. Below it are refrains, tables and "ha ha ha".
LEAST_TIMES, LEAST_WORDS, LEAST_SHARE = 4, 20, 0.5
#: A word is what stands between white space; of scripts without spaces between words, a character.
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u0e00-\u0eff"
                   r"\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")  # fmt: skip


def is_degenerate(text: str) -> bool:
    """Whether a loop fills half of an answer or more.

    A loop is the same phrase of 1 to 48 words, 4 times or more in a row and 20 words or more in all; its last time may
    be cut off.
    """
    words = _WORD.findall(text)
    return len(words) >= LEAST_WORDS and measure_loop(words) >= max(LEAST_WORDS, LEAST_SHARE * len(words))


def measure_loop(words: list[str]) -> int:
    """Return how many words the longest loop takes: the longest run with words[i] == words[i - n] for some n, and the
    n words before it, where these are 4 phrases or more; 0 where there is none."""
    numbers = {word: i for i, word in enumerate(dict.fromkeys(words))}
    ids = np.array([numbers[word] for word in words])
    longest = 0
    for n in range(1, min(LONGEST_PHRASE, len(ids) // LEAST_TIMES) + 1):
        differs = np.flatnonzero(ids[n:] != ids[:-n])
        ends = np.concatenate([[-1], differs, [len(ids) - n]])
        length = int((np.diff(ends) - 1).max()) + n
        if length >= LEAST_TIMES * n:
            longest = max(longest, length)
    return longest
