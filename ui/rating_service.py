"""What the rater page shows and what it does with an answer, as plain dictionaries.

Nothing that leaves here says who wrote a completion, what a model thinks of it or why it is shown: completions are
letters in the order shown, and ids are random. Words the page shows are keys of `assets/words/`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from string import ascii_uppercase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import Store, guidelines, queue, tutorial, views
from rlhf_hitl.store.db import StoreFailure
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Guideline,
    Judgment,
    Lease,
    Message,
    Ranking,
    Rater,
    Reason,
    Receipt,
    ShownAnswer,
    TutorialExample,
    Verdict,
    utc_now,
)
from rlhf_hitl.ui import INTERFACE_VERSION, markdown
from rlhf_hitl.ui.conversation import completion_text, question_excerpt, render_completion, render_conversation
from rlhf_hitl.ui.difference import difference as marked

AHEAD = 2  # comparisons a page holds: the one on the screen and the next
EXCERPT = 80
PAST = 50

_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*")  # of a language, as browsers know them

Id = Annotated[str, Field(max_length=80)]


class Sent(BaseModel):
    """What the page sends. By `ranks` and the values of `scores` the answers stand in the order shown.

    `id` of a lease, of a judgment when correcting, of an example in the tutorial; equal ranks are ties and None is
    unranked; `have` are the leases and `guidelines` the guidelines the page holds, `lapsed` those of `have` whose time
    is up; the rater's day began at `day`.
    """

    model_config = ConfigDict(extra="forbid")

    day: datetime | None = None
    have: tuple[Id, ...] = Field(default=(), max_length=10)
    lapsed: tuple[Id, ...] = Field(default=(), max_length=10)
    guidelines: tuple[Annotated[str, Field(max_length=200)], ...] = Field(default=(), max_length=100)
    id: Id = ""
    mode: Literal["new", "correct", "tutorial"] = "new"
    verdict: Verdict | None = None
    ranks: tuple[int | None, ...] = Field(default=(), max_length=len(ascii_uppercase))
    strength: int | None = None
    reason: Reason | None = None
    scores: dict[Id, tuple[int | None, ...]] = Field(default_factory=dict, max_length=30)
    rationale: str = Field(default="", max_length=20_000)
    rewrite: str = Field(default="", max_length=100_000)
    active_seconds: float = Field(default=0.0, ge=0, lt=86_400)


class RatingService:
    """One rater's desk. Its public methods are what the page may call, each with a dictionary and for a dictionary."""

    def __init__(self, store: Store, settings: Settings, rater: Rater):
        self._store, self._settings, self._rater = store, settings, rater

    def open(self, sent: Sent) -> dict[str, Any]:
        """What the rater holds, new or still held, and the first example of a tutorial they have not been through."""
        found = self._next(sent)
        projects = found.pop("projects")
        return found | {
            "example": self._example(tutorial.list_remaining_examples(self._store, self._rater.id, projects[0]))
            if projects
            else None
        }

    def submit(self, sent: Sent) -> dict[str, Any]:
        """Keep the answer and bring the comparison after the next, in one go."""
        receipt = self._correct(sent) if sent.mode == "correct" else self._submit(sent)
        found = self._next(sent)
        del found["projects"]
        return {"outcome": receipt.outcome, "judgment": receipt.judgment_id} | found

    def revisit(self, sent: Sent) -> dict[str, Any]:
        """A judgment of the rater's own as a card, its answer filled in; the newest where none is named."""
        judgment, comparison = self._judged(sent.id)
        try:
            version = guidelines.get_guideline(self._store, comparison.project, judgment.guideline_version).version
        except NotFound:  # of before there were guidelines
            version = guidelines.get_current_guideline(self._store, comparison.project).version
        card = self._card(judgment.id, "correct", comparison, judgment.order_shown, version)
        guideline = self._guidelines([(comparison.project, version)], sent)
        return {"card": card | {"answer": _said(judgment)}} | self._progress(sent) | guideline

    def history(self, sent: Sent) -> dict[str, Any]:
        """The rater's newest judgments, newest first."""
        found = views.past(self._store, self._rater.id, PAST)
        # A hidden repeat beside what it repeats would not be hidden.
        return {
            "judged": [_past(judgment, comparison) for judgment, comparison in found if comparison.repeat_of is None]
        }

    def difference(self, sent: Sent) -> dict[str, Any]:
        """The two answers as HTML in which the words that only one has are marked."""
        if sent.mode == "tutorial":
            first, second = (completion_text(c) for c in tutorial.get_example(self._store, sent.id).completions[:2])
            return {"marked": marked(first, second)}
        if sent.mode == "correct":
            judgment, comparison = self._judged(sent.id)
            shown = judgment.order_shown
        else:
            lease = self._lease(sent.id)
            comparison, shown = lease.comparison, lease.order_shown
        first, second = (completion_text(comparison.find_completion(i).messages) for i in shown[:2])
        return {"marked": marked(first, second)}

    def acknowledge(self, sent: Sent) -> dict[str, Any]:
        """The rater has read a guideline, named as the page knows it."""
        project, _, version = sent.id.partition("@")
        guidelines.record_acknowledgement(self._store, self._rater.id, project, version)
        return {}

    def try_example(self, sent: Sent) -> dict[str, Any]:
        """What was expected of an example and why, and the example after it."""
        example = tutorial.get_example(self._store, sent.id)
        answer = _answer(sent).by_id([str(i) for i in range(len(example.completions))])
        agreed = tutorial.agrees_with_example(example, answer)
        tutorial.record_attempt(self._store, self._rater.id, example.id, answer, agreed)
        return {
            "agreed": agreed,
            "expected": _in_short(example.answer, [str(i) for i in range(len(example.completions))]),
            "why": markdown.render(example.explanation),
            "example": self._example(tutorial.list_remaining_examples(self._store, self._rater.id, example.project)),
        }

    def renew(self, sent: Sent) -> dict[str, Any]:
        """The rater is at work: what they hold stays theirs."""
        queue.renew_all(self._store, self._rater.id, seconds=self._settings.lease_seconds)
        return {"gone": self._gone(sent)}

    def _gone(self, sent: Sent) -> list[str]:
        """What the page holds though it ran out is had again; those that others have now are returned."""
        gone = []
        for lease in sent.lapsed:
            try:
                queue.renew(self._store, lease, self._rater.id, seconds=self._settings.lease_seconds)
            except (Conflict, NotFound):
                gone.append(lease)
        return gone

    def _next(self, sent: Sent) -> dict[str, Any]:
        gone = self._gone(sent)  # first: else the same comparisons would be given once more
        held = queue.lease_many(self._store, self._rater.id, AHEAD, seconds=self._settings.lease_seconds)
        fresh = [lease for lease in held if lease.id not in sent.have]
        cards = [
            self._card(lease.id, "new", lease.comparison, lease.order_shown, lease.guideline_version)
            | {"seconds": (lease.expires_at - utc_now()).total_seconds()}
            for lease in fresh
        ]
        under = [(lease.comparison.project, lease.guideline_version) for lease in held]
        projects = [project for project, _ in under]
        return (
            {"cards": cards, "projects": projects, "gone": gone} | self._guidelines(under, sent) | self._progress(sent)
        )

    def _submit(self, sent: Sent) -> Receipt:
        try:
            return queue.submit(
                self._store,
                sent.id,
                self._rater.id,
                _answer(sent),
                interface_version=INTERFACE_VERSION,
                simulated=self._rater.simulated,
            )
        except queue.LeaseOfAnotherRater:
            raise _Told("other_account") from None
        except Conflict:
            raise _Told("answered") from None

    def _correct(self, sent: Sent) -> Receipt:
        try:
            key = f"correct:{sent.id}"
            return queue.correct(self._store, sent.id, self._rater.id, _answer(sent), idempotency_key=key)
        except Conflict:
            raise _Told("superseded") from None

    def _lease(self, lease_id: str) -> Lease:
        try:
            return queue.load_lease(self._store, lease_id, self._rater.id)
        except Conflict:
            raise _Told("other_account") from None

    def _judged(self, judgment_id: str) -> tuple[Judgment, Comparison]:
        if judgment_id:
            return views.standing_judgment(self._store, self._rater.id, judgment_id)
        newest = views.newest_judgment(self._store, self._rater.id)
        if newest is None:
            raise _Told("nothing")
        return newest

    def _card(self, id: str, mode: str, comparison: Comparison, order: Sequence[str], version: str) -> dict[str, Any]:
        answers = [comparison.find_completion(i).messages for i in order]
        language = comparison.prompt.language
        return _card(id, mode, comparison.prompt.messages, answers) | {
            "guideline": f"{comparison.project}@{version}",
            "lang": language if _TAG.fullmatch(language) else "",
        }

    def _example(self, left: Sequence[TutorialExample]) -> dict[str, Any] | None:
        if not left:
            return None
        example = left[0]
        of = len(tutorial.list_examples(self._store, example.project))
        card = _card(example.id, "tutorial", example.messages, example.completions)
        return card | {"at": of - len(left) + 1, "of": of}

    def _guidelines(self, under: Sequence[tuple[str, str]], sent: Sent) -> dict[str, Any]:
        """Guidelines, by project and version, that the page has not got."""
        of = [guidelines.get_guideline(self._store, project, version) for project, version in dict.fromkeys(under)]
        new = [self._guideline(g) for g in of if _key(g) not in sent.guidelines]
        return {"guidelines": new}

    def _guideline(self, guideline: Guideline) -> dict[str, Any]:
        read = guidelines.has_acknowledged(self._store, self._rater.id, guideline.project, guideline.version)
        return {
            "key": _key(guideline),
            "version": guideline.version,
            "html": markdown.render(guideline.text),
            "axes": [{"id": a.id, "title": a.title, "description": a.description} for a in guideline.axes],
            "scores": guideline.scores,
            "rationale": guideline.rationale,
            "acknowledged": read,
        }

    def _progress(self, sent: Sent) -> dict[str, Any]:
        now = utc_now()
        day = sent.day if sent.day is not None and sent.day.tzinfo is not None else None
        if day is None or not now - timedelta(hours=26) < day <= now:
            day = datetime.combine(now.date(), datetime.min.time(), UTC)
        tally = views.tally(self._store, self._rater.id, day)
        capped = tally.left >= tally.cap
        return {"progress": {"name": self._rater.name, "done": tally.done, "left": tally.left, "capped": capped}}


