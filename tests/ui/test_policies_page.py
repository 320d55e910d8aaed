"""The page of policies in a real Chromium: the ranking, who beats whom, the lineage, before and after."""

from __future__ import annotations

import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from handmade_promotions import hold_tied_promotion

from browser_fixtures import Server, enter, expect, only_to_draw
from rlhf_hitl.store import people
from rlhf_hitl.store.comparisons import insert_comparisons, insert_completions, insert_prompts
from rlhf_hitl.store.judgments import judgment_to_row
from rlhf_hitl.store.policies import PolicyMethod, record_policy
from rlhf_hitl.store.tables import judgments
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Route, Verdict, utc_now

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=window.pwned=1>"
STRENGTHS = {"smollm2-135m": 0.0, "round-1-dpo": 0.5, "round-1-ppo": 0.9, "round-2-dpo": 0.8}
TOPICS = ("coding", "writing")
FITS = """
[...document.querySelectorAll("#policies *")]
  .filter((e) => e.checkVisibility() && !e.closest(".sideways, .asked"))
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => `${e.tagName}.${e.className}`)
"""
OPENINGS = ("A tide is", "The sea rises since", "In short, it is the moon:")


def fill(server: Server, prompts: int = 60, worst: str = HOSTILE) -> None:
    """Policies that two raters and a simulated one compared on some prompts, one called `worst`, and their lineage."""
    store, rng = server.store, np.random.default_rng(4)
    strengths = STRENGTHS | {worst: -0.6}
    raters = [people.add_rater(store, name, Role.RATER, simulated=name == "sim") for name in ("ann", "bea", "sim")]
    made, rows = [], []
    for n in range(prompts):
        prompt = Prompt.create((Message("user", f"Why is there a tide, in case {n}?"),), {"topic": TOPICS[n % 2]})
        answers = []
        for k, name in enumerate(strengths):
            style = "## Tides\n\n- **The moon** pulls.\n- The earth turns." if rng.random() < 0.4 else ""
            what = worst if n == 0 else f"{k + 1} times a day"
            text = f"{rng.choice(OPENINGS)} water that follows the moon, {what}.\n\n{k}\n\n{style}"
            answers.append(Completion.create(prompt.id, (Message("assistant", text),), name))
        with store.write() as conn:
            insert_prompts(store, conn, [prompt])
            insert_completions(store, conn, answers)
        for a, b in rng.permuted(np.tile(np.arange(len(answers)), (3, 1)), axis=1)[:, :2]:
            made.append(Comparison.create(prompt, [answers[a], answers[b]]))
            first, second = (c.id for c in made[-1].completions)
            lead = np.subtract(*(strengths[c.policy] for c in made[-1].completions))
            for rater in raters:
                ranking = ((first,), (second,)) if rng.random() < 1 / (1 + np.exp(-2 * lead)) else ((second,), (first,))
                ranking = ((first, second),) if rng.random() < 0.2 else ranking
                rows.append(
                    judgment_to_row(
                        Answer(Verdict.RANKED, ranking), comparison_id=made[-1].id, rater_id=rater.id,
                        order_shown=(first, second), route=Route.HUMAN.value, simulated=rater.simulated,
                        idempotency_key=f"{len(rows)}", created_at=utc_now(),
                    )
                )  # fmt: skip
    unique = {row["comparison_id"] + row["rater_id"]: row for row in rows}
    with store.write() as conn:
        insert_comparisons(store, conn, made)
        conn.execute(judgments.insert(), list(unique.values()))
    parents = {"round-1-dpo": "smollm2-135m", "round-1-ppo": "round-1-dpo", "round-2-dpo": "round-1-ppo"}
    record_policy(store, "smollm2-135m", path="smollm2-135m", method=PolicyMethod.BASE)
    for name, parent in parents.items():
        method = PolicyMethod.PPO if "ppo" in name else PolicyMethod.DPO
        path = server.folder if name == "round-1-ppo" else server.folder / "gone"
        record_policy(store, name, path=path, parent=parent, method=method, round=int(name[6]), reward_model_id="m_1")
    hold_tied_promotion(store, "round-1-ppo", "smollm2-135m")


