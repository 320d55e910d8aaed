"""Warnings about scores: margins that are mostly length or format, and comparisons unlike the training prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlhf_hitl.store.routings import Routing
from rlhf_hitl.types import Comparison, Score
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

CHUNK = 4096  # scores whose texts are looked at together
MOSTLY_STYLE, UNLIKE = "the margin is mostly length or format", "unlike the training prompts"


@dataclass(frozen=True)
class Doubts:
    """What warns of scores.

    Attributes:
        scored: how many scores there are.
        mostly_style, unlike: the comparisons whose margin is mostly length or format, and those that look unlike the
            training prompts.
    """

    scored: int = 0
    mostly_style: frozenset[str] = frozenset()
    unlike: frozenset[str] = frozenset()

    def __or__(self, other: Doubts) -> Doubts:
        return Doubts(self.scored + other.scored, self.mostly_style | other.mostly_style, self.unlike | other.unlike)

    @property
    def lines(self) -> list[str]:
        """A sentence for each warning that is due."""
        lines = []
        if self.mostly_style:
            margins = say_count(self.scored, "margin is", "margins are")
            lines.append(f"{len(self.mostly_style):,} of {margins} mostly length or format")
        if self.unlike:
            lines.append(f"{say_count(len(self.unlike), 'comparison looks', 'comparisons look')} {UNLIKE}")
        return lines

    def as_dict(self) -> dict[str, int]:
        return {"scored": self.scored, "mostly_style": len(self.mostly_style), "unlike_training": len(self.unlike)}

    def explain(self, decisions: Sequence[Routing]) -> list[Routing]:
        """Return decisions with the warnings of each behind its reason."""
        explained = []
        for decision in decisions:
            notes = [MOSTLY_STYLE] * (decision.comparison_id in self.mostly_style)
            notes += [UNLIKE] * (decision.comparison_id in self.unlike)
            explained.append(replace(decision, reason="; ".join([decision.reason, *notes])) if notes else decision)
        return explained


def find_doubts(
    model: RewardModel, comparisons: Mapping[str, Comparison], scores: Sequence[Score], usual: float | None = None
) -> Doubts:
    """Return what warns of a model's scores of some comparisons, by their id. Texts are looked at in chunks.

    Args:
        usual: the uncertainty above which a score is of something unlike the training prompts; by default the model's
            own.
    """
    usual = model.head.usual_uncertainty if usual is None else usual
    mostly: list[str] = []
    for start in range(0, len(scores), CHUNK):
        chunk = scores[start : start + CHUNK]
        found = model.find_mostly_style([comparisons[s.comparison_id] for s in chunk], chunk)
        mostly += [s.comparison_id for s, is_mostly in zip(chunk, found.tolist()) if is_mostly]
    unlike = frozenset(s.comparison_id for s in scores if s.uncertainty > usual)
    return Doubts(len(scores), frozenset(mostly), unlike)
