"""The evaluators' page: what a reward model says beside what raters said, figure by figure and example by example.

Here are the calls of the page. `replay_evaluations.py` draws the evaluations, `replay_examples.py` their examples.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import Field
from starlette.middleware import Middleware

from rlhf_hitl.api import auth
from rlhf_hitl.api.images import make_image_address
from rlhf_hitl.api.page_calls import PageCall
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import RlhfHitlError
from rlhf_hitl.reward.evaluation.browse import Order, Show
from rlhf_hitl.store import Store, StoreFailure
from rlhf_hitl.store.reward_models import list_reward_models
from rlhf_hitl.ui.dashboard import PageMessage, mount_dashboard
from rlhf_hitl.ui.replay_evaluations import (
    name_evaluations_in,
    render_evaluation,
    render_evaluation_list,
    render_two_evaluations,
)
from rlhf_hitl.ui.replay_examples import ExampleRequest, mark_difference, show_example


class EvaluationMessage(PageMessage):
    """An evaluation by the name of its folder, and a second one if two are compared."""

    of: str = Field(max_length=300)
    beside: str | None = Field(None, max_length=300)


class ExampleMessage(EvaluationMessage):
    """Which examples to list, and which of them to show: see `ExampleRequest`."""

    show: Show = "disagreements"
    order: Order = "wrong"
    tag: str | None = Field(None, max_length=1000)
    value: str = Field("", max_length=10_000)
    words: str = Field("", max_length=200)
    at: int = Field(0, ge=0)
    example: str | None = Field(None, max_length=300)


class DifferenceMessage(PageMessage):
    """An evaluation and the key of one of its examples."""

    of: str = Field(max_length=300)
    example: str = Field(max_length=300)


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""
    workspace = settings.workspace

    def open(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return {"html": render_evaluation_list(workspace, list_reward_models(store))}

    def evaluation(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        message = EvaluationMessage.model_validate(sent)
        models = list_reward_models(store)
        if message.beside is None:
            return render_evaluation(workspace, message.of, models)
        return render_two_evaluations(workspace, message.of, message.beside, models)

    def look(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        message = ExampleMessage.model_validate(sent)
        image_address = make_image_address(store, caller.rater.id)
        return show_example(workspace, ExampleRequest(**message.model_dump()), image_address)

    def difference(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        message = DifferenceMessage.model_validate(sent)
        return {"marked": mark_difference(workspace, message.of, message.example)}

    def name_in_problems(call: PageCall) -> PageCall:
        def answer(sent: Any, caller: auth.Caller) -> dict[str, Any]:
            try:
                return call(sent, caller)
            except StoreFailure:  # the dashboard says it
                raise
            except RlhfHitlError as e:
                raise RlhfHitlError(name_evaluations_in(str(e), list_reward_models(store))) from e

        return answer

    called = {"open": open, "evaluation": evaluation, "look": look, "difference": difference}
    calls = {name: name_in_problems(call) for name, call in called.items()}
    mount_dashboard(app, path, guard, name="replay", calls=calls, scripts=("address", "examples", "keys"))
