"""Errors of the API as RFC 9457 problem documents: the value, what was expected and the fix, never a trace."""

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
from rlhf_hitl.validation import describe_expected, describe_place

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger("rlhf_hitl.api")


class Problem(BaseModel):
    """An error (RFC 9457). `detail` says the value, what was expected and the fix."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, Any]] = Field(
        default_factory=list, description="The errors of each field, where a body was refused."
    )


_DESCRIPTIONS = {
    400: "The request cannot be read.",
    401: "No valid token or session.",
    403: "The token's scopes or its owner's role do not allow this.",
    404: "Something that the request names does not exist, or is not yours.",
    409: "The store has changed meanwhile.",
    413: "The body is too large.",
    422: "The request is understood, but cannot be used.",
    503: "The store does not answer. Send the request again: with an idempotency key it counts once.",
}


def describe_problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` for FastAPI of an operation that may answer with these errors."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _DESCRIPTIONS[status], "content": content} for status in statuses}


class ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE


def respond_with_problem(
    status: int, detail: str, *, errors: list[dict[str, Any]] | None = None, headers: dict[str, str] | None = None
) -> ProblemResponse:
    """Return a response that is a problem document."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors or [])
    usual = {"www-authenticate": "Bearer"} if status == 401 else {"retry-after": "1"} if status == 503 else {}
    return ProblemResponse(body.model_dump(), status, headers=(headers or {}) | usual)


def respond_with_store_failure() -> ProblemResponse:
    """Return the answer while the store does not answer."""
    return respond_with_problem(
        503, "the store: expected one that answers. Fix: send it again in a moment; a judgment counts once"
    )


def respond_with_internal_error() -> ProblemResponse:
    """Return the answer to what the server has a mistake in."""
    return respond_with_problem(500, "The server has an internal error, which is in its log. Fix: tell its operator")


def add_handlers(app: FastAPI, store: Store) -> None:
    """Turn every error that an operation of `app` raises into a problem document, without the store's address."""

    @app.exception_handler(RlhfHitlError)
    async def answer_own_error(_request: Request, e: RlhfHitlError) -> ProblemResponse:
        return respond_with_problem(_choose_status(e), str(e).replace(store.safe_url, "of this server"))

    @app.exception_handler(StoreFailure)
    async def answer_store_failure(_request: Request, e: StoreFailure) -> ProblemResponse:
        log.error("the store failed", extra={"store": str(e)})
        return respond_with_store_failure()

    @app.exception_handler(RequestValidationError)
    async def answer_validation_error(_request: Request, e: RequestValidationError) -> ProblemResponse:
        # The place and the reason, not the input itself: it may be a completion, and megabytes long.
        errors = [{"at": describe_place(x), "problem": _describe_refusal(x)} for x in e.errors()]
        first = f"{errors[0]['at']}: {errors[0]['problem']}" if errors else "the request"
        return respond_with_problem(
            422, f"{first}. Fix: see /api/v1/openapi.json for what is expected", errors=errors[:20]
        )

    @app.exception_handler(HTTPException)
    async def answer_http_error(request: Request, e: HTTPException) -> ProblemResponse:
        headers = dict(e.headers or {})
        if e.status_code == 405:  # a route knows only its own method, so those of the other routes are added
            routes = [r for r in app.routes if isinstance(r, Route) and r.matches(request.scope)[0] is not Match.NONE]
            headers["allow"] = ", ".join(sorted({method for route in routes for method in route.methods or ()}))
        return respond_with_problem(e.status_code, str(e.detail), headers=headers)

    @app.exception_handler(OSError)
    async def answer_disk_error(request: Request, e: OSError) -> ProblemResponse:
        log.error("the disk failed", exc_info=e, extra={"path": request.url.path})
        return respond_with_problem(
            503, "the server's disk: expected free space and the right to write. Fix: tell its operator"
        )

    @app.exception_handler(UnicodeError)
    async def answer_unicode_error(_request: Request, _e: UnicodeError) -> ProblemResponse:
        return respond_with_problem(
            422, "a text of the request: expected valid Unicode. Fix: do not send half of a surrogate pair"
        )

    @app.exception_handler(Exception)
    async def answer_unexpected_error(request: Request, e: Exception) -> ProblemResponse:
        log.error("unexpected error", exc_info=e, extra={"path": request.url.path})
        return respond_with_internal_error()


def _describe_refusal(error: dict[str, Any]) -> str:
    """Return what is wrong with a value: our own words where a route refused it, or what pydantic expected."""
    return f"expected {describe_expected(error)}" if "type" in error else error["msg"]


def _choose_status(e: RlhfHitlError) -> int:
    match e:
        case NotFound():
            return 404
        case Conflict():
            return 409
        case BadInput() | _:
            return 422
