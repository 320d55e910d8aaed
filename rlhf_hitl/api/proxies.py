"""What proxies say: for whom they ask, and below which path. It counts where the proxy is configured, and nowhere else.

A proxy may offer the server below a path of its site (`/hitl`) and strip that path from requests. The server then has
to know the path, for its redirects, links and cookies: from the setting `root_path`, or from `X-Forwarded-Prefix`.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from rlhf_hitl.api.problems import respond_with_problem
from rlhf_hitl.config import TrustedProxies, read_root_path

#: The key of the ASGI scope under which `ForwardedHeaders` puts the path below which the site is. Mounts change
#: `root_path`, this they leave alone.
_PREFIX = "rlhf_hitl.prefix"
_FORWARDED = re.compile(rb"forwarded|x-forwarded-.*|x-real-ip")


class ForwardedHeaders:
    """ASGI middleware that removes what proxies say (`X-Forwarded-For`, `-Host`, `-Proto`, `Forwarded`) from requests.

    From a trusted proxy it is kept, and the client, the scheme and the prefix of the request are those that the proxy
    names. A prefix that is none is refused.

    Args:
        root_path: the prefix where no trusted proxy names one; "" for none.
    """

    def __init__(self, app: ASGIApp, proxies: TrustedProxies, root_path: str = ""):
        self._app, self._proxies, self._root_path = app, proxies, root_path
        self._with_client = ProxyHeadersMiddleware(app, str(proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        client = scope.get("client")
        if client is not None and client[0] in self._proxies:
            try:
                prefix = _read_prefix(scope)
            except ValueError as e:
                refusal = respond_with_problem(400, f"x-forwarded-prefix: {e}. Fix: correct it in the proxy")
                return await refusal(scope, receive, send)
            scope = _add_prefix(scope, self._root_path if prefix is None else prefix)
            return await self._with_client(scope, receive, send)  # type: ignore[arg-type]
        headers = [(name, value) for name, value in scope["headers"] if not _FORWARDED.fullmatch(name.lower())]
        await self._app(_add_prefix({**scope, "headers": headers}, self._root_path), receive, send)


def get_prefix(scope: Scope) -> str:
    """Return the path below which the site of a request is: `/hitl`, or "". It stands before every address we send."""
    return scope.get(_PREFIX, "")


def get_local_path(scope: Scope) -> str:
    """Return the path of a request without the prefix."""
    return scope["path"].removeprefix(get_prefix(scope))


def _read_prefix(scope: Scope) -> str | None:
    """Return the prefix that a proxy names, None where it names none. Raises ValueError where it cannot be one."""
    values = [value for name, value in scope["headers"] if name.lower() == b"x-forwarded-prefix"]
    if len(values) > 1:
        raise ValueError("expected one such header")
    return read_root_path(values[0].decode("latin-1")) if values else None


def _add_prefix(scope: Scope, prefix: str) -> Scope:
    """Return the scope of the request as it was before the proxy took off the prefix, as ASGI has it."""
    if not prefix:
        return scope
    added = {_PREFIX: prefix, "root_path": prefix, "path": prefix + scope["path"]}
    if scope.get("raw_path") is not None:
        added["raw_path"] = prefix.encode() + scope["raw_path"]
    return {**scope, **added}
