"""The rules of alerts: each says of what it is true now. None of them depends on how often it is looked at.

Where a rule tests something again and again, its rate of false alarm is that of all looks together. All but the age of
what waits, and which prompts are newer than a model, go by the order in which things came, so a clock that jumps raises
none of them: the keeper leaves ages alone for a while after a jump, and a prompt dated into the future is no new one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from rlhf_hitl.alerts.config import (
    Agreement,
    AuditBound,
    AutomationStopped,
    GoldAccuracy,
    InterventionRate,
    PromptDrift,
    QueueAge,
    ReviewTime,
    Rules,
)
from rlhf_hitl.config import Settings
from rlhf_hitl.kpi_facts import read_kpi_facts
from rlhf_hitl.kpis import compute_rounds
from rlhf_hitl.labels.rater_evidence import read_outcomes, score_gold
from rlhf_hitl.routing.audit import measure_audits
from rlhf_hitl.stats.confidence_sequence import compute_log_evidence
from rlhf_hitl.stats.two_samples import compare_texts
from rlhf_hitl.store import Store
from rlhf_hitl.store.alert_facts import find_oldest_waiting, read_newest_seconds, read_prompt_samples
from rlhf_hitl.store.alerts import NewAlert
from rlhf_hitl.store.automation import read_automation
from rlhf_hitl.store.checked_answers import CheckedAnswer, load_gold_answers, load_rater_states, read_checked_answers
from rlhf_hitl.store.loop_steps import read_round_ends
from rlhf_hitl.store.projects import list_projects
from rlhf_hitl.types import AutomationState, Role
from rlhf_hitl.wording import say_count

#: The two raters' pairs that a rater is compared with, before there is a usual agreement.
USUAL_FROM = 30


@dataclass
class Facts:
    """What several rules look at, read once."""

    store: Store
    settings: Settings

    @cached_property
    def answers(self) -> list[CheckedAnswer]:
        """The answers of people here, in the order in which they came."""
        working = {id for id, s in self.states.items() if s.role is not Role.JUDGE and not s.source}
        return [a for a in read_checked_answers(self.store, rationales=False) if a.rater_id in working]

    @cached_property
    def states(self):
        return load_rater_states(self.store)


def find_alerts(store: Store, settings: Settings, rules: Rules, *, leave_out: Iterable[str] = ()) -> list[NewAlert]:
    """Return what is true now of the rules that are on, but those to `leave_out`."""
    facts = Facts(store, settings)
    found: list[NewAlert] = []
    for name, find in RULES.items():
        rule = getattr(rules, name)
        if rule is not None and name not in leave_out:
            found += [NewAlert(name, subject, message, figures) for subject, message, figures in find(facts, rule)]
    return found


Found = Iterator[tuple[str, str, dict[str, Any]]]


def _find_stops(facts: Facts, rule: AutomationStopped) -> Found:
    for project, change in read_automation(facts.store).items():
        if change.state is AutomationState.STOPPED:
            yield project, f"Automation of project {project} stopped: {change.reason}", {"seq": change.seq}


def _find_doubtful_bounds(facts: Facts, rule: AuditBound) -> Found:
    for project in list_projects(facts.store):
        watch = measure_audits(facts.store, project.id)
        if not watch.decided or watch.is_broken:
            continue
        share = math.log(watch.evidence) / math.log(watch.alarm)
        if share >= rule.share:
            said = f"Audits of project {project.id} speak against its bound: {watch.reason}"
            yield project.id, said, {"errors": watch.errors, "decided": watch.decided, "evidence": watch.evidence}


def _find_steady_intervention(facts: Facts, rule: InterventionRate) -> Found:
    if len(read_round_ends(facts.store)) < rule.rounds:
        return
    rounds = compute_rounds(read_kpi_facts(facts.store, facts.settings))
    known = [(r.round, r.intervention.value) for r in rounds if r.intervention is not None]
    newest = known[-rule.rounds :]
    rates = [rate for _, rate in newest]
    never_fell = all(later >= earlier for earlier, later in pairwise(rates))
    if len(newest) == rule.rounds and never_fell and rates[-1] > rule.above:
        shown = ", ".join(f"{rate:.0%} in round {n}" for n, rate in newest)
        yield "", f"Raters are asked about no fewer comparisons than before: {shown}", {"rates": rates}


def _find_slow_reviews(facts: Facts, rule: ReviewTime) -> Found:
    seconds = read_newest_seconds(facts.store, rule.newest + rule.before)
    if len(seconds) < rule.newest + rule.before:
        return
    before, newest = median(seconds[: rule.before]), median(seconds[rule.before :])
    if newest >= rule.times * before > 0:
        took = f"{newest:.0f} s for a judgment, the median of the newest {rule.newest:,}"
        yield "", f"Raters take {took}; it was {before:.0f} s", {"seconds": newest, "before": before}


def _find_disagreement(facts: Facts, rule: Agreement) -> Found:
    """Bet, for each rater, that they differ more from others than the others from each other, by `drop`."""
    said: dict[str, list[tuple[str, dict]]] = defaultdict(list)
    differences: dict[str, list[float]] = defaultdict(list)
    bounds: dict[str, list[float]] = defaultdict(list)
    total, events = 0.0, 0
    own: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for answer in facts.answers:
        outcomes = read_outcomes(answer.verdict, answer.ranking, answer.order_shown)
        if not outcomes or answer.purpose is not None or answer.repeat_of is not None:
            continue
        for other, others in said[answer.comparison_id]:
            shared = outcomes.keys() & others.keys()
            if other == answer.rater_id or not shared:
                continue
            difference = sum(abs(outcomes[pair] - others[pair]) / 2 for pair in shared) / len(shared)
            for rater in (answer.rater_id, other):
                # The usual difference is that of pairs without this rater, and of before: what is bet on is not in it.
                without = events - own[rater][1]
                if without >= USUAL_FROM:
                    usual = (total - own[rater][0]) / without
                    differences[rater].append(difference)
                    bounds[rater].append(min(max(usual, 0.01) + rule.drop, 0.99))
            for rater in (answer.rater_id, other):
                own[rater][0] += difference
                own[rater][1] += 1
            total, events = total + difference, events + 1
        said[answer.comparison_id].append((answer.rater_id, outcomes))
    for rater, observed in differences.items():
        if _passes(observed, bounds[rater], rule.false_alarm):
            newest = 1 - float(np.mean(observed[-50:]))
            name = facts.states[rater].name
            message = (
                f"{name} agrees less with others than they with each other: in {newest:.0%} of their newest "
                f"{say_count(len(observed[-50:]), 'shared judgment')}; usual is "
                f"{1 - bounds[rater][-1] + rule.drop:.0%}"
            )
            yield name, message, {"agreement": newest, "shared": len(observed)}


def _find_wrong_on_golds(facts: Facts, rule: GoldAccuracy) -> Found:
    golds = load_gold_answers(facts.store)
    scores: dict[str, list[float]] = defaultdict(list)
    for answer in facts.answers:
        gold = golds.get(answer.repeat_of or answer.comparison_id)
        # Who learns what is wanted fails at first.
        if (
            gold is not None
            and not answer.is_learning
            and read_outcomes(answer.verdict, answer.ranking, answer.order_shown)
        ):
            scores[answer.rater_id].append(score_gold(answer, gold))
    for rater, right in scores.items():
        if _passes([1 - score for score in right], 1 - rule.least, rule.false_alarm):
            newest, name = right[-20:], facts.states[rater].name
            share = sum(newest) / len(newest)
            said = f"{name} is right on {share:.0%} of their newest {say_count(len(newest), 'gold')}"
            yield name, f"{said}; at least {rule.least:.0%} is wanted", {"accuracy": share, "golds": len(right)}


def _passes(observed: list[float], bounds: float | list[float], false_alarm: float) -> bool:
    """Return whether what was observed shows that it is above its bounds now: not at an earlier time only."""
    evidence = compute_log_evidence(np.array(observed), np.array(bounds))
    return len(evidence) > 0 and bool(evidence[-1] >= -math.log(false_alarm))


def _find_old_queues(facts: Facts, rule: QueueAge) -> Found:
    for waiting in find_oldest_waiting(facts.store):
        hours = waiting.age.total_seconds() / 3600
        if hours > rule.hours:
            counted = say_count(waiting.places, "judgment is", "judgments are")
            said = (
                f"In project {waiting.project} something has waited for raters for {hours:,.0f} hours; {counted} wanted"
            )
            yield waiting.project, said, {"hours": hours, "places": waiting.places}


def _find_drift(facts: Facts, rule: PromptDrift) -> Found:
    samples = read_prompt_samples(facts.store, rule.newest)
    if samples is None:
        return
    learnt, new = ([" ".join(m.read_all_text() for m in chat) for chat in s] for s in (samples.learnt, samples.new))
    separation, p_value = compare_texts(learnt, new)
    # Each block is tested once; all together take the rate of false alarm.
    share = 1 / ((samples.block + 1) * (samples.block + 2))
    if separation >= rule.separation and p_value <= rule.false_alarm * share:
        said = (
            f"The newest {rule.newest:,} prompts are others than those that the newest reward model has learnt from: "
            f"by their words, {separation:.0%} of pairs of one of each are told apart (50 % where they are alike)"
        )
        yield "", said, {"separation": separation, "p_value": p_value, "reward_model_id": samples.reward_model_id}


#: Rule → what finds it true. `queue_age` alone goes by the clock.
RULES: dict[str, Callable[[Facts, Any], Found]] = {
    "automation_stopped": _find_stops,
    "audit_bound": _find_doubtful_bounds,
    "intervention_rate": _find_steady_intervention,
    "review_time": _find_slow_reviews,
    "agreement": _find_disagreement,
    "gold_accuracy": _find_wrong_on_golds,
    "queue_age": _find_old_queues,
    "prompt_drift": _find_drift,
}
BY_THE_CLOCK = ("queue_age",)
