"""Route scored comparisons: to raters or to acceptance, with random shares of both that always go to raters.

A control is drawn of all comparisons and measures the model; an audit is drawn of what is accepted and measures that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.reward.labelled_pairs import load_labelled_pairs
from rlhf_hitl.reward.rendering import list_conversations
from rlhf_hitl.routing.audit import watch_audits
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.doubts import Doubts, find_doubts
from rlhf_hitl.routing.gain_record import RoutingGains, save_gains
from rlhf_hitl.routing.ranking import Ranker, find_split_pairs, measure_routing
from rlhf_hitl.routing.rules import count_by_rule
from rlhf_hitl.routing.threshold import Threshold, choose_threshold
from rlhf_hitl.store import Store
from rlhf_hitl.store.automation import read_automation, say_state
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.reward_models import get_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, find_sent_by_leads, read_routings
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.store.witness import read_words_drawn_at_random
from rlhf_hitl.types import AutomationState, Comparison, ErrorBound, Label, Route, Score, Split

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

CONTROL_CHOICES = 2**48  # a draw below a share of these makes a control, or an audit


@dataclass(frozen=True)
class RoutingReport:
    """What was decided.

    Attributes:
        counts: comparisons by route.
        threshold: what the model's confidence had to reach.
        gains: the rule by which raters are asked, with what its labels gain.
        doubts: what warns of the scores.
        halted: a sentence for each project in which nothing is accepted, because its automation does not run.
    """

    counts: dict[str, int]
    threshold: Threshold
    decisions: tuple[Routing, ...]
    gains: RoutingGains
    doubts: Doubts = field(default_factory=Doubts)
    halted: tuple[str, ...] = ()

    @property
    def by_rule(self) -> dict[str, dict[str, int]]:
        """Rule → route → how many comparisons it sent there."""
        return count_by_rule(self.decisions)


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
    those measure it. Nothing is accepted in a project whose automation is paused or stopped; the audits that raters
    have judged are counted first, and may stop it. What a lead has sent to raters is left to them. A decision of a
    round that is applied already, by a run that was stopped, is not made again.

    Args:
        comparison_ids: decide only for these, those of a slice for instance; None for all.
    """
    threshold = calibrate_threshold(store, model, config)
    sent = find_sent_by_leads(store)
    pool = {c.id: c for c in find_comparisons(store, judged=False, ids=comparison_ids) if c.id not in sent}
    scores = [s for s in read_scores(store, model.id) if s.comparison_id in pool]
    watch_audits(store)
    changes = read_automation(store).values()
    halted = {c.project: say_state(store, c) for c in changes if c.state is not AutomationState.RUNNING}
    doubts = find_doubts(model, pool, scores)
    gains = measure_routing(store, model, config.acquisition)
    save_gains(Path(get_reward_model(store, model.id).path), gains)
    seed = store.draw("acquisition", str(round), 2**32)
    ranker = Ranker(gains.rule, config.batch, seed, model, find_split_pairs(store))
    decisions = doubts.explain(decide_routes(scores, pool, threshold, config, round, store.draw, halted, ranker))
    known = _find_applied(store, round)
    new = [d for d in decisions if _identify(d) not in known]
    applied = [*(d for d in decisions if _identify(d) in known), *apply_routings(store, new)]
    found = Counter(d.route for d in applied)
    listed = (Route.HUMAN, Route.CONTROL, Route.AUDIT, Route.AUTO, Route.ESCALATED)
    counts = {r.value: found[r] for r in listed}
    concerned = {c.project for c in pool.values()}
    said = tuple(reason for project, reason in halted.items() if project in concerned)
    return RoutingReport(counts, threshold, tuple(applied), gains, doubts, said)


def _find_applied(store: Store, round: int) -> set[tuple[str, ...]]:
    """Return which decisions a round of the loop has applied; outside the loop, where a lead routes again to have it
    done again, none."""
    return {_identify(d) for d in read_routings(store, round=round)} if round else set()


def _identify(decision: Routing) -> tuple[str, ...]:
    d = decision
    return d.comparison_id, d.route, d.proposed, d.reason, str(d.place_in_line), str(d.reward_model_id)


def calibrate_threshold(store: Store, model: RewardModel, config: RoutingConfig) -> Threshold:
    """Return the threshold that the labels of people support: those of the calibration split, and beside them those
    training labels that came to raters at random, by what heads said that saw nothing of their prompt.

    It is tested on what is decided: the model's choice between its two best completions, where raters prefer one of
    them. The calibration labels are used for the bound alone; the training labels set the temperature as well, which
    shifts all confidences alike. (Heads out of fold learnt from fewer labels than the model, so they are wrong no less
    often than it.)
    """
    calibration = _test_on_calibration(store, model)
    out_of_fold = _test_out_of_fold(store, model)
    confidence, wrong, families = zip(*calibration, *out_of_fold) if calibration or out_of_fold else ((), (), ())
    return choose_threshold(
        np.array(confidence, float),
        np.array(wrong, float),
        np.array(families),
        max_error=config.max_error,
        delta=config.delta,
        out_of_fold=len(out_of_fold),
        forecasts=True,
    )


