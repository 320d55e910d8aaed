"""The calls that a page makes on the server: parsed, checked, answered and encoded in a thread, within limits.

A page sends them to an address of Gradio, in the form that Gradio's script gives them. They are answered here and do
not reach Gradio, which reads a body of any size and form on the event loop, where everybody else waits for it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rlhf_hitl.api.auth import Caller, get_page_caller
from rlhf_hitl.api.json_body import count_values
from rlhf_hitl.api.problems import respond_with_problem

log = logging.getLogger(__name__)

#: What a page may call on the server: given what the page sent and who asks, it returns a JSON object for the page.
PageCall = Callable[[Any, Caller], dict[str, Any]]

#: Values (numbers, texts, lists, objects) in one call, and how deep they may be nested. An answer about 26 completions
#: with 30 axes has 850.
MAX_VALUES, MAX_DEPTH = 2_000, 8


class PageCalls:
    """ASGI middleware of a mounted page that answers its calls.

    Args:
        calls: the functions that the page may call, by name.
        component_id: the number of the page's component in Gradio, which its script sends along.
        max_bytes: of what it sends.
    """

    ADDRESS = "gradio_api/component_server"

    def __init__(self, app: ASGIApp, calls: Mapping[str, PageCall], component_id: int, max_bytes: int):
        self._app, self._calls, self._component_id, self._max_bytes = app, calls, component_id, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_call = scope["type"] == "http" and scope["path"].rstrip("/").endswith(self.ADDRESS)
        if not is_call:
            return await self._app(scope, receive, send)
        request = Request(scope, receive)
        try:
            body = await self._read(request)
            response = await run_in_threadpool(self._answer, body, get_page_caller(request))
        except HTTPException as e:
            response = respond_with_problem(e.status_code, e.detail)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _read(self, request: Request) -> bytes:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "content-type: expected application/json. Fix: reload the page")
        body = bytearray()
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:
            self._refuse_size()
        async for part in request.stream():
            body += part
            if len(body) > self._max_bytes:
                self._refuse_size()
        return bytes(body)

    def _refuse_size(self) -> NoReturn:
        raise HTTPException(413, f"body: expected at most {self._max_bytes / 2**10:,.0f} KB. Fix: shorten what is sent")

    def _answer(self, body: bytes, caller: Caller) -> Response:
        name, component_id, sent = parse_call(body)
        if component_id != self._component_id:
            raise HTTPException(404, "component_id: expected that of this page. Fix: reload the page")
        call = self._calls.get(name)
        if call is None:
            raise HTTPException(404, f"fn_name: expected one of {', '.join(sorted(self._calls))}. Fix: reload the page")
        try:
            return JSONResponse(call(sent, caller))
        except HTTPException:
            raise
        except Exception as e:
            log.error("unexpected error", exc_info=e, extra={"call": name})
            raise HTTPException(
                500, "The server has an internal error, which is in its log. Fix: tell its operator"
            ) from e


def parse_call(body: bytes) -> tuple[str, int, Any]:
    """Return the name of the function that a page calls, the component it calls it of, and what it sends.

    Raises:
        HTTPException: 400, the body is not JSON; 422, it is no call, or has too many values.
    """

    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(name)

    if count_values(body) > MAX_VALUES:  # before they are made, which holds up everybody else
        _refuse_values()
    try:
        call = json.loads(body.decode(), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise HTTPException(400, "body: expected JSON in UTF-8. Fix: reload the page") from e
    # First how much there is, since what follows takes time for each value.
    _check_values(call)
    match call:
        case {"fn_name": str(name), "component_id": int(component_id), "data": sent}:
            return name, component_id, sent
    raise HTTPException(422, "body: expected an object with fn_name, component_id and data. Fix: reload the page")


def _check_values(root: Any) -> None:
    level, count = [root], 1
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, (list, dict)):
                count += len(value) * (1 + isinstance(value, dict))
                if count > MAX_VALUES:
                    _refuse_values()
                below += value if isinstance(value, list) else [*value, *value.values()]
        if not below:
            return
        level = below
    raise HTTPException(422, f"body: expected at most {MAX_DEPTH} levels. Fix: reload the page")


def _refuse_values() -> NoReturn:
    raise HTTPException(422, f"body: expected at most {MAX_VALUES:,} values. Fix: reload the page")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise HTTPException(422, "a text: expected valid Unicode. Fix: do not send half of a surrogate pair") from e
