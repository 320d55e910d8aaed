"""Protection of every request and response: security headers, no changes from other sites."""

from __future__ import annotations

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
    """ASGI middleware that adds the security headers, and refuses changes that another site sends.

    How large a body may be is checked by whoever reads it: each operation of the API, each page, and signing in.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                security_headers = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
                other_headers = [(k, v) for k, v in message.get("headers", []) if k.decode() not in SECURITY_HEADERS]
                message["headers"] = other_headers + security_headers
            await send(message)

        # The session's cookie alone would let another site act in a signed-in browser.
        origin = Request(scope).headers.get("sec-fetch-site", "none")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and origin not in ("same-origin", "none"):
            refusal = respond_with_problem(403, "This was sent from another site.")
            return await refusal(scope, receive, send_with_headers)
        await self.app(scope, receive, send_with_headers)
