"""Every page and state of it, light, dark and on a phone: axe finds nothing, and nothing is wider than the screen.

With `RLHF_HITL_SCREENSHOTS=1` each is drawn for the documentation too.
"""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from browser_fixtures import answers, enter, expect, pair, picture, question, until_next
from handmade_evaluations import bundled, put
from message_examples import look_alike, with_images, with_tools
from rlhf_hitl.formats.guidance import read_bundled_tutorial
from rlhf_hitl.store import guidelines, invitations, projects, tutorial
from rlhf_hitl.store.adjudication import send_to_adjudication
from rlhf_hitl.store.audit import Actor
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.types import DEFAULT_PROJECT, Role, Route

pytestmark = pytest.mark.browser

#: Beyond those that are on by themselves (WCAG 2.0 to 2.2 A and AA, and best practice).
MORE = {"target-size": {"enabled": True}, "label-content-name-mismatch": {"enabled": True}}

SCREENS = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True},
}
#: What each screen is turned into for a second look, at colours and at what is too wide.
DARK = {"light": ("dark", {"width": 1280, "height": 800}), "phone": ("narrow", {"width": 320, "height": 640})}
IS_DARK = "dark => !document.querySelector('.gradio-container') || document.body.classList.contains('dark') === dark"

#: What sticks out of the screen and is in nothing that scrolls by itself. Gradio's container clips what is too wide, so
#: the page's own width says nothing.
WIDE = """
(width) => {
  const scrolls = (e) =>
    e && !e.matches(".page-root") && (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const out = (e) => {
    const box = e.getBoundingClientRect();
    return box.width > 1 && (box.right > width + 1 || box.left < -1);
  };
  return [...document.querySelectorAll(".page-root *")]
    .filter((e) => e.checkVisibility() && out(e) && !scrolls(e.parentElement))
    .map((e) => `${e.tagName}#${e.id}.${e.className}`);
}
"""

CODE = """Take each letter once:

```python
def unique(text: str) -> str:
    \"\"\"The letters of a text, each once.\"\"\"
    return "".join(dict.fromkeys(text))  # keeps the order
```

| text | result |
| --- | --- |
| banana | ban |"""
WORDS = "Go through the text and **remember** what you have seen. A set forgets the order; a dictionary keeps it."


@pytest.fixture(scope="module")
def office(servers):
    """A server with a pair, four answers to rank, a tutorial, and people."""
    everyone = 3 * len(SCREENS) + 1  # each of the people below finds both comparisons, whoever came before
    cats = ("Marmalade", "Rusty", "Pumpkin, since it is autumn.", "Cat")
    made = [
        pair("How do I remove repeated letters from a word in Python?", CODE, WORDS, overlap=everyone),
        pair("Suggest a name for a ginger cat.", *cats, overlap=everyone),
    ]
    with servers.server(made) as server:
        sure = [
            pair(f"How many letters has the word *tea{'r' * i}*?", "Three.", "Four.") for i in range(len(SCREENS) + 1)
        ]
        with server.store.write() as conn:
            insert_comparisons(server.store, conn, sure)
        apply_routings(server.store, [Routing(c.id, Route.AUTO, Route.AUTO, "sure") for c in sure])
        projects.add_project(server.store, "later", open=False)
        projects.change_project(server.store, "later", paused=True)
        tutorial.replace_tutorial(server.store, DEFAULT_PROJECT, read_bundled_tutorial())
        for name in SCREENS:
            server.person(f"new-{name}", new=True)
            for done in (server.person(name), server.person(f"away-{name}")):
                for example in tutorial.list_examples(server.store):
                    tutorial.record_attempt(server.store, done.id, example.id, example.answer, True)
        server.person("lea", Role.LEAD)
        decision = pair("Tea or coffee?", "Tea.", "Coffee, as always.")
        with server.store.write() as conn:
            insert_comparisons(server.store, conn, [decision])
        send_to_adjudication(server.store, [decision.id], by=Actor("lea"))
        server.person("eva", Role.EVALUATOR)
        put(server.folder / "workspace", "one", bundled(1, 0.6)[:30], simulated=True)
        put(server.folder / "workspace", "two", bundled(2, 0.9)[:30])
        yield server


