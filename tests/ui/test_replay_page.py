"""The replay page in a real Chromium: what evaluators see of a model beside raters, and how they find their way."""

from __future__ import annotations

import json
import re
import shutil
from urllib.parse import urlsplit

import pytest

from browser_fixtures import Server, enter, expect, only_to_draw
from handmade_evaluations import bundled, example, put
from hostile_texts import HOSTILE
from rlhf_hitl.reward.evaluation_record import Estimate, LabelOrigin
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.types import Role, utc_now
from rlhf_hitl.ui.replay_evaluations import render_evaluation, render_evaluation_list

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shown(servers):
    """A server whose workspace holds two evaluations of the same labels; each test brings an evaluator of its own."""
    with servers.server() as server:
        workspace = server.folder / "workspace"
        put(workspace, "small", bundled(1, 0.6), simulated=True)
        put(workspace, "large", bundled(2, 0.9), reward_model_id="rm_large")
        yield server


def begin(page, server: Server, name: str, role: Role = Role.EVALUATOR) -> None:
    server.person(name, role)
    enter(page, server, name)
    if role is not Role.EVALUATOR:
        page.get_by_role("link", name="Replay").click()
    expect(page.locator("#evaluations .panel")).to_be_visible(timeout=30_000)


def open_evaluation(page, server: Server, name: str, evaluation: str) -> None:
    begin(page, server, name)
    page.get_by_role("link", name=evaluation).click()
    expect(page.locator("#example .answer")).to_have_count(2)


def at(page, place: int, total: int) -> None:
    expect(page.locator("#position")).to_have_text(f"{place:,} of {total:,}", timeout=20_000)
    expect(page.locator("#example-box")).not_to_have_attribute("aria-busy", "true")


def asked(page) -> str:
    return page.locator("#example .prompt .text").last.inner_text().strip()


def said(page, side: str) -> str:
    return page.locator(f"#example .answer.{side} .answer-text").inner_text().strip()


def margins(page) -> list[float]:
    return [float(t.replace("−", "-")) for t in page.locator("#example-list .margin-value").all_inner_texts()]


# --- who


def test_an_evaluator_lands_here_and_sees_no_way_to_pages_that_are_not_theirs(shown, page):
    begin(page, shown, "eve")
    assert urlsplit(page.url).path == "/replay/"
    expect(page.locator(".pages a:visible")).to_have_text(["Data", "Policies", "Replay"])
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


@pytest.mark.parametrize("role", [Role.LEAD, Role.ADMIN])
def test_a_lead_comes_here_from_their_page_and_back(shown, page, role):
    begin(page, shown, f"a-{role.value}", role)
    page.get_by_role("link", name="People").click()
    page.get_by_role("link", name="Replay").click()
    page.get_by_role("link", name="Overview").click()
    expect(page.locator("#lead .figure").first).to_be_visible()


# --- the list


def test_the_list_says_of_each_evaluation_what_it_is_worth(shown, page):
    begin(page, shown, "lister")
    rows = page.locator("#evaluations tbody tr")
    expect(rows).to_have_count(2)
    large, small = rows.nth(0), rows.nth(1)  # newest first
    expect(large.locator('[data-label="Model"]')).to_have_text("rm_large")
    labels = [e for e in bundled(2, 0.9) if e.correct is not None]
    right = sum(e.correct or 0 for e in labels) / len(labels)
    expect(large.locator('[data-label="Labels"]')).to_have_text(str(len(labels)))
    expect(large.locator('[data-label="Accuracy"] b')).to_have_text(f"{right:.1%}")
    expect(large.locator('[data-label="Floors"]')).to_contain_text("longer 51.2%, words 54.5% above them")
    expect(large.locator(".simulated")).to_have_count(0)
    expect(small.locator(".simulated")).to_have_text("simulated labels")


def test_models_and_evaluations_are_called_by_their_names_with_the_id_beside_them(serve, page):
    server = serve()
    workspace, at_noon = server.folder / "workspace", utc_now().replace(month=1, day=28, hour=12)
    for n, id in enumerate(("m_0aaaaaaaaaaaaaaaaaaaaaaa", "m_1bbbbbbbbbbbbbbbbbbbbbbb")):
        add_reward_model(server.store, RewardModelRecord(id, "head", "/gone", "tiny", "data", False, {}, at_noon))
        put(workspace, f"heldout-{id}", bundled(n, 0.6), reward_model_id=id)
    put(workspace, "first", bundled(1, 0.6), reward_model_id="m_elsewhere")
    put(workspace, f"train-{id}", bundled(1, 0.6))
    (workspace / f"evaluations/train-{id}/evaluation.json").write_text("{")
    begin(page, server, "eve")
    rows = page.locator("#evaluations tbody tr")
    expect(rows).to_have_count(4)
    one, two = (rows.filter(has_text=f"heldout · head · 28 Jan · {n}") for n in (1, 2))
    expect(two.locator('[data-label="Model"]')).to_have_text("head · 28 Jan · 2 (m_1bbbbbbb)")
    expect(rows.filter(has_text="first").locator('[data-label="Model"]')).to_have_text("m_elsewhere")
    expect(rows.filter(has_text="train")).to_contain_text(
        "evaluation 'train · head · 28 Jan · 2 (m_1bbbbbbb)': expected"
    )
    expect(one.get_by_label("Compare heldout · head · 28 Jan · 1")).to_be_visible()
    assert_no_bare_id(page)

    two.get_by_role("link").click()
    expect(page.locator("#evaluation h2").first).to_have_text("heldout · head · 28 Jan · 2")
    expect(page.locator("#evaluation .head .note").first).to_contain_text("model head · 28 Jan · 2 (m_1bbbbbbb)")
    expect(page).to_have_title("heldout · head · 28 Jan · 2 · Replay · rlhf_hitl")
    expect(page.locator("#example .answer")).to_have_count(2)
    assert_no_bare_id(page)
    page.get_by_role("link", name="All evaluations").click()
    expect(page).to_have_title("Replay · rlhf_hitl")

    for n in (1, 2):
        page.get_by_label(f"Compare heldout · head · 28 Jan · {n}").check()
    page.get_by_role("button", name="Compare two").click()
    expect(page.locator(".evaluation-pair .identifier")).to_have_text(
        ["head · 28 Jan · 2 (m_1bbbbbbb)", "head · 28 Jan · 1 (m_0aaaaaaa)"]
    )
    expect(page.locator(".evaluation-pair a").first).to_have_text("heldout · head · 28 Jan · 2")
    expect(page).to_have_title("heldout · head · 28 Jan · 2, heldout · head · 28 Jan · 1 · Replay · rlhf_hitl")
    assert_no_bare_id(page)
    shutil.rmtree(workspace / f"evaluations/heldout-{id}")
    page.keyboard.press("j")
    expect(page.locator("#notice")).to_contain_text(
        "evaluation 'heldout · head · 28 Jan · 2 (m_1bbbbbbb)': expected one"
    )
    assert_no_bare_id(page)


