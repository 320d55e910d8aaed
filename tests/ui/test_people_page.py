"""The lead's page of people in a real Chromium: what it shows, what a lead changes there, and who may not."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest

from browser_fixtures import PASSWORD, Server, enter, expect, only_to_draw, pair
from rlhf_hitl import simulate
from rlhf_hitl.store import audit, invitations, people, projects, queue, sign_in, tables, tokens
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.judgments import insert_imported_judgments
from rlhf_hitl.store.tables import raters
from rlhf_hitl.types import Answer, Rater, Role, Verdict, utc_now

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=window.pwned=1>\u202e\"'"


def judge(server: Server, rater: Rater, *seconds: float, days_ago: int = 0) -> None:
    """Judgments of a rater's, one for each of the times they took."""
    at = utc_now() - timedelta(days=days_ago)
    for active in seconds:
        lease = queue.lease(server.store, rater.id, now=at - timedelta(seconds=active), seconds=1800)
        assert lease is not None
        said = Answer(Verdict.SKIPPED, active_seconds=active)
        queue.submit(server.store, lease.id, rater.id, said, simulated=rater.simulated, now=at)


def open_people(page, server: Server, name: str, role: Role = Role.LEAD) -> Rater:
    lead = server.person(name, role)
    enter(page, server, name)
    page.get_by_role("link", name="People").click()
    expect(page.locator("#people-rows tr").first).to_be_visible(timeout=30_000)
    return lead


def row(page, name: str):
    return page.locator("#people-rows tr").filter(has=page.locator("bdi").get_by_text(name, exact=True))


def cell(page, name: str, label: str):
    return row(page, name).locator(f'td[data-label="{label}"]')


def edit(page, name: str) -> None:
    row(page, name).get_by_role("button", name="Change").click()
    expect(page.locator("#edit")).to_be_visible()


def changes(server: Server, name: str) -> list[tuple[str, dict]]:
    """(who, what) of each change of somebody, as the audit log has it."""
    return [
        (e.actor, e.details) for e in audit.list_entries(server.store, actions=["rater.changed"]) if e.subject == name
    ]


