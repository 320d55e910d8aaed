"""Route scored comparisons: to raters or to acceptance, with a random control share that always goes to raters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_hitl.reward.labelled_pairs import load_labelled_pairs
from rlhf_hitl.reward.rendering import list_conversations
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.gain_record import RoutingGains, save_gains
from rlhf_hitl.routing.ranking import Ranker, find_split_pairs, measure_routing
from rlhf_hitl.routing.threshold import Threshold, choose_threshold
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.reward_models import get_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.types import Comparison, Route, Score, Split

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

CONTROL_CHOICES = 2**48  # a draw below `control_share` of these makes a control


@dataclass(frozen=True)
class RoutingReport:
    """What was decided: counts by route, the threshold the model's confidence had to reach, every decision, and the
    rule by which raters are asked, with what its labels gain."""

    counts: dict[str, int]
    threshold: Threshold
    decisions: tuple[Routing, ...]
    gains: RoutingGains


def route_pool(
    store: Store,
    model: RewardModel,
    config: RoutingConfig,
    *,
    round: int = 0,
    comparison_ids: Collection[str] | None = None,
) -> RoutingReport:
    """Decide for every comparison that this model has scored and nobody has judged, and apply the decisions.

    Only training prompts can be accepted by the model: raters always judge calibration and held-out prompts, because
    those measure it.

    Args:
        comparison_ids: decide only for these, those of a slice for instance; None for all.
    """
    threshold = calibrate_threshold(store, model, config)
    pool = {c.id: c for c in find_comparisons(store, judged=False, ids=comparison_ids)}
    scores = [s for s in read_scores(store, model.id) if s.comparison_id in pool]
    gains = measure_routing(store, model, config.acquisition)
    save_gains(Path(get_reward_model(store, model.id).path), gains)
    seed = store.draw("acquisition", str(round), 2**32)
    ranker = Ranker(gains.rule, config.batch, seed, model, find_split_pairs(store))
    decisions = decide_routes(scores, pool, threshold, config, round, store.draw, ranker)
    apply_routings(store, decisions)
    counts = {r.value: sum(d.route is r for d in decisions) for r in (Route.HUMAN, Route.CONTROL, Route.AUTO)}
    return RoutingReport(counts, threshold, tuple(decisions), gains)


def calibrate_threshold(store: Store, model: RewardModel, config: RoutingConfig) -> Threshold:
    """Return the threshold that the labels of the calibration split support.

    It is tested on what is decided: the model's choice between its two best completions, where raters prefer one of
    them. (The same labels set the temperature, which shifts all confidences alike but for their uncertainties.)
    """
    preferred = {
        (p.comparison.id, frozenset((p.label.first, p.label.second))): p.label.preferred
        for p in load_labelled_pairs(store, Split.CALIBRATION)
        if p.label.preferred is not None
    }
    found = find_comparisons(store, ids=sorted({cid for cid, _ in preferred}))
    comparisons = [c for c in found if model.find_problem(list_conversations(c)) is None]
    tested = [
        (score.probability, choice != score.chosen, comparison.prompt.family)
        for comparison, score in zip(comparisons, model.score(comparisons))
        if (choice := preferred.get((comparison.id, frozenset((score.chosen, score.rejected))))) is not None
    ]
    confidence = np.array([c for c, _, _ in tested])
    wrong = np.array([w for _, w, _ in tested], dtype=float)
    families = np.array([family for *_, family in tested])
    return choose_threshold(confidence, wrong, families, max_error=config.max_error, delta=config.delta)


def decide_routes(
    scores: Sequence[Score],
    pool: dict[str, Comparison],
    threshold: Threshold,
    config: RoutingConfig,
    round: int,
    draw: Callable[[str, str, int], int],
    ranker: Ranker | None = None,
) -> list[Routing]:
    """Return one decision for each scored comparison of the pool.

    Args:
        draw: `Store.draw`. Routing again draws the same control share, and no rater can tell what was drawn.
        ranker: orders what goes to raters, but for what measures the model.
    """
    ranker = ranker or Ranker()
    measuring = {s.comparison_id for s in scores if pool[s.comparison_id].prompt.split is not Split.TRAIN}
    most = config.control_share * CONTROL_CHOICES
    control = {s.comparison_id for s in scores if draw("control", s.comparison_id, CONTROL_CHOICES) < most} - measuring
    places_in_line = _draw_places(scores, measuring | control, threshold, draw, pool, ranker)
    decisions = []
    for score in scores:
        is_measuring, is_control = score.comparison_id in measuring, score.comparison_id in control
        accepted = score.probability >= threshold.value and not is_measuring
        proposed = Route.AUTO if accepted else Route.HUMAN
        if is_control:
            reason = "drawn at random to measure the model and the router"
        elif is_measuring:
            reason = "its prompt measures the model: raters always judge it"
        elif accepted:
            reason = f"accepted: {threshold.reason}"
        elif threshold.accepts_nothing:
            reason = threshold.reason
        else:
            reason = f"confidence {score.probability:.3f} is below {threshold.value:.3f}"
        if proposed is Route.HUMAN and not is_control and not is_measuring:
            reason += f"; its place in line is by {ranker.rule}"
        decisions.append(
            Routing(
                comparison_id=score.comparison_id,
                route=Route.CONTROL if is_control else proposed,
                proposed=proposed,
                reason=reason,
                reward_model_id=score.reward_model_id,
                round=round,
                place_in_line=places_in_line[score.comparison_id],
            )
        )
    return decisions


def _draw_places(
    scores: Sequence[Score],
    at_random: set[str],
    threshold: Threshold,
    draw: Callable[[str, str, int], int],
    pool: dict[str, Comparison],
    ranker: Ranker,
) -> dict[str, int]:
    """Return each comparison's place in line. Those `at_random` stand anywhere among the others that raters judge: were
    they ranked like the others, a round that ends before the queue does would measure the model on the hardest only."""
    accepted = [
        s.comparison_id for s in scores if s.probability >= threshold.value and s.comparison_id not in at_random
    ]
    places = ranker.rank([s for s in scores if s.comparison_id not in at_random.union(accepted)], pool)
    # What is accepted leaves the queue: were it counted, the end of the queue would be all comparisons at random.
    waiting = len(places) or len(scores)
    places |= {i: len(places) + n for n, i in enumerate(accepted)}
    return places | {i: draw("rank", i, waiting) for i in at_random}
