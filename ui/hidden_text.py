"""How much of a text its formatting hides: what a model reads and a rater would not see."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from markdown_it.token import Token

from rlhf_hitl.ui.formula import FORMULA_TOKENS
from rlhf_hitl.ui.highlighting import find_lexer

_NO_WORD = re.compile(r"[\W_]+")
# What takes room in a formula, or labels it, and is not drawn.
_NOT_DRAWN = re.compile(r"\\(?:[hv]?phantom|label)\s*\{([^{}]*)\}")


def count_hidden_words(text: str, tokens: Sequence[Token]) -> int:
    """Return the number of letters and digits of a text that are nowhere in what its tokens show.

    Such are the definitions of links, their titles, cells beyond a table's columns, what stands after the language of a
    block of code, and phantoms in formulas. The marks of Markdown themselves are no letters, and a link says its host.
    """
    return max(0, _count_words(text) - sum(map(_count_kept, tokens))) + sum(_count_unshown(tokens))


def _count_words(text: str) -> int:
    return len(_NO_WORD.sub("", text))


def _count_kept(token: Token) -> int:
    """Return the letters and digits that a block takes over from the text, in whatever form."""
    if token.type == "fence":
        language = next(iter(token.info.split()), "")
        is_shown_by_colours = find_lexer(language.lower()) is not None
        return _count_words(token.content) + (_count_words(language) if is_shown_by_colours else 0)
    if token.type == "list_item_open":
        return len(token.info)
    return _count_words(token.content) if token.type in ("inline", "code_block") or token.type in FORMULA_TOKENS else 0


def _count_unshown(tokens: Iterable[Token]) -> Iterable[int]:
    """Yield the letters and digits that an inline element, or a formula, takes over and does not show."""
    for token in tokens:
        if token.type in ("link_open", "image"):
            yield _count_words(str(token.attrGet("title") or ""))
        elif token.type in FORMULA_TOKENS:
            yield sum(_count_words(hidden[1]) for hidden in _NOT_DRAWN.finditer(token.content))
        yield from _count_unshown(token.children or ())
