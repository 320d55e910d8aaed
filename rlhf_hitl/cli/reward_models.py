"""What the commands that use a reward model share: the option that names it, and loading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_hitl.config import load_settings

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel
    from rlhf_hitl.store import Store

ModelId = Annotated[
    str | None,
    typer.Option("--reward-model", help="Use this reward model (id or folder) instead of the store's newest."),
]


def load_requested_model(store: Store, name: str | None, *, register: bool = True) -> RewardModel:
    """Return the reward model with this folder or id, or the store's newest for None.

    Args:
        register: see `open_reward_model`.

    Raises:
        NotFound: there is no such model.
    """
    from rlhf_hitl.store.reward_models import get_reward_model

    if name is None:
        get_reward_model(store)  # reports what is missing before anything heavy is imported
    from rlhf_hitl.reward.registry import open_reward_model

    return open_reward_model(store, name, load_settings().workspace, register=register)
