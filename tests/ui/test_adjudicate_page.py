"""The page of leads who decide, in a real browser: votes beside the comparison, a decision by keyboard, and who may."""

from __future__ import annotations

import pytest

from browser_fixtures import answers, choose, enter, expect, judgments, pair, question, until_next, until_sent
from rlhf_hitl.config import load_settings
from rlhf_hitl.store import adjudication, audit, people, projects, queue
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.types import DEFAULT_PROJECT, Answer, Escalation, OverlapRule, Role, Verdict
from rlhf_hitl.ui.adjudicate import AdjudicationService
from rlhf_hitl.ui.rating_request import PageRequest

LEA = audit.Actor("lea")


@pytest.fixture
def split(serve):
    """A server with two comparisons that two raters judged the opposite way, sent to adjudication, and a lead."""
    server = serve([pair(f"Is it {i}?", f"Yes {i}.", f"No {i}.", overlap=2) for i in range(2)])
    reasons = ("<b>It says</b> yes.", "")
    for i, name in enumerate(("ann", "bob")):
        rater = people.add_rater(server.store, name, Role.RATER).id
        while (lease := queue.lease(server.store, rater, seconds=1800)) is not None:
            ids = sorted(lease.order_shown, key=lambda id, lease=lease: lease.comparison.find_completion(id).text)
            ranked = ids[::-1] if i == 0 else ids
            answer = Answer(Verdict.RANKED, tuple((id,) for id in ranked), 2, rationale=reasons[i])
            queue.submit(server.store, lease.id, rater, answer)
    ids = [c.id for c in find_comparisons(server.store)]
    adjudication.send_to_adjudication(server.store, ids, by=LEA, reason="they split")
    return server, server.person("lea", Role.LEAD)


def test_a_lead_decides_one_comparison_after_the_other_by_keyboard_with_the_votes_beside_it(split, page):
    server, lea = split
    enter(page, server, "lea")
    page.locator('nav.pages a[data-page="/adjudicate"]').click()
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    expect(page).to_have_title("Decide · rlhf_hitl")
    yes = "AB"[answers(page).index(next(a for a in answers(page) if a.startswith("Yes")))]
    rows = page.locator("#votes-list li")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text(f"{yes} is clearly better")
    expect(rows.nth(0).locator(".why")).to_have_text("<b>It says</b> yes.")
    expect(rows.nth(1).locator(".why")).to_have_text("No reason was given")
    expect(page.locator("#votes-count")).to_contain_text("A is better: 1")
    expect(page.locator("#votes-cause")).to_have_text("Sent by \u2068lea\u2069: \u2068they split\u2069")
    assert "ann" not in page.locator("#rating").inner_text(), "who voted is not said"
    before = question(page)
    page.keyboard.press("1")
    page.keyboard.press("r")
    page.keyboard.type("It answers what was asked.")
    page.keyboard.press("Control+Enter")
    until_next(page, before)
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#empty h2")).to_have_text("Nothing to decide")
    until_sent(page)
    decided = judgments(server, lea)
    assert [j.role for j in decided] == [Role.LEAD, Role.LEAD]
    assert decided[0].answer.rationale == "It answers what was asked."
    assert len(decided[1].answer.ranking) == 1
    assert adjudication.count_adjudications(server.store, lea.id) == adjudication.AdjudicationCounts(0, 0, 2)


def test_a_decision_can_be_taken_back_and_given_anew(split, page):
    server, lea = split
    enter(page, server, "lea")
    page.goto(server.address + "/adjudicate/")
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    before = question(page)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    until_next(page, before)
    page.keyboard.press("u")
    expect(page.locator("#notice")).to_contain_text("You are changing an answer you gave.")
    assert question(page) == before
    expect(page.locator("#votes-list li")).to_have_count(2)
    expect(page.locator("#votes-cause")).to_contain_text("they split")
    choose(page, "B3").click()
    page.keyboard.press("Enter")
    until_next(page, before)
    [decision] = judgments(server, lea)
    assert (decision.role, decision.supersedes is not None) == (Role.LEAD, True)


def test_raters_who_are_split_are_counted_in_one_sentence(serve, page):
    server = serve([pair("Is it?", "Yes.", "No.", overlap=3)])
    rule = OverlapRule(3, 3, 0.2, Escalation.ADJUDICATION)
    projects.change_project(server.store, DEFAULT_PROJECT, overlap_rule=rule)
    for name, better in (("ann", "Yes."), ("bob", "No."), ("cem", "No.")):
        rater = people.add_rater(server.store, name, Role.RATER).id
        lease = queue.lease(server.store, rater, seconds=1800)
        ids = sorted(lease.order_shown, key=lambda id: lease.comparison.find_completion(id).text != better)
        queue.submit(server.store, lease.id, rater, Answer(Verdict.RANKED, tuple((id,) for id in ids)))
    server.person("lea", Role.LEAD)
    enter(page, server, "lea")
    page.goto(server.address + "/adjudicate/")
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    no = "AB"[answers(page).index("No.")]
    counts = "1 for A and 2 for B" if no == "B" else "2 for A and 1 for B"
    expect(page.locator("#votes-cause")).to_have_text(f"Raters are split: {counts}.")
    expect(page.locator("#votes-count")).to_be_hidden()


