"""Errors of the API as RFC 9457 problem documents: the value, what was expected, the fix; never a trace."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

from rlhf_hitl.errors import BadInput, Conflict, NotFound, RlhfHitlError
from rlhf_hitl.store import Store, StoreFailure

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger("rlhf_hitl.api")


class Problem(BaseModel):
    """RFC 9457. `detail` says the value, what was expected and the fix."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, Any]] = Field(default_factory=list, description="Field by field, where a body was refused.")


_WORDS = {
    400: "The request cannot be read.",
    401: "No valid token or session.",
    403: "The token's scopes or its owner's role do not open this door.",
    404: "What is named does not exist, or is not yours.",
    409: "The store has moved on.",
    413: "The body is too large.",
    422: "The request is understood and cannot be used.",
    503: "The store does not answer. Send it again: what has a key counts once.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of an operation that fails in these ways, for its OpenAPI."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _WORDS[status], "content": content} for status in statuses}


class ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE


def problem(
    status: int, detail: str, *, errors: list[dict[str, Any]] | None = None, headers: dict[str, str] | None = None
) -> ProblemResponse:
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors or [])
    more = {"www-authenticate": "Bearer"} if status == 401 else {"retry-after": "1"} if status == 503 else {}
    return ProblemResponse(body.model_dump(), status, headers=(headers or {}) | more)


def add_handlers(app: FastAPI, store: Store) -> None:
    """Turn every error that leaves an operation of `app` into a problem document. The store's address stays inside."""

    @app.exception_handler(RlhfHitlError)
    async def of_ours(_request: Request, e: RlhfHitlError) -> ProblemResponse:
        return problem(_status(e), str(e).replace(store.safe_url, "of this server"))

    @app.exception_handler(StoreFailure)
    async def of_the_store(_request: Request, e: StoreFailure) -> ProblemResponse:
        log.error("the store failed", extra={"store": str(e)})
        return problem(
            503, "the store: expected one that answers. Fix: send it again in a moment; an answer counts once"
        )

    @app.exception_handler(RequestValidationError)
    async def of_the_body(_request: Request, e: RequestValidationError) -> ProblemResponse:
        # Where and why, not the input itself: it may be a completion, and it may be megabytes.
        errors = [{"at": ".".join(map(str, x["loc"])), "problem": x["msg"]} for x in e.errors()]
        first = f"{errors[0]['at']}: {errors[0]['problem']}" if errors else "the request"
        return problem(422, f"{first}. Fix: see /api/v1/openapi.json for what is expected", errors=errors[:20])

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, e: HTTPException) -> ProblemResponse:
        headers = dict(e.headers or {})
        if e.status_code == 405:  # a route knows its own method only
            found = [r for r in app.routes if isinstance(r, Route) and r.matches(request.scope)[0] is not Match.NONE]
            headers["allow"] = ", ".join(sorted({method for route in found for method in route.methods or ()}))
        return problem(e.status_code, str(e.detail), headers=headers)

    @app.exception_handler(OSError)
    async def of_the_disk(request: Request, e: OSError) -> ProblemResponse:
        log.error("the disk failed", exc_info=e, extra={"path": request.url.path})
        return problem(503, "the server's disk: expected room and the right to write. Fix: tell whoever runs it")

    @app.exception_handler(UnicodeError)
    async def of_text(_request: Request, _e: UnicodeError) -> ProblemResponse:
        return problem(422, "a text of the request: expected valid Unicode. Fix: send no half of a surrogate pair")

    @app.exception_handler(Exception)
    async def of_anything_else(request: Request, e: Exception) -> ProblemResponse:
        log.error("unexpected error", exc_info=e, extra={"path": request.url.path})
        return problem(500, "The server met an error of its own; it is in its log. Fix: tell whoever runs it")


def _status(e: RlhfHitlError) -> int:
    match e:
        case NotFound():
            return 404
        case Conflict():
            return 409
        case BadInput() | _:
            return 422
