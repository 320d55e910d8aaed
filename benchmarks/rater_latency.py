"""Measure the time from a submit to the next comparison in the browser, for twenty raters at once on one server.

    python benchmarks/rater_latency.py

Twenty *simulated* raters, each in a browser context of its own in one real Chromium, think for about ten seconds, press
a key that chooses and Enter. What is measured runs in the page: from the event of the key press to the first frame
that is drawn with the next comparison in it. Beside it, in the same run and with the same raters, contexts and pauses,
the floor of the framework: a bare Gradio page whose button calls a function that does nothing, from the click to the
first frame with its answer (Gradio's queue with its default settings).

The next comparison was fetched before, so the server's own time does not show in `p95_ms`. `confirmed_p95_ms` is the
server's time: from the key press until the page shows that the judgment is saved. SQLite, one process, and the browser
on the same two cores.

Left out: networks, and the seconds in which a page is opened.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from record import write_result
from servers import RlhfHitlServer, ServerProcess, answers_http, fill_store, find_free_port, make_pair

from rlhf_hitl.store import Store, guidelines, people
from rlhf_hitl.types import Role

PASSWORD = "a-good-password"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")

# `next` and `confirmed` are filled by the page: milliseconds from the event to the frame in which it shows.
WATCH = """
([event, key, changed, confirmed]) => {
  window.measured = { next: [], confirmed: [] };
  const drawn = (then) => requestAnimationFrame(() => requestAnimationFrame(then));
  document.addEventListener(event, (e) => {
    if (key && e.key !== key) return;
    const begun = e.timeStamp;
    for (const [name, look] of [["next", changed], ["confirmed", confirmed]]) {
      if (!look) continue;
      const { selector, attribute, until } = look;
      const node = document.querySelector(selector);
      const value = () => (attribute ? node.getAttribute(attribute) : node.textContent.trim());
      const before = value();
      let left = until === undefined || before !== until; // `until` counts once it was something else
      const watcher = new MutationObserver(() => {
        left ||= value() !== until;
        if (until === undefined ? value() === before : !left || value() !== until) return;
        watcher.disconnect();
        drawn(() => window.measured[name].push(performance.now() - begun));
      });
      watcher.observe(node, { attributes: true, childList: true, characterData: true, subtree: true });
    }
  }, { capture: true });
}
"""

BARE = """
import sys
import gradio as gr
turn = iter(range(10**9))
with gr.Blocks(analytics_enabled=False) as page:
    button = gr.Button("Go", elem_id="go")
    out = gr.HTML("start", elem_id="out")
    button.click(lambda: f"turn {next(turn)}", None, out, show_progress="hidden")
page.launch(server_port=int(sys.argv[1]), quiet=True, show_error=False)
"""


async def measure_pages(
    browser: Browser, raters: int, seconds: float, think: float,
    enter: Callable[[BrowserContext, int], Awaitable[Page]], act: Callable[[Page], Awaitable[Any]],
) -> dict[str, list[float]]:  # fmt: skip
    """Let all raters open their pages and work for `seconds`. Returns the milliseconds that the pages measured."""
    contexts = [await browser.new_context(viewport={"width": 1280, "height": 800}) for _ in range(raters)]
    pages = [await enter(context, i) for i, context in enumerate(contexts)]  # one after another: not measured
    begin = time.monotonic()

    async def work(page: Page, dice: random.Random) -> dict[str, list[float]]:
        await asyncio.sleep(think * dice.random())  # they did not all begin at the same moment
        while time.monotonic() - begin < seconds:
            await act(page)
            await asyncio.sleep(think * dice.uniform(0.8, 1.2))
        return await page.evaluate("window.measured")

    measured = await asyncio.gather(*(work(page, random.Random(i)) for i, page in enumerate(pages)))
    for context in contexts:
        await context.close()
    return {name: [ms for of_page in measured for ms in of_page[name]] for name in ("next", "confirmed")}


async def measure_latencies(
    program: str, ours: str, bare: str, raters: int, seconds: float, think: float
) -> dict[str, dict[str, list[float]]]:
    async def open_rating_page(context: BrowserContext, i: int) -> Page:
        page = await context.new_page()
        sign_in: dict[str, Any] = {"name": f"rater {i}", "password": PASSWORD}
        await context.request.post(f"{ours}/login", form=sign_in)
        await page.goto(f"{ours}/rate/")
        await page.locator("#card").wait_for(timeout=120_000)
        card = {"selector": "#card", "attribute": "data-id"}
        unsent = {"selector": "#rating", "attribute": "data-unsent", "until": "0"}
        await page.evaluate(WATCH, ["keydown", "Enter", card, unsent])
        return page

    async def submit(page: Page) -> None:
        await page.keyboard.press(random.choice("1234567"))
        await page.keyboard.press("Enter")

    async def open_bare(context: BrowserContext, _i: int) -> Page:
        page = await context.new_page()
        await page.goto(bare)
        await page.locator("#go").wait_for(timeout=120_000)
        await page.evaluate(WATCH, ["click", None, {"selector": "#out"}, None])
        return page

    async def click(page: Page) -> None:
        await page.locator("#go").click()

    async with async_playwright() as p:
        browser = await p.chromium.launch(executable_path=program, args=["--no-sandbox"])
        return {
            "bare": await measure_pages(browser, raters, seconds, think, open_bare, click),
            "ours": await measure_pages(browser, raters, seconds, think, open_rating_page, submit),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raters", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=180, help="Of each side.")
    parser.add_argument("--think", type=float, default=10, help="Seconds between two answers of a rater.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    raters, seconds, think = (2, 2.0, 0.5) if args.quick else (args.raters, args.seconds, args.think)
    # The shell shows that the benchmark works; what is published was measured in the whole browser.
    program = next(filter(None, map(shutil.which, BROWSERS[::-1] if args.quick else BROWSERS)), None)
    if program is None:
        sys.exit("no Chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/preferences.db"
        store = Store.open(url, create=True)
        fill_store(store, (make_pair(i) for i in range(raters * (20 + int(2 * seconds / think)))))
        read = guidelines.get_current_guideline(store)
        for i in range(raters):
            rater = people.add_rater(store, f"rater {i}", Role.RATER, PASSWORD, simulated=True)
            guidelines.record_acknowledgement(store, rater.id, read.project, read.version)
        store.close()
        port = find_free_port()
        bare = ServerProcess(
            [sys.executable, "-c", BARE, str(port)], Path(folder) / "bare.log", lambda: answers_http(port, "/config")
        )
        with RlhfHitlServer(url, Path(folder)) as ours, bare:
            milliseconds = asyncio.run(
                measure_latencies(program, ours.address, f"http://127.0.0.1:{port}", raters, seconds, think)
            )
    figures: dict[str, float | int | None] = {"raters": raters, "seconds": seconds, "think_s": think}
    for side, name, key in (("ours", "next", ""), ("ours", "confirmed", "confirmed_"), ("bare", "next", "bare_")):
        ms = milliseconds[side][name]
        p50, p95 = np.percentile(ms, [50, 95])
        figures |= {f"{key}n": len(ms), f"{key}p50_ms": float(p50), f"{key}p95_ms": float(p95)}
    figures["p95_ratio"] = float(figures["p95_ms"] or 0) / float(figures["bare_p95_ms"] or 1)
    notes = "The raters are simulated: scripts in real browser contexts. One server process on SQLite."
    write_result("rater_latency", figures, seeds=list(range(raters)), notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
