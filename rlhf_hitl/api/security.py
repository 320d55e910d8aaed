"""Protection of every request and response: security headers, a limit on body sizes, no requests from other sites."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlhf_hitl.api.problems import respond_with_problem

# Gradio builds its components from strings, so it needs inline and evaluated scripts of our own origin. Nothing may be
# fetched from, or sent to, anywhere else.
CONTENT_SECURITY_POLICY = "; ".join(
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
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class SecurityMiddleware:
    """ASGI middleware that adds the security headers and refuses too large bodies and cross-site changes.

    Args:
        max_bytes: of a body. The body of an import is counted where it is written to disk.
    """

    UNLIMITED_PATH = "/api/v1/import"

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)

        async def send_with_headers(message) -> None:
            if message["type"] == "http.response.start":
                security_headers = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
                other_headers = [(k, v) for k, v in message.get("headers", []) if k.decode() not in SECURITY_HEADERS]
                message["headers"] = other_headers + security_headers
            await send(message)

        # The session's cookie alone would let another site act in a signed-in browser.
        origin = request.headers.get("sec-fetch-site", "none")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and origin not in ("same-origin", "none"):
            return await respond_with_problem(403, "This was sent from another site.")(
                scope, receive, send_with_headers
            )
        if scope["path"] == self.UNLIMITED_PATH:
            return await self.app(scope, receive, send_with_headers)
        bytes_left = self.max_bytes
        too_large = f"body: expected at most {self.max_bytes / 2**20:g} MB. Fix: send it in parts"
        if int(request.headers.get("content-length", "0") or 0) > bytes_left:
            return await respond_with_problem(413, too_large)(scope, receive, send_with_headers)

        async def receive_within_limit() -> Message:
            nonlocal bytes_left
            message = await receive()
            bytes_left -= len(message.get("body", b""))
            if bytes_left < 0:
                raise HTTPException(413, too_large)
            return message

        await self.app(scope, receive_within_limit, send_with_headers)
