"""What the rater page may call on the server: each call takes what the page sent and returns a plain dictionary.

Nothing that leaves here tells who wrote a completion, what a model thinks of it or why it is shown: completions are
letters in the order shown, and ids are random. Texts of the interface are keys of `assets/words/`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from rlhf_hitl.api.images import make_image_address
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import Store, guidelines, people, qualifications, queue, tutorial, views
from rlhf_hitl.store.db import StoreFailure
from rlhf_hitl.types import (
    Comparison,
    GoldFeedback,
    Guideline,
    Judgment,
    Lease,
    Messages,
    QualificationState,
    Rater,
    Receipt,
    Role,
    TutorialExample,
    utc_now,
)
from rlhf_hitl.ui import INTERFACE_VERSION
from rlhf_hitl.ui.conversation import read_completion
from rlhf_hitl.ui.rating_cards import draw_card, draw_history_row, name_choice, spell_ranking, summarize_answer
from rlhf_hitl.ui.rating_request import PageRequest, answer_to_page, read_answer
from rlhf_hitl.ui.rendering import render, render_difference
from rlhf_hitl.validation import describe_refusal

PREFETCH = 2  # comparisons that a page holds: the one on the screen and the next
HISTORY = 50  # judgments listed in the history
LEADS_NAMED = 3  # whom a rater may ask why they get nothing

_LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*")  # as browsers know them


class RatingService:
    """The page's calls for one rater. Its public methods are named in `CALLS`."""

    def __init__(self, store: Store, settings: Settings, rater: Rater):
        self._store, self._settings, self._rater = store, settings, rater
        self._image_address = make_image_address(store, rater.id)

    def open(self, request: PageRequest) -> dict[str, Any]:
        """Return the comparisons a rater holds, and the first example of a tutorial they have not completed."""
        held, answer = self._lease_next(request)
        if not held:
            return answer | {"example": None}
        project = held[0].comparison.project
        examples = tutorial.list_remaining_examples(self._store, self._rater.id, project)
        return answer | {"example": self._draw_example(examples)}

    def submit(self, request: PageRequest) -> dict[str, Any]:
        """Keep the answer, and return its receipt with the comparison after the next."""
        receipt = self._correct(request) if request.mode == "correct" else self._submit(request)
        _, answer = self._lease_next(request)
        told = self._draw_gold(request, receipt.gold) if receipt.gold is not None else None
        return {"outcome": receipt.outcome, "judgment": receipt.judgment_id, "gold": told} | answer

    def revisit(self, request: PageRequest) -> dict[str, Any]:
        """Return a judgment of the rater's own as a card with its answer filled in; the newest if none is named."""
        judgment, comparison = self._load_judged(request.id)
        try:
            version = guidelines.get_guideline(self._store, comparison.project, judgment.guideline_version).version
        except NotFound:  # the judgment is older than guidelines
            version = guidelines.get_current_guideline(self._store, comparison.project).version
        card = self._draw_judged(judgment, comparison, version)
        guideline = self._load_new_guidelines([(comparison.project, version)], request)
        return {"card": card | {"answer": answer_to_page(judgment)}} | self._load_progress(request) | guideline

    def history(self, request: PageRequest) -> dict[str, Any]:
        """Return the rater's newest judgments, newest first, of those in which all words occur that the page sent.

        A judgment of a hidden repeat is one of them: it would show if it were left out.
        """
        found = views.search_current_judgments(self._store, self._rater.id, request.words.split(), HISTORY)
        return {
            "judged": [draw_history_row(judgment, comparison) for judgment, comparison in found.judged],
            "more": found.has_more,
            # Only where older ones were not looked at.
            "searched": found.searched if found.ran_out_of_time and not found.has_more else None,
        }

    def difference(self, request: PageRequest) -> dict[str, Any]:
        """Return two completions as HTML in which the words that only one of them has are marked."""
        if request.mode == "tutorial":
            _, *completions = self._read_example(tutorial.get_example(self._store, request.id))
        else:
            if request.mode == "correct":
                judgment, comparison = self._load_judged(request.id)
                order_shown, version = judgment.order_shown, judgment.guideline_version
            else:
                lease = self._load_lease(request.id)
                comparison, order_shown, version = lease.comparison, lease.order_shown, lease.guideline_version
            seen = guidelines.keep_seen_of_comparison(self._store, comparison, version)
            completions = [seen.find_completion(i).messages for i in order_shown]
        first, second = map(read_completion, completions[:2])
        return {"marked": render_difference(first, second)}

    def acknowledge(self, request: PageRequest) -> dict[str, Any]:
        """Record that the rater has read a guideline, named by its key: `project@version`."""
        project, _, version = request.id.partition("@")
        guidelines.record_acknowledgement(self._store, self._rater.id, project, version)
        return {}

    def try_example(self, request: PageRequest) -> dict[str, Any]:
        """Compare an answer with the one expected of an example, and return that one, why, and the next example."""
        example = tutorial.get_example(self._store, request.id)
        answer = read_answer(request).to_answer([str(i) for i in range(len(example.completions))])
        agreed = example.answer.prefers_same(answer)
        tutorial.record_attempt(self._store, self._rater.id, example.id, answer, agreed)
        return {
            "agreed": agreed,
            "expected": summarize_answer(example.answer, [str(i) for i in range(len(example.completions))]),
            "why": render(example.explanation),
            "example": self._draw_example(
                tutorial.list_remaining_examples(self._store, self._rater.id, example.project)
            ),
        }

    def renew(self, request: PageRequest) -> dict[str, Any]:
        """Hold everything the rater holds for longer, because they are at work."""
        queue.renew_all(self._store, self._rater.id, seconds=self._settings.lease_seconds)
        return {"gone": self._renew_lapsed(request)}

    def _renew_lapsed(self, request: PageRequest) -> list[str]:
        """Renew the leases of the page that ran out, and return those that went to other raters."""
        gone = []
        for lease in request.lapsed:
            try:
                queue.renew(self._store, lease, self._rater.id, seconds=self._settings.lease_seconds)
            except (Conflict, NotFound):
                gone.append(lease)
        return gone

    def _lease_next(self, request: PageRequest) -> tuple[list[Lease], dict[str, Any]]:
        """Lease what the page is to hold. Returns the leases, and what of them the page does not have yet."""
        # Renewed first: otherwise the same comparisons would be leased a second time.
        gone = self._renew_lapsed(request)
        held = self._lease_many()
        cards = [
            self._draw_new(lease) | {"seconds": (lease.expires_at - utc_now()).total_seconds()}
            for lease in held
            if lease.id not in request.have
        ]
        versions = [(lease.comparison.project, lease.guideline_version) for lease in held]
        answer = {"cards": cards, "gone": gone, "qualification": None if held else self._describe_qualification()}
        return held, answer | self._load_new_guidelines(versions, request) | self._load_progress(request)

    def _lease_many(self) -> list[Lease]:
        return queue.lease_many(self._store, self._rater.id, PREFETCH, seconds=self._settings.lease_seconds)

    def _draw_new(self, lease: Lease) -> dict[str, Any]:
        return self._draw_comparison(lease.id, "new", lease.comparison, lease.order_shown, lease.guideline_version)

    def _draw_judged(self, judgment: Judgment, comparison: Comparison, version: str) -> dict[str, Any]:
        return self._draw_comparison(judgment.id, "correct", comparison, judgment.order_shown, version)

    def _describe_qualification(self) -> dict[str, Any] | None:
        """Return why a rater gets nothing: they are paused, or have not qualified for something; and whom to ask.

        None where nothing is asked of them. Why they are paused is for a lead to tell.
        """
        if people.get_rater(self._store, self._rater.id).paused:
            return {"state": "paused", "projects": [], "ask": self._list_leads()}
        standings = qualifications.list_standings(self._store, self._rater.id)
        open_ones = [s for s in standings if s.state is not QualificationState.QUALIFIED]
        if not open_ones:
            return None
        failed = [s.project for s in open_ones if s.state is QualificationState.FAILED]
        return {
            "state": "failed" if failed else "asked",
            "projects": failed or [s.project for s in open_ones],
            "ask": self._list_leads(),
        }

    def _list_leads(self) -> list[str]:
        leads = [r.name for r in people.list_raters(self._store) if r.role is Role.LEAD and not r.disabled]
        return leads[:LEADS_NAMED]

    def _submit(self, request: PageRequest) -> Receipt:
        try:
            return queue.submit(
                self._store,
                request.id,
                self._rater.id,
                read_answer(request),
                interface_version=INTERFACE_VERSION,
                simulated=self._rater.simulated,
            )
        except queue.LeaseOfAnotherRater:
            raise UserNotice("other_account") from None
        except Conflict:
            raise UserNotice("answered") from None

    def _correct(self, request: PageRequest) -> Receipt:
        try:
            key = f"correct:{request.id}"
            return queue.correct(self._store, request.id, self._rater.id, read_answer(request), idempotency_key=key)
        except Conflict:
            raise UserNotice("superseded") from None

    def _draw_gold(self, request: PageRequest, told: GoldFeedback) -> dict[str, Any]:
        """Return a gold that was answered as a card with the answer, the right answer, and why that is right."""
        lease = self._load_lease(request.id)
        card = self._draw_comparison(lease.id, "gold", lease.comparison, lease.order_shown, lease.guideline_version)
        parts = {"verdict", "ranks", "strength", "reason", "scores", "rationale", "rewrite"}
        return {
            "card": card | {"answer": request.model_dump(mode="json", include=parts) | {"active": 0.0}},
            "agreed": told.agreed,
            "expected": name_choice(told.answer, lease.order_shown),
            "ranking": spell_ranking(told.answer.ranking, lease.order_shown) if len(lease.order_shown) > 2 else "",
            "why": render(told.explanation),
        }

    def _load_lease(self, lease_id: str) -> Lease:
        try:
            return queue.load_lease(self._store, lease_id, self._rater.id)
        except Conflict:
            raise UserNotice("other_account") from None

    def _load_judged(self, judgment_id: str) -> tuple[Judgment, Comparison]:
        if judgment_id:
            return views.load_current_judgment(self._store, self._rater.id, judgment_id)
        newest = views.load_newest_judgment(self._store, self._rater.id)
        if newest is None:
            raise UserNotice("nothing")
        return newest

    def _draw_comparison(
        self, id: str, mode: str, comparison: Comparison, order: Sequence[str], version: str
    ) -> dict[str, Any]:
        seen = guidelines.keep_seen_of_comparison(self._store, comparison, version)
        prompt, answers = seen.prompt, [seen.find_completion(i).messages for i in order]
        written = [comparison.find_completion(i).messages for i in order]
        language = prompt.language
        card = draw_card(id, mode, prompt.messages, answers, self._image_address, tools=prompt.tools, written=written)
        return card | {
            "guideline": f"{comparison.project}@{version}",
            "lang": language if _LANGUAGE_TAG.fullmatch(language) else "",
        }

    def _draw_example(self, remaining: Sequence[TutorialExample]) -> dict[str, Any] | None:
        """Return the first of the remaining examples of a tutorial as a card; None where none remains."""
        if not remaining:
            return None
        example = remaining[0]
        total = len(tutorial.list_examples(self._store, example.project))
        asked, *answers = self._read_example(example)
        card = draw_card(example.id, "tutorial", asked, answers, self._image_address, written=example.completions)
        return card | {"at": total - len(remaining) + 1, "of": total}

    def _read_example(self, example: TutorialExample) -> list[Messages]:
        """Return the conversations of an example, its prompt first, with what raters see of them."""
        version = guidelines.get_current_guideline(self._store, example.project).version
        return guidelines.keep_seen(self._store, example.project, version, [example.messages, *example.completions])

    def _load_new_guidelines(self, versions: Sequence[tuple[str, str]], request: PageRequest) -> dict[str, Any]:
        """Return the guidelines, named by project and version, that the page does not have yet."""
        requested = [
            guidelines.get_guideline(self._store, project, version) for project, version in dict.fromkeys(versions)
        ]
        return {
            "guidelines": [
                self._describe_guideline(g) for g in requested if _make_guideline_key(g) not in request.guidelines
            ]
        }

    def _describe_guideline(self, guideline: Guideline) -> dict[str, Any]:
        acknowledged = guidelines.has_acknowledged(self._store, self._rater.id, guideline.project, guideline.version)
        return {
            "key": _make_guideline_key(guideline),
            "project": guideline.project,
            "version": guideline.version,
            "html": render(guideline.text),
            "axes": [{"id": a.id, "title": a.title, "description": a.description} for a in guideline.axes],
            "scores": guideline.scores,
            "rationale": guideline.rationale,
            "acknowledged": acknowledged,
        }

    def _load_progress(self, request: PageRequest) -> dict[str, Any]:
        now = utc_now()
        day = request.day if request.day is not None and request.day.tzinfo is not None else None
        if day is None or not now - timedelta(hours=26) < day <= now:
            day = datetime.combine(now.date(), datetime.min.time(), UTC)
        counts = views.load_progress(self._store, self._rater.id, day)
        return {"progress": {"name": self._rater.name, "done": counts.done, "left": counts.left}}


