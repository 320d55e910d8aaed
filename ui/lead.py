"""The lead's page: the five figures, the queue, the people, and what the model accepted without them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import Conflict
from rlhf_hitl.kpis import KpiFigure, compute_kpi_report
from rlhf_hitl.store import Store, people, queue, views
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.types import Rater, Route
from rlhf_hitl.ui.conversation import excerpt, question_excerpt
from rlhf_hitl.ui.markdown import visible
from rlhf_hitl.ui.pages import answered, asset, mount_page, templates

EXCERPT = 280


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""

    def open(sent: Any, caller: Caller) -> dict[str, Any]:
        return answered(lambda: {"html": overview(store, settings)})

    def escalate(sent: Any, caller: Caller) -> dict[str, Any]:
        def do() -> dict[str, Any]:
            send_to_raters(store, caller.rater, str(sent))
            return {"html": overview(store, settings)}

        return answered(do)

    mount_page(
        app,
        path,
        title="Lead",
        html=asset("lead.html"),
        css=asset("dashboard.css") + asset("lead.css"),
        script=asset("dashboard.js") + asset("lead.js") + "\nlead(element, server);",
        calls={"open": open, "escalate": escalate},
        guard=guard,
    )


def send_to_raters(store: Store, lead: Rater, comparison_id: str) -> None:
    """A lead's override: an accepted comparison is judged by people after all.

    Raises:
        Conflict: it is not an accepted one (any more).
    """
    known = {a.comparison.id: a for a in views.accepted(store)}
    if comparison_id not in known:
        raise Conflict("This comparison is not among the newest accepted ones any more. Reload the page.")
    score = known[comparison_id].score
    decision = Routing(
        comparison_id,
        Route.ESCALATED,
        Route.AUTO,
        "sent to raters by a lead",
        reward_model_id=score.reward_model_id if score else None,
        decided_by=lead.id,
    )
    apply_routings(store, [decision])


def overview(store: Store, settings: Settings) -> str:
    """The page's content as HTML. Everything written by a policy or a person is escaped."""
    watched = compute_kpi_report(store, settings)
    everyone = people.list_raters(store)
    done = views.work(store)
    staff = [
        {"name": visible(r.name), "role": r.role.value, "state": r.state, "count": done[r.id].in_all,
         "last": f"{at:%Y-%m-%d %H:%M}" if (at := done[r.id].judged_at) else "never"}
        for r in everyone
        if not r.source
    ]  # fmt: skip
    outside = sum(w.in_all for w in done.values()) - sum(row["count"] for row in staff)
    places = queue.state(store)
    page = templates().get_template("lead_overview.html")
    return page.render(
        figures=[_figure(f) for f in watched.figures],
        simulated=watched.simulated,
        places=places,
        total=sum(places.values()),
        staff=sorted(staff, key=lambda row: -row["count"]),
        outside=outside,
        accepted=[_accepted(a) for a in views.accepted(store)],
    )


def _figure(figure: KpiFigure) -> dict[str, Any]:
    if figure.value is None:
        value, bounds = "—", ""
    elif figure.unit == "share":
        value = f"{figure.value:.1%}"
        bounds = f"95 %: {figure.low:.1%} to {figure.high:.1%}" if None not in (figure.low, figure.high) else ""
    else:
        value, bounds = f"{figure.value:,.3g} {figure.unit}", ""
    return {"title": figure.title, "value": value, "bounds": bounds, "note": figure.note}


def _accepted(row: views.Accepted) -> dict[str, Any]:
    score = row.score
    asked = question_excerpt(row.comparison.prompt.messages, EXCERPT)
    out = {"id": row.comparison.id, "asked": asked, "at": f"{row.accepted_at:%Y-%m-%d %H:%M}"}
    if score is None:
        return out | {"margin": "—", "uncertainty": "—", "probability": "—", "chosen": "", "rejected": ""}
    return out | {
        "margin": f"{score.margin:.2f}",
        "uncertainty": f"{score.uncertainty:.2f}",
        "probability": f"{score.probability:.0%}",
        "chosen": excerpt(row.comparison.find_completion(score.chosen).text, EXCERPT),
        "rejected": excerpt(row.comparison.find_completion(score.rejected).text, EXCERPT),
    }