def test_names_break_between_their_parts_and_badges_stand_in_line(serve, page):
    server = serve()
    workspace, at_noon = server.folder / "workspace", utc_now().replace(month=1, day=28, hour=12)
    id, origin = "m_0aaaaaaaaaaaaaaaaaaaaaaa", LabelOrigin(123_703, 100_600)
    add_reward_model(server.store, RewardModelRecord(id, "head", "/gone", "tiny", "data", False, {}, at_noon))
    name = f"heldout-{id}"
    more = {"reward_model_id": id, "split": "train", "trained_on": 3, "learnt_from": origin}
    put(workspace, name, bundled(1, 0.6), simulated=True, **more)
    begin(page, server, "eve")
    lines = """bdi => {
      const text = bdi.firstChild, range = document.createRange(), at = text.data.indexOf("28");
      range.setStart(text, at);
      range.setEnd(text, text.length);
      return new Set([...range.getClientRects()].map(r => Math.round(r.top))).size;
    }"""
    for width in (1440, 1280, 1181, 768, 390, 320):
        page.set_viewport_size({"width": width, "height": 800})
        row = page.locator("#evaluations tbody tr")
        assert row.locator("th bdi").evaluate(lines) == 1, width
        states = row.locator("th .state")
        expect(states).to_have_count(3)
        starts: dict[int, int] = {}
        cell = row.locator("th").bounding_box()
        for box in sorted((states.nth(i).bounding_box() for i in range(3)), key=lambda box: box["x"]):
            assert box["x"] + box["width"] <= cell["x"] + cell["width"], width
            starts.setdefault(round(box["y"]), round(box["x"]))
        assert set(starts.values()) == {round(row.locator("th a").bounding_box()["x"])}, width


def assert_no_bare_id(page) -> None:
    """No id of a model is to be read but its beginning beside a name."""
    shown = page.locator("body").inner_text() + page.title()
    assert re.findall(r"(?<!\()m_[01]\w*|m_[01]\w{9,}", shown) == []


def test_an_evaluation_that_is_half_written_or_gone_is_a_line(serve, page, context):
    server = serve()
    workspace = server.folder / "workspace"
    for name in ("whole", "cut", "empty", "gone", "odd"):
        put(workspace, name, bundled(1, 0.6))
    (workspace / "evaluations/cut/evaluation.json").write_text('{"name": "cu')
    (workspace / "evaluations/empty/examples.jsonl").unlink()
    lines = (workspace / "evaluations/odd/examples.jsonl").read_text()
    (workspace / "evaluations/odd/examples.jsonl").write_text(lines[:-400])
    begin(page, server, "eve")
    cut = page.locator("#evaluations tr").filter(has_text="cut")
    expect(cut).to_contain_text("expected whole files of this version. Fix: evaluate again")
    expect(cut.get_by_role("link")).to_have_count(0)
    shutil.rmtree(workspace / "evaluations/gone")
    for name, told in (("gone", "one of the workspace's"), ("empty", "whole files"), ("odd", "odd/examples.jsonl:121")):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.locator("#notice")).to_contain_text(told)
        expect(page.locator("#evaluations")).to_be_visible()
        assert str(workspace) not in page.locator("body").inner_text()
    page.get_by_role("link", name="whole").click()
    expect(page.locator("#example .answer")).to_have_count(2)
    expect(page.locator("#notice")).to_be_hidden()
    shutil.rmtree(workspace / "evaluations/whole")
    page.keyboard.press("j")
    expect(page.locator("#notice")).to_contain_text("one of the workspace's")


def test_without_evaluations_the_page_says_how_to_make_one(serve, page):
    begin(page, serve(), "eve")
    expect(page.locator("#evaluations")).to_contain_text("rlhf-hitl evaluate")


