"""The page of leads who decide: what raters could not settle, with their votes and reasons beside it.

It is the rating page with other calls: a card has votes, and the answer is a decision.
"""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.page_calls import PageCall
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store, adjudication, queue, views
from rlhf_hitl.store.audit import CLI
from rlhf_hitl.store.queue.overlap import OVERLAP_RULE
from rlhf_hitl.types import Comparison, Judgment, Lease, Role
from rlhf_hitl.ui import rating_service
from rlhf_hitl.ui.markdown import make_visible
from rlhf_hitl.ui.pages import mount_page, read_asset
from rlhf_hitl.ui.rate import MAX_CALL_BYTES, join_scripts, render_card_page
from rlhf_hitl.ui.rating_cards import name_choice, spell_ranking
from rlhf_hitl.ui.rating_request import PageRequest
from rlhf_hitl.ui.rating_service import RatingService

#: Texts of the rating page that are other ones here.
RENAMED = {
    "nothing_left": "adjudicate_none",
    "nothing_left_why": "adjudicate_none_why",
    "title_rate": "title_adjudicate",
}
REASON_LIMIT = 20_000  # characters of a reason that are shown


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""

    def server_function(name: str) -> PageCall:
        def call(sent: Any, caller: Caller) -> dict[str, Any]:
            return rating_service.answer_call(name, store, settings, caller.rater, sent, AdjudicationService)

        return call

    html = render_card_page("adjudicate", read_asset("adjudicate/votes.html"))
    html = html.replace('id="rating"', 'id="rating" data-title="page_adjudicate"', 1)
    for name, other in RENAMED.items():
        html = html.replace(f'data-i18n="{name}"', f'data-i18n="{other}"')
    mount_page(
        app,
        path,
        title="Adjudicate",
        html=html,
        css=read_asset("rate/rate.css") + read_asset("adjudicate/adjudicate.css"),
        script=join_scripts()
        + read_asset("adjudicate/votes.js")
        + "\nshowNavigation(element);\nrate(element, server, createVotes);",
        calls={name: server_function(name) for name in rating_service.CALLS},
        guard=guard,
        max_call_bytes=MAX_CALL_BYTES,
    )


class AdjudicationService(RatingService):
    """The calls of the page for one lead."""

    def open(self, request: PageRequest) -> dict[str, Any]:
        """Return the comparisons that the lead holds to decide. There is no tutorial for leads."""
        _, answer = self._lease_next(request)
        return answer | {"example": None}

    def _lease_many(self) -> list[Lease]:
        seconds = self._settings.lease_seconds
        return queue.lease_many(
            self._store, self._rater.id, rating_service.PREFETCH, seconds=seconds, role=Role.LEAD.value
        )

    def _draw_new(self, lease: Lease) -> dict[str, Any]:
        return super()._draw_new(lease) | self._describe_case(lease.comparison.id, lease.order_shown)

    def _draw_judged(self, judgment: Judgment, comparison: Comparison, version: str) -> dict[str, Any]:
        card = super()._draw_judged(judgment, comparison, version)
        if (
            judgment.role is not Role.LEAD
        ):  # given as a rater: it was said without the others' votes, and is corrected so
            return card
        return card | self._describe_case(comparison.id, judgment.order_shown)

    def _describe_case(self, comparison_id: str, shown: tuple[str, ...]) -> dict[str, Any]:
        votes = adjudication.load_votes(self._store, comparison_id)
        cause = adjudication.load_cause(self._store, comparison_id)
        return {
            "votes": [describe_vote(vote, shown) for vote in votes],
            "cause": None if cause is None else describe_cause(cause),
        }

    def _describe_qualification(self) -> None:
        return None

    def _load_progress(self, request: PageRequest) -> dict[str, Any]:
        own = super()._load_progress(request)["progress"]
        left = adjudication.count_adjudications(self._store, self._rater.id).for_you
        return {"progress": own | {"left": views.round_left(left)}}


def describe_cause(cause: adjudication.Cause) -> dict[str, Any]:
    """Return why a comparison was sent to adjudication, as the page says it: by whom, and the reason that was given."""
    kinds = {OVERLAP_RULE.id: "rule", CLI.id: "command_line"}
    by = "catalog" if cause.reason == adjudication.SENT_FROM_CATALOG else kinds.get(cause.by, "lead")
    was_given = cause.reason not in (adjudication.SENT_BY_LEAD, adjudication.SENT_FROM_CATALOG)
    reason = make_visible(cause.reason[:REASON_LIMIT]) if was_given else ""
    return {"by": by, "name": make_visible(cause.name or cause.by), "reason": reason}


def describe_vote(vote: adjudication.Vote, shown: tuple[str, ...]) -> dict[str, Any]:
    """Return a vote as the page shows it, in the letters shown to the lead. Who voted is not said, only what they are:
    reasons decide, and not people."""
    judgment, answer = vote.judgment, vote.judgment.answer
    return {
        "kind": "judge" if judgment.role is Role.JUDGE else "simulated" if judgment.simulated else "rater",
        "said": name_choice(answer, shown),
        "ranking": spell_ranking(answer.ranking, shown) if len(shown) > 2 else "",
        "reason": answer.reason.value if answer.reason else None,
        # A reason that names A or B means those of its own order.
        "shown": []
        if judgment.order_shown == shown
        else [ascii_uppercase[shown.index(i)] for i in judgment.order_shown],
        "why": make_visible(answer.rationale[:REASON_LIMIT]),
    }
