"""The raw view, the warning of look-alikes, tool calls and images on the real pages."""

from __future__ import annotations

import shutil

import pytest

from browser_fixtures import enter, expect, open_rating_page, pair
from handmade_evaluations import put
from message_examples import compare, look_alike, with_images, with_tools
from rlhf_hitl.api.images import sign_image
from rlhf_hitl.reward.evaluation_record import EvaluatedPair
from rlhf_hitl.store import guidelines, tutorial
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.types import Answer, Guideline, Message, Role, Route, TutorialExample, Verdict

pytestmark = pytest.mark.browser

CODE = "Use **this**:  \n\n1. one\n1. two\n\n[hidden]: http://a.example 'only for models'"


def test_a_key_and_a_button_show_all_texts_as_they_were_written_and_the_browser_remembers(serve, page):
    server = serve([pair("A *question*\n\nof two", CODE, "plain\u200b answer")])
    open_rating_page(page, server, "ann")
    written = page.locator(".answer .raw", has_text="only for models")
    expect(page.locator(".answer strong")).to_be_visible()
    expect(page.locator(".hidden-text")).to_contain_text("31")
    expect(written).to_be_hidden()

    page.keyboard.press("w")
    expect(written).to_be_visible()
    assert written.inner_text() == CODE.replace(":  \n", ":··\n")
    expect(page.locator(".answer strong")).to_be_hidden()
    expect(page.locator("#prompt .raw")).to_have_text("A *question*\n\nof two")
    expect(page.locator(".answer .raw", has_text="plain⟦ZWSP⟧ answer")).to_be_visible()
    expect(page.locator("#announce")).to_have_text("Texts are shown as they were written")

    page.reload()
    expect(written).to_be_visible()
    page.locator("#open-raw").click()
    expect(page.locator(".answer strong")).to_be_visible()
    expect(page.locator("#open-raw")).to_have_attribute("aria-pressed", "false")


def test_the_raw_view_ends_the_marking_of_differences_and_is_in_the_history(serve, page):
    server = serve([pair("Which?", "It is **a**.", "It is **b**.")])
    open_rating_page(page, server, "ann")
    page.keyboard.press("d")
    expect(page.locator(".answer del")).to_be_visible()
    page.keyboard.press("w")
    expect(page.locator(".answer del")).to_have_count(0)
    expect(page.locator(".answer .raw").first).to_be_visible()
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_be_visible()
    page.keyboard.press("h")
    page.locator(".history-entry").click()
    expect(page.locator(".answer .raw").first).to_be_visible()
    expect(page.locator(".answer .raw").first).to_contain_text("**")


def test_the_page_says_by_itself_which_answers_look_the_same(serve, page):
    server = serve([look_alike(), pair("Another?", "One.", "Two.")])
    open_rating_page(page, server, "ann")
    if page.locator("#alike").is_hidden():  # the other comparison came first
        page.keyboard.press("4")
        page.keyboard.press("Enter")
    warning = page.locator("#alike")
    expect(warning).to_contain_text("A and B show the same words")
    warning.get_by_role("button", name="Raw view").click()
    expect(page.locator(".answer .raw", has_text="__init__")).to_be_visible()
    warning.get_by_role("button", name="Differences").click()
    expect(page.locator(".answer :is(del, ins)").first).to_be_visible()


def test_no_warning_without_a_reason(shared, page):
    open_rating_page(page, shared, "unwarned")
    expect(page.locator("#alike")).to_be_hidden()


