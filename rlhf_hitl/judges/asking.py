"""What asking a judge gives, whoever is asked: an opinion of two completions, and how opinions are put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlhf_hitl.endpoints.responses import clean_text
from rlhf_hitl.judges.templates import OUTCOMES, Question, Template
from rlhf_hitl.types.judges import JudgeCall, Probabilities


@dataclass(frozen=True)
class Opinion:
    """What a judge says of two completions in the order in which they were shown."""

    probabilities: Probabilities
    rationale: str = ""


class Asker(Protocol):
    """A model that answers questions. `ask` may be called by several threads."""

    takes_images: bool

    def ask(self, question: Question, order_shown: tuple[str, str], calls: list[JudgeCall]) -> Opinion | None:
        """Ask one question. Every request is appended to `calls`, also before an error; None: the last one says why.

        Raises:
            BudgetReached: the next request could pass the budget.
            CannotAsk: no question can be answered.
        """
        ...

    def close(self) -> None: ...


def weigh_letters(weights: Mapping[str, float], template: Template, prior: float = 0.0) -> Probabilities | None:
    """Return probabilities of (first, tie, second) from weights of letters; None where there is nothing to weigh.

    Args:
        prior: is added to each outcome that the template knows. Half a draw (Jeffreys' prior) keeps a few draws that
            agree from being certainty.
    """
    mass = dict.fromkeys(OUTCOMES, 0.0)
    for letter, outcome in template.answers.items():
        mass[outcome] += prior + weights.get(letter, 0.0)
    total = math.fsum(mass.values())
    if not (total > 0 and math.isfinite(total)):
        return None
    first, tie, second = (mass[outcome] / total for outcome in OUTCOMES)
    return first, tie, second


def combine_orders(shown: Probabilities, turned: Probabilities) -> Probabilities:
    """Return what a judge says of a pair that it saw in both orders, in the first of them.

    It is the mean, in which a liking for one side cancels: who always says "the first" says nothing of the pair.
    """
    first, tie, second = ((p + q) / 2 for p, q in zip(shown, reversed(turned)))
    return first, tie, second


def find_rationale(template: Template, text: str, start: int) -> str:
    """Return what stands before the line of the letter at `start`, where the template wants it kept."""
    return clean_text(text[:start].rpartition("\n")[0].strip()) if template.rationale else ""


def rank_completions(
    ids: Sequence[str], opinions: Mapping[tuple[str, str], Probabilities]
) -> tuple[tuple[str, ...], ...]:
    """Return a ranking from opinions of pairs: by the mean probability of being better, half of a tie included.

    Two that come out exactly equal are tied. Of two completions the second ranks first only where it is likelier to
    be better than the first is; and where a tie is the likeliest they are tied.
    """
    if len(ids) == 2:
        first, tie, second = opinions[ids[0], ids[1]]
        if first == second or tie > max(first, second):
            return (tuple(ids),)
        return ((ids[0],), (ids[1],)) if first > second else ((ids[1],), (ids[0],))
    points = dict.fromkeys(ids, 0.0)
    for (a, b), (first, tie, second) in opinions.items():
        points[a] += first + tie / 2
        points[b] += second + tie / 2
    levels = sorted({round(p, 9) for p in points.values()}, reverse=True)
    return tuple(tuple(i for i in ids if round(points[i], 9) == level) for level in levels)
