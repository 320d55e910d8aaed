"""Answers: what a rater says of a comparison, before the store adds where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from string import ascii_uppercase
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.wording import say_count


class Verdict(StrEnum):
    RANKED = "ranked"
    ALL_BAD = "all_bad"
    SKIPPED = "skipped"
    FLAGGED = "flagged"


class Reason(StrEnum):
    """Why a comparison was flagged (the first four) or skipped (the last four)."""

    UNSAFE = "unsafe"
    BROKEN = "broken"
    WRONG_LANGUAGE = "wrong_language"
    PRIVATE = "private"
    SUBJECT = "subject"  # the rater does not know the subject
    LANGUAGE = "language"  # the rater does not know the language
    UNCLEAR = "unclear"
    OTHER = "other"


#: Verdict → the reasons that may be given with it.
REASONS = {
    Verdict.FLAGGED: (Reason.UNSAFE, Reason.BROKEN, Reason.WRONG_LANGUAGE, Reason.PRIVATE),
    Verdict.SKIPPED: (Reason.SUBJECT, Reason.LANGUAGE, Reason.UNCLEAR, Reason.OTHER),
}


#: Groups of completion ids, best first; a group of two or more is a tie.
Ranking = tuple[tuple[str, ...], ...]

#: The rank of a completion that a partial ranking leaves out. The best completions have rank 0, the next 1, ...
UNRANKED = -1


@dataclass(frozen=True)
class Answer:
    """What a rater says of a comparison, before the store adds where it came from.

    `strength` is 1 slightly, 2 clearly, 3 much better; `scores` are axis → completion id → 1 to 5; `reason` is why the
    comparison was skipped or flagged; `active_seconds` is how long the rater actively worked on it.
    """

    verdict: Verdict
    ranking: Ranking = ()
    strength: int | None = None
    scores: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rationale: str = ""
    rewrite: str = ""
    active_seconds: float | None = None
    reason: Reason | None = None

    def __post_init__(self) -> None:
        ids = [i for group in self.ranking for i in group]
        if len(ids) != len(set(ids)):
            raise BadInput(f"ranking {self.ranking}", expected="each completion once", fix="name no completion twice")
        if any(not group for group in self.ranking):
            raise BadInput(f"ranking {self.ranking}", expected="no empty group", fix="leave empty groups out")
        if (self.verdict is Verdict.RANKED) != (len(ids) >= 2):
            raise BadInput(
                f"verdict {self.verdict.value!r} with {say_count(len(ids), 'ranked completion')}",
                expected="two or more ranked completions for 'ranked' and none for any other verdict",
                fix="send a ranking with the verdict 'ranked' only",
            )
        if self.strength is not None and (self.strength not in (1, 2, 3) or len(self.ranking) < 2):
            raise BadInput(
                f"strength {self.strength!r}",
                expected="1, 2 or 3, and only where one completion is ranked above another",
                fix="leave strength out of ties and of verdicts without a ranking",
            )
        if self.reason is not None and self.reason not in REASONS.get(self.verdict, ()):
            allowed = ", ".join(REASONS.get(self.verdict, ())) or "none: only a skip or a flag has one"
            raise BadInput(
                f"reason {self.reason!s} with the verdict {self.verdict.value!r}",
                expected=allowed,
                fix="choose one that goes with the verdict, or leave it out",
            )
        if self.active_seconds is not None and not 0 <= self.active_seconds < 86_400:
            raise BadInput(f"active_seconds {self.active_seconds!r}", expected="seconds of one day", fix="send 0-86400")

    @classmethod
    def from_plain(cls, values: Mapping[Any, Any]) -> Answer:
        """Return the answer from its fields as JSON or a row of the store holds them. Other keys are ignored."""
        arguments = {name: values[name] for name in _ANSWER_FIELDS if name in values}
        arguments["verdict"] = Verdict(arguments["verdict"])
        arguments["ranking"] = tuple(tuple(group) for group in arguments.get("ranking", ()))
        if arguments.get("reason") is not None:
            arguments["reason"] = Reason(arguments["reason"])
        return cls(**arguments)

    def prefers_same(self, other: Answer) -> bool:
        """Return whether both prefer the same completions, or neither prefers any, or both skip or flag.

        As in labels, both bad is a tie: neither is preferred. The strength and the order of the other completions are
        not compared.
        """
        return self._find_preferred() == other._find_preferred()

    def _find_preferred(self) -> frozenset[str] | Verdict:
        """Return the best completions, none if all are tied; for a skip or a flag, the verdict itself."""
        if self.verdict in (Verdict.SKIPPED, Verdict.FLAGGED):
            return self.verdict
        return frozenset(self.ranking[0]) if len(self.ranking) > 1 else frozenset()

    def to_plain(self) -> dict[str, Any]:
        """Return the fields by name, as JSON and the store's columns hold them."""
        return {name: getattr(self, name) for name in _ANSWER_FIELDS} | {
            "verdict": self.verdict.value,
            "ranking": [list(group) for group in self.ranking],
            "scores": dict(self.scores),
            "reason": None if self.reason is None else self.reason.value,
        }

    def rename_completions(self, names: Mapping[str, str]) -> Answer:
        """Return the answer with the id of each completion replaced by its name in `names`."""
        ranking = tuple(tuple(names[i] for i in group) for group in self.ranking)
        scores = {
            axis: {names[i]: score for i, score in axis_scores.items()} for axis, axis_scores in self.scores.items()
        }
        return replace(self, ranking=ranking, scores=scores)

    def check(self, shown: Sequence[str]) -> None:
        """Check that the ranking and the scores name only completions that were shown, with scores from 1 to 5.

        This is not checked when an answer is constructed, because judgments older than the rule must still be readable.

        Raises:
            BadInput: the ranking or the scores name something else, or a score is not one of 1 to 5.
        """
        named_ids = {"ranking": {i for group in self.ranking for i in group}}
        for axis, axis_scores in self.scores.items():
            if not isinstance(axis_scores, Mapping):
                raise BadInput(
                    f"scores of {axis!r} = {str(axis_scores)[:60]!r}",
                    expected="a score for each completion",
                    fix='write e.g. {"helpful": {"A": 4, "B": 2}}',
                )
            for score in axis_scores.values():
                if isinstance(score, bool) or not isinstance(score, int) or not 1 <= score <= 5:
                    raise BadInput(f"score {score!r} of {axis!r}", expected="1, 2, 3, 4 or 5", fix="send one of these")
            named_ids[f"scores of {axis!r}"] = set(axis_scores)
        for field_name, ids in named_ids.items():
            if unknown := ids - set(shown):
                raise BadInput(
                    f"{field_name}: {sorted(unknown)}", expected=f"what was shown, {list(shown)}", fix="name those"
                )


_ANSWER_FIELDS = tuple(f.name for f in fields(Answer))


@dataclass(frozen=True)
class ShownAnswer:
    """An answer that calls completions by the letters they were shown under: "A" is the first one shown.

    `count` is how many completions the sender saw, where it says so.
    """

    answer: Answer
    count: int | None = None

    def to_answer(self, order_shown: Sequence[str]) -> Answer:
        """Return the answer with completion ids instead of letters. Errors name the letters, which the rater saw.

        Raises:
            BadInput: the answer names a letter that was not shown, has a score outside 1 to 5, or is for another number
                of completions.
        """
        if self.count not in (None, len(order_shown)):
            raise BadInput(
                f"an answer to {say_count(self.count, 'completion')}",
                expected=f"one to the {len(order_shown)} that were shown",
                fix="send a rank or null, and a score or null, for each completion",
            )
        letters = ascii_uppercase[: len(order_shown)]
        self.answer.check(letters)
        return self.answer.rename_completions(dict(zip(letters, order_shown)))
