"""Which comparisons are meant: a filter that the catalog page, links to it, named slices and commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types.answers import Verdict
from rlhf_hitl.types.comparisons import Route
from rlhf_hitl.types.splits import Split

#: What comparisons are counted and filtered by. Each is a field of `ComparisonFilter`; its values are texts:
#:
#: - project, batch, split, language, route; policy: of any of the completions; tag: `NAME=VALUE` of the prompt
#: - round: of the loop, of any decision where the comparison goes; rater: the id of one whose judgment stands
#: - verdict: of any judgment that stands; judge: "yes" where a model has voted
#: - state: unjudged, judged (no label model has looked at it), open, sure, agreed (raters agree, and the label is in
#:   doubt all the same), split, adjudicated
#: - agreement: of the raters' votes: unjudged, one_vote, unanimous, majority, split (nothing has more than half)
#: - outcome: the likeliest of first, tie, second, where two completions are compared
#: - kind: usual, gold, repeat
FACETS = (
    *("project", "batch", "split", "language", "tag", "policy", "route", "round"),
    *("state", "agreement", "outcome", "verdict", "rater", "judge", "kind"),
)
#: The values of those facets that have no others.
KNOWN_VALUES: dict[str, tuple[str, ...]] = {
    "split": tuple(Split),
    "route": tuple(Route),
    "verdict": tuple(Verdict),
    "state": ("unjudged", "judged", "open", "sure", "agreed", "split", "adjudicated"),
    "agreement": ("unjudged", "one_vote", "unanimous", "majority", "split"),
    "outcome": ("first", "tie", "second"),
    "judge": ("yes", "no"),
    "kind": ("usual", "gold", "repeat"),
}
#: The ranges, each with a least and a most value: votes of raters, and entropy of the label in nats.
RANGES = ("least_votes", "most_votes", "least_entropy", "most_entropy")
#: Longer values are cut, in the catalog and in a filter alike.
MAX_VALUE = 300
MAX_VALUES, MAX_IDS, MAX_WORDS = 50, 1000, 500
_ID = re.compile(r"[xpcj]_[0-9a-f]{8,60}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ComparisonFilter:
    """Comparisons that meet every condition given here; of the values of one facet, any.

    Attributes:
        words: each must stand in the prompt, in a completion, or in a rationale or rewrite, whatever its case. One that
            ends in `*` is the beginning of a word. The id of a comparison, prompt, completion or judgment is one too.
        ids: only these comparisons, or those of these prompts, completions or judgments.
    """

    words: str = ""
    ids: tuple[str, ...] = ()
    project: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()
    route: tuple[str, ...] = ()
    round: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    agreement: tuple[str, ...] = ()
    outcome: tuple[str, ...] = ()
    verdict: tuple[str, ...] = ()
    rater: tuple[str, ...] = ()
    judge: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    least_votes: int | None = None
    most_votes: int | None = None
    least_entropy: float | None = None
    most_entropy: float | None = None

    def __post_init__(self) -> None:
        if len(self.words) > MAX_WORDS:
            raise BadInput(
                f"words of {len(self.words):,} characters", expected=f"at most {MAX_WORDS}", fix="search for fewer"
            )
        for name in ("ids", *FACETS):
            most, values = MAX_IDS if name == "ids" else MAX_VALUES, getattr(self, name)
            if len(values) > most:
                raise BadInput(f"{name} of {len(values):,} values", expected=f"at most {most}", fix="give fewer")
        for name in RANGES:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and 0 <= value < 2**31):
                raise BadInput(f"{name} {value!r}", expected="0 or more", fix="correct it, or leave it out")

    def refuse_unknown_values(self) -> None:
        """Raise BadInput where a value of a facet with few values is none of them: nothing would ever be found."""
        for facet, known in KNOWN_VALUES.items():
            if unknown := sorted(set(getattr(self, facet)) - set(known)):
                raise BadInput(f"{facet}={unknown[0]}", expected="one of " + ", ".join(known), fix="correct it")

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> ComparisonFilter:
        """Return the filter of JSON, as `to_plain` writes it.

        Raises:
            BadInput: it has another key, or a value of another kind.
        """
        if not isinstance(values, Mapping):
            raise BadInput(f"filter {str(values)[:60]!r}", expected="a JSON object", fix="correct it")
        if unknown := sorted(map(str, values.keys() - _NAMES)):
            raise BadInput(
                f"filter by {unknown[0][:60]!r}", expected=", ".join(sorted(_NAMES)), fix="correct or leave it out"
            )
        return cls(**{name: _check_value(name, value) for name, value in values.items()})

    def to_plain(self) -> dict[str, Any]:
        """Return the conditions that are set, as JSON holds them."""
        plain = {name: getattr(self, name) for name in _ORDERED_NAMES}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        return {name: value for name, value in plain.items() if value not in ("", [], None)}

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str, str]]) -> ComparisonFilter:
        """Return the filter of the parameters of an address, as `to_pairs` writes them.

        Raises:
            BadInput: there is another parameter, one too many, or one that is no number and should be.
        """
        values: dict[str, Any] = {}
        for name, text in pairs:
            if name in FACETS or name == "ids":
                values.setdefault(name, []).append(text)
            elif name in values:
                raise BadInput(f"{name} twice", expected="once", fix="give one")
            else:
                values[name] = _parse_number(name, text) if name in RANGES else text
        return cls.from_plain(values)

    def to_pairs(self) -> list[tuple[str, str]]:
        """Return the conditions that are set as parameters of an address."""
        pairs: list[tuple[str, str]] = []
        for name, value in self.to_plain().items():
            pairs += [(name, each) for each in value] if isinstance(value, list) else [(name, str(value))]
        return pairs

    @property
    def facets(self) -> dict[str, tuple[str, ...]]:
        """Facet → the values of which any is wanted, cut to MAX_VALUE characters; only facets that are filtered by."""
        return {name: tuple(v[:MAX_VALUE] for v in values) for name in FACETS if (values := getattr(self, name))}

    def restrict(self, other: ComparisonFilter) -> ComparisonFilter:
        """Return the filter that asks for what `other` asks for too.

        Raises:
            BadInput: both have a condition on the same thing, and not the same one.
        """
        merged = self.to_plain()
        for name, value in other.to_plain().items():
            if merged.setdefault(name, value) != value:
                raise BadInput(f"two conditions on {name}", expected="one", fix="leave one of them out")
        return ComparisonFilter.from_plain(merged)


_ORDERED_NAMES = tuple(f.name for f in fields(ComparisonFilter))
_NAMES = frozenset(_ORDERED_NAMES)


def find_ids(words: str) -> tuple[list[str], str]:
    """Return the ids among some words, and the other words."""
    parts = words.split()
    ids = [part for part in parts if _ID.fullmatch(part)]
    return ids, " ".join(part for part in parts if not _ID.fullmatch(part))


def _check_value(name: str, value: Any) -> Any:
    if name in RANGES:
        is_count = name.endswith("votes")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int if is_count else int | float)):
            raise BadInput(f"{name} {str(value)[:60]!r}", expected="a number", fix="correct it, or leave it out")
        return value
    if name == "words":
        if not isinstance(value, str):
            raise BadInput(f"words {str(value)[:60]!r}", expected="text", fix="give them as one text")
        return value
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(each, str) for each in value):
        raise BadInput(f"{name} {str(value)[:60]!r}", expected="a list of texts", fix="correct it, or leave it out")
    return tuple(value)


def _parse_number(name: str, text: str) -> int | float:
    try:
        return int(text) if name.endswith("votes") else float(text)
    except ValueError:
        raise BadInput(f"{name} {text[:60]!r}", expected="a number", fix="correct it, or leave it out") from None
