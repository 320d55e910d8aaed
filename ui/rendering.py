"""Draw texts for the pages: within a budget of time, away from the server's own process, and each text once.

A short text without code, formulas and links is drawn at once, which takes a few milliseconds whatever is in it. All
others go to `render_pool.py`. A text that is not drawn in time is shown as it was written and says so. That is cached
like any other outcome, so no text costs its budget twice.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from hashlib import blake2b
from typing import Any

from rlhf_hitl.ui import markdown
from rlhf_hitl.ui.difference import render_unmarked
from rlhf_hitl.ui.render_pool import PATIENCE, WORKERS, RenderPool

#: Seconds of processor time that one text may take: an ordinary answer of 20,000 characters takes 0.03.
TEXT_SECONDS = 0.08
#: Seconds by the clock that a page waits for all texts of a card. What is not drawn by then, because too much else is,
#: is shown plainly this time, and drawn for the next time.
CARD_SECONDS = 0.1
#: Seconds of processor time that marking the differences of two texts may take, and seconds by the clock.
DIFFERENCE_SECONDS, DIFFERENCE_PATIENCE = 0.15, 1.0
#: Characters that all texts of a card show together.
CARD_LIMIT = 2_000_000
#: Bytes of HTML that a server process keeps.
CACHE_BYTES = 64 * 2**20


class RenderCache:
    """What was drawn, by a hash of what it was drawn from; what was not used for longest is forgotten first."""

    def __init__(self, max_bytes: int = CACHE_BYTES):
        self._max_bytes, self._bytes = max_bytes, 0
        self._kept: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> tuple[str, ...] | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: bytes, html: tuple[str, ...]) -> None:
        with self._lock:
            self._bytes += self._measure(html) - self._measure(self._kept.pop(key, ()))
            self._kept[key] = html
            while self._bytes > self._max_bytes:
                self._bytes -= self._measure(self._kept.popitem(last=False)[1])

    @staticmethod
    def _measure(html: tuple[str, ...]) -> int:
        return 200 + sum(map(sys.getsizeof, html)) if html else 0


class Renderer:
    """Draws texts with workers of its own and a cache of its own. Threads may share it.

    Args:
        text_seconds: see `TEXT_SECONDS`.
        card_seconds: see `CARD_SECONDS`.
        workers: texts that are drawn at a time.
    """

    def __init__(
        self, *, text_seconds: float = TEXT_SECONDS, card_seconds: float = CARD_SECONDS, workers: int = WORKERS
    ):
        self._text_seconds, self._card_seconds = text_seconds, card_seconds
        self._pool = RenderPool()
        self._cache = RenderCache()
        self._claims = [threading.Lock() for _ in range(64)]
        self._threads = ThreadPoolExecutor(workers, "render")  # each waits for a worker

    def start(self) -> None:
        """Start what draws texts, without waiting for it."""
        self._pool.start()

    def render(self, text: str) -> str:
        """Return the HTML of one text."""
        return self.render_texts([text])[text]

    def render_texts(self, texts: Iterable[str]) -> dict[str, str]:
        """Return the HTML of each text of one card."""
        ends_at = time.monotonic() + self._card_seconds
        html: dict[str, str] = {}
        costly: dict[str, tuple[bytes, str]] = {}
        characters = CARD_LIMIT
        for text in dict.fromkeys(texts):
            limit = min(markdown.SHOWN_LIMIT, max(0, characters))
            characters -= len(text)
            visible = markdown.make_visible(text[:limit])
            key = _make_key("text", visible) if len(text) <= min(limit, markdown.MARKDOWN_LIMIT) else b""
            if not visible.strip() and limit:
                html[text] = markdown.render_empty() + markdown.render_cut_note(len(text) - limit)
            elif not key or not markdown.is_formatted(visible):
                html[text] = markdown.render_unformatted(visible, len(text) - limit)
            elif kept := self._cache.get(key):
                (html[text],) = kept
            elif not markdown.is_quick(visible):
                costly[text] = key, visible
            elif time.monotonic() < ends_at:
                (html[text],) = markdown.render_in_stages(visible, self._text_seconds)
                self._cache.put(key, (html[text],))
            else:
                html[text] = markdown.render_unformatted(visible)
        return html | self._render_costly(costly, ends_at)

    def _render_costly(self, costly: dict[str, tuple[bytes, str]], ends_at: float) -> dict[str, str]:
        """Draw texts with the workers, side by side, and those first that are likely to be quick."""
        drawn = {
            text: self._threads.submit(self._draw, "text", *costly[text], seconds=self._text_seconds)
            for text in sorted(costly, key=len)
        }
        self._wait(drawn.values(), ends_at)
        html = {}
        for text, outcome in drawn.items():
            outcome.cancel()  # if it has not begun; otherwise it comes into the cache when it is done
            pages = outcome.result() if outcome.done() and not outcome.cancelled() else None
            html[text] = pages[0] if pages else markdown.render_unformatted(costly[text][1])
        return html

    def _wait(self, outcomes: Collection[Future[Any]], ends_at: float) -> None:
        # A server that has just started is given the time to get ready, or its first cards would be shown plainly.
        wait(outcomes, max(0.0, ends_at - time.monotonic()) if self._pool.is_ready else PATIENCE)

    def _draw(self, job: str, key: bytes, *visible: str, seconds: float) -> tuple[str, ...] | None:
        """Return the HTML of texts from the cache, or else of a worker; None where no worker could be had."""
        with self._claims[key[0] % len(self._claims)]:  # who asks for the same text meanwhile waits for its outcome
            if kept := self._cache.get(key):
                return kept
            drawn = self._pool.draw(job, visible, seconds)
            if drawn is None:
                return None
            show_plainly = render_unmarked if job == "difference" else markdown.render_unformatted
            html = drawn or tuple(show_plainly(text) for text in visible)
            self._cache.put(key, html)
            return html

    def render_difference(self, first: str, second: str) -> tuple[str, str]:
        """Return two texts as HTML with the words marked that only one of them has."""
        visible = [markdown.make_visible(text[: markdown.SHOWN_LIMIT]) for text in (first, second)]
        notes = [markdown.render_cut_note(len(text) - markdown.SHOWN_LIMIT) for text in (first, second)]
        key = _make_key("difference", *visible)
        outcome = self._threads.submit(self._draw, "difference", key, *visible, seconds=DIFFERENCE_SECONDS)
        self._wait([outcome], time.monotonic() + DIFFERENCE_PATIENCE)
        outcome.cancel()
        marked = outcome.result() if outcome.done() and not outcome.cancelled() else None
        one, other = marked or map(render_unmarked, visible)
        return one + notes[0], other + notes[1]


@cache
def _get_renderer() -> Renderer:
    """Return the one that all pages of this process share. A process forked from this one makes its own."""
    os.register_at_fork(after_in_child=_get_renderer.cache_clear)
    return Renderer()


def start_rendering() -> None:
    """Start what draws texts, without waiting for it: otherwise the first text that needs it would wait."""
    _get_renderer().start()


def render_texts(texts: Iterable[str]) -> dict[str, str]:
    """Return the HTML of each text of one card."""
    return _get_renderer().render_texts(texts)


def render(text: str) -> str:
    """Return the HTML of one text."""
    return _get_renderer().render(text)


def render_difference(first: str, second: str) -> tuple[str, str]:
    """Return two texts as HTML with the words marked that only one of them has."""
    return _get_renderer().render_difference(first, second)


def _make_key(*parts: str) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.digest()
