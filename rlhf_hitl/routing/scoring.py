"""Score the comparisons that nobody has judged yet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from tqdm import tqdm

from rlhf_hitl.reward.rendering import all_completions_have_text
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import compute_shuffle_key, find_comparisons
from rlhf_hitl.store.scores import insert_scores

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

CHUNK = 256  # comparisons scored between two writes to the store


@dataclass(frozen=True)
class ScoringSummary:
    """What `score_pool` did.

    Attributes:
        scored: how many comparisons got a score.
        mean_margin, mean_uncertainty: means over those, nan if there are none.
        without_text: how many got none because one of their completions has no text.
    """

    scored: int
    mean_margin: float
    mean_uncertainty: float
    without_text: int = 0


def score_pool(store: Store, model: RewardModel, *, part: int = 0, parts: int = 1) -> ScoringSummary:
    """Score every comparison that is not judged and that this model has not scored, and keep the scores.

    A comparison with a completion without text is left to raters, because such a completion has no reward. Comparisons
    are read and written in chunks, so memory does not grow with the pool, and a run that was stopped continues.

    Args:
        part, parts: score only this one of so many parts; processes with a part each score the pool together.
    """
    scored, margins, uncertainties, without_text = 0, 0.0, 0.0, 0
    waiting = find_comparisons(store, judged=False, unscored_by=model.id)
    own_part = (c for c in waiting if compute_shuffle_key(c.id) % parts == part)
    with tqdm(desc="scoring", unit="comparison", disable=None if part == 0 else True) as bar:
        while chunk := list(islice(own_part, CHUNK)):
            scores = list(model.score(c for c in chunk if all_completions_have_text(c)))
            without_text += len(chunk) - len(scores)
            insert_scores(store, scores)
            scored += len(scores)
            margins += sum(s.margin for s in scores)
            uncertainties += sum(s.uncertainty for s in scores)
            bar.update(len(scores))
    if not scored:
        return ScoringSummary(0, math.nan, math.nan, without_text)
    return ScoringSummary(scored, margins / scored, uncertainties / scored, without_text)
