"""Check raters by their answers, write down what is found, and act upon it by a stated policy.

Each check has a rate of false alarm: the share of raters who work as asked whom it accuses some day, however often one
looks. The rates of the checks that act add up to 1 %. A finding says which check, what was seen, and what was done; a
lead may overrule it, and the same evidence is not held against the rater again. No judgment is changed or deleted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rlhf_hitl.store import Store
from rlhf_hitl.store.checked_answers import (
    CheckedAnswer,
    GoldAnswer,
    RaterState,
    load_gold_answers,
    load_rater_states,
    load_text_lengths,
    read_checked_answers,
)
from rlhf_hitl.store.findings import Finding, FindingAction, NewFinding, add_evidence, add_findings, list_findings
from rlhf_hitl.types import Role, utc_now

if TYPE_CHECKING:
    from rlhf_hitl.labels.rater_evidence import Evidence


@dataclass(frozen=True)
class Check:
    """A check, its rate of false alarm over raters who work as asked, and what it leads to for people."""

    name: str
    false_alarm_rate: float
    action: FindingAction


#: What speaks against a rater's honesty pauses them; what speaks against their care makes their votes count less; a
#: rater who tires is told to nobody but the lead.
CHECKS = {
    check.name: check
    for check in (
        Check("random", 0.0065, FindingAction.PAUSED),
        Check("one_side", 0.0005, FindingAction.PAUSED),
        Check("gold", 0.001, FindingAction.PAUSED),
        Check("too_fast", 0.0005, FindingAction.PAUSED),
        Check("copied", 0.0005, FindingAction.PAUSED),
        Check("repeats", 0.0005, FindingAction.DOWN_WEIGHTED),
        Check("cycles", 0.0005, FindingAction.DOWN_WEIGHTED),
        Check("fatigue", 0.01, FindingAction.NONE),
    )
}


#: Under which name an overruled finding keeps the evidence of its check at that time.
KNOWN_WHEN_OVERRULED = "known_when_overruled"


def choose_action(check: Check, rater: RaterState) -> FindingAction:
    """Return what a finding leads to.

    Only people who are offered work can be paused. A model's votes count less, but only a lead pauses it: it is
    measured against people anyway, and its budget bounds what it costs. Imported raters are offered nothing. Against
    leads and admins a finding is written, and nothing is done: it is for them to judge.
    """
    if rater.role in (Role.LEAD, Role.ADMIN, Role.EVALUATOR):
        return FindingAction.NONE
    if check.action is FindingAction.PAUSED and (rater.role is Role.JUDGE or rater.source):
        return FindingAction.DOWN_WEIGHTED
    return check.action


def check_raters(store: Store) -> list[Finding]:
    """Run all checks over the answers of a store, write what is new, and act upon it. Returns the new findings."""
    answers = list(read_checked_answers(store))
    if not answers:
        return []
    states = load_rater_states(store)
    session = _Session(store, answers, states)
    former = list_findings(store)
    standing = {(f.rater_id, f.check, f.project) for f in former if f.stands}
    overruled = {(f.rater_id, f.check, f.project): f for f in former if not f.stands}  # the newest of each
    found = []
    for evidence in session.collect(None):
        check = CHECKS[evidence.check]
        threshold = -math.log(check.false_alarm_rate)
        for number in (evidence.logs >= threshold).nonzero()[0].tolist():
            rater = states[session.raters[number]]
            key = (rater.id, check.name, evidence.project)
            if key in standing:
                continue
            log_evidence = float(evidence.logs[number])
            if key in overruled:
                # What was known when a lead overruled it does not count again: an e-value that goes on from there.
                log_evidence -= max(session.weigh_when_overruled(overruled[key]), 0.0)
                if log_evidence < threshold:
                    continue
            facts = evidence.describe(number) | {"upto": answers[-1].seq}
            found.append(
                NewFinding(
                    rater.id,
                    evidence.project,
                    check.name,
                    round(log_evidence, 4),
                    min(1.0, math.exp(-log_evidence)),
                    check.false_alarm_rate,
                    facts,
                    choose_action(check, rater),
                    explain(check.name, facts),
                )
            )
    return add_findings(store, found) if found else []


class _Session:
    """The answers that one run reads, and the evidence of all of them or of those up to a time."""

    def __init__(self, store: Store, answers: Sequence[CheckedAnswer], states: dict[str, RaterState]):
        self.store, self.answers = store, answers
        self.raters = sorted({answer.rater_id for answer in answers})
        self.sources = {id: states[id].source for id in self.raters}
        self.golds: dict[str, GoldAnswer] = load_gold_answers(store)
        self.timed = {id for id in self.raters if not states[id].source and states[id].role is not Role.JUDGE}
        has_times = any(answer.seconds and answer.rater_id in self.timed for answer in answers)
        self.lengths = load_text_lengths(store) if has_times else ({}, {})
        self._until: dict[datetime, dict[tuple[str, str, str | None], float]] = {}

    def collect(self, until: datetime | None) -> list[Evidence]:
        from rlhf_hitl.labels.rater_evidence import CheckedAnswers, collect_evidence

        answers = self.answers if until is None else [a for a in self.answers if a.created_at <= until]
        checked = CheckedAnswers(answers, self.golds, self.sources)
        rates = {name: check.false_alarm_rate for name, check in CHECKS.items()}
        return collect_evidence(checked, self.lengths, self.timed, rates, until or utc_now())

    def weigh_when_overruled(self, finding: Finding) -> float:
        """Return what the check said of the rater when a lead overruled it.

        It is computed once and kept with the finding: it needs the checks of all answers until then.
        """
        known = finding.evidence.get(KNOWN_WHEN_OVERRULED)
        if known is not None:
            return known
        time = finding.overruled_at
        assert time is not None, "it does not stand"
        if time not in self._until:
            self._until[time] = {
                (rater, evidence.check, evidence.project): float(log)
                for evidence in self.collect(time)
                for rater, log in zip(self.raters, evidence.logs, strict=True)
            }
        known = self._until[time].get((finding.rater_id, finding.check, finding.project), 0.0)
        add_evidence(self.store, finding.seq, {KNOWN_WHEN_OVERRULED: known})
        return known


def explain(check: str, facts: Mapping[str, Any]) -> str:
    """Return what a check found, in one sentence for leads."""
    return _EXPLANATIONS[check](facts)


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{100 * share:.0f} %"


def _explain_random(facts: Mapping[str, Any]) -> str:
    agreement, usual = facts["agreement"], facts["usual"]
    text = f"The {facts['votes']:,} answers "
    # So little agreement is no chance: somebody may have mixed up the sides, and a lead can ask.
    is_contrary = agreement is not None and usual is not None and agreement < usual / 4
    text += "go against those of others" if is_contrary else "do not depend on what is judged, as far as can be seen"
    # Whoever always gives the same answer may agree as often as others do: then the share says nothing to a lead.
    if agreement is not None and (usual is None or agreement < usual):
        text += f": {_percent(agreement)} of others' votes on the same pairs say the same"
        text += f" (usually {_percent(usual)})" if usual is not None else ""
    elif agreement is not None:
        text += ": where others agree, the answers are no likelier to be theirs than where they differ"
    return f"{text}."


def _explain_one_side(facts: Mapping[str, Any]) -> str:
    what = {"first": "the answer shown first", "last": "the answer shown last", "tie": "a tie"}[facts["answer"]]
    share, usual = _percent(facts["share"]), _percent(facts["usual"])
    return f"Chose {what} in {share} of {facts['votes']:,} votes, whatever it said (all together: {usual})."


def _explain_gold(facts: Mapping[str, Any]) -> str:
    wanted = _percent(facts["mark"])
    return f"Answered {facts['right']:g} of {facts['answered']:,} golds right (ties count half); {wanted} are wanted."


def _explain_repeats(facts: Mapping[str, Any]) -> str:
    usual = _percent(facts["usual"])
    share = f"{facts['contradicted']:,} of {facts['repeats']:,}"
    return f"Contradicted themselves in {share} hidden repeats, in which the sides are swapped (all together: {usual})."


def _explain_cycles(facts: Mapping[str, Any]) -> str:
    usual = _percent(facts["usual"])
    return (
        f"Of {facts['triads']:,} threes of answers compared with each other, {facts['cycles']:,} go round in a circle: "
        f"A is better than B, B than C, C than A (all together: {usual}; by coin flips: 25 %)."
    )


def _explain_too_fast(facts: Mapping[str, Any]) -> str:
    return (
        f"Takes {facts['seconds']:.1f} s for a comparison, where others take {facts['typical']:.1f} s, "
        f"and hardly anybody who reads takes less than {facts['floor']:.1f} s."
    )


def _explain_copied(facts: Mapping[str, Any]) -> str:
    others = f", {facts['of_others']:,} of them from others" if facts["of_others"] else ""
    return f"{facts['copies']:,} of {facts['rationales']:,} rationales are copies of earlier ones{others}."


def _explain_fatigue(facts: Mapping[str, Any]) -> str:
    return (
        f"Agrees less with others the longer a session lasts, over {facts['sessions']:,} sessions. Offer shorter ones."
    )


_EXPLANATIONS = {
    "random": _explain_random,
    "one_side": _explain_one_side,
    "gold": _explain_gold,
    "repeats": _explain_repeats,
    "cycles": _explain_cycles,
    "too_fast": _explain_too_fast,
    "copied": _explain_copied,
    "fatigue": _explain_fatigue,
}
