"""Stop strings: an answer ends where one of them begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_hitl.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Tokens that are decoded beyond the bytes of a stop string: special tokens take no text.
MARGIN = 8


def check_stop_strings(stop: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct stop strings. Raises BadInput if one is empty: every answer would end at once."""
    if "" in stop:
        raise BadInput("--stop ''", expected="a text of one letter or more", fix="give the text, or leave --stop out")
    return tuple(dict.fromkeys(stop))


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Return a text up to the first stop string, and whether there was one."""
    ends = [at for s in stop if (at := text.find(s)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


class StopFinder:
    """Finds out whether the newest token of an answer completes a stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]):
        self._tokenizer, self._stop = tokenizer, stop
        # A token that has text is one byte of it or more.
        self._tail = max((len(s.encode()) for s in stop), default=0) + MARGIN

    def is_reached(self, tokens: Sequence[int]) -> bool:
        if not self._stop:
            return False
        tail = str(self._tokenizer.decode(list(tokens[-self._tail :]), skip_special_tokens=True))
        return any(s in tail for s in self._stop)
