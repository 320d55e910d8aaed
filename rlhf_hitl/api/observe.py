"""What is seen from outside: a line a request, figures for Prometheus, and whether the server is fit to work.

Nothing here holds the text of a prompt or a completion, a secret or a name: requests are known by the pattern of
their path, people by their id.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from rlhf_hitl.api.auth import PAGES
from rlhf_hitl.store import Store, StoreFailure, queue, webhooks
from rlhf_hitl.store.judgments import store_revision

log = logging.getLogger("rlhf_hitl.request")
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line, with what was given as `extra`."""

    OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in self.OWN}
        if record.exc_info:
            # Where it broke and of what kind; an exception's words may quote what a user sent.
            kind, _, trace = record.exc_info
            frames = []
            while trace is not None:
                code = trace.tb_frame.f_code
                frames.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}:{code.co_name}")
                trace = trace.tb_next
            line |= {"error": kind.__name__ if kind else "", "trace": frames[-12:]}
        return json.dumps(line, ensure_ascii=False, default=str)


def log_as_json() -> None:
    """Every log line of this process as JSON on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("rlhf_hitl").setLevel(logging.INFO)  # others' lines may hold whole addresses


class Metrics:
    """This application's figures, in a registry of its own."""

    def __init__(self, store: Store):
        self.store, self.registry = store, CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = prometheus_client.Counter(
            "rlhf_hitl_requests", "Requests answered.", labels, registry=self.registry
        )
        self.seconds = Histogram("rlhf_hitl_request_seconds", "Time to answer.", ("route",), registry=self.registry)

    def text(self) -> bytes:
        """The figures in Prometheus' text format; those of all processes where several serve one port."""
        figures = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            figures = CollectorRegistry()
            multiprocess.MultiProcessCollector(figures)
        return generate_latest(figures) + generate_latest(StoreFigures(self.store))


class StoreFigures:
    """What the store holds, read when it is asked for: the same whichever process answers, and never added up."""

    def __init__(self, store: Store):
        self.store = store

    def collect(self) -> Iterator[Metric]:
        places = GaugeMetricFamily("rlhf_hitl_places", "Judgments wanted.", labels=("project", "state"))
        held: Counter[tuple[str, str]] = Counter()
        for lane in queue.by_lane(self.store):
            for state in ("filled", "leased", "free"):
                held[lane.project, state] += getattr(lane, state)
        for labels, n in sorted(held.items()):
            places.add_metric(labels, n)
        yield places
        revision = store_revision(self.store)
        yield GaugeMetricFamily("rlhf_hitl_judgments", "Judgments kept, corrections among them.", revision)
        waiting = webhooks.count_waiting_deliveries(self.store)
        yield GaugeMetricFamily("rlhf_hitl_webhook_deliveries_waiting", "Events still to be delivered.", waiting)


class Observed:
    """ASGI wrapper round everything: an id, a log line and two figures for every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id, status, start = uuid.uuid4().hex, 500, time.perf_counter()

        async def watch(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            seconds, route = time.perf_counter() - start, _route(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"  # anybody can invent methods
            self.metrics.requests.labels(method, route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                told = {"request_id": request_id, "method": method, "route": route, "status": status}
                log.info("request", extra=told | {"ms": round(1000 * seconds, 1), "address": _address(scope)})


def readiness(store: Store) -> tuple[bool, dict[str, Any]]:
    """Whether this server can keep judgments: the store answers, is of this version, and keeps what it acknowledges."""
    try:
        version, durable = store.version(), store.durability()
        store.check_writable()
    except StoreFailure:
        return False, {"status": "not ready", "store": "does not answer, or cannot be written to"}
    ready = version == store.schema_version
    told = {"status": "ready" if ready else "not ready", "schema_version": version, "durability": durable}
    return ready, told | {"expected_schema_version": store.schema_version}


def _route(scope: Scope) -> str:
    """The pattern of the path, never the path itself: an invitation's address is a secret, and ids are many."""
    pattern = getattr(scope.get("route"), "path", "")
    root = scope.get("root_path", "")
    if root.startswith(tuple(PAGES)):
        return root
    return root + pattern if pattern else "other"


def _address(scope: Scope) -> str:
    return Request(scope).client.host if scope.get("client") else ""  # type: ignore[union-attr]
