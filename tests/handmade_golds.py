"""Golds of tests: the right answer is side 0, and says so."""

from __future__ import annotations

from rlhf_hitl.types import Answer, Message, TutorialExample, Verdict


def gold_example(question: str, *, project: str = "default", reverse: bool = False) -> TutorialExample:
    """An example of which side 0 is right (side 1 with `reverse`)."""
    sides = [(Message("assistant", f"{question}, side {i}"),) for i in range(2)]
    ranking = (("1",), ("0",)) if reverse else (("0",), ("1",))
    right = Answer(Verdict.RANKED, ranking, 2)
    return TutorialExample.create(project, (Message("user", question),), sides, right, f"Why “{question}”.")


def rank_by_text(lease, *, reverse: bool = False) -> Answer:
    """Rank what was shown by its text, so that a gold of `gold_example` is answered right (wrong with `reverse`)."""
    ordered = sorted(lease.order_shown, key=lambda id: lease.comparison.find_completion(id).text, reverse=reverse)
    return Answer(Verdict.RANKED, tuple((id,) for id in ordered), strength=2)