@pytest.fixture(params=SCREENS)
def screen(request, chromium):
    """The name of a screen, a page on it, and what looks it over."""
    context = chromium.new_context(reduced_motion="reduce", **SCREENS[request.param])
    context.set_default_timeout(30_000)
    page = context.new_page()
    found: dict[str, list[str]] = {}

    def look(state: str, *, pictured: bool = True) -> None:
        """On the screen as it is, and then dark."""
        look_with(state, request.param, {"rules": MORE}, pictured)
        name, size = DARK[request.param]
        turn("dark", size)
        only_colours = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
        look_with(state, name, only_colours, pictured and name != "narrow")
        turn("light", SCREENS[request.param]["viewport"])

    def turn(scheme: str, size: dict[str, int]) -> None:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size(size)
        page.wait_for_function(IS_DARK, arg=scheme == "dark")

    def look_with(state: str, name: str, options: dict, pictured: bool) -> None:
        axe = Axe("") if page.evaluate("'axe' in window") else Axe()  # half a MB of script, once a page
        violations = axe.run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
        bad = [f"{v['id']}: {n['target']} {n['failureSummary']}" for v in violations for n in v["nodes"]]
        bad += [f"wider than the screen: {e}" for e in page.evaluate(WIDE, page.viewport_size["width"])[:3]]
        found[f"{state}, {name}"] = bad
        if pictured:
            page.mouse.move(0, 0)
            picture(page, f"{state}-{name}")

    yield request.param, page, look
    context.close()
    assert {state: bad for state, bad in found.items() if bad} == {}


