"""The lead's page of people: who works, how much and how fast, and changes of what each of them is given."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import Field
from starlette.middleware import Middleware

from rlhf_hitl.api import auth
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store, invitations, people, projects, views
from rlhf_hitl.types import Rater, Role, utc_now
from rlhf_hitl.ui.dashboard import PageMessage, list_projects, mount_dashboard
from rlhf_hitl.visible import make_all_visible

DAYS = 14  # of the chart of judgments a day


class PersonChange(PageMessage):
    """A change of one person; fields left out stay as they are."""

    id: str = Field(max_length=80)
    paused: bool | None = None
    disabled: bool | None = None
    quota: int | None = None  # 0 removes the quota
    languages: list[str] | None = Field(None, max_length=100)


class InvitationRequest(PageMessage):
    """Which invitation to make."""

    role: Role = Field(Role.RATER, strict=False)
    project: str | None = Field(None, max_length=80)
    days: float = Field(7, gt=0, le=365, allow_inf_nan=False)


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""

    def open(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return load_people(store, caller.rater)

    def change(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return {"person": change_person(store, caller, PersonChange.model_validate(sent))}

    def invite(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return {"path": create_invitation(store, caller, InvitationRequest.model_validate(sent))}

    calls = {"open": open, "change": change, "invite": invite}
    mount_dashboard(app, path, guard, name="people", calls=calls, scripts=("view", "dialogs"))


def load_people(store: Store, lead: Rater) -> dict[str, Any]:
    """Return all the page shows: people who sign in, simulated raters, and imported raters by their source."""
    raters = people.list_raters(store)
    work = views.load_activity(store, days=DAYS)
    projects_of: dict[str, list[str]] = {}
    for project, members in projects.list_members(store).items():
        for rater_id in members:
            projects_of.setdefault(rater_id, []).append(project)
    rows = {
        rater.id: _make_person_row(rater, lead)
        | _make_work_columns(work[rater.id])
        | {"projects": sorted(projects_of.get(rater.id, []))}
        for rater in raters
        if not rater.source
    }
    staff = [rater.id for rater in raters if not rater.source and not rater.simulated]
    judged_by_source: dict[str, list[int]] = {}
    for rater in raters:
        if rater.source:
            judged_by_source.setdefault(rater.source, []).append(work[rater.id].in_all)
    return {
        "people": [rows[rater_id] for rater_id in staff],
        "simulated": [rows[rater.id] for rater in raters if not rater.source and rater.simulated],
        "imported": [
            {"source": make_all_visible(source), "raters": len(judged), "judged": sum(judged)}
            for source, judged in sorted(judged_by_source.items())
        ],
        "by_day": [sum(work[rater_id].by_day[day] for rater_id in staff) for day in range(DAYS)],
        "today": utc_now().date().isoformat(),
        "projects": list_projects(store),
        "roles": [role.value for role in (Role.RATER, Role.EVALUATOR, Role.LEAD) if auth.may_manage(lead, role)],
    }


def change_person(store: Store, caller: auth.Caller, change: PersonChange) -> dict[str, Any]:
    """Change a person and return the part of their row that may differ now."""
    rater = people.get_rater(store, change.id)
    auth.check_may_manage(caller.rater, rater.role)
    changed = people.change_rater(store, rater.name, **change.model_dump(exclude={"id"}), by=caller.actor)
    return _make_person_row(changed, caller.rater)


def create_invitation(store: Store, caller: auth.Caller, request: InvitationRequest) -> str:
    """Create an invitation and return its path on this server, which cannot be read again."""
    auth.check_may_manage(caller.rater, request.role)
    secret = invitations.add_invitation(
        store, request.role, project=request.project, days=request.days, by=caller.actor
    )
    return f"invite/{secret}"


def _make_person_row(rater: Rater, lead: Rater) -> dict[str, Any]:
    """Return the columns of a row that do not depend on work. Names are plain text, for the page to escape."""
    return {
        "id": rater.id,
        "name": make_all_visible(rater.name),
        "role": rater.role.value,
        "state": rater.state,
        "paused": rater.paused,
        "disabled": rater.disabled,
        "languages": list(rater.languages or []),
        "quota": rater.quota,
        "me": rater.id == lead.id,
        "mine": auth.may_manage(lead, rater.role),  # whether the lead may change them
    }


def _make_work_columns(work: views.RaterActivity) -> dict[str, Any]:
    return {
        "today": work.today,
        "all": work.in_all,
        "seconds": work.seconds,
        "seen": work.seen_at.isoformat() if work.seen_at else None,
    }
