"""What the rater page sends, and the answer in it."""

from __future__ import annotations

from datetime import datetime
from string import ascii_uppercase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import Answer, Judgment, Ranking, Reason, ShownAnswer, Verdict

PageId = Annotated[str, Field(max_length=80, pattern=r"^[^\x00-\x1f]*$")]
TEXT = r"^[^\x00]*$"


class PageRequest(BaseModel):
    """What the page sends with a call.

    `id` is that of a lease (in `mode` "gold", of one that was answered), in `mode` "correct" that of a judgment, in
    `mode` "tutorial" that of an example. `ranks` and the values of `scores` are in the order in which the completions
    were shown; equal ranks are ties, and None is unranked. `have` are the leases that the page holds, `lapsed` those of
    them that ran out, and `guidelines` the guidelines that it holds. `words` are searched for in the history. `day` is
    when the rater's day began.
    """

    model_config = ConfigDict(extra="forbid")

    day: datetime | None = None
    have: tuple[PageId, ...] = Field(default=(), max_length=10)
    lapsed: tuple[PageId, ...] = Field(default=(), max_length=10)
    guidelines: tuple[Annotated[str, Field(max_length=200, pattern=TEXT)], ...] = Field(default=(), max_length=100)
    words: str = Field(default="", max_length=200, pattern=TEXT)
    id: PageId = ""
    mode: Literal["new", "correct", "tutorial", "gold"] = "new"
    verdict: Verdict | None = None
    ranks: tuple[int | None, ...] = Field(default=(), max_length=len(ascii_uppercase))
    strength: int | None = None
    reason: Reason | None = None
    scores: dict[PageId, tuple[int | None, ...]] = Field(default_factory=dict, max_length=30)
    rationale: str = Field(default="", max_length=20_000, pattern=TEXT)
    rewrite: str = Field(default="", max_length=100_000, pattern=TEXT)
    active_seconds: float = Field(default=0.0, ge=0, lt=86_400)


def read_answer(sent: PageRequest) -> ShownAnswer:
    """Return the answer that the page sent, in the letters the completions were shown under.

    Raises:
        BadInput: the answer contradicts itself, or its parts are for different numbers of completions.
    """
    if sent.verdict is None:
        raise BadInput("verdict", expected="a choice", fix="choose an answer first")
    ranks = sent.ranks if sent.verdict is Verdict.RANKED else ()
    counts = {len(values) for values in sent.scores.values()} | ({len(ranks)} if ranks else set())
    if len(counts) > 1:
        raise BadInput(
            f"ranks and scores of {sorted(counts)} completions",
            expected="as many of each as completions were shown",
            fix="send a rank or null, and a score or null, for each completion",
        )
    ranking: Ranking = tuple(
        tuple(letter for letter, r in zip(ascii_uppercase, ranks) if r == rank)
        for rank in sorted({r for r in ranks if r is not None})
    )
    scores = {
        axis: {letter: score for letter, score in zip(ascii_uppercase, values) if score is not None}
        for axis, values in sent.scores.items()
    }
    answer = Answer.from_plain(
        dict(sent)
        | {
            "ranking": ranking,
            "scores": {axis: axis_scores for axis, axis_scores in scores.items() if axis_scores},
            "rationale": sent.rationale.strip(),
            "rewrite": sent.rewrite.strip(),
        }
    )
    return ShownAnswer(answer, counts.pop() if counts else None)


def answer_to_page(judgment: Judgment) -> dict[str, Any]:
    """Return a judgment's answer in the form in which the page sends one."""
    answer, shown = judgment.answer, judgment.order_shown
    plain = answer.to_plain()
    del plain["ranking"], plain["active_seconds"]
    # Judgments older than scores of single completions may have one plain value for an axis; the page cannot show it.
    scores = {axis: by_id for axis, by_id in answer.scores.items() if isinstance(by_id, dict)}
    return plain | {
        "ranks": [_find_rank(answer.ranking, completion_id) for completion_id in shown],
        "scores": {axis: [by_id.get(i) for i in shown] for axis, by_id in scores.items()},
        # The clock goes on from here: the time of a correction includes the time of what it corrects.
        "active": answer.active_seconds or 0.0,
    }


def _find_rank(ranking: Ranking, completion_id: str) -> int | None:
    return next((rank for rank, group in enumerate(ranking, 1) if completion_id in group), None)