def test_signing_in(office, screen):
    _, page, look = screen
    page.goto(office.address + "/login")
    look("login")
    page.get_by_label("Name").fill("nobody")
    page.get_by_label("Password").fill("not a password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    look("refused", pictured=False)
    page.goto(f"{office.address}/invite/{invitations.add_invitation(office.store, Role.RATER)}")
    look("invite")


def test_errors(office, screen):
    _, page, look = screen
    page.goto(office.address + "/nowhere")
    expect(page.get_by_role("link", name="Back to your page")).to_be_visible()
    look("error")
    page.goto(office.address + "/invite/mistyped")
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    look("wrong invitation", pictured=False)


def test_first_steps(office, screen):
    name, page, look = screen
    enter(page, office, f"new-{name}")
    expect(page.locator("#guideline-agree")).to_be_visible()
    look("guidelines")
    page.locator("#guideline-agree").click()
    expect(page.locator("#tutorial")).to_be_visible()
    page.keyboard.press("7")
    page.keyboard.press("Enter")
    expect(page.locator("#verdict")).to_be_visible()
    look("tutorial")


def test_rating(office, screen):
    name, page, look = screen
    enter(page, office, name)
    expect(page.locator("#card")).to_be_visible()
    many = len(answers(page)) > 2
    for state in ("many", "pair") if many else ("pair", "many"):
        look_at_pair(page, look) if state == "pair" else look_at_many(page, look)
        before = question(page)
        page.keyboard.press("Enter")
        if state == ("pair" if many else "many"):
            expect(page.locator("#empty")).to_be_visible()
        else:
            until_next(page, before)
    look("empty")


def test_without_a_line_and_in_another_tab(office, screen):
    name, page, look = screen
    enter(page, office, f"away-{name}")
    expect(page.locator("#card")).to_be_visible()
    page.context.set_offline(True)
    for key in ("s", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#notice")).to_be_visible()
    look("no line", pictured=False)
    for key in ("s", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#waiting")).to_be_visible()
    look("waiting", pictured=False)
    page.context.set_offline(False)
    other = page.context.new_page()
    other.goto(office.address + "/rate/")
    expect(page.locator("#other-tab")).to_be_visible()
    look("elsewhere", pictured=False)


def look_at_pair(page, look) -> None:
    page.keyboard.press("2")
    look("rate")
    page.keyboard.press("d")
    expect(page.locator(".answer-text ins").first).to_be_visible()
    look("differences")
    page.keyboard.press("d")
    page.keyboard.press("g")
    expect(page.locator("#guideline")).to_be_visible()
    look("beside")
    page.keyboard.press("Escape")
    for key, dialog in (("?", "#help"), ("h", "#history")):
        page.keyboard.press(key)
        expect(page.locator(dialog)).to_be_visible()
        look({"#help": "keys", "#history": "history"}[dialog])
        page.keyboard.press("Escape")
        expect(page.locator(dialog)).to_be_hidden()
    page.locator("#open-settings").click()
    look("settings")
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    page.keyboard.press("f")
    expect(page.locator("#reasons")).to_be_visible()
    page.keyboard.press("e")
    look("more")
    page.keyboard.press("Escape")
    page.keyboard.press("g")  # where the guideline has room beside the work, it covers nothing of it
    guide, submit = (page.locator(f"#{name}").bounding_box() for name in ("guideline", "submit"))
    assert page.viewport_size["width"] < 1100 or submit["x"] + submit["width"] <= guide["x"]
    page.keyboard.press("Escape")
    page.keyboard.press("2")


def look_at_many(page, look) -> None:
    for key in "213":
        page.keyboard.press(key)
    look("many")
    button = page.locator("#side-by-side")
    if button.is_visible():  # on a phone
        button.click()
        look("side-by-side")
        button.click()


def test_messages_that_are_more_than_text(serve, screen):
    _, page, look = screen
    for state, comparison in (("tools", with_tools()), ("images", with_images()), ("alike", look_alike())):
        server = serve([comparison])
        server.person("ann")
        page.context.clear_cookies()
        enter(page, server, "ann")
        expect(page.locator("#card")).to_be_visible()
        if page.locator(".unformatted").count():  # the machine does other things: it is drawn for the next time
            page.reload()
            expect(page.locator("#card")).to_be_visible()
        if state == "images":
            page.wait_for_function("() => [...document.querySelectorAll('.picture img')].every((i) => i.naturalWidth)")
        if state == "tools":
            for block in page.locator(".answer .block.reasoning summary").all():
                block.click()
        look(state)
        if state == "images":
            page.locator(".answer .picture").first.click()
            expect(page.locator("dialog.zoom .zoom-pane img")).to_have_count(2)
            look("zoom")
            page.keyboard.press("Escape")
            expect(page.locator("dialog.zoom")).to_be_hidden()
        if state == "tools":
            page.locator(".block.tools-offered summary").click()
        page.keyboard.press("w")
        expect(page.locator(".answer .raw").first).to_be_visible()
        look(f"{state} raw" if state != "alike" else "raw", pictured=state == "alike")
        page.keyboard.press("w")


def test_leading(office, screen):
    _, page, look = screen
    enter(page, office, "lea")
    expect(page.locator(".figure").first).to_be_visible()
    expect(page.locator("#accepted-rows tr").last).to_be_visible()
    look("lead", pictured=False)  # whose pictures are of more work: test_pages.py
    page.get_by_role("button", name="Send to raters").first.click()
    look("sending", pictured=False)
    page.locator("#words").fill("nothing holds this")
    expect(page.locator("#accepted-range")).to_contain_text("None found")
    look("nothing found", pictured=False)
    page.goto(office.address + "/people/")
    expect(page.locator("table")).to_be_visible()
    look("people", pictured=False)  # and test_people_page.py
    page.goto(office.address + "/adjudicate/")
    expect(page.locator("#votes")).to_be_visible()
    look("adjudicate", pictured=False)


def test_evaluating(office, screen):
    _, page, look = screen
    enter(page, office, "eva")
    expect(page.locator("#evaluations table")).to_be_visible()
    look("replay-list", pictured=False)  # whose pictures, like the others', are of test_replay_page.py
    page.get_by_role("link", name="one").click()
    expect(page.locator("#example .answer")).to_have_count(2)
    look("replay", pictured=False)
    page.get_by_label("Words").fill("python")
    page.get_by_role("button", name="Differences").click()
    expect(page.locator("#example .difference").first).to_be_visible()
    look("replay-differences", pictured=False)
    page.get_by_label("Words").fill("nothing holds this")
    expect(page.locator("#result-count")).to_have_text("none found")
    look("replay-nothing", pictured=False)
    page.goto(office.address + "/replay/#of=one&beside=two")
    expect(page.locator("#example .margin")).to_have_count(2)
    look("replay-two", pictured=False)
    page.goto(office.address + "/replay/#of=gone")
    expect(page.locator("#notice")).to_be_visible()
    look("replay-gone", pictured=False)


def test_the_interface_in_arabic(office, chromium):
    context = chromium.new_context(locale="ar", **SCREENS["light"])
    page = context.new_page()
    someone = office.person("reader")
    for example in tutorial.list_examples(office.store):
        tutorial.record_attempt(office.store, someone.id, example.id, example.answer, True)
    page.goto(office.address + "/login")
    expect(page.locator("html")).to_have_attribute("dir", "rtl")
    page.locator("[name=name]").fill("reader")
    page.locator("[name=password]").fill("a-good-password")
    page.keyboard.press("Enter")
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    expect(page.locator("html")).to_have_attribute("lang", "ar")
    assert guidelines.has_acknowledged(office.store, someone.id, DEFAULT_PROJECT, guidelines.DEFAULT_VERSION)
    assert Axe().run(page, options={"resultTypes": ["violations"], "rules": MORE}).response["violations"] == []
    picture(page, "rate-arabic")
    context.close()
