"""What the commands that use a reward model share: the option that names it, and loading it."""

from __future__ import annotations

from typing import Annotated

import typer

from rlhf_hitl.config import load_settings

ModelId = Annotated[
    str | None, typer.Option("--reward-model", help="Its id or folder; the newest of the store by default.")
]


def load_model(store, name: str | None, *, register: bool = True):
    """A reward model by folder or id, the store's newest for None, as `open_reward_model`."""
    from rlhf_hitl.store.reward_models import get_reward_model

    if name is None:
        get_reward_model(store)  # says what is missing before anything heavy is imported
    from rlhf_hitl.reward.registry import open_reward_model

    return open_reward_model(store, name, load_settings().workspace, register=register)