def test_the_list_renews_itself_and_what_is_chosen_stays_chosen(serve, own_page):
    page = own_page
    page.clock.install()
    server = serve()
    for name in ("one", "two"):
        put(server.folder / "workspace", name, bundled(1, 0.6))
    begin(page, server, "eve")
    expect(page.locator("#updated")).to_contain_text("As of")
    for name in ("one", "two"):
        page.get_by_label(f"Compare {name}").check()
    put(server.folder / "workspace", "three", bundled(2, 0.9))
    page.clock.fast_forward(20_000)
    rows = page.locator("#evaluations tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("three")
    expect(page.get_by_label("Compare three")).to_be_disabled()
    for name in ("one", "two"):
        expect(page.get_by_label(f"Compare {name}")).to_be_checked()
    expect(page.get_by_role("button", name="Compare two")).to_have_attribute("aria-disabled", "false")
    made = page.locator("#evaluations time").first
    assert made.get_attribute("datetime") != made.inner_text(), "it is shown in the reader's zone"
    page.get_by_role("link", name="three").click()
    expect(page.locator("#example .answer")).to_have_count(2)
    expect(page).to_have_title("three · Replay · rlhf_hitl")
    shutil.rmtree(server.folder / "workspace/evaluations/one")
    page.clock.fast_forward(20_000)  # who reads an evaluation keeps their place
    expect(page.locator("#example .answer")).to_have_count(2)


def test_the_page_is_english_from_left_to_right_also_in_an_arabic_browser(shown, chromium):
    shown.person("reader of Arabic", Role.EVALUATOR)
    context = chromium.new_context(locale="ar", timezone_id="Asia/Riyadh")
    page = context.new_page()
    enter(page, shown, "reader of Arabic")
    expect(page.locator("#evaluations .panel")).to_be_visible(timeout=30_000)
    expect(page.locator("html")).to_have_attribute("lang", "en")
    assert page.locator("*").evaluate_all("all => all.every(e => getComputedStyle(e).direction === 'ltr')")
    expect(page.get_by_role("heading", level=1)).to_have_text("Replay")
    expect(page).to_have_title("Replay · rlhf_hitl")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    expect(page.locator("#updated")).to_have_text(re.compile(r"As of [A-Z][a-z]{2} \d+, \d{4}, \d+:\d\d\s[AP]M"))
    for time in (page.locator("#evaluations time").first, page.locator("#evaluation time")):
        expect(time).to_have_text("Nov 25, 2026, 12:30 PM")
        if page.locator("#evaluations").is_visible():
            page.get_by_role("link", name="small").click()
    assert re.findall(r"[\u0590-\u08ff]", page.locator("body").inner_text()) == []
    context.close()


# --- one evaluation


def test_the_headline_says_in_words_what_the_figures_are(shown, page):
    open_evaluation(page, shown, "reader", "small")
    figures = page.locator("#evaluation .figure")
    expect(figures.locator("dt")).to_have_text(
        ["Accuracy", "The longer answer wins", "A bag of words", "The ceiling", "Calibration error"]
    )
    expect(page.locator(".measurements")).to_contain_text("It prefers the longer answer in 57.3% (48.9% to 65.3%)")
    expect(page.locator("#evaluation .notice")).to_contain_text("Simulated raters")
    expect(page.locator(".measurements")).to_contain_text("Not counted: 10 ties.")
    expect(page.locator(".measurements")).to_contain_text("above the highest floor, 54.5% (a bag of words)")
    expect(page.locator(".measurements")).to_contain_text("changes its margin by 0 at most, of 32 pairs")
    expect(page.locator("#evaluation .caveat")).to_have_count(0)
    page.get_by_text("As a plot").click()
    for plot in ("Accuracy beside floors and ceiling", "Reliability", "Accuracy by slice"):
        expect(page.get_by_role("img", name=plot, exact=True)).to_be_visible()


@pytest.mark.parametrize(
    ("accuracy", "told", "badge"),
    [
        ((0.7, 0.6, 0.8), "is above {}, by more than chance: its whole interval is above it.", "above them"),
        ((0.7, 0.5, 0.8), "is above {}, but that may be chance: its interval reaches down to it.", "perhaps by chance"),
        ((0.5, 0.4, 0.6), "is not above {}.", "not above them"),
    ],
)
def test_whether_it_beats_the_floors_is_said_plainly(tmp_path, accuracy, told, badge):
    put(tmp_path, "one", bundled(1, 0.6), accuracy=Estimate(*accuracy, 110))
    shown = render_evaluation(tmp_path, "one", [])["html"]
    assert f"The accuracy {told.format('the highest floor, 54.5% (a bag of words)')}" in shown
    assert badge in render_evaluation_list(tmp_path, [])


def test_what_a_model_was_told_is_no_measure_of_it_and_the_page_says_so(serve, page):
    server = serve()
    told = {"split": "train", "trained_on": 30, "shorter_wins": True}
    put(server.folder / "workspace", "told", bundled(1, 0.6), **told)
    put(server.folder / "workspace", "unknown", bundled(1, 0.6), knows_its_prompts=False)
    begin(page, server, "eve")
    expect(page.locator("#evaluations tr").filter(has_text="told")).to_contain_text("train split")
    expect(page.locator("#evaluations tr").filter(has_text="told")).to_contain_text("shorter 48.8%")
    expect(page.locator("#evaluations tr").filter(has_text="unknown")).not_to_contain_text("split")
    page.get_by_role("link", name="told", exact=True).click()
    expect(page.locator("#evaluation .notice")).to_contain_text(
        "This evaluation replays the train split and leaves nothing out. Its labels include 30 labels of prompts the "
        "model was trained on"
    )
    expect(page.locator("#evaluation .figure dt").nth(1)).to_have_text("The shorter answer wins")
    page.get_by_role("link", name="All evaluations").click()
    page.get_by_role("link", name="unknown", exact=True).click()
    expect(page.locator("#evaluation .caveat")).to_contain_text("The model may have learnt from more")


def test_the_page_tells_labels_of_simulated_raters_from_a_model_that_learnt_from_them(serve, page):
    server = serve()
    workspace = server.folder / "workspace"
    people, simulated = LabelOrigin(110, 0), LabelOrigin(60, 60)
    put(workspace, "people", bundled(1, 0.6), measured_on=people, learnt_from=simulated)
    put(workspace, "both", bundled(1, 0.6), simulated=True, measured_on=simulated, learnt_from=simulated)
    some, many = LabelOrigin(307, 260), LabelOrigin(1703, 600)
    put(workspace, "partly", bundled(1, 0.6), simulated=True, measured_on=some, learnt_from=many)
    put(workspace, "ties", bundled(1, 0.6), simulated=True, measured_on=people)
    put(workspace, "neither", bundled(1, 0.6), measured_on=people, learnt_from=people)
    put(workspace, "earlier", bundled(1, 0.6), simulated=True, measured_on=None)  # that version did not tell
    begin(page, server, "eve")
    states = {
        "people": ["learnt from simulated"],
        "both": ["simulated labels", "learnt from simulated"],
        "partly": ["260 of 307 simulated", "learnt from 1,703, 600 simulated"],
        "ties": ["some ties simulated"],
        "neither": [],
        "earlier": ["some simulated"],
    }
    for name, told in states.items():
        row = page.locator("#evaluations tbody tr").filter(has=page.get_by_role("link", name=name, exact=True))
        expect(row.locator(".simulated")).to_have_text(told)
    page.get_by_role("link", name="people", exact=True).click()
    expect(page.locator("#evaluation .notice")).to_have_text(
        "The model learnt from 60 labels, and simulated raters judged 60 of these."
    )
    page.goto(f"{server.address}/replay/#of=people&beside=both")
    expect(page.locator("#evaluation .notice")).to_have_text([
        "A: The model learnt from 60 labels, and simulated raters judged 60 of these.",
        "B: Simulated raters judged 60 of the 60 labels it is measured on. "
        "The model learnt from 60 labels, and simulated raters judged 60 of these.",
    ])  # fmt: skip


def test_one_tie_is_one_tie(serve, page):
    server = serve()
    put(server.folder / "workspace", "one", [example(0), example(1, correct=None)])
    put(server.folder / "workspace", "other", [example(0), example(1, correct=None)])
    open_evaluation(page, server, "eve", "one")
    expect(page.locator(".measurements")).to_contain_text("Not counted: 1 tie.")
    expect(page.locator("#evaluation .figure").first).to_contain_text("of 1 label with a preference")
    page.goto(f"{server.address}/replay/#of=one&beside=other")
    expect(page.locator(".verdict")).to_contain_text("They share 1 label with a preference, and are right")


def test_two_evaluations_without_a_common_label_are_not_compared(serve, page):
    server = serve()
    put(server.folder / "workspace", "one", [example(0), example("shared", correct=None)])
    put(server.folder / "workspace", "other", [example(1), example("shared", correct=None)])
    begin(page, server, "eve")
    page.goto(f"{server.address}/replay/#of=one&beside=other")
    expect(page.locator(".verdict")).to_have_text("They share no label with a preference, so they cannot be compared.")
    expect(page.locator("#evaluation .meter, #evaluation .legend")).to_have_count(0)
    expect(page.locator('.evaluation-pair [data-label="Alone right"]')).to_have_text(["–", "–"])


def test_a_benchmark_without_all_its_parts_has_no_overall_score(serve, page):
    server = serve()
    note = "no overall score without Chat Hard; 12 of 2,985 examples"
    put(server.folder / "workspace", "part", bundled(1, 0.6), scores={"Chat": 0.5}, score_notes={"RewardBench": note})
    open_evaluation(page, server, "eve", "part")
    expect(page.locator(".measurements")).to_contain_text("By the benchmark's own rules, Chat: 50.0%")
    expect(page.locator(".measurements")).to_contain_text(f"RewardBench: – ({note})")


def test_plots_are_drawn_in_the_colours_of_the_page(serve, page):
    server = serve()
    put(server.folder / "workspace", "one", bundled(1, 0.6))
    put(server.folder / "workspace", "few", bundled(1, 0.6)[:16])
    open_evaluation(page, server, "eve", "few")
    expect(page.locator("figure.plot").nth(1)).to_contain_text("Too few labels to draw (15; 40 needed)")
    page.get_by_role("link", name="All evaluations").click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{server.address}/replay/#of=one")
        page.reload()
        expect(page.get_by_role("img", name="Reliability")).to_be_visible()
        letters = page.get_by_role("img", name="Reliability").locator("text").first
        ink, paper = letters.evaluate("e => [getComputedStyle(e).fill, getComputedStyle(e.closest('.panel'))]"
                                      ".map(v => v.backgroundColor ?? v)")  # fmt: skip
        bright = {
            name: sum(map(int, re.findall(r"\d+", colour)[:3])) for name, colour in (("ink", ink), ("paper", paper))
        }
        assert (bright["ink"] > bright["paper"]) is (scheme == "dark")
        assert abs(bright["ink"] - bright["paper"]) > 380


def test_slices_sort_by_each_column_and_lead_to_their_examples(shown, page):
    open_evaluation(page, shown, "slicer", "small")
    table = page.locator("table.slices")
    first = table.locator("tbody th").first
    for column, key in (("Accuracy", 2), ("Labels", 1), ("Accuracy", 2)):
        for direction in ("descending", "ascending"):
            table.get_by_role("button", name=column).click()
            expect(table.locator("[aria-sort]")).to_have_attribute("aria-sort", direction)
            shown_now = table.locator(f"tbody td:nth-child({key + 1})").evaluate_all(
                "all => all.map(td => Number(td.dataset.value))"
            )
            assert shown_now == sorted(shown_now, reverse=direction == "descending")
    table.get_by_role("button", name="Slice").click()
    expect(first).to_have_text("agreement: one vote")
    table.get_by_role("button", name="Examples of topic: coding").click()
    wrong = [e for e in bundled(1, 0.6) if e.tags["topic"] == "coding" and e.correct == 0]
    at(page, 1, len(wrong))
    expect(page.locator("#slice")).to_have_value('["topic","coding"]')
    expect(page.locator("#example .facts")).to_contain_text("topic: coding")


# --- its examples


def test_the_surest_mistake_comes_first_with_all_that_is_known_of_it(serve, page):
    server = serve()
    worst = example(
        "worst", -2.5, prompt="What is *two* and two?", chosen="**Four**.", rejected="Five.", tags={"topic": "sums"},
        chosen_policy="base", rejected_policy="tuned", uncertainty=0.25, probability=0.081, votes=4, agreement=0.75,
        strength=2,
    )  # fmt: skip
    put(server.folder / "workspace", "one", [example("mild", -0.5), example("right", 3.0), worst])
    open_evaluation(page, server, "eve", "one")
    at(page, 1, 2)
    assert margins(page) == [-2.5, -0.5]
    assert (asked(page), said(page, "chosen"), said(page, "rejected")) == ("What is two and two?", "Four.", "Five.")
    assert page.locator(".answer.chosen strong").inner_text() == "Four"
    expect(page.locator(".answer.chosen header")).to_contain_text("Raters' choice")
    expect(page.locator(".answer.chosen .policy")).to_have_text("base")
    expect(page.locator(".answer.rejected header")).to_contain_text("model prefers")
    expect(page.locator(".answer.rejected .policy")).to_have_text("tuned")
    expect(page.locator(".margin figcaption")).to_have_text(
        "Margin −2.50 ± 0.50, probability of the raters' choice 8.1%"
    )
    expect(page.locator(".facts li")).to_have_text(
        ["4 votes, 75% for this choice, ties aside", "clearly better", "topic: sums"]
    )
    track, dot, low, zero = (
        page.locator(f"#example {of}").bounding_box() for of in (".track", ".dot", ".range", ".zero-line")
    )
    assert track["x"] <= low["x"] < dot["x"] + dot["width"] / 2 < low["x"] + low["width"] < zero["x"]


def test_filters_orders_and_words_choose_the_examples(shown, page):
    made = bundled(1, 0.6)
    open_evaluation(page, shown, "chooser", "small")
    counted = {
        "disagreements": sum(e.correct == 0 for e in made),
        "agreements": sum(e.correct == 1 for e in made),
        "ties": sum(e.is_tie for e in made),
        "all": len(made),
    }
    for show, n in counted.items():
        page.get_by_label("Show").select_option(show)
        at(page, 1, n)
    for order, value in (
        ("wrong", lambda e: -abs(e.margin) if e.is_tie else e.margin),
        ("unsure", lambda e: abs(e.probability - 0.5)),
        ("longest", lambda e: -len(e.chosen[0].content) - len(e.rejected[0].content)),
        ("replayed", lambda e: 0),
    ):
        page.get_by_label("Order").select_option(order)
        first = sorted(made, key=value)[0]
        expect(page.locator(".example-id code")).to_have_text(first.comparison_id)
    page.get_by_label("Words").fill("LETTERS  python")
    at(page, 1, 1)
    assert asked(page).startswith("How do I remove repeated letters")
    assert page.evaluate("CSS.highlights.get('looked-for').size") >= 2
    page.get_by_label("Words").fill("nothing holds zyzzyva")
    expect(page.locator("#result-count")).to_have_text("none found")
    expect(page.locator("#example")).to_contain_text("Choose others above")
    page.get_by_label("Words").fill("")
    page.locator("#slice").select_option(label="topic: writing")
    at(page, 1, sum(e.tags["topic"] == "writing" for e in made))


def test_keys_go_through_a_thousand_examples_page_by_page(serve, page):
    server = serve()
    put(server.folder / "workspace", "many", [example(i, -1 + i / 1000) for i in range(1000)])
    open_evaluation(page, server, "eve", "many")
    page.get_by_label("Show").select_option("all")
    page.locator("body").click(position={"x": 5, "y": 5})
    at(page, 1, 1000)
    page.keyboard.press("k")  # there is nothing before the first
    for key in ["j"] * 13 + ["ArrowRight"] * 12 + ["k", "ArrowLeft"]:
        page.keyboard.press(key)
    at(page, 24, 1000)
    assert asked(page) == "Question 23?"
    current = page.locator("#example-list [aria-current]")
    expect(current).to_have_count(1)
    expect(current).to_contain_text("Question 23?")
    expect(current).to_be_in_viewport()
    expect(page.locator("#example-list li")).to_have_count(20)
    page.locator("#example-list button").last.click()
    at(page, 40, 1000)
    expect(page.locator("#example-list button").last).to_be_focused()
    page.get_by_role("button", name="Next").click()
    at(page, 41, 1000)
    page.keyboard.press("/")
    expect(page.get_by_label("Words")).to_be_focused()
    page.keyboard.type("jk answer to 999.")
    expect(page.locator("#result-count")).to_have_text("none found")
    page.get_by_label("Words").fill("answer to 999.")
    at(page, 1, 1)
    page.keyboard.press("Escape")
    page.get_by_label("Keys").uncheck()
    page.get_by_label("Words").fill("")
    at(page, 1, 1000)
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    at(page, 2, 1000)
    assert asked(page) == "Question 1?"


def test_a_link_leads_to_one_example_and_survives_a_reload(shown, page, context):
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=shown.address)
    open_evaluation(page, shown, "sender", "small")
    page.get_by_label("Show").select_option("agreements")
    page.get_by_label("Order").select_option("unsure")
    total = sum(e.correct == 1 for e in bundled(1, 0.6))
    at(page, 1, total)
    page.get_by_role("button", name="Next").click()
    at(page, 2, total)
    where = asked(page)
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Link copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    page.reload()
    at(page, 2, total)
    assert asked(page) == where
    expect(page.get_by_label("Show")).to_have_value("agreements")
    expect(page.get_by_label("Order")).to_have_value("unsure")
    page.go_back()
    expect(page.locator("#evaluations tbody tr")).to_have_count(2)
    expect(page.locator("#example-browser")).to_be_hidden()


