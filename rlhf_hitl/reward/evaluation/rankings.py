"""How well a reward model ranks comparisons of three or more completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_hitl.labels.label_models import fold_outcomes
from rlhf_hitl.reward.evaluation.slices import estimate_mean
from rlhf_hitl.reward.evaluation_record import Estimate, KWiseAccuracy
from rlhf_hitl.reward.labelled_pairs import LabelledPair
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.stats.intervals import clustered_mean_interval
from rlhf_hitl.types import Comparison


@dataclass(frozen=True)
class ScoredRanking:
    """A comparison of K completions: their worth to the raters (K,), equal where tied, and their rewards (K,)."""

    comparison: Comparison
    worth: np.ndarray
    rewards: np.ndarray

    @property
    def is_best(self) -> np.ndarray:
        """(K,) bool: which are the raters' best."""
        return self.worth == self.worth.max()

    @property
    def best_share(self) -> float:
        """Whether the model's best is among the raters' best; of several with the highest reward, the share that is."""
        return float(self.is_best[self.rewards == self.rewards.max()].mean())


def score_rankings(model: RewardModel, pairs: Sequence[LabelledPair]) -> list[ScoredRanking]:
    """Return the worth to the raters and the rewards of every comparison of three or more completions.

    The worth of a completion is its Borda count: what the votes are worth by which it beats each other one, with ties
    halved.
    """
    worth: dict[str, dict[str, float]] = {}
    comparisons = {p.comparison.id: p.comparison for p in pairs if len(p.comparison.completions) > 2}
    for p in pairs:
        if p.comparison.id in comparisons:
            points = worth.setdefault(p.comparison.id, {})
            first, tie, second = fold_outcomes(p.label.weighted_votes)
            points[p.label.first] = points.get(p.label.first, 0.0) + first + tie / 2
            points[p.label.second] = points.get(p.label.second, 0.0) + second + tie / 2
    chats = [
        Conversation(c.prompt.messages, c.find_completion(i).messages, c.prompt.tools)
        for c in comparisons.values()
        for i in worth[c.id]
    ]  # only completions that have a vote
    rewards = iter(model.rewards(chats).tolist()) if chats else iter(())
    return [
        ScoredRanking(c, np.array(list(worth[c.id].values())), np.array([next(rewards) for _ in worth[c.id]]))
        for c in comparisons.values()
    ]


def measure_k_wise_accuracy(rankings: Sequence[ScoredRanking]) -> KWiseAccuracy | None:
    """Return the accuracy over rankings that are not all ties; None if there are none."""
    from scipy.stats import kendalltau

    if not (decided := [r for r in rankings if np.ptp(r.worth) > 0]):
        return None
    families = np.array([r.comparison.prompt.family for r in decided])
    best = estimate_mean(np.array([r.best_share for r in decided]), families)
    correlations: list[Any] = [kendalltau(r.worth, r.rewards, variant="b") for r in decided]
    taus = np.array([float(c.statistic) for c in correlations])
    chance = float(np.mean([r.is_best.mean() for r in decided]))
    defined = np.isfinite(taus)  # undefined where the model's rewards are all equal
    if not defined.any():
        return KWiseAccuracy(best, chance, None)
    low, high = clustered_mean_interval(taus[defined], families[defined])
    return KWiseAccuracy(best, chance, Estimate(float(taus[defined].mean()), low, high, int(defined.sum())))
