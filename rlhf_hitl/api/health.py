"""What operators ask a server: is it alive (`/healthz`), is it ready (`/readyz`), what are its metrics (`/metrics`)."""

from __future__ import annotations

import time
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from rlhf_hitl.api.auth import identify_caller
from rlhf_hitl.api.metrics import ServerMetrics
from rlhf_hitl.store import Store, StoreFailure
from rlhf_hitl.store.images import describe_missing
from rlhf_hitl.types import Scope


def add_health_routes(app: FastAPI, store: Store, metrics: ServerMetrics) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:  # not in a thread: all threads may be waiting for the database
        """This process answers. Nothing else is checked: a restart would not bring back a lost database."""
        return JSONResponse({"status": "ok"})

    readiness = Readiness(store)

    @app.get("/readyz")
    async def readyz() -> Response:
        """This process can keep judgments, so requests may be sent to it."""
        is_ready, status = await readiness.check()
        return JSONResponse(status, 200 if is_ready else 503)

    @app.get("/metrics")
    def show_metrics(request: Request) -> Response:
        """Metrics in Prometheus' text format, for a caller with the scope `metrics`."""
        caller = identify_caller(store, request)
        if caller is None or not caller.may(Scope.METRICS):
            status, headers = (401, {"www-authenticate": "Bearer"}) if caller is None else (403, {})
            return JSONResponse({"detail": "expected a token with the scope 'metrics'"}, status, headers)
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


class Readiness:
    """Whether this server can keep judgments, and whether it has the images that they are about.

    The first writes to the disk, so it is looked up at most once a second; the second may ask another machine.
    """

    SECONDS, IMAGE_SECONDS = 1.0, 60.0

    def __init__(self, store: Store):
        self._store, self._one_at_a_time = store, CapacityLimiter(1)
        self._newest: tuple[float, tuple[bool, dict[str, Any]]] | None = None
        self._images: tuple[float, str] | None = None

    async def check(self) -> tuple[bool, dict[str, Any]]:
        """Return the result of `check_readiness`. Who asks while another asks waits for the same, in no thread."""
        return await run_sync(self._check, limiter=self._one_at_a_time)

    def _check(self) -> tuple[bool, dict[str, Any]]:
        if self._newest is None or time.monotonic() - self._newest[0] > self.SECONDS:
            is_ready, status = check_readiness(self._store)
            self._newest = time.monotonic(), (is_ready, status | ({"images": self._check_images()} if is_ready else {}))
        return self._newest[1]

    def _check_images(self) -> str:
        """Return whether the images are here. Those that are not hold up no judgment, so the server is ready."""
        if self._images is None or time.monotonic() - self._images[0] > self.IMAGE_SECONDS:
            self._images = time.monotonic(), "missing" if describe_missing(self._store) else "ok"
        return self._images[1]


def check_readiness(store: Store) -> tuple[bool, dict[str, Any]]:
    """Return whether this server can keep judgments, and the JSON of `/readyz`.

    The store must answer, accept writes, and have the schema version of this program.
    """
    try:
        version, durability = store.read_version(), store.read_durability()
        store.check_writable()
    except StoreFailure:
        return False, {"status": "not ready", "store": "does not answer, or cannot be written to"}
    is_ready = version == store.schema_version
    status = {"status": "ready" if is_ready else "not ready", "schema_version": version, "durability": durability}
    return is_ready, status | {"expected_schema_version": store.schema_version}
