"""Who sends a request, and what they may do: the one place where roles and scopes are named.

How somebody signs in is in `sign_in.py`; what stands before a page is in `page_guard.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope as ASGIScope

from rlhf_hitl.store import Store, audit
from rlhf_hitl.store.tokens import TokenKind, find_token_owner
from rlhf_hitl.types import Rater, Role, Scope

#: The roles that may open each page.
ROLES_OF_PAGE: dict[str, frozenset[Role]] = {
    "/rate": frozenset({Role.RATER, Role.LEAD, Role.ADMIN}),
    "/adjudicate": frozenset({Role.LEAD, Role.ADMIN}),
    "/lead": frozenset({Role.LEAD, Role.ADMIN}),
    "/data": frozenset({Role.EVALUATOR, Role.LEAD, Role.ADMIN}),
    "/raters": frozenset({Role.LEAD, Role.ADMIN}),
    "/people": frozenset({Role.LEAD, Role.ADMIN}),
    "/policies": frozenset({Role.EVALUATOR, Role.LEAD, Role.ADMIN}),
    "/replay": frozenset({Role.EVALUATOR, Role.LEAD, Role.ADMIN}),
}

#: The roles that may use each scope of the API. A token grants a scope only if it has the scope and its owner the role.
ROLES_OF_SCOPE: dict[Scope, frozenset[Role]] = {
    Scope.INPUT: frozenset({Role.LEAD, Role.ADMIN}),
    Scope.PREDICTION: frozenset({Role.EVALUATOR, Role.LEAD, Role.ADMIN}),
    Scope.TASK: frozenset({Role.RATER, Role.LEAD, Role.ADMIN}),
    Scope.FEEDBACK: frozenset(Role) - {Role.JUDGE},
    Scope.MANAGE: frozenset({Role.LEAD, Role.ADMIN}),
    Scope.METRICS: frozenset({Role.EVALUATOR, Role.LEAD, Role.ADMIN}),
}
#: The roles that may act on what the catalog's page finds: send it to raters or leads, reserve it, name it.
ACTS_ON_DATA = frozenset({Role.LEAD, Role.ADMIN})
#: The roles that may see what others judged, which policy wrote a completion, and how a model scores it.
SEES_ALL = frozenset({Role.EVALUATOR, Role.LEAD, Role.ADMIN})

SESSION_COOKIE = "rlhf_hitl_session"
SIGNED_OUT = "You are signed out. Sign in and try again."
#: The key of the ASGI scope under which `PageGuard` puts the caller of a page. No client can write there.
_PAGE_CALLER = "rlhf_hitl.page_caller"
#: The key of the ASGI scope under which `ClientLimits` puts the visitor, before anybody knows who that is.
_VISITOR = "rlhf_hitl.visitor"


@dataclass(frozen=True)
class Caller:
    """The rater who sends a request, and from where.

    `scopes` are those of their API token; None in a browser's session, where the role alone decides.
    """

    rater: Rater
    scopes: frozenset[str] | None
    address: str

    @property
    def actor(self) -> audit.Actor:
        return audit.Actor(self.rater.id, self.address)

    @property
    def sees_all(self) -> bool:
        return self.rater.role in SEES_ALL

    def may(self, scope: Scope) -> bool:
        return self.rater.role in ROLES_OF_SCOPE[scope] and (self.scopes is None or scope.value in self.scopes)


@dataclass
class Visitor:
    """Who sends a request, as far as `ClientLimits` needs it: whether they turned out to be somebody known."""

    is_known: bool = False


def set_visitor(scope: ASGIScope, visitor: Visitor) -> None:
    """Put a visitor there; who finds a valid session or token will note it."""
    scope[_VISITOR] = visitor


def _note_known(request: HTTPConnection) -> None:
    if (visitor := request.scope.get(_VISITOR)) is not None:
        visitor.is_known = True


def get_client_address(request: HTTPConnection) -> str:
    """Return the network address that a request comes from, "" where it is unknown."""
    return request.client.host if request.client else ""


def identify_caller(store: Store, request: HTTPConnection) -> Caller | None:
    """Return who sends a request, by its API token or its session; None where neither is valid.

    The store is asked every time, so disabling somebody or signing out takes effect at once.
    """
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if not kind:
        rater = find_session_rater(store, request)
        return Caller(rater, None, get_client_address(request)) if rater else None
    owner = find_token_owner(store, secret.strip(), TokenKind.API) if kind.lower() == "bearer" else None
    if owner is None:
        return None
    _note_known(request)
    return Caller(owner[0], frozenset(owner[1].scopes), get_client_address(request))


def find_session_rater(store: Store, request: HTTPConnection) -> Rater | None:
    """Return the rater of the request's session, or None. An API token is no session: it opens no page."""
    cookie = request.cookies.get(SESSION_COOKIE)
    owner = find_token_owner(store, cookie, TokenKind.SESSION) if cookie else None
    if owner is None:
        return None
    _note_known(request)
    return owner[0]


def set_page_caller(scope: ASGIScope, caller: Caller) -> None:
    """Write down who sends a request to a page, for `get_page_caller`."""
    scope[_PAGE_CALLER] = caller


def get_page_caller(request: HTTPConnection) -> Caller:
    """Return the caller of a page, whom `PageGuard` identified when this request began. The store is not asked again.

    Raises:
        HTTPException: 401, where no guard has let the request through.
    """
    caller = request.scope.get(_PAGE_CALLER)
    if caller is None:
        raise HTTPException(401, SIGNED_OUT)
    return caller


def may_manage(manager: Rater, role: Role) -> bool:
    """Return whether a rater may change people of a role and invite more of them: admins any role, leads raters."""
    return manager.role is Role.ADMIN or (manager.role is Role.LEAD and role is Role.RATER)


def check_may_manage(manager: Rater, role: Role) -> None:
    """Raise HTTPException 403 where `may_manage` says no."""
    if not may_manage(manager, role):
        raise HTTPException(
            403, f"role {manager.role.value!r}: expected an admin for a {role.value}. Fix: ask an admin"
        )
