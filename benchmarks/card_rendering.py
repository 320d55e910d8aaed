"""Measure how long a rater waits for the server to draw a card, where each text of the card is made to take long.

    python benchmarks/card_rendering.py

The texts are those of `tests/hostile_texts.py`, which try to do harm, and the hundred of `tests/nasty_texts.py`, which
try to keep the server busy. A card is a prompt and two completions; every seventh has eight. The figures are of the
page's call `submit` over HTTP, signed in, from the request to the last byte of the answer: one server process, cold
cache, one call at a time. Each call draws one new card. Beside them `ping_p99_ms` and `ping_max_ms`: how long
`/healthz`, asked all the while, had to wait for the same process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from record import write_result
from servers import RlhfHitlServer, fill_store

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from hostile_texts import HOSTILE
from nasty_texts import NASTY
from rlhf_hitl.api.auth import SESSION_COOKIE
from rlhf_hitl.store import Store, guidelines, people
from rlhf_hitl.store.sign_in import start_session, verify_password
from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Role

PASSWORD = "a-good-password"
EVERY_WIDE = 7  # every so many cards have eight completions


def make_cards(texts: Sequence[str]) -> list[Comparison]:
    """Return comparisons that show each text twice: as a completion and as, or in, the prompt of the next card."""
    cards = []
    for i in range(len(texts)):
        k = 8 if i % EVERY_WIDE == EVERY_WIDE - 1 else 2
        prompt = Prompt.create((Message("user", f"Card {i}\n\n{_cleanse(texts[i - 1])}"),))
        # Made different, so that no text is in the cache from a card before.
        shown = [f"{i}.{j}\n\n{_cleanse(texts[(i + 31 * j) % len(texts)])}" for j in range(k)]
        answers = [Completion.create(prompt.id, (Message("assistant", text),), "policy") for text in shown]
        cards.append(Comparison.create(prompt, answers))
    return cards


def _cleanse(text: str) -> str:
    """Return a text as a store takes it: the rest is refused at import."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "")


def measure_cards(
    texts: Sequence[str] = (*HOSTILE.values(), *NASTY.values()), *, most: int | None = None
) -> dict[str, float]:
    """Return `card_p50_ms`, `card_p99_ms`, `card_max_ms`, `cards` and `ping_max_ms` of cards made of these texts.

    Args:
        most: cards that are measured; None for one for each text.
    """
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/preferences.db"
        with Store.open(url, create=True) as store:
            fill_store(store, make_cards(texts), at_once=10)
            rater = people.add_rater(store, "rater", Role.RATER, PASSWORD, simulated=True)
            read = guidelines.get_current_guideline(store)
            guidelines.record_acknowledgement(store, rater.id, read.project, read.version)
            verified = verify_password(store, "rater", PASSWORD)
            assert verified is not None
            session = start_session(store, verified, 1)
        with RlhfHitlServer(url, Path(folder)) as server:
            page = RatingPage(server.address, session)
            time.sleep(2)  # a server just started still loads what draws texts
            pings, stop = [], threading.Event()
            pinging = threading.Thread(target=_ping, args=(server.address, stop, pings))
            pinging.start()
            try:
                ms = page.rate_all(most or len(texts))
            finally:
                stop.set()
                pinging.join()
    p50, p99 = np.percentile(ms, [50, 99])
    return {
        "cards": len(ms),
        "card_p50_ms": float(p50),
        "card_p99_ms": float(p99),
        "card_max_ms": max(ms),
        "ping_p99_ms": float(np.percentile(pings, 99)),
        "ping_max_ms": max(pings),
    }


class RatingPage:
    """The calls of the rating page, without a browser."""

    CALL = "/rate/gradio_api/component_server/"

    def __init__(self, address: str, session: str):
        self._connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
        self._headers = {"cookie": f"{SESSION_COOKIE}={session}", "content-type": "application/json"}
        config = json.loads(self._ask("GET", "/rate/config"))
        self._component = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "page")

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        self._connection.request(method, path, None if body is None else json.dumps(body), self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            sys.exit(f"{method} {path}: {response.status} {answer[:500]!r}")
        return answer

    def call(self, name: str, data: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """Return the answer to a call, and the milliseconds it took."""
        body = {"fn_name": name, "component_id": self._component, "session_hash": "bench", "data": data}
        start = time.perf_counter()
        answer = self._ask("POST", self.CALL, body)
        ms = 1000 * (time.perf_counter() - start)
        return json.loads(answer), ms

    def rate_all(self, most: int) -> list[float]:
        """Skip one card after another. Returns the milliseconds of each call that drew a new card."""
        opened, _ = self.call("open", {})
        held = [card["id"] for card in opened["cards"]]
        times = []
        while held and len(times) < most:
            answer, ms = self.call("submit", {"id": held[0], "verdict": "skipped", "have": held})
            held = [*held[1:], *(card["id"] for card in answer["cards"])]
            if answer["cards"]:
                times.append(ms)
        return times


def _ping(address: str, stop: threading.Event, pings: list[float]) -> None:
    connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
    while not stop.wait(0.02):
        start = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        pings.append(1000 * (time.perf_counter() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    figures: dict[str, float | int | None] = {**measure_cards(most=10 if quick else None)}
    notes = "One server process on SQLite; the client and the workers that draw texts run on the same cores."
    write_result("card_rendering", figures, seeds=[], notes=notes, quick=quick)


if __name__ == "__main__":
    main()
