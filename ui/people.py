"""The lead's page of people: who works, how much and how fast, and what each of them is offered."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware import Middleware

from rlhf_hitl.api import auth
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store, invitations, people, projects, views
from rlhf_hitl.types import Rater, Role, utc_now
from rlhf_hitl.ui.markdown import visible
from rlhf_hitl.ui.pages import answered, asset, mount_page

DAYS = 14  # of judgments a day


class Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Change(Sent):
    """What is to change of whom; what is left out stays."""

    id: str = Field(max_length=80)
    paused: bool | None = None
    disabled: bool | None = None
    quota: int | None = None  # 0: none
    languages: list[str] | None = Field(None, max_length=100)


class Invitation(Sent):
    role: Role = Field(Role.RATER, strict=False)
    project: str | None = Field(None, max_length=80)
    days: float = Field(7, gt=0, le=365, allow_inf_nan=False)


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""

    def open(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return answered(lambda: everybody(store, caller.rater))

    def change(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return answered(lambda: {"person": change_one(store, caller, Change.model_validate(sent))})

    def invite(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return answered(lambda: {"path": make_invitation(store, caller, Invitation.model_validate(sent))})

    mount_page(
        app,
        path,
        title="People",
        html=asset("people.html"),
        css=asset("dashboard.css") + asset("people.css"),
        script=asset("dashboard.js") + asset("people.js") + "\npeople(element, server);",
        calls={"open": open, "change": change, "invite": invite},
        guard=guard,
    )


def everybody(store: Store, lead: Rater) -> dict[str, Any]:
    """All the page shows: people who sign in, simulated raters, and imported ones by where they are from."""
    known = people.list_raters(store)
    done = views.work(store, days=DAYS)
    member_of: dict[str, list[str]] = {}
    for project, members in projects.list_members(store).items():
        for rater in members:
            member_of.setdefault(rater, []).append(project)
    rows = {
        r.id: person(r, lead) | _work(done[r.id]) | {"projects": sorted(member_of.get(r.id, []))}
        for r in known
        if not r.source
    }
    staff = [r.id for r in known if r.id in rows and not r.simulated]
    imported: dict[str, list[int]] = {}
    for r in known:
        if r.source:
            imported.setdefault(r.source, []).append(done[r.id].in_all)
    return {
        "people": [rows[id] for id in staff],
        "simulated": [rows[r.id] for r in known if r.id in rows and r.simulated],
        "imported": [{"source": visible(s), "raters": len(n), "judged": sum(n)} for s, n in sorted(imported.items())],
        "by_day": [sum(done[id].by_day[i] for id in staff) for i in range(DAYS)],
        "today": utc_now().date().isoformat(),
        "projects": [p.id for p in projects.list_projects(store)],
        "roles": [role.value for role in (Role.RATER, Role.EVALUATOR, Role.LEAD) if auth.may_manage(lead, role)],
    }


def change_one(store: Store, caller: auth.Caller, wanted: Change) -> dict[str, Any]:
    """Change somebody; returns what of their row may be another now."""
    rater = people.get_rater(store, wanted.id)
    auth.check_may_manage(caller.rater, rater.role)
    changed = people.change_rater(store, rater.name, **wanted.model_dump(exclude={"id"}), by=caller.actor)
    return person(changed, caller.rater)


def make_invitation(store: Store, caller: auth.Caller, wanted: Invitation) -> str:
    """Make an invitation; returns its path on this server, told only now."""
    auth.check_may_manage(caller.rater, wanted.role)
    secret = invitations.add_invitation(store, wanted.role, project=wanted.project, days=wanted.days, by=caller.actor)
    return f"invite/{secret}"


def person(rater: Rater, lead: Rater) -> dict[str, Any]:
    """What the page shows of a rater whatever they did. The names are plain text, for the page to escape."""
    return {
        "id": rater.id,
        "name": visible(rater.name),
        "role": rater.role.value,
        "state": rater.state,
        "paused": rater.paused,
        "disabled": rater.disabled,
        "languages": list(rater.languages or []),
        "quota": rater.quota,
        "me": rater.id == lead.id,
        "mine": auth.may_manage(lead, rater.role),  # to change
    }


def _work(done: views.Work) -> dict[str, Any]:
    seen = done.seen_at
    return {
        "today": done.today,
        "all": done.in_all,
        "seconds": done.seconds,
        "seen": seen.isoformat() if seen else None,
    }
