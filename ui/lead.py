"""The lead's page: the KPIs and their plots, the threshold, automation and alerts, the queue, the people, how they
agree, and what the model accepted without them.

Here are the calls of the page, as data; `assets/lead/` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import Field
from starlette.middleware import Middleware

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.images import make_image_address
from rlhf_hitl.config import Settings
from rlhf_hitl.kpis import compute_kpi_report
from rlhf_hitl.plots import read_script, read_styles
from rlhf_hitl.routing.threshold_curve import read_curve_basis
from rlhf_hitl.store import Store, people, queue, views
from rlhf_hitl.store.accepted import (
    AcceptedComparison,
    AcceptedPage,
    count_accepted,
    count_newer,
    list_accepted,
    load_routes,
    sample_accepted,
)
from rlhf_hitl.store.alerts import see_alert, silence_alert
from rlhf_hitl.store.reward_models import RewardModelRecord, display_name_of_id, keep_day_whole, list_reward_models
from rlhf_hitl.store.routings import send_to_raters
from rlhf_hitl.types import LaneState, Messages, Rater
from rlhf_hitl.types.messages import list_images
from rlhf_hitl.ui.conversation import make_excerpt, make_question_excerpt, read_completion
from rlhf_hitl.ui.dashboard import PageMessage, list_projects, mount_dashboard
from rlhf_hitl.ui.lead_control import (
    SILENCE_DAYS,
    AlertRequest,
    AutomationRequest,
    ControlRequest,
    change_automation,
    describe_control,
    measure_all_audits,
)
from rlhf_hitl.ui.lead_figures import SharedFigures
from rlhf_hitl.ui.lead_plots import (
    ClearRequest,
    CurveRequest,
    DemandRequest,
    PlotsRequest,
    clear_demand,
    demand,
    describe_curve,
    describe_plots,
)
from rlhf_hitl.ui.lead_quality import describe_quality, measure_quality
from rlhf_hitl.ui.message_blocks import ImageAddress
from rlhf_hitl.visible import make_all_visible, make_visible

ACCEPTED_EXCERPT_LENGTH = 280  # characters
IMAGES_SHOWN = 6  # of a prompt or a completion in a row
#: Rows of the two tables; the page says how many are left out.
LANES_LIMIT, PEOPLE_LIMIT = 300, 50
#: Accepted comparisons on one page.
PAGE_SIZE_LIMIT = 50

ProjectName = Annotated[str, Field(max_length=80)]
#: The number of a decision. A script's numbers are whole up to here.
DecisionNumber = Annotated[int, Field(ge=0, le=2**53)]


class OverviewRequest(PageMessage):
    """Which project to show, and what the page shows of the accepted comparisons: ids, and the newest decision."""

    project: ProjectName | None = None
    shown: list[Annotated[str, Field(max_length=80)]] = Field([], max_length=PAGE_SIZE_LIMIT)
    newest: DecisionNumber = 0


class AcceptedRequest(PageMessage):
    """Which accepted comparisons to list: see `list_accepted`."""

    project: ProjectName | None = None
    words: str = Field("", max_length=200)
    before: DecisionNumber | None = None
    limit: int = Field(25, ge=1, le=PAGE_SIZE_LIMIT)
    sample: bool = False  # some drawn at random instead; `words` and `before` are not read then


class EscalationRequest(PageMessage):
    """Which accepted comparison to send to raters."""

    id: str = Field(max_length=80)


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""
    shared_figures = SharedFigures(lambda: compute_kpi_report(store, settings))
    shared_quality = SharedFigures(lambda: measure_quality(store))
    shared_basis = SharedFigures(lambda: read_curve_basis(store))
    shared_watches = SharedFigures(lambda: measure_all_audits(store))

    def open(sent: Any, caller: Caller) -> dict[str, Any]:
        return load_overview(store, OverviewRequest.model_validate(sent))

    def figures(sent: Any, caller: Caller) -> dict[str, Any]:
        report, at = shared_figures.get()
        figures = [vars(figure) for figure in report.figures]
        return {"figures": figures, "simulated": report.simulated, "at": at.isoformat()}

    def plots(sent: Any, caller: Caller) -> dict[str, Any]:
        report, at = shared_figures.get()
        return describe_plots(report, PlotsRequest.model_validate(sent)) | {"at": at.isoformat()}

    def curve(sent: Any, caller: Caller) -> dict[str, Any]:
        (report, _), (basis, at) = shared_figures.get(), shared_basis.get()
        manual_cost = report.savings and report.savings.manual_cost
        project = CurveRequest.model_validate(sent).project
        return describe_curve(store, basis, project, manual_cost, report.currency) | {"at": at.isoformat()}

    def set_demand(sent: Any, caller: Caller) -> dict[str, Any]:
        demand(store, lambda: shared_basis.get()[0], DemandRequest.model_validate(sent), caller.actor)
        return {}

    def end_demand(sent: Any, caller: Caller) -> dict[str, Any]:
        clear_demand(store, ClearRequest.model_validate(sent), caller.actor)
        return {}

    def quality(sent: Any, caller: Caller) -> dict[str, Any]:
        measured, at = shared_quality.get()
        return describe_quality(measured) | {"at": at.isoformat()}

    def accepted(sent: Any, caller: Caller) -> dict[str, Any]:
        image_address = make_image_address(store, caller.rater.id)
        return load_accepted(store, AcceptedRequest.model_validate(sent), image_address)

    def escalate(sent: Any, caller: Caller) -> dict[str, Any]:
        request = EscalationRequest.model_validate(sent)
        override = send_to_raters(store, request.id, by=caller.actor)
        exported = override.exported_at and override.exported_at.isoformat()
        return {"sent": override.sent, "exported": exported}

    def control(sent: Any, caller: Caller) -> dict[str, Any]:
        request = ControlRequest.model_validate(sent)
        watches, at = shared_watches.get()
        return describe_control(store, watches, request.project) | {"at": at.isoformat()}

    def automate(sent: Any, caller: Caller) -> dict[str, Any]:
        change_automation(store, AutomationRequest.model_validate(sent), caller.actor)
        return {}

    def see(sent: Any, caller: Caller) -> dict[str, Any]:
        see_alert(store, AlertRequest.model_validate(sent).seq, by=caller.actor)
        return {}

    def silence(sent: Any, caller: Caller) -> dict[str, Any]:
        silence_alert(store, AlertRequest.model_validate(sent).seq, SILENCE_DAYS, by=caller.actor)
        return {}

    calls = {"open": open, "figures": figures, "quality": quality, "accepted": accepted, "escalate": escalate}
    calls |= {"control": control, "automate": automate, "see": see, "silence": silence}
    calls |= {"plots": plots, "curve": curve, "set_demand": set_demand, "end_demand": end_demand}
    scripts = ("view", "figures", "groups", "threshold", "control", "quality", "sending", "accepted")
    mount_dashboard(app, path, guard, name="lead", calls=calls, scripts=scripts, library=(read_script(), read_styles()))


def load_overview(store: Store, request: OverviewRequest) -> dict[str, Any]:
    """Return the projects, the queue, the people, and what has changed of the accepted comparisons on the page."""
    accepted = count_accepted(store, project=request.project)
    lanes = queue.count_places_by_lane(store, project=request.project)
    projects = list_projects(store)  # last, so that it has the project of every lane
    changes = {
        "total": sum(accepted.values()),
        "newer": count_newer(store, request.newest, project=request.project),
        "routes": {id: route.value for id, route in load_routes(store, request.shown).items()},
    }
    shown_projects = [project for project in projects if request.project in (None, project["id"])]
    queue_state = _describe_queue(lanes, accepted, shown_projects)
    return {"projects": projects, "accepted": changes} | queue_state | _load_people(store)


def _describe_queue(
    lanes: Sequence[LaneState], accepted: Mapping[Any, int], projects: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the queue lane by lane, and its totals. A project into which nothing was imported yet has a row, too."""
    states: dict[tuple[str, str | None, str], LaneState] = {
        (state.project, state.language, state.batch): state for state in lanes
    }
    by_id = {project["id"]: project for project in projects}
    keys = states.keys() | accepted.keys()
    empty = by_id.keys() - {project for project, _, _ in keys}
    rows: list[tuple[str, str | None, str]] = [*keys, *((project, None, "") for project in empty)]
    rows.sort(key=lambda key: (key[0], key[2], key[1] or ""))
    total = queue.sum_places(lanes)
    return {
        "lanes": [
            _make_lane_row(key, by_id[key[0]], states.get(key), accepted.get(key, 0)) for key in rows[:LANES_LIMIT]
        ],
        "lanes_left_out": max(0, len(rows) - LANES_LIMIT),
        "totals": {
            "open": total["free"],
            "held": total["leased"],
            "done": total["filled"],
            "open_paused": sum(state.free for state in lanes if state.paused),
        },
    }