def test_a_link_to_an_example_needs_no_more_than_its_names(shown, page):
    begin(page, shown, "receiver")
    of = next(e for e in bundled(1, 0.6) if e.correct == 1)
    page.goto(f"{shown.address}/replay/#of=small&example={of.comparison_id}")
    expect(page.locator(".example-id code")).to_have_text(of.comparison_id)
    expect(page.locator("#position")).to_contain_text("of 121")
    page.get_by_label("Show").select_option("disagreements")
    page.goto(f"{shown.address}/replay/#of=small&show=ties&example={of.comparison_id}")
    expect(page.locator("#position")).to_have_text("not among those chosen")
    expect(page.locator(".example-id code")).to_have_text(of.comparison_id)
    page.get_by_role("button", name="Next").click()
    at(page, 1, 10)
    page.goto(f"{shown.address}/replay/#of=small&example=c_none")
    expect(page.locator("#notice")).to_contain_text("c_none")
    expect(page.locator("#example .answer")).to_have_count(2)
    page.goto(f"{shown.address}/replay/#of=nothing")
    expect(page.locator("#notice")).to_contain_text("one of the workspace's")
    expect(page.locator("#evaluations tbody tr")).to_have_count(2)


def test_each_pair_of_a_ranking_has_an_address_of_its_own(serve, page):
    server = serve()
    pairs = [example("k", -1.0 - i, chosen_id=f"x{i}", rejected_id=f"y{i}", chosen=f"Winner {i}.") for i in range(3)]
    put(server.folder / "workspace", "kwise", pairs)
    begin(page, server, "eve")
    for name, winner in (("c_k", 0), ("c_k.2", 1), ("c_k.3", 2)):
        page.goto(f"{server.address}/replay/#of=kwise&example={name}")
        expect(page.locator(".answer.chosen .answer-text")).to_have_text(f"Winner {winner}.")
        page.reload()
        expect(page.locator(".answer.chosen .answer-text")).to_have_text(f"Winner {winner}.")
        assert page.url.endswith(f"example={name}")
    page.goto(f"{server.address}/replay/#of=kwise&example=c_k.4")
    expect(page.locator("#notice")).to_contain_text("c_k.4")


