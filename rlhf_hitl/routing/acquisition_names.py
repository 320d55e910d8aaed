"""The names of acquisition rules: what `--acquisition` takes, without the mathematics, for commands that only check."""

from __future__ import annotations

from typing import Literal, get_args

from rlhf_hitl.errors import BadInput

Rule = Literal[
    "random",
    "least-margin",
    "entropy",
    "mutual-information",
    "d-optimal",
    "double-thompson",
    "double-reverse-thompson",
    "optimistic-gaps",
]
#: The single rules.
RULES: tuple[Rule, ...] = get_args(Rule)
#: What `--acquisition` takes: a rule, or `auto`, which chooses among them by what they are measured to gain.
ACQUISITIONS = ("auto", *RULES)
#: Rules that need the head's inputs of the completions beside margins and uncertainties.
NEEDS_INPUTS = frozenset({"d-optimal", "double-thompson", "double-reverse-thompson"})


def check_acquisition(name: str) -> None:
    """Raise BadInput unless `name` is one of ACQUISITIONS."""
    if name not in ACQUISITIONS:
        raise BadInput(f"--acquisition {name}", expected=f"one of {', '.join(ACQUISITIONS)}", fix="e.g. auto")
