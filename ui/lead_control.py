"""Who decides on the lead's page: whether models may accept, what audits say of that, and the alerts that stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from rlhf_hitl.routing.audit import AuditWatch, measure_audits
from rlhf_hitl.store import Store
from rlhf_hitl.store.alerts import Alert, list_alerts
from rlhf_hitl.store.audit import Actor
from rlhf_hitl.store.automation import pause_automation, read_automation, resume_automation, say_who
from rlhf_hitl.store.live_learning import read_live_state
from rlhf_hitl.store.projects import list_projects
from rlhf_hitl.types import AutomationState
from rlhf_hitl.ui.dashboard import PageMessage
from rlhf_hitl.visible import make_all_visible

#: For so long the page's button silences an alert; the command line takes any number.
SILENCE_DAYS = 7
ALERTS_SHOWN = 50
AlertNumber = Annotated[int, Field(ge=1, le=2**53)]


class ControlRequest(PageMessage):
    """Of which project the automation is shown; None for all."""

    project: Annotated[str, Field(max_length=80)] | None = None


class AutomationRequest(PageMessage):
    """Whether models may accept in a project from now on."""

    project: str = Field(max_length=80)
    runs: bool


class AlertRequest(PageMessage):
    seq: AlertNumber


def measure_all_audits(store: Store) -> dict[str, AuditWatch]:
    """Return project → what its audits say, as far as raters' outcomes are written."""
    return {project.id: measure_audits(store, project.id) for project in list_projects(store)}


def describe_control(store: Store, watches: Mapping[str, AuditWatch], project: str | None) -> dict[str, Any]:
    """Return the automation of each project, the alerts that stand, and what live learning does (empty where it never
    ran); their sentences are in English."""
    changes = read_automation(store)
    rows = []
    for name, watch in watches.items():
        if project not in (None, name):
            continue
        change = changes.get(name)
        state = AutomationState.RUNNING if change is None else change.state
        row: dict[str, Any] = {"project": name, "state": state.value, "audits": watch.reason}
        row |= {"reason": "", "by": "", "at": None}
        if change is not None:
            row |= {"reason": make_all_visible(change.reason), "by": make_all_visible(say_who(store, change.by))}
            row["at"] = change.at.isoformat()
        rows.append(row)
    alerts = [_describe_alert(store, alert) for alert in list_alerts(store, limit=ALERTS_SHOWN)]
    live = read_live_state(store)
    said = "" if live is None else make_all_visible(str(live))
    return {"automation": rows, "alerts": alerts, "silence_days": SILENCE_DAYS, "live": said}


def change_automation(store: Store, request: AutomationRequest, by: Actor) -> None:
    """Pause or resume a project. Where another lead was first, that is said."""
    change = resume_automation if request.runs else pause_automation
    change(store, request.project, "", by=by)


def _describe_alert(store: Store, alert: Alert) -> dict[str, Any]:
    return {
        "seq": alert.seq,
        "rule": alert.rule.replace("_", " "),
        "message": make_all_visible(alert.message),
        "at": alert.raised_at.isoformat(),
        "seen_by": None if alert.seen_by is None else make_all_visible(say_who(store, alert.seen_by)),
        "silenced_until": None if alert.silenced_until is None else alert.silenced_until.isoformat(),
    }
