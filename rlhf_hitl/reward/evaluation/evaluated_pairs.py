"""The labels that an evaluation is over, as pairs: which they are, and what is known of them without a model.

Importing this module costs no torch: a slice that there is not is refused before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.evaluation.slices import CONFIDENCE_NAMES, group_into_slices
from rlhf_hitl.reward.evaluation_record import EvaluatedPair
from rlhf_hitl.reward.labelled_pairs import LabelledPair
from rlhf_hitl.reward.seen_prompts import SeenPrompts
from rlhf_hitl.store import Store
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.label_votes import read_vote_rows
from rlhf_hitl.types import Label, Split


def require_judgments(store: Store, split: Split) -> None:
    """Raise BadInput where nobody has judged a comparison of the split."""
    if next(read_judgments(store, split=split, repeats=False, at_once=1), None) is None:
        raise BadInput(
            f"{split.value} split of {store.safe_url}: no judgments",
            expected="at least one with a preference",
            fix="rate comparisons (`rlhf-hitl serve`) or import a preference set (`rlhf-hitl import`)",
        )


def require_votes_of_people(store: Store, split: Split, source: str | None) -> None:
    """Raise BadInput where all votes of the split are of AI judges.

    Args:
        source: the file or hub id that the votes come from, if they are not the store's own.
    """

    def has_votes(judges_measure: bool) -> bool:
        return next(read_vote_rows(store, split=split, judges_measure=judges_measure), None) is not None

    if not has_votes(judges_measure=False) and has_votes(judges_measure=True):
        raise BadInput(
            f"{source or f'{split.value} split of {store.safe_url}'}: all votes are of AI judges",
            expected="votes of people: a model's votes are in no label that measures models",
            fix="add --include-judges to measure how far the reward model agrees with these judges",
        )


def select_unseen(pairs: Sequence[LabelledPair], seen: SeenPrompts, split: Split) -> list[LabelledPair]:
    """Return the pairs that a model is evaluated on: of the held-out split, those whose prompts it has not seen.

    Whoever asks for another split wants the prompts that the model has seen.
    """
    excluded = seen.train | seen.calibration if split is Split.HELDOUT else frozenset()
    return [p for p in pairs if p.comparison.prompt.family not in excluded]


def find_slices(pairs: Sequence[LabelledPair]) -> dict[str, tuple[str, ...]]:
    """Return kind → values of the slices that an evaluation of these pairs has.

    Which of those by confidence are large enough is known only with a model: they are all here.
    """
    evaluated = [make_evaluated_pair(p, 1.0, 0.0, 0.5) for p in pairs]
    slices = {kind: tuple(values) for kind, values in group_into_slices(evaluated).items()}
    return {"confidence": CONFIDENCE_NAMES} | slices  # a tag of that name goes before


def make_evaluated_pair(pair: LabelledPair, margin: float, std: float, probability: float) -> EvaluatedPair:
    """Return a labelled pair with what a model says of it.

    Args:
        margin: reward(first) - reward(second), with its standard deviation `std`.
        probability: that the first is preferred.
    """
    label, comparison = pair.label, pair.comparison
    sign = get_sign(label)
    sides = [comparison.find_completion(i) for i in (label.first, label.second)]
    chosen, rejected = sides if sign > 0 else sides[::-1]
    first, _, second = label.counts
    tags = dict(comparison.prompt.tags) | ({"subset": comparison.batch} if comparison.batch else {})
    return EvaluatedPair(
        comparison_id=comparison.id,
        prompt_id=comparison.prompt.id,
        family=comparison.prompt.family,
        prompt=comparison.prompt.messages,
        tools=comparison.prompt.tools,
        chosen=chosen.messages,
        rejected=rejected.messages,
        chosen_id=chosen.id,
        rejected_id=rejected.id,
        chosen_policy=chosen.policy,
        rejected_policy=rejected.policy,
        votes=label.votes,
        agreement=(first if sign > 0 else second) / (first + second) if first + second else 0.5,
        margin=float(margin * sign),
        uncertainty=float(std),
        probability=float(probability if sign > 0 else 1 - probability),
        correct=None if label.preferred is None else float(score_correct(np.array(margin * sign))),
        tags=tags,
        strength=_find_commonest_strength(label),
    )


def get_sign(label: Label) -> float:
    """Return 1 where raters prefer the first side, -1 where they prefer the second; the first of a tie counts as
    chosen."""
    return -1.0 if label.preferred == label.second else 1.0


def score_correct(signed_margins: np.ndarray) -> np.ndarray:
    """Return 1 where a margin (n,) has the raters' sign (above 0), 0 where it has the other, a half where it is 0."""
    return np.where(signed_margins == 0, 0.5, (signed_margins > 0).astype(float))


def _find_commonest_strength(label: Label) -> int | None:
    """Return the strength that most votes give, of equally common ones the weaker; None if no vote gives one."""
    much, clearly, slightly, second_slightly, second_clearly, second_much = label.strengths
    counts = {1: slightly + second_slightly, 2: clearly + second_clearly, 3: much + second_much}
    return max(counts, key=lambda s: counts[s]) if any(counts.values()) else None