def test_differences_are_marked_on_demand_and_stay_on_for_the_next(serve, page):
    server = serve()
    made = [example(i, -2.0 + i, chosen="Paris is the capital", rejected="Lyon is the capital") for i in range(2)]
    put(server.folder / "workspace", "two", made)
    open_evaluation(page, server, "eve", "two")
    expect(page.locator("#example :is(del, ins)")).to_have_count(0)
    page.keyboard.press("d")
    for place in (1, 2):
        at(page, place, 2)
        expect(page.locator(".answer.chosen del")).to_have_text("Paris")
        expect(page.locator(".answer.rejected ins")).to_have_text("Lyon")
        page.keyboard.press("j")
    page.get_by_role("button", name="Differences").click()
    expect(page.locator("#example :is(del, ins)")).to_have_count(0)
    expect(page.locator(".answer.chosen .answer-text")).to_have_text("Paris is the capital")


# --- two of them


def test_of_two_evaluations_those_are_shown_where_exactly_one_is_right(serve, page):
    server = serve()
    workspace = server.folder / "workspace"
    margin = {"both": (1, 1), "a": (2, -1), "b": (-3, 0.5), "b2": (-0.2, 0.7), "none": (-1, -1), "equal": (0, 1)}
    tie = example("tie", 1.0, correct=None)
    turned = example("turned", 1.0, chosen_id="b_turned", rejected_id="a_turned")  # labelled otherwise since
    put(workspace, "first", [*(example(i, float(m)) for i, (m, _) in margin.items()), tie, example("turned", 1.0)])
    more = [turned, tie, *(example(i, float(m)) for i, (_, m) in reversed(margin.items())), example("new", 1.0)]
    put(workspace, "second", more, reward_model_id="rm_second")
    begin(page, server, "eve")
    compare = page.get_by_role("button", name="Compare two")
    expect(compare).to_be_disabled()
    compare.press("Enter")  # of nothing, nothing happens
    page.get_by_label("Compare first").check()
    page.get_by_label("Compare second").check()
    compare.click()
    expect(page.locator(".verdict")).to_contain_text("They share 6 labels with a preference. Exactly one is right on 4")
    expect(page.locator(".verdict")).to_contain_text("neither is shown to be better. A's accuracy less B's is +25.0%")
    expect(page.locator(".verdict")).to_contain_text("the labels of one prompt taken together")
    expect(page.locator(".legend dd")).to_have_text(["1", "3", "1", "1"])  # the newest of the two is A
    for show, found in (
        ("one_right", {"a", "b", "b2", "equal"}),
        ("first_right", {"b", "b2", "equal"}),
        ("second_right", {"a"}),
        ("none_right", {"none"}),
    ):
        page.get_by_label("Show").select_option(show)
        at(page, 1, len(found))
        assert {
            t.removeprefix("Question ")[:-1] for t in page.locator("#example-list .question").all_inner_texts()
        } == found
    page.get_by_label("Show").select_option("second_right")
    expect(page.locator(".margin figcaption b:first-of-type")).to_have_count(2)
    expect(page.locator(".outcome")).to_contain_text("A does not agree. B agrees.")
    expect(page.locator(".answer.chosen .model")).to_have_text("B prefers")
    expect(page.locator(".answer.rejected .model")).to_have_text("A prefers")
    page.reload()
    at(page, 1, 1)
    expect(page.locator(".outcome")).to_contain_text("A does not agree. B agrees.")


