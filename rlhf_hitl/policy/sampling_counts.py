"""What became of the answers that were sampled: kept, or filtered, by reason. Nothing is dropped in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rlhf_hitl.policy.draws import Draw
from rlhf_hitl.policy.loops import is_degenerate
from rlhf_hitl.types import Message
from rlhf_hitl.wording import say_count

#: Refused prompts that people are told of, each with its reason; `--json` has all.
SHOWN_REFUSALS = 3


class FilterReason(StrEnum):
    """Why an answer is not kept."""

    EMPTY = "empty"
    REPEAT = "repeat"  # of another completion of its prompt
    DEGENERATE = "degenerate"  # see `loops.py`
    REFUSED = "refused"  # by the endpoint: a filter, or a prompt that it cannot take; there is no answer to keep


def find_filter_reason(draw: Draw, message: Message, others: set[Message]) -> FilterReason | None:
    """Return why an answer would be filtered; None for a good one.

    Args:
        others: the answers to the same prompt that are kept.
    """
    if draw.finish == "refused":
        return FilterReason.REFUSED
    if not message.text.strip() and not message.tool_calls:
        return FilterReason.EMPTY
    if message in others:
        return FilterReason.REPEAT
    return FilterReason.DEGENERATE if is_degenerate(message.text) else None


@dataclass
class SamplingCounts:
    """Counts of one policy.

    Attributes:
        drawn: answers that were sampled, redraws included.
        kept: completions that were returned; with `keep_all` these include empty, repeated and degenerate ones.
        redrawn: answers that were sampled again because one was filtered.
        reasons: reason → answers that were, or with `keep_all` would have been, filtered.
        missing: reason → completions that are missing, since the last redraw was filtered as well.
        refusals: prompt and what an endpoint said of it → completions that it refused.
        cut_off: kept completions that end at the token limit.
        too_long: prompts that leave no room for an answer.
        unanswered: requests that an endpoint did not answer, which the same command asks for again.
        unmatched: prompts of a file that are not among those asked about.
        unfound: prompts that a file has no completion of.
    """

    drawn: int = 0
    kept: int = 0
    redrawn: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    too_long: int = 0
    unanswered: int = 0
    unmatched: int = 0
    unfound: int = 0

    @property
    def poor_share(self) -> float:
        """The share of the answers that were empty or degenerate."""
        poor = self.reasons[FilterReason.EMPTY] + self.reasons[FilterReason.DEGENERATE]
        return poor / self.drawn if self.drawn else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for JSON: those that every policy has, and the others where they are not 0."""
        always = {"drawn": self.drawn, "kept": self.kept, "redrawn": self.redrawn}
        always |= {reason.value: self.reasons[reason] for reason in FilterReason} | {"cut_off": self.cut_off}
        others = {name: dict(found) for name in ("missing", "refusals") if (found := getattr(self, name))}
        names = ("too_long", "unanswered", "unmatched", "unfound")
        return always | others | {name: n for name in names if (n := getattr(self, name))}

    def lines(self, policy: str) -> list[str]:
        """Return what to tell people: what was filtered, what is missing, and a warning for a policy that says nothing
        in more than half of its answers."""
        said = []
        if self.reasons or self.redrawn:
            found = ", ".join(f"{n:,} {reason}" for reason, n in sorted(self.reasons.items()))
            said.append(f"{policy}: of {say_count(self.drawn, 'answer')} {found}; {self.redrawn:,} drawn again")
        if self.cut_off:
            said.append(
                f"{policy}: {self.cut_off:,} of {say_count(self.kept, 'completion')} cut off at the token limit"
            )
        if self.missing:
            by_reason = ", ".join(f"{n:,} {reason}" for reason, n in sorted(self.missing.items()))
            said.append(f"{policy}: {say_count(self.missing.total(), 'completion')} left out: {by_reason} each time")
        said += [f"{policy}: refused {reason}" for reason, _ in self.refusals.most_common(SHOWN_REFUSALS)]
        if len(self.refusals) > SHOWN_REFUSALS:
            said.append(f"{policy}: refused {say_count(len(self.refusals) - SHOWN_REFUSALS, 'other prompt')}")
        if self.too_long:
            said.append(f"{policy}: {say_count(self.too_long, 'prompt')} left out: no room for an answer")
        if self.unanswered:
            asked = say_count(self.unanswered, "request was", "requests were")
            said.append(f"{policy}: {asked} not answered. Give the same command again: it asks only for these")
        if self.unmatched:
            said.append(f"{policy}: {say_count(self.unmatched, 'prompt')} of the file left out: not among the prompts")
        if self.unfound:
            said.append(f"{policy}: {say_count(self.unfound, 'prompt')} without a completion in the file")
        if self.poor_share > 0.5:
            said.append(
                f"warning: {self.poor_share:.0%} of the answers of {policy} are empty or loop. Fix: look at them "
                "(--keep-all) before raters do, and at the policy's training and its chat template"
            )
        return said