def fill_few(server: Server) -> None:
    """Ten votes on a policy and its base, two on one that is new, and two policies that no other has met, one of which
    won twice; their answers have nothing in common."""
    store = server.store
    rater = people.add_rater(store, "ann", Role.RATER)
    games = [("dpo1", "tiny-a", n % 2) for n in range(10)] + [("tiny-b", "tiny-a", n) for n in (0, 1)]
    games += [("big", "smollm2-135m-instruct", 0)] * 2 + [("big", "big", 0)]
    made, rows = [], []
    for n, (one, other, best) in enumerate(games):
        prompt = Prompt.create((Message("user", f"What is behind the fridge, in case {n}?"),), {"topic": "writing"})
        texts = (f"alpha beta gamma delta {n}", f"one two three four {n + 100}")
        answers = [Completion.create(prompt.id, (Message("assistant", t),), p) for t, p in zip(texts, (one, other))]
        made.append(Comparison.create(prompt, answers))
        with store.write() as conn:
            insert_prompts(store, conn, [prompt])
            insert_completions(store, conn, answers)
        ids = [c.id for c in made[-1].completions]
        ranking = ((answers[best].id,), (answers[1 - best].id,))
        rows.append(
            judgment_to_row(
                Answer(Verdict.RANKED, ranking), comparison_id=made[-1].id, rater_id=rater.id, order_shown=tuple(ids),
                route=Route.HUMAN.value, simulated=False, idempotency_key=f"{n}", created_at=utc_now(),
            )
        )  # fmt: skip
    with store.write() as conn:
        insert_comparisons(store, conn, made)
        conn.execute(judgments.insert(), rows)
    record_policy(store, "tiny-a", path="tiny-a", method=PolicyMethod.BASE)
    record_policy(store, "dpo1", path=server.folder, parent="tiny-a", method=PolicyMethod.DPO)


def open_policies(page, server: Server, role: Role = Role.LEAD, at: str = "") -> None:
    name = f"a-{role.value}"
    server.person(name, role)
    enter(page, server, name)
    page.goto(f"{server.address}/policies/{at}")
    expect(page.locator("#ranking")).to_be_visible(timeout=30_000)


def assert_accessible(page) -> None:
    found = [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in Axe().run(page).response["violations"]]
    assert found == []


def names(page) -> list[str]:
    return page.locator("#ranked-rows th bdi").all_inner_texts()


