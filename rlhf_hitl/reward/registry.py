"""Reward models in the store: register a saved one, open one by folder or id."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rlhf_hitl.reward.model import HEAD_FILE, RewardModel, load_reward_model
from rlhf_hitl.store import Store
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model, get_reward_model, list_reward_models


def register_reward_model(store: Store, model: RewardModel, folder: Path) -> None:
    """Make a model that is saved in a folder the store's newest."""
    add_reward_model(store, _make_record(model, folder))


def open_reward_model(store: Store, name: str | None, workspace: Path, *, register: bool = True) -> RewardModel:
    """Load a reward model by folder or id, or the store's newest for None.

    A model the store does not know is registered with the time it was trained: opening a model does not make it the
    newest.

    Args:
        register: False leaves the store as it is.

    Raises:
        NotFound: there is no such model, or its folder is gone.
    """
    cache = workspace / "features"
    if name and Path(name).is_dir():
        model, folder = load_reward_model(name, cache), Path(name)
        if register and model.id not in {record.id for record in list_reward_models(store)}:
            trained_at = datetime.fromtimestamp((folder / HEAD_FILE).stat().st_mtime, UTC)
            add_reward_model(store, replace(_make_record(model, folder), created_at=trained_at))
        return model
    return load_reward_model(get_reward_model(store, name or None).path, cache)


def _make_record(model: RewardModel, folder: Path) -> RewardModelRecord:
    return RewardModelRecord(
        id=model.id,
        backend=model.backend,
        path=str(folder.resolve()),
        backbone=model.cache.backbone.name,
        data_hash=model.card["data_hash"],
        simulated=model.card["simulated"],
        figures={k: v for k, v in model.card.items() if isinstance(v, int | float)},
    )
