"""Who is asking, and what they may open. The one place where roles are checked."""

from __future__ import annotations

import os
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from pathlib import Path

from fastapi import HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rlhf_hitl.errors import NotFound
from rlhf_hitl.store import Store, people
from rlhf_hitl.types import Rater, Role

#: Who may open a page.
PAGES: dict[str, frozenset[Role]] = {
    "/rate": frozenset({Role.RATER, Role.LEAD, Role.ADMIN}),
    "/lead": frozenset({Role.LEAD, Role.ADMIN}),
}
#: Where a role goes after signing in. Roles that are not here have no page.
HOME: dict[Role, str] = {Role.RATER: "/rate/", Role.LEAD: "/lead/", Role.ADMIN: "/lead/"}


def current_rater(store: Store, request: HTTPConnection) -> Rater | None:
    """Who signed in with this request's session, read afresh.

    One disabled a moment ago is nobody now, and so is one who signed in with a password that was changed since.
    """
    rater_id = request.session.get("rater")
    if not isinstance(rater_id, str):
        return None
    try:
        rater, mark = people.get_with_mark(store, rater_id)
    except NotFound:
        return None
    return None if rater.disabled or request.session.get("password") != mark else rater


def require(store: Store, roles: Collection[Role]) -> Callable[[HTTPConnection], Rater]:
    """A check for one of the roles: the rater, or HTTPException 401 (nobody) or 403 (another role)."""

    def check(request: HTTPConnection) -> Rater:
        rater = current_rater(store, request)
        if rater is None:
            raise HTTPException(401, "You are signed out. Sign in and try again.")
        if rater.role not in roles:
            raise HTTPException(403, f"This page is not for the role {rater.role.value!r}.")
        return rater

    return check


def sign_in(store: Store, request: Request, rater: Rater) -> None:
    request.session.clear()
    request.session["rater"] = rater.id
    _, request.session["password"] = people.get_with_mark(store, rater.id)


def sign_out(request: Request) -> None:
    request.session.clear()


class Guard:
    """ASGI wrapper round a mounted page: every address under it is for its roles only, and of Gradio's own addresses
    only those the page needs are open (its API, uploads and file proxy are not)."""

    CALLS = ("component_server",)

    def __init__(self, app: ASGIApp, store: Store, roles: Collection[Role]):
        self.app, self.check = app, require(store, roles)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        try:
            await run_in_threadpool(self.check, request)
        except HTTPException as e:
            wants_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
            if wants_page and e.status_code == 401:
                return await RedirectResponse("/login", 303)(scope, receive, send)
            if wants_page:
                return await HTMLResponse(f'<p>{e.detail} <a href="/">Back to yours</a></p>', 403)(scope, receive, send)
            return await JSONResponse({"detail": e.detail}, e.status_code)(scope, receive, send)
        _, _, call = scope["path"].partition("/gradio_api/")
        if call and call.split("/")[0] not in self.CALLS:
            return await JSONResponse({"detail": "Not found"}, 404)(scope, receive, send)
        await self.app(scope, receive, send)


class SignInThrottle:
    """Counts failed sign-ins in this process: `per_name` for one name from one address, `per_address` for all names.

    Args:
        window: seconds a failure counts for.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        per_name: int = 5,
        per_address: int = 30,
        window: float = 300,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.per_name, self.per_address, self.window, self.clock = per_name, per_address, window, clock
        self._failed: dict[tuple[str, ...], deque[float]] = defaultdict(deque)

    def wait(self, address: str, name: str) -> float:
        """Seconds until the next try is looked at; 0 if now."""
        return max(self._wait((address, name), self.per_name), self._wait((address,), self.per_address))

    def failed(self, address: str, name: str) -> None:
        self._forget()
        for key in ((address, name), (address,)):
            self._failed[key].append(self.clock())

    def succeeded(self, address: str, name: str) -> None:
        self._failed.pop((address, name), None)

    def _wait(self, key: tuple[str, ...], limit: int) -> float:
        times = [t for t in tuple(self._failed.get(key, ())) if t > self.clock() - self.window]
        return 0.0 if len(times) < limit else times[-limit] + self.window - self.clock()

    def _forget(self) -> None:
        # A copy, because other threads add to it meanwhile.
        for key, times in list(self._failed.items()):
            if times and times[-1] <= self.clock() - self.window:
                self._failed.pop(key, None)


class Sessions(SessionMiddleware):
    """Signed-cookie sessions, marked Secure whenever the request came over TLS."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("scheme") == "https" and "secure" not in self.security_flags:
            return await self._secure(scope, receive, send)
        await super().__call__(scope, receive, send)

    async def _secure(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def mark(message) -> None:
            if message["type"] == "http.response.start":
                own = self.session_cookie.encode() + b"="
                message["headers"] = [
                    (k, v + b"; secure" if k.lower() == b"set-cookie" and v.startswith(own) else v)
                    for k, v in message.get("headers", [])
                ]
            await send(message)

        await super().__call__(scope, receive, mark)


def session_key(workspace: Path) -> str:
    """The key that signs sessions, made the first time and kept where only its owner can read it."""
    path = workspace / "session.key"
    workspace.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        draft = workspace / f".session.key.{os.getpid()}"
        write_private(draft, secrets.token_urlsafe(48))
        try:
            os.link(draft, path)  # fails where another process made one first: theirs holds
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Write a file only its owner can read (mode 0600), whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(draft, path)
