"""The catalog's page in a real Chromium: find, filter, open, send and name, by keys, on a phone, for who only looks."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from handmade_golds import gold_example

from browser_fixtures import Server, enter, expect, picture
from rlhf_hitl.store import audit, golds, people, queue
from rlhf_hitl.store.assignments import list_assignments
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.label_fits import make_label_row, save_labels
from rlhf_hitl.store.routings import read_routings
from rlhf_hitl.store.slices import list_slices
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Route, Verdict, utc_now
from rlhf_hitl.types.catalog import ComparisonFilter
from rlhf_hitl.ui.data_history import describe_history

pytestmark = pytest.mark.browser

TOPICS = ("birds", "bridges")
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> \u202e%_\'"'


def make_comparison(i: int) -> Comparison:
    prompt = Prompt.create(
        (Message("user", f"Question {i}: why do {TOPICS[i % 2]} hold?"),),
        {"topic": TOPICS[i % 2], "language": "en" if i % 3 else "de"},
    )
    policies = ("small", "large") if i % 4 else ("small", "tuned")
    answers = [
        Completion.create(prompt.id, (Message("assistant", f"**Because** of reason {i}, answer {j}."),), policy)
        for j, policy in enumerate(policies)
    ]
    return Comparison.create(prompt, answers, overlap=2)


def fill(server: Server, n: int = 40, judged: int = 12) -> list[Comparison]:
    """Comparisons of which some are judged by two raters, who do not always agree."""
    made = [make_comparison(i) for i in range(n)]
    with server.store.write() as conn:
        insert_comparisons(server.store, conn, made)
    for name in ("ann", "bob"):
        rater = people.add_rater(server.store, name, Role.RATER).id
        for i in range(judged):
            lease = queue.lease(server.store, rater, seconds=1800)
            order = sorted(lease.order_shown) if i % 3 or name == "ann" else sorted(lease.order_shown)[::-1]
            answer = Answer(Verdict.RANKED, tuple((id,) for id in order), 2, rationale=f"{name} finds it clearer")
            queue.submit(server.store, lease.id, rater, answer)
    return made


def test_the_consensus_is_shown_where_a_reward_model_votes_and_not_beside_a_label_that_it_repeats(sqlite_store):
    comparison = make_comparison(1)
    with sqlite_store.write() as conn:
        insert_comparisons(sqlite_store, conn, [comparison])
    first, second = (c.id for c in comparison.completions)
    for consensus, is_shown in (((0.5, 0.2, 0.3), False), ((0.3, 0.2, 0.5), True)):
        pair, label = (comparison.id, first, second), (0.5, 0.2, 0.3)
        row = make_label_row(pair, label, consensus, votes=1, weight=1.0, state="sure", fit_id=None, now=utc_now())
        save_labels(sqlite_store, [row])
        html = describe_history(sqlite_store, comparison.id, str)["html"]
        assert "A better 50%" in html
        assert ("Consensus" in html) is is_shown


def open_data(page, server: Server, *, role: Role = Role.LEAD, at: str = "") -> None:
    name = f"who {role.value}"
    server.person(name, role)
    enter(page, server, name)
    page.goto(f"{server.address}/data/{at}")
    until_found(page)


def until_found(page) -> None:
    expect(page.locator("#overview")).not_to_have_attribute("aria-busy", "true", timeout=30_000)
    expect(page.locator("#found")).to_have_text(re.compile(r"\d+ comparison"))
    expect(page.locator("#facets details").first).to_be_attached()


def found(page, n: int):
    noun = "comparison" if n == 1 else "comparisons"
    expect(page.locator("#found")).to_have_text(f"{n} {noun}")


def box(page, facet: str, value: str):
    return page.locator(f'#facets input[data-facet="{facet}"][data-value="{value}"]')


def open_facet(page, facet: str) -> None:
    details = page.locator(f'#facets details[data-key="{facet}"]')
    if details.get_attribute("open") is None:
        details.locator("summary").click()


@pytest.fixture
def server(serve) -> Server:
    return serve()


def test_filters_and_words_narrow_what_is_found_and_stand_in_the_address(page, server):
    fill(server)
    open_data(page, server)
    found(page, 40)
    expect(page.locator("#hits .hit")).to_have_count(25)
    page.click("#more")
    expect(page.locator("#hits .hit")).to_have_count(40)
    expect(page.locator("#more")).to_be_hidden()
    open_facet(page, "tag")
    box(page, "tag", "topic=birds").check()
    found(page, 20)
    expect(page.locator("#chips .chip")).to_have_text(["Tags: topic=birds ×"])
    assert "tag=topic%3Dbirds" in page.url
    page.fill("#words", "answer 7")
    found(page, 0)
    expect(page.locator("#nothing")).to_be_visible()
    page.fill("#words", "QUESTION 8")
    found(page, 1)
    expect(page.locator("#hits .asked")).to_have_text(["Question 8: why do birds hold?"])
    page.reload()
    until_found(page)
    found(page, 1)
    expect(page.locator("#words")).to_have_value("QUESTION 8")
    page.fill("#words", "")
    found(page, 20)
    page.locator("#chips .chip").click()
    found(page, 40)
    page.go_back()
    found(page, 20)


def test_one_opens_with_its_whole_history_and_back_leads_to_the_list(page, server):
    fill(server)
    open_data(page, server)
    open_facet(page, "agreement")
    box(page, "agreement", "split").check()
    found(page, 4)
    expect(page.locator("#hits .shares").first).to_have_attribute(
        "aria-label", "First better 50 %, tie 0 %, second better 50 %"
    )
    asked = page.locator("#hits .asked").first
    text = asked.inner_text()
    asked.click()
    expect(page.locator("#opened-title")).to_have_text(text)
    expect(page.locator(".judgment")).to_have_count(2)
    expect(page.locator(".judgment blockquote")).to_contain_text(["ann finds it clearer", "bob finds it clearer"])
    expect(page.locator("#history .answer-text strong").first).to_have_text("Because")
    assert "open=x_" in page.url
    page.click("#next")
    expect(page.locator("#opened-title")).not_to_have_text(text)
    page.go_back()
    expect(page.locator("#finder")).to_be_visible()
    page.go_forward()
    expect(page.locator("#opened")).to_be_visible()
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    expect(page.locator("#opened")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#finder")).to_be_visible()


def test_the_page_is_worked_with_keys_alone(page, server):
    fill(server, 6, 2)
    open_data(page, server)
    page.keyboard.press("/")
    expect(page.locator("#words")).to_be_focused()
    page.keyboard.type("bridges")
    found(page, 3)
    page.keyboard.press("Escape")
    expect(page.locator("#hits .asked").nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#hits .asked").nth(1)).to_be_focused()
    page.keyboard.press("x")
    expect(page.locator("#chosen-count")).to_have_text("1 chosen")
    second = page.locator("#hits .asked").nth(1).inner_text()
    page.keyboard.press("Enter")
    expect(page.locator("#opened-title")).to_have_text(second)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#opened-title")).not_to_have_text(second)
    page.keyboard.press("Escape")
    expect(page.locator("#hits .asked").nth(2)).to_be_focused()


def test_a_lead_sends_what_is_chosen_and_names_what_is_found(page, server):
    made = fill(server, 8, 3)
    people.change_rater(server.store, "ann", paused=True)
    open_data(page, server)
    for n in (0, 1):
        page.locator("#hits input").nth(n).check()
    page.locator('#actions [data-action="raters"]').click()
    expect(page.locator("#ask-what")).to_contain_text("2 comparisons")
    page.click("#ask-do")
    expect(page.locator("#announce")).to_have_text(re.compile("2 comparisons: 2 sent to raters"))
    assert [r.route for r in read_routings(server.store)] == [Route.ESCALATED] * 2
    page.fill("#words", "bridges")
    found(page, 4)
    page.locator('#actions [data-action="save"]').click()
    page.fill("#ask [name=name]", "bridges")
    page.click("#ask-do")
    expect(page.locator("#announce")).to_have_text(re.compile("Kept as the slice “bridges”"))
    assert [(s.name, s.filter) for s in list_slices(server.store)] == [("bridges", ComparisonFilter(words="bridges"))]
    page.locator('#actions [data-action="rater"]').click()
    page.click("#ask-do")
    expect(page.locator("#ask [name=rater]:invalid")).to_be_visible()
    expect(page.locator("#ask [name=rater] option")).to_have_text(["choose…", "ann (paused)", "bob", "who lead"])
    page.select_option("#ask [name=rater]", "bob")
    page.click("#ask-do")
    expect(page.locator("#announce")).to_have_text(re.compile("4 comparisons: .*reserved for bob"))
    assert {a.rater for a in list_assignments(server.store)} == {"bob"}
    page.locator("#hits .asked").first.click()
    page.locator('#opened-actions [data-action="adjudication"]').click()
    page.click("#ask-do")
    expect(page.locator("#announce")).to_have_text(re.compile("1 comparison: 1 sent to leads"))
    actions = {e.action for e in audit.list_entries(server.store)}
    assert {"comparison.sent_to_raters", "slice.added", "comparisons.assigned"} <= actions
    assert "comparison.sent_to_adjudication" in actions
    assert len(made) == 8


def test_of_golds_it_is_said_that_they_were_left_out(page, server):
    golds.add_golds(server.store, "default", [gold_example("Is water wet?")])
    open_data(page, server)
    page.locator("#hits input").first.check()
    for where in ("raters", "adjudication"):
        page.locator(f'#actions [data-action="{where}"]').click()
        page.click("#ask-do")
        expect(page.locator("#announce")).to_have_text("1 comparison: 1 left out, as golds or hidden repeats.")
        page.locator("#hits input").first.check()


def test_an_evaluator_looks_and_cannot_act(page, server):
    fill(server, 4, 1)
    open_data(page, server, role=Role.EVALUATOR)
    found(page, 4)
    expect(page.locator("#actions")).to_be_hidden()
    expect(page.locator("#hits input")).to_have_count(0)
    for name, sent in (("send", {"to": "raters", "filter": {}}), ("save", {"name": "a", "filter": {"words": "a"}})):
        said = call(page, name, sent)
        assert "expected a lead" in said["problem"]
    assert read_routings(server.store) == []
    assert list_slices(server.store) == []


def call(page, name: str, sent: dict) -> dict:
    """Call the server as the page does."""
    return page.evaluate(
        """async ([name, sent]) => {
            const component = window.gradio_config.components.find(({ props }) => props.elem_id === "page");
            const body = JSON.stringify({ fn_name: name, component_id: component.id, data: sent });
            const headers = { "content-type": "application/json" };
            return (await fetch("gradio_api/component_server/", { method: "POST", headers, body })).json();
        }""",
        [name, sent],
    )


def test_a_rater_cannot_open_the_page(page, server):
    fill(server, 1, 0)
    server.person("rae", Role.RATER)
    enter(page, server, "rae")
    response = page.goto(f"{server.address}/data/")
    assert response is not None
    assert response.status == 403


def test_hostile_texts_are_shown_and_do_nothing(page, server):
    prompt = Prompt.create((Message("user", f"Look {HOSTILE}"),), {"topic": "<b>bold</b>"})
    answers = [Completion.create(prompt.id, (Message("assistant", f"{HOSTILE} {j}"),), f"<i>p{j}") for j in range(2)]
    with server.store.write() as conn:
        insert_comparisons(server.store, conn, [Comparison.create(prompt, answers)])
    rater = people.add_rater(server.store, "ann", Role.RATER).id
    lease = queue.lease(server.store, rater, seconds=1800)
    queue.submit(server.store, lease.id, rater, Answer(Verdict.ALL_BAD, rationale=HOSTILE, rewrite=HOSTILE))
    open_data(page, server, at="#tag=" + "topic%3D%3Cb%3Ebold%3C%2Fb%3E")
    found(page, 1)
    expect(page.locator("#hits")).to_contain_text("<script>")
    page.locator("#hits .asked").click()
    expect(page.locator(".judgment blockquote").first).to_contain_text("<script>")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#data b b, #data i i").count() == 0


def test_an_address_that_makes_no_sense_is_explained(page, server):
    fill(server, 2, 0)
    server.person("lea", Role.LEAD)
    enter(page, server, "lea")
    page.goto(f"{server.address}/data/#colour=red")
    expect(page.locator("#notice")).to_contain_text("filter by 'colour'")
    page.goto(f"{server.address}/data/#open=x_none")
    page.reload()
    expect(page.locator("#notice")).to_contain_text("comparison 'x_none'")
    expect(page.locator("#hits .hit")).to_have_count(2)


@pytest.mark.parametrize("width", [1280, 390], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(chromium, server, width, scheme):
    fill(server)
    name = scheme if width > 900 else f"phone-{scheme}"
    context = chromium.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme)
    page = context.new_page()
    open_data(page, server, at="#agreement=split&agreement=unanimous")
    picture(page, f"data-{name}")
    if width < 900:
        page.click("#show-facets")
    findings = Axe().run(page).response["violations"]
    assert [(f["id"], [n["target"] for n in f["nodes"]]) for f in findings] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#hits .asked").first.click()
    expect(page.locator(".judgment")).to_have_count(2)
    findings = Axe().run(page).response["violations"]
    assert [(f["id"], [n["target"] for n in f["nodes"]]) for f in findings] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture(page, f"data-opened-{name}")
    context.close()
