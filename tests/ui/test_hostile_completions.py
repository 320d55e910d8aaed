"""Hostile completions on the real page: nothing runs, nothing is asked of another server, and the rater goes on."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from browser_fixtures import answers, enter, expect, judgments, open_rating_page, pair, question, until_next
from hostile_texts import HOSTILE
from nasty_texts import NASTY
from rlhf_hitl.store.tables import raters
from rlhf_hitl.types.names import make_name_key

pytestmark = pytest.mark.browser

#: The buttons that a mouse would not hit in their middle.
COVERED = """
() => [...document.querySelectorAll("#submit, #open-help, #undo, [data-choice]")].filter((button) => {
  if (!button.checkVisibility()) return false;
  const box = button.getBoundingClientRect();
  return !button.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
}).map((button) => button.outerHTML)
"""
#: What of an answer or of the prompt is drawn outside its own box.
ASTRAY = """
() => [...document.querySelectorAll(".text *")].filter((e) => {
  const how = getComputedStyle(e);
  return how.position === "fixed" || how.position === "absolute";
}).map((e) => e.outerHTML.slice(0, 100))
"""


@pytest.mark.timeout(300)
def test_nothing_hostile_runs_or_calls_and_the_page_stays_usable(serve, own_context):
    texts = list(HOSTILE.values())
    assert len(texts) >= 60
    both = list(zip(texts[::2], [*texts[1::2], "an answer"]))
    server = serve([pair(f"Hostile {i}?", first, second) for i, (first, second) in enumerate(both)])
    ran, failed, asked = [], [], []
    own_context.expose_function("owned", lambda: ran.append(question(page)))
    own_context.on("request", lambda request: asked.append(request.url))
    page = own_context.new_page()
    page.on("pageerror", lambda e: failed.append(str(e)))
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))

    rater = server.person("ann")
    enter(page, server, "ann")
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    for i in range(len(both)):
        before = question(page)
        assert before.startswith("Hostile")
        assert len(answers(page)) == 2
        assert page.evaluate(ASTRAY) == []
        page.keyboard.press("4")  # a tie
        assert page.evaluate(COVERED) == [], f"covered in {before}"
        page.keyboard.press("d")
        expect(page.locator("#open-difference")).to_have_attribute("aria-pressed", "true")
        page.locator("#submit").click()
        if i + 1 < len(both):
            until_next(page, before)
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#rating")).to_have_attribute("data-unsent", "0")

    assert len(judgments(server, rater)) == len(both)
    assert ran == []
    assert failed == []
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {urlsplit(server.address).netloc}


#: Milliseconds that the browser takes to lay the answers out anew.
LAYOUT = """
() => {
  const answers = document.querySelector("#answers");
  answers.style.display = "none";
  answers.offsetHeight;
  const begun = performance.now();
  answers.style.display = "";
  answers.offsetHeight;
  return performance.now() - begun;
}
"""
LAID_OUT = (
    "towers of marks", "emoji joined", "a word of thirty thousand letters", "directions", "languages by turns", "tabs",
    "three hundred long formulas", "links that are", "python, all of it", "two megabytes of brackets",
    "code spans that do not end",
)  # fmt: skip


def test_what_takes_long_to_draw_is_laid_out_in_bounded_time_and_says_what_it_is(serve, own_page):
    page = own_page
    texts = [NASTY[name] for name in LAID_OUT]
    server = serve([pair(f"Nasty {i}?", text, "short") for i, text in enumerate(texts)])
    open_rating_page(page, server, "ann")
    times = []
    for _ in texts:
        before = question(page)
        times.append(page.evaluate(LAYOUT))
        longest = max(answers(page), key=len)
        if "two megabytes" in LAID_OUT[int(before.split()[1].rstrip("?"))]:
            assert "Shown as it was written" in longest
            assert "Characters that are not shown: 1,800,000" in longest
        page.keyboard.press("4")
        page.locator("#submit").click()
        if len(times) < len(texts):
            until_next(page, before)
    assert max(times) < 2_000, dict(zip(LAID_OUT, times))


def test_a_name_and_a_prompt_are_as_harmless_as_an_answer(serve, own_page):
    page, ran = own_page, []
    page.context.expose_function("owned", lambda: ran.append(1))
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    server = serve([pair("<img src=x onerror=owned()> **which**?", "one", "two")])
    name = "<img src=x onerror=owned()>"
    server.person("ann")
    with server.store.write() as conn:  # a name that earlier versions took
        conn.execute(raters.update().where(raters.c.name == "ann").values(name=name, name_key=make_name_key(name)))
    enter(page, server, name)
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    assert question(page) == "<img src=x onerror=owned()> which?"
    page.keyboard.press("4")
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_be_visible()
    page.keyboard.press("h")
    expect(page.locator("#history")).to_contain_text("<img src=x onerror=owned()>")
    assert ran == []
