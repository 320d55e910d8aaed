"""The pages in a real Chromium, served by a real server: what a rater does and what the store then holds."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from browser_fixtures import (
    PASSWORD,
    Server,
    answers,
    choose,
    enter,
    expect,
    ids_by_text,
    judgments,
    only_to_draw,
    open_rating_page,
    pair,
    question,
    until_next,
    until_sent,
)
from rlhf_hitl import simulate
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.routing.router import RoutingConfig, route_pool
from rlhf_hitl.routing.scoring import score_pool
from rlhf_hitl.store import invitations, people, queue, sign_in
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, read_routings
from rlhf_hitl.store.scores import insert_scores
from rlhf_hitl.store.tables import places
from rlhf_hitl.types import Answer, Comparison, Message, Role, Route, Score, Verdict, utc_now
from rlhf_hitl.ui import INTERFACE_VERSION

pytestmark = pytest.mark.browser


# --- rating


def by_keys(*keys: str):
    def act(page):
        for key in keys:
            page.keyboard.press(key)

    return act


def by_mouse(name: str):
    def act(page):
        choose(page, name).click()
        page.get_by_role("button", name="Submit").click()

    return act


def by_double_click(name: str):
    return lambda page: choose(page, name).dblclick()


def flag_with_reason(page):
    page.keyboard.press("f")
    page.keyboard.press("4")
    page.keyboard.press("r")
    page.keyboard.type("1 of these tells a secret; 7 B S F U ?")
    page.keyboard.press("Control+Enter")


def reason_then_escape(page):
    page.keyboard.press("5")
    page.keyboard.press("r")
    page.keyboard.type("B gets the 3 steps right")
    page.keyboard.press("Enter")
    page.keyboard.type("and is shorter")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")


def by_tab_and_space(page):
    choose(page, "B2").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")


RANKED = Verdict.RANKED
# (what the rater does, verdict, ranks by position shown, strength, rationale)
TEN = [
    (by_keys("1", "Enter"), RANKED, (1, 2), 3, ""),
    (by_mouse("A2"), RANKED, (1, 2), 2, ""),
    (by_double_click("A1"), RANKED, (1, 2), 1, ""),
    (by_keys("0", "Enter"), RANKED, (1, 1), None, ""),
    (reason_then_escape, RANKED, (2, 1), 1, "B gets the 3 steps right\nand is shorter"),
    (by_tab_and_space, RANKED, (2, 1), 2, ""),
    (by_keys("1", "4", "7", "Enter"), RANKED, (2, 1), 3, ""),
    (by_keys("b", "Enter"), Verdict.ALL_BAD, (), None, ""),
    (by_mouse("skipped"), Verdict.SKIPPED, (), None, ""),
    (flag_with_reason, Verdict.FLAGGED, (), None, "1 of these tells a secret; 7 B S F U ?"),
]


def test_ten_comparisons_rated_by_mouse_and_keys_are_whole_in_the_database(shared, page):
    rater = open_rating_page(page, shared, "ten")
    ids = ids_by_text(shared)
    seen = []
    for n, (act, *_) in enumerate(TEN):
        expect(page.locator("#progress")).to_contain_text(f"Today: {n}")
        seen.append((question(page), [ids[text] for text in answers(page)]))
        act(page)
        until_next(page, seen[-1][0])
    expect(page.locator("#progress")).to_contain_text("Today: 10 · left for you: a few")

    kept = judgments(shared, rater)
    by_question = {x.prompt.messages[-1].content: x for x in find_comparisons(shared.store)}
    assert len(kept) == 10
    for judgment, (asked, shown), (_, verdict, ranks, strength, rationale) in zip(kept, seen, TEN, strict=True):
        ranking = tuple(tuple(i for i, r in zip(shown, ranks, strict=True) if r == rank) for rank in sorted(set(ranks)))
        said = judgment.answer
        assert judgment.comparison_id == by_question[asked].id
        assert judgment.order_shown == tuple(shown)
        assert (said.verdict, said.ranking, said.strength, said.rationale) == (verdict, ranking, strength, rationale)
        assert (dict(said.scores), said.rewrite) == ({}, "")
        assert 0 < said.active_seconds < 120
        assert (judgment.rater_id, judgment.route, judgment.reward_model_id) == (rater.id, Route.HUMAN, None)
        assert (judgment.guideline_version, judgment.interface_version) == ("default-1", INTERFACE_VERSION)
        assert judgment.idempotency_key.startswith("l_")
        assert (judgment.supersedes, judgment.surplus, judgment.simulated, judgment.source) == (None, False, False, "")
    assert len({j.idempotency_key for j in kept}) == 10


def test_undo_brings_the_last_answer_back_and_supersedes_it(shared, page):
    rater = open_rating_page(page, shared, "undoer")
    first = question(page)
    page.keyboard.press("2")
    page.keyboard.press("r")
    page.keyboard.type("because")
    page.keyboard.press("Control+Enter")
    until_next(page, first)
    second = question(page)
    page.keyboard.press("7")

    page.keyboard.press("u")
    until_next(page, second)
    assert question(page) == first
    expect(choose(page, "A2")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#rationale")).to_have_value("because")
    page.keyboard.press("6")
    page.keyboard.press("Enter")
    until_next(page, first)

    assert question(page) == second
    expect(choose(page, "B3")).to_have_attribute("aria-pressed", "true")
    old, new = judgments(shared, rater, current=False)
    assert new.supersedes == old.id
    assert (new.answer.strength, new.answer.rationale) == (2, "because")
    assert new.answer.ranking == old.answer.ranking[::-1]
    assert new.answer.active_seconds >= old.answer.active_seconds
    assert new.order_shown == old.order_shown
    assert [j.id for j in judgments(shared, rater)] == [new.id]
    expect(page.locator("#progress")).to_contain_text("Today: 1")


def test_leaving_an_undo_changes_nothing(shared, page):
    rater = open_rating_page(page, shared, "changed-my-mind")
    first = question(page)
    by_mouse("B1")(page)
    until_next(page, first)
    second = question(page)
    page.get_by_role("button", name="Undo").click()
    until_next(page, second)
    page.get_by_role("button", name="Leave it as it was").click()
    until_next(page, first)
    assert question(page) == second
    assert len(judgments(shared, rater, current=False)) == 1


def test_the_tab_opened_last_is_in_use_and_the_draft_goes_with_it(shared, page, context):
    rater = open_rating_page(page, shared, "two-tabs")
    first = question(page)
    page.keyboard.press("2")
    page.locator("#rationale").fill("begun in the first tab")
    other = context.new_page()
    other.goto(shared.address + "/rate/")
    expect(other.locator("#prompt .text").last).to_have_text(first)
    expect(other.locator("#rationale")).to_have_value("begun in the first tab")
    expect(page.locator("#other-tab")).to_contain_text("another tab")
    page.keyboard.press("7")
    page.keyboard.press("Enter")
    other.bring_to_front()
    by_keys("Enter")(other)
    until_next(other, first)
    page.get_by_role("button", name="Rate here").click()
    expect(other.locator("#other-tab")).to_be_visible()
    expect(page.locator("#prompt .text").last).to_have_text(question(other))
    assert [(j.answer.strength, j.answer.rationale) for j in judgments(shared, rater)] == [
        (2, "begun in the first tab")
    ]


def test_signed_out_in_mid_answer_keeps_the_answer_and_sends_it_after_signing_in(shared, page, context):
    rater = open_rating_page(page, shared, "signed-out")
    context.clear_cookies()
    page.keyboard.press("3")
    page.locator("#rationale").fill("typed before the session was gone")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#notice")).to_contain_text("You are signed out")
    assert judgments(shared, rater) == []
    page.locator("#notice").get_by_role("button", name="Sign in").click()
    page.get_by_label("Name").fill("signed-out")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#progress")).to_contain_text("Today: 1")
    until_sent(page)
    (kept,) = judgments(shared, rater)
    assert (kept.answer.strength, kept.answer.rationale) == (1, "typed before the session was gone")


def test_a_disabled_rater_is_told_and_nothing_more_is_taken(shared, page):
    rater = open_rating_page(page, shared, "disabled-one")
    people.change_rater(shared.store, "disabled-one", disabled=True)
    by_keys("1", "Enter")(page)
    expect(page.locator("#notice")).to_contain_text("You are signed out")
    assert judgments(shared, rater) == []


def test_help_and_guidelines_open_and_close_by_key_and_take_no_answer(shared, page):
    open_rating_page(page, shared, "helped")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("g")
    expect(page.locator("#guideline")).to_contain_text("Harmless")
    page.keyboard.press("Escape")
    expect(choose(page, "A3")).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()


def test_the_page_fits_the_screen(shared, page):
    rater = open_rating_page(page, shared, "a phone")
    for width in (1280, 768, 390, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    first = question(page)
    by_mouse("B2")(page)
    until_next(page, first)
    assert len(judgments(shared, rater)) == 1


def test_an_invitation_leads_to_the_first_comparison_and_is_used_up(shared, page, context):
    link = f"{shared.address}/invite/{invitations.add_invitation(shared.store, Role.RATER)}"
    shared.person("ivo")
    page.goto(link)
    page.get_by_label("Name").fill("ivo")
    page.get_by_label("Password").fill("a word of my own")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert")).to_contain_text("free")
    page.get_by_label("Name").fill("ivana")
    page.get_by_label("Password").fill("a word of my own")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="I have read them").click(timeout=30_000)
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    assert sign_in.verify_password(shared.store, "ivana", "a word of my own") is not None
    late = context.new_page()
    late.goto(link)
    expect(late.get_by_role("main")).to_contain_text("used up")


def test_a_rater_is_refused_the_leads_page(shared, page, context):
    open_rating_page(page, shared, "curious")
    for path in ("/lead", "/lead/", "/lead/config", "/rate/../lead/", "/lead/gradio_api/info"):
        assert context.request.get(shared.address + path).status == 403, path


# --- what is shown


HOSTILE = """<script>window.pwned = 1</script> <img src=x onerror="window.pwned = 2">

