"""What every page shares: it is one custom component in an otherwise empty Gradio page, mounted behind a guard."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import gradio as gr
from fastapi import FastAPI
from jinja2 import Environment, PackageLoader
from starlette.middleware import Middleware

from rlhf_hitl.api.auth import get_page_caller
from rlhf_hitl.api.page_calls import PageCall, PageCalls
from rlhf_hitl.api.page_guard import PagePolicy
from rlhf_hitl.ui.highlighting import render_code_css

SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

#: Bytes of one call of a page. The rating page, which sends texts, has a limit of its own.
MAX_CALL_BYTES = 128 * 2**10


def read_asset(name: str) -> str:
    """Return the text of a file in `assets/`."""
    return (resources.files("rlhf_hitl.ui") / "assets" / name).read_text(encoding="utf-8")


@cache
def load_translations() -> dict[str, dict[str, str]]:
    """Return the texts of the interface by language and key, English first."""
    folder = resources.files("rlhf_hitl.ui") / "assets" / "words"
    texts = {f.name.removesuffix(".json"): json.loads(f.read_text(encoding="utf-8")) for f in folder.iterdir()}
    return {"en": texts.pop("en"), **dict(sorted(texts.items()))}


@cache
def load_templates() -> Environment:
    """Return the templates of the pages. They escape everything they are given."""
    loader = PackageLoader("rlhf_hitl.ui", "assets")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)


def mount_page(
    app: FastAPI,
    path: str,
    *,
    title: str,
    html: str,
    css: str,
    script: str,
    calls: Mapping[str, PageCall],
    guard: Middleware,
    max_call_bytes: int = MAX_CALL_BYTES,
) -> None:
    """Mount a page at a path.

    Args:
        html: the content of the page, drawn once.
        css: the page's own styles, which follow those that all pages share.
        script: JavaScript that is given `element` (the page) and `server` (one async function for each of `calls`).
        calls: the functions of `server` by name. Each acts for the caller that `guard` found, and for nobody else.
        guard: middleware that resolves the session of a request.
        max_call_bytes: of what the page sends in one call.
    """
    theme = gr.themes.Base(font=SYSTEM_FONTS, font_mono=MONO_FONTS)
    # The styles are in the page because Gradio rewrites every selector of its `css=`.
    styles = read_asset("base.css") + render_code_css() + css
    body = f"<style>{styles}</style>{html}"
    functions = [_make_server_function(name) for name in calls]
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        component = gr.HTML(
            body, js_on_load=script, apply_default_css=False, server_functions=functions, elem_id="page"
        )
    answers = Middleware(PageCalls, calls=calls, component_id=component._id, max_bytes=max_call_bytes)
    policy = Middleware(PagePolicy, styles=[styles, ""])  # "": Gradio adds a style element for its `css=`, too
    gr.mount_gradio_app(
        app,
        page,
        path,
        auth_dependency=lambda request: get_page_caller(request).rater.id,
        app_kwargs={"middleware": [guard, policy, answers], "docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=theme,
        i18n=gr.I18n(**load_translations()),
        head='<meta name="robots" content="noindex">',
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
    )
    # Gradio polls its queue a thousand times a second. Our calls do not use the queue.
    page._queue.sleep_when_free = 1.0


def _make_server_function(name: str) -> Callable[[Any], None]:
    """Return a function by whose name Gradio's script offers a call to the page. `PageCalls` answers the call."""

    def function(sent: Any) -> None:
        raise RuntimeError("the guard of this page has let a call through to Gradio")

    function.__name__ = name
    return function
