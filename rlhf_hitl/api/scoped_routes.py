"""How an operation of the API is registered: always bound to a scope, so that none can be reached without a check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import partial, wraps
from typing import Any, get_type_hints

from fastapi import FastAPI, Request, Response
from fastapi.dependencies.utils import get_dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from rlhf_hitl.api.auth import SESSION_COOKIE, Caller, identify_caller
from rlhf_hitl.api.json_body import SMALL_BYTES, BodyLimits, parse_body, parse_large_body, read_body
from rlhf_hitl.api.problems import Problem, describe_problem_responses
from rlhf_hitl.store import Store
from rlhf_hitl.types import Role, Scope

ANY_ROLE = frozenset(Role)
CheckAccess = Callable[[Request], Caller]
#: Of most operations, whose bodies are a few settings.
SMALL_BODY = BodyLimits(max_bytes=2**16, max_values=1_000)


class Api(FastAPI):
    """FastAPI whose OpenAPI description also holds the two ways to authenticate and the form of an error."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            components = super().openapi()["components"]
            components["schemas"]["Problem"] = Problem.model_json_schema()
            components["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer", "description": "Made by `rlhf-hitl tokens add`."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": SESSION_COOKIE,
                    "description": "Set by signing in.",
                },
            }
        assert self.openapi_schema is not None
        return self.openapi_schema


class ScopedRoutes:
    """Registers the operations of one scope of the API, as in `@routes("POST", "/leases", ...)` over a function.

    The function must take a parameter `caller`, which receives the `Caller` once their access has been checked, and may
    take a JSON body as `body`; FastAPI fills its other parameters.
    """

    def __init__(self, api: FastAPI, store: Store, scope: Scope):
        self._api, self._store, self._scope = api, store, scope

    def __call__(
        self,
        method: str,
        path: str,
        *,
        error_statuses: Collection[int] = (),
        roles: Collection[Role] = ANY_ROLE,
        body_limits: BodyLimits = SMALL_BODY,
        responses: Mapping[int | str, dict[str, Any]] | None = None,
        openapi_extra: Mapping[str, Any] | None = None,
        **route_options: Any,
    ) -> Callable[[Callable], Callable]:
        """Return a decorator that registers a function as the handler of an operation.

        Args:
            error_statuses: statuses it may answer with, besides those of every operation.
            roles: the roles that may call it, where not every role that may use the scope may.
            body_limits: how large its body may be.
            route_options: further arguments of FastAPI's `add_api_route`.
        """

        def register(handler: Callable) -> Callable:
            def check_access(request: Request) -> Caller:
                caller = identify_caller(self._store, request)
                return _require_access(caller, self._scope, roles)

            parameters = inspect.signature(handler).parameters
            body_model = get_type_hints(handler)["body"] if "body" in parameters else None
            body_statuses = (400, 413) if "body" in parameters else ()
            errors = describe_problem_responses(*body_statuses, 401, 403, 422, 503, *error_statuses)
            self._api.router.add_api_route(
                path,
                _hide_caller(handler, parameters),
                methods=[method],
                tags=[self._scope.value],
                responses={**(responses or {}), **errors},
                openapi_extra={"security": [{"token": [self._scope.value]}, {"session": []}], **(openapi_extra or {})},
                route_class_override=_make_checked_route(handler, parameters, check_access, body_model, body_limits),
                **route_options,
            )
            return handler

        return register


def _hide_caller(handler: Callable, parameters: Mapping[str, inspect.Parameter]) -> Callable:
    """Return the handler as FastAPI describes it: without its caller, who is no part of a request."""

    def described(**arguments: Any) -> Any:
        raise AssertionError("a checked route calls the handler itself")

    visible = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in parameters.items() if n != "caller"]
    described = wraps(handler)(described)
    described.__signature__ = inspect.Signature(visible)  # type: ignore[attr-defined]
    return described


def _make_checked_route(
    handler: Callable,
    parameters: Mapping[str, inspect.Parameter],
    check_access: CheckAccess,
    body_model: type[BaseModel] | None,
    body_limits: BodyLimits,
) -> type[APIRoute]:
    """Return a class of routes that check access before a body is parsed, and parse it in a thread.

    FastAPI would parse and check a body in the event loop, before the handler, and all other requests would wait.
    """

    def build_arguments(request: Request, arguments: dict[str, Any]) -> dict[str, Any]:
        more: dict[str, Any] = {"request": request} if "request" in parameters else {}
        caller = check_access(request)
        if body_model is not None:
            more["body"] = request.state.parse_body()
        return arguments | more | {"caller": caller}

    # The check, the parsing and the handler run in one thread: switching threads costs as much as a query to the store.
    def run_in_thread(request: Request, **arguments: Any) -> Any:
        return handler(**build_arguments(request, arguments))

    async def run_in_event_loop(request: Request, **arguments: Any) -> Any:
        return await handler(**await run_in_threadpool(build_arguments, request, arguments))

    run = run_in_event_loop if inspect.iscoroutinefunction(handler) else run_in_thread
    call = wraps(handler)(run)
    filled = [p for n, p in parameters.items() if n not in ("caller", "body", "request")]
    filled = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in filled]
    request_parameter = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    call.__signature__ = inspect.Signature([*filled, request_parameter])  # type: ignore[attr-defined]

    async def read(request: Request, model: type[BaseModel]) -> None:
        async def check() -> None:
            await run_in_threadpool(check_access, request)

        raw = await read_body(request, body_limits.max_bytes, check)
        content_type = request.headers.get("content-type", "")
        parse = partial(parse_body, model, raw, content_type, body_limits.max_values)
        if len(raw) > SMALL_BYTES:
            parsed = await parse_large_body(parse)
            request.state.parse_body = lambda: parsed
        else:
            request.state.parse_body = parse

    class CheckedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            described = self.dependant, self.body_field
            self.dependant, self.body_field = get_dependant(path=self.path_format, call=call), None
            handle = super().get_route_handler()
            self.dependant, self.body_field = described  # what the OpenAPI description is made of

            async def handle_or_refuse(request: Request) -> Response:
                try:
                    if body_model is not None:
                        await read(request, body_model)
                    return await handle(request)
                except ClientDisconnect:
                    return Response(status_code=400)
                except RequestValidationError:  # of a path or query, raised before the access check
                    await run_in_threadpool(check_access, request)
                    raise

            return handle_or_refuse

    return CheckedRoute


def _require_access(caller: Caller | None, scope: Scope, roles: Collection[Role]) -> Caller:
    """Return the caller, or raise HTTPException 401 (unknown) or 403 (wrong scope or role)."""
    if caller is None:
        raise HTTPException(401, "credentials: expected a valid API token or session. Fix: send Authorization: Bearer")
    role = f"role {caller.rater.role.value!r}"
    if not caller.may(scope):
        raise HTTPException(
            403, f"{role}: expected a role and a token that may use {scope.value!r}. Fix: ask an admin for a token"
        )
    if caller.rater.role not in roles:
        raise HTTPException(403, f"{role}: expected {' or '.join(sorted(roles))}. Fix: ask one of them")
    return caller
