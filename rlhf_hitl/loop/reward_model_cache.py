"""The reward models of rounds, each loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_hitl.store import Store
from rlhf_hitl.store.loop_steps import read_finished_steps
from rlhf_hitl.store.reward_models import get_reward_model, list_reward_models

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel


class RewardModelCache:
    """Loads the reward models of rounds, each once."""

    def __init__(self, store: Store, workspace: Path):
        self.store, self.workspace = store, workspace
        self._loaded: dict[str, RewardModel] = {}

    def add(self, model: RewardModel) -> None:
        self._loaded[model.id] = model

    def get(self, round: int) -> RewardModel | None:
        """Return the model that a round trained; if it trained none, the store's newest, or None."""
        from rlhf_hitl.reward.model import load_reward_model

        trained = read_finished_steps(self.store).get((round, "train_reward"))
        if trained is not None:
            record = get_reward_model(self.store, trained["reward_model_id"])
        elif records := list_reward_models(self.store):
            record = records[-1]
        else:
            return None
        if record.id not in self._loaded:
            self._loaded[record.id] = load_reward_model(record.path, self.workspace / "features")
        return self._loaded[record.id]