# --- who would do harm


@pytest.mark.timeout(300)
def test_nothing_hostile_runs_or_calls_and_the_page_stays_usable(serve, own_context):
    texts = list(HOSTILE.values())
    server = serve()
    made = [
        example(
            i, -1.0 - i / 100, prompt=f"Hostile {i}? {first[:2000]}", chosen=first or " ", rejected=second or " ",
            tags={first[:60]: second[:60]}, chosen_policy=first[:80], rejected_policy=second[:80],
        )
        for i, (first, second) in enumerate(zip(texts[::2], [*texts[1::2], texts[0]]))
    ]  # fmt: skip
    name = "<img src=x onerror=owned()>&'\""
    put(server.folder / "workspace", name, made, reward_model_id="<script>owned()</script>")
    ran, failed, requests = [], [], []
    own_context.expose_function("owned", lambda: ran.append(1))
    own_context.on("request", lambda request: requests.append(request.url))
    page = own_context.new_page()
    page.on("pageerror", lambda e: failed.append(str(e)))
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    open_evaluation(page, server, "eve", name)
    page.get_by_label("Order").select_option("replayed")
    page.locator("#example-box").click(position={"x": 3, "y": 3})
    for place in range(1, len(made) + 1):
        at(page, place, len(made))
        expect(page.locator("#example .prompt")).to_contain_text(f"Hostile {place - 1}?")
        assert page.evaluate(COVERED) == [], place
        page.keyboard.press("j")
    page.keyboard.press("d")
    expect(page.locator("#example .difference").first).to_be_visible()
    page.get_by_label("Words").fill("owned()")
    expect(page.locator("#result-count")).to_contain_text("found")
    assert (ran, failed) == ([], [])
    assert {urlsplit(u).netloc for u in requests if not u.startswith("data:")} == {urlsplit(server.address).netloc}


