"""Who is asking, and what they may do. The one place where roles and scopes are checked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from fastapi import HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from rlhf_hitl.store import Store, audit, events, people, tokens
from rlhf_hitl.types import Event, Rater, Role, Scope, utc_now

#: Who may open a page.
PAGES: dict[str, frozenset[Role]] = {
    "/rate": frozenset({Role.RATER, Role.LEAD, Role.ADMIN}),
    "/lead": frozenset({Role.LEAD, Role.ADMIN}),
    "/people": frozenset({Role.LEAD, Role.ADMIN}),
    "/replay": frozenset({Role.EVALUATOR, Role.LEAD, Role.ADMIN}),
}
#: Where a role goes after signing in.
HOME = {Role.RATER: "/rate/", Role.EVALUATOR: "/replay/", Role.LEAD: "/lead/", Role.ADMIN: "/lead/"}

#: Who may go use which scope of the API. A token grants a scope only where its scopes and its owner's role both do.
ROLES_OF_SCOPE: dict[Scope, frozenset[Role]] = {
    Scope.INPUT: frozenset({Role.LEAD, Role.ADMIN}),
    Scope.PREDICTION: frozenset({Role.EVALUATOR, Role.LEAD, Role.ADMIN}),
    Scope.TASK: frozenset({Role.RATER, Role.LEAD, Role.ADMIN}),
    Scope.FEEDBACK: frozenset(Role),
    Scope.MANAGE: frozenset({Role.LEAD, Role.ADMIN}),
    Scope.METRICS: frozenset({Role.EVALUATOR, Role.LEAD, Role.ADMIN}),
}
#: Who may see what others judged, which policy wrote what, and what a model thinks of it.
SEES_ALL = frozenset({Role.EVALUATOR, Role.LEAD, Role.ADMIN})

COOKIE = "rlhf_hitl_session"
SIGNED_OUT = "You are signed out. Sign in and try again."
#: Where the caller of a page stands in the ASGI scope. No client can write there.
_PAGE_CALLER = "rlhf_hitl.page_caller"


@dataclass(frozen=True)
class Caller:
    """Who asks. `scopes` is None in a browser's session, where the role alone decides."""

    rater: Rater
    scopes: frozenset[str] | None
    address: str

    @property
    def actor(self) -> audit.Actor:
        return audit.Actor(self.rater.id, self.address)

    @property
    def sees_all(self) -> bool:
        return self.rater.role in SEES_ALL

    def may(self, scope: Scope) -> bool:
        return self.rater.role in ROLES_OF_SCOPE[scope] and (self.scopes is None or scope.value in self.scopes)


def address_of(request: HTTPConnection) -> str:
    return request.client.host if request.client else ""


def caller(store: Store, request: HTTPConnection) -> Caller | None:
    """Who shows the request's token or session, read afresh: one disabled or signed out a moment ago is nobody."""
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind:
        found = tokens.holder(store, secret.strip(), tokens.Kind.API) if kind.lower() == "bearer" else None
        return Caller(found[0], frozenset(found[1].scopes), address_of(request)) if found else None
    cookie = request.cookies.get(COOKIE)
    found = tokens.holder(store, cookie, tokens.Kind.SESSION) if cookie else None
    return Caller(found[0], None, address_of(request)) if found else None


def current_rater(store: Store, request: HTTPConnection) -> Rater | None:
    """Who signed in with this request's session. An API token opens no page."""
    cookie = request.cookies.get(COOKIE)
    found = tokens.holder(store, cookie, tokens.Kind.SESSION) if cookie else None
    return found[0] if found else None


def page_caller(request: HTTPConnection) -> Caller:
    """Return who asks for a page, as `PageGuard` found them at the start of this request. It asks the store nothing.

    Raises:
        HTTPException: 401, where no guard has let the request through.
    """
    caller = request.scope.get(_PAGE_CALLER)
    if caller is None:
        raise HTTPException(401, SIGNED_OUT)
    return caller


def outranks(who: Rater, role: Role) -> bool:
    """Whether somebody may change people of a role, and invite more: an admin anybody, a lead raters."""
    return who.role is Role.ADMIN or (who.role is Role.LEAD and role is Role.RATER)


