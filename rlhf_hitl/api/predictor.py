"""The reward model in the server: loaded at the first request, kept while it is the newest, locked during its use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.extras import MissingExtra, require_extra
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.reward_models import display_name, get_reward_model
from rlhf_hitl.store.scores import insert_scores
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
        self, comparison_ids: Sequence[str], unsaved: Sequence[Comparison], model_id: str | None = None
    ) -> tuple[str, list[Score], list[Score]]:
        """Score comparisons of the store and comparisons that are not in it.

        Args:
            comparison_ids: of the store. Their scores are kept in the store.
            unsaved: comparisons that are not in the store. Their scores are not kept.
            model_id: of the reward model; None for the newest.

        Returns:
            The model's id, the scores of `comparison_ids`, the scores of `unsaved`.

        Raises:
            BadInput: there is nothing to score.
            NotFound: there is no such comparison or model.
            Conflict: no model is trained yet, its folder is missing, or what runs models is not installed.
        """
        if not comparison_ids and not unsaved:
            raise BadInput("nothing to score", expected="comparison_ids or texts", fix="say what to score")
        ids = list(dict.fromkeys(comparison_ids))
        comparisons = {c.id: c for c in find_comparisons(self.store, ids=ids, repeats=True)}
        if missing := [i for i in ids if i not in comparisons]:
            raise NotFound(f"comparison {missing[0]!r}", expected="one in the store", fix="add it first")
        with self._lock:
            model = self._load_model(model_id)
            scores = list(model.score([*(comparisons[i] for i in ids), *unsaved]))
        saved = scores[: len(ids)]
        insert_scores(self.store, saved)
        return model.id, saved, scores[len(ids) :]

    def _load_model(self, model_id: str | None) -> RewardModel:
        try:
            record = get_reward_model(self.store, model_id)
        except NotFound:
            if model_id is not None:
                raise
            raise Conflict("reward model: none is trained yet. Fix: run `rlhf-hitl train-reward` first") from None
        if not Path(record.path).is_dir():
            name = display_name(record, with_id=True)
            raise Conflict(f"reward model {name}: its folder is not on this machine. Fix: share the workspace")
        try:
            require_extra("train", "scoring on this server")
        except MissingExtra as e:
            raise Conflict(str(e)) from e
        if self._loaded is None or self._loaded.id != record.id:
            from rlhf_hitl.reward.registry import open_reward_model

            self._loaded = open_reward_model(self.store, record.id, self.workspace)
        return self._loaded
