"""Errors in a browser are pages. Programs get problem documents, and so does whoever asks the API."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlhf_hitl.api.problems import respond_with_internal_error
from rlhf_hitl.api.proxies import get_local_path, get_prefix
from rlhf_hitl.api.security import add_security_headers

#: The first parts of the addresses that are for programs, whoever asks.
FOR_PROGRAMS = frozenset({"api", "healthz", "readyz", "metrics"})


class ErrorPages:
    """ASGI middleware that puts a page in place of an error that is none, where a browser would show it.

    A browser names text/html in its Accept header when somebody opens an address or sends a form, and a script of a
    page does not. An error that nobody has answered is answered here, and goes on to the server's log.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        has_started = is_replaced = False

        async def send_or_replace(message: Message) -> None:
            nonlocal has_started, is_replaced
            if message["type"] == "http.response.start":
                has_started = True
                is_replaced = message["status"] >= 400 and not _is_page(message) and _wants_page(scope)
                if is_replaced:
                    await _send_page(message, scope, send)
            if not is_replaced:
                await send(message)

        try:
            await self._app(scope, receive, send_or_replace)
        except Exception:
            if not has_started:
                response = respond_with_internal_error()
                add_security_headers(response.headers)
                await response(scope, receive, send_or_replace)
            raise


def respond_with_error_page(request: Request, status: int, error: str) -> Response:
    """Return the page that explains an error, one of `ui.error_pages.EXPLAINED`."""
    from rlhf_hitl.ui.error_pages import render_error_page

    language = request.headers.get("accept-language", "")
    return HTMLResponse(render_error_page(language, error, get_prefix(request.scope)), status)


def wants_page(request: Request) -> bool:
    """Return whether the answer to a request is shown to somebody as a page."""
    return _wants_page(request.scope)


def _wants_page(scope: Scope) -> bool:
    is_for_programs = get_local_path(scope).strip("/").partition("/")[0] in FOR_PROGRAMS
    return not is_for_programs and "text/html" in Headers(scope=scope).get("accept", "")


def _is_page(start: Message) -> bool:
    return MutableHeaders(scope=start).get("content-type", "").startswith("text/html")


async def _send_page(start: Message, scope: Scope, send: Send) -> None:
    """Send the page that explains an error instead of the answer that begins with `start`, whose headers stay."""
    from rlhf_hitl.ui.error_pages import name_error, render_error_page

    language = Headers(scope=scope).get("accept-language", "")
    body = render_error_page(language, name_error(start["status"]), get_prefix(scope)).encode()
    headers = MutableHeaders(scope=start)
    headers.update({"content-type": "text/html; charset=utf-8", "content-length": str(len(body))})
    del headers["content-encoding"]
    add_security_headers(headers)  # of who was refused before their request came so far
    await send(start)
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
