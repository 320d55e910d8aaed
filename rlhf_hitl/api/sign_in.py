"""Signing in and out over HTTP: the routes and the session's cookie.

Guessed passwords are slowed by `sign_in_throttle.py`, passwords and sessions are in `store/sign_in.py`, and the page is
drawn by `ui/sign_in.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.requests import ClientDisconnect

from rlhf_hitl.api.auth import ROLES_OF_PAGE, SESSION_COOKIE, find_session_rater, get_client_address
from rlhf_hitl.api.connections import find_network
from rlhf_hitl.api.error_pages import respond_with_error_page
from rlhf_hitl.api.proxies import get_prefix
from rlhf_hitl.api.sign_in_throttle import SignInThrottle
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import Store
from rlhf_hitl.store.devices import find_known_device, remember_device
from rlhf_hitl.store.invitations import accept_invitation, find_open_invitation
from rlhf_hitl.store.sign_in import end_session, find_account_name, start_session, verify_password
from rlhf_hitl.types import Role

#: The page that each role sees after signing in.
HOME = {Role.RATER: "/rate/", Role.EVALUATOR: "/replay/", Role.LEAD: "/lead/", Role.ADMIN: "/lead/"}
MAX_PASSWORD_LENGTH = 1000
#: A name and a password of the greatest length, each of their characters written as twelve (`%F0%9F%98%80`).
FORM_BYTES = 2**14
FORM_FIELDS = 10
#: Forms that are answered at once, so that hashing passwords leaves threads and processors for raters.
FORMS_AT_ONCE = CapacityLimiter(2)
#: A cookie that is no key to anything: it shows that somebody has signed in with this browser before.
DEVICE_COOKIE = "rlhf_hitl_device"
DEVICE_DAYS = 180


def add_sign_in_routes(app: FastAPI, store: Store, settings: Settings, throttle: SignInThrottle) -> None:
    """Add `/`, `/login`, `/logout`, `/invite/{secret}` and `/me`."""

    @app.get("/")
    def redirect_to_home(request: Request) -> Response:
        rater = find_session_rater(store, request)
        return _redirect(request, HOME[rater.role] if rater else "/login")

    @app.get("/login")
    def show_login(request: Request) -> Response:
        return _redirect(request, "/") if find_session_rater(store, request) else respond_with_sign_in_page(request)

    @app.post("/login")
    async def log_in(request: Request) -> Response:
        return await answer_form(request, sign_in)

    def sign_in(request: Request, name: str, password: str) -> Response:
        # However the name is spelt, it is one account that is tried. It is cut as the audit log cuts it.
        account = find_account_name(store, name)[:200]
        device = find_known_device(store, request.cookies.get(DEVICE_COOKIE, ""), account)
        wait = throttle.record_attempt(find_network(get_client_address(request)), account, device)
        if wait > 0:
            minutes = max(1, round(wait / 60))
            response = respond_with_sign_in_page(request, 429, problem="throttled", minutes=minutes, name=name)
            response.headers["retry-after"] = str(int(wait) + 1)
            return response
        return _sign_in(store, settings, request, name, password, bool(device))

    @app.get("/invite/{secret}")
    def show_invitation(request: Request, secret: str) -> Response:
        if find_open_invitation(store, secret) is None:
            return respond_with_error_page(request, 404, "invitation")
        return respond_with_sign_in_page(request, invited=True)

    @app.post("/invite/{secret}")
    async def accept(request: Request, secret: str) -> Response:
        return await answer_form(request, partial(accept_invited, secret))

    def accept_invited(secret: str, request: Request, name: str, password: str) -> Response:
        try:
            rater = accept_invitation(
                store, secret, name, password[:MAX_PASSWORD_LENGTH], address=get_client_address(request)
            )
        except NotFound:
            return respond_with_error_page(request, 404, "invitation")
        except BadInput as e:
            wrong = e.value == "password"
            return respond_with_sign_in_page(
                request, 422, problem="password" if wrong else "name", name=name, invited=True
            )
        return _sign_in(store, settings, request, rater.name, password, is_known=False)

    @app.post("/logout")
    def log_out(request: Request) -> Response:
        response = _redirect(request, "/login")
        if cookie := request.cookies.get(SESSION_COOKIE):
            # The session ends in the store too, so that a copy of its cookie is worthless.
            end_session(store, cookie, address=get_client_address(request))
        response.delete_cookie(SESSION_COOKIE, _get_cookie_path(request))
        return response

    @app.get("/me")
    def show_me(request: Request) -> Response:
        """Return who is signed in, and the pages they may open.

        A page asks this for its links, and to tell a lost connection from an ended session.
        """
        rater = find_session_rater(store, request)
        if rater is None:
            return JSONResponse({"detail": "signed out"}, 401)
        pages = [page for page, roles in ROLES_OF_PAGE.items() if rater.role in roles]
        return JSONResponse({"name": rater.name, "role": rater.role.value, "pages": pages})


async def answer_form(request: Request, answer: Callable[[Request, str, str], Response]) -> Response:
    """Answer a form of a name and a password in a thread. One that is larger than they can be is refused unread."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > FORM_BYTES:
                return JSONResponse({"detail": "The form is too large."}, 413, {"connection": "close"})
    except ClientDisconnect:
        return Response(status_code=400)
    try:
        fields = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=FORM_FIELDS))
    except ValueError:
        return JSONResponse({"detail": "The form has too many fields."}, 413)
    name, password = _clean_name(fields.get("name", "")), fields.get("password", "")
    return await run_sync(answer, request, name, password, limiter=FORMS_AT_ONCE)


