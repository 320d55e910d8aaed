"""The rating page on a phone: a small bar without broken words, and answers that are tapped, swiped and compared."""

from __future__ import annotations

import pytest

from browser_fixtures import (
    answers,
    choose,
    enter,
    expect,
    ids_by_text,
    judgments,
    open_rating_page,
    pair,
    question,
    until_next,
    until_sent,
)
from rlhf_hitl.store import guidelines
from rlhf_hitl.types import Guideline
from rlhf_hitl.ui.pages import load_translations

pytestmark = pytest.mark.browser

PHONES = {"390": {"width": 390, "height": 844}, "360": {"width": 360, "height": 640}}

#: The words on buttons that stand on two lines or stick out of their button; not those for screen readers only.
BROKEN = """
(language) => {
  const broken = [];
  const segments = new Intl.Segmenter(language, { granularity: "word" });
  for (const button of document.querySelectorAll("#rating button")) {
    if (!button.checkVisibility()) continue;
    const box = button.getBoundingClientRect();
    const texts = document.createTreeWalker(button, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (getComputedStyle(text.parentElement).clipPath !== "none") continue;
      for (const { segment, index, isWordLike } of segments.segment(text.data)) {
        if (!isWordLike) continue;
        const range = document.createRange();
        range.setStart(text, index);
        range.setEnd(text, index + segment.length);
        const tops = new Set([...range.getClientRects()].map((rect) => Math.round(rect.top)));
        const { left, right } = range.getBoundingClientRect();
        if (tops.size > 1 || left < box.left - 1 || right > box.right + 1) broken.push(`${button.id} ${segment}`);
      }
    }
  }
  return broken;
}
"""


@pytest.fixture
def phone(chromium):
    """A page on a phone of 390 by 844 pixels that is touched."""
    context = chromium.new_context(viewport=PHONES["390"], has_touch=True, reduced_motion="reduce")
    context.set_default_timeout(30_000)
    page = context.new_page()
    failures = []
    page.on("pageerror", lambda e: failures.append(str(e)))
    yield page
    context.close()
    assert failures == []


