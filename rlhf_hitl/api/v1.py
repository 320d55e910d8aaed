"""The API, `/api/v1`, assembled: the operations of every scope, and errors as RFC 9457 problem documents."""

from __future__ import annotations

from functools import partial

from rlhf_hitl import __version__
from rlhf_hitl.api.operations import feedback, input, manage, policies, prediction, quality, task
from rlhf_hitl.api.predictor import Predictor
from rlhf_hitl.api.problems import add_handlers
from rlhf_hitl.api.scoped_routes import Api, ScopedRoutes
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store
from rlhf_hitl.types import Scope


def create_api(store: Store, settings: Settings) -> Api:
    """Return the API as an application of its own, to be mounted at `/api/v1`."""
    api = Api(
        title="rlhf_hitl",
        version=__version__,
        summary="People rank model outputs; programs bring them in and take the judgments out.",
        docs_url=None,  # the usual page of documentation takes its scripts from another site
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    add_handlers(api, store)
    routes_of = partial(ScopedRoutes, api, store)
    input.add_operations(routes_of(Scope.INPUT), store, settings)
    prediction.add_operations(routes_of(Scope.PREDICTION), Predictor(store, settings.workspace))
    task.add_operations(routes_of(Scope.TASK), store, settings)
    feedback.add_operations(routes_of(Scope.FEEDBACK), store, settings)
    manage.add_operations(routes_of(Scope.MANAGE), store)
    quality.add_task_operations(routes_of(Scope.TASK), store, settings)
    quality.add_manage_operations(routes_of(Scope.MANAGE), store)
    policies.add_operations(routes_of(Scope.MANAGE), store)
    return api
