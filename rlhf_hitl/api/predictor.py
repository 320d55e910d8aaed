"""The reward model in the server: loaded at the first question, kept while it is the newest, asked by one at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_hitl.errors import Conflict, NotFound
from rlhf_hitl.store import Store, ledger
from rlhf_hitl.types import Comparison, Score

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel


class Predictor:
    """Scores comparisons with a reward model of the store.

    Args:
        workspace: where features are cached.
    """

    def __init__(self, store: Store, workspace: Path):
        self.store, self.workspace = store, workspace
        self._lock = threading.Lock()
        self._loaded: RewardModel | None = None

    def score(
        self, comparisons: list[Comparison], outside: list[Comparison], model_id: str | None = None
    ) -> tuple[str, list[Score]]:
        """The model's id and its scores of `comparisons`, which are kept in the store, and of `outside`, which are not.

        Raises:
            NotFound: no such model.
            Conflict: no model is trained yet, or its folder is gone.
        """
        try:
            record = ledger.reward_model(self.store, model_id)
        except NotFound:
            if model_id is not None:
                raise
            raise Conflict("reward model: none is trained yet. Fix: run `rlhf-hitl train-reward` first") from None
        if not Path(record.path).is_dir():
            raise Conflict(f"reward model {record.id}: its folder is not on this machine. Fix: share the workspace")
        with self._lock:
            if self._loaded is None or self._loaded.id != record.id:
                from rlhf_hitl.reward.train import open_reward_model

                self._loaded = open_reward_model(self.store, record.id, self.workspace)
            scores = list(self._loaded.score([*comparisons, *outside]))
        ledger.add_scores(self.store, scores[: len(comparisons)])
        return record.id, scores
