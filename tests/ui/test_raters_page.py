"""The page of raters in a real Chromium: figures with intervals, findings with reasons, pausing and overruling."""

from __future__ import annotations

import re
from datetime import timedelta

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from browser_fixtures import Server, enter, expect, pair
from rlhf_hitl.labels.checks import check_raters
from rlhf_hitl.labels.kept_fits import fit_and_keep_labels
from rlhf_hitl.store import people
from rlhf_hitl.store.findings import list_findings
from rlhf_hitl.store.judgments import insert_imported_judgments, judgment_to_row
from rlhf_hitl.store.people import insert_imported_raters
from rlhf_hitl.store.tables import judgments
from rlhf_hitl.types import Answer, Rater, Role, Route, Verdict, utc_now

pytestmark = pytest.mark.browser

FITS = "[...document.querySelectorAll('#raters *')].every(e => e.getBoundingClientRect().right <= innerWidth + 1)"
HOSTILE = "<img src=x onerror=window.pwned=1>"


def fill(server: Server) -> dict[str, Rater]:
    """People who agree mostly, one who always chooses the left, a model, a simulated and an imported rater."""
    store = server.store
    names = ["ann", "bea", "cem", "dao", "left"]
    raters = {name: server.person(name) for name in names}
    raters["judge"] = people.add_rater(store, "judge", Role.JUDGE)
    raters["sim"] = people.add_rater(store, "sim", Role.RATER, simulated=True)
    rng = np.random.default_rng(0)
    rows, begin = [], utc_now() - timedelta(days=2)
    for n, comparison in enumerate(COMPARISONS):
        a, b = rng.permutation([c.id for c in comparison.completions]).tolist()
        for name, rater in raters.items():
            shown = [a, b] if rng.random() < 0.5 else [b, a]
            better = shown[0] if name == "left" else a if rng.random() < 0.85 else b
            answer = Answer(
                Verdict.RANKED, ((better,), (b if better == a else a,)), active_seconds=float(rng.lognormal(3, 0.4))
            )
            at = begin + timedelta(hours=3 * (n // 12), seconds=30 * n)
            circumstances = {"comparison_id": comparison.id, "rater_id": rater.id, "order_shown": shown}
            circumstances |= {"route": Route.HUMAN.value, "source": "", "simulated": name == "sim", "created_at": at}
            role = "judge" if name == "judge" else None
            rows.append(judgment_to_row(answer, **circumstances, role=role, idempotency_key=f"{name} {n}"))
    with store.write() as conn:
        conn.execute(judgments.insert(), rows)
        ids, _ = insert_imported_raters(store, conn, [HOSTILE], "crowd")
        votes = [
            {"comparison_id": c.id, "rater_id": ids[HOSTILE], "order_shown": [x.id for x in c.completions]}
            | {"answer": Answer(Verdict.ALL_BAD), "source": "crowd", "idempotency_key": c.id}
            for c in COMPARISONS[:5]
        ]
        insert_imported_judgments(store, conn, votes)
    return raters


COMPARISONS = [pair(f"Question {i}?", f"First to {i}.", f"Second to {i}.", overlap=9) for i in range(48)]


def open_raters(page, server: Server) -> Rater:
    lead = server.person("lea", Role.LEAD)
    enter(page, server, "lea")
    page.get_by_role("link", name="Raters", exact=True).click()
    expect(page.locator("#rater-rows tr").first).to_be_visible(timeout=30_000)
    return lead


def row(page, name: str):
    return page.locator("#rater-rows tr").filter(has=page.locator("bdi").get_by_text(name, exact=True))


def assert_accessible(page) -> None:
    found = [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in Axe().run(page).response["violations"]]
    assert found == []


def test_a_lead_sees_how_raters_do_and_why_one_was_paused(serve, page):
    server = serve(COMPARISONS)
    fill(server)
    check_raters(server.store)
    open_raters(page, server)
    expect(page.locator("#fit-note")).to_contain_text("rlhf-hitl labels fit")
    left = row(page, "left")
    reasons, last = left.locator("details"), left.locator(".reason").last
    expect(last).to_contain_text("Chose the answer shown first in 100 % of 48 votes")
    expect(last).to_be_hidden()
    folded = left.bounding_box()["height"]
    assert folded < 100, "one line of figures, and one of what was found"
    assert reasons.bounding_box()["width"] > 0.9 * left.bounding_box()["width"]
    reasons.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(last).to_be_visible()
    assert left.bounding_box()["height"] < folded + 60
    expect(left.locator(".marks")).to_have_text("paused")
    expect(row(page, "judge").locator(".marks")).to_have_text("model")
    expect(row(page, "sim").locator(".marks")).to_have_text("simulated")
    expect(row(page, f"crowd:{HOSTILE}").locator(".marks")).to_have_text("imported")
    assert page.evaluate("window.pwned") is None
    plot = row(page, "ann").locator('td[data-label="Agreement"] svg')
    expect(plot).to_have_attribute("aria-label", re.compile(r"Agreement of ann: \d+%, 95 %: \d+% to \d+%"))
    assert page.evaluate(FITS)
    assert_accessible(page)
    fit_and_keep_labels(server.store, "raters")
    page.locator("#reload").click()
    expect(page.locator("#fit-note")).to_contain_text("Reliability as fitted")
    expect(last).to_be_visible()  # as it was before the page was loaded anew
    expect(row(page, "ann").locator('td[data-label="Reliability"] svg')).to_be_visible()
    # Sorted by a column, by the keyboard.
    page.get_by_role("button", name="Reliability").focus()
    page.keyboard.press("Enter")
    expect(page.locator('th[data-sort="reliability"]')).to_have_attribute("aria-sort", "descending")
    reliabilities = page.locator('#rater-rows td[data-label="Reliability"] .value').all_inner_texts()
    values = [float(text.split()[0]) for text in reliabilities]
    assert len(values) >= 7
    assert values == sorted(values, reverse=True)
    page.locator("#search").fill("left")
    expect(page.locator("#rater-rows tr")).to_have_count(1)
    page.locator("#search").fill("")
    page.evaluate("document.body.classList.add('dark')")
    assert_accessible(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(FITS)
    assert_accessible(page)


def test_a_lead_overrules_with_a_reason_and_the_rater_works_again(serve, page):
    server = serve(COMPARISONS)
    raters = fill(server)
    check_raters(server.store)
    lead = open_raters(page, server)
    row(page, "left").get_by_role("button", name="Overrule").click()
    dialog = page.locator("#detail")
    expect(dialog.locator("textarea")).to_be_focused()
    expect(dialog.locator("#session-plots svg")).to_have_count(2)
    expect(dialog.locator("#finding-list")).to_contain_text("Chose the answer shown first")
    assert_accessible(page)
    dialog.locator("textarea").fill("The page was broken that day.")
    dialog.get_by_role("button", name="Overrule").click()
    expect(dialog).to_be_hidden()
    expect(row(page, "left").locator(".marks")).to_have_text("")
    expect(row(page, "left").locator(".name-button")).to_be_focused()
    findings = list_findings(server.store, raters["left"].id)
    assert {(f.overruled_by, f.overruled_because) for f in findings} == {(lead.id, "The page was broken that day.")}
    assert not people.get_rater(server.store, raters["left"].id).paused
    row(page, "left").locator(".name-button").click()
    expect(dialog.locator("#finding-list")).to_contain_text("Overruled by lea")
    page.keyboard.press("Escape")
    # The same evidence does not count again, neither by the button.
    page.get_by_role("button", name="Check now").click()
    expect(page.locator("#announce")).to_have_text("Checked. New findings: 0")
    row(page, "ann").get_by_role("button", name="Pause").click()
    expect(row(page, "ann").locator(".marks")).to_have_text("paused")
    assert people.get_rater(server.store, raters["ann"].id).paused


def test_a_paused_rater_reads_that_they_are_and_whom_to_ask_and_not_why(serve, page):
    server = serve(COMPARISONS)
    fill(server)
    server.person("lea", Role.LEAD)
    check_raters(server.store)
    enter(page, server, "left")
    section = page.locator("#unqualified")
    expect(section).to_contain_text("You are paused for now", timeout=30_000)
    expect(section).to_contain_text("Ask lea.")
    assert "shown first" not in page.content()
    response = page.goto(server.address + "/raters/")
    assert response.status in (403, 404) or "/raters" not in page.url
