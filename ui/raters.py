"""The lead's page of raters as instruments: how reliable each is, what the checks found, and what a lead does about it.

Accounts are on the page of people. `assets/raters/` draws what is here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from statistics import median
from threading import Lock
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import Field
from starlette.middleware import Middleware

from rlhf_hitl.api import auth
from rlhf_hitl.config import Settings
from rlhf_hitl.labels.checks import CHECKS, check_raters, explain
from rlhf_hitl.labels.rater_overview import Measured, RaterFigures, RaterOverview, compute_rater_overview
from rlhf_hitl.store import Store, people
from rlhf_hitl.store.findings import MAX_REASON_LENGTH, Finding, FindingAction, list_findings, overrule_findings
from rlhf_hitl.store.qualifications import list_standings
from rlhf_hitl.types import Rater, Role
from rlhf_hitl.ui.dashboard import PageMessage, list_projects, mount_dashboard
from rlhf_hitl.ui.lead_figures import SharedFigures
from rlhf_hitl.visible import make_all_visible

#: Sessions of the time line, the newest.
SESSIONS_SHOWN = 40
#: The columns that are drawn as a dot with an interval.
PLOTTED = ("reliability", "agreement", "first", "seconds")
#: Overviews of projects that are kept; the one of all is among them.
KEPT_OVERVIEWS = 8

RaterId = Annotated[str, Field(max_length=80)]
ProjectName = Annotated[str, Field(max_length=80)]


class OverviewRequest(PageMessage):
    """Which project's judgments to measure raters by; None: all."""

    project: ProjectName | None = None


class RaterRequest(OverviewRequest):
    """Whose details to show."""

    id: RaterId


class PauseRequest(PageMessage):
    """Whom to offer nothing new, or work again."""

    id: RaterId
    paused: bool


class OverruleRequest(PageMessage):
    """Whose findings to overrule, and why."""

    id: RaterId
    because: str = Field(max_length=MAX_REASON_LENGTH)


