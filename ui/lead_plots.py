"""The plots, the groups and the threshold curve of the lead's page, and what a lead demands of automation there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from rlhf_hitl.kpi_changes import find_changes
from rlhf_hitl.kpi_groups import GroupFigures
from rlhf_hitl.kpi_plots import make_curve_plot, make_money_plots, make_trend_plots
from rlhf_hitl.kpi_report import KpiReport
from rlhf_hitl.reward.evaluation_record import Estimate
from rlhf_hitl.routing.threshold_curve import CurveBasis, compute_curve, demand_target
from rlhf_hitl.store import Store
from rlhf_hitl.store.audit import Actor
from rlhf_hitl.store.automation import say_who
from rlhf_hitl.store.projects import list_projects
from rlhf_hitl.store.routing_targets import clear_target, read_targets, say_seen
from rlhf_hitl.ui.dashboard import PageMessage
from rlhf_hitl.visible import make_all_visible

#: Rows of the table of groups; the page says how many are left out.
GROUPS_LIMIT = 60
ProjectName = Annotated[str, Field(max_length=80)]


class PlotsRequest(PageMessage):
    """Over what the trends are, and by what the table groups."""

    by: Literal["day", "round"] = "day"
    group_by: Literal["tag", "project", "rater"] = "tag"


class CurveRequest(PageMessage):
    """Of which project the curve is; None for all."""

    project: ProjectName | None = None


class DemandRequest(PageMessage):
    """What a lead demands in a project. `max_error` is given only where they allow more errors than so far."""

    project: ProjectName
    confidence: Annotated[float, Field(ge=0, le=1)]
    max_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    seen: Annotated[str, Field(max_length=40)] | None = None  # the demand that the page shows


class ClearRequest(PageMessage):
    project: ProjectName


def describe_plots(report: KpiReport, request: PlotsRequest) -> dict[str, Any]:
    """Return the plots, the table of groups and what changed; their texts are in English."""
    groups = report.groups.get(request.group_by, ())
    changes = find_changes(report.groups.get("day", ()), report.currency)
    return {
        "simulated": report.simulated,
        "others": [vars(figure) for figure in report.others],
        "trends": [plot.as_dict() for plot in make_trend_plots(report, request.by)],
        "money": [plot.as_dict() for plot in make_money_plots(report)],
        "sentences": [*report.forecast.lines(report.currency), *([str(report.gains)] if report.gains else [])],
        "groups": [_describe_group(g) for g in groups[:GROUPS_LIMIT]],
        "groups_left_out": max(0, len(groups) - GROUPS_LIMIT),
        "currency": report.currency,
        "changes": None
        if changes is None
        else {"before": changes[0], "now": changes[1], "rows": [vars(change) for change in changes[2]]},
    }


def _describe_group(g: GroupFigures) -> dict[str, Any]:
    return {
        "name": make_all_visible(g.group),
        "done": g.processed,
        "judgments": g.judgments,
        "accuracy": _describe_share(g.accuracy),
        "people": _describe_share(g.intervention),
        "same": _describe_share(g.agreement),
        "newest": _describe_share(g.newest_agreement),
        "is_slipping": g.is_slipping,
        "seconds": g.review and g.review.mean,
        "p95": g.review and g.review.p95,
        "cost": g.cost_per_comparison,
    }


def _describe_share(share: Estimate | None) -> dict[str, Any] | None:
    return None if share is None else {name: getattr(share, name) for name in ("value", "low", "high", "n")}


def describe_curve(
    store: Store, basis: CurveBasis | None, project: str | None, manual_cost: float | None, currency: str
) -> dict[str, Any]:
    """Return the threshold curve of a project; of all together, where it can only be looked at."""
    projects = [p.id for p in list_projects(store)]
    if project is None and len(projects) == 1:
        project = projects[0]
    if basis is None:
        return {"points": [], "project": project}
    target = None if project is None else read_targets(store).get(project)
    curve = compute_curve(basis, project, manual_cost=manual_cost, target=target)
    demand = target and {
        "confidence": target.min_confidence,
        "max_error": target.max_error,
        "by": make_all_visible(say_who(store, target.by)),
        "at": target.at.isoformat(),
    }
    return {
        "points": [vars(point) for point in curve.points],
        "plot": make_curve_plot(curve, project or "all projects").as_dict() | {"note": ""},
        "now": curve.now if curve.now <= 1 else None,
        "max_error": curve.max_error,
        "delta": curve.delta,
        "tested": curve.tested,
        "prompts": curve.prompts,
        "pool": curve.pool,
        "unlike": curve.unlike,
        "advice": curve.advice,
        "project": project,
        "demand": demand,
        "seen": say_seen(target),
        "manual_cost": manual_cost,
        "currency": currency,
        "routed_at": basis.tested.at.isoformat(),
    }


def demand(store: Store, get_basis: Callable[[], CurveBasis | None], request: DemandRequest, by: Actor) -> None:
    """Demand a confidence, and with it more errors where the lead allows them; an earlier allowance stays.

    Raises:
        BadInput: the labels do not show the bound from there on.
        Conflict: another lead has demanded something else since the page was drawn.
    """
    demanded = {"min_confidence": request.confidence, "max_error": request.max_error, "seen": request.seen}
    demand_target(store, get_basis(), request.project, **demanded, by=by)


def clear_demand(store: Store, request: ClearRequest, by: Actor) -> None:
    """Demand nothing any more in a project."""
    clear_target(store, request.project, by=by)
