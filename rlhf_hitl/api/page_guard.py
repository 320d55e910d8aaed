"""What stands before each page: who may open it, which of Gradio's addresses exist, and which scripts run in it.

The calls that a page makes on the server are answered by `page_calls.py`, which stands between this and Gradio.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlhf_hitl.api.auth import SIGNED_OUT, Caller, find_session_rater, get_client_address, set_page_caller
from rlhf_hitl.api.error_pages import respond_with_error_page, wants_page
from rlhf_hitl.api.problems import respond_with_problem, respond_with_store_failure
from rlhf_hitl.api.proxies import get_prefix
from rlhf_hitl.api.security import hash_style, make_page_policy
from rlhf_hitl.store import Store, StoreFailure
from rlhf_hitl.types import Role


class PageGuard:
    """ASGI middleware of a mounted page. It resolves the session of every request, once, and admits some roles only.

    It passes the caller on in the ASGI scope: see `auth.get_page_caller`. Of Gradio's own addresses it lets through
    only those that the page needs, so Gradio's API, its uploads, its files and its proxy cannot be reached.
    """

    #: Below the page: what is read as it opens, and what its server functions are called at.
    READ = re.compile(r"|config|theme\.css|(assets|static)/(?!.*\.\.)[\w./@+-]{1,200}", re.ASCII)
    CALLED = re.compile(r"gradio_api/component_server")

    def __init__(self, app: ASGIApp, store: Store, roles: Collection[Role]):
        self._app, self._store, self._roles = app, store, roles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # Gradio's pages open no WebSocket: the server closes it
        request = Request(scope)
        try:
            rater = await run_in_threadpool(find_session_rater, self._store, request)
        except StoreFailure:
            return await respond_with_store_failure()(scope, receive, send)
        if rater is None:
            return await self._refuse(request, 401, SIGNED_OUT)(scope, receive, send)
        if rater.role not in self._roles:
            detail = f"This page is not for the role {rater.role.value!r}."
            return await self._refuse(request, 403, detail)(scope, receive, send)
        if not self._is_needed(scope):
            unknown = respond_with_problem(404, "address: expected one of this page. Fix: reload the page")
            return await unknown(scope, receive, send)
        set_page_caller(scope, Caller(rater, None, get_client_address(request)))
        await self._app(scope, receive, send)

    def _is_needed(self, scope: Scope) -> bool:
        address = scope["path"].removeprefix(scope.get("root_path", "")).strip("/")
        wanted = self.READ if scope["method"] in ("GET", "HEAD") else self.CALLED if scope["method"] == "POST" else None
        return wanted is not None and wanted.fullmatch(address) is not None

    @staticmethod
    def _refuse(request: Request, status: int, detail: str) -> Response:
        if not wants_page(request):
            return JSONResponse({"detail": detail}, status)
        return (
            RedirectResponse(f"{get_prefix(request.scope)}/login", 303)
            if status == 401
            else respond_with_error_page(request, status, "role")
        )


class PagePolicy:
    """ASGI middleware of a mounted page that lets only the page's own scripts and styles take effect.

    Args:
        styles: the content of the `<style>` elements that the page adds as it runs.
    """

    def __init__(self, app: ASGIApp, styles: Sequence[str]):
        self._app = app
        self._style_hashes = [hash_style(css) for css in styles]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None
        parts: list[bytes] = []

        async def send_page(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_html(message):
                start = message  # sent together with the body, whose length is not known yet
            elif start is None:
                await send(message)
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    html, nonce = b"".join(parts), secrets.token_urlsafe(16)
                    html = _mark(html, nonce)
                    headers = MutableHeaders(scope=start)
                    if html:  # the answer to a HEAD request has no body, and is as long as that to a GET
                        headers["content-length"] = str(len(html))
                    headers["content-security-policy"] = make_page_policy(nonce, self._style_hashes)
                    await send(start)
                    await send({"type": "http.response.body", "body": html})

        await self._app(scope, receive, send_page)


def _is_html(start: Message) -> bool:
    return MutableHeaders(scope=start).get("content-type", "").startswith("text/html")


def _mark(html: bytes, nonce: str) -> bytes:
    """Return Gradio's page with a nonce on its scripts and styles.

    Everything that is written into the page is JSON in which `<` is escaped (Gradio's `toorjson`), so a tag of a script
    is always one of the template.
    """
    for tag in (b"<script", b"<style"):
        html = html.replace(tag, tag + f' nonce="{nonce}"'.encode())
    return html