def test_a_lead_sees_who_works_how_much_and_how_fast(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no", overlap=9) for i in range(6)])
    store = server.store
    ann, hostile = server.person("ann"), server.person("hostile")
    with store.write() as conn:  # as an earlier version would have let them call themselves
        conn.execute(tables.raters.update().where(tables.raters.c.id == hostile.id).values(name=HOSTILE))
    server.person("paula")
    people.change_rater(store, "ann", quota=4, languages=["en", "es"])
    people.change_rater(store, "paula", paused=True)
    projects.add_project(store, "coding", open=False)
    projects.add_member(store, "coding", "ann")
    judge(server, ann, 10.0, days_ago=3)
    judge(server, ann, 20.0, 90.0)
    judge(server, hostile, 240.0)
    simulate.judge_queue(store, 5)
    [comparison, *_] = find_comparisons(store)
    with store.write() as conn:
        ids, _ = people.insert_imported_raters(store, conn, ["<b>judge</b>"], "mt_bench")
        vote = {"comparison_id": comparison.id, "rater_id": ids["<b>judge</b>"], "answer": Answer(Verdict.SKIPPED),
                "order_shown": [], "source": "mt_bench", "idempotency_key": "v"}  # fmt: skip
        insert_imported_judgments(store, conn, [vote])
    open_people(page, server, "lea")

    assert page.locator("#people-rows tr").evaluate_all("all => all.length") == 4
    expect(cell(page, "ann", "Today")).to_have_text("2 of 4")
    assert cell(page, "ann", "Today").locator(".filled").evaluate("i => i.style.width") == "50%"
    expect(cell(page, "ann", "In all")).to_have_text("3")
    expect(cell(page, "ann", "Median time")).to_have_text("20 sec")
    expect(cell(page, "ann", "Member of")).to_have_text("coding")
    expect(cell(page, "ann", "Reads")).to_have_text("en, es")
    expect(cell(page, "ann", "State")).to_have_text("active")
    expect(cell(page, "ann", "Last seen").locator("time")).to_have_attribute("datetime", re.compile(r"\+00:00$"))
    expect(cell(page, "paula", "State")).to_have_text("paused")
    expect(cell(page, "paula", "Last seen")).to_have_text("never")
    expect(cell(page, "paula", "Reads")).to_have_text("any")
    shown = HOSTILE.replace("\u202e", "⟦RLO⟧")
    expect(cell(page, shown, "Median time")).to_have_text("4 min")
    assert page.evaluate("window.pwned") is None

    expect(page.locator("#people-count")).to_have_text("4")
    expect(page.locator("#state-counts")).to_have_text("3 active, 1 paused")
    expect(page.locator("#judged-today")).to_have_text("3")
    expect(page.locator("#judged-total")).to_have_text("4")
    spark = page.get_by_role("img", name=": 3").get_attribute("aria-labelledby")
    told = page.locator(f"#{spark}").text_content().split(", ")
    assert [part.split(": ")[1] for part in told] == ["0"] * 10 + ["1", "0", "0", "3"]

    others = page.locator("#other-raters-list")
    expect(others).to_be_hidden()
    page.locator("#other-raters summary").click()
    expect(others.locator("li")).to_have_count(4)
    expect(others.locator(".state.simulated")).to_have_count(3)
    expect(others.locator("li").last).to_contain_text("imported raters: 1")
    expect(others.locator("li").last).to_contain_text("judged: 1")


def test_somebody_is_paused_and_resumed_by_keys_and_the_focus_stays(shared, page):
    rater = shared.person("pauline")
    lead = open_people(page, shared, "lead-of-pauline")
    button = row(page, "pauline").locator("[data-action=toggle]")
    button.focus()
    page.keyboard.press("Enter")
    expect(cell(page, "pauline", "State")).to_have_text("paused")
    expect(page.locator("#announce")).to_have_text("pauline: saved, paused.")
    expect(button).to_be_focused()
    expect(button).to_have_text("Resume")
    assert button.evaluate("b => getComputedStyle(b).outlineStyle") == "solid"
    assert people.get_rater(shared.store, rater.id).paused
    assert queue.lease(shared.store, rater.id, seconds=1800) is None
    page.keyboard.press("Space")
    expect(cell(page, "pauline", "State")).to_have_text("active")
    expect(button).to_be_focused()
    assert not people.get_rater(shared.store, rater.id).paused
    assert changes(shared, "pauline") == [(lead.id, {"paused": True}), (lead.id, {"paused": False})]
    assert {e.address for e in audit.list_entries(shared.store, actions=["rater.changed"])} == {"127.0.0.1"}


def test_quota_and_languages_are_set_and_taken_away_and_only_what_is_new_is_sent(shared, page):
    rater = shared.person("quentin")
    lead = open_people(page, shared, "lead-of-quentin")
    edit(page, "quentin")
    page.get_by_label("Judgments a day").fill("250")
    page.get_by_label("Languages they read").fill(" ES, en,, ")
    page.keyboard.press("Enter")
    expect(page.locator("#edit")).to_be_hidden()
    expect(cell(page, "quentin", "Today")).to_have_text("0 of 250")
    expect(cell(page, "quentin", "Reads")).to_have_text("en, es")
    expect(row(page, "quentin").get_by_role("button", name="Change")).to_be_focused()
    kept = people.get_rater(shared.store, rater.id)
    assert (kept.quota, kept.languages) == (250, ("en", "es"))

    edit(page, "quentin")
    page.get_by_role("button", name="Save").click()  # nothing is new
    edit(page, "quentin")
    expect(page.get_by_label("Judgments a day")).to_have_value("250")
    page.get_by_label("Judgments a day").fill("")
    page.get_by_role("button", name="Save").click()
    expect(cell(page, "quentin", "Today")).to_have_text("0")
    edit(page, "quentin")
    page.get_by_label("Languages they read").fill("")
    page.get_by_role("button", name="Save").click()
    expect(cell(page, "quentin", "Reads")).to_have_text("any")
    kept = people.get_rater(shared.store, rater.id)
    assert (kept.quota, kept.languages) == (None, None)
    told = [{"quota": 250, "languages": ["en", "es"]}, {"quota": 0}, {"languages": []}]
    assert changes(shared, "quentin") == [(lead.id, what) for what in told]


def test_what_is_refused_is_told_in_one_line_and_changes_nothing(shared, page):
    rater = shared.person("rex")
    open_people(page, shared, "lead-of-rex")
    edit(page, "rex")
    page.get_by_label("Judgments a day").fill("7")
    page.get_by_label("Languages they read").fill("en, " + "x" * 41)
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#edit-notice")).to_contain_text("expected a code of up to 40 letters")
    expect(page.locator("#edit")).to_be_visible()
    page.keyboard.press("Escape")
    expect(row(page, "rex").get_by_role("button", name="Change")).to_be_focused()
    assert people.get_rater(shared.store, rater.id) == rater
    expect(cell(page, "rex", "Reads")).to_have_text("any")
    # Who became a lead since the page was drawn is an admin's to change.
    people.change_rater(shared.store, "rex", role=Role.LEAD)
    row(page, "rex").get_by_role("button", name="Pause").click()
    expect(page.locator("#notice")).to_contain_text("expected an admin for a lead")
    expect(cell(page, "rex", "State")).to_have_text("active")
    assert not people.get_rater(shared.store, rater.id).paused
    assert [who for who, _ in changes(shared, "rex")] == ["cli"]


def test_who_is_disabled_is_out_at_once_and_comes_back(shared, page):
    shared.person("dora")
    verified = sign_in.verify_password(shared.store, "dora", PASSWORD)
    assert verified is not None
    session = sign_in.start_session(shared.store, verified, 1)
    open_people(page, shared, "lead-of-dora")
    edit(page, "dora")
    page.get_by_role("button", name="Disable").click()
    expect(cell(page, "dora", "State")).to_have_text("disabled")
    assert tokens.find_token_owner(shared.store, session, tokens.TokenKind.SESSION) is None
    row(page, "dora").get_by_role("button", name="Enable").click()
    expect(cell(page, "dora", "State")).to_have_text("active")
    assert tokens.find_token_owner(shared.store, session, tokens.TokenKind.SESSION) is not None


def test_a_lead_changes_no_lead_no_admin_and_not_themselves_by_any_call(shared, page, context):
    shared.person("robin")
    others = [shared.person("other-lead", Role.LEAD), shared.person("an-admin", Role.ADMIN)]
    lead = open_people(page, shared, "bold-lead")
    for name in ("other-lead", "an-admin", "bold-lead"):
        expect(row(page, name)).to_be_visible()
        expect(row(page, name).get_by_role("button")).to_have_count(0)
    with page.expect_request("**/component_server/**") as sent:
        row(page, "robin").get_by_role("button", name="Pause").click()
    expect(cell(page, "robin", "State")).to_have_text("paused")
    call = json.loads(sent.value.post_data)
    for other in (*others, lead):
        for wanted in ({"disabled": True}, {"paused": True}, {"quota": 1}):
            call["data"] = {"id": other.id, **wanted}
            answer = context.request.post(sent.value.url, data=call)
            assert "expected an admin" in answer.json()["problem"], answer.text()
        assert people.get_rater(shared.store, other.id) == other
    call["data"] = {"id": others[0].id, "role": "rater"}
    assert "role" in context.request.post(sent.value.url, data=call).json()["problem"]


def test_an_admin_changes_leads_and_does_not_shut_themselves_out(shared, page):
    shared.person("one-lead", Role.LEAD)
    admin = open_people(page, shared, "ada", Role.ADMIN)
    edit(page, "one-lead")
    page.get_by_role("button", name="Disable").click()
    expect(cell(page, "one-lead", "State")).to_have_text("disabled")
    edit(page, "ada")
    expect(page.locator("#toggle-disabled")).to_be_hidden()
    page.get_by_label("Judgments a day").fill("9")
    page.get_by_role("button", name="Save").click()
    expect(cell(page, "ada", "Today")).to_have_text("0 of 9")
    assert people.get_rater(shared.store, admin.id).quota == 9


def test_an_invitation_is_shown_once_and_lets_one_person_into_its_project(shared, page, context, chromium):
    projects.add_project(shared.store, "closed-one", open=False)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=shared.address)
    open_people(page, shared, "inviter")
    page.get_by_role("button", name="Invite somebody").click()
    expect(page.locator("#role-field")).to_be_hidden()  # a lead invites raters
    page.locator("#invite").get_by_label("Project").select_option("closed-one")
    page.get_by_label("Days it holds").fill("2")
    page.get_by_role("button", name="Make the link").click()
    expect(page.get_by_role("button", name="Copy")).to_be_focused()
    link = page.locator("#invite-link").input_value()
    page.keyboard.press("Enter")
    expect(page.locator("#copy-status")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == link
    page.locator("#invite").get_by_role("button", name="Close").click()
    expect(page.get_by_role("button", name="Invite somebody")).to_be_focused()
    assert page.locator("#invite-link").input_value() == ""
    made = invitations.find_open_invitation(shared.store, link.rpartition("/")[2])
    assert made is not None
    assert (made.role, made.project) == ("rater", "closed-one")
    assert timedelta(days=1.9) < made.expires_at - utc_now() < timedelta(days=2)

    guest = chromium.new_context()
    their_page = guest.new_page()
    their_page.goto(link)
    their_page.get_by_label("Name").fill("newcomer")
    their_page.get_by_label("Password").fill(PASSWORD)
    their_page.get_by_role("button", name="Start").click()
    their_page.wait_for_url("**/rate/")
    guest.close()
    page.get_by_role("button", name="Reload").click()
    expect(cell(page, "newcomer", "Member of")).to_have_text("closed-one")


def test_an_admin_invites_a_lead(shared, page):
    open_people(page, shared, "admiral", Role.ADMIN)
    page.get_by_role("button", name="Invite somebody").click()
    page.locator("#invite").get_by_label("Role").select_option("lead")
    page.get_by_role("button", name="Make the link").click()
    expect(page.locator("#invite-result")).to_be_visible()
    link = page.locator("#invite-link").input_value()
    assert invitations.find_open_invitation(shared.store, link.rpartition("/")[2]).role == "lead"


def test_a_thousand_people_are_found_sorted_and_paged(serve, page):
    server = serve([pair("Which?", "yes", "no", overlap=3)])
    with server.store.write() as conn:
        made = [people._make_rater_row(f"rater {i}", Role.RATER, simulated=False, source="") for i in range(999)]
        server.store.insert_new(conn, raters, [r | {"password_hash": None} for r in made])
    judge(server, people.get_rater_by_name(server.store, "rater 700"), 5.0)
    people.change_rater(server.store, "rater 31", paused=True, languages=["pt-br"])
    open_people(page, server, "lea")
    rows = page.locator("#people-rows tr")
    expect(rows).to_have_count(50)
    expect(rows.first.locator("bdi")).to_have_text("rater 700")
    expect(page.locator("#shown-range")).to_have_text("1–50 of 1,000")

    next_page = page.get_by_role("button", name="Next")
    next_page.focus()
    for _ in range(25):  # more often than there are pages
        page.keyboard.press("Enter")
    expect(page.locator("#shown-range")).to_have_text("951–1,000 of 1,000")
    expect(next_page).to_be_focused()
    page.locator("#people-rows tr").last.scroll_into_view_if_needed()
    expect(next_page).to_be_in_viewport()
    expect(next_page).to_have_attribute("aria-disabled", "true")

    by_name = page.get_by_role("button", name="Name")
    by_name.focus()
    page.keyboard.press("Enter")
    expect(page.locator('[data-sort="name"]')).to_have_attribute("aria-sort", "ascending")
    expect(page.locator("[aria-sort]")).to_have_count(1)
    expect(rows.nth(3).locator("bdi")).to_have_text("rater 2")  # after lea, 0 and 1: numbers count as such
    page.keyboard.press("Enter")
    expect(page.locator('[data-sort="name"]')).to_have_attribute("aria-sort", "descending")
    expect(rows.first.locator("bdi")).to_have_text("rater 998")
    page.get_by_role("button", name="Median time").click()
    expect(rows.first.locator("bdi")).to_have_text("rater 700")
    page.get_by_role("button", name="Median time").click()
    expect(rows.first.locator("bdi")).to_have_text("rater 700")  # who has none comes last, either way round

    find = page.get_by_role("searchbox")
    find.fill("PT-BR")
    expect(rows.locator("bdi")).to_have_text(["rater 31"])
    find.fill("paused")
    expect(rows.locator("bdi")).to_have_text(["rater 31"])
    find.fill("nobody at all")
    expect(rows).to_have_count(0)
    expect(page.locator("#shown-range")).to_have_text("nobody found")


# Gradio cuts off what is too wide, so the width of the document does not tell.
INSIDE = """panel => [...panel.querySelectorAll("*")].filter(e => !e.closest(".visually-hidden"))
    .map(e => e.getBoundingClientRect()).every(e => e.left >= 0 && e.right <= panel.getBoundingClientRect().right)"""


def test_the_page_fits_the_screen(shared, page):
    long = "w" * 145
    rater = shared.person(long)
    people.change_rater(shared.store, long, languages=[f"language-{i}" for i in range(30)], quota=2_000_000_000)
    open_people(page, shared, "lead-of-many")
    for width in (1280, 1181, 768, 390, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.locator("#staff").evaluate(INSIDE)
        assert page.locator("#staff").evaluate("panel => panel.getBoundingClientRect().right") <= width
        edit(page, long)
        box = page.locator("#edit").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Invite somebody").click()
        expect(page.get_by_role("button", name="Make the link")).to_be_visible()
        page.keyboard.press("Escape")
    row(page, long).get_by_role("button", name="Pause").click()
    expect(cell(page, long, "State")).to_have_text("paused")
    assert people.get_rater(shared.store, rater.id).paused


def test_who_is_signed_out_in_between_is_told_and_nothing_changes(shared, page, context):
    rater = shared.person("sam")
    open_people(page, shared, "lead-of-sam")
    context.clear_cookies()
    row(page, "sam").get_by_role("button", name="Pause").click()
    expect(page.locator("#notice")).to_contain_text("signed out")
    assert people.get_rater(shared.store, rater.id) == rater


@only_to_draw
def test_pictures_of_the_people(serve, shot):
    server = serve([pair(f"Question {i}?", "yes", "no", overlap=12) for i in range(150)])
    store = server.store
    projects.add_project(store, "coding", open=False)
    staff = [  # name, quota, languages, seconds a judgment, judgments on each of the last days
        ("Amina Okafor", 40, ["en", "fr"], 31.0, (5, 9, 12, 7, 0, 14, 11, 26)),
        ("Bohdan Kovalenko", 30, ["en", "uk"], 44.0, (0, 6, 8, 10, 4, 9, 6, 30)),
        ("Chen Li", None, ["en", "zh"], 26.0, (8, 4, 10, 12, 3, 8, 12, 17)),
        ("Dolores Ibárruri Vega", 60, ["es"], 52.0, (0, 0, 4, 6, 2, 5, 9, 12)),
        ("Elif Şahin", None, [], 38.0, (3, 2, 5, 0, 1, 6, 4, 9)),
        ("Farah Haddad", 25, ["ar", "en"], 61.0, (2, 4, 6, 3, 0, 7, 5, 0)),
    ]
    for name, quota, languages, seconds, days in staff:
        rater = server.person(name)
        people.change_rater(store, name, quota=quota, languages=languages)
        people.change_rater(store, name, quota=0)  # while the past is made
        for ago, n in enumerate(reversed(days)):
            judge(server, rater, *(seconds + i % 7 for i in range(n)), days_ago=ago)
        people.change_rater(store, name, quota=quota or 0)
    people.change_rater(store, "Elif Şahin", paused=True)
    people.change_rater(store, "Farah Haddad", disabled=True)
    for name in ("Amina Okafor", "Chen Li"):
        projects.add_member(store, "coding", name)
    simulate.judge_queue(store, 12)
    server.person("Lea Lindqvist", Role.LEAD)
    look = {"who": "Lea Lindqvist", "ready": "#people-rows tr:nth-child(7)", "path": "/people/"}
    shot(server, "people-light", **look, height=860)
    shot(server, "people-dark", **look, height=860, dark=True)
    shot(server, "people-phone", **look, width=390, height=844)

    def change_somebody(page) -> None:
        edit(page, "Dolores Ibárruri Vega")

    shot(server, "people-change", **look, then=change_somebody, height=860)
