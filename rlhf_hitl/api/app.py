"""The web application: sign-in, the API, what is watched, and the pages where their roles may open them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope
from uvicorn.config import STARTUP_FAILURE

from rlhf_hitl.api import auth
from rlhf_hitl.api.observe import Metrics, Observed, log_as_json, readiness
from rlhf_hitl.api.problems import problem
from rlhf_hitl.api.sign_in import SignInThrottle, add_sign_in_routes, sign_in_page
from rlhf_hitl.api.v1 import create_api
from rlhf_hitl.config import Settings, load_settings
from rlhf_hitl.errors import RlhfHitlError
from rlhf_hitl.store import Store, StoreFailure
from rlhf_hitl.store.webhooks.sender import WebhookSender
from rlhf_hitl.types import Scope

# Gradio builds its components from strings, so it needs inline and evaluated scripts of our own origin. Nothing may be
# fetched from, or sent to, anywhere else.
CONTENT_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "frame-src 'none'",
        "frame-ancestors 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    ]
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def create_app(store: Store, settings: Settings, throttle: SignInThrottle | None = None) -> FastAPI:
    """The application over a store: pages, API, and the sender of webhooks while it runs.

    It keeps nothing of its own, so any number of processes may serve one store.
    """
    from rlhf_hitl.ui import lead, rate, replay
    from rlhf_hitl.ui import people as people_page

    @asynccontextmanager
    async def sending(_app: FastAPI) -> AsyncIterator[None]:
        sender = WebhookSender(store)
        sender.start()
        yield
        await run_in_threadpool(sender.stop)

    app = FastAPI(title="rlhf_hitl", docs_url=None, redoc_url=None, openapi_url=None, lifespan=sending)
    metrics = Metrics(store)
    app.add_middleware(Hardened, most_bytes=int(settings.max_body_mb * 2**20))
    app.add_middleware(Observed, metrics=metrics)
    add_sign_in_routes(app, store, settings, throttle or SignInThrottle(store))
    _add_watch(app, store, metrics)
    app.mount("/api/v1", create_api(store, settings))

    @app.exception_handler(StoreFailure)
    async def store_failed(request: Request, _e: StoreFailure) -> Response:
        return sign_in_page(request, 503, problem="store")

    @app.exception_handler(404)
    async def nowhere(_request: Request, _e: Exception) -> Response:
        return problem(404, "address: expected one of this server. Fix: see /api/v1/openapi.json, or sign in at /login")

    for path, page in (("/rate", rate), ("/lead", lead), ("/people", people_page), ("/replay", replay)):
        guard = Middleware(auth.PageGuard, store=store, roles=auth.PAGES[path])
        page.mount(app, path, store, settings, guard)
    return app


def serve_from_environment() -> FastAPI:
    """The application of the settings in the environment: what each of several worker processes runs."""
    try:
        settings = load_settings()
        if settings.log == "json":
            log_as_json()
        return create_app(Store.open(settings.store), settings)
    except RlhfHitlError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(STARTUP_FAILURE)  # what failed once fails always: the process is not to be started again


def _add_watch(app: FastAPI, store: Store, metrics: Metrics) -> None:
    @app.get("/healthz")
    async def health() -> Response:  # not in a thread: all of those may be waiting for the database
        """This process answers. Nothing else is looked at: a restart would not bring back a lost database."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    def ready() -> Response:
        """This process can keep judgments: send it requests."""
        fit, told = readiness(store)
        return JSONResponse(told, 200 if fit else 503)

    @app.get("/metrics")
    def figures(request: Request) -> Response:
        """Figures for Prometheus, for a token with the scope `metrics`."""
        caller = auth.identify_caller(store, request)
        if caller is None or not caller.may(Scope.METRICS):
            status, headers = (401, {"www-authenticate": "Bearer"}) if caller is None else (403, {})
            return JSONResponse({"detail": "expected a token with the scope 'metrics'"}, status, headers)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml", headers={"cache-control": "max-age=86400"})

    @app.get("/math.woff2", include_in_schema=False)
    def font() -> Response:
        """The shapes of formulas. Like the icon it is no secret, and every page asks for it."""
        woff2 = (resources.files("rlhf_hitl.ui") / "assets" / "math.woff2").read_bytes()
        return Response(woff2, media_type="font/woff2", headers={"cache-control": "max-age=604800"})

    @app.get("/manifest.json", include_in_schema=False)
    def manifest() -> Response:
        return JSONResponse({"name": "rlhf_hitl", "icons": [{"src": "/favicon.ico", "sizes": "any"}]})


ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#3b5bdb"/>'
    '<path d="M8 21 14 10l6 11M22 10v11" stroke="#fff" stroke-width="3" fill="none" stroke-linecap="round"/></svg>'
)


class Hardened:
    """ASGI wrapper: our headers on every answer, no body without an end, and nothing changed on another site's behalf.

    Args:
        most_bytes: of a body; an import is counted where it is written down.
    """

    STREAMS = "/api/v1/import"

    def __init__(self, app: ASGIApp, most_bytes: int):
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)

        async def harden(message) -> None:
            if message["type"] == "http.response.start":
                own = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [(k, v) for k, v in message.get("headers", []) if k.decode() not in HEADERS] + own
            await send(message)

        origin = request.headers.get("sec-fetch-site", "none")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and origin not in ("same-origin", "none"):
            return await problem(403, "This was sent from another site.")(scope, receive, harden)
        if scope["path"] == self.STREAMS:
            return await self.app(scope, receive, harden)
        room, most = self.most_bytes, f"body: expected at most {self.most_bytes / 2**20:g} MB. Fix: send it in parts"
        if int(request.headers.get("content-length", "0") or 0) > room:
            return await problem(413, most)(scope, receive, harden)

        async def count() -> Message:
            nonlocal room
            message = await receive()
            room -= len(message.get("body", b""))
            if room < 0:
                raise HTTPException(413, most)
            return message

        await self.app(scope, count, harden)
