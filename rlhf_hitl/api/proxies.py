"""Headers in which a proxy says for whom it asks. They count where the proxy is configured, and nowhere else."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from rlhf_hitl.config import TrustedProxies

_FORWARDED = re.compile(rb"forwarded|x-forwarded-.*|x-real-ip")


class ForwardedHeaders:
    """ASGI middleware that removes what proxies say (`X-Forwarded-For`, `-Host`, `-Proto`, `Forwarded`) from requests.

    From a trusted proxy it is kept, and the client and the scheme of the request are those that the proxy names.
    """

    def __init__(self, app: ASGIApp, proxies: TrustedProxies):
        self._app, self._proxies = app, proxies
        self._with_client = ProxyHeadersMiddleware(app, str(proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        client = scope.get("client")
        if client is not None and client[0] in self._proxies:
            return await self._with_client(scope, receive, send)  # type: ignore[arg-type]
        headers = [(name, value) for name, value in scope["headers"] if not _FORWARDED.fullmatch(name.lower())]
        await self._app({**scope, "headers": headers}, receive, send)
