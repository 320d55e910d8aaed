"""Audits: what raters say of accepted comparisons, and the stop of automation where they say it errs too often.

Each accepted comparison is audited with the same chance, whatever it is, for ever (`router.py` draws them). So the
errors among audits are those among all that is accepted, and they are watched by figures that hold whenever somebody
looks (`stats/confidence_sequence.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.labels.kept_fits import load_kept_label_model
from rlhf_hitl.labels.votes import read_votes
from rlhf_hitl.stats.confidence_sequence import compute_error_bounds, compute_log_evidence
from rlhf_hitl.store import Store
from rlhf_hitl.store.audits import count_undecided, list_judged_audits, read_outcomes, write_outcomes
from rlhf_hitl.store.automation import find_watch_start, stop_automation
from rlhf_hitl.store.projects import list_projects
from rlhf_hitl.types import AuditOutcome, AutomationChange
from rlhf_hitl.wording import say_count

#: How many of the newest audits are shown beside all.
NEWEST = 50


@dataclass(frozen=True)
class AuditWatch:
    """What the audits of a project say of what was accepted there, since the start or the last resumption.

    Attributes:
        waiting: audits that raters have not judged yet.
        decided: those on which raters see a difference, which are counted; `ties` are not.
        errors: those of them on which raters prefer what the model rejected.
        lower, upper: the confidence sequence of an error that stays the same; each end is right at all times with
            confidence 1 - `delta`.
        max_error, delta: the bound; of several under which comparisons were accepted, the newest and the smallest.
        evidence: how much the audits speak for an error above its bound.
        peak: the most it has been. Automation stops where that reaches `alarm`.
        newest_errors, newest: among the newest ones that are counted.
        after_decision: from which decision on acceptances are counted.
    """

    project: str
    waiting: int
    decided: int
    ties: int
    errors: int
    lower: float
    upper: float
    max_error: float
    delta: float
    evidence: float
    peak: float
    newest_errors: int
    newest: int
    after_decision: int

    @property
    def alarm(self) -> float:
        return 1 / self.delta

    @property
    def is_broken(self) -> bool:
        """Whether the audits show that the bound does not hold."""
        return self.peak >= self.alarm

    @property
    def reason(self) -> str:
        """What the audits say, in a sentence."""
        if not self.decided:
            return f"no audit is decided yet; {say_count(self.waiting, 'waits', 'wait')} for raters"
        counted = say_count(self.decided, "audited acceptance")
        newest = f", {self.newest_errors:,} of the newest {self.newest:,}" if self.newest < self.decided else ""
        return (
            f"raters prefer the other answer in {self.errors:,} of {counted}{newest}: error {self.lower:.1%} to "
            f"{self.upper:.1%} if it stayed the same; evidence against the bound of {self.max_error:.1%} is "
            f"{self.peak:,.3g} at most, automation stops at {self.alarm:,.3g}"
        )


def watch_audits(store: Store) -> list[AutomationChange]:
    """Count what raters have judged, and stop the automation of projects whose audits break the bound.

    It may be done at any time and as often as one likes. Returns the stops.
    """
    record_outcomes(store)
    stops = []
    for project in list_projects(store):
        watch = measure_audits(store, project.id)
        if watch.is_broken:
            stop = stop_automation(store, project.id, watch.reason, after_decision=watch.after_decision)
            stops += [] if stop is None else [stop]
    return stops


def record_outcomes(store: Store) -> int:
    """Write the outcomes of the audits that raters have judged; returns how many.

    An outcome is what the label says at that moment, by the rater model as it is kept, without the votes of judges. As
    in the labels that the threshold is tested on, a tie shows nothing.
    """
    judged = list_judged_audits(store)
    if not judged:
        return 0
    label_model = load_kept_label_model(store)
    outcomes = {}
    for audit in judged:
        votes = [v for _, of in read_votes(store, judges=False, comparison_id=audit.comparison_id) for v in of]
        labels = label_model.make_labels(audit.comparison_id, votes) if votes else []
        label = next((x for x in labels if {x.first, x.second} == {audit.chosen, audit.rejected}), None)
        if label is None or label.preferred is None:
            outcomes[audit.seq] = AuditOutcome.TIE
        else:
            outcomes[audit.seq] = AuditOutcome.RIGHT if label.preferred == audit.chosen else AuditOutcome.WRONG
    return write_outcomes(store, outcomes)


def measure_audits(store: Store, project: str) -> AuditWatch:
    """Return what the audits of a project say so far."""
    start = find_watch_start(store, project)
    outcomes = read_outcomes(store, project, after_decision=start)
    counted = [o for o in outcomes if o.outcome is not AuditOutcome.TIE]
    found = Counter(o.outcome for o in outcomes)
    wrong = np.array([o.outcome is AuditOutcome.WRONG for o in counted], dtype=float)
    max_error = counted[-1].bound.max_error if counted else math.nan
    # A smaller delta later would else be chosen after the evidence was seen.
    delta = min((o.bound.delta for o in counted), default=math.nan)
    evidence = compute_log_evidence(wrong, np.array([o.bound.max_error for o in counted]))
    lower, upper = compute_error_bounds(found[AuditOutcome.WRONG], len(counted), delta) if counted else (0.0, 1.0)
    return AuditWatch(
        project=project,
        waiting=count_undecided(store, project, after_decision=start),
        decided=len(counted),
        ties=found[AuditOutcome.TIE],
        errors=found[AuditOutcome.WRONG],
        lower=lower,
        upper=upper,
        max_error=max_error,
        delta=delta,
        evidence=math.exp(min(evidence[-1], 700.0)) if counted else 1.0,
        peak=math.exp(min(evidence.max(), 700.0)) if counted else 1.0,
        newest_errors=int(wrong[-NEWEST:].sum()),
        newest=min(NEWEST, len(counted)),
        after_decision=start,
    )
