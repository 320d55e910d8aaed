"""The rating page, feature by feature, in a real Chromium: answers, the connection to the server, pace and settings."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa

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
from rlhf_hitl.store import guidelines, queue, tutorial
from rlhf_hitl.store.tables import leases, places
from rlhf_hitl.types import DEFAULT_PROJECT, Answer, Axis, Guideline, Message, Reason, TutorialExample, Verdict, utc_now

pytestmark = pytest.mark.browser


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


# --- more than two answers


def test_letters_are_dragged_into_ranks_and_what_is_left_out_stays_unranked(serve, page):
    server = serve([pair("Name a colour.", "Red", "Green", "Blue", "Grey")])
    rater = open_rating_page(page, server, "rater")
    shown = [ids_by_text(server)[text] for text in answers(page)]
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    for at, rank in ((2, "1"), (0, "2"), (3, "2")):
        page.locator(f'.chip[data-index="{at}"]').drag_to(page.locator(f'.rank-zone[data-rank="{rank}"]'))
        expect(page.locator(f'.rank-zone[data-rank="{rank}"] .chip[data-index="{at}"]')).to_be_visible()
    page.locator('.chip[data-index="3"]').drag_to(page.locator('.rank-zone[data-rank=""]'))
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#empty")).to_be_visible()
    until_sent(page)
    (kept,) = judgments(server, rater)
    assert kept.answer.ranking == ((shown[2],), (shown[0],))


def test_a_ranking_is_made_with_arrows_and_by_clicks_alone(serve, page):
    server = serve([pair(f"Name a colour, number {n}.", f"Red {n}", f"Green {n}", f"Blue {n}") for n in range(2)])
    rater = open_rating_page(page, server, "rater")
    first = question(page)
    shown = [ids_by_text(server)[text] for text in answers(page)]
    press(page, "ArrowUp", "ArrowUp", "ArrowUp")  # A: 3, 2, 1
    press(page, "ArrowRight", "ArrowUp")  # B: 3
    press(page, "ArrowRight", "ArrowUp", "ArrowUp", "ArrowDown", "Enter")  # C: 3, 2, 3
    until_next(page, first)
    page.locator('.chip[data-index="1"]').click()
    page.locator('.rank-zone[data-rank="1"]').click()
    page.locator('.chip[data-index="0"]').click()
    page.locator('.rank-zone[data-rank="3"]').click()
    again = [ids_by_text(server)[text] for text in answers(page)]
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#empty")).to_be_visible()
    until_sent(page)
    one, two = judgments(server, rater)
    assert one.answer.ranking == ((shown[0],), (shown[1], shown[2]))
    assert two.answer.ranking == ((again[1],), (again[0],))


# --- what is said beside the ranking


def test_scores_a_rewrite_and_a_reason_are_kept_with_the_ranking(shared, page):
    rater = open_rating_page(page, shared, "thorough")
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


def test_a_letter_being_dragged_is_put_back_by_escape(serve, page):
    server = serve([pair("Name a colour.", "Red", "Green", "Blue")])
    open_rating_page(page, server, "rater")
    box, goal = (page.locator(at).bounding_box() for at in ('.chip[data-index="0"]', '.rank-zone[data-rank="1"]'))
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    page.mouse.down()
    page.mouse.move(goal["x"] + 20, goal["y"] + 20, steps=5)
    expect(page.locator('.rank-zone[data-rank="1"]')).to_have_class("rank-zone over")
    press(page, "1", "Escape")
    page.mouse.up()
    expect(page.locator('.rank-zone[data-rank=""] .chip')).to_have_count(3)


def test_the_tenth_rank_is_the_key_0(serve, page):
    server = serve([pair("Name a number.", *map(str, range(10)))])
    rater = open_rating_page(page, server, "rater")
    press(page, *"1234567890", "Enter")
    expect(page.locator("#empty")).to_be_visible()
    until_sent(page)
    (kept,) = judgments(server, rater)
    assert [group[0] for group in kept.answer.ranking] == list(kept.order_shown)


def test_all_bad_by_mistake_leaves_the_ranking_as_it_was(serve, page):
    server = serve([pair("Name a colour.", "Red", "Green", "Blue")])
    rater = open_rating_page(page, server, "rater")
    press(page, "3", "1", "2", "b")
    expect(choose(page, "all_bad")).to_have_attribute("aria-pressed", "true")
    press(page, "b", "Enter")
    expect(page.locator("#empty")).to_be_visible()
    until_sent(page)
    (kept,) = judgments(server, rater)
    shown = kept.order_shown
    assert kept.answer.ranking == ((shown[1],), (shown[2],), (shown[0],))


def test_what_an_answer_lacks_is_said_when_it_is_submitted(shared, page):
    open_rating_page(page, shared, "hasty")
    press(page, "Enter")
    expect(page.locator("#missing")).to_have_text("Choose first")
    press(page, "f")
    expect(page.locator("#missing")).to_be_hidden()
    press(page, "Enter")
    expect(page.locator("#missing")).to_have_text("Say what is wrong first")


@pytest.mark.parametrize(
    ("key", "digit", "verdict", "reason"),
    [("f", "1", Verdict.FLAGGED, Reason.UNSAFE), ("f", "3", Verdict.FLAGGED, Reason.WRONG_LANGUAGE),
     ("s", "1", Verdict.SKIPPED, Reason.SUBJECT), ("s", None, Verdict.SKIPPED, None)],
)  # fmt: skip
def test_a_skip_may_and_a_flag_must_say_why(shared, page, key, digit, verdict, reason):
    rater = open_rating_page(page, shared, f"{key}{digit}")
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
    open_rating_page(page, server, "rater")
    before = answers(page)
    press(page, "d")
    expect(page.locator(".answer-text :is(ins, del)")).to_have_count(4)
    assert sorted(page.locator(".answer-text :is(ins, del)").all_inner_texts()) == ["brown", "jumps", "red", "sleeps"]
    assert answers(page) == before
    press(page, "d")
    expect(page.locator(".answer-text :is(ins, del)")).to_have_count(0)


def test_what_is_not_rewritten_is_no_rewrite_and_what_is_is_of_the_better_answer(serve, page):
    server = serve([pair(f"Question {i}?", f"first\r\n\r\nof {i}", f"second\r\n\r\nof {i}") for i in range(2)])
    rater = open_rating_page(page, server, "rater")
    first = question(page)
    better = answers(page)[1].split()
    press(page, "e", "Escape", "6")
    assert page.locator("#rewrite").input_value().split() == better
    press(page, "Enter")
    until_next(page, first)
    page.keyboard.press("e")
    page.locator("#rewrite").fill("as it should be")
    press(page, "Escape", "6", "Enter")
    expect(page.locator("#empty")).to_be_visible()
    until_sent(page)
    assert [j.answer.rewrite for j in judgments(server, rater)] == ["", "as it should be"]


def test_scores_are_given_by_digits_row_by_row(shared, page):
    rater = open_rating_page(page, shared, "scoring by keys")
    first = question(page)
    press(page, "2", "x", *"453123", "Enter")
    until_next(page, first)
    (kept,) = judgments(shared, rater)
    assert kept.answer.strength == 2, "digits in a row of scores are no verdicts"
    a, b = kept.order_shown
    shown = {axis: [given[a], given[b]] for axis, given in kept.answer.scores.items()}
    assert shown == {"helpful": [4, 1], "honest": [5, 2], "harmless": [3, 3]}


def test_where_no_word_differs_it_is_said(serve, page):
    server = serve([pair("Which?", "the same words", "the  same words")])
    open_rating_page(page, server, "rater")
    press(page, "d")
    expect(page.locator("#notice")).to_contain_text("have the same words")


def test_long_answers_are_folded_at_one_height(serve, page):
    server = serve([pair("Which?", "short", "a paragraph of words\n\n" * 300)])
    open_rating_page(page, server, "rater")
    heights = page.locator(".answer").evaluate_all("a => a.map(e => e.offsetHeight)")
    assert heights[0] == heights[1] < 1000
    press(page, "l")
    expect(page.locator("#answers.folded")).to_have_count(0)
    assert page.locator(".answer").last.evaluate("a => a.offsetHeight") > 5000


def test_an_older_answer_is_found_in_the_history_and_changed(shared, page):
    rater = open_rating_page(page, shared, "historian")
    asked = []
    for key in "127":
        asked.append(question(page))
        press(page, key, "Enter")
        until_next(page, asked[-1])
    on_screen = question(page)
    press(page, "h")
    expect(page.locator(".history-entry")).to_have_count(3)
    page.locator(".history-entry").last.click()
    expect(page.locator("#prompt .text").last).to_have_text(asked[0])
    expect(choose(page, "A3")).to_have_attribute("aria-pressed", "true")
    press(page, "0", "Enter")
    until_next(page, asked[0])
    assert question(page) == on_screen
    old, *_, new = judgments(shared, rater, current=False)
    assert (new.supersedes, len(new.answer.ranking)) == (old.id, 1)
    assert len(judgments(shared, rater)) == 3


def test_undo_goes_back_one_by_one_and_escape_leaves_everything_as_it_was(shared, page):
    rater = open_rating_page(page, shared, "back and back")
    asked = []
    for _ in range(2):
        asked.append(question(page))
        press(page, "1", "Enter")
        until_next(page, asked[-1])
    new = question(page)
    for before in (asked[1], asked[0]):
        press(page, "u")
        expect(page.locator("#prompt .text").last).to_have_text(before)
    press(page, "7", "Escape")
    expect(page.locator("#prompt .text").last).to_have_text(new)
    assert [j.answer.strength for j in judgments(shared, rater, current=False)] == [3, 3]


def test_an_answer_the_server_refuses_can_still_be_read(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(3)])
    rater = open_rating_page(page, server, "rater")
    held = {
        lease.comparison.prompt.messages[0].content: lease
        for lease in queue.lease_many(server.store, rater.id, 2, seconds=1800)
    }
    first = question(page)
    queue.submit(server.store, held[first].id, rater.id, Answer(Verdict.SKIPPED), idempotency_key="another program")
    page.locator("#rationale").fill("what I had to say")
    press(page, "Escape", "1", "Enter")
    expect(page.locator("#notice")).to_contain_text("Your first answer stands")
    page.locator("#open-history").click()
    expect(page.locator(".refused")).to_contain_text("what I had to say")


# --- what comes first


def test_a_guideline_is_read_before_the_work_and_again_when_it_changes(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(5)])
    rater = server.person("new", new=True)
    enter(page, server, "new")
    expect(page.locator("#guideline")).to_contain_text("Harmless", timeout=30_000)
    expect(page.locator("#bar")).to_be_hidden()
    press(page, "1", "g")
    page.get_by_role("button", name="I have read them").click()
    expect(page.locator("#card")).to_be_visible()
    press(page, "g")
    expect(page.locator("#guideline")).to_be_visible()
    press(page, "Escape")
    new = Guideline("default", "2", "# Be **strict**", (Axis("taste", "Taste"),), "required", "required")
    guidelines.publish_guideline(server.store, new)
    before = question(page)
    press(page, "1", "Enter")
    until_next(page, before)
    press(page, "1", "Enter")  # what was fetched before is finished first
    expect(page.locator("#bar")).to_be_hidden()
    page.get_by_role("button", name="I have read them").click()
    expect(page.locator("#card")).to_be_visible()
    expect(page.locator("#guideline-text")).to_contain_text("Be strict")
    assert guidelines.has_acknowledged(server.store, rater.id, DEFAULT_PROJECT, "2")
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
        TutorialExample.create(
            "default",
            (Message("user", f"Example {i}?"),),
            ((Message("assistant", "right"),), (Message("assistant", "wrong"),)),
            Answer(Verdict.RANKED, (("0",), ("1",)), 3),
            f"Because of **reason {i}**.",
        )
        for i in range(2)
    ]
    tutorial.replace_tutorial(server.store, "default", examples)
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
    assert tutorial.count_agreements(server.store) == {rater.id: (1, 2)}
    assert judgments(server, rater) == []
    page.reload()
    expect(page.locator("#prompt .text")).to_have_text("The real work?", timeout=30_000)


# --- the connection to the server


def test_answers_given_offline_wait_and_are_sent_once(serve, page, context):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(6)])
    rater = open_rating_page(page, server, "rater")
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
    rater = open_rating_page(page, server, "rater")
    context.set_offline(True)
    asked = [question(page)]
    press(page, "3", "Enter")
    expect(page.locator("#prompt .text").last).not_to_have_text(asked[0])
    asked.append(question(page))
    press(page, "3", "Enter")
    expect(page.locator("#rating")).to_have_attribute("data-unsent", "2")
    page.close()
    context.set_offline(False)
    again = context.new_page()
    again.goto(server.address + "/rate/")
    expect(again.locator("#card")).to_be_visible(timeout=30_000)
    assert question(again) not in asked, "what is on its way is not asked again"
    until_sent(again)
    assert question(again) not in asked
    assert [j.answer.strength for j in judgments(server, rater)] == [1, 1]


def test_another_raters_waiting_answer_is_not_sent_as_ones_own(serve, page, context):
    server = serve([pair("Question?", "yes", "no", overlap=2)])
    ada = open_rating_page(page, server, "ada.b")  # whose name begins with the other's
    context.set_offline(True)
    press(page, "3", "Enter")
    expect(page.locator("#rating")).to_have_attribute("data-unsent", "1")
    context.clear_cookies()  # a page that is closed is without its emulated line for a moment, and would send
    page.goto("about:blank")
    page.close()
    context.set_offline(False)
    again = context.new_page()
    other = open_rating_page(again, server, "ada")
    press(again, "7", "Enter")
    until_sent(again)
    assert judgments(server, ada) == []
    assert [j.answer.strength for j in judgments(server, other)] == [3]
    context.clear_cookies()
    enter(again, server, "ada.b")
    expect(again.locator("#progress")).to_contain_text("Today: 1", timeout=30_000)
    until_sent(again)
    assert [j.answer.strength for j in judgments(server, ada)] == [1]


class Held:
    """Calls of one name that wait until they are let through; with `deaf`, their answers never arrive."""

    def __init__(self, page, name: str, *, deaf: bool = False):
        self._name, self._deaf, self.waiting = name, deaf, []
        page.route("**/component_server/**", self._take)

    def _take(self, route) -> None:
        if json.loads(route.request.post_data)["fn_name"] != self._name:
            route.continue_()
        elif self._deaf:
            route.fetch()
            self.waiting.append(route)
            route.abort()
        else:
            self.waiting.append(route)

    def release(self) -> None:
        self._name = None
        if not self._deaf:
            for route in self.waiting:
                route.continue_()


def test_an_answer_whose_receipt_was_lost_can_still_be_changed(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(3)])
    rater = open_rating_page(page, server, "rater")
    first = question(page)
    tunnel = Held(page, "submit", deaf=True)
    press(page, "1", "Enter")
    expect(page.locator("#notice")).to_be_visible()
    assert len(judgments(server, rater)) == len(tunnel.waiting) == 1
    tunnel.release()
    press(page, "u")
    expect(page.locator("#prompt .text").last).to_have_text(first)
    expect(page.locator("#notice")).to_contain_text("You are changing an answer")
    press(page, "7", "Enter")
    until_next(page, first)
    (kept,) = judgments(server, rater)
    assert (kept.answer.strength, kept.supersedes is None) == (3, False)


def test_an_answer_under_way_is_undone_when_it_has_arrived(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(3)])
    rater = open_rating_page(page, server, "rater")
    first = question(page)
    line = Held(page, "submit")
    with page.expect_request("**/component_server/**"):
        press(page, "1", "Enter")
    expect(page.locator("#prompt .text").last).not_to_have_text(first)
    press(page, "u")
    line.release()
    expect(page.locator("#prompt .text").last).to_have_text(first)
    press(page, "6", "Enter")
    until_next(page, first)
    assert [j.answer.strength for j in judgments(server, rater)] == [2]


def test_a_correction_made_while_another_is_under_way_is_not_lost(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(3)])
    rater = open_rating_page(page, server, "rater")
    first = question(page)
    press(page, "1", "Enter")
    until_next(page, first)
    press(page, "u")
    expect(page.locator("#prompt .text").last).to_have_text(first)
    line = Held(page, "submit")
    with page.expect_request("**/component_server/**"):
        press(page, "2", "Enter")
    expect(page.locator("#prompt .text").last).not_to_have_text(first)
    press(page, "h")
    page.locator("#history-list button").first.click()
    expect(page.locator("#prompt .text").last).to_have_text(first)
    page.locator("#rationale").fill("the second thought")
    press(page, "Control+Enter")
    expect(page.locator("#prompt .text").last).not_to_have_text(first)
    line.release()
    until_sent(page)
    (kept,) = judgments(server, rater)
    assert kept.answer.rationale == "the second thought"
    assert len(judgments(server, rater, current=False)) == 3


def test_a_tab_that_yielded_stays_inactive_when_its_call_returns(serve, page, context):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(3)])
    line = Held(page, "open")
    server.person("rater")
    enter(page, server, "rater")
    page.wait_for_url("**/rate/")
    page.wait_for_function("() => document.querySelector('#rating')?.getAttribute('aria-busy') === 'true'")
    other = context.new_page()
    other.goto(server.address + "/rate/")
    expect(other.locator("#card")).to_be_visible(timeout=30_000)
    expect(page.locator("#other-tab")).to_be_visible()
    line.release()
    expect(page.locator("#rating")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#other-tab")).to_be_visible()
    expect(page.locator("#card")).to_be_hidden()


def test_what_is_worked_on_is_held_on_to(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(3)])
    rater = open_rating_page(page, server, "rater")

    def held_until():
        with server.store.read() as conn:
            held = sa.select(places.c.leased_until).where(places.c.rater_id == rater.id)
            return min(conn.execute(held).scalars())

    before = held_until()
    page.clock.fast_forward("04:50")
    page.mouse.move(300, 300)
    press(page, "Shift")
    with page.expect_response(lambda r: '"renew"' in (r.request.post_data or "")):
        page.clock.fast_forward("00:11")
    assert held_until() > before


def test_after_a_long_break_nothing_is_asked_twice(serve, page, monkeypatch):
    monkeypatch.setenv("RLHF_HITL_LEASE_SECONDS", "30")  # the page renews a little early: here, at every call
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(5)])
    rater = open_rating_page(page, server, "rater")
    asked = []
    while page.locator("#card").is_visible():
        with server.store.write() as conn:
            over = places.update().where(places.c.judgment_id.is_(None), places.c.rater_id.is_not(None))
            conn.execute(over.values(leased_until=utc_now() - timedelta(hours=1)))
        asked.append(question(page))
        press(page, "1", "Enter")
        expect(page.locator("#prompt").filter(has_text=asked[-1])).to_have_count(0)
        until_sent(page)
        expect(page.locator("#notice")).to_be_hidden()
    assert len(set(asked)) == len(asked) == 5
    assert len(judgments(server, rater)) == 5


# --- active time, pace, settings


def test_hidden_and_idle_time_is_not_counted(shared, own_page):
    page = own_page
    page.clock.install()
    rater = open_rating_page(page, shared, "idle")
    with shared.store.write() as conn:  # only the browser's clock goes fast: the server keeps no more than has passed
        conn.execute(leases.update().values(leased_at=utc_now() - timedelta(hours=1)))
    first = question(page)
    page.mouse.move(300, 300)
    page.clock.fast_forward(30_000)
    page.mouse.move(310, 300)  # thirty seconds of reading
    page.clock.fast_forward(600_000)  # ten minutes without a sign of life: one minute counts
    press(page, "1", "Enter")
    until_next(page, first)
    (kept,) = judgments(shared, rater)
    assert 88 <= kept.answer.active_seconds <= 95


def test_a_break_is_suggested_after_three_quarters_of_an_hour(shared, own_page):
    page = own_page
    page.clock.install()
    open_rating_page(page, shared, "tired")
    for n in range(5):
        before = question(page)
        for _ in range(11):  # eleven minutes with a sign of life a minute
            page.clock.fast_forward(55_000)
            page.mouse.move(300 + n, 300)
        press(page, "12345"[n], "Enter")
        until_next(page, before)
    expect(page.locator("#notice")).to_contain_text("45 minutes")
    page.get_by_role("button", name="Take a break").click()
    expect(page.locator("#break")).to_be_visible()
    page.get_by_role("button", name="Go on").click()


def test_the_same_answer_again_and_again_is_pointed_out(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(14)])
    open_rating_page(page, server, "stuck")
    for _ in range(12):
        expect(page.locator("#notice")).to_be_hidden()
        before = question(page)
        press(page, "1", "Enter")
        until_next(page, before)
    expect(page.locator("#notice")).to_contain_text("many times in a row")


def test_a_goal_is_set_and_shown(shared, page):
    open_rating_page(page, shared, "ambitious")
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


def test_a_goal_that_cannot_be_is_refused_and_the_goal_stays(shared, page):
    open_rating_page(page, shared, "humble")
    settings, field = page.get_by_role("button", name="Settings"), page.get_by_label("Goal for today")
    settings.click()
    field.fill("3")
    field.press("Tab")
    expect(page.locator("#progress")).to_contain_text("of 3")
    # The browser's own note is no part of the page: the event that brings it is.
    page.evaluate("addEventListener('invalid', (e) => (window.refused = e.target.id), true)")
    for wrong in ("-5", "5001", "2.5"):
        page.evaluate("window.refused = null")
        field.fill(wrong)
        field.press("Tab")
        page.wait_for_function("window.refused === 'goal-number'")
        expect(field).to_be_focused()
        expect(page.locator("#progress")).to_contain_text("of 3")
    page.get_by_role("button", name="Close").click()
    settings.click()
    expect(field).to_have_value("3")


def test_a_key_is_changed_and_the_buttons_show_it(shared, page):
    rater = open_rating_page(page, shared, "dvorak")
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
    rater = open_rating_page(page, shared, "arabic")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Language of this page").select_option("ar")
    expect(page.locator("html")).to_have_attribute("dir", "rtl", timeout=30_000)
    expect(page.locator("#card")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "ar"
    assert "Submit" not in page.locator("#bar").inner_text()
    a, b = (page.locator(f'.answer[data-index="{at}"]').bounding_box() for at in (0, 1))
    assert a["x"] > b["x"], "the first answer is where one begins to read"
    first = question(page)
    press(page, "1", "Enter")
    until_next(page, first)
    (kept,) = judgments(shared, rater)
    assert kept.answer.ranking[0] == (kept.order_shown[0],)
