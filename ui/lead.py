"""The lead's page: the five KPIs, the queue, the people, and what the model accepted without them."""

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
from rlhf_hitl.ui.conversation import make_excerpt, make_question_excerpt
from rlhf_hitl.ui.dashboard import mount_dashboard
from rlhf_hitl.ui.pages import load_templates
from rlhf_hitl.visible import make_all_visible

ACCEPTED_EXCERPT_LENGTH = 280  # characters


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""

    def open(sent: Any, caller: Caller) -> dict[str, Any]:
        return {"html": render_overview(store, settings)}

    def escalate(sent: Any, caller: Caller) -> dict[str, Any]:
        send_to_raters(store, caller.rater, str(sent))
        return {"html": render_overview(store, settings)}

    mount_dashboard(app, path, guard, name="lead", calls={"open": open, "escalate": escalate})


def send_to_raters(store: Store, lead: Rater, comparison_id: str) -> None:
    """Have an accepted comparison judged by people after all: a lead's override.

    Raises:
        Conflict: the comparison is not (or no longer) among the newest accepted ones.
    """
    accepted = {a.comparison.id: a for a in views.list_accepted(store)}
    if comparison_id not in accepted:
        raise Conflict("This comparison is not among the newest accepted ones any more. Reload the page.")
    score = accepted[comparison_id].score
    routing = Routing(
        comparison_id,
        Route.ESCALATED,
        Route.AUTO,
        "sent to raters by a lead",
        reward_model_id=score.reward_model_id if score else None,
        decided_by=lead.id,
    )
    apply_routings(store, [routing])


def render_overview(store: Store, settings: Settings) -> str:
    """Return the content of the page as HTML. Everything written by a policy or a person is escaped."""
    kpis = compute_kpi_report(store, settings)
    work = views.load_activity(store)
    staff = [_make_staff_row(rater, work[rater.id]) for rater in people.list_raters(store) if not rater.source]
    imported = sum(w.in_all for w in work.values()) - sum(row["count"] for row in staff)
    places = queue.count_places(store)
    return (
        load_templates()
        .get_template("lead/overview.html")
        .render(
            figures=[_format_figure(figure) for figure in kpis.figures],
            simulated=kpis.simulated,
            places=places,
            total=sum(places.values()),
            staff=sorted(staff, key=lambda row: -row["count"]),
            imported=imported,
            accepted=[_make_accepted_row(accepted) for accepted in views.list_accepted(store)],
        )
    )


def _make_staff_row(rater: Rater, work: views.RaterActivity) -> dict[str, Any]:
    return {
        "name": make_all_visible(rater.name),
        "role": rater.role.value,
        "state": rater.state,
        "count": work.in_all,
        "last": f"{work.judged_at:%Y-%m-%d %H:%M}" if work.judged_at else "never",
    }


def _format_figure(figure: KpiFigure) -> dict[str, Any]:
    if figure.value is None:
        value, bounds = "—", ""
    elif figure.unit == "share":
        value = f"{figure.value:.1%}"
        bounds = f"95 %: {figure.low:.1%} to {figure.high:.1%}" if None not in (figure.low, figure.high) else ""
    else:
        value, bounds = f"{figure.value:,.3g} {figure.unit}", ""
    return {"title": figure.title, "value": value, "bounds": bounds, "note": figure.note}


def _make_accepted_row(accepted: views.AcceptedComparison) -> dict[str, Any]:
    comparison, score = accepted.comparison, accepted.score
    row = {
        "id": comparison.id,
        "asked": make_question_excerpt(comparison.prompt.messages, ACCEPTED_EXCERPT_LENGTH),
        "at": f"{accepted.accepted_at:%Y-%m-%d %H:%M}",
    }
    if score is None:
        return row | {"margin": "—", "uncertainty": "—", "probability": "—", "chosen": "", "rejected": ""}
    return row | {
        "margin": f"{score.margin:.2f}",
        "uncertainty": f"{score.uncertainty:.2f}",
        "probability": f"{score.probability:.0%}",
        "chosen": make_excerpt(comparison.find_completion(score.chosen).text, ACCEPTED_EXCERPT_LENGTH),
        "rejected": make_excerpt(comparison.find_completion(score.rejected).text, ACCEPTED_EXCERPT_LENGTH),
    }
