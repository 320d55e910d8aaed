"""The rater page: blind answers, one judgment, the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware

from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store
from rlhf_hitl.ui import rating_service
from rlhf_hitl.ui.pages import Who, asset, mount_page

#: The page's script in parts, concatenated in this order; `rate` comes last and starts the page.
SCRIPTS = (
    "state", "storage", "i18n", "active_time", "pace", "tabs", "keymap", "outbox", "server_calls", "notices",
    "progress", "toggle_group", "ranking_board", "cards", "answer_panels", "choices", "scores", "rewrite", "drafts",
    "submission", "history", "tutorial", "guideline", "settings", "key_dialog", "keyboard", "rate",
)  # fmt: skip


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware, who: Who) -> None:
    """Mount the page at `path`. `who` gives the rater behind a request or refuses it."""

    def serve(name: str) -> Callable[..., Any]:
        def call(sent: Any, request: gr.Request) -> dict[str, Any]:
            return rating_service.call(name, store, settings, who(request), sent)  # type: ignore[arg-type]

        call.__name__ = name  # by which the page calls it
        return call

    script = "\n".join(asset(f"rate/{name}.js") for name in SCRIPTS)
    mount_page(
        app,
        path,
        title="Rate",
        html=asset("rate/rate.html"),
        css=asset("rate/rate.css"),
        script=script + "\nrate(element, server);",
        calls=[serve(name) for name in rating_service.CALLS],
        guard=guard,
        who=who,
    )