#: The methods that the page may call.
CALLS = ("open", "submit", "revisit", "history", "difference", "acknowledge", "try_example", "renew")


def answer_call(
    name: str, store: Store, settings: Settings, rater: Rater, sent: Any, service: type[RatingService] = RatingService
) -> dict[str, Any]:
    """Answer a call of the page by its `service`.

    What went wrong is returned as `{"problem": {"kind", "code", "detail"}}`. `kind` tells the page whether trying again
    can help; `code` is a key of the interface's texts.
    """
    try:
        return getattr(service(store, settings, rater), name)(PageRequest.model_validate(sent))
    except UserNotice as e:
        return _make_problem("conflict", e.code)
    except (Conflict, NotFound):
        return _make_problem("conflict", "gone")
    except ValidationError as e:
        return _make_problem("refused", "refused", f"{describe_refusal(e)}. Fix: correct it, or reload the page")
    except BadInput as e:
        return _make_problem("refused", "refused", str(e).replace(store.safe_url, "of this server"))
    except StoreFailure:
        return _make_problem("server", "server")


class UserNotice(Exception):
    """A problem that the page explains to the rater in its own words: `code` is a key of its texts."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


def _make_problem(kind: str, code: str, detail: str = "") -> dict[str, Any]:
    return {"problem": {"kind": kind, "code": code, "detail": detail}}


def _make_guideline_key(guideline: Guideline) -> str:
    return f"{guideline.project}@{guideline.version}"
