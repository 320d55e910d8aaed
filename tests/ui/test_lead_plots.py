"""On the lead's page: plots with tables behind them, groups side by side, and the threshold that a lead chooses."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe

from browser_fixtures import Server, enter, expect, only_to_draw, picture
from handmade_work import make_history
from rlhf_hitl.store import audit
from rlhf_hitl.store.routing_targets import read_targets
from rlhf_hitl.types import Role

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def working(servers):
    """A server with three weeks of simulated work, and a lead."""
    with servers.server() as server:
        make_history(server.store, server.folder / "models")
        server.person("lea", Role.LEAD)
        yield server


def open_page(page, server: Server, at: str = "#project=default&view=trends") -> None:
    enter(page, server, "lea")
    page.goto(f"{server.address}/lead/{at}")
    page.reload()
    expect(page.locator("#trend-plots canvas")).to_have_count(9, timeout=60_000)
    expect(page.locator("#threshold-plot canvas")).to_have_count(1)


def read_row(page, key: str) -> str:
    return page.locator(f"#threshold-readout [data-key={key}] b").inner_text()


def test_a_plot_is_read_by_pointer_by_keys_and_as_a_table(working, page):
    open_page(page, working)
    expect(page.locator("#simulated-too")).to_be_visible()
    plot = page.locator("figure[data-key='day.accuracy']")
    plot.locator(".u-over").hover()
    expect(plot.locator(".plot-tip")).to_contain_text(re.compile(r"accuracy: \d+(\.\d)?% \("))
    slider = plot.get_by_role("slider")
    slider.focus()
    newest = slider.get_attribute("aria-valuetext")
    slider.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") != newest
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == newest
    plot.get_by_text("The figures as a table").click()
    expect(plot.locator("tbody tr")).to_have_count(21)
    page.locator("#trends-by").select_option("round")
    expect(page.locator("figure[data-key='round.accuracy'] canvas")).to_have_count(1)


def test_groups_are_sorted_worst_first_and_by_a_press_on_a_column(working, page):
    open_page(page, working)
    shares = page.locator("#group-rows td:nth-child(3)")

    def read() -> list[int]:
        return [int(text.split("%")[0]) for text in shares.all_inner_texts()]

    expect(shares).to_have_count(4)
    assert read() == sorted(read())
    page.get_by_role("button", name="Model right").click()
    assert read() == sorted(read(), reverse=True)
    page.locator("#groups-by").select_option("rater")
    expect(page.locator("#group-rows")).to_contain_text("ann 0")
    page.get_by_role("button", name="What changed").click()
    expect(page.locator("#changes-title")).to_be_in_viewport()
    expect(page.locator("#change-rows tr")).to_have_count(8)


def test_a_lead_moves_the_marker_sees_what_it_causes_and_applies_it(working, page):
    open_page(page, working)
    slider = page.locator("#threshold-plot").get_by_role("slider")
    loads = read_row(page, "load")
    for _ in range(6):
        slider.press("PageUp")
    assert float(read_row(page, "load").rstrip("%")) > float(loads.rstrip("%"))
    confidence = float(read_row(page, "confidence"))
    apply = page.get_by_role("button", name="Apply from the next routing on")
    apply.click()
    expect(page.locator("#threshold-demand")).to_contain_text("lea demands a confidence of")
    demand = read_targets(working.store)["default"]
    assert (demand.max_error, round(demand.min_confidence, 3)) == (None, confidence)
    # Fewer people than the bound supports: only with more errors allowed, in so many words.
    slider = page.locator("#threshold-plot").get_by_role("slider")
    slider.press("Home")
    slider.press("ArrowRight")
    expect(page.locator("#threshold-allow")).to_contain_text("Allow errors up to")
    expect(apply).to_have_attribute("aria-disabled", "true")
    apply.click(force=True)
    page.locator("#threshold-allow input").check()
    apply.click()
    expect(page.locator("#threshold-verdict")).to_have_text("Applied: it holds from the next routing on.")
    allowed = read_targets(working.store)["default"]
    assert allowed.max_error is not None
    assert allowed.max_error > 0.1
    page.get_by_role("button", name="Leave it to the router").click()
    expect(page.locator("#threshold-clear")).to_be_hidden()
    assert read_targets(working.store) == {}
    entries = audit.list_entries(working.store, actions=["automation.target_set", "automation.target_cleared"])
    assert [e.action.rpartition("_")[2] for e in entries] == ["set", "set", "cleared"]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_plots_are_readable_by_everybody_and_no_wider_than_the_screen(working, chromium, scheme, width):
    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    open_page(page, working)
    for details in page.locator(".plot details").all()[:3]:
        details.locator("summary").click()
    options = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
    assert Axe().run(page, options=options).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for box in page.locator(".plot").evaluate_all("all => all.map(e => e.getBoundingClientRect().right)"):
        assert box <= width
    # Where it was narrow first, it grows with the window.
    before = page.locator("#threshold-plot canvas").bounding_box()
    page.set_viewport_size({"width": width + 200, "height": 900})
    page.wait_for_function("w => document.querySelector('#threshold-plot canvas').clientWidth > w", arg=before["width"])
    context.close()


@only_to_draw
@pytest.mark.parametrize("part", ["threshold", "trends", "money", "groups", "comparing"])
def test_pictures_of_the_dashboard(working, chromium, part):
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page = context.new_page()
    open_page(page, working)
    section = page.locator(f"#{part}")
    box = section.bounding_box()
    page.set_viewport_size({"width": 1280, "height": int(box["height"]) + 40})
    page.evaluate("id => window.scrollTo(0, document.querySelector(id).offsetTop - 20)", f"#{part}")
    page.wait_for_function("!document.querySelector('#trend-plots .plot-area:not(:has(canvas))')")
    picture(page, f"lead-{part}")
    context.close()
