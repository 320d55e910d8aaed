"""What the commands that use a reward model share: the option that names it, finding it, and loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_hitl.config import load_settings

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel
    from rlhf_hitl.store import Store

RewardModelName = Annotated[
    str | None,
    typer.Option(
        "--reward-model",
        help="Use this reward model instead of the store's newest: its name or id, as `models list` shows them, or its "
        "folder.",
    ),
]


def load_requested_model(store: Store, name: str | None, *, register: bool = True) -> RewardModel:
    """Return the reward model with this name, id or folder, or the store's newest for None.

    Args:
        register: see `open_reward_model`.

    Raises:
        NotFound: there is no such model.
        BadInput: several may be meant.
    """
    from rlhf_hitl.reward.registry import open_reward_model

    return open_reward_model(store, name, load_settings().workspace, register=register)


def locate_requested_model(store: Store, name: str | None) -> str:
    """Return what the messages of a command call the model that `load_requested_model` returns, without loading it.

    Raises:
        NotFound, BadInput: as `load_requested_model` does, and at once.
    """
    from rlhf_hitl.reward.registry import locate_reward_model

    folder = locate_reward_model(store, name)
    model_id = read_model_id(folder)
    return str(folder) if model_id is None else describe_model(store, model_id)


def read_model_id(folder: Path) -> str | None:
    """Return the id in a saved reward model's card; None where the card is damaged: loading the model says how."""
    from rlhf_hitl.reward import CARD_FILE

    try:
        return str(json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))["id"])
    except (ValueError, LookupError, TypeError):
        return None


def describe_model(store: Store, model_id: str) -> str:
    """Return what messages call a reward model: its name, if the store knows it, and its id."""
    from rlhf_hitl.store.reward_models import display_name_of_id, list_reward_models

    return display_name_of_id(model_id, list_reward_models(store))
