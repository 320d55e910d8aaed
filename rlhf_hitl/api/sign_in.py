"""Signing in and out over HTTP: the routes and the session's cookie.

Guessed passwords are slowed by `sign_in_throttle.py`, passwords and sessions are in `store/sign_in.py`, and the page is
drawn by `ui/sign_in.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from rlhf_hitl.api.auth import SESSION_COOKIE, find_session_rater, get_client_address
from rlhf_hitl.api.sign_in_throttle import SignInThrottle
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import Store
from rlhf_hitl.store.invitations import accept_invitation, find_open_invitation
from rlhf_hitl.store.sign_in import end_session, start_session, verify_password
from rlhf_hitl.types import Role

#: The page that each role sees after signing in.
HOME = {Role.RATER: "/rate/", Role.EVALUATOR: "/replay/", Role.LEAD: "/lead/", Role.ADMIN: "/lead/"}
MAX_PASSWORD_LENGTH = 1000


def add_sign_in_routes(app: FastAPI, store: Store, settings: Settings, throttle: SignInThrottle) -> None:
    """Add `/`, `/login`, `/logout`, `/invite/{secret}` and `/me`."""

    @app.get("/")
    def redirect_to_home(request: Request) -> Response:
        rater = find_session_rater(store, request)
        return RedirectResponse(HOME[rater.role] if rater else "/login", 303)

    @app.get("/login")
    def show_login(request: Request) -> Response:
        return RedirectResponse("/", 303) if find_session_rater(store, request) else respond_with_sign_in_page(request)

    @app.post("/login")
    def log_in(request: Request, name: Annotated[str, Form()] = "", password: Annotated[str, Form()] = "") -> Response:
        name = _clean_name(name)
        wait = throttle.record_attempt(get_client_address(request), name)
        if wait > 0:
            minutes = max(1, round(wait / 60))
            response = respond_with_sign_in_page(request, 429, problem="throttled", minutes=minutes, name=name)
            response.headers["retry-after"] = str(int(wait) + 1)
            return response
        return _sign_in(store, settings, request, name, password)

    @app.get("/invite/{secret}")
    def show_invitation(request: Request, secret: str) -> Response:
        if find_open_invitation(store, secret) is None:
            return respond_with_sign_in_page(request, 404, problem="over")
        return respond_with_sign_in_page(request, invited=True)

    @app.post("/invite/{secret}")
    def accept(
        request: Request, secret: str, name: Annotated[str, Form()] = "", password: Annotated[str, Form()] = ""
    ) -> Response:
        name, address = _clean_name(name), get_client_address(request)
        try:
            rater = accept_invitation(store, secret, name, password[:MAX_PASSWORD_LENGTH], address=address)
        except NotFound:
            return respond_with_sign_in_page(request, 404, problem="over")
        except BadInput as e:
            wrong = e.value == "password"
            return respond_with_sign_in_page(
                request, 422, problem="password" if wrong else "name", name=name, invited=True
            )
        return _sign_in(store, settings, request, rater.name, password)

    @app.post("/logout")
    def log_out(request: Request) -> Response:
        response = RedirectResponse("/login", 303)
        if cookie := request.cookies.get(SESSION_COOKIE):
            # The session ends in the store too, so that a copy of its cookie is worthless.
            end_session(store, cookie, address=get_client_address(request))
        response.delete_cookie(SESSION_COOKIE)
        return response

    @app.get("/me")
    def show_me(request: Request) -> Response:
        """Return who is signed in. A page asks this to tell a lost connection from an ended session."""
        rater = find_session_rater(store, request)
        if rater is None:
            return JSONResponse({"detail": "signed out"}, 401)
        return JSONResponse({"name": rater.name, "role": rater.role.value})


def respond_with_sign_in_page(request: Request, status: int = 200, **page_options: Any) -> HTMLResponse:
    """Return the sign-in page in the language the browser asks for; `page_options` go to `render_sign_in_page`."""
    from rlhf_hitl.ui.sign_in import render_sign_in_page

    html = render_sign_in_page(request.headers.get("accept-language", ""), **page_options)
    return HTMLResponse(html, status, {"cache-control": "no-store"})


def _sign_in(store: Store, settings: Settings, request: Request, name: str, password: str) -> Response:
    """Verify a password; answer with a session's cookie and the role's home page, or with the sign-in page again."""
    verified = verify_password(store, name, password[:MAX_PASSWORD_LENGTH])
    if verified is None:
        return respond_with_sign_in_page(request, 401, problem="mismatch", name=name)
    hours = settings.session_hours
    try:
        secret = start_session(store, verified, hours, address=get_client_address(request))
    except Conflict:  # the password was changed this moment
        return respond_with_sign_in_page(request, 401, problem="mismatch", name=name)
    response = RedirectResponse(HOME[verified.rater.role], 303)
    secure = request.url.scheme == "https"
    # Scripts cannot read the cookie, and where the site has TLS it is sent over TLS only.
    response.set_cookie(SESSION_COOKIE, secret, int(hours * 3600), httponly=True, samesite="lax", secure=secure)
    return response


def _clean_name(name: str) -> str:
    return name.replace("\x00", "").strip()[:150]
