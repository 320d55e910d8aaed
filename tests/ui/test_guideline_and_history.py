"""On the rating page: guidelines are read once, and the history tells all and is searched."""

from __future__ import annotations

import pytest

from browser_fixtures import Server, answers, enter, expect, judgments, open_rating_page, pair, question, until_next
from rlhf_hitl.store import guidelines, projects, queue
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.types import Answer, Axis, Comparison, Guideline, Rater, Verdict

pytestmark = pytest.mark.browser


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def in_project(made: Comparison, project: str) -> Comparison:
    return Comparison.create(made.prompt, made.completions, made.overlap, project=project)


def serve_two_projects(serve, *coding: Guideline, pairs: int = 2) -> Server:
    """A server with so many pairs in the first project and in another one, whose guidelines these are."""
    made = [pair(f"Question {i}?", f"yes {i}", f"no {i}") for i in range(2 * pairs)]
    server = serve(made[:pairs])
    projects.add_project(server.store, "coding")
    for guideline in coding:
        guidelines.publish_guideline(server.store, guideline)
    with server.store.write() as conn:
        insert_comparisons(server.store, conn, [in_project(c, "coding") for c in made[pairs:]])
    return server


def answer_all(page) -> list[str]:
    """Answer until nothing is left; return the guidelines that came up, by what is said of them."""
    asked = []
    empty, card, first = page.locator("#empty"), page.locator("#card"), page.locator("#guideline-agree")
    while not empty.is_visible():
        expect(page.locator(":is(#card, #empty, #guideline-agree):visible").first).to_be_visible()
        if first.is_visible():
            asked.append(page.locator("#guideline-of").inner_text())
            press(page, "Enter")
            expect(first).to_be_hidden()
        elif card.is_visible():
            before = question(page)
            press(page, "1", "Enter")
            expect(page.locator("#prompt:visible").filter(has_text=before)).to_have_count(0)
            expect(page.locator("#rating")).to_have_attribute("data-unsent", "0")
    return asked


@pytest.mark.parametrize("pairs", [1, 2], ids=["both held at once", "one after the other"])
def test_the_same_text_in_two_projects_is_read_once(serve, page, pairs):
    server = serve_two_projects(serve, pairs=pairs)
    rater = server.person("new", new=True)
    enter(page, server, "new")
    expect(page.locator("#guideline-agree")).to_be_visible()
    assert len(answer_all(page)) == 1
    assert len(judgments(server, rater)) == 2 * pairs
    page.reload()
    expect(page.locator("#empty")).to_be_visible()


def test_a_text_of_another_project_is_read_too_and_names_the_project(serve, page):
    server = serve_two_projects(serve, Guideline("coding", "a", "Does it run?"))
    server.person("new", new=True)
    enter(page, server, "new")
    expect(page.locator("#guideline-agree")).to_be_visible()
    said = [text.replace("\u2068", "").replace("\u2069", "") for text in answer_all(page)]
    assert sorted(said) == ["Project coding, version a", "Project default, version default-1"]


def test_a_new_version_with_the_same_text_is_not_read_again(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(4)])
    open_rating_page(page, server, "rater")
    text = guidelines.get_current_guideline(server.store).text
    guidelines.publish_guideline(server.store, Guideline("default", "2", text))
    assert answer_all(page) == []


def test_enter_says_that_the_guideline_is_read_whatever_was_pressed_before(serve, page):
    server = serve([pair("Question?", "yes", "no")])
    server.person("new", new=True)
    enter(page, server, "new")
    agree = page.locator("#guideline-agree")
    expect(agree).to_be_focused()
    press(page, "2")
    page.locator("#guideline-text").click()  # which takes the focus away
    press(page, "2", "Enter")
    expect(page.locator("#card")).to_be_visible()
    expect(page.locator('[data-choice][aria-pressed="true"]')).to_have_count(0)


def test_a_long_guideline_is_agreed_to_without_scrolling(serve, page):
    server = serve([pair("Question?", "yes", "no")])
    guidelines.publish_guideline(server.store, Guideline("default", "2", "A paragraph.\n\n" * 80))
    server.person("new", new=True)
    enter(page, server, "new")
    expect(page.locator("#guideline-agree")).to_be_in_viewport(ratio=1)
    assert page.evaluate("scrollY") == 0, "it is read from its beginning"
    expect(page.locator("#guideline-title")).to_be_in_viewport()


def test_what_was_read_in_another_tab_is_not_asked_again(serve, page, context):
    server = serve([pair("Question?", "yes", "no")])
    server.person("new", new=True)
    enter(page, server, "new")
    expect(page.locator("#guideline-agree")).to_be_visible()
    other = context.new_page()
    other.goto(server.address + "/rate/")
    expect(other.locator("#guideline-agree")).to_be_visible()
    expect(page.locator("#other-tab")).to_be_visible()
    expect(page.locator("#guideline")).to_be_hidden()
    press(other, "Enter")
    expect(other.locator("#card")).to_be_visible()
    page.get_by_role("button", name="Rate here").click()
    expect(page.locator("#card")).to_be_visible()
    expect(page.locator("#guideline")).to_be_hidden()


