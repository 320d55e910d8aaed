"""Protection of every request and response: security headers, no changes from other sites."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlhf_hitl.api.problems import respond_with_problem

_OF_OURS_ONLY = ["form-action 'self'", "frame-ancestors 'none'", "object-src 'none'"]
#: What the browser may do with an answer that is no page of Gradio's, such as the sign-in page: no scripts at all.
STRICT_POLICY = "; ".join(
    ["default-src 'none'", "style-src 'self'", "img-src 'self'", "base-uri 'none'", *_OF_OURS_ONLY]
)


def make_page_policy(nonce: str, style_hashes: Sequence[str]) -> str:
    """Return the Content-Security-Policy of one answer with a page of Gradio's.

    What is laxer than in STRICT_POLICY, and why (Gradio 6.31):

    - `'unsafe-eval'` for scripts: `gr.HTML` makes its template and its `js_on_load` into functions by `Function(...)`.
      A text would first have to run a script to come by it, and `'unsafe-inline'` is not allowed: only files of this
      server run, and the scripts that stand in Gradio's own template.
    - `'unsafe-inline'` for `style` attributes: Svelte and the MathML of formulas write them. They can fetch nothing
      from elsewhere. Whole `<style>` elements are only Gradio's and ours. (`style-src` is for browsers that do not
      tell the two apart.)
    - `base-uri 'self'`: Gradio's template has a `<base>`.

    Args:
        nonce: of the scripts and styles in Gradio's template, drawn anew for each answer.
        style_hashes: of the styles that come to be as the page runs: see `hash_style`.
    """
    hashes = "".join(f" '{style_hash}'" for style_hash in style_hashes)
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' 'nonce-{nonce}' 'unsafe-eval'",
            "script-src-attr 'none'",
            f"style-src-elem 'self' 'nonce-{nonce}'{hashes}",
            "style-src-attr 'unsafe-inline'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "font-src 'self'",
            "connect-src 'self'",
            "manifest-src 'self'",
            "base-uri 'self'",
            *_OF_OURS_ONLY,
        ]
    )


def hash_style(css: str) -> str:
    """Return the hash by which a policy names the content of a `<style>` element."""
    return f"sha256-{b64encode(sha256(css.encode()).digest()).decode()}"


SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # for browsers that do not know frame-ancestors
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}
#: Kinds of content that hold nothing private: the scripts, styles, fonts and pictures of the pages.
_CACHEABLE = ("text/css", "text/javascript", "application/javascript", "image/", "font/")


def add_security_headers(headers: MutableHeaders) -> None:
    """Add the headers that every answer has; a route may have set a policy and a rule for caches of its own."""
    headers.update(SECURITY_HEADERS)
    if location := headers.get("location"):  # ours are all on this server; Starlette writes the client's `Host` there
        parts = urlsplit(location)
        headers["location"] = "/" + parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
    headers.setdefault("content-security-policy", STRICT_POLICY)
    if not headers.get("content-type", "").startswith(_CACHEABLE):
        headers.setdefault("cache-control", "no-store")


_OWN_COOKIE = re.compile(rb"(?:^|;) ?(rlhf_hitl_[a-z]+=[\w.~-]{1,200})(?=;|$)")


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
                add_security_headers(MutableHeaders(scope=message))
            await send(message)

        # The session's cookie alone would let another site act in a signed-in browser.
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and _is_from_another_site(Request(scope).headers):
            refusal = respond_with_problem(403, "This was sent from another site.")
            return await refusal(scope, receive, send_with_headers)
        scope["headers"] = _keep_own_cookies(scope["headers"])  # in place: the route is noted in this scope
        await self.app(scope, receive, send_with_headers)


def _is_from_another_site(headers: Headers) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is not None:  # over plain HTTP browsers send the second only
        try:
            return urlsplit(origin).netloc != headers.get("host")
        except ValueError:  # no browser sends such a one
            return True
    return (site or "none") not in ("same-origin", "none")


def _keep_own_cookies(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers with no other cookies than ours: Python takes ten seconds to read a quoted one of 60 KB."""
    kept = [(name, value) for name, value in headers if name != b"cookie"]
    cookies: dict[bytes, bytes] = {}
    for name, value in headers:
        if name == b"cookie":
            for match in _OWN_COOKIE.finditer(value):
                # Where one server is at `/` and one at `/hitl`, the browser sends both their cookies to the second, its
                # own first (RFC 6265, 5.4).
                cookies.setdefault(match[1].partition(b"=")[0], match[1])
    return [*kept, (b"cookie", b"; ".join(cookies.values()))] if cookies else kept
