"""The rater page, feature by feature, in a real Chromium: what is said beside a ranking, the line, the sitting."""

from __future__ import annotations

import pytest
from browser import (
    answers,
    choose,
    enter,
    expect,
    ids_by_text,
    judgments,
    open_desk,
    pair,
    question,
    until_next,
    until_sent,
)

from rlhf_hitl.store import guidelines, tutorial
from rlhf_hitl.types import Answer, Axis, Example, Guideline, Message, Reason, Verdict

pytestmark = pytest.mark.browser


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


# --- more than two answers


def test_letters_are_dragged_into_ranks_and_what_is_left_out_stays_unranked(serve, page):
    server = serve([pair("Name a colour.", "Red", "Green", "Blue", "Grey")])
    rater = open_desk(page, server, "rater")
    shown = [ids_by_text(server)[text] for text in answers(page)]
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    for at, rank in ((2, "1"), (0, "2"), (3, "2")):
        page.locator(f'.chip[data-at="{at}"]').drag_to(page.locator(f'.place[data-rank="{rank}"]'))
        expect(page.locator(f'.place[data-rank="{rank}"] .chip[data-at="{at}"]')).to_be_visible()
    page.locator('.chip[data-at="3"]').drag_to(page.locator('.place[data-rank=""]'))
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#empty")).to_be_visible()
    until_sent(page)
    (kept,) = judgments(server, rater)
    assert kept.answer.ranking == ((shown[2],), (shown[0],))


def test_a_ranking_is_made_with_arrows_and_by_clicks_alone(serve, page):
    server = serve([pair(f"Name a colour, number {n}.", f"Red {n}", f"Green {n}", f"Blue {n}") for n in range(2)])
    rater = open_desk(page, server, "rater")
    first = question(page)
    shown = [ids_by_text(server)[text] for text in answers(page)]
    press(page, "ArrowUp", "ArrowUp", "ArrowUp")  # A: 3, 2, 1
    press(page, "ArrowRight", "ArrowUp")  # B: 3
    press(page, "ArrowRight", "ArrowUp", "ArrowUp", "ArrowDown", "Enter")  # C: 3, 2, 3
    until_next(page, first)
    page.locator('.chip[data-at="1"]').click()
    page.locator('.place[data-rank="1"]').click()
    page.locator('.chip[data-at="0"]').click()
    page.locator('.place[data-rank="3"]').click()
    again = [ids_by_text(server)[text] for text in answers(page)]
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#empty")).to_be_visible()
    until_sent(page)
    one, two = judgments(server, rater)
    assert one.answer.ranking == ((shown[0],), (shown[1], shown[2]))
    assert two.answer.ranking == ((again[1],), (again[0],))


# --- what is said beside the ranking


def test_scores_a_rewrite_and_a_reason_are_kept_with_the_ranking(shared, page):
    rater = open_desk(page, shared, "thorough")
    shown = [ids_by_text(shared)[text] for text in answers(page)]
    first = question(page)
    press(page, "6", "x")
    page.get_by_role("button", name="Helpful: 2/5").first.click()
    page.get_by_role("button", name="Helpful: 4/5").last.click()
    page.get_by_role("button", name="Honest: 5/5").last.click()
    press(page, "e")
    expect(page.locator("#rewrite")).to_have_value(answers(page)[1])
    page.locator("#rewrite").fill("As it should have been.")
    press(page, "Escape", "r")
    page.keyboard.type("B is nearer")
    press(page, "Control+Enter")
    until_next(page, first)
    (kept,) = judgments(shared, rater)
    assert kept.answer.scores == {"helpful": {shown[0]: 2, shown[1]: 4}, "honest": {shown[1]: 5}}
    assert (kept.answer.rewrite, kept.answer.rationale) == ("As it should have been.", "B is nearer")
    assert (kept.answer.ranking, kept.answer.strength) == (((shown[1],), (shown[0],)), 2)