def test_a_correction_has_the_axes_that_its_judgment_was_made_under(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(4)])
    rater = open_rating_page(page, server, "rater")
    taste = Guideline("default", "2", guidelines.get_current_guideline(server.store).text, (Axis("taste", "Taste"),))
    guidelines.publish_guideline(server.store, taste)
    for _ in range(2):  # the second was leased before the new version
        before = question(page)
        press(page, "1", "Enter")
        until_next(page, before)
    press(page, "x")
    expect(page.get_by_role("button", name="Taste: 5/5")).to_have_count(2)
    press(page, "Escape", "u")
    expect(page.locator("#notice")).to_contain_text("You are changing an answer")
    press(page, "x", "5")
    expect(page.get_by_role("button", name="Helpful: 5/5").first).to_have_attribute("aria-pressed", "true")
    before = question(page)
    press(page, "Escape", "Enter")
    until_next(page, before)
    assert [set(j.answer.scores) for j in judgments(server, rater)] == [set(), {"helpful"}]


# --- the history


def test_the_history_says_by_how_much_and_why(serve, page):
    server = serve([pair(f"Question {i}?", f"yes {i}", f"no {i}") for i in range(3)])
    open_rating_page(page, server, "rater")
    for keys, reason in ((("2",), "B repeats itself"), (("s", "3"), ""), (("7",), "")):
        before = question(page)
        page.locator("#rationale").fill(reason)
        press(page, "Escape", *keys, "Enter")
        expect(page.locator("#prompt:visible").filter(has_text=before)).to_have_count(0)
        expect(page.locator("#rating")).to_have_attribute("data-unsent", "0")
    press(page, "h")
    rows = page.locator(".history-entry")
    expect(rows).to_have_count(3)
    for row, said in zip(rows.all(), ("B is much better", "The question is unclear", "A is clearly better")):
        expect(row).to_contain_text(said)
    expect(rows.last).to_contain_text("“B repeats itself”")


def test_the_history_of_more_than_two_shows_the_ranking(serve, page):
    server = serve([pair("Name a colour.", "Red", "Green", "Blue")])
    open_rating_page(page, server, "rater")
    press(page, "2", "1", "2", "Enter")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#rating")).to_have_attribute("data-unsent", "0")
    press(page, "h")
    expect(page.locator(".history-entry")).to_contain_text("Ranked · \u2066B > A = C\u2069")


def judge_all(server: Server, rater: Rater) -> None:
    while (lease := queue.lease(server.store, rater.id, seconds=1800)) is not None:
        said = Answer(Verdict.SKIPPED, rationale=f"I know nothing of {lease.comparison.prompt.messages[0].content}")
        queue.submit(server.store, lease.id, rater.id, said)


def test_the_history_is_searched_over_questions_answers_and_reasons(serve, page):
    made = [pair(f"Question {i}?", f"yes {i}", f"no {i}", overlap=2) for i in range(60)]
    server = serve([*made, pair("Wie heißt der Fluß?", "Die Elbe", "Der Rhein", overlap=2)])
    rater = server.person("rater")
    judge_all(server, rater)
    enter(page, server, "rater")
    expect(page.locator("#empty")).to_be_visible()
    press(page, "h")
    rows, count = page.locator(".history-entry"), page.locator("#history-count")
    expect(rows).to_have_count(50)
    expect(count).to_have_text("Listed are the newest 50. A search finds older ones, too.")
    words = page.get_by_label("Search prompts, answers and reasons")
    for typed, found in (("FLUSS rhein", 1), ("nothing of question 7?", 1), ("no 33", 1), ("policy", 0)):
        words.fill(typed)
        expect(count).to_have_text(f"Found: {found}")
        expect(rows).to_have_count(found)
    words.fill("question")
    expect(count).to_have_text("More than 50 found. Listed are the newest.")
    words.fill("RHEIN")
    expect(rows).to_have_count(1)
    press(page, "Control+Enter")  # submits nothing from here
    rows.click()
    expect(page.locator("#prompt .text")).to_have_text("Wie heißt der Fluß?")
    assert sorted(answers(page)) == ["Der Rhein", "Die Elbe"]
    assert len(judgments(server, rater, current=False)) == 61


# --- settings


def test_what_opens_a_list_has_an_arrow(shared, page):
    open_rating_page(page, shared, "settler")
    page.get_by_role("button", name="Settings").click()
    shown = page.locator("#settings select").evaluate_all("s => s.map((e) => getComputedStyle(e).appearance)")
    assert shown == ["auto", "auto"]
