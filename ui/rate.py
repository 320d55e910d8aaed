"""The rater page: blind answers, one judgment, the next comparison."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.page_calls import PageCall
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store
from rlhf_hitl.ui import rating_service
from rlhf_hitl.ui.navigation import render_navigation
from rlhf_hitl.ui.pages import mount_page, read_asset

#: The page's script in parts, concatenated in this order; `rate` comes last and starts the page.
SCRIPTS = (
    "state", "storage", "i18n", "active_time", "pace", "tabs", "keymap", "outbox", "server_calls", "notices",
    "progress", "toggle_group", "ranking_board", "cards", "answer_panels", "phone",
    "choices", "scores", "rewrite", "drafts",
    "submission", "history", "tutorial", "gold", "guideline", "settings", "key_dialog", "keyboard", "rate",
)  # fmt: skip

#: Bytes of one call: a rationale and a rewrite of as many characters as `rating_request.py` allows, in any script.
MAX_CALL_BYTES = 1_280 * 2**10


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""

    def server_function(name: str) -> PageCall:
        def call(sent: Any, caller: Caller) -> dict[str, Any]:
            return rating_service.answer_call(name, store, settings, caller.rater, sent)

        return call

    mount_page(
        app,
        path,
        title="Rate",
        html=render_card_page("rate"),
        css=read_asset("rate/rate.css"),
        script=join_scripts() + "\nshowNavigation(element);\nrate(element, server);",
        calls={name: server_function(name) for name in rating_service.CALLS},
        guard=guard,
        max_call_bytes=MAX_CALL_BYTES,
    )


def render_card_page(name: str, votes: str = "") -> str:
    """Return the HTML of a page of cards; `votes` is what stands after the answers where leads decide."""
    html = read_asset("rate/rate.html").replace("<!-- navigation -->", render_navigation(name))
    return html.replace("<!-- votes -->", votes)


def join_scripts() -> str:
    """Return the scripts of a page of cards, which define `rate`."""
    shared = [read_asset(f"{name}.js") for name in ("scrollable", "navigation", "raw_view", "pictures")]
    return "\n".join([*shared, *(read_asset(f"rate/{name}.js") for name in SCRIPTS)])
