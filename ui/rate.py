"""The rater page: two blind answers, one judgment, the next."""

from __future__ import annotations

from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware

from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store
from rlhf_hitl.store.guidelines import DEFAULT_VERSION
from rlhf_hitl.ui import desk
from rlhf_hitl.ui.pages import Who, asset, mount_page


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware, who: Who) -> None:
    """Mount the page at `path`. `who` gives the rater behind a request or refuses it."""

    def open(sent: Any, request: gr.Request) -> dict[str, Any]:
        return desk.open_(store, settings, who(request), sent)  # type: ignore[arg-type]

    def submit(sent: Any, request: gr.Request) -> dict[str, Any]:
        return desk.submit(store, settings, who(request), sent)  # type: ignore[arg-type]

    def undo(sent: Any, request: gr.Request) -> dict[str, Any]:
        return desk.undo(store, settings, who(request), sent)  # type: ignore[arg-type]

    html = asset("rate.html").replace("{{guideline}}", desk.guideline())
    html = html.replace("{{guideline_version}}", DEFAULT_VERSION)
    mount_page(
        app,
        path,
        title="Rate",
        html=html,
        css=asset("rate.css"),
        script=asset("rate.js") + "\nrate(element, server);",
        calls=[open, submit, undo],
        guard=guard,
        who=who,
    )
