"""Where two answers differ, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from rlhf_hitl.ui.markdown import escape


def difference(first: str, second: str) -> tuple[str, str]:
    """Both texts as HTML, in each the words marked that the other has not."""
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (first, second))
    out: tuple[list[str], list[str]] = ([], [])
    for tag, i, j, k, m in SequenceMatcher(None, a, b).get_opcodes():
        for html, mark, words in ((out[0], "del", a[i:j]), (out[1], "ins", b[k:m])):
            text = escape("".join(words))
            html.append(text if tag == "equal" or not text.strip() else f"<{mark}>{text}</{mark}>")
    return tuple(f'<div class="text plain" dir="auto">{"".join(html)}</div>' for html in out)  # type: ignore[return-value]
