"""Find completions that look the same on the page and are not the same.

Either they are not written the same, or a guideline hides what they differ in.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from unicodedata import normalize

from rlhf_hitl.types import Message
from rlhf_hitl.types.names import replace_confusables
from rlhf_hitl.visible import UNSEEN_RANGE

# What the page shows by itself: notes, and what only the raw view shows. Neither holds an element of its own kind.
_NOT_THE_TEXT = re.compile(r'<p class="note.*?</p>|<div class="raw".*?</div>', re.DOTALL)
# The address of an image is all that tells one from another.
_IMAGE = re.compile(r'<img src="[^"?]*/([^"?/]*)[^>]*>')
_TAG_OR_UNSEEN = re.compile(rf"<[^>]*>|\s|[{UNSEEN_RANGE}]")


def find_look_alikes(completions: Sequence[Sequence[Message]], html: Sequence[str]) -> list[list[int]]:
    """Return groups of places whose completions show the same words in the same order, and differ as messages.

    Formatting does not tell them apart: that `2*3` is slanted is easily overlooked.
    """
    by_look: dict[str, list[int]] = defaultdict(list)
    for at, drawn in enumerate(html):
        by_look[_get_look(drawn)].append(at)
    return [
        places
        for look, places in by_look.items()
        if look and any(tuple(completions[at]) != tuple(completions[places[0]]) for at in places)
    ]


def find_hidden_differences(seen: Sequence[Sequence[Message]], written: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Return groups of places whose completions are the same as raters see them, and not as they were written."""
    groups: list[list[int]] = []
    for at, chat in enumerate(seen):
        same = next((group for group in groups if tuple(seen[group[0]]) == tuple(chat)), None)
        same.append(at) if same else groups.append([at])
    return [group for group in groups if any(tuple(written[at]) != tuple(written[group[0]]) for at in group)]


def _get_look(html: str) -> str:
    """Return what somebody reads of HTML, without spaces, characters nobody sees, and forms of the same letter.

    A letter of another alphabet that looks like one of ours (a Cyrillic а) is that one.
    """
    text = _TAG_OR_UNSEEN.sub("", _IMAGE.sub(r"\1", _NOT_THE_TEXT.sub("", html)))
    if text.isascii():
        return text
    return "".join(c if c.isascii() else replace_confusables(c) for c in normalize("NFKC", text))
