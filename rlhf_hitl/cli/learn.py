"""Command `learn`: learn from each judgment as it comes, beside the servers of a store."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command
from rlhf_hitl.config import load_settings
from rlhf_hitl.extras import require_extra
from rlhf_hitl.terminal import print_note

if TYPE_CHECKING:
    from rlhf_hitl.store.live_learning import LiveState


@command("learn")
def learn_command(
    status: Annotated[bool, typer.Option("--status", help="Only say what live learning does now.")] = False,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Let the reward model's head learn from each judgment, and reorder the queue, until Ctrl-C."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.live_learning import read_live_state

    if status:
        state = read_live_state(Store.open(store))
        return Result(_describe(state), "Live learning has never run." if state is None else str(state))
    require_extra("train", "`rlhf-hitl learn`")
    opened = Store.open(store)
    from rlhf_hitl.routing.live import LiveLearner

    learner = LiveLearner(opened, load_settings().workspace)
    print_note("learning from each judgment as it comes; Ctrl-C stops it, `rlhf-hitl learn --status` says how it goes")
    learner.start()
    with contextlib.suppress(KeyboardInterrupt):  # the way to stop it
        learner.wait()
    learner.stop()
    state = read_live_state(opened)
    return Result(_describe(state), "Stopped.")


def _describe(state: LiveState | None) -> dict[str, Any]:
    if state is None:
        return {"runs": False}
    return {
        "runs": state.runs,
        "reward_model_id": state.reward_model_id,
        "revision": state.revision,
        "says": str(state),
        **asdict(state.facts),
    }
