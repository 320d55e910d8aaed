"""Score the comparisons that no person has judged yet."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from tqdm import tqdm

from rlhf_hitl.reward.readability import LeftOut, Obstacle
from rlhf_hitl.reward.rendering import list_conversations
from rlhf_hitl.routing.doubts import Doubts, find_doubts
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import compute_shuffle_key, find_comparisons
from rlhf_hitl.store.scores import insert_scores
from rlhf_hitl.store.witness import insert_out_of_fold

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

CHUNK = 256  # comparisons scored between two writes to the store


@dataclass(frozen=True)
class ScoringSummary:
    """What `score_pool` did.

    Attributes:
        scored: how many comparisons got a score.
        mean_margin, mean_uncertainty: means over those, nan if there are none.
        left_out: those that got none, because the model cannot read them or tell their completions apart.
        unshown: what the model's chat template left out of what it read, in words; empty if nothing.
        doubts: what warns of these scores.
    """

    scored: int
    mean_margin: float
    mean_uncertainty: float
    left_out: LeftOut = field(default_factory=lambda: LeftOut("comparison"))
    unshown: str = ""
    doubts: Doubts = field(default_factory=Doubts)

    @property
    def without_text(self) -> int:
        """How many got no score because one of their completions has no text."""
        return self.left_out.count(Obstacle.NO_TEXT)


def score_pool(
    store: Store, model: RewardModel, *, part: int = 0, parts: int = 1, comparison_ids: Collection[str] | None = None
) -> ScoringSummary:
    """Score every comparison that no person has judged and that this model has not scored, and keep the scores. Those
    of promotions are left out: raters judge them whatever a model says.

    A comparison that the model cannot read, or whose completions it reads as the same tokens, is left to raters: a
    completion without text has no reward, and a margin of 0 that the chat template made is none. Comparisons are read
    and written in chunks, so memory does not grow with the pool, and a run that was stopped continues. Of comparisons
    whose prompt the model has not learnt from, what it says is kept as a witness's word, too.

    Args:
        comparison_ids: score only these; None for all.
        part, parts: score only this one of so many parts; processes with a part each score the pool together.
    """
    scored, margins, uncertainties, left_out = 0, 0.0, 0.0, LeftOut("comparison")
    doubts = Doubts()
    unscored = {"judged_by_people": False, "unscored_by": model.id}
    waiting = find_comparisons(store, **unscored, promotions=False, ids=comparison_ids)
    own_part = (c for c in waiting if compute_shuffle_key(c.id) % parts == part)
    with tqdm(desc="scoring", unit="comparison", disable=None if part == 0 else True) as bar:
        while chunk := list(islice(own_part, CHUNK)):
            readable = []
            for comparison in chunk:
                if problem := model.find_problem(list_conversations(comparison)):
                    left_out.add(problem)
                else:
                    readable.append(comparison)
            scored_pairs = list(model.score_and_predict(readable))
            scores = [score for score, _ in scored_pairs]
            insert_scores(store, scores)
            unseen = {c.id for c in readable if model.seen is not None and not model.seen.may_include(c.prompt.family)}
            insert_out_of_fold(
                store, model.id, [pair for _, pairs in scored_pairs for pair in pairs if pair.comparison_id in unseen]
            )
            doubts |= find_doubts(model, {c.id: c for c in readable}, scores)
            scored += len(scores)
            margins += sum(s.margin for s in scores)
            uncertainties += sum(s.uncertainty for s in scores)
            bar.update(len(scores))
    if not scored:
        return ScoringSummary(0, math.nan, math.nan, left_out)
    return ScoringSummary(scored, margins / scored, uncertainties / scored, left_out, model.cache.unshown.text, doubts)