def test_tool_calls_are_read_and_folded_with_the_keyboard(serve, page):
    server = serve([with_tools()])
    open_rating_page(page, server, "ann")
    expect(page.locator(".block.tools-offered")).not_to_have_attribute("open", "")
    expect(page.locator(".block.call .json").first).to_be_visible()
    expect(page.locator(".block.reasoning .text")).to_be_hidden()
    page.locator(".block.reasoning summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".block.reasoning .text")).to_contain_text("They leave on Saturday.")
    expect(page.locator("#bar")).to_be_visible()  # it unfolded, and submitted nothing
    tools = page.locator("#prompt > .block")
    tools.locator("summary").click()
    summary, body = tools.locator("summary").bounding_box(), tools.locator(".block-body").bounding_box()
    assert summary is not None
    assert body is not None
    assert body["y"] >= summary["y"] + summary["height"] - 1, "below its title, not beside it"
    page.keyboard.press("w")
    expect(page.locator(".block.call .raw").first).to_contain_text('"arguments"')
    page.keyboard.press("d")
    expect(page.locator(".answer .difference").first).to_contain_text("get_weather")


def test_a_guideline_hides_reasoning_from_raters_and_from_nobody_else(serve, page):
    server = serve([with_tools()])
    version = Guideline("default", "blind", "Judge what they said.", reasoning="hidden")
    guidelines.publish_guideline(server.store, version)
    rater = server.person("ann", new=True)
    guidelines.record_acknowledgement(server.store, rater.id, "default", "blind")
    answered: list[str] = []
    page.on("response", lambda r: answered.append(r.text()) if "component_server" in r.url else None)
    enter(page, server, "ann")
    expect(page.locator(".block.call").first).to_be_visible()
    expect(page.locator(".block.reasoning")).to_have_count(0)
    page.keyboard.press("d")
    expect(page.locator(".answer .difference").first).to_contain_text("get_weather")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_be_visible()
    page.keyboard.press("u")
    expect(page.locator(".block.call").first).to_be_visible()
    page.keyboard.press("h")
    page.locator("#history-words").fill("Saturday look up")
    expect(page.locator("#history-count")).to_contain_text("0")
    assert len(answered) >= 4
    assert not any("look up the weather" in text for text in answered)


def test_the_tutorial_shows_blocks_images_and_the_raw_view(serve, page):
    server = serve([pair("Which?", "One.", "Two.")])
    comparison = with_images()
    example = TutorialExample.create(
        "default", comparison.prompt.messages, [c.messages for c in comparison.completions],
        Answer(Verdict.RANKED, (("0",), ("1",)), 2), "It stands **upright**.",
    )  # fmt: skip
    tutorial.replace_tutorial(server.store, "default", [example])
    open_rating_page(page, server, "ann")
    expect(page.locator("#tutorial")).to_be_visible()
    expect_drawn(page, ".answer .picture img")
    page.keyboard.press("w")
    expect(page.locator(".answer .raw").first).to_contain_text("img_")


def expect_drawn(page, images: str) -> None:
    """The images have come and have pixels."""
    expect(page.locator(images).first).to_be_visible()
    page.wait_for_function(
        "s => [...document.querySelectorAll(s)].every((i) => i.complete && i.naturalWidth > 0)", arg=images
    )


def test_images_are_compared_side_by_side_at_the_same_zoom(serve, page):
    server = serve([with_images()])
    open_rating_page(page, server, "ann")
    expect_drawn(page, ".picture img")
    assert page.locator("#prompt .picture img").get_attribute("alt") == "A pencil sketch of a lighthouse"
    page.keyboard.press("z")
    zoom = page.locator("dialog.zoom")
    expect(zoom.locator(".zoom-pane img")).to_have_count(2)
    expect(zoom.locator("figcaption").first).to_contain_text("Answer A")
    before = zoom.locator(".zoom-pane img").first.bounding_box()
    for key in "+++":
        page.keyboard.press(key)
    widths = {round(box["width"]) for box in (i.bounding_box() for i in zoom.locator(".zoom-pane img").all())}
    assert len(widths) == 1
    assert widths.pop() > 2 * before["width"]
    zoom.locator(".zoom-pane").first.evaluate("pane => pane.scrollTo(pane.scrollWidth, pane.scrollHeight)")
    page.wait_for_function(
        "() => { const [a, b] = document.querySelectorAll('.zoom-pane');"
        " return b.scrollLeft > 0 && Math.abs(a.scrollLeft - b.scrollLeft) < 3; }"
    )
    page.keyboard.press("Escape")
    expect(zoom).to_be_hidden()

    page.locator("#prompt .picture").focus()
    page.keyboard.press("Enter")
    expect(zoom.locator(".zoom-pane img")).to_have_count(1)
    page.keyboard.press("1")  # no choice, since the dialog is open
    page.keyboard.press("Escape")
    expect(page.locator("[data-choice][aria-pressed=true]")).to_have_count(0)


def test_an_image_is_for_whom_it_is_shown_to_and_for_nobody_else(serve, page):
    server = serve([with_images()])
    ann = open_rating_page(page, server, "ann")
    bob = server.person("bob")
    expect_drawn(page, ".picture img")
    address = page.locator(".answer .picture img").first.evaluate("i => i.src")
    image = page.context.request.get(address)
    assert image.status == 200
    assert image.headers["content-type"] == "image/png"
    assert image.headers["cache-control"] == "private, no-store"
    assert image.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in image.headers["content-security-policy"]
    name = address.rpartition("/")[2].partition(".")[0]
    own, other = (sign_image(server.store, rater.id, name) for rater in (ann, bob))
    assert address.endswith(f"?key={own}")
    base = f"{server.address}/images/{name}.png"
    unknown = f"img_{'0' * 64}"
    refused = [
        base, f"{base}?key=", f"{base}?key=é", f"{base}?key={other}", f"{base}?key={own}0",
        f"{server.address}/images/{unknown}.png?key={sign_image(server.store, ann.id, unknown)}",
        f"{server.address}/images/..%2f{name}.png?key={own}",
    ]  # fmt: skip
    assert [page.context.request.get(url).status for url in refused] == [404] * len(refused)
    page.context.clear_cookies()
    assert page.context.request.get(address).status == 404, "signed out"
    enter(page, server, "bob")
    assert page.context.request.get(address).status == 404
    assert page.context.request.get(f"{base}?key={other}").status == 200


def test_no_image_stays_in_the_browser_after_its_reader_has_signed_out(serve, page):
    server = serve([with_images()])
    open_rating_page(page, server, "ann")
    expect_drawn(page, ".picture img")
    address = page.locator(".answer .picture img").first.evaluate("i => i.src")
    tab = page.context.new_page()
    opened = tab.goto(address)
    assert opened is not None
    assert opened.headers["content-type"] == "image/png"
    page.context.request.post(server.address + "/logout")
    tab.goto(server.address + "/login")
    tab.go_back()
    expect(tab).to_have_url(address)
    assert tab.evaluate("document.contentType") == "text/html", "a page that says what is wrong"


def test_an_image_whose_file_is_missing_says_so_in_its_place(serve, page):
    server = serve([with_images()])
    shutil.rmtree(server.folder / "preferences.db.images")
    answered: dict[str, int] = {}
    page.on("response", lambda r: answered.update({r.url: r.status}) if "/images/" in r.url else None)
    open_rating_page(page, server, "ann")
    first = page.locator(".answer .picture").first
    expect(first).to_contain_text("This image is not on this server")
    expect(page.locator(".picture-missing")).to_have_count(3)
    expect(first.locator("img")).to_be_visible()
    assert first.locator("img").get_attribute("alt")
    assert set(answered.values()) == {404}
    page.route("**/images/*", lambda route: route.abort())
    page.reload()
    expect(first).to_contain_text("This image could not be loaded")


def test_answers_that_differ_in_what_the_guideline_hides_are_named_and_not_shown(serve, page):
    answers = [
        (Message("assistant", "Take a coat.", reasoning_content=f"It will be {weather}."),)
        for weather in ("freezing", "stormy")
    ]
    server = serve([compare((Message("user", "What should I wear?"),), *answers)])
    guidelines.publish_guideline(server.store, Guideline("default", "blind", "Judge.", reasoning="hidden"))
    answered: list[str] = []
    page.on("response", lambda r: answered.append(r.text()) if "component_server" in r.url else None)
    open_rating_page(page, server, "ann")
    warning = page.locator("#alike")
    expect(warning).to_have_text("Answers A and B differ only in what the guideline hides.", use_inner_text=True)
    expect(warning.get_by_role("button")).to_have_count(0)
    assert answered
    assert not any("freezing" in text or "stormy" in text for text in answered)


def test_leads_and_evaluators_see_images_and_raw_texts_on_their_pages(serve, page):
    server = serve([with_images()])
    [comparison] = find_comparisons(server.store)
    apply_routings(server.store, [Routing(comparison.id, Route.AUTO, Route.AUTO, "sure")])
    server.person("lea", Role.LEAD)
    first, second = comparison.completions
    shown = EvaluatedPair(
        comparison.id, comparison.prompt.id, comparison.prompt.family, comparison.prompt.messages, first.messages,
        second.messages, first.id, second.id, "p", "q", votes=1, agreement=1.0, margin=1.0, uncertainty=0.5,
        probability=0.7, correct=1.0,
    )  # fmt: skip
    put(server.folder / "workspace", "one", [shown])
    enter(page, server, "lea")
    expect(page.locator("#accepted-rows tr")).to_have_count(1)
    expect_drawn(page, "#accepted-rows .picture img")
    page.goto(server.address + "/replay/#of=one&show=all")
    expect_drawn(page, "#example .picture img")
    page.keyboard.press("z")
    expect(page.locator("dialog.zoom .zoom-pane img")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.locator("dialog.zoom")).to_be_hidden()
    page.keyboard.press("w")
    expect(page.locator("#example .raw").first).to_be_visible()
    page.reload()
    expect(page.locator("#example .raw").first).to_be_visible()
