"""The web application: sign-in, health, and the pages mounted where their roles may open them."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from rlhf_hitl.api import auth
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store, people
from rlhf_hitl.store.db import StoreFailure

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


def create_app(store: Store, settings: Settings, throttle: auth.SignInThrottle | None = None) -> FastAPI:
    """The application over a store. Sign-ins survive a restart: the key that signs them is in the workspace."""
    from rlhf_hitl.ui import lead, rate

    app = FastAPI(title="rlhf_hitl", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(
        auth.Sessions, secret_key=auth.session_key(settings.workspace), session_cookie="rlhf_hitl", same_site="lax"
    )
    app.add_middleware(Hardened)
    _add_routes(app, store, throttle or auth.SignInThrottle())
    for path, page in (("/rate", rate), ("/lead", lead)):
        roles = auth.PAGES[path]
        guard = Middleware(auth.Guard, store=store, roles=roles)
        page.mount(app, path, store, settings, guard, auth.require(store, roles))
    return app


def _add_routes(app: FastAPI, store: Store, throttle: auth.SignInThrottle) -> None:
    from rlhf_hitl.ui.pages import templates

    def login_page(problem: str = "", name: str = "", status: int = 200) -> HTMLResponse:
        page = templates().get_template("login.html").render(problem=problem, name=name)
        return HTMLResponse(page, status, {"cache-control": "no-store"})

    @app.get("/")
    def root(request: Request) -> Response:
        rater = auth.current_rater(store, request)
        return RedirectResponse(auth.HOME[rater.role] if rater and rater.role in auth.HOME else "/login", 303)

    @app.get("/login")
    def login(request: Request) -> Response:
        rater = auth.current_rater(store, request)
        return RedirectResponse("/", 303) if rater and rater.role in auth.HOME else login_page()

    @app.post("/login")
    def enter(request: Request, name: Annotated[str, Form()] = "", password: Annotated[str, Form()] = "") -> Response:
        name, address = name.strip()[:200], request.client.host if request.client else ""
        wait = throttle.wait(address, name)
        if wait > 0:
            minutes = max(1, round(wait / 60))
            page = login_page(f"Too many tries. Wait {minutes} min and try again.", name, 429)
            page.headers["retry-after"] = str(int(wait) + 1)
            return page
        rater = people.verify(store, name, password[:1000])
        if rater is None:
            throttle.failed(address, name)
            return login_page("That name and password do not go together.", name, 401)
        throttle.succeeded(address, name)
        if rater.role not in auth.HOME:
            return login_page(f"There is no page for the role {rater.role.value!r} yet.", name, 403)
        auth.sign_in(store, request, rater)
        return RedirectResponse(auth.HOME[rater.role], 303)

    @app.post("/logout")
    def leave(request: Request) -> Response:
        auth.sign_out(request)
        return RedirectResponse("/login", 303)

    @app.get("/me")
    def me(request: Request) -> Response:
        """Who is signed in: a page asks this to tell a lost line from a lost session."""
        rater = auth.current_rater(store, request)
        if rater is None:
            return JSONResponse({"detail": "signed out"}, 401)
        return JSONResponse({"name": rater.name, "role": rater.role.value})

    @app.get("/healthz")
    def health() -> Response:
        try:
            with store.read() as conn:
                conn.exec_driver_sql("SELECT 1")
        except StoreFailure:
            return JSONResponse({"status": "the store does not answer"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml", headers={"cache-control": "max-age=86400"})

    @app.get("/manifest.json", include_in_schema=False)
    def manifest() -> Response:
        return JSONResponse({"name": "rlhf_hitl", "icons": [{"src": "/favicon.ico", "sizes": "any"}]})


ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#3b5bdb"/>'
    '<path d="M8 21 14 10l6 11M22 10v11" stroke="#fff" stroke-width="3" fill="none" stroke-linecap="round"/></svg>'
)


class Hardened:
    """ASGI wrapper round everything: our headers on every answer, and nothing changed on another site's behalf."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        origin = Request(scope).headers.get("sec-fetch-site", "none")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and origin not in ("same-origin", "none"):
            answer = JSONResponse({"detail": "This was sent from another site."}, 403)
            return await answer(scope, receive, send)

        async def harden(message) -> None:
            if message["type"] == "http.response.start":
                own = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [(k, v) for k, v in message.get("headers", []) if k.decode() not in HEADERS] + own
            await send(message)

        await self.app(scope, receive, harden)