@pytest.mark.parametrize(
    ("key", "digit", "verdict", "reason"),
    [("f", "1", Verdict.FLAGGED, Reason.UNSAFE), ("f", "3", Verdict.FLAGGED, Reason.WRONG_LANGUAGE),
     ("s", "1", Verdict.SKIPPED, Reason.SUBJECT), ("s", None, Verdict.SKIPPED, None)],
)  # fmt: skip
def test_a_skip_may_and_a_flag_must_say_why(shared, page, key, digit, verdict, reason):
    rater = open_desk(page, shared, f"{key}{digit}")
    first = question(page)
    press(page, key)
    if key == "f":
        expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    if digit:
        press(page, digit)
    press(page, "Enter")
    until_next(page, first)
    (kept,) = judgments(shared, rater)
    assert (kept.answer.verdict, kept.answer.reason) == (verdict, reason)


def test_the_words_that_differ_are_marked_on_demand(serve, page):
    server = serve([pair("Which?", "The quick brown fox jumps.", "The quick red fox sleeps.")])
    open_desk(page, server, "rater")
    before = answers(page)
    press(page, "d")
    expect(page.locator(".said :is(ins, del)")).to_have_count(4)
    assert sorted(page.locator(".said :is(ins, del)").all_inner_texts()) == ["brown", "jumps", "red", "sleeps"]
    assert answers(page) == before
    press(page, "d")
    expect(page.locator(".said :is(ins, del)")).to_have_count(0)


def test_long_answers_are_folded_at_one_height(serve, page):
    server = serve([pair("Which?", "short", "a paragraph of words\n\n" * 300)])
    open_desk(page, server, "rater")
    heights = page.locator(".answer").evaluate_all("a => a.map(e => e.offsetHeight)")
    assert heights[0] == heights[1] < 1000
    press(page, "l")
    expect(page.locator("#answers")).not_to_have_class("folded")
    assert page.locator(".answer").last.evaluate("a => a.offsetHeight") > 5000


def test_an_older_answer_is_found_in_the_history_and_changed(shared, page):
    rater = open_desk(page, shared, "historian")
    asked = []
    for key in "127":
        asked.append(question(page))
        press(page, key, "Enter")
        until_next(page, asked[-1])
    on_screen = question(page)
    press(page, "h")
    expect(page.locator(".past")).to_have_count(3)
    page.locator(".past").last.click()
    expect(page.locator("#prompt .text").last).to_have_text(asked[0])
    expect(choose(page, "A3")).to_have_attribute("aria-pressed", "true")
    press(page, "0", "Enter")
    until_next(page, asked[0])
    assert question(page) == on_screen
    old, *_, new = judgments(shared, rater, current=False)
    assert (new.supersedes, len(new.answer.ranking)) == (old.id, 1)
    assert len(judgments(shared, rater)) == 3


# --- what comes first


def test_a_guideline_is_read_before_the_work_and_again_when_it_changes(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(5)])
    rater = server.person("new", new=True)
    enter(page, server, "new")
    expect(page.locator("#guide")).to_contain_text("Harmless", timeout=30_000)
    expect(page.locator("#bar")).to_be_hidden()
    press(page, "1", "g")
    page.get_by_role("button", name="I have read them").click()
    expect(page.locator("#card")).to_be_visible()
    press(page, "g")
    expect(page.locator("#guide")).to_be_visible()
    press(page, "Escape")
    new = Guideline("default", "2", "# Be **strict**", (Axis("taste", "Taste"),), "required", "required")
    guidelines.put(server.store, new)
    before = question(page)
    press(page, "1", "Enter")
    until_next(page, before)
    press(page, "1", "Enter")  # what was fetched before is finished first
    expect(page.locator("#bar")).to_be_hidden()
    page.get_by_role("button", name="I have read them").click()
    expect(page.locator("#card")).to_be_visible()
    expect(page.locator("#guide-text")).to_contain_text("Be strict")
    assert guidelines.acknowledged(server.store, rater.id) == "2"
    # What it asks for is asked for.
    press(page, "1")
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    page.locator("#rationale").fill("sweet")
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    for at in (0, 1):
        page.get_by_role("button", name="Taste: 3/5").nth(at).click()
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()