#: What the page may call.
CALLS = ("open", "submit", "revisit", "history", "difference", "acknowledge", "try_example", "renew")


def call(name: str, store: Store, settings: Settings, rater: Rater, sent: Any) -> dict[str, Any]:
    """Do what the page asks. What went wrong comes back as `{"problem": {"kind", "code", "detail"}}`.

    `kind` tells the page whether trying again can help, `code` is a word of the interface.
    """
    try:
        return getattr(RatingService(store, settings, rater), name)(Sent.model_validate(sent))
    except _Told as e:
        return _problem("conflict", e.code)
    except (Conflict, NotFound):
        return _problem("conflict", "gone")
    except ValidationError as e:
        first = e.errors()[0]
        return _problem("refused", "refused", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except BadInput as e:
        return _problem("refused", "refused", str(e))
    except StoreFailure:
        return _problem("server", "server")


class _Told(Exception):
    """Something the rater is told in words of the page's own."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


def _problem(kind: str, code: str, detail: str = "") -> dict[str, Any]:
    return {"problem": {"kind": kind, "code": code, "detail": detail}}


def _key(guideline: Guideline) -> str:
    return f"{guideline.project}@{guideline.version}"


def _answer(sent: Sent) -> ShownAnswer:
    """Return what the page sent as an answer, in the letters the completions were shown under.

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
            "scores": {axis: given for axis, given in scores.items() if given},
            "rationale": sent.rationale.strip(),
            "rewrite": sent.rewrite.strip(),
        }
    )
    return ShownAnswer(answer, counts.pop() if counts else None)


