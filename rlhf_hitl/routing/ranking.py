"""Rank the comparisons of a store for raters: choose the rule, measure what labels gain, and make the order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import sqlalchemy as sa

from rlhf_hitl.reward.head_fitting import fit_head
from rlhf_hitl.reward.labelled_pairs import LabelledPair, count_votes, load_labelled_pairs
from rlhf_hitl.reward.rendering import list_conversations
from rlhf_hitl.routing.acquisition_names import Rule
from rlhf_hitl.routing.batches import CompletionInputs, Pool, order_for_raters
from rlhf_hitl.routing.gain_record import Gain, RoutingGains
from rlhf_hitl.routing.gains import (
    DEFAULT_RULE,
    FEWEST_CONTROLS,
    FEWEST_LABELS,
    Labels,
    choose_rule,
    compute_gains,
    estimate_gain,
)
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import compute_shuffle_key
from rlhf_hitl.store.quality_tables import labels as labels_table
from rlhf_hitl.store.routings import read_routings
from rlhf_hitl.types import Comparison, Route, Score, Split

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

#: More labels than this are not needed to measure what labels gain; these are drawn by their comparisons' ids.
MOST_LABELS = 5000
#: The inputs of a pool of so many comparisons are read, and of so many at a time.
MOST_READ, CHUNK = 20_000, 512


@dataclass(frozen=True)
class Ranker:
    """Ranks scored comparisons for raters.

    Attributes:
        rule: how.
        size: of the next batch.
        seed: of what is drawn.
        model: that scored them; without one, rules go by margins and uncertainties alone.
        split: pairs of completions on which raters stay divided however many are asked: they come last.
    """

    rule: Rule = DEFAULT_RULE
    size: int = 1000
    seed: int = 0
    model: RewardModel | None = None
    split: frozenset[frozenset[str]] = field(default_factory=frozenset)

    def rank(self, scores: Sequence[Score], pool: Mapping[str, Comparison]) -> dict[str, int]:
        """Return comparison id → its rank among these: raters get what teaches most first."""
        is_split = [frozenset((s.chosen, s.rejected)) in self.split for s in scores]
        asked = [s for s, last in zip(scores, is_split) if not last]
        order = order_for_raters(self._make_pool(asked, pool), self.rule, self.size, np.random.default_rng(self.seed))
        in_order = [asked[i] for i in order.places] + [s for s, last in zip(scores, is_split) if last]
        return {s.comparison_id: rank for rank, s in enumerate(in_order)}

    def _make_pool(self, scores: Sequence[Score], pool: Mapping[str, Comparison]) -> Pool:
        prompts, pairs = [], []
        for score in scores:
            comparison = pool[score.comparison_id]
            policies = sorted(comparison.find_completion(i).policy for i in (score.chosen, score.rejected))
            prompts.append(comparison.prompt.family)
            pairs.append("\n".join(policies))

        def load(places: np.ndarray) -> CompletionInputs:
            assert self.model is not None
            return load_inputs(self.model, [scores[i] for i in places], pool)

        return Pool(
            np.array([s.margin for s in scores], float),
            self._find_uncertainties(scores, load),
            _number(prompts),
            _number(pairs),
            None if self.model is None else self.model.head,
            None if self.model is None else load,
        )

    def _find_uncertainties(
        self, scores: Sequence[Score], load: Callable[[np.ndarray], CompletionInputs]
    ) -> np.ndarray:
        """Return the standard deviations (n,) of the margins by the posterior alone, where the pool is small enough to
        read all inputs: votes tell nothing of what lies outside the axes, and with it in them what is most odd would be
        asked first (Bickford Smith et al. 2023, "Prediction-oriented Bayesian active learning"). In a larger pool what
        looks unlike the training prompts counts as the most uncertain of what does not."""
        own = np.array([s.uncertainty for s in scores], float)
        if self.model is None or not self.model.head.doubt:
            return own
        if len(scores) > MOST_READ:
            return np.minimum(own, self.model.head.usual_uncertainty)
        for start in range(0, len(scores), CHUNK):
            places = np.arange(start, min(start + CHUNK, len(scores)))
            _, own[places] = self.model.head.margins(load(places).differences.astype(np.float64))
        return own


def load_inputs(model: RewardModel, scores: Sequence[Score], pool: Mapping[str, Comparison]) -> CompletionInputs:
    """Return the head's inputs of all completions of scored comparisons. What was read when they were scored is in the
    feature cache, so no text is read by the backbone again."""
    chats, prompt_of = {}, {}
    for score in scores:
        comparison = pool[score.comparison_id]
        for completion, chat in zip(comparison.completions, list_conversations(comparison)):
            chats[completion.id], prompt_of[completion.id] = chat, comparison.prompt.id
    ids = sorted(chats, key=lambda i: prompt_of[i])
    row = {i: n for n, i in enumerate(ids)}
    starts = [n for n, i in enumerate(ids) if not n or prompt_of[i] != prompt_of[ids[n - 1]]]
    pairs = np.array([(row[s.chosen], row[s.rejected]) for s in scores])
    return CompletionInputs(model.inputs([chats[i] for i in ids]).astype(np.float32), np.array(starts), pairs)


def find_split_pairs(store: Store) -> frozenset[frozenset[str]]:
    """Return the pairs of completions whose labels stay in doubt with all the votes they may have: people differ, and
    one vote more, on another comparison of the same two, would say what is known."""
    query = sa.select(labels_table.c.first, labels_table.c.second).where(labels_table.c.state == "split")
    with store.read() as conn:
        return frozenset(frozenset((first, second)) for first, second in conn.execute(query))


def measure_routing(store: Store, model: RewardModel, acquisition: str) -> RoutingGains:
    """Return what labels of this store gain a model that reads as this one does, routed and random, and the rule by
    which raters are asked: the one that is named, or the one that `auto` chooses.

    Gains are measured on labels that no rule chose: those of the calibration split, of the control share, and of
    comparisons that were judged before a model had routed them.
    """
    pairs = _take_readable(model, load_labelled_pairs(store, Split.TRAIN))
    calibration = _take_readable(model, load_labelled_pairs(store, Split.CALIBRATION))
    routes = {
        r.comparison_id: r.route for r in read_routings(store, newest=False) if r.route is not Route.ESCALATED
    }  # what is sent on stays of the kind that it was
    of_pair = [routes.get(p.comparison.id) for p in pairs]
    is_random = np.array([r is Route.CONTROL for r in of_pair], bool)
    is_routed = np.array([r is Route.HUMAN for r in of_pair], bool)
    own = np.flatnonzero(is_random | np.array([r is None for r in of_pair], bool))
    named = None if acquisition == "auto" else cast("Rule", acquisition)
    given = RoutingGains(named or DEFAULT_RULE, "it was asked for" if named else "too few labels yet")
    if len(pairs) < FEWEST_LABELS or len(own) + len(calibration) < FEWEST_CONTROLS:
        return given
    taught, measuring = _to_labels(model, pairs), _to_labels(model, calibration)
    measured = Labels(
        *(
            np.concatenate([getattr(taught, name)[own], getattr(measuring, name)])
            for name in ("differences", "votes", "prompts")
        )
    )
    own = np.r_[own, np.full(len(calibration), -1)]
    head = fit_head(taught.differences, taught.votes, vote_weight=model.head.vote_weight)
    if named is None:
        choice = choose_rule(head, taught, measured, own)
        given = RoutingGains(choice.rule, choice.reason)
    if not is_random.any() or not is_routed.any():
        return given
    gains = compute_gains(head, taught, measured, own)

    def estimate(weights: np.ndarray) -> Gain:
        return estimate_gain(gains, weights, taught.prompts, measured.prompts)

    routed, random = is_routed / is_routed.sum(), is_random / is_random.sum()
    return RoutingGains(
        given.rule,
        given.reason,
        estimate(routed),
        estimate(random),
        estimate(routed - random),
        any(p.label.simulated for p in [*pairs, *calibration]),
    )


def _take_readable(model: RewardModel, pairs: Collection[LabelledPair]) -> list[LabelledPair]:
    drawn = sorted(pairs, key=lambda p: compute_shuffle_key(p.comparison.id))[:MOST_LABELS]
    return [p for p in drawn if model.find_problem([p.first, p.second]) is None]


def _to_labels(model: RewardModel, pairs: Sequence[LabelledPair]) -> Labels:
    if not pairs:
        return Labels(np.zeros((0, len(model.head.weights))), np.zeros((0, 9)), np.zeros(0, str))
    differences = model.differences([p.first for p in pairs], [p.second for p in pairs])
    return Labels(differences, count_votes(pairs), np.array([p.comparison.prompt.family for p in pairs]))


def _number(names: Sequence[str]) -> np.ndarray:
    return np.unique(np.array(names, str), return_inverse=True)[1]
