"""Golds on the rating page: what a rater is told afterwards, and what who has not qualified reads."""

from __future__ import annotations

from handmade_golds import gold_example

from browser_fixtures import (
    choose,
    enter,
    expect,
    judgments,
    open_rating_page,
    pair,
    question,
    until_next,
    until_sent,
)
from rlhf_hitl.store import golds, projects, qualifications, queue
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.types import GoldPurpose, QualificationRule, Role


def with_golds(serve, *, feedback: bool = True, work: int = 6):
    """A server on which a rater's first comparison is gold: it is leased for them with a chance that always says so."""
    server = serve([pair(f"Question {i}?", f"First {i}.", f"Second {i}.") for i in range(work)])
    golds.add_golds(server.store, "default", [gold_example("Is water wet?")])
    projects.change_project(server.store, "default", gold_every=2, gold_feedback=feedback)
    rater = server.person("ann")
    queue.lease_many(server.store, rater.id, 1, seconds=1800, chance=lambda: 0.0)
    projects.change_project(server.store, "default", gold_every=0)
    return server, rater


def letter_of_right_side(page) -> str:
    return "A" if page.locator(".answer .answer-text").first.inner_text().strip().endswith("side 0") else "B"


def test_after_a_gold_the_right_answer_and_the_explanation_are_shown_and_work_goes_on_by_keyboard(serve, page):
    server, rater = with_golds(serve)
    enter(page, server, "ann")
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    assert question(page) == "Is water wet?"
    wrong = {"A": "5", "B": "3"}[letter_of_right_side(page)]
    page.keyboard.press(wrong)
    page.keyboard.press("Enter")
    expect(page.locator("#verdict")).to_be_visible()
    expect(page.locator("#verdict")).to_be_focused()
    right = letter_of_right_side(page)
    expect(page.locator("#verdict-title")).to_have_text("A check: we see this one differently")
    expect(page.locator("#verdict-expected")).to_have_text(f"Right answer: {right} is clearly better")
    expect(page.locator("#verdict-why")).to_have_text("Why “Is water wet?”.")
    expect(page.locator("#bar")).to_be_hidden()
    expect(page.locator(".answer.better .letter")).to_have_text("B" if right == "A" else "A")
    assert question(page) == "Is water wet?"
    page.keyboard.press("Enter")
    expect(page.locator("#verdict")).to_be_hidden()
    expect(page.locator("#bar")).to_be_visible()
    seen = question(page)
    assert seen.startswith("Question")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    until_next(page, seen)
    assert len(judgments(server, rater)) == 2
    [result] = golds.read_gold_results(server.store)
    assert (result.rater_id, result.agreed) == (rater.id, False)


def test_a_gold_that_was_answered_while_the_line_was_down_waits_for_the_end_of_the_answer_that_is_begun(serve, page):
    server, _ = with_golds(serve)
    enter(page, server, "ann")
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    page.context.set_offline(True)
    page.keyboard.press({"A": "1", "B": "7"}[letter_of_right_side(page)])
    page.keyboard.press("Enter")
    expect(page.locator("#prompt .text").last).not_to_have_text("Is water wet?")
    begun = question(page)
    page.keyboard.press("1")
    page.context.set_offline(False)
    until_sent(page)
    expect(page.locator("#verdict")).to_be_hidden()
    assert question(page) == begun
    expect(choose(page, "A3")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Enter")
    expect(page.locator("#verdict-title")).to_have_text("A check: that is right")
    page.keyboard.press("Enter")
    until_sent(page)
    expect(page.locator("#verdict")).to_be_hidden()
    assert question(page) not in (begun, "Is water wet?")


def test_where_raters_are_told_nothing_a_gold_is_like_any_other(serve, page):
    server, rater = with_golds(serve, feedback=False)
    enter(page, server, "ann")
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    until_next(page, "Is water wet?")
    expect(page.locator("#verdict")).to_be_hidden()
    assert len(judgments(server, rater)) == 1


def test_who_qualifies_goes_on_to_work_and_who_does_not_reads_whom_to_ask(serve, page):
    server = serve([pair("Work?", "This.", "That.", overlap=9)])
    made = [gold_example(f"Gold {i}?") for i in range(2)]
    golds.add_golds(server.store, "default", made, purpose=GoldPurpose.QUALIFICATION)
    projects.change_project(server.store, "default", qualification=QualificationRule(2, 0.5, retries=0))
    for lead in ("lea", "lou"):
        server.person(lead, Role.LEAD)
    open_rating_page(page, server, "ann")
    for _ in range(2):
        before = question(page)
        assert before.startswith("Gold")
        page.keyboard.press({"A": "1", "B": "7"}[letter_of_right_side(page)])
        page.keyboard.press("Enter")
        until_next(page, before)
    assert question(page) == "Work?"
    page.context.clear_cookies()

    bob = open_rating_page(page, server, "bob")
    for i in range(2):
        before = question(page)
        page.keyboard.press({"A": "7", "B": "1"}[letter_of_right_side(page)])
        page.keyboard.press("Enter")
        if i == 0:
            until_next(page, before)
    expect(page.locator("#unqualified-title")).to_have_text("You have not qualified")
    expect(page.locator("#unqualified-why")).to_contain_text("default")
    expect(page.locator("#unqualified-ask")).to_have_text("Ask lea or lou.")
    expect(page.locator("#empty")).to_be_hidden()
    qualifications.grant_qualification(server.store, "bob", "default")
    page.locator("#look-again").click()
    expect(page.locator("#card")).to_be_visible()
    assert question(page) == "Work?"
    assert len(judgments(server, bob)) == 2
    assert len(list(find_comparisons(server.store))) == 1
