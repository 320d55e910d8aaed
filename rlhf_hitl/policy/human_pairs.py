"""The pairs that people judged, as labels for DPO: soft, with ties, and weighed by the strength of the votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.labels.label_models import fold_outcomes
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.policy.dpo_pair import DPOPair
from rlhf_hitl.reward.rendering import has_text
from rlhf_hitl.stats.vote_outcomes import GRADED, VOTE_OUTCOMES
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, Label, Split

#: The strengths of the outcomes in GRADED: much, clearly and slightly better, and the same for the second completion.
STRENGTHS = np.array([3.0, 2.0, 1.0, 1.0, 2.0, 3.0])


def collect_human_pairs(
    store: Store,
    label_model: str = DEFAULT_LABEL_MODEL,
    *,
    strengths: bool = True,
    ties: bool = True,
    not_paired: Counter[str] | None = None,
) -> list[DPOPair]:
    """Return the judged pairs of the train split.

    Args:
        label_model: how votes become labels.
        strengths: a vote counts as much as its strength says: see `weigh_by_strength`.
        ties: keep ties and evenly split votes. Without them a pair's label is that of the votes that prefer a side.
        not_paired: counts, by reason, the labels that make no pair.
    """
    not_paired = Counter() if not_paired is None else not_paired
    labels = read_labels(store, split=Split.TRAIN, label_model=label_model)
    ids = list(dict.fromkeys(label.comparison_id for label in labels))
    comparisons = {c.id: c for c in find_comparisons(store, ids=ids)}
    pairs = []
    for label, votes in zip(labels, weigh_by_strength(labels) if strengths else _list_votes(labels)):
        comparison = comparisons[label.comparison_id]
        completions = [comparison.find_completion(i) for i in (label.first, label.second)]
        first, tie, second = fold_outcomes(votes.tolist())
        if not ties:
            tie = 0.0
        if not all(has_text(c.messages) for c in completions):
            not_paired["an answer without text"] += 1
        elif not ties and label.preferred is None:
            not_paired["a tie, or evenly split votes"] += 1
        elif not first + tie + second > 0:
            not_paired["no vote that counts"] += 1
        else:
            decided, total = first + second, first + tie + second
            is_first = first > second or (first == second and label.preferred != label.second)
            chosen, rejected = completions if is_first else completions[::-1]
            share = max(first, second) / decided if decided else 0.5
            weight = weigh_votes(total, len(comparison.completions))
            pairs.append(
                DPOPair(
                    comparison.prompt, chosen, rejected, "human", share=share, weight=weight, tie=tie / total,
                    simulated=label.simulated,
                )
            )  # fmt: skip
    return pairs


def weigh_by_strength(labels: Sequence[Label]) -> np.ndarray:
    """Return the weighted votes of labels for each of VOTE_OUTCOMES, each times its strength (1 to 3) relative to the
    mean strength of the graded votes, (n, 9). Votes without a strength, and ties, count 1.

    A loss that is scaled by the strength did better than one without, and than one with a margin, where the three were
    compared on the same preferences (Wang et al. 2024, "HelpSteer2-Preference: complementing ratings with preferences",
    scaled Bradley-Terry).
    """
    votes = _list_votes(labels)
    graded = votes[:, GRADED]
    if (total := graded.sum()) > 0:
        votes[:, GRADED] = graded * STRENGTHS / ((graded * STRENGTHS).sum() / total)
    return votes


def _list_votes(labels: Sequence[Label]) -> np.ndarray:
    return np.array([label.weighted_votes for label in labels], float).reshape(-1, len(VOTE_OUTCOMES))
