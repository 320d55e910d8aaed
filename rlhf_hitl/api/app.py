"""The web application, assembled: sign-in, the API, health checks, and the pages, each for its roles."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from uvicorn.config import STARTUP_FAILURE

from rlhf_hitl.alerts.config import load_alert_config
from rlhf_hitl.alerts.keeper import AlertKeeper
from rlhf_hitl.api.auth import ROLES_OF_PAGE
from rlhf_hitl.api.client_limits import ClientLimits
from rlhf_hitl.api.error_pages import ErrorPages
from rlhf_hitl.api.health import add_health_routes
from rlhf_hitl.api.images import add_image_route
from rlhf_hitl.api.json_log import log_as_json
from rlhf_hitl.api.log_limit import limit_log_of_clients
from rlhf_hitl.api.metrics import RequestMonitor, ServerMetrics
from rlhf_hitl.api.page_guard import PageGuard
from rlhf_hitl.api.problems import ProblemResponse, respond_with_problem, respond_with_store_failure
from rlhf_hitl.api.proxies import ForwardedHeaders
from rlhf_hitl.api.rater_checking import RaterChecker
from rlhf_hitl.api.security import SecurityMiddleware
from rlhf_hitl.api.sign_in import add_sign_in_routes
from rlhf_hitl.api.sign_in_throttle import SignInThrottle
from rlhf_hitl.api.static_files import add_static_routes
from rlhf_hitl.api.v1 import create_api
from rlhf_hitl.config import Settings, TrustedProxies, load_settings
from rlhf_hitl.errors import RlhfHitlError
from rlhf_hitl.routing.live import LiveLearner
from rlhf_hitl.store import Store, StoreFailure
from rlhf_hitl.store.catalog_index import CatalogKeeper
from rlhf_hitl.store.imports import Housekeeper
from rlhf_hitl.store.webhooks.sender import WebhookSender
from rlhf_hitl.terminal import filter_output, print_note
from rlhf_hitl.workspace import protect_workspace, restrict_new_files


def create_app(store: Store, settings: Settings, throttle: SignInThrottle | None = None) -> FastAPI:
    """Build the application over a store: what `create_headless_app` builds, and the pages."""
    app = create_headless_app(store, settings, throttle)
    mount_pages(app, store, settings)
    return app


def create_headless_app(store: Store, settings: Settings, throttle: SignInThrottle | None = None) -> FastAPI:
    """Build the API, sign-in, health checks, and what runs as long as the application does.

    That is a sender of webhooks, a housekeeper of imports, what keeps the catalog up to date, the check of raters, and
    where the settings say so, live learning.

    It keeps no state of its own, so any number of processes may serve one store.
    """

    alert_config = load_alert_config(settings)  # a mistake in it ends the start, and not a look at night

    @asynccontextmanager
    async def run_beside(_app: FastAPI) -> AsyncIterator[None]:
        # What is loaded by now stays. Looking through all of it for garbage, whenever a request has made many objects,
        # would hold up every other request for half a second.
        gc.freeze()
        beside = (
            *(WebhookSender(store), Housekeeper(store), CatalogKeeper(store), RaterChecker(store)),
            AlertKeeper(store, settings, alert_config),
            *((LiveLearner(store, settings.workspace),) if settings.learn else ()),
        )
        for worker in beside:
            worker.start()
        yield
        for worker in reversed(beside):
            await run_in_threadpool(worker.stop)

    app = FastAPI(title="rlhf_hitl", docs_url=None, redoc_url=None, openapi_url=None, lifespan=run_beside)
    metrics = ServerMetrics(store)
    app.add_middleware(SecurityMiddleware)
    app.add_middleware(RequestMonitor, metrics=metrics)
    proxies = TrustedProxies(settings.trusted_proxies)
    app.add_middleware(ClientLimits, most=settings.max_requests_per_address, proxies=proxies)
    app.add_middleware(ErrorPages)
    app.add_middleware(ForwardedHeaders, proxies=proxies, root_path=settings.root_path)
    add_sign_in_routes(app, store, settings, throttle or SignInThrottle(store))
    add_health_routes(app, store, metrics)
    add_static_routes(app)
    add_image_route(app, store)
    app.mount("/api/v1", create_api(store, settings))

    @app.exception_handler(StoreFailure)
    async def answer_store_failure(_request: Request, _e: StoreFailure) -> ProblemResponse:
        return respond_with_store_failure()

    @app.exception_handler(404)
    async def answer_unknown_address(_request: Request, _e: Exception) -> ProblemResponse:
        return respond_with_problem(
            404, "address: expected one of this server. Fix: see /api/v1/openapi.json, or sign in at /login"
        )

    return app


def mount_pages(app: FastAPI, store: Store, settings: Settings) -> None:
    """Mount the pages, each behind a guard that admits its roles."""
    from rlhf_hitl.ui import adjudicate, data, lead, policies, rate, raters, replay
    from rlhf_hitl.ui import people as people_page
    from rlhf_hitl.ui.rendering import start_rendering

    start_rendering()
    pages = {"/rate": rate, "/adjudicate": adjudicate, "/lead": lead, "/data": data, "/raters": raters}
    pages |= {"/people": people_page, "/policies": policies, "/replay": replay}
    for path, page in pages.items():
        guard = Middleware(PageGuard, store=store, roles=ROLES_OF_PAGE[path])
        page.mount(app, path, store, settings, guard)


def prepare_server_process() -> None:
    """Prepare a process that serves: somebody who sends costly or bad requests slows others less, and fills no log."""
    # A thread that computes gives way to the event loop after this time; Python's default is ten times as long.
    sys.setswitchinterval(0.0005)
    limit_log_of_clients()


def serve_from_environment() -> FastAPI:
    """Build the application from the settings in the environment. Each of several worker processes calls this."""
    filter_output()
    restrict_new_files()
    prepare_server_process()
    try:
        settings = load_settings()
        protect_workspace(settings.workspace)
        if settings.log == "json":
            log_as_json()
        return create_app(Store.open(settings.store), settings)
    except RlhfHitlError as e:
        print_note(f"error: {e}")
        sys.exit(STARTUP_FAILURE)  # it would fail again, so the process must not be restarted
