"""Route scored comparisons: to raters or to acceptance, with random shares of both that always go to raters.

A control is drawn of all comparisons and measures the model; an audit is drawn of what is accepted and measures that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_hitl.routing.acceptance import Acceptance, choose_acceptance
from rlhf_hitl.routing.audit import watch_audits
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.doubts import Doubts, find_doubts
from rlhf_hitl.routing.gain_record import RoutingGains, save_gains
from rlhf_hitl.routing.ranking import Ranker, find_split_pairs, measure_routing
from rlhf_hitl.routing.rules import count_by_rule
from rlhf_hitl.routing.threshold import Threshold
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.reward_models import get_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, find_sent_by_leads, read_routings
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.types import Comparison, ErrorBound, Route, Score, Split

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

CONTROL_CHOICES = 2**48  # a draw below a share of these makes a control, or an audit


@dataclass(frozen=True)
class RoutingReport:
    """What was decided.

    Attributes:
        counts: comparisons by route.
        acceptance: what might be accepted, and from which confidence on.
        gains: the rule by which raters are asked, with what its labels gain.
        doubts: what warns of the scores.
        projects: those in which something was decided.
        confirmed: accepted comparisons that the model alone was not sure enough of: judges confirmed them.
        sent_by_leads: comparisons that stay with raters because a lead sent them there.
    """

    counts: dict[str, int]
    acceptance: Acceptance
    decisions: tuple[Routing, ...]
    gains: RoutingGains
    doubts: Doubts = field(default_factory=Doubts)
    projects: frozenset[str] = frozenset()
    confirmed: int = 0
    sent_by_leads: int = 0

    @property
    def threshold(self) -> Threshold:
        """What the model's confidence had to reach where no lead demands another."""
        return self.acceptance.threshold

    @property
    def demanded(self) -> dict[str, Threshold]:
        """Project → the threshold there, where a lead demands another."""
        return {name: of for name, of in self.acceptance.demanded.items() if name in self.projects}

    @property
    def halted(self) -> tuple[str, ...]:
        """A sentence for each project in which nothing is accepted, because its automation does not run."""
        return tuple(reason for name, reason in self.acceptance.halted.items() if name in self.projects)

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
    """Decide for every comparison that this model has scored and no person has judged, and apply the decisions.

    Only training prompts can be accepted by the model: raters always judge calibration and held-out prompts, because
    those measure it. Nothing is accepted in a project whose automation is paused or stopped; the audits that raters
    have judged are counted first, and may stop it. What a lead has sent to raters is left to them. A decision of a
    round that is applied already, by a run that was stopped, is not made again.

    Args:
        comparison_ids: decide only for these, those of a slice for instance; None for all.
    """
    sent = find_sent_by_leads(store)
    waiting = {c.id: c for c in find_comparisons(store, judged_by_people=False, promotions=False, ids=comparison_ids)}
    pool = {id: c for id, c in waiting.items() if id not in sent}
    scores = [s for s in read_scores(store, model.id) if s.comparison_id in pool]
    watch_audits(store)
    acceptance = choose_acceptance(store, model, config, scores)
    doubts = find_doubts(model, pool, scores, min(acceptance.bar.value, model.head.usual_uncertainty))
    gains = measure_routing(store, model, config.acquisition)
    save_gains(Path(get_reward_model(store, model.id).path), gains)
    seed = store.draw("acquisition", str(round), 2**32)
    ranker = Ranker(gains.rule, config.batch, seed, model, find_split_pairs(store))
    decisions = doubts.explain(decide_routes(scores, pool, acceptance, config, round, store.draw, ranker))
    known = _find_applied(store, round)
    new = [d for d in decisions if _identify(d) not in known]
    applied = [*(d for d in decisions if _identify(d) in known), *apply_routings(store, new)]
    by_route = Counter(d.route for d in applied)
    listed = (Route.HUMAN, Route.CONTROL, Route.AUDIT, Route.AUTO, Route.ESCALATED)
    by_judges = {s.comparison_id for s in scores if acceptance.weigh(s, pool[s.comparison_id].project).judges}
    return RoutingReport(
        {route.value: by_route[route] for route in listed},
        acceptance,
        tuple(applied),
        gains,
        doubts,
        frozenset(c.project for c in pool.values()),
        sum(d.accepts and d.comparison_id in by_judges for d in applied),
        len(waiting) - len(pool),
    )


def _find_applied(store: Store, round: int) -> set[tuple[str, ...]]:
    """Return which decisions a round of the loop has applied; outside the loop, where a lead routes again to have it
    done again, none."""
    return {_identify(d) for d in read_routings(store, round=round)} if round else set()


def _identify(decision: Routing) -> tuple[str, ...]:
    d = decision
    return d.comparison_id, d.route, d.proposed, d.reason, str(d.place_in_line), str(d.reward_model_id)


def decide_routes(
    scores: Sequence[Score],
    pool: dict[str, Comparison],
    acceptance: Acceptance,
    config: RoutingConfig,
    round: int,
    draw: Callable[[str, str, int], int],
    ranker: Ranker | None = None,
) -> list[Routing]:
    """Return one decision for each scored comparison of the pool.

    Args:
        draw: `Store.draw`. Routing again draws the same controls and audits, and no rater can tell what was drawn.
        ranker: orders what goes to raters, but for what measures the model.
    """
    halted, ranker = acceptance.halted, ranker or Ranker()
    measuring = {s.comparison_id for s in scores if pool[s.comparison_id].prompt.split is not Split.TRAIN}

    def is_drawn(purpose: str, id: str, share: float) -> bool:
        return draw(purpose, id, CONTROL_CHOICES) < share * CONTROL_CHOICES

    control = {s.comparison_id for s in scores if is_drawn("control", s.comparison_id, config.control_share)}
    control -= measuring
    standings = {s.comparison_id: acceptance.weigh(s, pool[s.comparison_id].project) for s in scores}
    unlike = {s.comparison_id for s in scores if s.uncertainty > acceptance.bar.value}
    ruled = {
        id: config.rules.decide(pool[id], standing.confidence, standing.threshold.value, is_unlike=id in unlike)
        for id, standing in standings.items()
    }
    sure = {comparison_id for comparison_id, (route, _) in ruled.items() if route is Route.AUTO}
    withheld = {comparison_id for comparison_id in sure if pool[comparison_id].project in halted}
    accepted = sure - measuring - withheld
    audited = {id for id in accepted - control if is_drawn("audit", id, config.audit_share)}
    places_in_line = _draw_places(scores, measuring | control | audited, accepted, draw, pool, ranker)
    decisions = []
    for score in scores:
        is_measuring, is_control = score.comparison_id in measuring, score.comparison_id in control
        is_audit, is_withheld = score.comparison_id in audited, score.comparison_id in withheld
        (route, said), standing = ruled[score.comparison_id], standings[score.comparison_id]
        proposed = Route.HUMAN if is_measuring or is_withheld else route
        if is_control:
            reason = "drawn at random to measure the model and the router"
        elif is_measuring:
            reason = "its prompt measures the model: raters always judge it"
        elif is_audit:
            reason = f"accepted, and drawn at random for raters to audit: {standing}"
        elif proposed is Route.AUTO:
            reason = f"{said}{'; ' if said else ''}accepted: {standing}"
        elif is_withheld:
            reason = halted[pool[score.comparison_id].project]
        else:
            reason = said or str(standing)
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
                bound=ErrorBound(standing.threshold.max_error, standing.threshold.delta) if is_audit else None,
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