#: The buttons that a mouse would not hit in their middle.
COVERED = """
() => ["next", "difference"].filter((id) => {
  const button = document.getElementById(id);
  button.scrollIntoView({ block: "center" });
  const box = button.getBoundingClientRect();
  return !button.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
})
"""


def test_no_name_leads_out_of_the_workspace(serve, page, context):
    server = serve()
    workspace = server.folder / "workspace"
    put(workspace, "inside", [example(1)])
    for outside in (server.folder / "outside", workspace / "evaluations/inside/deeper"):
        shutil.copytree(put(workspace, "inside", [example(1)]), outside)
    begin(page, server, "eve")
    with page.expect_request("**/component_server/**") as sent:
        page.get_by_role("link", name="inside").click()
    call = json.loads(sent.value.post_data)
    names = [*"/.*", "", "..", "../../outside", str(server.folder / "outside"), "inside/deeper", "inside/../inside",
             "inside/", "../evaluations/inside", "..\\..\\outside", "inside\x00", "%2e%2e/%2e%2e/outside"]  # fmt: skip
    for name in names:
        for function, more in (("evaluation", {}), ("look", {}), ("difference", {"example": "c_1"})):
            call |= {"fn_name": function, "data": {"of": name, **more}}
            answer = context.request.post(sent.value.url, data=call)
            assert "one of the workspace's" in answer.json()["problem"], (name, function, answer.text())
    call |= {"fn_name": "look", "data": {"of": "inside", "beside": "../../outside", "show": "one_right"}}
    assert "one of the workspace's" in context.request.post(sent.value.url, data=call).json()["problem"]
    for nonsense in (
        {"of": 1},
        {"of": "inside", "at": -1},
        {"of": "inside", "show": "x"},
        {"of": "inside", "who": "x"},
        [],
    ):
        call["data"] = nonsense
        assert "problem" in context.request.post(sent.value.url, data=call).json()
    call["data"] = {"of": "inside", "show": "first_right"}
    assert "second evaluation" in context.request.post(sent.value.url, data=call).json()["problem"]
    call["data"] = {"of": "inside"}
    assert context.request.post(sent.value.url, data=call).json()["total"] == 1


