"""Hostile text rendered: nothing runs, nothing is fetched, nothing is lost from sight."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from hostile_texts import HOSTILE
from rlhf_hitl.ui.markdown import SHOWN_LIMIT
from rlhf_hitl.ui.rendering import Renderer

render = Renderer(text_seconds=10, card_seconds=60).render  # however busy the machine is

INLINE = {"em", "strong", "s", "code", "span", "a", "bdi", "br"}
BLOCKS = {"div", "p", "hr", "pre", "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td"}
ALLOWED = INLINE | BLOCKS | {f"h{n}" for n in range(1, 7)}
_FORMULAS = """math mrow mi mn mo ms mtext mspace mfrac msqrt mroot mpadded mphantom msub msup msubsup munder mover
munderover mmultiscripts mprescripts mtable mtr mtd menclose"""
FORMULAS = set(_FORMULAS.split())


class Seen(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.depth, self.text = [], [], 0, ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        self.depth += tag not in ("br", "hr")

    def handle_endtag(self, tag):
        self.depth -= tag not in ("br", "hr")
        assert self.depth >= 0, "nothing closes what was opened outside"

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", HOSTILE)
def test_only_harmless_elements_and_attributes_come_out(name):
    html = render(HOSTILE[name])
    seen = Seen(html)
    assert set(seen.tags) <= ALLOWED | FORMULAS
    assert seen.depth == 0
    for tag, attribute, value in seen.attributes:
        assert not attribute.startswith("on"), (tag, attribute)
        assert "evil.example" not in (value or "") or attribute == "href", (tag, attribute, value)
        if tag in ALLOWED:
            known = ("class", "dir", "href", "rel", "target", "start", "value", "style", "data-i18n", "data-count")
            assert attribute in known, (tag, attribute)
        if attribute == "href":
            assert value.lower().startswith(("http://", "https://"))
        if attribute == "style":
            assert "url" not in value
            assert "position" not in value
        if attribute == "data-i18n":
            assert value.startswith("text_")


def test_a_link_opens_elsewhere_tells_nothing_and_says_where_it_leads():
    html = render("[my bank](https://evil.example/login)")
    assert 'rel="noopener noreferrer nofollow"' in html
    assert 'target="_blank"' in html
    assert "(evil.example)" in html


def test_an_image_is_shown_as_text_with_its_address():
    shown = Seen(render("![a cat](https://pics.example/cat.png)")).text
    assert "[image: a cat — https://pics.example/cat.png]" in shown


def test_direction_overrides_are_shown_and_every_block_settles_its_own():
    html = render("abc \u202e txt.exe\n\nשלום")
    assert "\u202e" not in html
    assert "⟦RLO⟧" in html
    assert html.count('dir="auto"') >= 3


@pytest.mark.parametrize("text", ["", "   \n", "\x00", "\ud800 broken"])
def test_empty_and_broken_text_is_shown_as_something(text):
    html = render(text)
    html.encode()
    assert Seen(html).text.strip()


def test_ten_megabytes_on_one_line_are_cut_and_said_so():
    html = render("x" * 10_000_000)
    assert len(html) < SHOWN_LIMIT + 1000
    assert "Characters that are not shown: 9,800,000" in html


def test_markdown_is_rendered():
    html = render("# Title\n\n1. one\n2. **two**\n\n|a|b|\n|-|-|\n|1|2|\n\n```python\nreturn 1\n```")
    for part in ("<h1", "<ol>", "<strong>two</strong>", "<table", '<span class="k">return</span>'):
        assert part in html


@pytest.mark.parametrize("mark", [">", "> ", "- "])
def test_what_is_nested_too_deeply_is_shown_plainly_and_not_dropped(mark):
    assert "the point" in render(mark * 60 + "the point")
