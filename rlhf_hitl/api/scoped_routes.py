"""How an operation of the API is registered: always bound to a scope, so that none can be reached without a check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import wraps
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from rlhf_hitl.api.auth import SESSION_COOKIE, Caller, identify_caller
from rlhf_hitl.api.problems import Problem, describe_problem_responses
from rlhf_hitl.store import Store
from rlhf_hitl.types import Role, Scope

ANY_ROLE = frozenset(Role)


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

    The function must take a parameter `caller`, which receives the `Caller` once their access has been checked; FastAPI
    fills its other parameters, a JSON body as `body`.
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
        responses: Mapping[int | str, dict[str, Any]] | None = None,
        openapi_extra: Mapping[str, Any] | None = None,
        **route_options: Any,
    ) -> Callable[[Callable], Callable]:
        """Return a decorator that registers a function as the handler of an operation.

        Args:
            error_statuses: statuses it may answer with, besides those of every operation.
            roles: the roles that may call it, where not every role that may use the scope may.
            route_options: further arguments of FastAPI's `add_api_route`.
        """

        def register(handler: Callable) -> Callable:
            def check_access(request: Request) -> Caller:
                caller = identify_caller(self._store, request)
                return _require_access(caller, self._scope, roles)

            parameters = inspect.signature(handler).parameters
            body_statuses = (400, 413) if "body" in parameters else ()
            errors = describe_problem_responses(*body_statuses, 401, 403, 422, 503, *error_statuses)
            self._api.router.add_api_route(
                path,
                _check_caller_before(handler, parameters, check_access),
                methods=[method],
                tags=[self._scope.value],
                responses={**(responses or {}), **errors},
                openapi_extra={"security": [{"token": [self._scope.value]}, {"session": []}], **(openapi_extra or {})},
                route_class_override=_make_access_checked_route(check_access),
                **route_options,
            )
            return handler

        return register


CheckAccess = Callable[[Request], Caller]


def _check_caller_before(
    handler: Callable, parameters: Mapping[str, inspect.Parameter], check_access: CheckAccess
) -> Callable:
    """Wrap a handler: FastAPI passes a `request`, and the handler receives its checked `caller` instead."""

    def build_arguments(request: Request, arguments: dict[str, Any]) -> dict[str, Any]:
        more = {"request": request} if "request" in parameters else {}
        return arguments | more | {"caller": check_access(request)}

    # The check and the handler run in one thread: switching threads costs as much as a query to the store.
    def run_in_thread(request: Request, **arguments: Any) -> Any:
        return handler(**build_arguments(request, arguments))

    async def run_in_event_loop(request: Request, **arguments: Any) -> Any:
        return await handler(**await run_in_threadpool(build_arguments, request, arguments))

    wrapped = wraps(handler)(run_in_event_loop if inspect.iscoroutinefunction(handler) else run_in_thread)
    request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    visible = {n: p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in parameters.items() if n != "caller"}
    wrapped.__signature__ = inspect.Signature([*(visible | {"request": request}).values()])  # type: ignore[attr-defined]
    return wrapped


def _make_access_checked_route(check_access: CheckAccess) -> type[APIRoute]:
    """Return a route class that answers 401 or 403 rather than 422 to a bad request of somebody without access."""

    class AccessCheckedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_or_refuse(request: Request) -> Response:
                try:
                    return await handle(request)
                except RequestValidationError:  # raised before the handler runs, and so before its access check
                    await run_in_threadpool(check_access, request)
                    raise

            return handle_or_refuse

    return AccessCheckedRoute


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