def _said(judgment: Judgment) -> dict[str, Any]:
    """A judgment's answer as the page sends it."""
    said, shown = judgment.answer, judgment.order_shown
    return {
        "verdict": said.verdict.value,
        "ranks": [_rank(said.ranking, i) for i in shown],
        "strength": said.strength,
        "reason": said.reason,
        "scores": {axis: [of.get(i) for i in shown] for axis, of in said.scores.items() if isinstance(of, dict)},
        "rationale": said.rationale,
        "rewrite": said.rewrite,
        # The clock goes on from here: a correction's time is all the time the comparison took.
        "active": said.active_seconds or 0.0,
    }


def _rank(ranking: Ranking, completion_id: str) -> int | None:
    return next((n for n, group in enumerate(ranking, 1) if completion_id in group), None)


def _in_short(answer: Answer, shown: Sequence[str]) -> str:
    """An answer in a word of the interface."""
    if answer.verdict is not Verdict.RANKED:
        return f"{answer.verdict.value}_said"
    if len(shown) > 2:
        return "ranked_said"
    if len(answer.ranking) == 1:
        return "tie_said"
    return f"{ascii_uppercase[shown.index(answer.ranking[0][0])]}_said"


def _past(judgment: Judgment, comparison: Comparison) -> dict[str, Any]:
    return {
        "id": judgment.id,
        "asked": question_excerpt(comparison.prompt.messages, EXCERPT),
        "said": _in_short(judgment.answer, judgment.order_shown),
        "at": judgment.created_at.isoformat(),
    }


def _card(id: str, mode: str, prompt: Sequence[Message], answers: Sequence[Sequence[Message]]) -> dict[str, Any]:
    return {
        "id": id,
        "mode": mode,
        "prompt": render_conversation(prompt),
        "asked": question_excerpt(prompt, EXCERPT),
        "answers": [
            {
                "letter": letter,
                "html": render_completion(chat),
                "text": markdown.visible(completion_text(chat)[: markdown.SHOWN_LIMIT]),
            }
            for letter, chat in zip(ascii_uppercase, answers)
        ],
    }