@pytest.mark.parametrize("language", load_translations())
def test_in_every_language_the_bar_is_small_no_word_is_broken_and_the_keys_fit(shared, chromium, language):
    context = chromium.new_context(viewport=PHONES["390"], has_touch=True, locale=language)
    page = context.new_page()
    open_rating_page(page, shared, f"phone {language}")
    for size in PHONES.values():
        page.set_viewport_size(size)
        assert page.evaluate(BROKEN, language) == [], size
        bar = page.locator("#bar").bounding_box()
        assert bar["height"] < 145, "a sixth of a tall phone, under a quarter of a small one"
        assert bar["y"] + bar["height"] == pytest.approx(size["height"], abs=1), "it is where thumbs are"
        page.locator("#open-more").click()
        assert page.evaluate(BROKEN, language) == [], size
        page.locator("#open-more").click()
    for width in (800, 1100, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(BROKEN, language) == [], width
        page.keyboard.press("g")
        assert page.evaluate(BROKEN, language) == [], f"{width}, with the guideline beside"
        page.keyboard.press("g")
    page.keyboard.press("?")
    fits = page.locator("#help").evaluate("d => [d.scrollHeight <= d.clientHeight, d.scrollWidth <= d.clientWidth]")
    assert fits == [True, True], "the keys fit a screen of 800 pixels"
    context.close()


def test_taps_on_an_answer_choose_it_and_say_by_how_much(shared, phone):
    rater = open_rating_page(phone, shared, "tapper")
    first = question(phone)
    shown = [ids_by_text(shared)[text] for text in answers(phone)]
    expect(phone.locator("#chosen")).to_have_text("Tap the better answer")
    a = phone.locator(".answer").nth(0)
    for choice, said in (("A1", "slightly"), ("A2", "clearly"), ("A3", "much"), ("A1", "slightly")):
        a.tap()
        expect(choose(phone, choice)).to_have_attribute("aria-pressed", "true")
        expect(phone.locator("#chosen")).to_have_text(f"A is {said} better")
    expect(a).to_have_class("answer better")
    phone.get_by_role("button", name="Answer B").tap()
    phone.locator(".answer").nth(1).tap()
    expect(choose(phone, "B1")).to_have_attribute("aria-pressed", "true")
    phone.locator(".answer").nth(1).tap()
    phone.get_by_role("button", name="Submit").tap()
    until_next(phone, first)
    (kept,) = judgments(shared, rater)
    assert (kept.answer.ranking, kept.answer.strength) == (((shown[1],), (shown[0],)), 2)


def test_a_click_of_the_mouse_on_an_answer_chooses_nothing(shared, page):
    open_rating_page(page, shared, "reader with a mouse")
    page.locator(".answer").nth(0).click()
    expect(page.locator('[data-choice][aria-pressed="true"]')).to_have_count(0)


def test_more_than_two_are_ranked_by_taps_in_order(serve, phone):
    server = serve([pair("Name a colour.", "Red", "Green", "Blue")])
    rater = open_rating_page(phone, server, "rater")
    shown = [ids_by_text(server)[text] for text in answers(phone)]
    expect(phone.locator("#chosen")).to_contain_text("best first")

    def tap(index: int) -> None:
        phone.locator("#answer-letters button").nth(index).tap()
        phone.locator(".answer .answer-text").nth(index).tap()

    tap(1)
    tap(2)
    tap(2)  # not that one
    tap(0)
    expect(phone.locator('.rank-zone[data-rank="2"] .chip')).to_have_text("A")
    phone.get_by_role("button", name="Submit").tap()
    expect(phone.locator("#empty")).to_be_visible()
    until_sent(phone)
    (kept,) = judgments(server, rater)
    assert kept.answer.ranking == ((shown[1],), (shown[0],))


def swipe(page, start: int, end: int) -> None:
    """Move a finger over the answers, from one x to another."""
    box = page.locator("#answers").bounding_box()
    session = page.context.new_cdp_session(page)
    for share in (None, 0.2, 0.4, 0.6, 0.8, 1):
        at = {"x": start + (share or 0) * (end - start), "y": box["y"] + box["height"] / 2}
        kind = "touchStart" if share is None else "touchMove"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


@pytest.mark.parametrize("language", ["en", "ar"])
def test_answers_are_swiped_and_the_letters_say_which_is_in_view(serve, chromium, language):
    server = serve([pair("Name a colour.", "Red", "Green", "Blue")])
    context = chromium.new_context(viewport=PHONES["390"], has_touch=True, locale=language)
    page = context.new_page()
    open_rating_page(page, server, "rater")
    letters = page.locator("#answer-letters button")
    expect(letters.nth(0)).to_have_attribute("aria-current", "true")
    expect(letters.nth(1)).to_have_attribute("aria-current", "false")
    swipe(page, *((60, 340) if language == "ar" else (340, 60)))
    expect(letters.nth(1)).to_have_attribute("aria-current", "true")
    expect(letters.nth(0)).to_have_attribute("aria-current", "false")
    expect(page.locator('[data-choice][aria-pressed="true"]')).to_have_count(0)
    expect(page.locator(".rank-zone[data-rank='1'] .chip")).to_have_count(0)  # a swipe is no tap
    letters.nth(2).tap()
    expect(letters.nth(2)).to_have_attribute("aria-current", "true")
    context.close()


def test_two_answers_are_compared_side_by_side_from_then_on(shared, phone):
    open_rating_page(phone, shared, "comparer")

    def ends() -> list[float]:
        return phone.locator(".answer").evaluate_all("a => a.map((e) => Math.round(e.getBoundingClientRect().right))")

    assert ends()[1] > 390
    phone.get_by_role("button", name="Side by side").tap()
    assert ends()[1] <= 390
    expect(phone.locator('#answer-letters [aria-current="true"]')).to_have_count(2)
    phone.reload()
    expect(phone.locator("#card")).to_be_visible(timeout=30_000)
    assert ends()[1] <= 390


def test_what_is_required_is_unfolded(serve, phone):
    server = serve([pair("Which?", "yes", "no")])
    strict = Guideline("default", "2", "# Be strict", rationale="required")
    guidelines.publish_guideline(server.store, strict)
    open_rating_page(phone, server, "rater")
    expect(phone.locator("#rationale")).to_be_visible()


def test_what_is_seldom_needed_is_unfolded_by_a_button_or_by_its_key(shared, phone):
    open_rating_page(phone, shared, "unfolder")
    for id in ("rationale", "open-difference", "undo"):
        expect(phone.locator(f"#{id}")).to_be_hidden()
    phone.keyboard.press("r")
    expect(phone.locator("#rationale")).to_be_focused()
    for id in ("rationale", "open-difference", "undo"):
        expect(phone.locator(f"#{id}")).to_be_visible()
    phone.locator("#open-more").tap()
    expect(phone.locator("#rationale")).to_be_hidden()


def test_on_a_wide_screen_the_buttons_follow_a_short_pair_and_stay_in_view_below_a_long_one(serve, page):
    server = serve([pair("Which?", "short", "brief")])
    open_rating_page(page, server, "rater")
    pair_box, bar = (page.locator(f"#{id}").bounding_box() for id in ("answers", "bar"))
    assert 0 < bar["y"] - pair_box["y"] - pair_box["height"] < 40
    assert bar["y"] < 500
    long = serve([pair("Which?", "a paragraph of words\n\n" * 60, "brief")])
    page.context.clear_cookies()
    long.person("rater")
    enter(page, long, "rater")
    expect(page.locator(".answer-text").filter(has_text="paragraph")).to_be_visible()
    bar = page.locator("#bar").bounding_box()
    assert bar["y"] + bar["height"] == pytest.approx(800, abs=1)
    page.mouse.wheel(0, 300)
    expect(page.locator("#bar")).to_be_in_viewport(ratio=1)
