"""The labels of people that test what the model may accept: what it says of each, and whether raters agree.

They are those of the calibration split, and beside them those training labels that came to raters at random, by what
heads said that saw nothing of their prompt. What is tested is what is decided: the model's choice between its two best
completions, where raters prefer one of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.reward.labelled_pairs import load_labelled_pairs
from rlhf_hitl.reward.rendering import list_conversations
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.elsewhere import NO_BAR, Bar, choose_bar, summarise_home
from rlhf_hitl.routing.threshold_labels import ThresholdLabels, make_threshold_labels
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.witness import read_words_drawn_at_random
from rlhf_hitl.types import Label, Score, Split

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel


class TestedLabel(NamedTuple):
    """A label that tests the model.

    `family` is its prompt's, as labels of one prompt are not independent; `score` is None where a head out of fold said
    it.
    """

    confidence: float
    is_wrong: bool
    family: str
    score: Score | None = None


def read_threshold_labels(
    store: Store, model: RewardModel, config: RoutingConfig, bar: Bar = NO_BAR
) -> ThresholdLabels:
    """Return the labels that test a model, with the bound that they are to show.

    Calibration labels are used for the bound alone; training labels set the temperature as well, which shifts all
    confidences alike. (Heads out of fold learnt from fewer labels than the model, so they are wrong no less often.)

    Args:
        bar: calibration labels of comparisons above it test nothing, as none of those is accepted. Labels out of
            fold have no uncertainty that is kept, so all of them test.
    """
    calibration, out_of_fold = read_calibration(store, model, bar.value), read_out_of_fold(store, model)
    return collect_threshold_labels([*calibration, *out_of_fold], len(out_of_fold), config, bar)


def collect_threshold_labels(
    tested: Sequence[TestedLabel], out_of_fold: int, config: RoutingConfig, bar: Bar
) -> ThresholdLabels:
    """Return tested labels, those out of fold last, with the bound that they are to show."""
    return make_threshold_labels(
        [(t.confidence, t.is_wrong, t.family) for t in tested],
        out_of_fold=out_of_fold,
        max_error=config.max_error,
        delta=config.delta,
        checked_share=config.control_share + (1 - config.control_share) * config.audit_share,
        elsewhere=bar.elsewhere,
        bar=bar.value,
    )


def choose_home_bar(store: Store, model: RewardModel, scores: Sequence[Score]) -> Bar:
    """Return the uncertainty above which a model's scores of a pool are taken to be from elsewhere. Comparisons of the
    calibration split are at home; no vote on them is looked at."""
    usual = model.head.usual_uncertainties
    if usual:
        labelled = {p.comparison.id for p in load_labelled_pairs(store, Split.CALIBRATION)}
        found = find_comparisons(store, ids=sorted(labelled))
        at_home = [c for c in found if model.find_problem(list_conversations(c)) is None]
        usual = summarise_home(np.array([s.uncertainty for s in model.score(at_home)], float), usual)
    return choose_bar(usual, np.array([s.uncertainty for s in scores], float))


def read_calibration(store: Store, model: RewardModel, most_uncertain: float = math.inf) -> list[TestedLabel]:
    """Return the labels of the calibration split that the model can read and raters prefer a side of.

    Args:
        most_uncertain: what is more uncertain is never accepted, so it tests nothing.
    """
    preferred = find_preferred([p.label for p in load_labelled_pairs(store, Split.CALIBRATION)])
    found = find_comparisons(store, ids=sorted({cid for cid, _ in preferred}))
    comparisons = [c for c in found if model.find_problem(list_conversations(c)) is None]
    return [
        TestedLabel(score.probability, choice != score.chosen, comparison.prompt.family, score)
        for comparison, score in zip(comparisons, model.score(comparisons))
        if (choice := preferred.get((comparison.id, frozenset((score.chosen, score.rejected))))) is not None
        and score.uncertainty <= most_uncertain
    ]


def read_out_of_fold(store: Store, model: RewardModel) -> list[TestedLabel]:
    """Return the training labels that came at random. Comparisons of which not every pair is known are left out: which
    completions are the best two is not known either."""
    words = read_words_drawn_at_random(store, model.id)
    if not words:
        return []
    # Without judges: a threshold is about people's errors, and in the train split judges vote, too.
    preferred = find_preferred(read_labels(store, split=Split.TRAIN, judges=False))
    by_comparison = {cid: list(of) for cid, of in groupby(words, lambda word: word.comparison_id)}
    tested = []
    for comparison in find_comparisons(store, ids=sorted(by_comparison)):
        pairs, completions = by_comparison[comparison.id], len(comparison.completions)
        if len(pairs) < completions * (completions - 1) // 2:
            continue
        probability = {}  # of the first among raters who see a difference
        for _, first, second, (p_first, _, p_second) in pairs:
            p = p_first / (p_first + p_second) if p_first + p_second > 0 else 0.5
            probability[first, second], probability[second, first] = p, 1 - p
        wins = Counter(a for (a, _), p in probability.items() if p > 0.5)
        best, other = sorted((c.id for c in comparison.completions), key=lambda i: -wins[i])[:2]
        if (choice := preferred.get((comparison.id, frozenset((best, other))))) is not None:
            tested.append(TestedLabel(max(probability[best, other], 0.5), choice != best, comparison.prompt.family))
    return tested


def find_preferred(labels: Iterable[Label]) -> dict[tuple[str, frozenset[str]], str]:
    """Return comparison and pair → the completion that raters prefer, where they prefer one."""
    return {
        (label.comparison_id, frozenset((label.first, label.second))): label.preferred
        for label in labels
        if label.preferred is not None
    }
