"""The catalog's page: find comparisons, open one with all that happened to it, and send what was found somewhere.

Here are the calls of the page, as data; `assets/data/` draws them, and `data_history.py` the comparison that is opened.
Evaluators look; what changes something is for leads.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from rlhf_hitl.api.auth import ACTS_ON_DATA, Caller
from rlhf_hitl.api.images import make_image_address
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import Store, people
from rlhf_hitl.store.adjudication import SENT_FROM_CATALOG, send_to_adjudication
from rlhf_hitl.store.assignments import REFUSALS, assign
from rlhf_hitl.store.catalog import CatalogHit, count_facets, find_comparison_ids, search_catalog
from rlhf_hitl.store.catalog_index import CatalogIndexer, count_changes
from rlhf_hitl.store.routings import ask_for_votes
from rlhf_hitl.store.slices import add_slice, list_slices
from rlhf_hitl.types import Role
from rlhf_hitl.types.catalog import FACETS, ComparisonFilter
from rlhf_hitl.ui.conversation import make_question_excerpt
from rlhf_hitl.ui.dashboard import PageMessage, mount_dashboard
from rlhf_hitl.ui.data_history import describe_history
from rlhf_hitl.visible import make_all_visible
from rlhf_hitl.wording import say_count

EXCERPT_LENGTH = 200  # characters
PAGE_SIZE_LIMIT = 50
#: Comparisons that one action sends somewhere; the page says so where more were found.
MOST_SENT = 500
#: Seconds that a request waits for the catalog to see what was added.
MOST_SECONDS = 5.0
#: How long a search waits for the catalog to see what has changed since; a server's keeper does the rest.
CATCH_UP_SECONDS = 0.05
RATERS_LISTED = 500

FACET_TITLES = {
    "project": "Project",
    "batch": "Batch",
    "split": "Split",
    "language": "Language",
    "tag": "Tags",
    "policy": "Policy",
    "route": "Route",
    "round": "Round",
    "state": "Label",
    "agreement": "Agreement",
    "outcome": "Likeliest outcome",
    "verdict": "Verdicts",
    "rater": "Rater",
    "judge": "A model has voted",
    "kind": "Kind",
}
#: Facet → value → what the page says for it, where that is not the value itself.
VALUE_WORDS = {
    "state": {"judged": "judged, not fitted", "agreed": "raters agree, not sure", "split": "truly split"},
    "agreement": {"unjudged": "no vote", "one_vote": "one vote", "majority": "a majority", "split": "evenly split"},
    "outcome": {"first": "first is better", "tie": "tie", "second": "second is better"},
    "verdict": {"all_bad": "both bad"},
    "kind": {"gold": "gold", "repeat": "hidden repeat", "usual": "usual"},
}

Filter = Annotated[dict[str, Any], Field(max_length=30)]
Name = Annotated[str, Field(max_length=200)]


class FilterMessage(PageMessage):
    """Which comparisons are meant: see `ComparisonFilter`."""

    filter: Filter = Field(default_factory=dict)

    def parse(self) -> ComparisonFilter:
        return ComparisonFilter.from_plain(self.filter)


class SearchMessage(FilterMessage):
    """Which page of them to list."""

    after: int | None = Field(None, ge=0, le=2**53)
    limit: int = Field(25, ge=1, le=PAGE_SIZE_LIMIT)


class LookMessage(PageMessage):
    """Which comparison to open."""

    id: str = Field(max_length=80)


class SendMessage(FilterMessage):
    """Where to send comparisons: those of `ids`, or else all that meet the filter. `rater` is a name."""

    to: Literal["raters", "adjudication", "rater"]
    ids: list[Annotated[str, Field(max_length=80)]] | None = Field(None, max_length=MOST_SENT)
    rater: Name = ""


class SaveMessage(FilterMessage):
    """Under which name to keep the filter."""

    name: Name
    description: str = Field("", max_length=2000)


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""
    indexer = CatalogIndexer(store)

    def open(sent: Any, caller: Caller) -> dict[str, Any]:
        may_act = caller.rater.role in ACTS_ON_DATA
        return {"may_act": may_act, "slices": _list_slices(store), "raters": _list_raters(store) if may_act else []}

    def search(sent: Any, caller: Caller) -> dict[str, Any]:
        request = SearchMessage.model_validate(sent)
        is_whole = indexer.update(seconds=CATCH_UP_SECONDS, gentle=True)
        page = search_catalog(store, request.parse(), after=request.after, limit=request.limit)
        return {
            "hits": [_describe_hit(hit) for hit in page.hits],
            "total": page.total,
            "is_exact": page.is_exact,
            "next": page.next,
            "waiting": 0 if is_whole else count_changes(store),
        }

    def facets(sent: Any, caller: Caller) -> dict[str, Any]:
        return {"facets": describe_facets(store, FilterMessage.model_validate(sent).parse())}

    def look(sent: Any, caller: Caller) -> dict[str, Any]:
        request = LookMessage.model_validate(sent)
        return describe_history(store, request.id, make_image_address(store, caller.rater.id))

    def send(sent: Any, caller: Caller) -> dict[str, Any]:
        request = SendMessage.model_validate(sent)
        if request.ids is None:
            found = list(islice(find_comparison_ids(store, request.parse(), seconds=MOST_SECONDS), MOST_SENT + 1))
            ids, more = found[:MOST_SENT], len(found) > MOST_SENT
        else:
            ids, more = request.ids, False
        said = _send(store, request, ids, caller)
        if more:
            said += f" These were the newest {MOST_SENT}; send again for others once you have narrowed the filter."
        return {"said": said}

    def save(sent: Any, caller: Caller) -> dict[str, Any]:
        request = SaveMessage.model_validate(sent)
        made = add_slice(store, request.name, request.parse(), request.description, by=caller.actor)
        said = f"Kept as the slice “{make_all_visible(made.name)}”: rlhf-hitl report --slice NAME, and others, use it."
        return {"said": said, "slices": _list_slices(store)}

    calls = {"open": open, "search": search, "facets": facets, "look": look}
    calls |= {"send": _for_leads(send), "save": _for_leads(save)}
    mount_dashboard(
        app, path, guard, name="data", calls=calls, scripts=("address", "facets", "hits", "actions", "keys")
    )


def _for_leads(call: Callable[[Any, Caller], dict[str, Any]]) -> Callable[[Any, Caller], dict[str, Any]]:
    """Return a call that is refused where somebody may only look."""

    def answer(sent: Any, caller: Caller) -> dict[str, Any]:
        if caller.rater.role not in ACTS_ON_DATA:
            raise HTTPException(403, f"role {caller.rater.role.value!r}: expected a lead. Fix: ask a lead to do this")
        return call(sent, caller)

    return answer


#: Said of comparisons that are not sent anywhere.
MEASURES_RATERS = "left out, as golds or hidden repeats"


def _send(store: Store, request: SendMessage, ids: list[str], caller: Caller) -> str:
    """Send comparisons somewhere and say what became of them."""
    if request.to == "raters":
        asked = ask_for_votes(store, ids, by=caller.actor)
        parts = {"sent to raters, one more vote each": asked.sent, "first in line already": asked.waiting}
        parts[MEASURES_RATERS] = asked.refused
    elif request.to == "adjudication":
        sent = send_to_adjudication(store, ids, by=caller.actor, reason=SENT_FROM_CATALOG)
        parts = {"sent to leads": sent.sent, "waiting for a lead already": sent.waiting}
        parts |= {"decided already": sent.decided, MEASURES_RATERS: sent.refused}
    else:
        if not request.rater:
            raise BadInput("no rater", expected="the name of one", fix="choose who is to judge them")
        done = assign(store, request.rater, ids, by=caller.actor)
        parts = {f"reserved for {make_all_visible(request.rater)}": done.assigned}
        parts |= {REFUSALS[reason]: n for reason, n in done.refused.items()}
    said = [f"{n:,} {what}" for what, n in parts.items() if n]
    return f"{say_count(len(ids), 'comparison')}: {', '.join(said) or 'nothing to do'}."


def _list_slices(store: Store) -> list[dict[str, Any]]:
    return [
        {
            "name": make_all_visible(s.name),
            "filter": s.filter.to_plain(),
            "description": make_all_visible(s.description),
        }
        for s in list_slices(store)
    ]


def _list_raters(store: Store) -> list[dict[str, Any]]:
    """Return those to whom comparisons can be assigned, by name. Who is paused gets them once they are not."""
    able = (Role.RATER, Role.LEAD, Role.ADMIN)
    named = [r for r in people.list_raters(store) if r.role in able and not r.source and not r.disabled]
    return [{"name": r.name, "paused": r.paused} for r in named[:RATERS_LISTED]]


def _describe_hit(hit: CatalogHit) -> dict[str, Any]:
    """Return a row of the list. Its texts are as they were written, but for what cannot be seen; the page escapes."""
    comparison, entry = hit.comparison, hit.entry
    terms: dict[str, list[str]] = {}
    for facet, value in entry.terms:
        terms.setdefault(facet, []).append(make_all_visible(value))
    label = entry.labels[0] if len(comparison.completions) == 2 and entry.labels else None
    return {
        "id": comparison.id,
        "asked": make_question_excerpt(comparison.prompt.messages, EXCERPT_LENGTH) or "(no question)",
        "policies": [make_all_visible(c.policy) for c in comparison.completions],
        "votes": entry.votes,
        "shares": list(label.probabilities) if label else None,
        "agreement": _say_value("agreement", terms["agreement"][0]),
        "is_split": terms["agreement"][0] == "split" or terms["state"][0] == "split",
        "state": _say_value("state", terms["state"][0]),
        "route": comparison.route.value,
        "kind": terms["kind"][0],
        "project": comparison.project,
        "language": next(iter(terms.get("language", [])), ""),
        "tags": [tag for tag in terms.get("tag", []) if not tag.startswith("language=")][:6],
    }


def _say_value(facet: str, value: str) -> str:
    return VALUE_WORDS.get(facet, {}).get(value, value)


def describe_facets(store: Store, wanted: ComparisonFilter) -> list[dict[str, Any]]:
    """Return every facet with its values and their counts, the commonest first; those without any are left out.

    `estimated` says that counts are estimates. A value has the text that the page shows for it.
    """
    counted = count_facets(store, wanted)
    names = _name_raters(store, list(counted.counts["rater"]))
    return [
        {
            "name": facet,
            "title": FACET_TITLES[facet],
            "estimated": facet in counted.estimated,
            "values": [
                {
                    "value": value,
                    "label": make_all_visible(names.get(value, _say_value(facet, value))),
                    "count": n,
                    "chosen": value in wanted.facets.get(facet, ()),
                }
                for value, n in counted.counts[facet].items()
            ],
        }
        for facet in FACETS
        if counted.counts[facet]
    ]


def _name_raters(store: Store, ids: list[str]) -> dict[str, str]:
    """Return rater id → name."""
    return people.load_names(store, ids) if ids else {}