class Overviews:
    """The overview of each project that was asked for, computed once for all who look."""

    def __init__(self, store: Store):
        self._store, self._lock = store, Lock()
        self._of_project: dict[str | None, SharedFigures[RaterOverview]] = {}

    def get(self, project: str | None) -> RaterOverview:
        with self._lock:
            if project not in self._of_project and len(self._of_project) >= KEPT_OVERVIEWS:
                self._of_project.clear()
            figures = self._of_project.setdefault(
                project, SharedFigures(lambda: compute_rater_overview(self._store, project))
            )
        return figures.get()[0]


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""
    overviews = Overviews(store)

    def open(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        project = OverviewRequest.model_validate(sent).project
        return load_raters(store, overviews.get(project), caller.rater)

    def detail(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        request = RaterRequest.model_validate(sent)
        return load_detail(store, overviews.get(request.project), request.id)

    def pause(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        request = PauseRequest.model_validate(sent)
        rater = _find_managed(store, caller, request.id)
        people.change_rater(store, rater.name, paused=request.paused, by=caller.actor)
        return {"rater": _load_state(store, request.id, caller.rater)}

    def overrule(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        request = OverruleRequest.model_validate(sent)
        rater = _find_managed(store, caller, request.id)
        overrule_findings(store, rater.name, request.because, by=caller.actor)
        return {"rater": _load_state(store, request.id, caller.rater)}

    def check(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return {"found": len(check_raters(store))}

    calls = {"open": open, "detail": detail, "pause": pause, "overrule": overrule, "check": check}
    mount_dashboard(app, path, guard, name="raters", calls=calls, scripts=("plots", "view", "detail"))


def _find_managed(store: Store, caller: auth.Caller, id: str) -> Rater:
    rater = people.get_rater(store, id)
    if not _may_act(caller.rater, rater):
        auth.check_may_manage(caller.rater, rater.role)
    return rater


def _may_act(lead: Rater, rater: Rater) -> bool:
    """Return whether a lead may pause somebody or overrule what was found: those they manage, and models."""
    return auth.may_manage(lead, rater.role) or rater.role is Role.JUDGE


def load_raters(store: Store, overview: RaterOverview, lead: Rater) -> dict[str, Any]:
    """Return a row for everybody who has judged or against whom a finding stands, and what is usual."""
    standing: dict[str, list[Finding]] = {}
    for finding in list_findings(store):
        if finding.stands:
            standing.setdefault(finding.rater_id, []).append(finding)
    shown = overview.raters.keys() | standing.keys()
    rows = [
        _make_state_columns(rater, standing.get(rater.id, []), lead)
        | _make_figure_columns(overview.raters.get(rater.id))
        for rater in people.list_raters(store)
        if rater.id in shown
    ]
    return {
        "raters": rows,
        "usual": {name: _take_median(row[name] for row in rows) for name in PLOTTED},
        "fitted_at": overview.fitted_at.isoformat() if overview.fitted_at else None,
        "projects": list_projects(store),
        "false_alarm_rate": sum(c.false_alarm_rate for c in CHECKS.values() if c.action is not FindingAction.NONE),
    }


def load_detail(store: Store, overview: RaterOverview, id: str) -> dict[str, Any]:
    """Return what the page shows of one rater: sessions, qualifications, and all findings, overruled ones too."""
    rater = people.get_rater(store, id)
    figures = overview.raters.get(id)
    names = {other.id: other.name for other in people.list_raters(store)}
    sessions = [] if figures is None else list(figures.sessions)[-SESSIONS_SHOWN:]
    return {
        "id": rater.id,
        "sessions": [
            {"at": s.began_at.isoformat(), "judgments": s.judgments, "seconds": s.seconds}
            | {"agreement": None if s.agreement is None else asdict(s.agreement)}
            for s in sessions
        ],
        "sessions_left_out": 0 if figures is None else len(figures.sessions) - len(sessions),
        "qualifications": [
            {"project": standing.project, "state": standing.state.value}
            | {"answered": standing.answered, "golds": standing.golds}
            for standing in list_standings(store, id)
        ],
        "estimate": None if figures is None or figures.estimate is None else asdict(figures.estimate),
        "findings": [
            _make_finding(finding)
            | {
                "at": finding.created_at.isoformat(),
                "overruled_at": finding.overruled_at.isoformat() if finding.overruled_at else None,
                "overruled_by": make_all_visible(names.get(finding.overruled_by or "", finding.overruled_by or "")),
                "overruled_because": make_all_visible(finding.overruled_because or ""),
            }
            for finding in reversed(list_findings(store, id))
        ],
    }


def _load_state(store: Store, id: str, lead: Rater) -> dict[str, Any]:
    standing = [finding for finding in list_findings(store, id) if finding.stands]
    return _make_state_columns(people.get_rater(store, id), standing, lead)


def _make_state_columns(rater: Rater, standing: list[Finding], lead: Rater) -> dict[str, Any]:
    """Return what may change while the page is open. Names are plain text, for the page to escape."""
    return {
        "id": rater.id,
        "name": make_all_visible(rater.name),
        "role": rater.role.value,
        "state": rater.state,
        "paused": rater.paused,
        "simulated": rater.simulated,
        "imported": bool(rater.source),
        "judge": rater.role is Role.JUDGE,
        "mine": _may_act(lead, rater),
        "findings": [_make_finding(finding) for finding in standing],
    }


def _make_finding(finding: Finding) -> dict[str, Any]:
    return {
        "seq": finding.seq,
        "check": finding.check,
        "project": finding.project,
        "action": finding.action.value,
        "reason": make_all_visible(explain(finding.check, finding.evidence)),
        "example": make_all_visible(str(finding.evidence.get("example", ""))),
        "p": finding.p_value,
        "rate": finding.false_alarm_rate,
    }


def _make_figure_columns(figures: RaterFigures | None) -> dict[str, Any]:
    if figures is None:
        return dict.fromkeys((*PLOTTED, "golds", "repeats")) | {"judgments": 0}
    estimate = figures.estimate
    reliability = None
    if estimate is not None:
        value, low, high = estimate.reliability
        reliability = {"value": value, "low": low, "high": high, "count": estimate.votes}
    measured = {name: getattr(figures, name) for name in ("agreement", "first", "seconds", "golds", "repeats")}
    return {"judgments": figures.judgments, "reliability": reliability} | {
        name: asdict(figure) if isinstance(figure, Measured) else None for name, figure in measured.items()
    }


def _take_median(figures: Iterable[dict[str, float] | None]) -> float | None:
    known = [figure["value"] for figure in figures if figure is not None]
    return median(known) if known else None