@pytest.fixture
def case(sqlite_store, add_comparisons, add_raters):
    """A store with a comparison that two raters judged, and a lead."""
    [comparison] = add_comparisons(sqlite_store, 1, overlap=2)
    for rater in add_raters(sqlite_store, 2):
        lease = queue.lease(sqlite_store, rater, seconds=1800)
        queue.submit(sqlite_store, lease.id, rater, Answer(Verdict.RANKED, tuple((id,) for id in lease.order_shown)))
    return sqlite_store, comparison, people.add_rater(sqlite_store, "lea", Role.LEAD)


def open_card(store, lead) -> dict:
    [card] = AdjudicationService(store, load_settings(), lead).open(PageRequest())["cards"]
    return card


def test_who_comes_back_to_what_they_skipped_sees_the_votes_and_not_beside_what_they_voted_on(case):
    store, comparison, lea = case
    adjudication.send_to_adjudication(store, [comparison.id], by=audit.Actor(lea.id), reason="they split")
    service, card = AdjudicationService(store, load_settings(), lea), open_card(store, lea)
    service.submit(PageRequest(id=card["id"], verdict=Verdict.SKIPPED))
    again = service.revisit(PageRequest())["card"]
    assert (again["mode"], again["votes"], again["cause"]) == ("correct", card["votes"], card["cause"])
    assert len(card["votes"]) == 2
    as_rater = people.get_rater_by_name(store, "rater 0")
    assert "votes" not in AdjudicationService(store, load_settings(), as_rater).revisit(PageRequest())["card"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (adjudication.SENT_FROM_CATALOG, {"by": "catalog", "name": "lea", "reason": ""}),
        (adjudication.SENT_BY_LEAD, {"by": "lead", "name": "lea", "reason": ""}),
        ("the \u202eguideline is silent", {"by": "lead", "name": "lea", "reason": "the ⟦RLO⟧guideline is silent"}),
    ],
)
def test_a_card_says_who_sent_it_and_why(case, reason, told):
    store, comparison, lea = case
    adjudication.send_to_adjudication(store, [comparison.id], by=audit.Actor(lea.id), reason=reason)
    assert open_card(store, lea)["cause"] == told


def test_the_head_of_the_page_is_one_row_on_a_laptop_however_long_the_name(split, page):
    server, _ = split
    server.person("a-lead-with-quite-a-long-name", Role.LEAD)
    enter(page, server, "a-lead-with-quite-a-long-name")
    last_link = page.locator('nav.pages a[data-page="/replay"]')
    expect(last_link).to_be_visible(timeout=30_000)
    elsewhere = last_link.bounding_box()
    for path in ("/adjudicate/", "/rate/"):
        page.goto(server.address + path)
        expect(page.locator("#progress")).not_to_be_empty(timeout=30_000)
        expect(last_link).to_be_visible()
        assert last_link.bounding_box()["x"] == pytest.approx(elsewhere["x"], abs=1), "links stay where they are"
        for width in (1280, 1360):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.locator("header.top").bounding_box()["height"] < 60, (path, width)


def test_who_is_a_lead_no_more_is_told_so_and_what_they_decided_stays_in_the_browser(split, page):
    server, lea = split
    enter(page, server, "lea")
    page.goto(server.address + "/adjudicate/")
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    people.change_rater(server.store, "lea", role=Role.RATER)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("This page is not for your role")
    expect(page.locator("#unsent")).to_contain_text("1")
    assert judgments(server, lea) == []
    page.locator("#notice button", has_text="Back to your page").click()
    page.wait_for_url("**/rate/")


def test_on_the_rating_page_a_lead_sees_no_votes_and_nothing_of_what_waits_for_a_decision(split, page):
    server, _ = split
    enter(page, server, "lea")
    page.goto(server.address + "/rate/")
    expect(page.locator("#empty")).to_be_visible(timeout=30_000)
    assert page.locator("#votes").count() == 0


def test_raters_are_refused_the_page(split, page):
    server, _ = split
    server.person("cy")
    enter(page, server, "cy")
    for path in ("/adjudicate/", "/adjudicate/config", "/adjudicate/gradio_api/info"):
        assert page.request.get(server.address + path).status == 403
