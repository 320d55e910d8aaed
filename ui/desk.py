"""What the rater page shows and what it does with an answer, as plain dictionaries.

Nothing that leaves here says who wrote a completion, what a model thinks of it or why it is shown: completions are
letters in the order shown, and ids are random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from string import ascii_uppercase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import Store, queue, views
from rlhf_hitl.store.db import StoreFailure
from rlhf_hitl.types import Answer, Comparison, Message, Ranking, Rater, Verdict, utc_now
from rlhf_hitl.ui import INTERFACE_VERSION, markdown

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


class Sent(BaseModel):
    """What the page sends: `id` of a lease or, when correcting, of a judgment; `ranks` by position shown, equal ranks
    being ties and None unranked; `day` the start of the rater's day."""

    model_config = ConfigDict(extra="forbid")

    day: datetime | None = None
    id: str = Field(default="", max_length=80)
    mode: Literal["new", "correct"] = "new"
    verdict: Verdict | None = None
    ranks: tuple[int | None, ...] = Field(default=(), max_length=len(ascii_uppercase))
    strength: int | None = None
    rationale: str = Field(default="", max_length=20_000)
    active_seconds: float = Field(default=0.0, ge=0, lt=86_400)


def open_(store: Store, settings: Settings, rater: Rater, sent: Any) -> dict[str, Any]:
    """The rater's comparison, new or still held: `{"card": …}` or `{"problem": …}`."""
    return _told(lambda: _next(store, settings, rater, Sent.model_validate(sent)))


def submit(store: Store, settings: Settings, rater: Rater, sent: Any) -> dict[str, Any]:
    """Keep the answer and bring the next comparison, in one go."""

    def do() -> dict[str, Any]:
        body = Sent.model_validate(sent)
        keep = _correct if body.mode == "correct" else _submit
        outcome = keep(store, settings, rater, body)
        return {"outcome": outcome} | _next(store, settings, rater, body)

    return _told(do)


def undo(store: Store, settings: Settings, rater: Rater, sent: Any) -> dict[str, Any]:
    """The rater's last judgment as a card, its answer filled in."""

    def do() -> dict[str, Any]:
        last = views.newest_judgment(store, rater.id)
        if last is None:
            return _problem("nothing", "There is nothing to undo yet.")
        judgment, comparison = last
        said = judgment.answer
        ranks = [_rank(said.ranking, i) for i in judgment.order_shown]
        answer = {
            "verdict": said.verdict.value,
            "ranks": ranks,
            "strength": said.strength,
            "rationale": said.rationale,
            # The clock goes on from here: a correction's time is all the time the comparison took.
            "active": said.active_seconds or 0.0,
        }
        card = _card(judgment.id, "correct", comparison, judgment.order_shown) | {"answer": answer}
        return {"card": card | _progress(store, rater, Sent.model_validate(sent))}

    return _told(do)


def _next(store: Store, settings: Settings, rater: Rater, sent: Sent) -> dict[str, Any]:
    lease = queue.lease(store, rater.id, seconds=settings.lease_seconds)
    card: dict[str, Any] = {"mode": "empty"}
    if lease is not None:
        card = _card(lease.id, "new", lease.comparison, lease.order_shown)
    return {"card": card | _progress(store, rater, sent)}


def _submit(store: Store, settings: Settings, rater: Rater, sent: Sent) -> str:
    try:
        lease = views.lease_of(store, sent.id, rater.id)
    except Conflict:
        raise Conflict("This comparison was given to another account. Sign in with that one to answer it.") from None
    try:
        receipt = queue.submit(
            store,
            lease.id,
            rater.id,
            _answer(sent, lease.order_shown),
            idempotency_key=lease.id,
            interface_version=INTERFACE_VERSION,
            simulated=rater.simulated,
        )
    except Conflict:
        raise Conflict("You have answered this comparison already. Your first answer stands.") from None
    return receipt.outcome