def test_who_is_signed_out_in_between_is_told(shown, page, context):
    open_evaluation(page, shown, "gone", "small")
    context.clear_cookies()
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#notice")).to_contain_text("signed out")


# --- in any size


INSIDE = """panel => [...panel.querySelectorAll("*")]
    .filter(e => e.checkVisibility() && !e.closest(".visually-hidden, .scroll, #example-list, pre"))
    .map(e => e.getBoundingClientRect()).every(e => e.left >= -1 && e.right <= innerWidth + 1)"""


def test_the_page_fits_the_screen(serve, page):
    def look() -> None:
        for width in (1920, 1280, 1181, 768, 390, 320):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.locator("#overview").evaluate(INSIDE), width

    server = serve()
    long = "w" * 150
    made = [
        example(i, -1.0, prompt=long * 9, chosen=f"# {long}\n\n`{long}`", tags={long: long}, chosen_policy=long)
        for i in range(3)
    ]
    for name in (long, "x" + long):
        put(server.folder / "workspace", name, made, reward_model_id=long, slices={})
    begin(page, server, "eve")
    look()
    page.locator("#evaluations a").first.click()
    expect(page.locator("#example .answer")).to_have_count(2)
    look()
    page.goto(f"{server.address}/replay/#of={long}&beside=x{long}&show=none_right")
    expect(page.locator(".margin")).to_have_count(2)
    look()
    page.get_by_role("button", name="Next").click()
    at(page, 2, 3)


def test_on_a_phone_no_figure_of_an_evaluation_has_to_be_looked_for(shown, page):
    """Plots and tables are whole: nothing in them lies beyond an edge, and nothing has to be scrolled sideways."""
    cut = """root => [...root.querySelectorAll('.panel :is(svg text, svg use, th, td, td button)')]
        .filter(e => e.checkVisibility()).filter(e => {
          const [own, panel] = [e, e.closest('.panel')].map(box => box.getBoundingClientRect());
          return own.left < panel.left - 1 || own.right > panel.right + 1;
        }).map(e => e.outerHTML)"""
    sideways = """root => [...root.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"""
    open_evaluation(page, shown, "phone-reader", "small")
    page.get_by_text("As a plot").click()
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        plot = page.get_by_role("img", name="Accuracy beside floors and ceiling")
        expect(plot).to_have_count(1)
        letters = plot.locator("text").filter(has_text="reward model")
        assert letters.evaluate("e => e.getBoundingClientRect().height") > 9, "the letters are large enough to read"
        expect(plot.locator("text").filter(has_text=re.compile(r"\(\d+\)$")).first).to_be_visible()
        expect(page.get_by_role("columnheader", name="95 % interval")).to_be_visible()
        expect(page.get_by_role("button", name="Examples of topic: coding")).to_be_visible()
        assert page.locator("#evaluation").evaluate(cut) == [], width
        assert page.locator("#evaluation").evaluate(sideways) == 0, width
    page.goto(f"{shown.address}/replay/#of=small&beside=large")
    expect(page.locator(".evaluation-pair tbody tr")).to_have_count(2)
    assert page.locator(".scroll").evaluate("e => e.scrollHeight <= e.clientHeight + 1"), "both are shown whole"
    assert page.locator("#evaluation").evaluate(cut) == []
    assert page.locator("#evaluation").evaluate(sideways) == 0


@only_to_draw
def test_pictures_of_the_replay(serve, shot):
    server = serve()
    workspace = server.folder / "workspace"
    at_noon = utc_now().replace(month=11, day=25, hour=12)
    ids = "m_0123456789abcdef01234567", "m_89abcdef0123456789abcdef"
    for id in ids:
        add_reward_model(server.store, RewardModelRecord(id, "head", "/gone", "tiny", "data", False, {}, at_noon))
    put(workspace, f"heldout-{ids[0]}", bundled(1, 0.6), reward_model_id=ids[0])
    put(workspace, f"heldout-{ids[1]}", bundled(2, 0.9), reward_model_id=ids[1], ece=0.028)
    server.person("Eva", Role.EVALUATOR)

    def to_examples(page) -> None:
        expect(page.locator("#example .answer")).to_have_count(2)
        page.locator("#example-browser").evaluate("e => e.scrollIntoView()")

    one = {"who": "Eva", "ready": "#example", "path": f"/replay/#of=heldout-{ids[1]}"}
    two = one["path"] + f"&beside=heldout-{ids[0]}"
    code = {"path": one["path"] + "&show=disagreements&example=c_code", "then": to_examples}
    shot(server, "replay-list", **one | {"path": "/replay/", "ready": "#evaluations table"}, height=480)
    shot(server, "replay-figures", **one, height=860)
    shot(server, "replay-two", **one | {"path": two}, height=860)
    shot(server, "replay-light", **one | code, height=860)
    shot(server, "replay-dark", **one | code, height=860, dark=True)
    shot(server, "replay-phone", **one | code, width=390, height=844)
