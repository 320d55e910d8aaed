"""A cascade of answerers in order of cost: who is sure enough answers, who is not passes on, and people come last.

Source of the idea: Jung et al. 2024, "Trust or Escalate", who test a threshold for each judge. Here every answerer's
threshold is the same confidence, and the answers of the whole cascade are what is tested, in one fixed sequence from
strict to lenient: so the bound holds for the whole at the full delta, which need not be shared among answerers, and no
threshold depends on labels that test another. Each answerer's threshold in its own figures is where its confidence, as
`Answerer.confidence` has it, reaches that value; so confidences must mean the same, a probability to be right.

It is a library function: `benchmarks/automation.py` uses it. `route` asks no judge (their votes are asked for by
`judges run` and are no part of a decision), so it routes by the reward model alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.stats.selective_bound import ShownSet, find_shown_set, list_sizes, respect_ties


@dataclass(frozen=True)
class Answerer:
    """One who answers, on labels that neither it nor its confidence was fitted to.

    Attributes:
        confidence: (n,) probability that its answer is the raters'; NaN where it gives none.
        wrong: (n,) 1 where raters prefer the other.
    """

    name: str
    confidence: np.ndarray
    wrong: np.ndarray


@dataclass(frozen=True)
class Cascade:
    """The first of `names` whose confidence is `value` or more answers; above 1, all comparisons go to people.

    Attributes:
        bound: the error of all answers together is below it, with confidence 1 - delta.
        answered: labels that each of them answers, in order; `errors`: those of them that are wrong.
        labels: how many there are.
    """

    names: tuple[str, ...]
    value: float
    bound: float
    answered: tuple[int, ...]
    errors: tuple[int, ...]
    labels: int

    def answer(self, confidences: Sequence[np.ndarray]) -> np.ndarray:
        """Return (m,) the index of who answers each comparison; -1 for people.

        Args:
            confidences: of each answerer in order, (m,) each.
        """
        return _find_answerer(np.stack([np.asarray(c, float) for c in confidences]), self.value)


def choose_cascade(answerers: Sequence[Answerer], prompts: np.ndarray, *, max_error: float, delta: float) -> Cascade:
    """Return the most lenient cascade whose answers are shown to be wrong less often than `max_error`.

    One that breaks the bound is chosen with a probability of at most `delta`, whatever confidences are worth: they set
    the order of the test and nothing else.

    Args:
        answerers: the cheapest first.
        prompts: (n,) the prompt of each label.

    Raises:
        BadInput: there is no answerer, or they have not the same labels.
    """
    lengths = {len(a.confidence) for a in answerers} | {len(a.wrong) for a in answerers}
    if lengths != {len(prompts)}:
        raise BadInput(
            f"answerers with {sorted(lengths)} labels of {len(prompts)}",
            expected="one answerer or more, each with a confidence and an error for every label",
            fix="give NaN as the confidence where one gives no answer",
        )
    names = tuple(a.name for a in answerers)
    confidence = np.stack([np.asarray(a.confidence, float) for a in answerers])
    wrong = np.stack([np.asarray(a.wrong, float) for a in answerers])
    finite = np.where(np.isnan(confidence), -np.inf, confidence)
    surest = finite.max(0)
    answerable = np.flatnonzero(np.isfinite(surest))
    order = answerable[np.argsort(-surest[answerable], kind="stable")]
    c, of = surest[order], np.asarray(prompts)[order]
    shown, value = ShownSet(), math.inf
    for size in respect_ties(c, list_sizes(of, max_error, delta)):
        # As the threshold falls, a cheaper answerer may take over what another answered.
        who = _find_answerer(confidence[:, order[:size]], c[size - 1])
        errors = wrong[who, order[:size]]
        found = find_shown_set(errors, of[:size], [size], max_error=max_error, delta=delta)
        if found == ShownSet():
            break
        shown, value = found, float(c[size - 1])
    who = _find_answerer(confidence, value)
    answered = tuple(int((who == i).sum()) for i in range(len(names)))
    wrongly = tuple(int(wrong[i, who == i].sum()) for i in range(len(names)))
    return Cascade(names, value, shown.bound, answered, wrongly, len(prompts))


def _find_answerer(confidence: np.ndarray, value: float) -> np.ndarray:
    """Return (n,) the first whose confidence (answerers, n) reaches a value, -1 where none does."""
    reaches = confidence >= value
    return np.where(reaches.any(0), reaches.argmax(0), -1)
