"""On the lead's page: how far raters agree and what they reward, as the report has it."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from browser_fixtures import Server, enter, expect
from handmade_votes import fill, put_comparisons, vote
from rlhf_hitl.labels.agreement import measure_store_agreement
from rlhf_hitl.labels.bias import measure_bias
from rlhf_hitl.types import Role

pytestmark = pytest.mark.browser

RENEWAL_MS = 20_000
HOSTILE = "<img src=x onerror=alert(1)>"


def add_votes(server: Server, n: int = 200) -> list[str]:
    raters = [server.person(f"rater {i}").id for i in range(3)]
    fill(server.store, raters, n, votes=3, tastes={"position": 0.6, HOSTILE: 1.0}, policies=(HOSTILE, "plain"))
    return raters


def open_page(page, server: Server) -> None:
    server.person("lea", Role.LEAD)
    enter(page, server, "lea")
    expect(page.locator("#bias-rows > div")).to_have_count(7, timeout=60_000)


def find_row(page, title: str):
    return page.locator(".strips > div").filter(has=page.get_by_text(title, exact=True))


def test_the_page_shows_what_the_report_says(serve, page):
    server = serve()
    add_votes(server)
    open_page(page, server)
    agreement, bias = measure_store_agreement(server.store).people, measure_bias(server.store)
    assert agreement.alpha_nominal.value is not None
    expect(find_row(page, "Krippendorff's alpha, nominal")).to_contain_text(f"{agreement.alpha_nominal.value:.2f}")
    expect(find_row(page, "Pairwise agreement")).to_contain_text(f"{agreement.pairwise.value:.0%}")
    expect(page.locator("#agreement-note")).to_have_text("Among people: 600 votes on 200 comparisons.")
    first = next(e for e in bias.effects if e.key == "position")
    assert first.value is not None
    assert first.low is not None
    assert first.high is not None
    assert first.low > 0.5
    row = find_row(page, "shown first")
    expect(row).to_contain_text(f"{first.value:.0%}")
    expect(row).to_contain_text(f"95 %: {first.low:.0%} to {first.high:.0%}")
    # The point and the interval stand where the numbers say, on a scale from 0 to 1.
    strip, interval, point = (row.locator(of).bounding_box() for of in (".strip", ".interval", ".point"))
    assert strip is not None
    assert interval is not None
    assert point is not None
    assert (interval["x"] - strip["x"]) / strip["width"] == pytest.approx(first.low, abs=0.01)
    assert (interval["x"] + interval["width"] - strip["x"]) / strip["width"] == pytest.approx(first.high, abs=0.01)
    assert (point["x"] + point["width"] / 2 - strip["x"]) / strip["width"] == pytest.approx(first.value, abs=0.01)
    expect(find_row(page, "with a list")).to_contain_text("—")
    page.get_by_text("By policy").click()
    expect(find_row(page, f"by {HOSTILE}")).to_be_visible()
    expect(page.locator("#quality img")).to_have_count(0)


def test_while_figures_are_computed_the_page_says_so_and_keeps_room_for_them(serve, own_page, monkeypatch):
    # A setting that no other test has, for a server that has served none: figures of another test's store, which a
    # server keeps for a while, may take more room.
    monkeypatch.setenv("RLHF_HITL_CURRENCY", "CHF")
    server, page = serve(), own_page
    held = []

    def hold(route):
        if '"open"' in (route.request.post_data or ""):
            return route.continue_()
        return held.append(route)

    page.route("**/component_server/**", hold)
    server.person("lea", Role.LEAD)
    enter(page, server, "lea")
    expect(page.locator("#people-rows tr")).to_have_count(1, timeout=60_000)
    for where in ("#figures", "#agreement-rows", "#bias-rows"):
        said = page.locator(where).evaluate("node => getComputedStyle(node, '::before').content")
        assert said == '"Being computed from all judgments…"'
    before = page.locator("#queue-title").bounding_box()["y"]
    while held:
        held.pop().continue_()
    expect(page.locator("#bias-rows > div")).to_have_count(7, timeout=60_000)
    expect(page.locator("#figures > *")).to_have_count(5)
    assert abs(page.locator("#queue-title").bounding_box()["y"] - before) < 80


def test_before_anybody_has_voted_it_says_so_and_new_votes_come_by_themselves(serve, own_page):
    server, page = serve(), own_page
    page.clock.install()
    open_page(page, server)
    expect(page.locator("#agreement-note")).to_contain_text("No two people have judged the same pair")
    expect(find_row(page, "Gwet's AC1")).to_contain_text("—")
    expect(page.locator("#policies")).to_be_hidden()
    [one] = put_comparisons(server.store, 1)
    for rater in (server.person("ann").id, server.person("ben").id):
        vote(server.store, one, rater, ">")
    page.clock.fast_forward(RENEWAL_MS)
    expect(page.locator("#agreement-note")).to_have_text("Among people: 2 votes on 1 comparison.")
    expect(find_row(page, "Pairwise agreement")).to_contain_text("100%")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("light", 320)])
def test_the_panel_is_readable_by_everybody_at_every_width(serve, chromium, scheme, width):
    server = serve()
    add_votes(server, 60)
    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    open_page(page, server)
    page.get_by_text("By policy").click()
    assert Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for title in ("shown first", "Fleiss' kappa"):
        box = find_row(page, title).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width
    context.close()