def _test_on_calibration(store: Store, model: RewardModel) -> list[tuple[float, bool, str]]:
    """Return the confidence, whether raters prefer the other, and the prompt, of the calibration split's labels."""
    preferred = _find_preferred([p.label for p in load_labelled_pairs(store, Split.CALIBRATION)])
    found = find_comparisons(store, ids=sorted({cid for cid, _ in preferred}))
    comparisons = [c for c in found if model.find_problem(list_conversations(c)) is None]
    return [
        (score.probability, choice != score.chosen, comparison.prompt.family)
        for comparison, score in zip(comparisons, model.score(comparisons))
        if (choice := preferred.get((comparison.id, frozenset((score.chosen, score.rejected))))) is not None
    ]


def _test_out_of_fold(store: Store, model: RewardModel) -> list[tuple[float, bool, str]]:
    """Return the same of the training labels that came at random. Comparisons of which not every pair is known are left
    out: which completions are the best two is not known either."""
    words = read_words_drawn_at_random(store, model.id)
    if not words:
        return []
    # Without judges: a threshold is about people's errors, and in the train split judges vote, too.
    preferred = _find_preferred(read_labels(store, split=Split.TRAIN, judges=False))
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
            tested.append((max(probability[best, other], 0.5), choice != best, comparison.prompt.family))
    return tested


def _find_preferred(labels: Iterable[Label]) -> dict[tuple[str, frozenset[str]], str]:
    """Return comparison and pair → the completion that raters prefer, where they prefer one."""
    return {
        (label.comparison_id, frozenset((label.first, label.second))): label.preferred
        for label in labels
        if label.preferred is not None
    }


def decide_routes(
    scores: Sequence[Score],
    pool: dict[str, Comparison],
    threshold: Threshold,
    config: RoutingConfig,
    round: int,
    draw: Callable[[str, str, int], int],
    halted: Mapping[str, str] | None = None,
    ranker: Ranker | None = None,
) -> list[Routing]:
    """Return one decision for each scored comparison of the pool.

    Args:
        draw: `Store.draw`. Routing again draws the same controls and audits, and no rater can tell what was drawn.
        halted: project → why nothing is accepted there, in a sentence.
        ranker: orders what goes to raters, but for what measures the model.
    """
    halted, ranker = halted or {}, ranker or Ranker()
    measuring = {s.comparison_id for s in scores if pool[s.comparison_id].prompt.split is not Split.TRAIN}

    def is_drawn(purpose: str, id: str, share: float) -> bool:
        return draw(purpose, id, CONTROL_CHOICES) < share * CONTROL_CHOICES

    control = {s.comparison_id for s in scores if is_drawn("control", s.comparison_id, config.control_share)}
    control -= measuring
    ruled = {
        s.comparison_id: config.rules.decide(pool[s.comparison_id], s.probability, threshold.value) for s in scores
    }
    sure = {comparison_id for comparison_id, (route, _) in ruled.items() if route is Route.AUTO}
    withheld = {comparison_id for comparison_id in sure if pool[comparison_id].project in halted}
    accepted = sure - measuring - withheld
    audited = {id for id in accepted - control if is_drawn("audit", id, config.audit_share)}
    bound = ErrorBound(config.max_error, config.delta)
    places_in_line = _draw_places(scores, measuring | control | audited, accepted, draw, pool, ranker)
    decisions = []
    for score in scores:
        is_measuring, is_control = score.comparison_id in measuring, score.comparison_id in control
        is_audit, is_withheld = score.comparison_id in audited, score.comparison_id in withheld
        route, said = ruled[score.comparison_id]
        proposed = Route.HUMAN if is_measuring or is_withheld else route
        if is_control:
            reason = "drawn at random to measure the model and the router"
        elif is_measuring:
            reason = "its prompt measures the model: raters always judge it"
        elif is_audit:
            reason = f"accepted, and drawn at random for raters to audit: {threshold.reason}"
        elif proposed is Route.AUTO:
            reason = f"{said}{'; ' if said else ''}accepted: {threshold.reason}"
        elif is_withheld:
            reason = halted[pool[score.comparison_id].project]
        elif said:
            reason = said
        elif threshold.accepts_nothing:
            reason = threshold.reason
        else:
            reason = f"confidence {score.probability:.3f} is below {threshold.value:.3f}"
        if proposed is Route.HUMAN and not (is_control or is_measuring or is_withheld):
            reason += f"; its place in line is by {ranker.rule}"
        decisions.append(
            Routing(
                comparison_id=score.comparison_id,
                route=Route.CONTROL if is_control else Route.AUDIT if is_audit else proposed,
                proposed=proposed,
                reason=reason,
                reward_model_id=score.reward_model_id,
                round=round,
                place_in_line=places_in_line[score.comparison_id],
                bound=bound if is_audit else None,
            )
        )
    return decisions


def _draw_places(
    scores: Sequence[Score],
    at_random: set[str],
    accepted: set[str],
    draw: Callable[[str, str, int], int],
    pool: dict[str, Comparison],
    ranker: Ranker,
) -> dict[str, int]:
    """Return each comparison's place in line. Those `at_random` stand anywhere among the others that raters judge: were
    they ranked like the others, a round that ends before the queue does would measure the model on the hardest only."""
    ranked = [s for s in scores if s.comparison_id not in at_random]
    places = ranker.rank([s for s in ranked if s.comparison_id not in accepted], pool)
    waiting = len(places) or len(scores)
    # What is accepted leaves the queue: were it counted, the end of the queue would be all comparisons at random.
    places |= {s.comparison_id: waiting + n for n, s in enumerate(s for s in ranked if s.comparison_id in accepted)}
    return places | {i: draw("rank", i, waiting) for i in at_random}