def respond_with_sign_in_page(request: Request, status: int = 200, **page_options: Any) -> HTMLResponse:
    """Return the sign-in page in the language the browser asks for; `page_options` go to `render_sign_in_page`."""
    from rlhf_hitl.ui.sign_in import render_sign_in_page

    language, prefix = request.headers.get("accept-language", ""), get_prefix(request.scope)
    html = render_sign_in_page(language, prefix=prefix, **page_options)
    return HTMLResponse(html, status, {"cache-control": "no-store"})


def _sign_in(store: Store, settings: Settings, request: Request, name: str, password: str, is_known: bool) -> Response:
    """Verify a password; answer with a session's cookie and the role's home page, or with the sign-in page again."""
    verified = verify_password(store, name, password[:MAX_PASSWORD_LENGTH])
    if verified is None:
        return respond_with_sign_in_page(request, 401, problem="mismatch", name=name)
    hours = settings.session_hours
    try:
        secret = start_session(store, verified, hours, address=get_client_address(request))
    except Conflict:  # the password was changed this moment
        return respond_with_sign_in_page(request, 401, problem="mismatch", name=name)
    response = _redirect(request, HOME[verified.rater.role])
    _set_cookie(request, response, SESSION_COOKIE, secret, hours)
    if not is_known:
        # The throttle counts attempts and successes by network.
        network = find_network(get_client_address(request))
        device = remember_device(store, verified.rater, DEVICE_DAYS, address=network)
        _set_cookie(request, response, DEVICE_COOKIE, device, DEVICE_DAYS * 24)
    return response


def _set_cookie(request: Request, response: Response, name: str, secret: str, hours: float) -> None:
    """Set a cookie that scripts cannot read; where the site has TLS, it is sent over TLS only."""
    secure, path = request.url.scheme == "https", _get_cookie_path(request)
    response.set_cookie(name, secret, int(hours * 3600), path=path, httponly=True, samesite="lax", secure=secure)


def _get_cookie_path(request: Request) -> str:
    """Return below which path the browser sends our cookies: another program may be at another path of the site."""
    return get_prefix(request.scope) or "/"


def _redirect(request: Request, path: str) -> Response:
    return RedirectResponse(get_prefix(request.scope) + path, 303)


def _clean_name(name: str) -> str:
    return name.replace("\x00", "").strip()[:150]