def test_a_tutorial_explains_each_example_and_is_not_shown_twice(serve, page):
    server = serve([pair("The real work?", "yes", "no")])
    examples = [
        Example.create(
            "default",
            (Message("user", f"Example {i}?"),),
            ((Message("assistant", "right"),), (Message("assistant", "wrong"),)),
            Answer(Verdict.RANKED, (("0",), ("1",)), 3),
            f"Because of **reason {i}**.",
        )
        for i in range(2)
    ]
    tutorial.put(server.store, "default", examples)
    rater = server.person("rater")
    enter(page, server, "rater")
    expect(page.locator("#tutorial")).to_contain_text("1 of 2", timeout=30_000)
    press(page, "1", "Enter")
    expect(page.locator("#verdict")).to_contain_text("That is how we see it, too")
    expect(page.locator("#verdict strong")).to_have_text("reason 0")
    press(page, "Enter")
    expect(page.locator("#tutorial")).to_contain_text("2 of 2")
    press(page, "7", "Enter")
    expect(page.locator("#verdict")).to_contain_text("We see it differently")
    expect(page.locator("#verdict")).to_contain_text("A is better")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#prompt .text")).to_have_text("The real work?")
    expect(page.locator("#tutorial")).to_be_hidden()
    assert tutorial.results(server.store) == {rater.id: (1, 2)}
    assert judgments(server, rater) == []
    page.reload()
    expect(page.locator("#prompt .text")).to_have_text("The real work?", timeout=30_000)


# --- the line


def test_answers_given_without_a_line_wait_and_are_sent_once(serve, page, context):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(6)])
    rater = open_desk(page, server, "rater")
    context.set_offline(True)
    first = question(page)
    press(page, "1", "Enter")  # the next one was fetched before
    expect(page.locator("#prompt .text").last).not_to_have_text(first)
    second = question(page)
    press(page, "2", "Enter")
    expect(page.locator("#waiting")).to_be_visible()
    expect(page.locator("#notice")).to_contain_text("No connection")
    expect(page.locator("#unsent")).to_contain_text("2")
    press(page, "u")  # the last one is not away yet, and comes back from here
    expect(page.locator("#prompt .text").last).to_have_text(second)
    expect(choose(page, "A2")).to_have_attribute("aria-pressed", "true")
    press(page, "6", "Enter")
    expect(page.locator("#waiting")).to_be_visible()
    assert judgments(server, rater) == []
    context.set_offline(False)
    page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(page.locator("#progress")).to_contain_text("Today: 2")
    until_sent(page)
    expect(page.locator("#card")).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()
    one, two = judgments(server, rater, current=False)
    assert (one.answer.strength, two.answer.strength) == (3, 2)


def test_an_answer_that_waits_outlives_the_tab(serve, page, context):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(3)])
    rater = open_desk(page, server, "rater")
    context.set_offline(True)
    press(page, "3", "Enter")
    expect(page.locator("#desk")).to_have_attribute("data-unsent", "1")
    page.close()
    context.set_offline(False)
    again = context.new_page()
    again.goto(server.address + "/rate/")
    expect(again.locator("#progress")).to_contain_text("Today: 1", timeout=30_000)
    until_sent(again)
    (kept,) = judgments(server, rater)
    assert kept.answer.strength == 1


def test_another_raters_waiting_answer_is_not_sent_as_ones_own(serve, page, context):
    server = serve([pair("Question?", "yes", "no", overlap=2)])
    ada = open_desk(page, server, "ada")
    context.set_offline(True)
    press(page, "3", "Enter")
    expect(page.locator("#desk")).to_have_attribute("data-unsent", "1")
    page.close()
    context.set_offline(False)
    context.clear_cookies()
    again = context.new_page()
    bob = open_desk(again, server, "bob")
    press(again, "7", "Enter")
    until_sent(again)
    assert judgments(server, ada) == []
    assert [j.answer.strength for j in judgments(server, bob)] == [3]


