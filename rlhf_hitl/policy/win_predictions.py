"""What a reward model says of two policies' answers before anybody votes on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_hitl.types import Comparison, Completion, Prompt

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

#: What is predicted of a pair that the reward model cannot read: nothing. Of an answer that is empty: it loses.
NO_PREDICTION, LOSES = 0.5, 0.0


def predict_win_rates(model: RewardModel, pairs: Sequence[tuple[Prompt, Completion, Completion]]) -> list[float]:
    """Return P(the first completion is better) + P(tie) / 2 of each pair, by a reward model, before anybody votes."""
    from rlhf_hitl.reward.rendering import list_conversations

    predictions, comparisons, at = [NO_PREDICTION] * len(pairs), [], []
    for i, (prompt, first, second) in enumerate(pairs):
        if first.messages == second.messages:
            continue
        if first.is_empty or second.is_empty:
            predictions[i] = LOSES if first.is_empty else 1 - LOSES
            continue
        comparison = Comparison.create(prompt, (first, second))
        if model.find_problem(list_conversations(comparison)) is None:
            comparisons.append(comparison)
            at.append(i)
    for i, (_, [of_pair]) in zip(at, model.score_and_predict(comparisons)):
        p_first, p_tie, p_second = of_pair.probabilities
        is_first = of_pair.first == pairs[i][1].id
        wins = (p_first if is_first else p_second) + p_tie / 2
        predictions[i] = min(1.0, max(0.0, float(wins)))
    return predictions
