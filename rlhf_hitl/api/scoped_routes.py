"""How an operation of the API is registered: behind a door, so that none can be without one."""

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

from rlhf_hitl.api.auth import COOKIE, Caller, caller
from rlhf_hitl.api.problems import Problem, may_answer
from rlhf_hitl.store import Store
from rlhf_hitl.types import Role, Scope

ANYBODY = frozenset(Role)


class Api(FastAPI):
    """FastAPI whose OpenAPI says how one shows who one is, and what an error looks like."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            components = super().openapi()["components"]
            components["schemas"]["Problem"] = Problem.model_json_schema()
            components["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer", "description": "Made by `rlhf-hitl tokens add`."},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Of who signed in."},
            }
        assert self.openapi_schema is not None
        return self.openapi_schema


class ScopedRoutes:
    """Registers the operations behind one door of the API, as in `@routes("POST", "/leases", ...)` over a function.

    The function's `who` is the caller; FastAPI reads its other arguments, a JSON body as `body`.
    """

    def __init__(self, api: FastAPI, store: Store, scope: Scope):
        self._api, self._store, self._scope = api, store, scope

    def __call__(
        self,
        method: str,
        path: str,
        *,
        fails: Collection[int] = (),
        only: Collection[Role] = ANYBODY,
        responses: Mapping[int | str, dict[str, Any]] | None = None,
        openapi_extra: Mapping[str, Any] | None = None,
        **told: Any,
    ) -> Callable[[Callable], Callable]:
        """What registers a function.

        Args:
            fails: statuses it may answer with, besides those of every operation.
            only: the roles that may call it, where not all may that use the door.
            told: more for FastAPI's `add_api_route`.
        """

        def add(handler: Callable) -> Callable:
            def admit(request: Request) -> Caller:
                return _admit(caller(self._store, request), self._scope, only)

            wanted = inspect.signature(handler).parameters
            of_a_body = (400, 413) if "body" in wanted else ()
            self._api.router.add_api_route(
                path,
                _admitting(handler, wanted, admit),
                methods=[method],
                tags=[self._scope.value],
                responses={**(responses or {}), **may_answer(*of_a_body, 401, 403, 422, 503, *fails)},
                openapi_extra={"security": [{"token": [self._scope.value]}, {"session": []}], **(openapi_extra or {})},
                route_class_override=_route(admit),
                **told,
            )
            return handler

        return add


Admit = Callable[[Request], Caller]


def _admitting(handler: Callable, wanted: Mapping[str, inspect.Parameter], admit: Admit) -> Callable:
    """The handler with the request in the place of the caller, who is looked up and checked first."""

    def given_to(request: Request, given: dict[str, Any]) -> dict[str, Any]:
        more = {"request": request} if "request" in wanted else {}
        return given | more | {"who": admit(request)}

    # Check and handler run in one thread: a hop from thread to thread costs as much as a question to the store.
    def in_a_thread(request: Request, **given: Any) -> Any:
        return handler(**given_to(request, given))

    async def in_the_loop(request: Request, **given: Any) -> Any:
        return await handler(**await run_in_threadpool(given_to, request, given))

    run = wraps(handler)(in_the_loop if inspect.iscoroutinefunction(handler) else in_a_thread)
    request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    others = {n: p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in wanted.items() if n != "who"}
    run.__signature__ = inspect.Signature([*(others | {"request": request}).values()])  # type: ignore[attr-defined]
    return run


def _route(admit: Admit) -> type[APIRoute]:
    """A route where who may not come in is told that, and not what is wrong with what they sent."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_or_refuse(request: Request) -> Response:
                try:
                    return await handle(request)
                except RequestValidationError:  # before the handler, and so before its check
                    await run_in_threadpool(admit, request)
                    raise

            return handle_or_refuse

    return Route


def _admit(who: Caller | None, scope: Scope, only: Collection[Role]) -> Caller:
    if who is None:
        raise HTTPException(401, "credentials: expected a valid API token or session. Fix: send Authorization: Bearer")
    role = f"role {who.rater.role.value!r}"
    if not who.may(scope):
        raise HTTPException(403, f"{role}: expected one, and a token, that may use {scope.value!r}. Fix: ask for such")
    if who.rater.role not in only:
        raise HTTPException(403, f"{role}: expected {' or '.join(sorted(only))}. Fix: ask one of them")
    return who