def check_outranks(who: Rater, role: Role) -> None:
    """Raises HTTPException 403 where `outranks` says no."""
    if not outranks(who, role):
        raise HTTPException(403, f"role {who.role.value!r}: expected an admin for a {role.value}. Fix: ask an admin")


def sign_in(store: Store, request: Request, answer: Response, who: people.Verified, hours: float) -> None:
    """Start a session: its secret goes into a cookie that scripts cannot read, over TLS only where TLS is.

    Raises:
        Conflict: the password was changed since it was verified.
    """
    secret = tokens.sign_in(store, who, hours, address=address_of(request))
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, secret, int(hours * 3600), httponly=True, samesite="lax", secure=secure)


def sign_out(store: Store, request: Request, answer: Response) -> None:
    """End the session in the store, so that a copy of its cookie is worth nothing."""
    if cookie := request.cookies.get(COOKIE):
        tokens.sign_out(store, cookie, address=address_of(request))
    answer.delete_cookie(COOKIE)


class PageGuard:
    """ASGI middleware of a mounted page. It resolves the session of every request, once, and admits its roles only.

    Who asks is handed on in the scope: see `page_caller`. Of Gradio's own addresses only those the page needs are open
    (its API, uploads and file proxy are not).
    """

    OPEN_ADDRESSES = ("component_server",)

    def __init__(self, app: ASGIApp, store: Store, roles: Collection[Role]):
        self._app, self._store, self._roles = app, store, roles

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = Request(scope)
        rater = await run_in_threadpool(current_rater, self._store, request)
        if rater is None:
            return await self._refuse(request, 401, SIGNED_OUT)(scope, receive, send)
        if rater.role not in self._roles:
            detail = f"This page is not for the role {rater.role.value!r}."
            return await self._refuse(request, 403, detail)(scope, receive, send)
        _, _, address = scope["path"].partition("/gradio_api/")
        if address and address.split("/")[0] not in self.OPEN_ADDRESSES:
            return await JSONResponse({"detail": "Not found"}, 404)(scope, receive, send)
        scope[_PAGE_CALLER] = Caller(rater, None, address_of(request))
        await self._app(scope, receive, send)

    @staticmethod
    def _refuse(request: Request, status: int, detail: str) -> Response:
        wants_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
        if not wants_page:
            return JSONResponse({"detail": detail}, status)
        if status == 401:
            return RedirectResponse("/login", 303)
        from rlhf_hitl.ui.sign_in import sign_in

        return HTMLResponse(sign_in(request.headers.get("accept-language", ""), problem="not_yours"), status)


class SignInThrottle:
    """Counts tries to sign in, in the store's audit log, so that all processes count together.

    Args:
        per_name: tries for one name from one address since it last succeeded.
        per_address: tries from one address, for whatever name, above those that succeeded.
        window: seconds a try counts for.
    """

    def __init__(self, store: Store, per_name: int = 5, per_address: int = 30, window: float = 300):
        self.store, self.per_name, self.per_address = store, per_name, per_address
        self.window = timedelta(seconds=window)

    def enter(self, address: str, name: str) -> float:
        """Note a try, before the password is looked at. Returns 0, or how many seconds to wait instead of trying."""
        now, address = utc_now(), address[:80]  # as it is written down
        with self.store.write() as conn:
            self.store.lock(conn, "sign_in")  # else a hundred tries at once would all be the first
            tried = audit.times(conn, "sign_in.tried", now - self.window, address=address)
            won = audit.times(conn, "sign_in", now - self.window, address=address)
            own_won = audit.times(conn, "sign_in", now - self.window, subject=name, address=address)
            since = max(own_won, default=now - self.window)
            own = audit.times(conn, "sign_in.tried", since, subject=name, address=address)
            waits = [times[-limit] for times, limit in ((own, self.per_name), (tried[len(won) :], self.per_address))
                     if len(times) >= limit]  # fmt: skip
            if waits:
                return max((max(waits) + self.window - now).total_seconds(), 1.0)
            audit.record(conn, audit.Actor("", address), "sign_in.tried", name)
            if len(own) + 1 == self.per_name or len(tried) - len(won) + 1 == self.per_address:
                told = {"alert": "sign_in.throttled", "name": name, "address": address}
                events.emit(conn, Event.ALERT_RAISED, told)
        return 0.0