def _make_lane_row(
    key: tuple[str, str | None, str], project: dict[str, Any], state: LaneState | None, accepted: int
) -> dict[str, Any]:
    return {
        "project": key[0],
        "language": None if key[1] is None else make_all_visible(key[1]),
        "batch": make_all_visible(key[2]),
        "paused": project["paused"],
        "members_only": not project["open"],
        "overlap_rule": project["overlap_rule"],
        "open": state.free if state else 0,
        "held": state.leased if state else 0,
        "done": state.filled if state else 0,
        "accepted": accepted,
    }


def _load_people(store: Store) -> dict[str, Any]:
    """Return those who have judged most, the number of all who sign in or are simulated, and the imported judgments."""
    work = views.load_activity(store)
    staff = [rater for rater in people.list_raters(store) if not rater.source]
    staff.sort(key=lambda rater: -work[rater.id].in_all)
    imported = sum(w.in_all for w in work.values()) - sum(work[rater.id].in_all for rater in staff)
    rows = [_make_person_row(rater, work[rater.id]) for rater in staff[:PEOPLE_LIMIT]]
    return {"people": rows, "people_count": len(staff), "imported": imported}


def _make_person_row(rater: Rater, work: views.RaterActivity) -> dict[str, Any]:
    return {
        "id": rater.id,
        "name": make_all_visible(rater.name),
        "role": rater.role.value,
        "state": rater.state,
        "judged": work.in_all,
        "last": work.judged_at.isoformat() if work.judged_at else None,
    }


