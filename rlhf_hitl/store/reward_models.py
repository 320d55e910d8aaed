"""Reward models: what was trained, from which data, and where its folder is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rlhf_hitl.errors import NotFound
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import reward_models
from rlhf_hitl.types import utc_now


@dataclass(frozen=True)
class RewardModelRecord:
    """A trained reward model that is registered in the store. `figures` describe its training data."""

    id: str
    backend: str
    path: str
    backbone: str
    data_hash: str
    simulated: bool
    figures: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=utc_now)


def add_reward_model(store: Store, model: RewardModelRecord) -> None:
    """Register a model as the newest. A model that is registered already (its id is its content) becomes the newest."""
    with store.write() as conn:
        if not store.insert_new(conn, reward_models, [vars(model)]):
            same = reward_models.c.id == model.id
            conn.execute(reward_models.update().where(same).values(created_at=model.created_at, path=model.path))


def list_reward_models(store: Store) -> list[RewardModelRecord]:
    """Return every reward model, oldest first."""
    query = sa.select(reward_models).order_by(reward_models.c.created_at)
    with store.read() as conn:
        return [RewardModelRecord(**row) for row in conn.execute(query).mappings()]


def get_reward_model(store: Store, model_id: str | None = None) -> RewardModelRecord:
    """Return the reward model with that id, or the newest.

    Raises:
        NotFound: there is none.
    """
    models = [m for m in list_reward_models(store) if model_id in (None, m.id)]
    if not models:
        newest_ids = [m.id for m in list_reward_models(store)][-3:]
        raise NotFound(
            f"reward model {model_id or '(newest)'}",
            expected=f"one of this store's ({', '.join(newest_ids)} the newest) or a folder"
            if newest_ids
            else "a trained one",
            fix="name one of them" if newest_ids else "run `rlhf-hitl train-reward` first",
        )
    return models[-1]
