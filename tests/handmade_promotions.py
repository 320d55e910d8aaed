"""Promotions that are decided without a rater: both policies say the same."""

from __future__ import annotations

from rlhf_hitl.policy.promotion_votes import look_at_promotion
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import insert_prompts
from rlhf_hitl.store.promotions import AnsweredPrompt, Promotion, open_promotion
from rlhf_hitl.types import Completion, Message, Prompt, Split


def hold_tied_promotion(store: Store, new_policy: str, old_policy: str, prompts: int = 3) -> Promotion:
    """Hold a promotion that ends undecided: every answer is a tie."""
    drawn = []
    for i in range(prompts):
        prompt = Prompt.create((Message("user", f"Both say the same of {i}"),), {}, Split.HELDOUT)
        said = (Message("assistant", "the same"),)
        new, old = (Completion.create(prompt.id, said, policy) for policy in (new_policy, old_policy))
        drawn.append(AnsweredPrompt(prompt, new, old, None))
    with store.write() as conn:
        insert_prompts(store, conn, [d.prompt for d in drawn])
    settings = {"least_gain": 0.1, "alpha": 0.05, "beta": 0.1, "overlap": 1, "judged": prompts}
    opened = open_promotion(
        store, new_policy=new_policy, old_policy=old_policy, drawn=drawn, settings=settings, counts={}
    )
    return look_at_promotion(store, opened.id)
