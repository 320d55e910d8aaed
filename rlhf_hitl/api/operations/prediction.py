"""The scope `prediction`: score comparisons or texts with a reward model."""

from __future__ import annotations

from typing import Any

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.bodies import prediction as bodies
from rlhf_hitl.api.operations.shared import MANY_TEXTS
from rlhf_hitl.api.predictor import Predictor
from rlhf_hitl.api.scoped_routes import ScopedRoutes


def add_operations(routes: ScopedRoutes, predictor: Predictor) -> None:
    """Register the operations of the scope `prediction`."""

    @routes(
        "POST", "/predictions", response_model=bodies.Predictions, body_limits=MANY_TEXTS, error_statuses=(404, 409)
    )
    def predict(caller: Caller, body: bodies.PredictionsBody) -> Any:
        """Score comparisons of the store (the scores are kept) or texts (they are not kept) with a reward model."""
        texts = [t.to_comparison() for t in body.texts]
        model_id, saved, unsaved = predictor.score(body.comparison_ids, [c for c, _ in texts], body.reward_model_id)
        scores = [bodies.score_to_json(s, s.comparison_id) for s in saved]
        scores += [bodies.score_to_json(s, None, positions) for s, (_, positions) in zip(unsaved, texts)]
        return {"reward_model_id": model_id, "scores": scores}
