"""Tags under which the new policy is shown to lose, though it may win on the whole.

Each tag has its own capital against "win rate >= 1/2 here" (`sequential.py`). Which prompts have a tag does not depend
on outcomes, so the outcomes of a tag are a sample of their own, and the capital holds whenever the test of the whole
has stopped. With so many tags, each has to reach (number of tags) / alpha (Bonferroni): that any tag is named wrongly
has a chance of at most alpha, however tags overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.stats.sequential import WinRateTest, weigh_outcomes

#: Prompts that a tag needs among those that are to be judged; known before the first judgment, so that it is no choice
#: by outcomes.
LEAST_PROMPTS = 10


@dataclass(frozen=True)
class TagWinRate:
    """The win rate under one tag, with a confidence sequence that holds for all tags together at the level of the test.
    `is_regression`: it is shown to be below 1/2."""

    tag: str
    outcomes: int
    win_rate: float
    low: float
    high: float

    @property
    def is_regression(self) -> bool:
        return self.high < 0.5


def list_tested_tags(tags: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the tags, as "name=value", that enough of the prompts have, sorted.

    Args:
        tags: of each prompt that may be judged.
    """
    found: dict[str, int] = {}
    for of_prompt in tags:
        for name, value in of_prompt.items():
            found[f"{name}={value}"] = found.get(f"{name}={value}", 0) + 1
    return sorted(tag for tag, count in found.items() if count >= LEAST_PROMPTS)


def measure_tags(
    outcomes: np.ndarray, tags: Sequence[Mapping[str, str]], tested: Sequence[str], test: WinRateTest
) -> list[TagWinRate]:
    """Return the win rate of each tested tag that has an outcome, the worst first.

    Args:
        outcomes: (n,) in the order in which prompts were drawn; tags: of the prompt of each.
        tested: all tags that are looked at (`list_tested_tags`), with outcomes or without.
        test: of the whole; `alpha` is shared among the tags.
    """
    if not tested:
        return []
    level = test.alpha / len(tested)
    shared = WinRateTest(test.least_gain, level, level)
    y, measured = np.asarray(outcomes, float), []
    for tag in tested:
        name, _, value = tag.partition("=")
        own = np.array([of.get(name) == value for of in tags], bool)
        if own.any():
            found = weigh_outcomes(y[own], shared)
            measured.append(TagWinRate(tag, found.outcomes, found.win_rate, found.low, found.high))
    return sorted(measured, key=lambda t: (t.win_rate, t.tag))
