"""What a program of this package prints: no text of others acts on the terminal it is printed on.

Each command filters what it prints (`cli/__init__.py`). Under that lies `filter_output`, for all that is printed by
other ways: progress bars, log lines, warnings, what libraries say. On stdout colours pass, of our own tables and help.
"""

from __future__ import annotations

import re
import sys
import warnings
from typing import Any, TextIO

from rlhf_hitl.visible import make_all_visible

#: A change of colour or weight, as rich writes it.
_COLOUR = re.compile(r"(\x1b\[[0-9;]{0,40}m)")
#: How tqdm moves to the line of another bar and back, in a write of its own.
_MOVE = re.compile(r"\n*(\x1b\[A)*\r?")


class FilteredStream:
    """A text stream whose writes show control, format and bidirectional characters by their names.

    Of what moves the cursor only tqdm's own moves pass: a carriage return at the start of a write, and lines up.

    Args:
        colours: let changes of colour pass.
    """

    def __init__(self, stream: TextIO, *, colours: bool):
        self._stream, self._colours = stream, colours

    def write(self, text: str) -> int:
        self._stream.write(self._filter(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _filter(self, text: str) -> str:
        if _MOVE.fullmatch(text):
            return text
        back = "\r" * text.startswith("\r")
        parts = _COLOUR.split(text[len(back) :]) if self._colours else [text[len(back) :]]
        return back + "".join(part if i % 2 else make_all_visible(part) for i, part in enumerate(parts))


def filter_output() -> None:
    """Filter stdout and stderr of this process from now on. For programs, not for libraries."""
    for name, colours in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, FilteredStream):
            setattr(sys, name, FilteredStream(stream, colours=colours))


def hide_warnings_for_developers() -> None:
    """Print no warning about what a library will change: who runs a program can do nothing about it.

    Whoever sets PYTHONWARNINGS sees them. For programs, not for libraries.
    """
    if not sys.warnoptions:
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)


def print_note(text: str) -> None:
    """Print a line for people on stderr, at once."""
    print(make_all_visible(text), file=sys.stderr, flush=True)
