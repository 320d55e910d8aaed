"""Metrics for Prometheus, and a log line for every request.

Nothing here holds the text of a prompt or a completion, a secret or a name: requests are identified by the pattern of
their path, people by their id.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import prometheus_client
from prometheus_client import CollectorRegistry, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from rlhf_hitl.api.auth import ROLES_OF_PAGE, get_client_address
from rlhf_hitl.api.proxies import get_prefix
from rlhf_hitl.store import Store, queue, webhooks
from rlhf_hitl.store.judgments import read_store_revision

log = logging.getLogger("rlhf_hitl.request")
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})


class ServerMetrics:
    """The metrics of this application, in a registry of its own."""

    def __init__(self, store: Store):
        self.store, self.registry = store, CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = prometheus_client.Counter(
            "rlhf_hitl_requests", "Requests answered.", labels, registry=self.registry
        )
        self.seconds = Histogram("rlhf_hitl_request_seconds", "Time to answer.", ("route",), registry=self.registry)

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format, summed over all processes where several serve one port."""
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry) + generate_latest(StoreMetrics(self.store))


class StoreMetrics:
    """Metrics of the store, read when they are asked for. They are the same in every process, and so never summed."""

    def __init__(self, store: Store):
        self.store = store

    def collect(self) -> Iterator[Metric]:
        places = GaugeMetricFamily("rlhf_hitl_places", "Judgments wanted.", labels=("project", "state"))
        place_counts: Counter[tuple[str, str]] = Counter()
        for lane in queue.count_places_by_lane(self.store):
            for state in ("filled", "leased", "free"):
                place_counts[lane.project, state] += getattr(lane, state)
        for labels, count in sorted(place_counts.items()):
            places.add_metric(labels, count)
        yield places
        revision = read_store_revision(self.store)
        yield GaugeMetricFamily("rlhf_hitl_judgments", "Judgments kept, corrections among them.", revision)
        waiting = webhooks.count_waiting_deliveries(self.store)
        yield GaugeMetricFamily("rlhf_hitl_webhook_deliveries_waiting", "Events still to be delivered.", waiting)


class RequestMonitor:
    """ASGI middleware around the whole application: it gives every request an id, a log line and two metrics."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id, status, start = uuid.uuid4().hex, 500, time.perf_counter()

        async def send_and_note_status(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note_status)
        finally:
            seconds, route = time.perf_counter() - start, _find_route_pattern(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"  # a client can invent methods
            self.metrics.requests.labels(method, route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                fields = {"request_id": request_id, "method": method, "route": route, "status": status}
                fields |= {"ms": round(1000 * seconds, 1), "address": get_client_address(Request(scope))}
                log.info("request", extra=fields)


def _find_route_pattern(scope: Scope) -> str:
    """Return the pattern of the path, never the path itself: an invitation's is a secret, and ids are too many."""
    pattern = getattr(scope.get("route"), "path", "")
    root = scope.get("root_path", "").removeprefix(get_prefix(scope))
    if root.startswith(tuple(ROLES_OF_PAGE)):
        return root
    return root + pattern if pattern else "other"
