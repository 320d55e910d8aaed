"""The scope `task`: lease comparisons to be judged, and see how the queue stands."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.bodies import task as bodies
from rlhf_hitl.api.operations.shared import PathId
from rlhf_hitl.api.scoped_routes import ScopedRoutes
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store, queue, views
from rlhf_hitl.types import utc_now


def add_operations(routes: ScopedRoutes, store: Store, settings: Settings) -> None:
    @routes("POST", "/leases", response_model=bodies.Leases)
    def lease(caller: Caller, body: bodies.LeaseBody) -> Any:
        """The next comparisons for the caller, those they hold first. An empty list: nothing is left for them."""
        seconds = body.seconds or settings.lease_seconds
        held = queue.lease_many(store, caller.rater.id, body.count, seconds=seconds, task_filter=body.task_filter())
        return JSONResponse({"leases": [bodies.lease_out(one) for one in held]})

    @routes("POST", "/leases/{lease_id}/renew", response_model=bodies.Renewed, error_statuses=(404, 409))
    def renew(caller: Caller, lease_id: PathId, body: bodies.RenewBody) -> Any:
        """Hold a comparison longer. One that ran out is had again if nobody has taken it."""
        until = queue.renew(store, lease_id, caller.rater.id, seconds=body.seconds or settings.lease_seconds)
        return {"id": lease_id, "expires_at": until}

    @routes("DELETE", "/leases/{lease_id}", status_code=204, error_statuses=(404,))
    def release(caller: Caller, lease_id: PathId) -> Response:
        """Give a comparison back unjudged."""
        queue.release(store, lease_id, caller.rater.id)
        return Response(status_code=204)

    @routes("GET", "/queue", response_model=bodies.QueueOut)
    def queue_state(caller: Caller) -> Any:
        """How the queue stands. A rater is told what they did in a day and what is left for them (up to 1000)."""
        if caller.sees_all:
            return bodies.queue_out(queue.count_places_by_lane(store))
        tally = views.tally(store, caller.rater.id, since=utc_now() - timedelta(days=1))
        return {"filled": tally.done, "leased": 0, "free": tally.left, "lanes": []}