# --- the sitting


def test_hidden_and_idle_time_is_not_counted(shared, page):
    page.clock.install()
    rater = open_desk(page, shared, "idle")
    first = question(page)
    page.mouse.move(300, 300)
    page.clock.fast_forward(30_000)
    page.mouse.move(310, 300)  # thirty seconds of reading
    page.clock.fast_forward(600_000)  # ten minutes without a sign of life: one minute counts
    press(page, "1", "Enter")
    until_next(page, first)
    (kept,) = judgments(shared, rater)
    assert 88 <= kept.answer.active_seconds <= 95


def test_a_break_is_suggested_after_three_quarters_of_an_hour(shared, page):
    page.clock.install()
    open_desk(page, shared, "tired")
    for n in range(5):
        before = question(page)
        for _ in range(11):  # eleven minutes with a sign of life a minute
            page.clock.fast_forward(55_000)
            page.mouse.move(300 + n, 300)
        press(page, "12345"[n], "Enter")
        until_next(page, before)
    expect(page.locator("#notice")).to_contain_text("45 minutes")
    page.get_by_role("button", name="Take a break").click()
    expect(page.locator("#rest")).to_be_visible()
    page.get_by_role("button", name="Go on").click()


def test_the_same_answer_again_and_again_is_pointed_out(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(14)])
    open_desk(page, server, "stuck")
    for _ in range(12):
        expect(page.locator("#notice")).to_be_hidden()
        before = question(page)
        press(page, "1", "Enter")
        until_next(page, before)
    expect(page.locator("#notice")).to_contain_text("many times in a row")


def test_a_goal_is_set_and_shown(shared, page):
    open_desk(page, shared, "ambitious")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Goal for today").fill("2")
    page.get_by_role("button", name="Close").click()
    for n in range(2):
        expect(page.locator("#progress")).to_contain_text(f"Today: {n} of 2")
        before = question(page)
        press(page, "1", "Enter")
        until_next(page, before)
    expect(page.locator("#goal")).to_have_js_property("value", 2)
    expect(page.locator("#announce")).to_contain_text("You have reached your goal")


def test_a_key_is_changed_and_the_buttons_show_it(shared, page):
    rater = open_desk(page, shared, "dvorak")
    press(page, "?")
    page.get_by_role("button", name="Both are bad: key b").click()
    press(page, "k", "Escape")
    expect(choose(page, "all_bad").locator("kbd")).to_have_attribute("data-shows", "K")
    first = question(page)
    press(page, "b")
    expect(choose(page, "all_bad")).to_have_attribute("aria-pressed", "false")
    press(page, "r")
    page.keyboard.type("k is a letter here")
    press(page, "Escape", "k", "Enter")
    until_next(page, first)
    (kept,) = judgments(shared, rater)
    assert (kept.answer.verdict, kept.answer.rationale) == (Verdict.ALL_BAD, "k is a letter here")
    page.reload()
    expect(choose(page, "all_bad").locator("kbd")).to_have_attribute("data-shows", "K", timeout=30_000)


def test_the_interface_is_arabic_from_right_to_left_where_the_rater_wants_it(shared, page):
    rater = open_desk(page, shared, "arabic")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Language of this page").select_option("ar")
    expect(page.locator("html")).to_have_attribute("dir", "rtl", timeout=30_000)
    expect(page.locator("#card")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "ar"
    assert "Submit" not in page.locator("#bar").inner_text()
    a, b = (page.locator(f'.answer[data-at="{at}"]').bounding_box() for at in (0, 1))
    assert a["x"] > b["x"], "the first answer is where one begins to read"
    first = question(page)
    press(page, "1", "Enter")
    until_next(page, first)
    (kept,) = judgments(shared, rater)
    assert kept.answer.ranking[0] == (kept.order_shown[0],)