<svg onload="window.pwned = 3"></svg> ![beacon](https://evil.invalid/pixel.png)
[click](javascript:window.pwned=4) [site](https://evil.invalid/page)

<style>#bar { display: none !important }</style> <iframe src="https://evil.invalid"></iframe>
\u202eesrever ${window.pwned = 5} {{window.pwned = 6}}"""


def test_hostile_answers_run_nothing_fetch_nothing_and_leave_the_page_usable(serve, page):
    server = serve(
        [
            pair(f"{HOSTILE} first?", HOSTILE, "word" * 25_000),
            pair("and then?", "fine", "**also fine**\n\n" + "a long paragraph of words. " * 2_000),
        ]
    )
    requests = []
    page.on("request", lambda r: requests.append(r.url))
    rater = open_rating_page(page, server, "rater")
    for _ in range(2):
        expect(page.locator("#bar")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        for href in page.locator("#card a").evaluate_all("links => links.map(a => a.href)"):
            assert href.startswith("https://evil.invalid/")
        before = question(page)
        by_keys("1", "Enter")(page)
        expect(page.locator("#prompt").filter(has_text=before)).to_have_count(0)
    until_sent(page)
    assert page.evaluate("window.pwned") is None
    assert [u for u in requests if not u.startswith(server.address)] == []
    assert len(judgments(server, rater)) == 2
    expect(page.locator("#empty")).to_contain_text("Nothing left for you to judge")
    with server.store.write() as conn:
        insert_comparisons(server.store, conn, [pair("one more?", "yes", "no")])
    page.get_by_role("button", name="Look again").click()
    expect(page.locator("#prompt")).to_contain_text("one more?")


def test_a_conversation_shows_who_said_what(serve, page):
    chat = (Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi."))
    server = serve([pair("How are you?", "Well.", "I am a machine.", chat=chat)])
    open_rating_page(page, server, "rater")
    turns = page.locator("#prompt .turn")
    assert turns.evaluate_all("t => t.map(e => e.className)") == [
        "turn system",
        "turn user",
        "turn assistant",
        "turn user",
    ]
    assert turns.locator(".speaker").all_inner_texts() == ["System", "User", "Assistant", "User"]


def test_many_answers_are_ranked_by_keys_with_ties(serve, page):
    server = serve([pair("Name a colour.", "Red", "Green", "Blue", "Grey")])
    rater = open_rating_page(page, server, "rater")
    ids = ids_by_text(server)
    shown = [ids[text] for text in answers(page)]
    by_keys("2", "1", "2", "4", "Enter")(page)
    expect(page.locator("#empty")).to_be_visible()
    until_sent(page)
    (kept,) = judgments(server, rater)
    assert kept.answer.ranking == ((shown[1],), (shown[0], shown[2]), (shown[3],))
    assert kept.order_shown == tuple(shown)


def routed(server: Server, route: Route) -> Comparison:
    """The store's first comparison, scored and routed by a model, with figures that are easy to find again."""
    comparison = next(find_comparisons(server.store))
    first, second = comparison.completions
    model = RewardModelRecord("rm_hidden", "head", "nowhere", "backbone-x", "hash", simulated=False)
    add_reward_model(server.store, model)
    score = Score(comparison.id, model.id, first.id, second.id, 1.2345678, 0.8765432, 0.7654321)
    insert_scores(server.store, [score])
    decision = Routing(comparison.id, route, Route.AUTO, "margin-too-small", reward_model_id=model.id)
    apply_routings(server.store, [decision])
    return comparison


def test_no_byte_names_a_policy_a_score_or_a_route_before_the_submit_or_after(serve, page, context):
    server = serve([pair("Which?", "This one.", "That one.")])
    comparison = routed(server, Route.CONTROL)
    responses = []
    page.on("response", lambda r: responses.append(r))
    rater = server.person("rater")
    context.request.post(server.address + "/login", form={"name": "rater", "password": PASSWORD})
    page.goto(server.address + "/rate/")
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    page.keyboard.press("d")
    expect(page.locator("#open-difference")).to_have_attribute("aria-pressed", "true")
    by_keys("1", "Enter")(page)
    expect(page.locator("#empty")).to_be_visible()
    until_sent(page)
    page.keyboard.press("h")
    page.locator("#history-list button").click()
    expect(page.locator("#notice")).to_contain_text("You are changing an answer")
    by_keys("2", "Enter")(page)
    expect(page.locator("#empty")).to_be_visible()
    until_sent(page)

    sent = b"\n".join(
        part
        for r in responses
        if "/assets/" not in r.url and r.status == 200
        for part in (json.dumps(r.all_headers()).encode(), r.body())
    ).lower()
    calls = b"\n".join(r.body() for r in responses if "component_server" in r.url).lower()
    assert b"this one." in calls, "the answers themselves were among what was searched"
    hidden = ["secret-policy", "0.7350918", "1.2345678", "0.8765432", "0.7654321", "rm_hidden", "margin-too-small"]
    hidden += [comparison.id, comparison.prompt.id, *(c.id for c in comparison.completions)]
    assert [word for word in hidden if word.encode() in sent] == []
    # Gradio's own configuration may use these plain words; what the page is told of a comparison may not.
    assert [route for route in Route if f'"{route.value}"'.encode() in calls] == []
    assert b"control" not in calls
    assert {(j.route, j.reward_model_id) for j in judgments(server, rater)} == {(Route.CONTROL, "rm_hidden")}


# --- the connection, the lease, the lead


def test_a_server_killed_in_mid_answer_loses_neither_the_answer_nor_the_sign_in(serve, page):
    server = serve([pair(f"Question {i}?", "yes", "no") for i in range(2)])
    rater = open_rating_page(page, server, "rater")
    first = question(page)
    page.locator("#rationale").fill("written while the server was up")
    server.kill()
    page.keyboard.press("Escape")
    by_keys("6", "Enter")(page)
    expect(page.locator("#notice")).to_contain_text("Your answers are kept")
    server.start()
    expect(page.locator("#rating")).to_have_attribute("data-unsent", "0", timeout=60_000)  # it tries again by itself
    assert question(page) != first
    (kept,) = judgments(server, rater)
    assert (kept.answer.strength, kept.answer.rationale) == (2, "written while the server was up")
    page.reload()
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    expect(page.locator("#notice")).to_be_hidden()


def expire_leases(server: Server) -> None:
    with server.store.write() as conn:
        past = utc_now() - timedelta(minutes=1)
        conn.execute(places.update().where(places.c.leased_until.is_not(None)).values(leased_until=past))


def test_an_answer_after_the_lease_ran_out_is_kept_and_the_rater_is_told_when_it_is_extra(serve, page):
    server = serve([pair("Only one place?", "yes", "no")])
    late = open_rating_page(page, server, "late")
    quick = server.person("quick")
    expire_leases(server)
    lease = queue.lease(server.store, quick.id, seconds=1800)
    assert lease is not None
    assert queue.submit(server.store, lease.id, quick.id, Answer(Verdict.SKIPPED)).outcome == "counted"
    by_keys("1", "Enter")(page)
    expect(page.locator("#notice")).to_contain_text("kept, but counted as extra")
    (kept,) = judgments(server, late)
    assert kept.surplus


def test_a_lead_sees_the_work_and_sends_an_accepted_comparison_to_a_raters_screen(serve, page, context, chromium):
    server = serve([pair("Was the model right?", "surely", "<b>hardly</b>")])
    comparison = routed(server, Route.AUTO)
    lead = server.person("lead", Role.LEAD)
    enter(page, server, "lead")
    expect(page.locator(".figure")).to_have_count(5)
    expect(page.locator(".accepted")).to_contain_text("Was the model right?")
    expect(page.locator(".accepted")).to_contain_text("<b>hardly</b>")
    expect(page.locator(".accepted")).to_contain_text("1.23")

    other = chromium.new_context()
    rater_page = other.new_page()
    server.person("rater")
    enter(rater_page, server, "rater")
    expect(rater_page.locator("#empty")).to_be_visible()
    page.get_by_role("button", name="Send to raters").click()
    expect(page.locator(".accepted")).to_have_count(0)
    rater_page.get_by_role("button", name="Look again").click()
    expect(rater_page.locator("#prompt")).to_contain_text("Was the model right?")
    other.close()
    decision = read_routings(server.store)[-1]
    assert (decision.comparison_id, decision.route, decision.decided_by) == (comparison.id, Route.ESCALATED, lead.id)


# --- pictures for the documentation


@only_to_draw
def test_the_leads_page_after_a_round(serve, shot, tiny_model, tmp_path):
    # By the real path: simulated raters (the page says so), a head, a routing.
    long = [" ".join(f"{n} comes before {n + 1}," for n in range(i, i + 12)) + " and so on." for i in range(300)]
    made = [pair(f"Count on from {i}.", "no " * (i % 9 + 2), long[i]) for i in range(300)]
    later = serve(made[:250])
    later.person("lead", Role.LEAD)
    simulate.judge_queue(later.store, 250)
    model = train_head(later.store, Backbone(str(tiny_model)), tmp_path)
    with later.store.write() as conn:
        insert_comparisons(later.store, conn, made[250:])
    score_pool(later.store, model)
    route_pool(later.store, model, RoutingConfig(max_error=0.25, delta=0.1, control_share=0.25), round=1)
    simulate.judge_queue(later.store, 18)
    shot(later, "lead-light", "lead", ".accepted", height=1000)
    shot(later, "lead-dark", "lead", ".accepted", height=1000, dark=True)
    shot(later, "lead-phone", "lead", ".accepted", width=390, height=844)
