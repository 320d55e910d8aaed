"""The lead's pages in a real Chromium: where they lead, what they show, what they send to raters, how they renew."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe

from browser_fixtures import Server, enter, expect, pair
from rlhf_hitl.store import audit, people, projects, queue
from rlhf_hitl.store.accepted import record_export
from rlhf_hitl.store.alerts import NewAlert, list_alerts, update_alerts
from rlhf_hitl.store.automation import list_changes, read_automation, stop_automation
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model, display_name, list_reward_models
from rlhf_hitl.store.routings import Routing, apply_routings, read_routings, send_to_raters
from rlhf_hitl.store.scores import insert_scores
from rlhf_hitl.types import AutomationState, Comparison, Completion, Message, OverlapRule, Prompt, Role, Route, Score

pytestmark = pytest.mark.browser

UNDO_MS, RENEWAL_MS = 8_000, 20_000
MODEL = RewardModelRecord("rm_one", "head", "nowhere", "backbone", "hash", simulated=False)
PAGES = [
    ("/lead/", "Overview"),
    ("/data/", "Data"),
    ("/people/", "People"),
    ("/policies/", "Policies"),
    ("/replay/", "Replay"),
]


def put(server: Server, *questions: str, project="default", batch="", answers=("yes", "no"), **tags):
    made = []
    for question in questions:
        prompt = Prompt.create((Message("user", question),), tags)
        sides = [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in answers]
        made.append(Comparison.create(prompt, sides, project=project, batch=batch))
    with server.store.write() as conn:
        insert_comparisons(server.store, conn, made)
    return made


def accept(server: Server, *questions: str, **where) -> list[Comparison]:
    """Comparisons that a model has scored and accepted, one after another."""
    made = put(server, *questions, **where)
    add_reward_model(server.store, MODEL)
    scores = [Score(c.id, MODEL.id, c.completions[0].id, c.completions[1].id, 1.25, 0.5, 0.94) for c in made]
    insert_scores(server.store, scores)
    decisions = [Routing(c.id, Route.AUTO, Route.AUTO, "sure", reward_model_id=MODEL.id) for c in made]
    apply_routings(server.store, decisions)
    return made


def open_overview(page, server: Server, name: str = "lea", *, at: str = "") -> None:
    server.person(name, Role.LEAD)
    enter(page, server, name)
    if at:
        page.goto(f"{server.address}/lead/{at}")
        page.reload()  # the same page with another # is not loaded again
    until_loaded(page)


def until_loaded(page) -> None:
    expect(page.locator("#overview")).not_to_have_attribute("aria-busy", "true", timeout=30_000)
    expect(page.locator("#figures .figure")).to_have_count(5)
    expect(page.locator("#accepted")).to_be_visible()


def row(page, question: str):
    return page.locator("#accepted-rows tr").filter(has_text=question)


def send_button(page, question: str):
    return row(page, question).locator("[data-action=send]")


def asked(page) -> list[str]:
    return page.locator("#accepted-rows b").all_inner_texts()


def escalated(server: Server) -> list[str]:
    """The questions that leads sent to raters, one for each decision."""
    decisions = [d for d in read_routings(server.store, newest=False) if d.route is Route.ESCALATED]
    by_id = {c.id: c.prompt.messages[-1].content for c in find_comparisons(server.store)}
    return [by_id[d.comparison_id] for d in decisions]


def until_renewed(page) -> None:
    """Let the time pass after which the page renews itself, and wait until it has."""
    page.evaluate("window.before = document.querySelector('#updated').dataset.at")
    page.clock.fast_forward(RENEWAL_MS)
    page.wait_for_function("document.querySelector('#updated').dataset.at > window.before")


# --- where the pages lead


@pytest.mark.parametrize("role", [Role.LEAD, Role.ADMIN])
def test_every_page_has_the_same_links_a_title_and_a_heading(shared, page, role):
    name = f"walker-{role.value}"
    shared.person(name, role)
    enter(page, shared, name)
    links = page.get_by_role("navigation", name="Pages").get_by_role("link")
    for path, title in [*PAGES, ("/rate/", "Rate")]:
        page.get_by_role("link", name=title, exact=True).click()
        page.wait_for_url(f"**{path}")
        expect(links).to_have_text(["Rate", "Decide", "Overview", "Data", "Raters", "People", "Policies", "Replay"])
        expect(page.locator(".pages [aria-current=page]")).to_have_text([title])
        expect(page).to_have_title(f"{title} · rlhf_hitl")
        expect(page.locator("h1")).to_have_count(1)
        if path != "/rate/":
            expect(page.get_by_role("heading", level=1)).to_have_text(title)


def test_who_may_open_one_page_only_sees_no_links_and_others_see_theirs(shared, page):
    shared.person("only-rates")
    enter(page, shared, "only-rates")
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    expect(page.locator("#rating .pages")).to_be_hidden()
    assert page.context.request.get(shared.address + "/me").json()["pages"] == ["/rate"]
    shared.person("evaluates", Role.EVALUATOR)
    enter(page, shared, "evaluates")
    page.goto(f"{shared.address}/replay/")
    expect(page.locator("#evaluations")).to_be_visible(timeout=30_000)
    expect(page.locator("#replay .pages a:visible")).to_have_text(["Data", "Policies", "Replay"])


# --- what is shown


def test_projects_are_shown_and_chosen_and_those_that_are_paused_are_marked(serve, page):
    server = serve()
    projects.add_project(server.store, "coding", open=False)
    projects.add_project(server.store, "waiting")
    projects.change_project(server.store, "coding", paused=True)
    projects.change_project(server.store, "waiting", overlap_rule=OverlapRule(2, 6))
    put(server, "a?", "b?", language="en")
    put(server, "c?", project="coding", batch="pilot")
    accept(server, "Code?", project="coding", batch="pilot")
    accept(server, "Sure?")
    open_overview(page, server)
    lanes = page.locator("#lane-rows tr")
    cells = lanes.evaluate_all("rows => rows.map(r => [...r.children].map(c => c.innerText.trim()))")
    assert [re.sub(r"\s+", " ", " | ".join(row)) for row in cells] == [
        "coding paused members only | not known | pilot | 1 | 0 | 0 | 1",
        "default | not known | — | 0 | 0 | 0 | 1",
        "default | en | — | 2 | 0 | 0 | 0",
        "waiting 2 to 6 judgments each | nothing for raters | — | 0 | 0 | 0 | 0",
    ]
    expect(lanes.first.locator(".state.paused")).to_have_text("paused")
    expect(page.locator("#queue")).to_contain_text("in paused projects, given to nobody: 1")
    assert asked(page) == ["Sure?", "Code?"]

    choice = page.get_by_role("combobox", name="Project")
    assert choice.locator("option").all_inner_texts() == ["All projects", "coding (paused)", "default", "waiting"]
    choice.select_option("coding")
    expect(lanes).to_have_count(1)
    expect(page.locator("#accepted-rows b")).to_have_text(["Code?"])
    expect(page.locator("#queue .total")).to_have_text("Wanted judgments that are in: 0 of 1")
    page.reload()
    until_loaded(page)
    expect(choice).to_have_value("coding")
    expect(page.locator("#accepted-rows b")).to_have_text(["Code?"])
    choice.select_option("waiting")
    expect(page.locator("#accepted-none")).to_have_text("Nothing is accepted in this project.")
    page.goto(f"{server.address}/lead/#project=gone")
    expect(choice.locator("option:checked")).to_have_text("gone (there is no such project)")
    expect(lanes).to_have_count(0)


def test_what_a_rater_holds_is_said_to_be_held_whatever_is_on_their_screen(serve, page, chromium):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(5)])
    server.person("newcomer", new=True)
    other = chromium.new_context()
    reading = other.new_page()
    enter(reading, server, "newcomer")
    expect(reading.locator("#guideline-agree")).to_be_visible()  # who reads the guidelines and has seen no comparison
    open_overview(page, server)
    expect(page.locator(".legend div").filter(has_text="held")).to_contain_text("who may not have read it yet")
    expect(page.locator(".legend div").filter(has_text="held").locator("dd")).to_have_text("2")
    assert "screen" not in page.locator("#queue").inner_text()
    other.close()


def test_before_anything_is_accepted_the_page_says_how_it_comes_about(serve, page):
    open_overview(page, serve())
    told = page.locator("#accepted-none")
    expect(told).to_contain_text("Train a reward model and route with it")
    expect(told.locator("code")).to_have_text(["rlhf-hitl train-reward", "rlhf-hitl route"])
    assert "score" not in told.inner_text(), "`route` scores by itself"


def test_times_are_in_the_readers_zone_and_of_one_format(serve, chromium):
    server = serve()
    accept(server, "Sure?")
    server.person("lea", Role.LEAD)
    context = chromium.new_context(timezone_id="Asia/Kathmandu", locale="en-GB")
    page = context.new_page()
    for path, what in (("/lead/", "#accepted-rows time"), ("/people/", "#people-rows time")):
        enter(page, server, "lea")
        page.goto(server.address + path)
        shown = page.locator(what).first
        expect(shown).to_be_visible(timeout=30_000)
        wanted = page.evaluate(
            """iso => new Intl.DateTimeFormat("en", {
                dateStyle: "medium", timeStyle: "short", timeZone: "Asia/Kathmandu"
            }).format(new Date(iso))""",
            shown.get_attribute("datetime"),
        )
        expect(shown).to_have_text(wanted)
        one_format = re.compile(r"^As of \w{3} \d{1,2}, \d{4}, \d{1,2}:\d\d\s[AP]M$")
        expect(page.locator("#updated")).to_have_text(one_format)
        assert "UTC" not in page.locator("#accepted, #staff tbody").first.inner_text()
    context.close()


def test_a_row_says_which_model_accepted_the_comparison(serve, page):
    server = serve()
    accept(server, "Sure?")
    open_overview(page, server)
    [model] = list_reward_models(server.store)
    expect(row(page, "Sure?").locator(".model")).to_have_text(display_name(model, with_id=True))


def test_hostile_texts_are_text(serve, page):
    hostile = '<img src=x onerror="window.pwned=1">\u202e'
    server = serve()
    accept(server, f"{hostile} in?", answers=(hostile, "plain"), batch="<b>batch</b>")
    open_overview(page, server)
    expect(page.locator("#accepted-rows")).to_contain_text('<img src=x onerror="window.pwned=1">⟦RLO⟧ in?')
    expect(page.locator("#lane-rows")).to_contain_text("<b>batch</b>")
    send_button(page, "in?").click()
    assert page.evaluate("window.pwned") is None


# --- pages and words


def test_accepted_comparisons_come_in_pages_and_stay_where_they_are(serve, page):
    server = serve()
    accept(server, *(f"Question {i}?" for i in range(60)))
    open_overview(page, server)
    expect(page.locator("#accepted-range")).to_have_text("1–25 of 60")
    assert asked(page) == [f"Question {i}?" for i in range(59, 34, -1)]
    following, previous = page.locator("#next"), page.locator("#previous")
    expect(previous).to_have_attribute("aria-disabled", "true")
    following.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#accepted-range")).to_have_text("26–50 of 60")
    assert asked(page) == [f"Question {i}?" for i in range(34, 9, -1)]
    expect(following).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator("#accepted-range")).to_have_text("51–60 of 60")
    assert asked(page) == [f"Question {i}?" for i in range(9, -1, -1)]
    expect(following).to_have_attribute("aria-disabled", "true")
    previous.dblclick()
    expect(page.locator("#accepted-range")).to_have_text("1–25 of 60")
    assert asked(page)[0] == "Question 59?"
    page.locator("#accepted-sample").click()
    expect(page.locator("#accepted-range")).to_have_text("25 drawn at random of 60")
    assert asked(page) != [f"Question {i}?" for i in range(59, 34, -1)]
    page.locator("#accepted-newest").click()
    expect(page.locator("#accepted-range")).to_have_text("1–25 of 60")
    expect(page.locator("#accepted-sample")).to_be_focused()


def test_words_are_found_and_the_page_says_how_many_and_in_how_many(serve, page):
    server = serve()
    made = accept(server, *(f"{'A needle' if i % 2 else 'Hay'} {i}?" for i in range(60)))
    open_overview(page, server)
    words = page.get_by_label("Find words in the prompt or the answers, or an id")
    words.fill("NEEDLE")
    expect(page.locator("#accepted-range")).to_have_text("1–25 found; searched: 49 of 60")
    page.locator("#next").click()
    expect(page.locator("#accepted-range")).to_have_text("26–30 found; searched: 60 of 60")
    assert asked(page)[-1] == "A needle 1?"
    words.fill("nothing holds this")
    expect(page.locator("#accepted-range")).to_have_text("None found; searched: 60 of 60")
    words.fill(made[7].id)
    expect(page.locator("#accepted-rows b")).to_have_text(["A needle 7?"])
    page.reload()
    until_loaded(page)
    expect(words).to_have_value(made[7].id)
    expect(page.locator("#accepted-rows b")).to_have_text(["A needle 7?"])
    words.fill("")
    expect(page.locator("#accepted-range")).to_have_text("1–25 of 60")


# --- sending to raters


def test_two_clicks_in_one_spot_send_one_comparison_and_it_stays_in_its_place(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve()
    accept(server, *(f"Question {i}?" for i in range(4)))
    open_overview(page, server)
    before = asked(page)
    send_button(page, "Question 0?").scroll_into_view_if_needed()
    boxes = [r.bounding_box() for r in page.locator("#accepted-rows tr").all()]
    spot = send_button(page, "Question 3?").bounding_box()
    page.mouse.dblclick(spot["x"] + 10, spot["y"] + 10)
    page.mouse.click(spot["x"] + 10, spot["y"] + 10)
    expect(row(page, "Question 3?")).to_contain_text("Goes to raters in 8 s")
    assert escalated(server) == [], "it can still be taken back"
    page.clock.fast_forward(UNDO_MS)
    expect(row(page, "Question 3?")).to_contain_text("Sent to raters")
    page.mouse.dblclick(spot["x"] + 10, spot["y"] + 10)
    until_renewed(page)
    assert asked(page) == before
    assert [r.bounding_box() for r in page.locator("#accepted-rows tr").all()] == boxes, "no row has moved"
    assert escalated(server) == ["Question 3?"]
    page.get_by_role("button", name="Reload").click()
    expect(page.locator("#accepted-rows b")).to_have_text(before[1:])
    assert queue.count_places(server.store)["free"] == 1


def test_what_is_sent_can_be_taken_back_by_keys_and_the_focus_stays(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve()
    accept(server, "Sure?", "Surer?")
    open_overview(page, server)
    button = send_button(page, "Sure?")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_be_focused()
    expect(button).to_have_attribute("aria-disabled", "true")
    expect(page.locator("#announce")).to_have_text("Goes to raters in 8 seconds. The next button takes it back.")
    page.clock.fast_forward(3_000)
    expect(row(page, "Sure?")).to_contain_text("Goes to raters in 5 s")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    page.keyboard.down("Enter")
    page.keyboard.down("Enter")  # held down: it repeats, and the focus is on the button that sends
    page.keyboard.up("Enter")
    expect(button).to_be_focused()
    expect(button).to_have_attribute("aria-disabled", "false")
    expect(page.get_by_role("button", name="Undo")).to_have_count(0)
    page.clock.fast_forward(2 * UNDO_MS)
    until_renewed(page)
    expect(button).to_have_text("Send to raters")
    assert escalated(server) == []


def test_who_leaves_the_page_has_sent_what_was_on_its_way(serve, page):
    server = serve()
    accept(server, *(f"Question {i}?" for i in range(3)))
    open_overview(page, server)
    for i in (2, 0):
        send_button(page, f"Question {i}?").click()
    page.get_by_role("link", name="People").click()
    expect(page.locator("#people-rows tr").first).to_be_visible(timeout=30_000)
    page.get_by_role("link", name="Overview").click()
    until_loaded(page)
    expect(page.locator("#accepted-rows b")).to_have_text(["Question 1?"])
    assert sorted(escalated(server)) == ["Question 0?", "Question 2?"]


def test_a_page_turned_meanwhile_keeps_the_count_and_the_undo(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve()
    accept(server, *(f"Question {i}?" for i in range(30)))
    open_overview(page, server)
    send_button(page, "Question 29?").click()
    page.locator("#next").click()
    expect(page.locator("#accepted-range")).to_have_text("26–30 of 30")
    page.locator("#previous").click()
    row(page, "Question 29?").get_by_role("button", name="Undo").click()
    page.clock.fast_forward(2 * UNDO_MS)
    assert escalated(server) == []
    send_button(page, "Question 29?").click()
    page.locator("#next").click()
    expect(page.locator("#accepted-range")).to_have_text("26–30 of 30")
    with page.expect_response(lambda r: '"escalate"' in (r.request.post_data or "")):
        page.clock.fast_forward(UNDO_MS)
    assert escalated(server) == ["Question 29?"]


def test_without_a_line_it_is_not_sent_says_so_and_is_sent_again(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve()
    accept(server, "Sure?")
    open_overview(page, server)
    send_button(page, "Sure?").click()
    page.context.set_offline(True)
    page.clock.fast_forward(UNDO_MS)
    expect(row(page, "Sure?").get_by_role("alert")).to_contain_text("Not sent.")
    page.context.set_offline(False)
    row(page, "Sure?").get_by_role("button", name="Try now").click()
    page.clock.fast_forward(UNDO_MS)
    expect(row(page, "Sure?")).to_contain_text("Sent to raters")
    assert escalated(server) == ["Sure?"]


def test_what_another_lead_sent_shows_in_its_place_and_is_not_sent_again(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve()
    made = accept(server, "Sure?", "Surer?", "Surest?")
    open_overview(page, server)
    leo = server.person("leo", Role.LEAD)
    send_button(page, "Surest?").click()  # both are about to
    for i in (1, 2):
        send_to_raters(server.store, made[i].id, by=audit.Actor(leo.id))
    apply_routings(server.store, [Routing(made[0].id, Route.HUMAN, Route.HUMAN, "unsure")])
    page.clock.fast_forward(UNDO_MS)
    expect(row(page, "Surest?")).to_contain_text("Sent to raters")
    until_renewed(page)
    expect(row(page, "Surer?")).to_contain_text("Sent to raters")
    expect(row(page, "Sure?")).to_contain_text("Not accepted any more")
    assert asked(page) == ["Surest?", "Surer?", "Sure?"]
    assert sorted(escalated(server)) == ["Surer?", "Surest?"]


# --- renewal


def test_the_page_renews_itself_and_nothing_that_is_read_or_used_moves(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve()
    accept(server, *(f"Question {i}?" for i in range(25)))
    put(server, "first?")
    open_overview(page, server)
    expect(page.locator("#queue .total")).to_have_text("Wanted judgments that are in: 0 of 1")
    button = send_button(page, "Question 12?")
    button.focus()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#accepted-rows tr:nth-child(14) b'))")
    scrolled = page.evaluate("scrollY")
    assert scrolled > 0
    y = button.bounding_box()["y"]
    put(server, "second?", batch="a later one")
    accept(server, "Newest?")
    until_renewed(page)
    expect(page.locator("#queue .total")).to_have_text("Wanted judgments that are in: 0 of 2")
    expect(page.locator("#lane-rows")).to_contain_text("a later one")
    assert page.evaluate("getSelection().toString()") == "Question 11?"
    expect(button).to_be_focused()
    assert len(asked(page)) == 25
    assert asked(page)[0] == "Question 24?"
    # What grew above is made up for by the browser, or has pushed the row down by its own height and no further.
    assert abs(button.bounding_box()["y"] - y) < 60
    newer = page.get_by_role("button", name="Accepted since: 1. Show them")
    newer.click()
    expect(page.locator("#accepted-rows b").first).to_have_text("Newest?")
    expect(newer).to_be_hidden()


def test_a_hidden_tab_asks_for_nothing_and_renews_once_it_is_seen_again(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve()
    put(server, "first?")
    open_overview(page, server)
    calls = []
    page.on("request", lambda r: calls.append(r.url) if "component_server" in r.url else None)

    def show(is_shown: bool) -> None:
        page.evaluate(
            """isShown => {
                Object.defineProperty(document, "hidden", { configurable: true, get: () => !isShown });
                document.dispatchEvent(new Event("visibilitychange"));
            }""",
            is_shown,
        )

    show(False)
    page.clock.fast_forward(10 * RENEWAL_MS)
    put(server, "second?")
    assert calls == []
    show(True)
    page.clock.run_for(10)
    expect(page.locator("#queue .total")).to_have_text("Wanted judgments that are in: 0 of 2")
    assert len(calls) == 4  # the queue, the figures, agreement, and automation


def test_a_renewal_that_fails_says_since_when_and_the_page_stays(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve()
    accept(server, "Sure?")
    open_overview(page, server)
    page.context.set_offline(True)
    page.clock.fast_forward(RENEWAL_MS)
    expect(page.locator("#updated")).to_contain_text("Not renewed since")
    expect(page.locator("#notice")).to_contain_text("does not answer")
    assert asked(page) == ["Sure?"]
    page.context.set_offline(False)
    page.clock.fast_forward(RENEWAL_MS)
    expect(page.locator("#updated")).to_contain_text("As of")
    expect(page.locator("#notice")).to_be_hidden()


def test_the_page_of_people_renews_in_place_and_a_change_is_not_undone_by_it(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(3)])
    ann = server.person("ann")
    server.person("bea")
    server.person("lea", Role.LEAD)
    enter(page, server, "lea")
    page.get_by_role("link", name="People").click()
    rows = page.locator("#people-rows tr")
    expect(rows.locator("bdi")).to_have_text(["ann", "bea", "lea"])
    change = rows.filter(has_text="bea").get_by_role("button", name="Change")
    change.click()
    page.get_by_label("Judgments a day").fill("7")
    lease = queue.lease(server.store, ann.id, seconds=1800)
    assert lease is not None
    people.change_rater(server.store, "bea", quota=40)  # by another lead, while the dialog is open
    people.change_rater(server.store, "lea", languages=["es"])
    server.person("zoe")
    until_renewed(page)
    expect(rows.locator("bdi")).to_have_text(["ann", "bea", "lea", "zoe"])
    expect(rows.filter(has_text="lea").locator('[data-label="Reads"]')).to_have_text("es")
    expect(page.get_by_label("Judgments a day")).to_have_value("7")
    page.get_by_label("Languages they read").fill("en")
    page.get_by_label("Judgments a day").fill("")
    page.keyboard.press("Enter")
    expect(page.locator("#edit")).to_be_hidden()
    bea = people.get_rater_by_name(server.store, "bea")
    assert (bea.languages, bea.quota) == (("en",), 40), "only what this lead changed was sent"
    expect(change).to_be_focused()


def test_people_are_filtered_by_project(serve, page):
    server = serve()
    for name in ("ann", "bea"):
        server.person(name)
    projects.add_project(server.store, "coding", open=False)
    projects.add_member(server.store, "coding", "ann")
    projects.change_project(server.store, "coding", paused=True)
    server.person("lea", Role.LEAD)
    enter(page, server, "lea")
    page.get_by_role("link", name="People").click()
    names = page.locator("#people-rows bdi")
    expect(names).to_have_text(["ann", "bea", "lea"])
    choice = page.locator("#project")
    expect(choice.locator("option")).to_have_text(["All projects", "coding (paused)", "default"])
    choice.select_option("coding")
    expect(names).to_have_text(["ann"])
    choice.select_option("default")  # which is open to everybody
    expect(names).to_have_text(["ann", "bea", "lea"])


# --- other languages


def test_the_pages_read_from_right_to_left_in_arabic(serve, chromium):
    server = serve()
    accept(server, "Sure?")
    server.person("lea", Role.LEAD)
    context = chromium.new_context(locale="ar")
    page = context.new_page()
    enter(page, server, "lea")
    for path, title in (("/lead/", "نظرة عامة"), ("/people/", "الأشخاص")):
        page.goto(server.address + path)
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        expect(page.locator("html")).to_have_attribute("dir", "rtl")
        expect(page.locator("#overview")).not_to_have_attribute("aria-busy", "true", timeout=30_000)
        expect(page).to_have_title(f"{title} · rlhf_hitl")
        brand, links = (page.locator(of).bounding_box() for of in (".brand", ".pages"))
        assert brand["x"] > links["x"]
        assert Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"] == []
    context.close()


# --- automation and alerts


def test_a_lead_pauses_and_resumes_automation_with_one_button(serve, page):
    server = serve()
    projects.add_project(server.store, "coding")
    accept(server, "Sure?")
    open_overview(page, server)
    rows = page.locator("#automation-rows li")
    expect(rows).to_have_count(2)
    default = rows.filter(has_text="default")
    expect(default.locator(".state")).to_have_text("running")
    default.get_by_role("button", name="Pause: default").click()
    expect(default.locator(".state")).to_have_text("paused")
    expect(default).to_contain_text("Models accept nothing here")
    expect(default).to_contain_text("lea")
    expect(rows.filter(has_text="coding").locator(".state")).to_have_text("running")
    assert read_automation(server.store)["default"].state is AutomationState.PAUSED
    expect(default.get_by_role("button", name="Resume: default")).to_be_focused()
    page.keyboard.press("Enter")
    expect(default.locator(".state")).to_have_text("running")
    states = [change.state.value for change in list_changes(server.store, "default")]
    assert states == ["running", "paused"]
    assert [e.action for e in audit.list_entries(server.store) if "automation" in e.action] == [
        "automation.paused",
        "automation.resumed",
    ]


def test_what_the_audits_stopped_says_why_and_a_lead_who_comes_second_is_told(serve, page):
    server = serve()
    open_overview(page, server)
    row = page.locator("#automation-rows li")
    expect(row.locator(".state")).to_have_text("running")
    stop_automation(server.store, "default", "raters prefer the other answer in 9 of 20", after_decision=0)
    row.get_by_role("button").click()
    expect(page.locator("#notice")).to_contain_text("it is stopped already")
    expect(row.locator(".state")).to_have_text("stopped by audits")
    expect(row).to_contain_text("in 9 of 20")
    expect(row).to_contain_text("the audits")


def test_a_lead_sees_and_silences_alerts(serve, page):
    server = serve()
    update_alerts(
        server.store,
        [
            NewAlert("queue_age", "default", "The oldest <b>waits</b>.", {}),
            NewAlert("agreement", "ann", "ann agrees less with others.", {}),
        ],
        ["queue_age", "agreement"],
    )
    open_overview(page, server)
    alerts = page.locator("#alert-rows li")
    expect(alerts).to_have_count(2)
    expect(alerts.last).to_contain_text("<b>waits</b>")
    alerts.last.get_by_role("button", name="Seen").click()
    expect(alerts.last).to_contain_text("Seen by lea")
    expect(alerts.last.get_by_role("button")).to_have_count(1)
    alerts.first.get_by_role("button", name="Silence for 7 days").click()
    expect(alerts.first).to_contain_text("Silenced until")
    expect(alerts.first.get_by_role("button")).to_have_count(0)
    found = {a.rule: a for a in list_alerts(server.store)}
    assert found["queue_age"].silenced_until is None
    assert found["agreement"].silenced_until is not None
    update_alerts(server.store, [], ["queue_age", "agreement"])
    page.get_by_role("button", name="Reload").click()
    expect(page.locator("#alerts-none")).to_have_text("Nothing needs you.")
    violations = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    assert violations == []


def test_an_override_of_what_was_exported_says_so(serve, page):
    server = serve()
    accept(server, "Sure?")
    with server.store.write() as conn:
        record_export(conn, audit.CLI, "trl", project=None, with_accepted=True)
    page.clock.install()
    open_overview(page, server)
    send_button(page, "Sure?").click()
    page.clock.fast_forward(UNDO_MS)
    expect(row(page, "Sure?")).to_contain_text("Exported as accepted before, on")