def test_a_lead_sees_which_policy_is_better_and_why(serve, page):
    server = serve()
    fill(server)
    open_policies(page, server)
    rows = page.locator("#ranked-rows tr")
    expect(rows).to_have_count(5)
    expect(rows.filter(has_text="smollm2-135m").locator("td").nth(2)).to_have_text("base")
    assert names(page)[-1] == HOSTILE
    assert page.evaluate("window.pwned") is None
    expect(page.locator("#win-head")).to_have_text("Preferred to smollm2-135m")
    plot = rows.first.locator("svg")
    expect(plot).to_have_attribute("aria-label", re.compile(r"Rating of round-\d-\w+: \d+, 95 %: \d+ to \d+"))
    expect(page.locator(".matrix tbody tr")).to_have_count(5)
    lines = page.locator(".tree .line")
    expect(lines).to_have_count(4)
    expect(lines.nth(2)).to_contain_text("by PPO")
    expect(lines.nth(2)).to_contain_text("undecided over smollm2-135m, 0 judgments: win rate 50%")
    expect(lines.nth(1)).to_contain_text("folder not there")
    assert page.evaluate(FITS) == []
    assert_accessible(page)
    # Filters and style control are in the address, and a reload keeps them.
    page.locator("#style").check()
    expect(page.locator("#style-rows dt")).to_have_text(["Length", "Headings", "Lists", "Bold text"])
    expect(page.locator("#plain-head")).to_be_visible()
    page.locator("#tag").select_option(index=1)
    expect(page.locator("#ranking-notes")).to_contain_text("pairs of other languages or tags")
    page.reload()
    expect(page.locator("#style")).to_be_checked()
    expect(page.locator("#ranking-notes")).to_contain_text("pairs of other languages or tags")
    page.locator("#votes").select_option("simulated")
    expect(page.locator("#simulated")).to_be_visible()
    expect(page.locator("#ranking-notes")).to_contain_text("say nothing of what people prefer")
    for dark in (False, True):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        assert_accessible(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(FITS) == []
    assert_accessible(page)


OVERLAPS = """
[...document.querySelectorAll("#ranked-rows tr")].flatMap((row) => {
  const cells = [...row.cells].map((cell) => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return [cell, cell.getBoundingClientRect(), range.getBoundingClientRect()];
  });
  const outside = ([, cell, inner]) => inner.left < cell.left - 1 || inner.right > cell.right + 1;
  return cells.filter(outside).map(([cell]) => cell.innerText);
})
"""


@pytest.mark.parametrize("width", [1280, 960, 390])
def test_few_votes_are_said_to_be_few(serve, page, width):
    server = serve()
    fill_few(server)
    page.set_viewport_size({"width": width, "height": 900})
    open_policies(page, server)
    links = page.locator(".pages a:not([hidden])")
    expect(links.first).to_have_text("Rate")
    rows = page.locator("#ranked-rows tr")
    expect(rows.filter(has_text="tiny-b")).to_contain_text("no interval yet")
    for name, mark, side in (("big", "won all", "or more"), ("smollm2-135m-instruct", "lost all", "or less")):
        row = rows.filter(has=page.get_by_text(name, exact=True))
        expect(row.locator(".state")).to_have_text(mark)
        expect(row).to_contain_text(side)
    expect(page.locator(".group-row").first).to_have_text("Group 1, not compared with the other groups")
    expect(page.locator("#votes")).to_contain_text("people (judgments: 15)")
    expect(page.locator("#ranking-count")).to_have_text("Votes that compare two policies: 14 · prompts: 14")
    expect(page.locator("#ranking-notes")).to_contain_text("Left out, pairs of answers of one policy: 1")
    expect(page.locator(".change").first).to_contain_text("nearly everything differs")
    expect(page.locator(".change :is(ins, del)")).to_have_count(0)
    expect(page.locator(".decided.people").first).to_have_text(re.compile("(after|before) preferred by 1 of 1$"))
    scrolls = page.locator("#matrix-box").evaluate("box => box.scrollWidth > box.clientWidth + 2")
    assert scrolls == (width == 390)
    assert page.locator("#matrix-scrolls").is_visible() == scrolls
    if scrolls:
        expect(page.locator("#matrix-box")).to_have_class("sideways more")
        page.locator("#matrix-box").evaluate("box => box.scrollTo(box.scrollWidth, 0)")
        expect(page.locator("#matrix-box")).to_have_class("sideways")


def test_in_every_language_nothing_overlaps_on_any_screen(serve, page):
    server = serve()
    fill_few(server)
    open_policies(page, server)
    links = page.locator(".pages a:not([hidden])")
    expect(links.first).to_have_text("Rate")
    shown = links.count()
    page.route("**/me", lambda route: None)  # who is signed in is never said: the links are there all the same
    for language in ("en", "ar", "es", "fr", "hi", "zh"):
        page.evaluate("language => localStorage.setItem('rlhf_hitl.language', JSON.stringify(language))", language)
        page.reload()
        expect(page.locator("html")).to_have_attribute("lang", language)
        expect(page.locator("#ranked-rows tr").first).to_be_visible(timeout=30_000)
        for width in (1280, 960, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(OVERLAPS) == [], (language, width)
            assert page.evaluate(FITS) == [], (language, width)
            assert links.count() == shown


def test_the_same_prompt_before_and_after(serve, page):
    server = serve()
    fill(server)
    open_policies(page, server, Role.EVALUATOR)
    compare = page.get_by_role("button", name="What changed: round-1-ppo")
    compare.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#changes-title")).to_be_focused()
    expect(page.locator("#before")).to_have_value("round-1-dpo")
    expect(page.locator("#changes-count")).to_have_text("Prompts both answered: 60")
    cards = page.locator(".change")
    expect(cards).to_have_count(5)
    first = cards.first.inner_text()
    page.locator("#changes-next").click()
    expect(cards.first).not_to_have_text(first)
    page.locator("#words").fill("CASE 57?")
    expect(cards).to_have_count(1)
    expect(cards.first).to_contain_text("in case 57?")
    page.locator("#words").fill("onerror")
    expect(cards).to_have_count(1)
    expect(cards.locator(".answer-text").first).to_contain_text(HOSTILE)
    assert page.evaluate("window.pwned") is None
    page.locator("#words").fill("")
    page.locator("#decided").check()
    expect(cards.first.locator(".decided").first).to_contain_text(
        re.compile(r"(after|before) preferred by \d of \d|ties: \d")
    )
    expect(cards.locator(":is(ins, del)").first).to_be_visible()
    assert_accessible(page)
    page.reload()
    expect(page.locator("#decided")).to_be_checked()
    expect(page.locator("#after")).to_have_value("round-1-ppo")
    page.locator("#before").select_option("round-1-ppo")
    page.locator("#words").fill("nowhere at all")
    expect(page.locator("#changes-empty")).to_have_text("None is like that. Search for less.")


def test_an_empty_store_says_what_to_do_and_an_address_may_hold_anything(serve, page):
    server = serve()
    open_policies(page, server, at='#tag=["x"&votes=people&language=<b>&before=<i>&style=1')
    expect(page.locator("#ranking-empty")).to_contain_text("rlhf-hitl generate")
    expect(page.locator("#lineage-none")).to_contain_text("rlhf-hitl train-dpo")
    expect(page.locator("#changes-panel")).to_be_hidden()
    assert_accessible(page)


@only_to_draw
def test_pictures(serve, shot):
    server = serve()
    fill(server, worst="an-imported-one")
    server.person("lea", Role.LEAD)
    ready = "#changes-list .change:first-child .answer.after"

    def scroll(page) -> None:
        page.locator("#lineage-panel").evaluate("panel => panel.scrollIntoView()")

    for kind, options in (("light", {}), ("dark", {"dark": True}), ("phone", {"width": 390, "height": 844})):
        shot(server, f"policies-{kind}", "lea", ready, path="/policies/", **({"height": 1000} | options))
    shot(server, "policies-changes", "lea", ready, path="/policies/#decided=1", then=scroll, height=1000)
