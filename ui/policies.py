"""The page of policies: which is better as raters say, how each came about, and what changed from one to another.

Here are the calls of the page, as data; `assets/policies/` draws them.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import Field
from starlette.middleware import Middleware

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.images import make_image_address
from rlhf_hitl.config import Settings
from rlhf_hitl.labels import policy_votes
from rlhf_hitl.labels.policy_report import PolicyReport, describe_lineage, list_roots, make_policy_report
from rlhf_hitl.labels.policy_votes import PolicyVotes, read_policy_votes
from rlhf_hitl.stats.policy_ranking import MIN_PROMPTS
from rlhf_hitl.store import Store
from rlhf_hitl.store.judgments import read_store_revision
from rlhf_hitl.store.label_votes import read_vote_weights
from rlhf_hitl.store.policies import UNNAMED, PolicyMethod
from rlhf_hitl.store.policy_changes import (
    PolicyChange,
    count_hidden_prompts,
    count_shared_prompts,
    find_changes,
    list_policy_names,
)
from rlhf_hitl.store.reward_models import keep_day_whole
from rlhf_hitl.ui.conversation import read_completion, render_card
from rlhf_hitl.ui.dashboard import PageMessage, list_projects, mount_dashboard
from rlhf_hitl.ui.difference import share_common_words
from rlhf_hitl.ui.message_blocks import ImageAddress
from rlhf_hitl.ui.rendering import render, render_difference
from rlhf_hitl.visible import make_all_visible

#: Why a vote or pair is not in the ranking → the end of the name of its words.
LEFT_OUT = {
    policy_votes.SKIPPED: "skipped",
    policy_votes.UNTRUSTED: "untrusted",
    policy_votes.SAME_POLICY: "same_policy",
    policy_votes.NO_POLICY: "no_policy",
    policy_votes.FILTERED: "filtered",
}
#: What the page draws of each; it says how many are left out, and the command has all.
POLICIES_SHOWN, MATRIX_SHOWN, CHOICES_SHOWN, LINEAGE_SHOWN = 100, 14, 200, 300
CHANGES_ON_PAGE = 5
#: Of answers with a smaller share of words in common, none is marked.
LEAST_COMMON = 0.25
#: Of policies that were not made here it is shown where their completions came from.
ORIGINS = (PolicyMethod.IMPORT, PolicyMethod.ENDPOINT)
#: Rankings and readings of votes that a server process keeps until somebody judges.
KEPT_REPORTS, KEPT_READINGS = 32, 4

PolicyName = Annotated[str, Field(max_length=500)]
Value = Annotated[str, Field(max_length=2000)]
Population = Literal["people", "judges", "simulated"]


class RankingRequest(PageMessage):
    """Which votes to rank policies by; `tag` is a name and a value."""

    votes: Population | None = None
    project: Annotated[str, Field(max_length=80)] | None = None
    language: Value | None = None
    tag: Annotated[list[Value], Field(min_length=2, max_length=2)] | None = None
    style: bool = False


class ChangesRequest(PageMessage):
    """Which prompts to show before and after, and from where to go on."""

    before: PolicyName
    after: PolicyName
    words: str = Field("", max_length=200)
    decided: bool = False
    start: str = Field("", max_length=80)


class KeptRankings:
    """Rankings that were asked for, computed once for all who look, as long as no vote comes or counts otherwise."""

    def __init__(self, store: Store):
        self._store, self._lock = store, Lock()
        self._of: Any = None  # what the kept ones are of: the newest judgment, the roots, and what raters' votes count
        self._readings: OrderedDict[tuple, PolicyVotes] = OrderedDict()
        self._reports: OrderedDict[str, PolicyReport] = OrderedDict()

    def get(self, request: RankingRequest) -> tuple[PolicyVotes, PolicyReport]:
        with self._lock:
            roots = list_roots(self._store)
            now = (
                read_store_revision(self._store),
                tuple(roots),
                tuple(sorted(read_vote_weights(self._store).items())),
            )
            if self._of != now:
                self._readings.clear()
                self._reports.clear()
                self._of = now
            which = (request.votes, request.project, request.style)
            if which not in self._readings:
                self._readings[which] = read_policy_votes(
                    self._store, request.votes, project=request.project, with_style=request.style
                )
            key = request.model_dump_json()
            if key not in self._reports:
                self._reports[key] = make_policy_report(
                    self._readings[which],
                    roots,
                    language=request.language,
                    tags=dict([request.tag]) if request.tag else {},
                    style_control=request.style,
                )
            for kept, most in ((self._readings, KEPT_READINGS), (self._reports, KEPT_REPORTS)):
                while len(kept) > most:
                    kept.popitem(last=False)
            return self._readings[which], self._reports[key]


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""
    rankings = KeptRankings(store)

    def open(sent: Any, caller: Caller) -> dict[str, Any]:
        votes, report = rankings.get(RankingRequest.model_validate(sent))
        return describe_ranking(votes, report) | {
            "lineage": _describe_lineage(store),
            "names": [{"value": name, "label": make_all_visible(name)} for name in _list_names(store)],
            "projects": list_projects(store),
        }

    def changes(sent: Any, caller: Caller) -> dict[str, Any]:
        request = ChangesRequest.model_validate(sent)
        return load_changes(store, request, make_image_address(store, caller.rater.id))

    mount_dashboard(
        app,
        path,
        guard,
        name="policies",
        calls={"open": open, "changes": changes},
        scripts=("raters/plots", "ranking", "lineage", "changes"),
    )


def describe_ranking(votes: PolicyVotes, report: PolicyReport) -> dict[str, Any]:
    """Return the ranking, who beats whom, and what it can be filtered by. Names are plain, for the page to escape."""
    languages, tags = votes.count_choices()
    pairs = [(name, value, n) for name, values in tags.items() for value, n in values.items()]
    shown = report.policies[:POLICIES_SHOWN]
    n = min(MATRIX_SHOWN, len(report.policies))
    return {
        "population": report.population,
        "counts": dict(report.counts),
        "votes": report.votes,
        "prompts": report.prompts,
        "base": None if report.base is None else make_all_visible(report.base),
        "groups": report.groups,
        "tie_rate": report.tie_rate,
        "is_stretched": report.is_stretched,
        "min_prompts": MIN_PROMPTS,
        "policies": [vars(figures) | {"policy": make_all_visible(figures.policy)} for figures in shown],
        "policies_left_out": len(report.policies) - len(shown),
        "wins": [row[:n] for row in report.wins[:n]],
        "ties": [row[:n] for row in report.ties[:n]],
        "style": [vars(worth) for worth in report.style],
        "left_out": [{"reason": LEFT_OUT[reason], "n": n} for reason, n in report.left_out.items()],
        "languages": [{"value": value, "n": n} for value, n in languages.items() if value][:CHOICES_SHOWN],
        "tags": [
            {"name": name, "value": value, "label": make_all_visible(f"{name}: {value}"), "n": n}
            for name, value, n in sorted(pairs, key=lambda pair: -pair[2])[:CHOICES_SHOWN]
        ],
        "tags_left_out": max(0, len(pairs) - CHOICES_SHOWN),
    }


def _describe_lineage(store: Store) -> dict[str, Any]:
    lines = describe_lineage(store)
    shown = [
        {
            "name": line["policy"],
            "policy": make_all_visible(line["policy"]),
            "parent": line["parent"],
            "depth": line["depth"],
            "method": line["method"],
            "round": line["round"],
            "model": line["reward_model"] and keep_day_whole(make_all_visible(line["reward_model"])),
            "place": line["place"],
            "origin": make_all_visible(line["path"]) if line["method"] in ORIGINS else None,
            "replaced": line["replaced"],
            "outcome": line["outcome"],
            "gate": line["gate"] and make_all_visible(line["gate"]),
        }
        for line in lines[:LINEAGE_SHOWN]
    ]
    return {"lines": shown, "left_out": len(lines) - len(shown)}


def _list_names(store: Store) -> list[str]:
    return [name for name in list_policy_names(store) if name not in ("", UNNAMED)][:CHOICES_SHOWN]


def load_changes(store: Store, request: ChangesRequest, image_address: ImageAddress) -> dict[str, Any]:
    """Return a page of prompts before and after as HTML, how many there are of both, and from where to go on."""
    page = find_changes(
        store,
        request.before,
        request.after,
        words=request.words,
        decided=request.decided,
        start=request.start,
        limit=CHANGES_ON_PAGE,
    )
    return {
        "changes": [_describe_change(change, image_address) for change in page.changes],
        "next": page.next,
        "looked_at": page.looked_at,
        "total": count_shared_prompts(store, request.before, request.after),
        "hidden": count_hidden_prompts(store, request.before, request.after),
    }


def _describe_change(change: PolicyChange, image_address: ImageAddress) -> dict[str, Any]:
    """Return a change: the prompt as HTML, and both answers with the words marked that the other lacks; without marks
    where these would be nearly all."""
    card = render_card(change.prompt.messages, [], image_address, tools=change.prompt.tools)
    before, after = (read_completion(answer.messages) for answer in (change.before, change.after))
    unlike = before != after and share_common_words(before, after) < LEAST_COMMON
    marked = [render(text) for text in (before, after)] if unlike else render_difference(before, after)
    return {
        "id": change.prompt.id,
        "prompt": card.prompt,
        "before": marked[0],
        "after": marked[1],
        "same": before == after,
        "unlike": unlike,
        "answers": list(change.answers),
        "decisions": {population: vars(decision) for population, decision in change.decisions.items()},
        "tags": [make_all_visible(f"{name}: {value}") for name, value in list(change.prompt.tags.items())[:6]],
    }