def load_accepted(store: Store, request: AcceptedRequest, image_address: ImageAddress) -> dict[str, Any]:
    """Return a page of the accepted comparisons, from where to go on, and how many there are of the project."""
    if request.sample:
        drawn = sample_accepted(store, project=request.project, limit=request.limit)
        page = AcceptedPage(drawn, len(drawn), None)
    else:
        page = list_accepted(
            store, project=request.project, words=request.words, before=request.before, limit=request.limit
        )
    models = list_reward_models(store)
    return {
        "rows": [_make_accepted_row(accepted, models, image_address) for accepted in page.rows],
        "before": page.before,
        "looked_at": page.looked_at,
        "total": sum(count_accepted(store, project=request.project).values()),
    }


def _make_accepted_row(
    accepted: AcceptedComparison, models: Sequence[RewardModelRecord], image_address: ImageAddress
) -> dict[str, Any]:
    """Return a row; its texts are excerpts, as they were written, for the page to escape."""
    comparison, score = accepted.comparison, accepted.score
    row = {
        "id": comparison.id,
        "seq": accepted.seq,
        "asked": make_question_excerpt(comparison.prompt.messages, ACCEPTED_EXCERPT_LENGTH),
        "asked_images": _list_images(comparison.prompt.messages, image_address),
        "project": comparison.project,
        "at": accepted.accepted_at.isoformat(),
    }
    if score is None:
        return row | dict.fromkeys(("model", "margin", "uncertainty", "probability", "chosen", "rejected"))
    chosen, rejected = (comparison.find_completion(id).messages for id in (score.chosen, score.rejected))
    return row | {
        "model": keep_day_whole(display_name_of_id(score.reward_model_id, models)),
        "margin": score.margin,
        "uncertainty": score.uncertainty,
        "probability": score.probability,
        "chosen": make_excerpt(read_completion(chosen), ACCEPTED_EXCERPT_LENGTH),
        "rejected": make_excerpt(read_completion(rejected), ACCEPTED_EXCERPT_LENGTH),
        "chosen_images": _list_images(chosen, image_address),
        "rejected_images": _list_images(rejected, image_address),
    }


def _list_images(messages: Messages, image_address: ImageAddress) -> list[dict[str, str]]:
    """Return the addresses of the first images of a conversation, with what describes them."""
    first = islice(list_images(messages), IMAGES_SHOWN)
    return [{"address": image_address(image.id), "alt": make_visible(image.alt)} for image in first]
