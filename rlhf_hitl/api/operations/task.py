"""The scope `task`: lease comparisons to be judged, and count what the queue holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.bodies import task as bodies
from rlhf_hitl.api.images import respond_with_image
from rlhf_hitl.api.operations.shared import PathId
from rlhf_hitl.api.scoped_routes import ScopedRoutes
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import Conflict, NotFound
from rlhf_hitl.store import Store, guidelines, qualifications, queue, views
from rlhf_hitl.types import Lease, QualificationState, utc_now


def add_operations(routes: ScopedRoutes, store: Store, settings: Settings) -> None:
    """Register the operations of the scope `task`."""

    def choose_seconds(caller: Caller, asked: float | None) -> float:
        """Return how long a lease lasts: as asked, but a rater's no longer than the server is set to."""
        if asked is None:
            return settings.lease_seconds
        return asked if caller.sees_all else min(asked, settings.lease_seconds)

    searching: dict[str, object] = {}  # raters whose search by tags is running: it may read the whole queue

    @routes("POST", "/leases", response_model=bodies.Leases, error_statuses=(409,))
    def lease(caller: Caller, body: bodies.LeaseBody) -> Any:
        """Lease the next comparisons, those the caller holds already first. The list is empty where none is left."""
        seconds = choose_seconds(caller, body.seconds)
        task_filter, rater_id = body.to_task_filter(by_rater=not caller.sees_all), caller.rater.id
        search = object()
        is_search = bool(task_filter.tags) and task_filter.by_rater
        if is_search and searching.setdefault(rater_id, search) is not search:
            raise Conflict("tags: your search before this one is still running. Fix: wait for its answer")
        try:
            leases = queue.lease_many(store, rater_id, body.count, seconds=seconds, task_filter=task_filter)
        finally:
            if is_search:
                del searching[rater_id]
        if not caller.sees_all:
            leases = [_keep_seen(store, lease) for lease in leases]
        return JSONResponse(
            {
                "leases": [bodies.lease_to_json(lease) for lease in leases],
                "qualifications": [
                    bodies.QualificationOut(**vars(standing)).model_dump(mode="json")
                    for standing in qualifications.list_standings(store, rater_id)
                    if standing.state is not QualificationState.QUALIFIED
                ],
            }
        )

    @routes("POST", "/leases/{lease_id}/renew", response_model=bodies.Renewed, error_statuses=(404, 409))
    def renew(caller: Caller, lease_id: PathId, body: bodies.RenewBody) -> Any:
        """Extend a lease, up to a day after it was given.

        One that has expired is renewed too, unless somebody else has the comparison or you would not be given it now.
        """
        seconds = choose_seconds(caller, body.seconds)
        expires_at = queue.renew(store, lease_id, caller.rater.id, seconds=seconds)
        return {"id": lease_id, "expires_at": expires_at}

    @routes("DELETE", "/leases/{lease_id}", status_code=204, error_statuses=(404,))
    def release(caller: Caller, lease_id: PathId) -> Response:
        """End a lease without a judgment."""
        queue.release(store, lease_id, caller.rater.id)
        return Response(status_code=204)

    @routes(
        "GET",
        "/images/{image_id}",
        error_statuses=(404,),
        response_class=Response,
        responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    def image(caller: Caller, image_id: PathId) -> Response:
        """Return an image as PNG. A rater gets those of the comparisons that they hold."""
        if not caller.sees_all and not queue.holds_image(store, caller.rater.id, image_id):
            raise NotFound(f"image {image_id!r}", expected="one of a comparison that you hold", fix="lease it first")
        return respond_with_image(store, image_id)

    @routes("GET", "/queue", response_model=bodies.QueueOut)
    def queue_state(caller: Caller) -> Any:
        """Count the places of the queue. A rater gets what they judged in the last day, and what is left: 1000 at most.

        What is left is rounded down to tens, and is 1 below ten.
        """
        if caller.sees_all:
            return bodies.queue_to_json(queue.count_places_by_lane(store))
        progress = views.load_progress(store, caller.rater.id, since=utc_now() - timedelta(days=1))
        return {"filled": progress.done, "leased": 0, "free": progress.left, "lanes": []}


def _keep_seen(store: Store, lease: Lease) -> Lease:
    """Return a lease with what its rater sees of the comparison: the guideline may hide reasoning."""
    seen = guidelines.keep_seen_of_comparison(store, lease.comparison, lease.guideline_version)
    return replace(lease, comparison=seen)
