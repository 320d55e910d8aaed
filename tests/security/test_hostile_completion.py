"""Texts that a policy wrote to keep the server busy: they are drawn within a budget, once, or shown as written."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from html import unescape

import psutil
import pytest

from hostile_texts import HOSTILE
from nasty_texts import NASTY
from rlhf_hitl.types import Message
from rlhf_hitl.ui import markdown, rendering
from rlhf_hitl.ui.conversation import MESSAGES_LIMIT, render_card
from rlhf_hitl.ui.rating_cards import draw_card
from rlhf_hitl.ui.rendering import RenderCache, Renderer

TEXTS = HOSTILE | NASTY
#: A match of one regular expression of Pygments' lexer for Perl takes 80 s for this.
PERL = "before\n\n```perl\n" + "s{" * 9_900 + "\n```\n\nafter **all**"


@pytest.fixture(scope="module")
def renderer():
    """One that is given the time by the clock that a busy machine needs; the processor time is what it always is."""
    renderer = Renderer(card_seconds=60)
    renderer.render("`ready`")
    return renderer


def ask_meanwhile(action) -> tuple[float, float]:
    """Return how long an action took, and the longest that another thread of this process was kept from running."""
    longest, begun = 0.0, time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        outcome, last = pool.submit(action), begun
        while not outcome.done():
            time.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        outcome.result()
    return time.perf_counter() - begun, longest


TAGS = set(
    re.findall(
        r"\w+",
        """div p span h1 h2 h3 h4 h5 h6 ul ol li blockquote hr pre code em strong s br a bdi table thead tbody tr th td
        math mrow mi mn mo ms mtext mspace mfrac msqrt mroot mpadded mphantom msub msup msubsup munder mover munderover
        mmultiscripts mprescripts mtable mtr mtd menclose""",
    )
)


def seen(html: str) -> str:
    """What a reader sees of HTML, without blanks and without the notes of the page itself."""
    return "".join(unescape(re.sub(r'<p class="note.*?</p>|<[^>]*>', "", html, flags=re.S)).split())


def test_there_are_a_hundred_texts_more_than_those_that_do_harm():
    assert len(NASTY) >= 100
    assert len(set(TEXTS.values())) >= 145


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_costs_its_budget_at_most_and_only_once(renderer, name):
    used = time.process_time()  # of this process, which also answers everybody else
    html = renderer.render(TEXTS[name])
    assert time.process_time() - used < 0.1
    used = time.process_time()
    assert renderer.render(TEXTS[name]) == html
    assert time.process_time() - used < 0.05, "what was drawn, or could not be, is kept"
    assert set(re.findall(r"<([A-Za-z][\w-]*)", html)) <= TAGS
    assert not re.search(r"<[^>]*\son\w+=", html)


def test_code_whose_colours_take_minutes_is_shown_without_them_and_the_rest_as_ever(renderer):
    html = renderer.render(PERL)
    assert "<strong>all</strong>" in html
    assert "s{s{s{" in html
    assert "<span class=" not in html.split("</pre>")[0]
    assert 'data-i18n="text_partly"' in html


@pytest.mark.parametrize("name", ["brackets without end", "ten thousand rows"])
def test_a_text_that_is_not_drawn_in_time_is_shown_as_it_was_written_and_nothing_of_it_is_lost(renderer, name):
    html = renderer.render(TEXTS[name])
    assert 'data-i18n="text_plain"' in html
    assert seen(html) == "".join(markdown.make_visible(TEXTS[name]).split())


def test_while_a_text_is_drawn_everybody_else_is_answered():
    renderer = Renderer(card_seconds=60)
    renderer.render("`ready`")
    spent, kept_waiting = ask_meanwhile(lambda: renderer.render(PERL + "\n\nanother"))
    assert spent < 30, "a minute and a half without a budget"
    assert kept_waiting < 2, "and all of it in one match, during which no other thread runs"


def test_a_card_does_not_wait_for_texts_longer_than_it_may():
    renderer = Renderer(text_seconds=2.0, card_seconds=2.0, workers=1)
    renderer.render("`ready`")
    texts = [f"{i}\n\n" + "![[" * 20_000 for i in range(6)]
    begun = time.perf_counter()
    html = renderer.render_texts([*texts, "`short`"])
    assert time.perf_counter() - begun < 6, "each takes longer than a card may, on any machine"
    assert all('data-i18n="text_plain"' in html[text] for text in texts)
    assert "<code>short</code>" in html["`short`"], "short texts come first"


def test_what_came_too_late_for_one_card_is_there_for_the_next():
    renderer = Renderer(text_seconds=10, card_seconds=0.0)
    renderer.render("`ready`")
    text = "# Title\n\n" + "some `code` and *words* " * 400
    assert 'data-i18n="text_plain"' in renderer.render(text)
    deadline = time.monotonic() + 60
    while "<h1" not in renderer.render(text):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_workers_that_are_killed_are_replaced_and_it_is_not_the_texts_fault():
    before = set(psutil.Process().children())
    renderer = Renderer(card_seconds=60)
    renderer.render("`ready`")
    [fork_server] = set(psutil.Process().children()) - before
    for process in fork_server.children():
        process.kill()
    assert "<code>again</code>" in renderer.render("`again`")
    for process in [*fork_server.children(), fork_server]:
        process.kill()
    assert "<code>once more</code>" in renderer.render("`once more`")


def test_a_worker_that_takes_too_much_memory_is_stopped():
    formula = "$" + r"\begin{matrix}" + "&" * 900 + r"\\" * 400 + r"\end{matrix}" + "$"
    html = Renderer(card_seconds=60).render(" ".join([formula] * 15))
    assert html.startswith('<div class="text')


def test_the_differences_of_two_texts_have_a_budget_too(renderer):
    first, second = "a b " * 10_000, "b a c " * 6_600
    spent, kept_waiting = ask_meanwhile(lambda: renderer.render_difference(first, second))
    assert spent < 30
    assert kept_waiting < 2
    for text, html in zip((first, second), renderer.render_difference(first, second)):
        assert "<del>" in html or "<ins>" in html or 'data-i18n="difference_cut"' in html
        assert seen(html) == "".join(text.split())


def test_two_short_texts_are_compared(renderer):
    one, two = renderer.render_difference("a b", "a c")
    assert "<del>b</del>" in one
    assert "<ins>c</ins>" in two


def test_the_cache_forgets_what_was_not_used_for_longest():
    cache = RenderCache(max_bytes=10_000)
    for i in range(100):
        cache.put(bytes([i]), ("x" * 1_000,))
        cache.get(bytes([0]))
    assert cache.get(bytes([0])) is not None
    assert cache.get(bytes([99])) is not None
    assert cache.get(bytes([50])) is None
    assert sum(cache.get(bytes([i])) is not None for i in range(100)) < 10
    cache.put(bytes([99]), ("y" * 20_000,))  # larger than all of it
    assert sum(cache.get(bytes([i])) is not None for i in range(100)) == 0


def test_texts_that_differ_are_never_taken_for_one_another(renderer):
    assert renderer.render_difference("ab", "c")[0] != renderer.render_difference("a", "bc")[0]
    assert renderer.render("`ab`") != renderer.render("`a`")


def test_a_conversation_of_very_many_messages_is_cut_and_says_so():
    prompt = [Message("user", f"message {i}") for i in range(MESSAGES_LIMIT + 234)]
    html = render_card(prompt, [], str).prompt
    assert html.count("<article") == MESSAGES_LIMIT
    assert 'data-i18n="messages_cut" data-count="234"' in html


def test_a_card_of_many_long_texts_is_cut_and_says_so():
    answers = [[Message("assistant", letter * 900_000)] for letter in "abcdefghijklmnop"]
    card = draw_card("id", "new", [Message("user", "q")], answers, str)
    shown = sum(len(seen(answer["html"])) for answer in card["answers"])
    assert shown <= rendering.CARD_LIMIT
    assert all('data-i18n="text_cut"' in answer["html"] for answer in card["answers"])


def test_what_draws_texts_ends_with_the_process_that_asks():
    import subprocess
    import sys

    program = (
        "import os, psutil\nfrom rlhf_hitl.ui.rendering import render\n"
        "pids = []\n"
        "while len(pids) < 2:\n"  # the first workers are used only once
        "    render(f'`{os.urandom(4).hex()}`')\n"
        "    pids = [p.pid for p in psutil.Process().children(recursive=True)]\n"
        "print(*pids, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) >= 2
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