def _correct(store: Store, _settings: Settings, rater: Rater, sent: Sent) -> str:
    last = views.newest_judgment(store, rater.id)
    if last is None or (sent.id not in (last[0].id, last[0].supersedes)):
        raise Conflict("You have answered others since, perhaps in another tab. Only the last answer can be changed.")
    answer = _answer(sent, last[0].order_shown)
    receipt = queue.correct(store, sent.id, rater.id, answer, idempotency_key=f"correct:{sent.id}")
    return receipt.outcome


def _answer(sent: Sent, shown: Sequence[str]) -> Answer:
    if sent.verdict is None:
        raise BadInput("verdict", expected="a choice", fix="choose an answer first")
    if sent.verdict is Verdict.RANKED and len(sent.ranks) != len(shown):
        raise BadInput(f"{len(sent.ranks)} ranks", expected=f"{len(shown)}", fix="rank every answer shown")
    ranks = sent.ranks if sent.verdict is Verdict.RANKED else ()
    ranking: Ranking = tuple(
        tuple(i for i, r in zip(shown, ranks) if r == rank) for rank in sorted({r for r in ranks if r is not None})
    )
    return Answer(
        sent.verdict, ranking, sent.strength, rationale=sent.rationale.strip(), active_seconds=sent.active_seconds
    )


def _rank(ranking: Ranking, completion_id: str) -> int | None:
    return next((n for n, group in enumerate(ranking, 1) if completion_id in group), None)


def _card(id: str, mode: str, comparison: Comparison, order: Sequence[str]) -> dict[str, Any]:
    return {
        "id": id,
        "mode": mode,
        "prompt": conversation(comparison.prompt.messages),
        "answers": [
            {"letter": letter, "html": completion(comparison.completion(i).messages)}
            for letter, i in zip(ascii_uppercase, order)
        ],
    }


def _progress(store: Store, rater: Rater, sent: Sent) -> dict[str, Any]:
    now = utc_now()
    day = sent.day if sent.day is not None and sent.day.tzinfo is not None else None
    if day is None or not now - timedelta(hours=26) < day <= now:
        day = datetime.combine(now.date(), datetime.min.time(), UTC)
    tally = views.tally(store, rater.id, day)
    left = f"{tally.cap}+" if tally.left >= tally.cap else str(tally.left)
    return {"progress": {"name": rater.name, "done": tally.done, "left": left}}


def conversation(chat: Sequence[Message]) -> str:
    """A prompt's messages as HTML, each with who says it."""
    turns = []
    for m in chat:
        role = m.role if m.role in SPEAKERS else "other"
        speaker = SPEAKERS.get(m.role) or markdown.escape(m.role[:40])
        turns.append(
            f'<article class="turn {role}"><h2 class="speaker">{speaker}</h2>{markdown.render(m.content)}</article>'
        )
    return "\n".join(turns)


def completion(chat: Sequence[Message]) -> str:
    """One answer as HTML: its text, or a conversation where it has more than one message."""
    return markdown.render(chat[0].content) if len(chat) == 1 else conversation(chat)


@cache
def guideline() -> str:
    """The guideline a rater works by, as HTML."""
    return markdown.render((resources.files("rlhf_hitl.bundled") / "guideline.md").read_text(encoding="utf-8"))


def _problem(kind: str, text: str) -> dict[str, Any]:
    return {"problem": {"kind": kind, "text": text}}


def _told(do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What went wrong in words a rater can use. `kind` tells the page whether trying again can help."""
    try:
        return do()
    except Conflict as e:
        return _problem("conflict", str(e))
    except NotFound:
        return _problem("conflict", "This comparison is no longer in the queue.")
    except ValidationError as e:
        first = e.errors()[0]
        return _problem("refused", f"This answer cannot be kept: {'.'.join(map(str, first['loc']))}: {first['msg']}.")
    except BadInput as e:
        return _problem("refused", f"This answer cannot be kept: {e}")
    except StoreFailure:
        return _problem("server", "The server could not write it down.")
