"""Operations of the scopes `manage` and `task` about golds, qualification, adjudication and assignments."""

from __future__ import annotations

from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.bodies import quality as bodies
from rlhf_hitl.api.bodies.fields import MAX_ITEMS
from rlhf_hitl.api.bodies.task import QualificationOut, lease_to_json
from rlhf_hitl.api.operations.shared import MANY_TEXTS, PathId, ProjectFilter
from rlhf_hitl.api.scoped_routes import ScopedRoutes
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import Conflict
from rlhf_hitl.store import Store, adjudication, assignments, golds, people, qualifications, queue
from rlhf_hitl.store.slices import find_slice_ids
from rlhf_hitl.types import Role

#: Seconds that a request waits for the catalog to see what was added.
MOST_SECONDS = 5.0
LEADS = frozenset({Role.LEAD, Role.ADMIN})


def add_manage_operations(routes: ScopedRoutes, store: Store) -> None:
    """Register the operations of the scope `manage`."""

    @routes("GET", "/golds", response_model=list[bodies.GoldOut])
    def list_golds(caller: Caller, project: ProjectFilter = None, ended: bool = False) -> Any:
        """List golds with their right answers; with `ended` also those that are given to nobody any more."""
        return [bodies.gold_to_json(gold) for gold in golds.list_golds(store, project, ended=ended)]

    @routes(
        "POST",
        "/golds",
        status_code=201,
        response_model=bodies.GoldsAdded,
        body_limits=MANY_TEXTS,
        error_statuses=(404,),
    )
    def add_golds(caller: Caller, body: bodies.GoldsBody) -> Any:
        """Add golds: comparisons with a right answer. Those the project has are in use from now on as sent."""
        made = [gold.to_example(body.project) for gold in body.golds]
        new = golds.add_golds(store, body.project, made, purpose=body.purpose, language=body.language, by=caller.actor)
        return {"golds": len(made), "new": new}

    @routes("POST", "/golds/end", response_model=bodies.GoldsEnded, error_statuses=(404,))
    def end_golds(caller: Caller, body: bodies.GoldIds) -> Any:
        """Give golds to nobody any more. Answers to them still count."""
        return {"ended": golds.end_golds(store, body.project, body.ids, by=caller.actor)}

    @routes(
        "PUT",
        "/projects/{project_id}/qualified/{rater_id}",
        response_model=QualificationOut,
        error_statuses=(404,),
    )
    def grant(caller: Caller, project_id: PathId, rater_id: PathId) -> Any:
        """Let a rater work in a project as if they had passed its qualification now."""
        name = people.get_rater(store, rater_id).name
        return vars(qualifications.grant_qualification(store, name, project_id, by=caller.actor))

    @routes(
        "DELETE",
        "/projects/{project_id}/qualified/{rater_id}",
        response_model=QualificationOut,
        error_statuses=(404,),
    )
    def withdraw(caller: Caller, project_id: PathId, rater_id: PathId) -> Any:
        """End what a rater has passed or failed until now: they are asked again."""
        name = people.get_rater(store, rater_id).name
        return vars(qualifications.withdraw_qualification(store, name, project_id, by=caller.actor))

    @routes("POST", "/adjudications", response_model=bodies.SentOut)
    def send(caller: Caller, body: bodies.AdjudicationBody) -> Any:
        """Have leads decide comparisons. Raters are asked for no more votes on them."""
        return vars(adjudication.send_to_adjudication(store, body.ids, by=caller.actor, reason=body.reason))

    @routes("GET", "/assignments", response_model=list[bodies.AssignmentOut])
    def list_assignments(caller: Caller, rater_id: bodies.Id | None = None, ended: bool = False) -> Any:
        """List the newest assignments, up to 1000: of one rater or of all."""
        return [vars(a) for a in assignments.list_assignments(store, rater_id=rater_id, ended=ended)]

    @routes("POST", "/assignments", response_model=bodies.AssignedOut, error_statuses=(404, 409))
    def assign(caller: Caller, body: bodies.AssignmentBody) -> Any:
        """Reserve comparisons for a rater, first in their line. Those that cannot be are counted by reason.

        A slice of more than a call may name is refused.
        """
        name = people.get_rater(store, body.rater_id).name
        if body.ids is None:
            ids = sorted(find_slice_ids(store, body.slice, seconds=MOST_SECONDS) or ())
            if len(ids) > MAX_ITEMS:
                most = f"This slice has {len(ids):,} comparisons, and a call assigns {MAX_ITEMS:,} at most"
                raise Conflict(f"{most}. Fix: narrow the slice, or use `rlhf-hitl assign`")
        else:
            ids = body.ids
        return vars(assignments.assign(store, name, ids, slice=body.slice, by=caller.actor))

    @routes("POST", "/assignments/end", response_model=bodies.AssignmentsEnded, error_statuses=(404,))
    def end_assignments(caller: Caller, body: bodies.EndAssignmentsBody) -> Any:
        """End assignments of a rater: their places go back to all raters."""
        name = people.get_rater(store, body.rater_id).name
        ended = assignments.end_assignments(store, name, body.ids, slice=body.slice, by=caller.actor)
        return {"ended": ended}


def add_task_operations(routes: ScopedRoutes, store: Store, settings: Settings) -> None:
    """Register the operations of the scope `task`."""

    @routes("POST", "/adjudications/leases", response_model=bodies.DecisionLeases, roles=LEADS)
    def lease_decisions(caller: Caller, body: bodies.DecisionLeaseBody) -> Response:
        """Lease the next comparisons to decide, with the votes on them. A decision is submitted as any judgment is.

        Nobody gets what they have voted on. A skip leaves the decision to another lead.
        """
        leases = queue.lease_many(
            store,
            caller.rater.id,
            body.count,
            seconds=body.seconds or settings.lease_seconds,
            task_filter=queue.TaskFilter(body.project),
            role=Role.LEAD.value,
        )
        described = [
            lease_to_json(lease)
            | {
                "votes": [
                    bodies.vote_to_json(vote, lease.order_shown)
                    for vote in adjudication.load_votes(store, lease.comparison.id)
                ]
            }
            for lease in leases
        ]
        return JSONResponse({"leases": described})

    @routes("GET", "/adjudications", response_model=bodies.AdjudicationCountsOut, roles=LEADS)
    def count_adjudications(caller: Caller, project: ProjectFilter = None) -> Any:
        """Count the comparisons that wait for a decision by a lead, and those that are decided."""
        return vars(adjudication.count_adjudications(store, caller.rater.id, project=project))
